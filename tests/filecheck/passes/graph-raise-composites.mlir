// RUN: neuron-opt %s -p 'graph-raise-composites' | filecheck %s

// Formulas as exporters write them become operators.
func.func @main(%x: tensor<2x4x8xf32>, %scale: tensor<8xf32>) -> (tensor<2x4x8xf32>, tensor<2x4x8xf32>) {
  %two = graph.constant 2.0 : tensor<f32>
  %epsilon = graph.constant 1.0e-05 : tensor<f32>
  %mean = graph.reduce mean %x axes [2] keep_dims : (tensor<2x4x8xf32>) -> tensor<2x4x1xf32>
  %centred = graph.binary sub %x, %mean : (tensor<2x4x8xf32>, tensor<2x4x1xf32>) -> tensor<2x4x8xf32>
  %squares = graph.binary pow %centred, %two : (tensor<2x4x8xf32>, tensor<f32>) -> tensor<2x4x8xf32>
  %variance = graph.reduce mean %squares axes [2] keep_dims : (tensor<2x4x8xf32>) -> tensor<2x4x1xf32>
  %sum = graph.binary add %variance, %epsilon : (tensor<2x4x1xf32>, tensor<f32>) -> tensor<2x4x1xf32>
  %root = graph.unary sqrt %sum : (tensor<2x4x1xf32>) -> tensor<2x4x1xf32>
  %normal = graph.binary div %centred, %root : (tensor<2x4x8xf32>, tensor<2x4x1xf32>) -> tensor<2x4x8xf32>
  %scaled = graph.binary mul %normal, %scale : (tensor<2x4x8xf32>, tensor<8xf32>) -> tensor<2x4x8xf32>
  %gate = graph.unary sigmoid %scaled : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  %silu = graph.binary mul %scaled, %gate : (tensor<2x4x8xf32>, tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  func.return %scaled, %silu : tensor<2x4x8xf32>, tensor<2x4x8xf32>
}

// Heads lie side by side in what the projections give: the transposes of the formula cancel.
func.func @attention(%q: tensor<2x16x24xf32>, %k: tensor<2x16x24xf32>, %v: tensor<2x16x24xf32>,
                     %mask: tensor<2x1x1x16xf32>) -> tensor<2x16x24xf32> {
  %eighth = graph.constant 0.125 : tensor<f32>
  %q4 = graph.reshape %q : (tensor<2x16x24xf32>) -> tensor<2x16x3x8xf32>
  %k4 = graph.reshape %k : (tensor<2x16x24xf32>) -> tensor<2x16x3x8xf32>
  %v4 = graph.reshape %v : (tensor<2x16x24xf32>) -> tensor<2x16x3x8xf32>
  %qh = graph.transpose %q4 permutation [0, 2, 1, 3] : (tensor<2x16x3x8xf32>) -> tensor<2x3x16x8xf32>
  %kt = graph.transpose %k4 permutation [0, 2, 3, 1] : (tensor<2x16x3x8xf32>) -> tensor<2x3x8x16xf32>
  %vh = graph.transpose %v4 permutation [0, 2, 1, 3] : (tensor<2x16x3x8xf32>) -> tensor<2x3x16x8xf32>
  %products = graph.matmul %qh, %kt : (tensor<2x3x16x8xf32>, tensor<2x3x8x16xf32>) -> tensor<2x3x16x16xf32>
  %scores = graph.binary mul %products, %eighth : (tensor<2x3x16x16xf32>, tensor<f32>) -> tensor<2x3x16x16xf32>
  %masked = graph.binary add %scores, %mask : (tensor<2x3x16x16xf32>, tensor<2x1x1x16xf32>) -> tensor<2x3x16x16xf32>
  %p = graph.softmax %masked axis 3 : (tensor<2x3x16x16xf32>) -> tensor<2x3x16x16xf32>
  %context = graph.matmul %p, %vh : (tensor<2x3x16x16xf32>, tensor<2x3x16x8xf32>) -> tensor<2x3x16x8xf32>
  %together = graph.transpose %context permutation [0, 2, 1, 3] : (tensor<2x3x16x8xf32>) -> tensor<2x16x3x8xf32>
  %y = graph.reshape %together : (tensor<2x16x3x8xf32>) -> tensor<2x16x24xf32>
  func.return %y : tensor<2x16x24xf32>
}

// CHECK:      builtin.module {
// CHECK-NEXT:   func.func @main(%x: tensor<2x4x8xf32>, %scale: tensor<8xf32>) -> (tensor<2x4x8xf32>, tensor<2x4x8xf32>) {
// CHECK-NEXT:     %scaled = graph.layer_norm %x scale %scale : tensor<8xf32> axis 2 epsilon 1.0e-05 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
// CHECK-NEXT:     %silu = graph.unary silu %scaled : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
// CHECK-NEXT:     func.return %scaled, %silu : tensor<2x4x8xf32>, tensor<2x4x8xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @attention(%q: tensor<2x16x24xf32>, %k: tensor<2x16x24xf32>, %v: tensor<2x16x24xf32>, %mask: tensor<2x1x1x16xf32>) -> tensor<2x16x24xf32> {
// CHECK-NEXT:     %context = graph.attention %q, %k, %v, %mask heads 3 kv_heads 3 scale 0.125 : (tensor<2x16x24xf32>, tensor<2x16x24xf32>, tensor<2x16x24xf32>, tensor<2x1x1x16xf32>) -> tensor<2x16x24xf32>
// CHECK-NEXT:     func.return %context : tensor<2x16x24xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
