// RUN: neuron-opt %s -p graph-fold-layer-norm | filecheck %s

// A convolution without padding of the result as images takes the parameters.
func.func @images(%x: tensor<2x4x4x8xf32>) -> tensor<2x5x2x2xf32> {
  %s = graph.weight @s : tensor<8xf32>
  %c = graph.weight @c : tensor<8xf32>
  %w = graph.weight @w : tensor<5x8x2x2xf32>
  %b = graph.weight @b : tensor<5xf32>
  %0 = graph.layer_norm %x scale %s : tensor<8xf32> bias %c : tensor<8xf32> axis 3 epsilon 1.0e-06 : (tensor<2x4x4x8xf32>) -> tensor<2x4x4x8xf32>
  %1 = graph.transpose %0 permutation [0, 3, 1, 2] : (tensor<2x4x4x8xf32>) -> tensor<2x8x4x4xf32>
  %2 = graph.conv %1, %w, %b strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<2x8x4x4xf32>, tensor<5x8x2x2xf32>, tensor<5xf32>) -> tensor<2x5x2x2xf32>
  func.return %2 : tensor<2x5x2x2xf32>
}
// CHECK:      builtin.module {
// CHECK-NEXT:   func.func @images(%x: tensor<2x4x4x8xf32>) -> tensor<2x5x2x2xf32> {
// CHECK-NEXT:     %s = graph.weight @s : tensor<8xf32>
// CHECK-NEXT:     %c = graph.weight @c : tensor<8xf32>
// CHECK-NEXT:     %w = graph.weight @w : tensor<5x8x2x2xf32>
// CHECK-NEXT:     %b = graph.weight @b : tensor<5xf32>
// CHECK-NEXT:     %0 = graph.layer_norm %x axis 3 epsilon 1.0e-06 : (tensor<2x4x4x8xf32>) -> tensor<2x4x4x8xf32>
// CHECK-NEXT:     %1 = graph.transpose %0 permutation [0, 3, 1, 2] : (tensor<2x4x4x8xf32>) -> tensor<2x8x4x4xf32>
// CHECK-NEXT:     %2 = graph.reduce sum %w axes [2, 3] : (tensor<5x8x2x2xf32>) -> tensor<5x8xf32>
// CHECK-NEXT:     %3 = graph.reshape %c : (tensor<8xf32>) -> tensor<1x8xf32>
// CHECK-NEXT:     %4 = graph.matmul %3, %2 transpose_b : (tensor<1x8xf32>, tensor<5x8xf32>) -> tensor<1x5xf32>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<1x5xf32>) -> tensor<5xf32>
// CHECK-NEXT:     %6 = graph.binary add %b, %5 : (tensor<5xf32>, tensor<5xf32>) -> tensor<5xf32>
// CHECK-NEXT:     %7 = graph.reshape %s : (tensor<8xf32>) -> tensor<1x8x1x1xf32>
// CHECK-NEXT:     %8 = graph.binary mul %w, %7 : (tensor<5x8x2x2xf32>, tensor<1x8x1x1xf32>) -> tensor<5x8x2x2xf32>
// CHECK-NEXT:     %9 = graph.conv %1, %8, %6 strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<2x8x4x4xf32>, tensor<5x8x2x2xf32>, tensor<5xf32>) -> tensor<2x5x2x2xf32>
// CHECK-NEXT:     func.return %9 : tensor<2x5x2x2xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
