// RUN: neuron-opt %s -p graph-canonicalize | filecheck %s

// Reshapes follow each other, and one gives its operand's own shape back.
// CHECK-LABEL: func.func @reshapes
// CHECK-NEXT:    func.return %x
func.func @reshapes(%x: tensor<2x6xf32>) -> tensor<2x6xf32> {
  %0 = graph.reshape %x : (tensor<2x6xf32>) -> tensor<12xf32>
  %1 = graph.reshape %0 : (tensor<12xf32>) -> tensor<2x6xf32>
  func.return %1 : tensor<2x6xf32>
}

// Transposes are one transpose by both permutations; what moves only single elements is a reshape.
// CHECK-LABEL: func.func @transposes
// CHECK-NEXT:    %0 = graph.transpose %x permutation [2, 0, 1] : (tensor<2x3x4xf32>) -> tensor<4x2x3xf32>
// CHECK-NEXT:    %1 = graph.reshape %y : (tensor<1x5x1x4xf32>) -> tensor<5x4x1x1xf32>
// CHECK-NEXT:    func.return %0, %1
func.func @transposes(%x: tensor<2x3x4xf32>, %y: tensor<1x5x1x4xf32>) -> (tensor<4x2x3xf32>, tensor<5x4x1x1xf32>) {
  %0 = graph.transpose %x permutation [0, 2, 1] : (tensor<2x3x4xf32>) -> tensor<2x4x3xf32>
  %1 = graph.transpose %0 permutation [1, 0, 2] : (tensor<2x4x3xf32>) -> tensor<4x2x3xf32>
  %2 = graph.transpose %y permutation [1, 3, 0, 2] : (tensor<1x5x1x4xf32>) -> tensor<5x4x1x1xf32>
  func.return %1, %2 : tensor<4x2x3xf32>, tensor<5x4x1x1xf32>
}

// A matmul reads its operands either way; a transpose that moves other dimensions stays.
// CHECK-LABEL: func.func @matmul
// CHECK-NEXT:    %ko = graph.transpose %k permutation [1, 2, 0]
// CHECK-NEXT:    %ks = graph.slice %ko
// CHECK-NEXT:    graph.matmul %q, %k transpose_a transpose_b :
// CHECK-NEXT:    graph.matmul %q, %ks transpose_a :
func.func @matmul(%q: tensor<2x4x3xf32>, %k: tensor<2x5x4xf32>) -> (tensor<2x3x5xf32>, tensor<2x3x2xf32>) {
  %qt = graph.transpose %q permutation [0, 2, 1] : (tensor<2x4x3xf32>) -> tensor<2x3x4xf32>
  %kt = graph.transpose %k permutation [0, 2, 1] : (tensor<2x5x4xf32>) -> tensor<2x4x5xf32>
  %ko = graph.transpose %k permutation [1, 2, 0] : (tensor<2x5x4xf32>) -> tensor<5x4x2xf32>
  %ks = graph.slice %ko starts [0, 0, 0] sizes [2, 4, 2] steps [1, 1, 1] : (tensor<5x4x2xf32>) -> tensor<2x4x2xf32>
  %0 = graph.matmul %qt, %kt : (tensor<2x3x4xf32>, tensor<2x4x5xf32>) -> tensor<2x3x5xf32>
  %1 = graph.matmul %qt, %ks : (tensor<2x3x4xf32>, tensor<2x4x2xf32>) -> tensor<2x3x2xf32>
  func.return %0, %1 : tensor<2x3x5xf32>, tensor<2x3x2xf32>
}

// The f32 result of a product of narrower floats is kept.
// CHECK-LABEL: func.func @wide_sums
// CHECK-NEXT:    graph.matmul %a, %b transpose_b : (tensor<3x4xbf16>, tensor<5x4xbf16>) -> tensor<3x5xf32>
func.func @wide_sums(%a: tensor<3x4xbf16>, %b: tensor<5x4xbf16>) -> tensor<3x5xf32> {
  %0 = graph.transpose %b permutation [1, 0] : (tensor<5x4xbf16>) -> tensor<4x5xbf16>
  %1 = graph.matmul %a, %0 : (tensor<3x4xbf16>, tensor<4x5xbf16>) -> tensor<3x5xf32>
  func.return %1 : tensor<3x5xf32>
}

// Slices of slices, of everything, and of everything backwards; concat of one; pad by nothing.
// CHECK-LABEL: func.func @pieces
// CHECK-NEXT:    %0 = graph.slice %x starts [7] sizes [2] steps [-4] : (tensor<10xf32>) -> tensor<2xf32>
// CHECK-NEXT:    %1 = graph.slice %x starts [9] sizes [10] steps [-1] : (tensor<10xf32>) -> tensor<10xf32>
// CHECK-NEXT:    func.return %0, %x, %1, %x
func.func @pieces(%x: tensor<10xf32>) -> (tensor<2xf32>, tensor<10xf32>, tensor<10xf32>, tensor<10xf32>) {
  %0 = graph.slice %x starts [1] sizes [4] steps [2] : (tensor<10xf32>) -> tensor<4xf32>
  %1 = graph.slice %0 starts [3] sizes [2] steps [-2] : (tensor<4xf32>) -> tensor<2xf32>
  %2 = graph.slice %x starts [0] sizes [10] steps [1] : (tensor<10xf32>) -> tensor<10xf32>
  %3 = graph.slice %x starts [9] sizes [10] steps [-1] : (tensor<10xf32>) -> tensor<10xf32>
  %empty = graph.slice %x starts [0] sizes [0] steps [1] : (tensor<10xf32>) -> tensor<0xf32>
  %4 = graph.concat %x, %empty axis 0 : (tensor<10xf32>, tensor<0xf32>) -> tensor<10xf32>
  %5 = graph.pad constant %4 low [0] high [0] value 0.0 : (tensor<10xf32>) -> tensor<10xf32>
  func.return %1, %2, %3, %5 : tensor<2xf32>, tensor<10xf32>, tensor<10xf32>, tensor<10xf32>
}

// Neutral operands vanish; where they gave the result its shape, a broadcast does.
// CHECK-LABEL: func.func @neutral
// CHECK-NEXT:    %0 = graph.broadcast %x : (tensor<4xf32>) -> tensor<2x4xf32>
// CHECK-NEXT:    func.return %x, %0
func.func @neutral(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<2x4xf32>) {
  %one = graph.constant 1.0 : tensor<f32>
  %zero = graph.constant 0.0 : tensor<4xf32>
  %ones = graph.constant 1.0 : tensor<2x4xf32>
  %0 = graph.binary mul %one, %x : (tensor<f32>, tensor<4xf32>) -> tensor<4xf32>
  %1 = graph.binary sub %0, %zero : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %2 = graph.binary pow %1, %one : (tensor<4xf32>, tensor<f32>) -> tensor<4xf32>
  %3 = graph.binary div %2, %ones : (tensor<4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
  func.return %2, %3 : tensor<4xf32>, tensor<2x4xf32>
}

// What looks neutral and is not: 0 - x, 1 / x, and a constant that is only partly 1.
// CHECK-LABEL: func.func @not_neutral
// CHECK:         graph.binary sub
// CHECK-NEXT:    graph.binary div
// CHECK-NEXT:    graph.binary mul
func.func @not_neutral(%x: tensor<2xf32>) -> tensor<2xf32> {
  %zero = graph.constant 0.0 : tensor<f32>
  %one = graph.constant 1.0 : tensor<f32>
  %some = graph.constant dense [1.0, 2.0] : tensor<2xf32>
  %0 = graph.binary sub %zero, %x : (tensor<f32>, tensor<2xf32>) -> tensor<2xf32>
  %1 = graph.binary div %one, %0 : (tensor<f32>, tensor<2xf32>) -> tensor<2xf32>
  %2 = graph.binary mul %1, %some : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  func.return %2 : tensor<2xf32>
}

// A cast after one that keeps every value is the only one; bf16 does not hold all values of f16, so that pair stays.
// CHECK-LABEL: func.func @casts
// CHECK-NEXT:    %0 = graph.cast %y : (tensor<4xf16>) -> tensor<4xbf16>
// CHECK-NEXT:    %1 = graph.cast %0 : (tensor<4xbf16>) -> tensor<4xf32>
// CHECK-NEXT:    %2 = graph.cast %y : (tensor<4xf16>) -> tensor<4xi32>
// CHECK-NEXT:    func.return %x, %1, %2
func.func @casts(%x: tensor<4xbf16>, %y: tensor<4xf16>) -> (tensor<4xbf16>, tensor<4xf32>, tensor<4xi32>) {
  %0 = graph.cast %x : (tensor<4xbf16>) -> tensor<4xf32>
  %1 = graph.cast %0 : (tensor<4xf32>) -> tensor<4xbf16>
  %2 = graph.cast %1 : (tensor<4xbf16>) -> tensor<4xbf16>
  %3 = graph.cast %y : (tensor<4xf16>) -> tensor<4xbf16>
  %4 = graph.cast %3 : (tensor<4xbf16>) -> tensor<4xf32>
  %wide = graph.cast %y : (tensor<4xf16>) -> tensor<4xf32>
  %5 = graph.cast %wide : (tensor<4xf32>) -> tensor<4xi32>
  func.return %2, %4, %5 : tensor<4xbf16>, tensor<4xf32>, tensor<4xi32>
}

// A mask is computed before it is repeated; where another operand has the full shape it is not repeated at all.
// CHECK-LABEL: func.func @mask
// CHECK-NEXT:    %one = graph.constant 1.0 : tensor<f32>
// CHECK-NEXT:    %0 = graph.cast %mask : (tensor<1x1x8xi1>) -> tensor<1x1x8xf32>
// CHECK-NEXT:    %1 = graph.binary sub %one, %0 : (tensor<f32>, tensor<1x1x8xf32>) -> tensor<1x1x8xf32>
// CHECK-NEXT:    %2 = graph.binary add %scores, %1 : (tensor<4x8x8xf32>, tensor<1x1x8xf32>) -> tensor<4x8x8xf32>
func.func @mask(%mask: tensor<1x1x8xi1>, %scores: tensor<4x8x8xf32>) -> tensor<4x8x8xf32> {
  %one = graph.constant 1.0 : tensor<f32>
  %0 = graph.broadcast %mask : (tensor<1x1x8xi1>) -> tensor<1x8x8xi1>
  %1 = graph.cast %0 : (tensor<1x8x8xi1>) -> tensor<1x8x8xf32>
  %2 = graph.binary sub %one, %1 : (tensor<f32>, tensor<1x8x8xf32>) -> tensor<1x8x8xf32>
  %3 = graph.binary add %scores, %2 : (tensor<4x8x8xf32>, tensor<1x8x8xf32>) -> tensor<4x8x8xf32>
  func.return %3 : tensor<4x8x8xf32>
}

// A constant that is one value everywhere is that in every shape and float type.
// CHECK-LABEL: func.func @splats
// CHECK-NEXT:    %0 = graph.constant 0.33398438 : tensor<3x4xbf16>
// CHECK-NEXT:    func.return %0
func.func @splats() -> tensor<3x4xbf16> {
  %third = graph.constant 0.3333333 : tensor<1xf32>
  %0 = graph.broadcast %third : (tensor<1xf32>) -> tensor<4x3xf32>
  %1 = graph.transpose %0 permutation [1, 0] : (tensor<4x3xf32>) -> tensor<3x4xf32>
  %2 = graph.cast %1 : (tensor<3x4xf32>) -> tensor<3x4xbf16>
  func.return %2 : tensor<3x4xbf16>
}

// Reductions of single elements, a selection between equals, a double negation.
// CHECK-LABEL: func.func @rest
// CHECK-NEXT:    %0 = graph.reshape %x : (tensor<4x1xf32>) -> tensor<4xf32>
// CHECK-NEXT:    %1 = graph.reduce l2 %x axes [1] : (tensor<4x1xf32>) -> tensor<4xf32>
// CHECK-NEXT:    func.return %0, %1, %0, %c
func.func @rest(%x: tensor<4x1xf32>, %c: tensor<4xi1>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xi1>) {
  %0 = graph.reduce mean %x axes [1] : (tensor<4x1xf32>) -> tensor<4xf32>
  %1 = graph.reduce l2 %x axes [1] : (tensor<4x1xf32>) -> tensor<4xf32>
  %2 = graph.select %c, %0, %0 : (tensor<4xi1>, tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %3 = graph.clip %2 : (tensor<4xf32>) -> tensor<4xf32>
  %4 = graph.unary not %c : (tensor<4xi1>) -> tensor<4xi1>
  %5 = graph.unary not %4 : (tensor<4xi1>) -> tensor<4xi1>
  func.return %0, %1, %3, %5 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xi1>
}

// Maxima of maxima of five neighbours: every second one is enough, also for those behind; of means they are not.
// CHECK-LABEL: func.func @pools
// CHECK-NEXT:    %0 = graph.pool max %x kernel [5, 5] strides [1, 1] pads [2, 2, 2, 2] dilations [1, 1]
// CHECK-NEXT:    %1 = graph.pool max %0 kernel [3, 3] strides [1, 1] pads [2, 2, 2, 2] dilations [2, 2]
// CHECK-NEXT:    %2 = graph.pool max %1 kernel [3, 3] strides [2, 2] pads [2, 2, 2, 2] dilations [2, 2]
// CHECK-NEXT:    %3 = graph.pool max %0 kernel [2, 3] strides [1, 1] pads [1, 0, 0, 0] dilations [2, 2]
// CHECK-NEXT:    %4 = graph.pool average %x kernel [5, 5] strides [1, 1] pads [2, 2, 2, 2] dilations [1, 1]
// CHECK-NEXT:    %5 = graph.pool max %4 kernel [5, 5] strides [1, 1] pads [2, 2, 2, 2] dilations [1, 1]
func.func @pools(%x: tensor<1x2x9x7xf32>) -> (tensor<1x2x5x4xf32>, tensor<1x2x8x3xf32>, tensor<1x2x9x7xf32>) {
  %0 = graph.pool max %x kernel [5, 5] strides [1, 1] pads [2, 2, 2, 2] dilations [1, 1] : (tensor<1x2x9x7xf32>) -> tensor<1x2x9x7xf32>
  %1 = graph.pool max %0 kernel [5, 5] strides [1, 1] pads [2, 2, 2, 2] dilations [1, 1] : (tensor<1x2x9x7xf32>) -> tensor<1x2x9x7xf32>
  %2 = graph.pool max %1 kernel [5, 5] strides [2, 2] pads [2, 2, 2, 2] dilations [1, 1] : (tensor<1x2x9x7xf32>) -> tensor<1x2x5x4xf32>
  %3 = graph.pool max %0 kernel [3, 3] strides [1, 1] pads [1, 0, 0, 0] dilations [1, 2] : (tensor<1x2x9x7xf32>) -> tensor<1x2x8x3xf32>
  %4 = graph.pool average %x kernel [5, 5] strides [1, 1] pads [2, 2, 2, 2] dilations [1, 1] : (tensor<1x2x9x7xf32>) -> tensor<1x2x9x7xf32>
  %5 = graph.pool max %4 kernel [5, 5] strides [1, 1] pads [2, 2, 2, 2] dilations [1, 1] : (tensor<1x2x9x7xf32>) -> tensor<1x2x9x7xf32>
  func.return %2, %3, %5 : tensor<1x2x5x4xf32>, tensor<1x2x8x3xf32>, tensor<1x2x9x7xf32>
}

// Equal computations are done once, and what nobody uses is not done; random nodes are neither merged nor dropped.
// CHECK-LABEL: func.func @twice
// CHECK-NEXT:    %0 = graph.unary exp %x
// CHECK-NEXT:    graph.onnx_node "RandomNormal"
// CHECK-NEXT:    graph.binary add %0, %0
func.func @twice(%x: tensor<4xf32>) -> tensor<4xf32> {
  %0 = graph.unary exp %x : (tensor<4xf32>) -> tensor<4xf32>
  %unused = graph.unary neg %0 : (tensor<4xf32>) -> tensor<4xf32>
  %r = graph.onnx_node "RandomNormal"() domain "" opset 18 random node "" : () -> tensor<4xf32>
  %1 = graph.unary exp %x : (tensor<4xf32>) -> tensor<4xf32>
  %2 = graph.binary add %0, %1 : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  func.return %2 : tensor<4xf32>
}

// Locations: an operator made in place of another has that one's.
// RUN: neuron-opt %s -p graph-canonicalize --print-debuginfo | filecheck %s --check-prefix=LOC
// LOC: graph.transpose %x permutation [1, 2, 0] {{.*}} loc("second")
func.func @locations(%x: tensor<2x3x4xf32>) -> tensor<3x4x2xf32> {
  %0 = graph.transpose %x permutation [0, 2, 1] : (tensor<2x3x4xf32>) -> tensor<2x4x3xf32> loc("first")
  %1 = graph.transpose %0 permutation [2, 1, 0] : (tensor<2x4x3xf32>) -> tensor<3x4x2xf32> loc("second")
  func.return %1 : tensor<3x4x2xf32>
}
