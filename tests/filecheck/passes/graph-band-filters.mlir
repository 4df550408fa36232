// RUN: neuron-opt %s -p graph-band-filters | filecheck %s

// 7 by 7 taps on rows of 14: bands; the filter of 3 by 3 is faster with diagonals.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<8x384x14x14xbf16>) -> (tensor<8x384x14x14xbf16>, tensor<8x384x14x14xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<384x1x7x7xbf16>
    %v = graph.weight @v : tensor<384x1x3x3xbf16>
    %0 = graph.conv %x, %w strides [1, 1] pads [3, 3, 3, 3] dilations [1, 1] groups 384 : (tensor<8x384x14x14xbf16>, tensor<384x1x7x7xbf16>) -> tensor<8x384x14x14xbf16>
    %1 = graph.conv %x, %v strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 384 : (tensor<8x384x14x14xbf16>, tensor<384x1x3x3xbf16>) -> tensor<8x384x14x14xbf16>
    func.return %0, %1 : tensor<8x384x14x14xbf16>, tensor<8x384x14x14xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<8x384x14x14xbf16>) -> (tensor<8x384x14x14xbf16>, tensor<8x384x14x14xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<384x1x7x7xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<384x1x3x3xbf16>
// CHECK-NEXT:     %0 = graph.conv %x, %w strides [1, 1] pads [3, 3, 3, 3] dilations [1, 1] groups 384 {graph.bands} : (tensor<8x384x14x14xbf16>, tensor<384x1x7x7xbf16>) -> tensor<8x384x14x14xbf16>
// CHECK-NEXT:     %1 = graph.conv %x, %v strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 384 : (tensor<8x384x14x14xbf16>, tensor<384x1x3x3xbf16>) -> tensor<8x384x14x14xbf16>
// CHECK-NEXT:     func.return %0, %1 : tensor<8x384x14x14xbf16>, tensor<8x384x14x14xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
