// RUN: neuron-opt %s -p graph-lift-scales --split-input-file | filecheck %s

// A layer multiplies the integers; its scales, one for x and one per channel for w, and then its bias follow behind.
// CHECK-LABEL: func.func @conv
// CHECK:         %1 = graph.binary sub %0, %z : (tensor<1x3x4x4xf32>, tensor<f32>) -> tensor<1x3x4x4xf32>
// CHECK:         %5 = graph.reshape %s : (tensor<8x1x1x1xf32>) -> tensor<8x1x1xf32>
// CHECK-NEXT:    %6 = graph.conv %1, %3 strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x3x4x4xf32>, tensor<8x3x3x3xf32>) -> tensor<1x8x4x4xf32>
// CHECK-NEXT:    %7 = graph.binary mul %t, %5 : (tensor<f32>, tensor<8x1x1xf32>) -> tensor<8x1x1xf32>
// CHECK-NEXT:    %8 = graph.binary mul %6, %7 : (tensor<1x8x4x4xf32>, tensor<8x1x1xf32>) -> tensor<1x8x4x4xf32>
// CHECK-NEXT:    %9 = graph.reshape %b : (tensor<8xf32>) -> tensor<8x1x1xf32>
// CHECK-NEXT:    %10 = graph.binary add %8, %9 : (tensor<1x8x4x4xf32>, tensor<8x1x1xf32>) -> tensor<1x8x4x4xf32>
// CHECK-NEXT:    func.return %10
func.func @conv(%q: tensor<1x3x4x4xui8>) -> tensor<1x8x4x4xf32> {
  %z = graph.constant 128.0 : tensor<f32>
  %t = graph.constant 0.1 : tensor<f32>
  %w = graph.weight @w : tensor<8x3x3x3xi8>
  %s = graph.weight @s : tensor<8x1x1x1xf32>
  %b = graph.weight @b : tensor<8xf32>
  %0 = graph.cast %q : (tensor<1x3x4x4xui8>) -> tensor<1x3x4x4xf32>
  %1 = graph.binary sub %0, %z : (tensor<1x3x4x4xf32>, tensor<f32>) -> tensor<1x3x4x4xf32>
  %2 = graph.binary mul %1, %t : (tensor<1x3x4x4xf32>, tensor<f32>) -> tensor<1x3x4x4xf32>
  %3 = graph.cast %w : (tensor<8x3x3x3xi8>) -> tensor<8x3x3x3xf32>
  %4 = graph.binary mul %3, %s : (tensor<8x3x3x3xf32>, tensor<8x1x1x1xf32>) -> tensor<8x3x3x3xf32>
  %5 = graph.conv %2, %4, %b strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1
    : (tensor<1x3x4x4xf32>, tensor<8x3x3x3xf32>, tensor<8xf32>) -> tensor<1x8x4x4xf32>
  func.return %5 : tensor<1x8x4x4xf32>
}

// -----

// One scale is found behind what moves elements; one per row goes with the rows, of the transposed matrix too.
// CHECK-LABEL: func.func @matmul
// CHECK:         %3 = graph.cast %r : (tensor<5x8xi8>) -> tensor<5x8xf32>
// CHECK:         %5 = graph.reshape %0 : (tensor<4x2x4xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:    %6 = graph.reshape %s : (tensor<5x1xf32>) -> tensor<1x5xf32>
// CHECK-NEXT:    %7 = graph.matmul %5, %3 transpose_b : (tensor<4x8xf32>, tensor<5x8xf32>) -> tensor<4x5xf32>
// CHECK-NEXT:    %8 = graph.binary mul %t, %6 : (tensor<f32>, tensor<1x5xf32>) -> tensor<1x5xf32>
// CHECK-NEXT:    %9 = graph.binary mul %7, %8
func.func @matmul(%q: tensor<4x2x4xui8>, %r: tensor<5x8xi8>, %s: tensor<5x1xf32>, %t: tensor<f32>) -> tensor<4x5xf32> {
  %0 = graph.cast %q : (tensor<4x2x4xui8>) -> tensor<4x2x4xf32>
  %1 = graph.binary mul %0, %t : (tensor<4x2x4xf32>, tensor<f32>) -> tensor<4x2x4xf32>
  %2 = graph.reshape %1 : (tensor<4x2x4xf32>) -> tensor<4x8xf32>
  %3 = graph.cast %r : (tensor<5x8xi8>) -> tensor<5x8xf32>
  %4 = graph.binary mul %3, %s : (tensor<5x8xf32>, tensor<5x1xf32>) -> tensor<5x8xf32>
  %5 = graph.matmul %2, %4 transpose_b : (tensor<4x8xf32>, tensor<5x8xf32>) -> tensor<4x5xf32>
  func.return %5 : tensor<4x5xf32>
}

// -----

// Scales that differ along what is summed stay, as do scales of what is not known to be small integers.
// CHECK-LABEL: func.func @stays
// CHECK:         graph.matmul %1, %2
// CHECK-NEXT:    func.return
func.func @stays(%q: tensor<4x8xui8>, %s: tensor<8xf32>, %x: tensor<8x5xf32>, %t: tensor<f32>) -> tensor<4x5xf32> {
  %0 = graph.cast %q : (tensor<4x8xui8>) -> tensor<4x8xf32>
  %1 = graph.binary mul %0, %s : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
  %2 = graph.binary mul %x, %t : (tensor<8x5xf32>, tensor<f32>) -> tensor<8x5xf32>
  %3 = graph.matmul %1, %2 : (tensor<4x8xf32>, tensor<8x5xf32>) -> tensor<4x5xf32>
  func.return %3 : tensor<4x5xf32>
}
