// RUN: neuron-opt %s -p graph-stagger-images | filecheck %s

// A convolution by bands waits for transfers: its product behind it is computed for two halves of the images.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<8x384x14x14xbf16>) -> tensor<8x768x14x14xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<384x1x7x7xbf16>
    %v = graph.weight @v : tensor<1536x384x1x1xbf16>
    %u = graph.weight @u : tensor<768x1536x1x1xbf16>
    %0 = graph.conv %x, %w strides [1, 1] pads [3, 3, 3, 3] dilations [1, 1] groups 384 {graph.bands} : (tensor<8x384x14x14xbf16>, tensor<384x1x7x7xbf16>) -> tensor<8x384x14x14xbf16>
    %1 = graph.conv %0, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x384x14x14xbf16>, tensor<1536x384x1x1xbf16>) -> tensor<8x1536x14x14xbf16>
    %2 = graph.conv %1, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x1536x14x14xbf16>, tensor<768x1536x1x1xbf16>) -> tensor<8x768x14x14xbf16>
    func.return %2 : tensor<8x768x14x14xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<8x384x14x14xbf16>) -> tensor<8x768x14x14xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<384x1x7x7xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<1536x384x1x1xbf16>
// CHECK-NEXT:     %u = graph.weight @u : tensor<768x1536x1x1xbf16>
// CHECK-NEXT:     %0 = graph.slice %x starts [0, 0, 0, 0] sizes [4, 384, 14, 14] steps [1, 1, 1, 1] : (tensor<8x384x14x14xbf16>) -> tensor<4x384x14x14xbf16>
// CHECK-NEXT:     %1 = graph.slice %x starts [4, 0, 0, 0] sizes [4, 384, 14, 14] steps [1, 1, 1, 1] : (tensor<8x384x14x14xbf16>) -> tensor<4x384x14x14xbf16>
// CHECK-NEXT:     %2 = graph.conv %1, %w strides [1, 1] pads [3, 3, 3, 3] dilations [1, 1] groups 384 {graph.bands, graph.keeps_weights} : (tensor<4x384x14x14xbf16>, tensor<384x1x7x7xbf16>) -> tensor<4x384x14x14xbf16>
// CHECK-NEXT:     %3 = graph.conv %0, %w strides [1, 1] pads [3, 3, 3, 3] dilations [1, 1] groups 384 {graph.bands, graph.keeps_weights} : (tensor<4x384x14x14xbf16>, tensor<384x1x7x7xbf16>) -> tensor<4x384x14x14xbf16>
// CHECK-NEXT:     %4 = graph.conv %2, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.keeps_weights} : (tensor<4x384x14x14xbf16>, tensor<1536x384x1x1xbf16>) -> tensor<4x1536x14x14xbf16>
// CHECK-NEXT:     %5 = graph.conv %4, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.keeps_weights} : (tensor<4x1536x14x14xbf16>, tensor<768x1536x1x1xbf16>) -> tensor<4x768x14x14xbf16>
// CHECK-NEXT:     %6 = graph.conv %3, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.keeps_weights} : (tensor<4x384x14x14xbf16>, tensor<1536x384x1x1xbf16>) -> tensor<4x1536x14x14xbf16>
// CHECK-NEXT:     %7 = graph.conv %6, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.keeps_weights} : (tensor<4x1536x14x14xbf16>, tensor<768x1536x1x1xbf16>) -> tensor<4x768x14x14xbf16>
// CHECK-NEXT:     %8 = graph.concat %7, %5 axis 0 : (tensor<4x768x14x14xbf16>, tensor<4x768x14x14xbf16>) -> tensor<8x768x14x14xbf16>
// CHECK-NEXT:     func.return %8 : tensor<8x768x14x14xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
