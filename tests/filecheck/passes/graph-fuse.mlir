// RUN: neuron-opt %s -p 'graph-fuse' | filecheck %s

// The bias of a convolution is split off; bias, residual and activation join its group, the bias behind the residual.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %w: tensor<32x16x3x3xbf16>, %b: tensor<32xbf16>, %r: tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.conv %x, %w, %b strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<32x16x3x3xbf16>, tensor<32xbf16>) -> tensor<1x32x8x8xbf16>
    %1 = graph.binary add %0, %r : (tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16>
    %2 = graph.unary relu %1 : (tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16>
    func.return %2 : tensor<1x32x8x8xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %w: tensor<32x16x3x3xbf16>, %b: tensor<32xbf16>, %r: tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.reshape %b : (tensor<32xbf16>) -> tensor<32x1x1xbf16>
// CHECK-NEXT:     %1 = graph.fused (%x_1 = %x, %w_1 = %w, %2 = %0, %r_1 = %r) : (tensor<1x16x8x8xbf16>, tensor<32x16x3x3xbf16>, tensor<32x1x1xbf16>, tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16> {
// CHECK-NEXT:       %3 = graph.conv %x_1, %w_1 strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<32x16x3x3xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:       %4 = graph.binary add %3, %r_1 : (tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:       %5 = graph.binary add %4, %2 : (tensor<1x32x8x8xbf16>, tensor<32x1x1xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:       %6 = graph.unary relu %5 : (tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:       graph.yield %6 : tensor<1x32x8x8xbf16>
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return %1 : tensor<1x32x8x8xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
