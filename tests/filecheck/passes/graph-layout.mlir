// RUN: neuron-opt %s -p 'graph-layout' | filecheck %s

// A convolution that feeds another leaves its result in SBUF, with the zeros that the other reads as padding.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %w: tensor<32x16x3x3xbf16>, %v: tensor<40x32x3x3xbf16>) -> tensor<1x40x4x4xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<32x16x3x3xbf16>) -> tensor<1x32x8x8xbf16>
    %1 = graph.conv %0, %v strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16>, tensor<40x32x3x3xbf16>) -> tensor<1x40x4x4xbf16>
    func.return %1 : tensor<1x40x4x4xbf16>
  }
  // Two products read the argument, which is brought on chip and turned once; what is normalised stays there for the
  // product behind it, and is stored from there.
  func.func private @neuron_1(%x: tensor<128x256xbf16>, %w: tensor<256x256xbf16>, %v: tensor<256x256xbf16>) -> (tensor<128x256xbf16>, tensor<128x256xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.matmul %x, %w : (tensor<128x256xbf16>, tensor<256x256xbf16>) -> tensor<128x256xbf16>
    %1 = graph.fused (%a = %x, %b = %v, %c = %0) : (tensor<128x256xbf16>, tensor<256x256xbf16>, tensor<128x256xbf16>) -> tensor<128x256xbf16> {
      %2 = graph.matmul %a, %b : (tensor<128x256xbf16>, tensor<256x256xbf16>) -> tensor<128x256xbf16>
      %3 = graph.binary add %2, %c : (tensor<128x256xbf16>, tensor<128x256xbf16>) -> tensor<128x256xbf16>
      graph.yield %3 : tensor<128x256xbf16>
    }
    %4 = graph.layer_norm %1 axis 1 epsilon 1.0e-05 : (tensor<128x256xbf16>) -> tensor<128x256xbf16>
    %5 = graph.matmul %4, %w : (tensor<128x256xbf16>, tensor<256x256xbf16>) -> tensor<128x256xbf16>
    func.return %4, %5 : tensor<128x256xbf16>, tensor<128x256xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %w: tensor<32x16x3x3xbf16>, %v: tensor<40x32x3x3xbf16>) -> tensor<1x40x4x4xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<32x16x3x3xbf16>) -> tensor<1x32x8x8xbf16, #graph.layout<sbuf, partition 1, halo [0, 0, 1, 0, 1, 0]>>
// CHECK-NEXT:     %1 = graph.conv %0, %v strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16, #graph.layout<sbuf, partition 1, halo [0, 0, 1, 0, 1, 0]>>, tensor<40x32x3x3xbf16>) -> tensor<1x40x4x4xbf16>
// CHECK-NEXT:     func.return %1 : tensor<1x40x4x4xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_1(%x: tensor<128x256xbf16>, %w: tensor<256x256xbf16>, %v: tensor<256x256xbf16>) -> (tensor<128x256xbf16>, tensor<128x256xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.relayout %x : (tensor<128x256xbf16>) -> tensor<128x256xbf16, #graph.layout<sbuf, partition 1>>
// CHECK-NEXT:     %1 = graph.matmul %0, %w : (tensor<128x256xbf16, #graph.layout<sbuf, partition 1>>, tensor<256x256xbf16>) -> tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>
// CHECK-NEXT:     %2 = graph.fused (%a = %0, %b = %v, %c = %1) : (tensor<128x256xbf16, #graph.layout<sbuf, partition 1>>, tensor<256x256xbf16>, tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>) -> tensor<128x256xbf16, #graph.layout<sbuf, partition 0>> attributes {graph.overwrites = array<i64: 0, 2>} {
// CHECK-NEXT:       %3 = graph.matmul %a, %b : (tensor<128x256xbf16, #graph.layout<sbuf, partition 1>>, tensor<256x256xbf16>) -> tensor<128x256xbf16>
// CHECK-NEXT:       %4 = graph.binary add %3, %c : (tensor<128x256xbf16>, tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>) -> tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>
// CHECK-NEXT:       graph.yield %4 : tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>
// CHECK-NEXT:     }
// CHECK-NEXT:     %3 = graph.layer_norm %2 axis 1 epsilon 1.0e-05 : (tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>) -> tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>
// CHECK-NEXT:     %4 = graph.relayout %3 : (tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>) -> tensor<128x256xbf16>
// CHECK-NEXT:     %5 = graph.matmul %3, %w : (tensor<128x256xbf16, #graph.layout<sbuf, partition 0>>, tensor<256x256xbf16>) -> tensor<128x256xbf16>
// CHECK-NEXT:     func.return %4, %5 : tensor<128x256xbf16>, tensor<128x256xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
