// RUN: neuron-opt %s -p 'graph-part-sums' | filecheck %s

// Four images of 32 channels will be taken as one of 128: the convolution becomes a sum, the concatenation goes.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%a: tensor<4x32x8x8xbf16>, %b: tensor<4x32x8x8xbf16>) -> tensor<4x64x8x8xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<64x64x1x1xbf16>
    %0 = graph.concat %a, %b axis 1 : (tensor<4x32x8x8xbf16>, tensor<4x32x8x8xbf16>) -> tensor<4x64x8x8xbf16>
    %1 = graph.conv %0, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<4x64x8x8xbf16>, tensor<64x64x1x1xbf16>) -> tensor<4x64x8x8xbf16>
    func.return %1 : tensor<4x64x8x8xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%a: tensor<4x32x8x8xbf16>, %b: tensor<4x32x8x8xbf16>) -> tensor<4x64x8x8xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<64x64x1x1xbf16>
// CHECK-NEXT:     %0 = graph.slice %w starts [0, 0, 0, 0] sizes [64, 32, 1, 1] steps [1, 1, 1, 1] : (tensor<64x64x1x1xbf16>) -> tensor<64x32x1x1xbf16>
// CHECK-NEXT:     %1 = graph.conv %a, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<4x32x8x8xbf16>, tensor<64x32x1x1xbf16>) -> tensor<4x64x8x8xbf16>
// CHECK-NEXT:     %2 = graph.slice %w starts [0, 32, 0, 0] sizes [64, 32, 1, 1] steps [1, 1, 1, 1] : (tensor<64x64x1x1xbf16>) -> tensor<64x32x1x1xbf16>
// CHECK-NEXT:     %3 = graph.conv %b, %2 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<4x32x8x8xbf16>, tensor<64x32x1x1xbf16>) -> tensor<4x64x8x8xbf16>
// CHECK-NEXT:     %4 = graph.binary add %1, %3 {graph.part_sum} : (tensor<4x64x8x8xbf16>, tensor<4x64x8x8xbf16>) -> tensor<4x64x8x8xbf16>
// CHECK-NEXT:     func.return %4 : tensor<4x64x8x8xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
