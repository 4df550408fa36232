// RUN: neuron-opt %s -p 'graph-layout' | filecheck %s

// A convolution that feeds another leaves its result in SBUF, with the zeros that the other reads as padding.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %w: tensor<32x16x3x3xbf16>, %v: tensor<40x32x3x3xbf16>) -> tensor<1x40x4x4xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<32x16x3x3xbf16>) -> tensor<1x32x8x8xbf16>
    %1 = graph.conv %0, %v strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16>, tensor<40x32x3x3xbf16>) -> tensor<1x40x4x4xbf16>
    func.return %1 : tensor<1x40x4x4xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %w: tensor<32x16x3x3xbf16>, %v: tensor<40x32x3x3xbf16>) -> tensor<1x40x4x4xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<32x16x3x3xbf16>) -> tensor<1x32x8x8xbf16, #graph.layout<sbuf, partition 1, halo [0, 0, 1, 0, 1, 0]>>
// CHECK-NEXT:     %1 = graph.conv %0, %v strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16, #graph.layout<sbuf, partition 1, halo [0, 0, 1, 0, 1, 0]>>, tensor<40x32x3x3xbf16>) -> tensor<1x40x4x4xbf16>
// CHECK-NEXT:     func.return %1 : tensor<1x40x4x4xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
