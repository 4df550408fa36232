// RUN: neuron-opt %s -p graph-fold-weights | filecheck %s

// What is computed of weights is a weight; what depends on an input stays.
// CHECK-LABEL: func.func @chain
// CHECK-NEXT:    %0 = graph.weight @w$bf16 : tensor<4x8xbf16>
// CHECK-NEXT:    %1 = graph.matmul %x, %0
// CHECK-NEXT:    func.return %1
func.func @chain(%x: tensor<2x4xbf16>) -> tensor<2x8xbf16> {
  %w = graph.weight @w : tensor<8x4xf32>
  %f = graph.weight @f : tensor<8x1xf32>
  %0 = graph.binary mul %w, %f : (tensor<8x4xf32>, tensor<8x1xf32>) -> tensor<8x4xf32>
  %1 = graph.transpose %0 permutation [1, 0] : (tensor<8x4xf32>) -> tensor<4x8xf32>
  %2 = graph.cast %1 : (tensor<4x8xf32>) -> tensor<4x8xbf16>
  %3 = graph.matmul %x, %2 : (tensor<2x4xbf16>, tensor<4x8xbf16>) -> tensor<2x8xbf16>
  func.return %3 : tensor<2x8xbf16>
}

// A value with several users is a recipe of its own that the others refer to. Equal recipes are one, across functions.
// CHECK-LABEL: func.func @shared
// CHECK-NEXT:    %0 = graph.weight @w$mul : tensor<8x4xf32>
// CHECK-NEXT:    %1 = graph.weight @w$mul$neg : tensor<8x4xf32>
// CHECK-NEXT:    %2 = graph.weight @w$bf16 : tensor<4x8xbf16>
// CHECK-NEXT:    func.return %0, %1, %2
func.func @shared() -> (tensor<8x4xf32>, tensor<8x4xf32>, tensor<4x8xbf16>) {
  %w = graph.weight @w : tensor<8x4xf32>
  %f = graph.weight @f : tensor<8x1xf32>
  %0 = graph.binary mul %w, %f : (tensor<8x4xf32>, tensor<8x1xf32>) -> tensor<8x4xf32>
  %1 = graph.unary neg %0 : (tensor<8x4xf32>) -> tensor<8x4xf32>
  %p = graph.binary mul %w, %f : (tensor<8x4xf32>, tensor<8x1xf32>) -> tensor<8x4xf32>
  %t = graph.transpose %p permutation [1, 0] : (tensor<8x4xf32>) -> tensor<4x8xf32>
  %2 = graph.cast %t : (tensor<4x8xf32>) -> tensor<4x8xbf16>
  func.return %0, %1, %2 : tensor<8x4xf32>, tensor<8x4xf32>, tensor<4x8xbf16>
}

// Broadcasts are not stored, and neither is what they alone make large; small results always are.
// CHECK-LABEL: func.func @broadcasts
// CHECK-NEXT:    %b = graph.weight @b : tensor<64xf32>
// CHECK-NEXT:    %0 = graph.broadcast %b : (tensor<64xf32>) -> tensor<32x64xf32>
// CHECK-NEXT:    %1 = graph.constant 2.0 : tensor<32x64xf32>
// CHECK-NEXT:    %2 = graph.binary mul %b, %1
// CHECK-NEXT:    %3 = graph.weight @b$broadcast : tensor<2x64xf32>
// CHECK-NEXT:    func.return %0, %2, %3
func.func @broadcasts() -> (tensor<32x64xf32>, tensor<32x64xf32>, tensor<2x64xf32>) {
  %b = graph.weight @b : tensor<64xf32>
  %0 = graph.broadcast %b : (tensor<64xf32>) -> tensor<32x64xf32>
  %1 = graph.constant 2.0 : tensor<32x64xf32>
  %2 = graph.binary mul %b, %1 : (tensor<64xf32>, tensor<32x64xf32>) -> tensor<32x64xf32>
  %3 = graph.broadcast %b : (tensor<64xf32>) -> tensor<2x64xf32>
  func.return %0, %2, %3 : tensor<32x64xf32>, tensor<32x64xf32>, tensor<2x64xf32>
}

// Recipes that are there already are used again, and dropped when nothing refers to them any more.
// CHECK-LABEL: func.func @existing
// CHECK-NEXT:    %0 = graph.weight @old : tensor<4xf32>
// CHECK-NEXT:    func.return %0
// CHECK-NEXT:  }
// CHECK-NEXT:  graph.derived_weight @old
// CHECK-NOT:   @unused
func.func @existing() -> tensor<4xf32> {
  %e = graph.weight @e : tensor<4xf32>
  %0 = graph.unary exp %e : (tensor<4xf32>) -> tensor<4xf32>
  func.return %0 : tensor<4xf32>
}
graph.derived_weight @old : tensor<4xf32> {
  %e = graph.weight @e : tensor<4xf32>
  %r = graph.unary exp %e : (tensor<4xf32>) -> tensor<4xf32>
  graph.yield %r : tensor<4xf32>
}
graph.derived_weight @unused : tensor<4xf32> {
  %e = graph.weight @old : tensor<4xf32>
  graph.yield %e : tensor<4xf32>
}

// A name that is taken gets a number; constants alone give one too.
// CHECK-LABEL: func.func @names
// CHECK-NEXT:    %0 = graph.weight @v$neg.2 : tensor<4xf32>
// CHECK-NEXT:    %1 = graph.weight @v$neg : tensor<4xf32>
// CHECK-NEXT:    %2 = graph.weight @constant$add : tensor<2xf32>
func.func @names() -> (tensor<4xf32>, tensor<4xf32>, tensor<2xf32>) {
  %v = graph.weight @v : tensor<4xf32>
  %0 = graph.unary neg %v : (tensor<4xf32>) -> tensor<4xf32>
  %1 = graph.weight @v$neg : tensor<4xf32>
  %a = graph.constant dense [1.0, 2.0] : tensor<2xf32>
  %2 = graph.binary add %a, %a : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  func.return %0, %1, %2 : tensor<4xf32>, tensor<4xf32>, tensor<2xf32>
}

// The recipes.
// CHECK:         graph.derived_weight @w$bf16 : tensor<4x8xbf16> {
// CHECK-NEXT:      %w = graph.weight @w : tensor<8x4xf32>
// CHECK-NEXT:      %f = graph.weight @f : tensor<8x1xf32>
// CHECK-NEXT:      %0 = graph.binary mul %w, %f
// CHECK-NEXT:      %1 = graph.transpose %0 permutation [1, 0]
// CHECK-NEXT:      %2 = graph.cast %1
// CHECK-NEXT:      graph.yield %2 : tensor<4x8xbf16>
// CHECK-NEXT:    }
// CHECK-NEXT:    graph.derived_weight @w$mul

// RUN: neuron-opt %s -p graph-fold-weights --print-debuginfo | filecheck %s --check-prefix=LOC
// LOC: graph.weight @l$sqrt : tensor<4xf32> loc("root node")
// LOC: graph.unary neg {{.*}} loc("inner node")
// LOC-NEXT: graph.unary sqrt {{.*}} loc("root node")
func.func @located() -> tensor<4xf32> {
  %l = graph.weight @l : tensor<4xf32>
  %0 = graph.unary neg %l : (tensor<4xf32>) -> tensor<4xf32> loc("inner node")
  %1 = graph.unary sqrt %0 : (tensor<4xf32>) -> tensor<4xf32> loc("root node")
  func.return %1 : tensor<4xf32>
}
