// RUN: neuron-opt %s -p 'graph-sample-features' --split-input-file | filecheck %s

// Products of three by two fill two quadrants and more: they become four rows of 32, in front of the other features. The
// rows of the weights follow.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%a: tensor<128x3x8xf32>, %b: tensor<128x2x8xf32>, %y: tensor<128x4xf32>) -> tensor<128x5xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<5x10xf32>
    %0 = graph.matmul %a, %b transpose_b : (tensor<128x3x8xf32>, tensor<128x2x8xf32>) -> tensor<128x3x2xf32>
    %1 = graph.reshape %0 : (tensor<128x3x2xf32>) -> tensor<128x6xf32>
    %2 = graph.concat %y, %1 axis 1 : (tensor<128x4xf32>, tensor<128x6xf32>) -> tensor<128x10xf32>
    %3 = graph.matmul %2, %w transpose_b : (tensor<128x10xf32>, tensor<5x10xf32>) -> tensor<128x5xf32>
    func.return %3 : tensor<128x5xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%a: tensor<128x3x8xf32>, %b: tensor<128x2x8xf32>, %y: tensor<128x4xf32>) -> tensor<128x5xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<5x10xf32>
// CHECK-NEXT:     %0 = graph.matmul %a, %b transpose_b : (tensor<128x3x8xf32>, tensor<128x2x8xf32>) -> tensor<128x3x2xf32>
// CHECK-NEXT:     %1 = graph.pad constant %0 low [0, 0, 0] high [0, 1, 30] value 0.0 : (tensor<128x3x2xf32>) -> tensor<128x4x32xf32>
// CHECK-NEXT:     %2 = graph.reshape %1 : (tensor<128x4x32xf32>) -> tensor<128x128xf32>
// CHECK-NEXT:     %3 = graph.concat %2, %y axis 1 : (tensor<128x128xf32>, tensor<128x4xf32>) -> tensor<128x132xf32>
// CHECK-NEXT:     %4 = graph.weight @w$concat {graph.model_elements = 50 : i64} : tensor<5x132xf32>
// CHECK-NEXT:     %5 = graph.matmul %3, %4 transpose_b {graph.model_macs = 6400 : i64} : (tensor<128x132xf32>, tensor<5x132xf32>) -> tensor<128x5xf32>
// CHECK-NEXT:     func.return %5 : tensor<128x5xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @w$concat : tensor<5x132xf32> {
// CHECK-NEXT:     %w = graph.weight @w : tensor<5x10xf32>
// CHECK-NEXT:     %0 = graph.slice %w starts [0, 0] sizes [5, 4] steps [1, 1] : (tensor<5x10xf32>) -> tensor<5x4xf32>
// CHECK-NEXT:     %1 = graph.slice %w starts [0, 4] sizes [5, 6] steps [1, 1] : (tensor<5x10xf32>) -> tensor<5x6xf32>
// CHECK-NEXT:     %2 = graph.reshape %1 : (tensor<5x6xf32>) -> tensor<5x3x2xf32>
// CHECK-NEXT:     %3 = graph.pad constant %2 low [0, 0, 0] high [0, 1, 30] value 0.0 : (tensor<5x3x2xf32>) -> tensor<5x4x32xf32>
// CHECK-NEXT:     %4 = graph.reshape %3 : (tensor<5x4x32xf32>) -> tensor<5x128xf32>
// CHECK-NEXT:     %5 = graph.concat %4, %0 axis 1 : (tensor<5x128xf32>, tensor<5x4xf32>) -> tensor<5x132xf32>
// CHECK-NEXT:     graph.yield %5 : tensor<5x132xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// Alone, and of sides that fill lanes already: nothing changes.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%a: tensor<128x4x8xf32>, %b: tensor<128x32x8xf32>) -> tensor<128x5xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<128x5xf32>
    %0 = graph.matmul %a, %b transpose_b : (tensor<128x4x8xf32>, tensor<128x32x8xf32>) -> tensor<128x4x32xf32>
    %1 = graph.reshape %0 : (tensor<128x4x32xf32>) -> tensor<128x128xf32>
    %2 = graph.matmul %1, %w : (tensor<128x128xf32>, tensor<128x5xf32>) -> tensor<128x5xf32>
    func.return %2 : tensor<128x5xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%a: tensor<128x4x8xf32>, %b: tensor<128x32x8xf32>) -> tensor<128x5xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<128x5xf32>
// CHECK-NEXT:     %0 = graph.matmul %a, %b transpose_b : (tensor<128x4x8xf32>, tensor<128x32x8xf32>) -> tensor<128x4x32xf32>
// CHECK-NEXT:     %1 = graph.reshape %0 : (tensor<128x4x32xf32>) -> tensor<128x128xf32>
// CHECK-NEXT:     %2 = graph.matmul %1, %w : (tensor<128x128xf32>, tensor<128x5xf32>) -> tensor<128x5xf32>
// CHECK-NEXT:     func.return %2 : tensor<128x5xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
