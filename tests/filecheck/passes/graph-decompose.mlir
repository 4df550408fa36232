// RUN: neuron-opt %s -p graph-decompose | filecheck %s

// A function before the sum, or after it, or both.
// CHECK-LABEL: func.func @sums
// CHECK-NEXT:    %0 = graph.unary abs %x
// CHECK-NEXT:    %1 = graph.reduce sum %0 axes [1] : (tensor<4x8xf32>) -> tensor<4xf32>
// CHECK-NEXT:    %2 = graph.unary square %x
// CHECK-NEXT:    %3 = graph.reduce sum %2 axes [1] keep_dims : (tensor<4x8xf32>) -> tensor<4x1xf32>
// CHECK-NEXT:    %4 = graph.unary sqrt %3
// CHECK-NEXT:    %5 = graph.reduce sum %x axes [0, 1] : (tensor<4x8xf32>) -> tensor<f32>
// CHECK-NEXT:    %6 = graph.unary log %5
func.func @sums(%x: tensor<4x8xf32>) -> (tensor<4xf32>, tensor<4x1xf32>, tensor<f32>) {
  %0 = graph.reduce l1 %x axes [1] : (tensor<4x8xf32>) -> tensor<4xf32>
  %1 = graph.reduce l2 %x axes [1] keep_dims : (tensor<4x8xf32>) -> tensor<4x1xf32>
  %2 = graph.reduce log_sum %x axes [0, 1] : (tensor<4x8xf32>) -> tensor<f32>
  func.return %0, %1, %2 : tensor<4xf32>, tensor<4x1xf32>, tensor<f32>
}

// The maximum is subtracted before exp and added after log.
// CHECK-LABEL: func.func @log_sum_exp
// CHECK-NEXT:    %0 = graph.reduce max %x axes [1] keep_dims : (tensor<4x8xf32>) -> tensor<4x1xf32>
// CHECK-NEXT:    %1 = graph.clip %0 minimum -3.4028235e+38 maximum 3.4028235e+38
// CHECK-NEXT:    %2 = graph.binary sub %x, %1
// CHECK-NEXT:    %3 = graph.unary exp %2
// CHECK-NEXT:    %4 = graph.reduce sum %3 axes [1] keep_dims
// CHECK-NEXT:    %5 = graph.unary log %4
// CHECK-NEXT:    %6 = graph.binary add %5, %1
// CHECK-NEXT:    %7 = graph.reshape %6 : (tensor<4x1xf32>) -> tensor<4xf32>
func.func @log_sum_exp(%x: tensor<4x8xf32>) -> tensor<4xf32> {
  %0 = graph.reduce log_sum_exp %x axes [1] : (tensor<4x8xf32>) -> tensor<4xf32>
  func.return %0 : tensor<4xf32>
}

// Squares of 16-bit floats would be rounded, or overflow: the steps are in f32.
// CHECK-LABEL: func.func @narrow
// CHECK-NEXT:    %0 = graph.cast %x : (tensor<4x8xf16>) -> tensor<4x8xf32>
// CHECK-NEXT:    %1 = graph.unary square %0
// CHECK-NEXT:    %2 = graph.reduce sum %1 axes [1] : (tensor<4x8xf32>) -> tensor<4xf32>
// CHECK-NEXT:    %3 = graph.unary sqrt %2
// CHECK-NEXT:    %4 = graph.cast %3 : (tensor<4xf32>) -> tensor<4xf16>
func.func @narrow(%x: tensor<4x8xf16>) -> tensor<4xf16> {
  %0 = graph.reduce l2 %x axes [1] : (tensor<4x8xf16>) -> tensor<4xf16>
  func.return %0 : tensor<4xf16>
}

// What stays: plain reductions, the root of an integer sum, a maximum over nothing.
// CHECK-LABEL: func.func @stay
// CHECK-NEXT:    graph.reduce mean
// CHECK-NEXT:    graph.reduce l2
// CHECK-NEXT:    graph.reduce log_sum_exp
func.func @stay(%x: tensor<4x8xf32>, %i: tensor<4xi32>, %e: tensor<2x0xf32>) -> (tensor<4xf32>, tensor<i32>, tensor<2xf32>) {
  %0 = graph.reduce mean %x axes [1] : (tensor<4x8xf32>) -> tensor<4xf32>
  %1 = graph.reduce l2 %i axes [0] : (tensor<4xi32>) -> tensor<i32>
  %2 = graph.reduce log_sum_exp %e axes [1] : (tensor<2x0xf32>) -> tensor<2xf32>
  func.return %0, %1, %2 : tensor<4xf32>, tensor<i32>, tensor<2xf32>
}

// RUN: neuron-opt %s -p graph-decompose --print-debuginfo | filecheck %s --check-prefix=LOC
// LOC:      graph.unary square %y {{.*}} loc("norm")
// LOC-NEXT: graph.reduce sum {{.*}} loc("norm")
func.func @located(%y: tensor<8xf32>) -> tensor<f32> {
  %0 = graph.reduce sum_square %y axes [0] : (tensor<8xf32>) -> tensor<f32> loc("norm")
  func.return %0 : tensor<f32>
}
