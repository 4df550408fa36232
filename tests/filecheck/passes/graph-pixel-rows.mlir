// RUN: neuron-opt %s --split-input-file -p 'graph-pixel-rows' | filecheck %s

// A head of two anchors whose channels are put last: the product leaves them there, and its activation, what is done to
// two of the channels and the cast behind the concatenation happen in the same kernel.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>) -> tensor<1x2x8x8x5xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<10x16x1x1xbf16>
    %0 = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<10x16x1x1xbf16>) -> tensor<1x10x8x8xbf16>
    %1 = graph.reshape %0 : (tensor<1x10x8x8xbf16>) -> tensor<1x2x5x8x8xbf16>
    %2 = graph.transpose %1 permutation [0, 1, 3, 4, 2] : (tensor<1x2x5x8x8xbf16>) -> tensor<1x2x8x8x5xbf16>
    %3 = graph.unary sigmoid %2 : (tensor<1x2x8x8x5xbf16>) -> tensor<1x2x8x8x5xbf16>
    %4 = graph.slice %3 starts [0, 0, 0, 0, 0] sizes [1, 2, 8, 8, 2] steps [1, 1, 1, 1, 1] : (tensor<1x2x8x8x5xbf16>) -> tensor<1x2x8x8x2xbf16>
    %5 = graph.slice %3 starts [0, 0, 0, 0, 2] sizes [1, 2, 8, 8, 3] steps [1, 1, 1, 1, 1] : (tensor<1x2x8x8x5xbf16>) -> tensor<1x2x8x8x3xbf16>
    %6 = graph.unary square %4 : (tensor<1x2x8x8x2xbf16>) -> tensor<1x2x8x8x2xbf16>
    %7 = graph.concat %6, %5 axis 4 : (tensor<1x2x8x8x2xbf16>, tensor<1x2x8x8x3xbf16>) -> tensor<1x2x8x8x5xbf16>
    %8 = graph.cast %7 : (tensor<1x2x8x8x5xbf16>) -> tensor<1x2x8x8x5xf32>
    func.return %8 : tensor<1x2x8x8x5xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>) -> tensor<1x2x8x8x5xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<10x16x1x1xbf16>
// CHECK-NEXT:     %0 = graph.fused (%x_1 = %x, %w_1 = %w) : (tensor<1x16x8x8xbf16>, tensor<10x16x1x1xbf16>) -> tensor<1x2x8x8x5xf32> {
// CHECK-NEXT:       %1 = graph.conv %x_1, %w_1 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<10x16x1x1xbf16>) -> tensor<1x10x8x8xbf16>
// CHECK-NEXT:       %2 = graph.reshape %1 : (tensor<1x10x8x8xbf16>) -> tensor<1x2x5x8x8xbf16>
// CHECK-NEXT:       %3 = graph.transpose %2 permutation [0, 1, 3, 4, 2] : (tensor<1x2x5x8x8xbf16>) -> tensor<1x2x8x8x5xbf16>
// CHECK-NEXT:       %4 = graph.unary sigmoid %3 : (tensor<1x2x8x8x5xbf16>) -> tensor<1x2x8x8x5xbf16>
// CHECK-NEXT:       %5 = graph.slice %4 starts [0, 0, 0, 0, 0] sizes [1, 2, 8, 8, 2] steps [1, 1, 1, 1, 1] : (tensor<1x2x8x8x5xbf16>) -> tensor<1x2x8x8x2xbf16>
// CHECK-NEXT:       %6 = graph.slice %4 starts [0, 0, 0, 0, 2] sizes [1, 2, 8, 8, 3] steps [1, 1, 1, 1, 1] : (tensor<1x2x8x8x5xbf16>) -> tensor<1x2x8x8x3xbf16>
// CHECK-NEXT:       %7 = graph.unary square %5 : (tensor<1x2x8x8x2xbf16>) -> tensor<1x2x8x8x2xbf16>
// CHECK-NEXT:       %8 = graph.concat %7, %6 axis 4 : (tensor<1x2x8x8x2xbf16>, tensor<1x2x8x8x3xbf16>) -> tensor<1x2x8x8x5xbf16>
// CHECK-NEXT:       %9 = graph.cast %8 : (tensor<1x2x8x8x5xbf16>) -> tensor<1x2x8x8x5xf32>
// CHECK-NEXT:       graph.yield %9 : tensor<1x2x8x8x5xf32>
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return %0 : tensor<1x2x8x8x5xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// The cast behind the concatenation of two heads is part of each of them.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %y: tensor<1x16x8x8xbf16>) -> tensor<1x128x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<4x16x1x1xbf16>
    %0 = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<4x16x1x1xbf16>) -> tensor<1x4x8x8xbf16>
    %1 = graph.transpose %0 permutation [0, 2, 3, 1] : (tensor<1x4x8x8xbf16>) -> tensor<1x8x8x4xbf16>
    %2 = graph.reshape %1 : (tensor<1x8x8x4xbf16>) -> tensor<1x64x4xbf16>
    %3 = graph.conv %y, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<4x16x1x1xbf16>) -> tensor<1x4x8x8xbf16>
    %4 = graph.transpose %3 permutation [0, 2, 3, 1] : (tensor<1x4x8x8xbf16>) -> tensor<1x8x8x4xbf16>
    %5 = graph.reshape %4 : (tensor<1x8x8x4xbf16>) -> tensor<1x64x4xbf16>
    %6 = graph.concat %2, %5 axis 1 : (tensor<1x64x4xbf16>, tensor<1x64x4xbf16>) -> tensor<1x128x4xbf16>
    %7 = graph.cast %6 : (tensor<1x128x4xbf16>) -> tensor<1x128x4xf32>
    func.return %7 : tensor<1x128x4xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %y: tensor<1x16x8x8xbf16>) -> tensor<1x128x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<4x16x1x1xbf16>
// CHECK-NEXT:     %0 = graph.fused (%x_1 = %x, %w_1 = %w) : (tensor<1x16x8x8xbf16>, tensor<4x16x1x1xbf16>) -> tensor<1x8x8x4xf32> {
// CHECK-NEXT:       %1 = graph.conv %x_1, %w_1 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<4x16x1x1xbf16>) -> tensor<1x4x8x8xbf16>
// CHECK-NEXT:       %2 = graph.transpose %1 permutation [0, 2, 3, 1] : (tensor<1x4x8x8xbf16>) -> tensor<1x8x8x4xbf16>
// CHECK-NEXT:       %3 = graph.cast %2 : (tensor<1x8x8x4xbf16>) -> tensor<1x8x8x4xf32>
// CHECK-NEXT:       graph.yield %3 : tensor<1x8x8x4xf32>
// CHECK-NEXT:     }
// CHECK-NEXT:     %1 = graph.reshape %0 : (tensor<1x8x8x4xf32>) -> tensor<1x64x4xf32>
// CHECK-NEXT:     %2 = graph.fused (%y_1 = %y, %w_1 = %w) : (tensor<1x16x8x8xbf16>, tensor<4x16x1x1xbf16>) -> tensor<1x8x8x4xf32> {
// CHECK-NEXT:       %3 = graph.conv %y_1, %w_1 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<4x16x1x1xbf16>) -> tensor<1x4x8x8xbf16>
// CHECK-NEXT:       %4 = graph.transpose %3 permutation [0, 2, 3, 1] : (tensor<1x4x8x8xbf16>) -> tensor<1x8x8x4xbf16>
// CHECK-NEXT:       %5 = graph.cast %4 : (tensor<1x8x8x4xbf16>) -> tensor<1x8x8x4xf32>
// CHECK-NEXT:       graph.yield %5 : tensor<1x8x8x4xf32>
// CHECK-NEXT:     }
// CHECK-NEXT:     %3 = graph.reshape %2 : (tensor<1x8x8x4xf32>) -> tensor<1x64x4xf32>
// CHECK-NEXT:     %4 = graph.concat %1, %3 axis 1 : (tensor<1x64x4xf32>, tensor<1x64x4xf32>) -> tensor<1x128x4xf32>
// CHECK-NEXT:     func.return %4 : tensor<1x128x4xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
