// RUN: neuron-opt %s -p 'graph-fold-layer-norm' | filecheck %s

// Scale and bias go into the weights and the bias of the product; the residual gets the scale as an operator of its own
// in front of the sum that reads it, where the bias joins that of the product. The bias of the product is defined behind it.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<4x8xf32>, %h: tensor<4x8xf32>) -> (tensor<4x6xf32>, tensor<4x8xf32>) {
    %s = graph.weight @s : tensor<8xf32>
    %c = graph.weight @c : tensor<8xf32>
    %w = graph.weight @w : tensor<8x6xf32>
    %v = graph.weight @v : tensor<8x8xf32>
    %d = graph.weight @d : tensor<8xf32>
    %0 = graph.layer_norm %x scale %s : tensor<8xf32> bias %c : tensor<8xf32> axis 1 epsilon 1.0e-05 : (tensor<4x8xf32>) -> tensor<4x8xf32>
    %1 = graph.matmul %0, %w : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
    %b = graph.weight @b : tensor<6xf32>
    %2 = graph.binary add %1, %b : (tensor<4x6xf32>, tensor<6xf32>) -> tensor<4x6xf32>
    %3 = graph.matmul %h, %v : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
    %4 = graph.binary add %3, %d : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
    %5 = graph.binary add %4, %0 : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
    func.return %2, %5 : tensor<4x6xf32>, tensor<4x8xf32>
  }

  // The same through a change of shape that keeps the features.
  func.func @reshaped(%x: tensor<2x4x8xf32>) -> tensor<8x6xf32> {
    %s = graph.weight @s : tensor<8xf32>
    %c = graph.weight @c : tensor<8xf32>
    %w = graph.weight @w : tensor<8x6xf32>
    %0 = graph.layer_norm %x scale %s : tensor<8xf32> bias %c : tensor<8xf32> axis 2 epsilon 1.0e-05 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
    %1 = graph.reshape %0 : (tensor<2x4x8xf32>) -> tensor<8x8xf32>
    %2 = graph.matmul %1, %w : (tensor<8x8xf32>, tensor<8x6xf32>) -> tensor<8x6xf32>
    func.return %2 : tensor<8x6xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<4x8xf32>, %h: tensor<4x8xf32>) -> (tensor<4x6xf32>, tensor<4x8xf32>) {
// CHECK-NEXT:     %s = graph.weight @s : tensor<8xf32>
// CHECK-NEXT:     %c = graph.weight @c : tensor<8xf32>
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x6xf32>
// CHECK-NEXT:     %v = graph.weight @v : tensor<8x8xf32>
// CHECK-NEXT:     %d = graph.weight @d : tensor<8xf32>
// CHECK-NEXT:     %0 = graph.layer_norm %x axis 1 epsilon 1.0e-05 : (tensor<4x8xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:     %1 = graph.reshape %c : (tensor<8xf32>) -> tensor<1x8xf32>
// CHECK-NEXT:     %2 = graph.matmul %1, %w : (tensor<1x8xf32>, tensor<8x6xf32>) -> tensor<1x6xf32>
// CHECK-NEXT:     %3 = graph.reshape %2 : (tensor<1x6xf32>) -> tensor<6xf32>
// CHECK-NEXT:     %4 = graph.reshape %s : (tensor<8xf32>) -> tensor<8x1xf32>
// CHECK-NEXT:     %5 = graph.binary mul %w, %4 : (tensor<8x6xf32>, tensor<8x1xf32>) -> tensor<8x6xf32>
// CHECK-NEXT:     %6 = graph.matmul %0, %5 : (tensor<4x8xf32>, tensor<8x6xf32>) -> tensor<4x6xf32>
// CHECK-NEXT:     %b = graph.weight @b : tensor<6xf32>
// CHECK-NEXT:     %7 = graph.binary add %b, %3 : (tensor<6xf32>, tensor<6xf32>) -> tensor<6xf32>
// CHECK-NEXT:     %8 = graph.binary add %6, %7 : (tensor<4x6xf32>, tensor<6xf32>) -> tensor<4x6xf32>
// CHECK-NEXT:     %9 = graph.matmul %h, %v : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:     %10 = graph.binary mul %0, %s : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:     %11 = graph.binary add %9, %10 : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:     %12 = graph.binary add %d, %c : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
// CHECK-NEXT:     %13 = graph.binary add %11, %12 : (tensor<4x8xf32>, tensor<8xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:     func.return %8, %13 : tensor<4x6xf32>, tensor<4x8xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @reshaped(%x: tensor<2x4x8xf32>) -> tensor<8x6xf32> {
// CHECK-NEXT:     %s = graph.weight @s : tensor<8xf32>
// CHECK-NEXT:     %c = graph.weight @c : tensor<8xf32>
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x6xf32>
// CHECK-NEXT:     %0 = graph.layer_norm %x axis 2 epsilon 1.0e-05 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
// CHECK-NEXT:     %1 = graph.reshape %0 : (tensor<2x4x8xf32>) -> tensor<8x8xf32>
// CHECK-NEXT:     %2 = graph.reshape %c : (tensor<8xf32>) -> tensor<1x8xf32>
// CHECK-NEXT:     %3 = graph.matmul %2, %w : (tensor<1x8xf32>, tensor<8x6xf32>) -> tensor<1x6xf32>
// CHECK-NEXT:     %4 = graph.reshape %3 : (tensor<1x6xf32>) -> tensor<6xf32>
// CHECK-NEXT:     %5 = graph.reshape %s : (tensor<8xf32>) -> tensor<8x1xf32>
// CHECK-NEXT:     %6 = graph.binary mul %w, %5 : (tensor<8x6xf32>, tensor<8x1xf32>) -> tensor<8x6xf32>
// CHECK-NEXT:     %7 = graph.matmul %1, %6 : (tensor<8x8xf32>, tensor<8x6xf32>) -> tensor<8x6xf32>
// CHECK-NEXT:     %8 = graph.binary add %7, %4 : (tensor<8x6xf32>, tensor<6xf32>) -> tensor<8x6xf32>
// CHECK-NEXT:     func.return %8 : tensor<8x6xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
