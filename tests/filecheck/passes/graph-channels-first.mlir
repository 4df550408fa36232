// RUN: neuron-opt %s -p graph-channels-first --split-input-file | filecheck %s

// A product between two transpositions: a convolution of one tap, with what is added and multiplied behind it.
func.func @product(%x: tensor<2x8x5x5xf32>) -> tensor<2x4x5x5xf32> {
  %w = graph.weight @w : tensor<8x4xf32>
  %b = graph.weight @b : tensor<4xf32>
  %s = graph.weight @s : tensor<4xf32>
  %0 = graph.transpose %x permutation [0, 2, 3, 1] : (tensor<2x8x5x5xf32>) -> tensor<2x5x5x8xf32>
  %1 = graph.matmul %0, %w : (tensor<2x5x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x5x4xf32>
  %2 = graph.binary add %1, %b : (tensor<2x5x5x4xf32>, tensor<4xf32>) -> tensor<2x5x5x4xf32>
  %3 = graph.binary mul %s, %2 : (tensor<4xf32>, tensor<2x5x5x4xf32>) -> tensor<2x5x5x4xf32>
  %4 = graph.transpose %3 permutation [0, 3, 1, 2] : (tensor<2x5x5x4xf32>) -> tensor<2x4x5x5xf32>
  func.return %4 : tensor<2x4x5x5xf32>
}
// CHECK:      builtin.module {
// CHECK-NEXT:   func.func @product(%x: tensor<2x8x5x5xf32>) -> tensor<2x4x5x5xf32> {
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x4xf32>
// CHECK-NEXT:     %b = graph.weight @b : tensor<4xf32>
// CHECK-NEXT:     %s = graph.weight @s : tensor<4xf32>
// CHECK-NEXT:     %0 = graph.transpose %w permutation [1, 0] : (tensor<8x4xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:     %1 = graph.reshape %0 : (tensor<4x8xf32>) -> tensor<4x8x1x1xf32>
// CHECK-NEXT:     %2 = graph.reshape %b : (tensor<4xf32>) -> tensor<4xf32>
// CHECK-NEXT:     %3 = graph.reshape %s : (tensor<4xf32>) -> tensor<4xf32>
// CHECK-NEXT:     %4 = graph.binary mul %2, %3 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
// CHECK-NEXT:     %5 = graph.reshape %s : (tensor<4xf32>) -> tensor<4x1x1x1xf32>
// CHECK-NEXT:     %6 = graph.binary mul %1, %5 : (tensor<4x8x1x1xf32>, tensor<4x1x1x1xf32>) -> tensor<4x8x1x1xf32>
// CHECK-NEXT:     %7 = graph.conv %x, %6, %4 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<2x8x5x5xf32>, tensor<4x8x1x1xf32>, tensor<4xf32>) -> tensor<2x4x5x5xf32>
// CHECK-NEXT:     func.return %7 : tensor<2x4x5x5xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// A normalisation of the channels: sums are convolutions with ones, and do not count as work of the model.
func.func @norm(%x: tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32> {
  %s = graph.weight @s : tensor<8xf32>
  %0 = graph.transpose %x permutation [0, 2, 3, 1] : (tensor<2x8x5x5xf32>) -> tensor<2x5x5x8xf32>
  %1 = graph.layer_norm %0 scale %s : tensor<8xf32> axis 3 epsilon 1.0e-06 : (tensor<2x5x5x8xf32>) -> tensor<2x5x5x8xf32>
  %2 = graph.unary relu %1 : (tensor<2x5x5x8xf32>) -> tensor<2x5x5x8xf32>
  %3 = graph.transpose %2 permutation [0, 3, 1, 2] : (tensor<2x5x5x8xf32>) -> tensor<2x8x5x5xf32>
  func.return %3 : tensor<2x8x5x5xf32>
}
// CHECK:      builtin.module {
// CHECK-NEXT:   func.func @norm(%x: tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32> {
// CHECK-NEXT:     %s = graph.weight @s : tensor<8xf32>
// CHECK-NEXT:     %0 = graph.constant 1.0 : tensor<8x8x1x1xf32>
// CHECK-NEXT:     %1 = graph.constant 0.125 : tensor<f32>
// CHECK-NEXT:     %2 = graph.conv %x, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 0 : i64} : (tensor<2x8x5x5xf32>, tensor<8x8x1x1xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %3 = graph.binary mul %2, %1 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %4 = graph.binary sub %x, %3 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %5 = graph.unary square %4 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %6 = graph.conv %5, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 0 : i64} : (tensor<2x8x5x5xf32>, tensor<8x8x1x1xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %7 = graph.binary mul %6, %1 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %8 = graph.constant 1.0e-06 : tensor<f32>
// CHECK-NEXT:     %9 = graph.binary add %7, %8 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %10 = graph.unary rsqrt %9 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %11 = graph.binary mul %4, %10 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %12 = graph.reshape %s : (tensor<8xf32>) -> tensor<8x1x1xf32>
// CHECK-NEXT:     %13 = graph.binary mul %11, %12 : (tensor<2x8x5x5xf32>, tensor<8x1x1xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %14 = graph.unary relu %13 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     func.return %14 : tensor<2x8x5x5xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// Something else reads the rows: they stay.
func.func @rows(%x: tensor<2x8x5x5xf32>) -> (tensor<2x4x5x5xf32>, tensor<2x25x4xf32>) {
  %w = graph.weight @w : tensor<8x4xf32>
  %0 = graph.transpose %x permutation [0, 2, 3, 1] : (tensor<2x8x5x5xf32>) -> tensor<2x5x5x8xf32>
  %1 = graph.matmul %0, %w : (tensor<2x5x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x5x4xf32>
  %2 = graph.transpose %1 permutation [0, 3, 1, 2] : (tensor<2x5x5x4xf32>) -> tensor<2x4x5x5xf32>
  %3 = graph.reshape %1 : (tensor<2x5x5x4xf32>) -> tensor<2x25x4xf32>
  func.return %2, %3 : tensor<2x4x5x5xf32>, tensor<2x25x4xf32>
}
// CHECK:      builtin.module {
// CHECK-NEXT:   func.func @rows(%x: tensor<2x8x5x5xf32>) -> (tensor<2x4x5x5xf32>, tensor<2x25x4xf32>) {
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x4xf32>
// CHECK-NEXT:     %0 = graph.transpose %x permutation [0, 2, 3, 1] : (tensor<2x8x5x5xf32>) -> tensor<2x5x5x8xf32>
// CHECK-NEXT:     %1 = graph.matmul %0, %w : (tensor<2x5x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x5x4xf32>
// CHECK-NEXT:     %2 = graph.transpose %1 permutation [0, 3, 1, 2] : (tensor<2x5x5x4xf32>) -> tensor<2x4x5x5xf32>
// CHECK-NEXT:     %3 = graph.reshape %1 : (tensor<2x5x5x4xf32>) -> tensor<2x25x4xf32>
// CHECK-NEXT:     func.return %2, %3 : tensor<2x4x5x5xf32>, tensor<2x25x4xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
