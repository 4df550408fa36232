// RUN: neuron-opt %s -p graph-fold-batch-norm | filecheck %s

// Into a convolution: its weight times factor per output channel, its bias times factor plus shift.
// CHECK-LABEL: func.func @conv
// CHECK:         %[[SUM:.*]] = graph.binary add %variance, %{{.*}} : (tensor<4xf32>, tensor<f32>) -> tensor<4xf32>
// CHECK-NEXT:    %[[DEVIATION:.*]] = graph.unary sqrt %[[SUM]]
// CHECK-NEXT:    %[[FACTOR:.*]] = graph.binary div %scale, %[[DEVIATION]]
// CHECK-NEXT:    %[[MOVED:.*]] = graph.binary mul %mean, %[[FACTOR]]
// CHECK-NEXT:    %[[SHIFT:.*]] = graph.binary sub %bias, %[[MOVED]]
// CHECK-NEXT:    %[[SCALED:.*]] = graph.binary mul %b, %[[FACTOR]]
// CHECK-NEXT:    %[[BIAS:.*]] = graph.binary add %[[SCALED]], %[[SHIFT]]
// CHECK-NEXT:    %[[COLUMN:.*]] = graph.reshape %[[FACTOR]] : (tensor<4xf32>) -> tensor<4x1x1x1xf32>
// CHECK-NEXT:    %[[WEIGHT:.*]] = graph.binary mul %w, %[[COLUMN]]
// CHECK-NEXT:    %[[RESULT:.*]] = graph.conv %x, %[[WEIGHT]], %[[BIAS]] strides [1, 1] pads [1, 1, 1, 1]
// CHECK-NEXT:    func.return %[[RESULT]]
func.func @conv(%x: tensor<2x3x5x5xf32>) -> tensor<2x4x5x5xf32> {
  %w = graph.weight @w : tensor<4x3x3x3xf32>
  %b = graph.weight @b : tensor<4xf32>
  %scale = graph.weight @scale : tensor<4xf32>
  %bias = graph.weight @bias : tensor<4xf32>
  %mean = graph.weight @mean : tensor<4xf32>
  %variance = graph.weight @variance : tensor<4xf32>
  %y = graph.conv %x, %w, %b strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<2x3x5x5xf32>, tensor<4x3x3x3xf32>, tensor<4xf32>) -> tensor<2x4x5x5xf32>
  %z = graph.batch_norm %y, %scale, %bias, %mean, %variance epsilon 1.0e-05 : (tensor<2x4x5x5xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<2x4x5x5xf32>
  func.return %z : tensor<2x4x5x5xf32>
}

// Into the transpose of a grouped convolution: output channels stand in the second dimension, group by group.
// CHECK-LABEL: func.func @conv_transpose
// CHECK:         graph.reshape %w : (tensor<4x3x2x2xf32>) -> tensor<2x2x3x2x2xf32>
// CHECK-NEXT:    graph.reshape %{{.*}} : (tensor<6xf32>) -> tensor<2x1x3x1x1xf32>
// CHECK-NEXT:    graph.binary mul
// CHECK-NEXT:    %[[WEIGHT:.*]] = graph.reshape %{{.*}} : (tensor<2x2x3x2x2xf32>) -> tensor<4x3x2x2xf32>
// CHECK-NEXT:    graph.conv_transpose %x, %[[WEIGHT]], %{{.*}} strides
func.func @conv_transpose(%x: tensor<1x4x3x3xf32>) -> tensor<1x6x6x6xf32> {
  %w = graph.weight @w : tensor<4x3x2x2xf32>
  %scale = graph.weight @scale : tensor<6xf32>
  %bias = graph.weight @bias : tensor<6xf32>
  %mean = graph.weight @mean : tensor<6xf32>
  %variance = graph.weight @variance : tensor<6xf32>
  %y = graph.conv_transpose %x, %w strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] output_padding [0, 0] groups 2 : (tensor<1x4x3x3xf32>, tensor<4x3x2x2xf32>) -> tensor<1x6x6x6xf32>
  %z = graph.batch_norm %y, %scale, %bias, %mean, %variance epsilon 1.0e-03 : (tensor<1x6x6x6xf32>, tensor<6xf32>, tensor<6xf32>, tensor<6xf32>, tensor<6xf32>) -> tensor<1x6x6x6xf32>
  func.return %z : tensor<1x6x6x6xf32>
}

// Into a matrix product with a bias: the columns are the channels.
// CHECK-LABEL: func.func @gemm
// CHECK:         %[[FACTOR:.*]] = graph.binary div %scale
// CHECK:         %[[COLUMN:.*]] = graph.reshape %[[FACTOR]] : (tensor<4xf32>) -> tensor<4x1xf32>
// CHECK-NEXT:    %[[WEIGHT:.*]] = graph.binary mul %w, %[[COLUMN]]
// CHECK-NEXT:    %[[PRODUCT:.*]] = graph.matmul %x, %[[WEIGHT]] transpose_b
// CHECK-NEXT:    graph.binary add %[[PRODUCT]], %{{.*}} : (tensor<2x4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
func.func @gemm(%x: tensor<2x3xf32>) -> tensor<2x4xf32> {
  %w = graph.weight @w : tensor<4x3xf32>
  %b = graph.weight @b : tensor<1x4xf32>
  %scale = graph.weight @scale : tensor<4xf32>
  %bias = graph.weight @bias : tensor<4xf32>
  %mean = graph.weight @mean : tensor<4xf32>
  %variance = graph.weight @variance : tensor<4xf32>
  %y = graph.matmul %x, %w transpose_b : (tensor<2x3xf32>, tensor<4x3xf32>) -> tensor<2x4xf32>
  %s = graph.binary add %y, %b : (tensor<2x4xf32>, tensor<1x4xf32>) -> tensor<2x4xf32>
  %z = graph.batch_norm %s, %scale, %bias, %mean, %variance epsilon 1.0e-05 : (tensor<2x4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
  func.return %z : tensor<2x4xf32>
}

// The convolution's result is also returned: the normalisation is a multiplication and an addition behind it.
// CHECK-LABEL: func.func @used_twice
// CHECK:         %y = graph.conv %x, %w strides
// CHECK:         %[[FACTOR:.*]] = graph.reshape %{{.*}} : (tensor<4xf32>) -> tensor<4x1x1xf32>
// CHECK-NEXT:    %[[SHIFT:.*]] = graph.reshape %{{.*}} : (tensor<4xf32>) -> tensor<4x1x1xf32>
// CHECK-NEXT:    %[[PRODUCT:.*]] = graph.binary mul %y, %[[FACTOR]]
// CHECK-NEXT:    %[[SUM:.*]] = graph.binary add %[[PRODUCT]], %[[SHIFT]]
// CHECK-NEXT:    func.return %y, %[[SUM]]
func.func @used_twice(%x: tensor<2x3x5x5xf32>) -> (tensor<2x4x5x5xf32>, tensor<2x4x5x5xf32>) {
  %w = graph.weight @w : tensor<4x3x1x1xf32>
  %scale = graph.weight @scale : tensor<4xf32>
  %bias = graph.weight @bias : tensor<4xf32>
  %mean = graph.weight @mean : tensor<4xf32>
  %variance = graph.weight @variance : tensor<4xf32>
  %y = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<2x3x5x5xf32>, tensor<4x3x1x1xf32>) -> tensor<2x4x5x5xf32>
  %z = graph.batch_norm %y, %scale, %bias, %mean, %variance epsilon 1.0e-05 : (tensor<2x4x5x5xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<2x4x5x5xf32>
  func.return %y, %z : tensor<2x4x5x5xf32>, tensor<2x4x5x5xf32>
}

// The convolution keeps its location, what is computed for the normalisation has that one's.
// RUN: neuron-opt %s -p graph-fold-batch-norm --print-debuginfo | filecheck %s --check-prefix=LOC
// LOC: graph.binary mul %w1d, {{.*}} loc("norm")
// LOC: graph.conv {{.*}} loc("layer")
func.func @located(%x: tensor<2x3x5xf32>) -> tensor<2x4x5xf32> {
  %w1d = graph.weight @w : tensor<4x3x1xf32>
  %p = graph.constant 1.0 : tensor<4xf32>
  %y = graph.conv %x, %w1d strides [1] pads [0, 0] dilations [1] groups 1 : (tensor<2x3x5xf32>, tensor<4x3x1xf32>) -> tensor<2x4x5xf32> loc("layer")
  %z = graph.batch_norm %y, %p, %p, %p, %p epsilon 1.0e-05 : (tensor<2x4x5xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<2x4x5xf32> loc("norm")
  func.return %z : tensor<2x4x5xf32>
}
