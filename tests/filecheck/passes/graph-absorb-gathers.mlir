// RUN: neuron-opt %s -p 'graph-absorb-gathers' --split-input-file | filecheck %s

// One of two parts of what is multiplied was picked from more columns, one of them twice, one counted from the end: all
// are multiplied, with weights that are zero where nothing was picked.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<4x5xf32>, %y: tensor<4x2xf32>) -> tensor<4x3xf32> {
    %i = graph.constant dense [4, 0, -2, 4] : tensor<4xi32>
    %w = graph.weight @w : tensor<3x6xf32>
    %0 = graph.gather %x, %i axis 1 : (tensor<4x5xf32>, tensor<4xi32>) -> tensor<4x4xf32>
    %1 = graph.concat %y, %0 axis 1 : (tensor<4x2xf32>, tensor<4x4xf32>) -> tensor<4x6xf32>
    %2 = graph.matmul %1, %w transpose_b : (tensor<4x6xf32>, tensor<3x6xf32>) -> tensor<4x3xf32>
    func.return %2 : tensor<4x3xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<4x5xf32>, %y: tensor<4x2xf32>) -> tensor<4x3xf32> {
// CHECK-NEXT:     %i = graph.constant dense [4, 0, -2, 4] : tensor<4xi32>
// CHECK-NEXT:     %w = graph.weight @w : tensor<3x6xf32>
// CHECK-NEXT:     %0 = graph.weight @w$concat {graph.model_elements = 18 : i64} : tensor<3x7xf32>
// CHECK-NEXT:     %1 = graph.concat %y, %x axis 1 : (tensor<4x2xf32>, tensor<4x5xf32>) -> tensor<4x7xf32>
// CHECK-NEXT:     %2 = graph.matmul %1, %0 transpose_b {graph.model_macs = 72 : i64} : (tensor<4x7xf32>, tensor<3x7xf32>) -> tensor<4x3xf32>
// CHECK-NEXT:     func.return %2 : tensor<4x3xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @w$concat : tensor<3x7xf32> {
// CHECK-NEXT:     %w = graph.weight @w : tensor<3x6xf32>
// CHECK-NEXT:     %0 = graph.slice %w starts [0, 0] sizes [3, 2] steps [1, 1] : (tensor<3x6xf32>) -> tensor<3x2xf32>
// CHECK-NEXT:     %1 = graph.slice %w starts [0, 2] sizes [3, 4] steps [1, 1] : (tensor<3x6xf32>) -> tensor<3x4xf32>
// CHECK-NEXT:     %i = graph.constant dense [4, 0, -2, 4] : tensor<4xi32>
// CHECK-NEXT:     %2 = graph.cast %i : (tensor<4xi32>) -> tensor<4xi64>
// CHECK-NEXT:     %3 = graph.reshape %2 : (tensor<4xi64>) -> tensor<4x1xi64>
// CHECK-NEXT:     %4 = graph.constant 0 : tensor<1x1xi64>
// CHECK-NEXT:     %5 = graph.compare lt %3, %4 : (tensor<4x1xi64>, tensor<1x1xi64>) -> tensor<4x1xi1>
// CHECK-NEXT:     %6 = graph.constant 5 : tensor<1x1xi64>
// CHECK-NEXT:     %7 = graph.binary add %3, %6 : (tensor<4x1xi64>, tensor<1x1xi64>) -> tensor<4x1xi64>
// CHECK-NEXT:     %8 = graph.select %5, %7, %3 : (tensor<4x1xi1>, tensor<4x1xi64>, tensor<4x1xi64>) -> tensor<4x1xi64>
// CHECK-NEXT:     %9 = graph.constant 0 : tensor<1x1xi64>
// CHECK-NEXT:     %10 = graph.constant dense [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127] : tensor<1x128xi64>
// CHECK-NEXT:     %11 = graph.binary add %9, %10 : (tensor<1x1xi64>, tensor<1x128xi64>) -> tensor<1x128xi64>
// CHECK-NEXT:     %12 = graph.reshape %11 : (tensor<1x128xi64>) -> tensor<1x128xi64>
// CHECK-NEXT:     %13 = graph.slice %12 starts [0, 0] sizes [1, 5] steps [1, 1] : (tensor<1x128xi64>) -> tensor<1x5xi64>
// CHECK-NEXT:     %14 = graph.compare eq %8, %13 : (tensor<4x1xi64>, tensor<1x5xi64>) -> tensor<4x5xi1>
// CHECK-NEXT:     %15 = graph.cast %14 : (tensor<4x5xi1>) -> tensor<4x5xf32>
// CHECK-NEXT:     %16 = graph.matmul %1, %15 : (tensor<3x4xf32>, tensor<4x5xf32>) -> tensor<3x5xf32>
// CHECK-NEXT:     %17 = graph.concat %0, %16 axis 1 : (tensor<3x2xf32>, tensor<3x5xf32>) -> tensor<3x7xf32>
// CHECK-NEXT:     graph.yield %17 : tensor<3x7xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// Picked alone, of weights that are not transposed.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<4x5xf32>) -> tensor<4x3xf32> {
    %i = graph.constant dense [4, 0, -2] : tensor<3xi64>
    %w = graph.weight @w : tensor<3x3xf32>
    %0 = graph.gather %x, %i axis 1 : (tensor<4x5xf32>, tensor<3xi64>) -> tensor<4x3xf32>
    %1 = graph.matmul %0, %w : (tensor<4x3xf32>, tensor<3x3xf32>) -> tensor<4x3xf32>
    func.return %1 : tensor<4x3xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<4x5xf32>) -> tensor<4x3xf32> {
// CHECK-NEXT:     %i = graph.constant dense [4, 0, -2] : tensor<3xi64>
// CHECK-NEXT:     %w = graph.weight @w : tensor<3x3xf32>
// CHECK-NEXT:     %0 = graph.weight @w$matmul {graph.model_elements = 9 : i64} : tensor<5x3xf32>
// CHECK-NEXT:     %1 = graph.matmul %x, %0 {graph.model_macs = 36 : i64} : (tensor<4x5xf32>, tensor<5x3xf32>) -> tensor<4x3xf32>
// CHECK-NEXT:     func.return %1 : tensor<4x3xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @w$matmul : tensor<5x3xf32> {
// CHECK-NEXT:     %w = graph.weight @w : tensor<3x3xf32>
// CHECK-NEXT:     %i = graph.constant dense [4, 0, -2] : tensor<3xi64>
// CHECK-NEXT:     %0 = graph.cast %i : (tensor<3xi64>) -> tensor<3xi64>
// CHECK-NEXT:     %1 = graph.reshape %0 : (tensor<3xi64>) -> tensor<3x1xi64>
// CHECK-NEXT:     %2 = graph.constant 0 : tensor<1x1xi64>
// CHECK-NEXT:     %3 = graph.compare lt %1, %2 : (tensor<3x1xi64>, tensor<1x1xi64>) -> tensor<3x1xi1>
// CHECK-NEXT:     %4 = graph.constant 5 : tensor<1x1xi64>
// CHECK-NEXT:     %5 = graph.binary add %1, %4 : (tensor<3x1xi64>, tensor<1x1xi64>) -> tensor<3x1xi64>
// CHECK-NEXT:     %6 = graph.select %3, %5, %1 : (tensor<3x1xi1>, tensor<3x1xi64>, tensor<3x1xi64>) -> tensor<3x1xi64>
// CHECK-NEXT:     %7 = graph.constant 0 : tensor<1x1xi64>
// CHECK-NEXT:     %8 = graph.constant dense [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127] : tensor<1x128xi64>
// CHECK-NEXT:     %9 = graph.binary add %7, %8 : (tensor<1x1xi64>, tensor<1x128xi64>) -> tensor<1x128xi64>
// CHECK-NEXT:     %10 = graph.reshape %9 : (tensor<1x128xi64>) -> tensor<1x128xi64>
// CHECK-NEXT:     %11 = graph.slice %10 starts [0, 0] sizes [1, 5] steps [1, 1] : (tensor<1x128xi64>) -> tensor<1x5xi64>
// CHECK-NEXT:     %12 = graph.compare eq %6, %11 : (tensor<3x1xi64>, tensor<1x5xi64>) -> tensor<3x5xi1>
// CHECK-NEXT:     %13 = graph.cast %12 : (tensor<3x5xi1>) -> tensor<3x5xf32>
// CHECK-NEXT:     %14 = graph.matmul %13, %w transpose_a : (tensor<3x5xf32>, tensor<3x3xf32>) -> tensor<5x3xf32>
// CHECK-NEXT:     graph.yield %14 : tensor<5x3xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// Few of many columns stay picked, as do those that somebody else reads.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<4x9xf32>, %y: tensor<4x3xf32>) -> (tensor<4x3xf32>, tensor<4x2xf32>, tensor<4x3xf32>) {
    %i = graph.constant dense [4, 0] : tensor<2xi64>
    %w = graph.weight @w : tensor<2x3xf32>
    %0 = graph.gather %x, %i axis 1 : (tensor<4x9xf32>, tensor<2xi64>) -> tensor<4x2xf32>
    %1 = graph.matmul %0, %w : (tensor<4x2xf32>, tensor<2x3xf32>) -> tensor<4x3xf32>
    %j = graph.constant dense [2, 0] : tensor<2xi64>
    %2 = graph.gather %y, %j axis 1 : (tensor<4x3xf32>, tensor<2xi64>) -> tensor<4x2xf32>
    %3 = graph.matmul %2, %w : (tensor<4x2xf32>, tensor<2x3xf32>) -> tensor<4x3xf32>
    func.return %1, %2, %3 : tensor<4x3xf32>, tensor<4x2xf32>, tensor<4x3xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<4x9xf32>, %y: tensor<4x3xf32>) -> (tensor<4x3xf32>, tensor<4x2xf32>, tensor<4x3xf32>) {
// CHECK-NEXT:     %i = graph.constant dense [4, 0] : tensor<2xi64>
// CHECK-NEXT:     %w = graph.weight @w : tensor<2x3xf32>
// CHECK-NEXT:     %0 = graph.gather %x, %i axis 1 : (tensor<4x9xf32>, tensor<2xi64>) -> tensor<4x2xf32>
// CHECK-NEXT:     %1 = graph.matmul %0, %w : (tensor<4x2xf32>, tensor<2x3xf32>) -> tensor<4x3xf32>
// CHECK-NEXT:     %j = graph.constant dense [2, 0] : tensor<2xi64>
// CHECK-NEXT:     %2 = graph.gather %y, %j axis 1 : (tensor<4x3xf32>, tensor<2xi64>) -> tensor<4x2xf32>
// CHECK-NEXT:     %3 = graph.matmul %2, %w : (tensor<4x2xf32>, tensor<2x3xf32>) -> tensor<4x3xf32>
// CHECK-NEXT:     func.return %1, %2, %3 : tensor<4x3xf32>, tensor<4x2xf32>, tensor<4x3xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
