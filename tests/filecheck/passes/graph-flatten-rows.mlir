// RUN: neuron-opt %s -p 'graph-flatten-rows' | filecheck %s

// Layers over the last dimension on matrices of rows.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<2x5x8xf32>, %scale: tensor<1x1x4xf32>) -> tensor<2x5x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<8x4xf32>
    %0 = graph.matmul %x, %w : (tensor<2x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x4xf32>
    %1 = graph.unary relu %0 : (tensor<2x5x4xf32>) -> tensor<2x5x4xf32>
    %2 = graph.binary mul %1, %scale : (tensor<2x5x4xf32>, tensor<1x1x4xf32>) -> tensor<2x5x4xf32>
    %3 = graph.layer_norm %2 axis 2 epsilon 1.0e-05 : (tensor<2x5x4xf32>) -> tensor<2x5x4xf32>
    func.return %3 : tensor<2x5x4xf32>
  }

  // What differs from position to position keeps its dimensions.
  func.func private @neuron_1(%x: tensor<2x5x8xf32>, %table: tensor<1x5x4xf32>) -> tensor<2x5x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<8x4xf32>
    %0 = graph.matmul %x, %w : (tensor<2x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x4xf32>
    %1 = graph.binary add %0, %table : (tensor<2x5x4xf32>, tensor<1x5x4xf32>) -> tensor<2x5x4xf32>
    func.return %1 : tensor<2x5x4xf32>
  }

  // A weight that does is repeated.
  func.func private @neuron_2(%x: tensor<2x5x8xf32>) -> tensor<2x5x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<8x4xf32>
    %table = graph.weight @table : tensor<1x5x4xf32>
    %0 = graph.matmul %x, %w : (tensor<2x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x4xf32>
    %1 = graph.binary add %0, %table : (tensor<2x5x4xf32>, tensor<1x5x4xf32>) -> tensor<2x5x4xf32>
    func.return %1 : tensor<2x5x4xf32>
  }

  // A model that changes the shape itself around its layers: what lies between them is on rows too.
  func.func private @neuron_3(%x: tensor<10x8xf32>) -> tensor<10x3xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<8x4xf32>
    %v = graph.weight @v : tensor<4x3xf32>
    %0 = graph.matmul %x, %w : (tensor<10x8xf32>, tensor<8x4xf32>) -> tensor<10x4xf32>
    %1 = graph.reshape %0 : (tensor<10x4xf32>) -> tensor<2x5x4xf32>
    %2 = graph.unary gelu_tanh %1 : (tensor<2x5x4xf32>) -> tensor<2x5x4xf32>
    %3 = graph.reshape %2 : (tensor<2x5x4xf32>) -> tensor<10x4xf32>
    %4 = graph.matmul %3, %v : (tensor<10x4xf32>, tensor<4x3xf32>) -> tensor<10x3xf32>
    func.return %4 : tensor<10x3xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<2x5x8xf32>, %scale: tensor<1x1x4xf32>) -> tensor<2x5x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x4xf32>
// CHECK-NEXT:     %0 = graph.reshape %x : (tensor<2x5x8xf32>) -> tensor<10x8xf32>
// CHECK-NEXT:     %1 = graph.matmul %0, %w : (tensor<10x8xf32>, tensor<8x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %2 = graph.unary relu %1 : (tensor<10x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %3 = graph.reshape %scale : (tensor<1x1x4xf32>) -> tensor<4xf32>
// CHECK-NEXT:     %4 = graph.binary mul %2, %3 : (tensor<10x4xf32>, tensor<4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %5 = graph.layer_norm %4 axis 1 epsilon 1.0e-05 : (tensor<10x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %6 = graph.reshape %5 : (tensor<10x4xf32>) -> tensor<2x5x4xf32>
// CHECK-NEXT:     func.return %6 : tensor<2x5x4xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_1(%x: tensor<2x5x8xf32>, %table: tensor<1x5x4xf32>) -> tensor<2x5x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x4xf32>
// CHECK-NEXT:     %0 = graph.reshape %x : (tensor<2x5x8xf32>) -> tensor<10x8xf32>
// CHECK-NEXT:     %1 = graph.matmul %0, %w : (tensor<10x8xf32>, tensor<8x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %2 = graph.reshape %1 : (tensor<10x4xf32>) -> tensor<2x5x4xf32>
// CHECK-NEXT:     %3 = graph.binary add %2, %table : (tensor<2x5x4xf32>, tensor<1x5x4xf32>) -> tensor<2x5x4xf32>
// CHECK-NEXT:     func.return %3 : tensor<2x5x4xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_2(%x: tensor<2x5x8xf32>) -> tensor<2x5x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x4xf32>
// CHECK-NEXT:     %table = graph.weight @table : tensor<1x5x4xf32>
// CHECK-NEXT:     %0 = graph.reshape %x : (tensor<2x5x8xf32>) -> tensor<10x8xf32>
// CHECK-NEXT:     %1 = graph.matmul %0, %w : (tensor<10x8xf32>, tensor<8x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %2 = graph.broadcast %table : (tensor<1x5x4xf32>) -> tensor<2x5x4xf32>
// CHECK-NEXT:     %3 = graph.reshape %2 : (tensor<2x5x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %4 = graph.binary add %1, %3 : (tensor<10x4xf32>, tensor<10x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<10x4xf32>) -> tensor<2x5x4xf32>
// CHECK-NEXT:     func.return %5 : tensor<2x5x4xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_3(%x: tensor<10x8xf32>) -> tensor<10x3xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x4xf32>
// CHECK-NEXT:     %v = graph.weight @v : tensor<4x3xf32>
// CHECK-NEXT:     %0 = graph.matmul %x, %w : (tensor<10x8xf32>, tensor<8x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %1 = graph.unary gelu_tanh %0 : (tensor<10x4xf32>) -> tensor<10x4xf32>
// CHECK-NEXT:     %2 = graph.matmul %1, %v : (tensor<10x4xf32>, tensor<4x3xf32>) -> tensor<10x3xf32>
// CHECK-NEXT:     func.return %2 : tensor<10x3xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
