// RUN: neuron-opt %s -p graph-narrow-integers --split-input-file --verify-diagnostics | filecheck %s

// The launch still carries i64, the function computes i32; what the host runs is untouched.
// CHECK-LABEL: func.func @main
// CHECK-NEXT:    %0 = neuron.launch @neuron_0(%i) on core : (tensor<4xi64>) -> tensor<4xi64>
// CHECK-NEXT:    %1 = neuron.launch @host_1(%0) on host : (tensor<4xi64>) -> tensor<4xi64>
func.func @main(%i: tensor<4xi64>) -> tensor<4xi64> {
  %0 = neuron.launch @neuron_0(%i) on core : (tensor<4xi64>) -> tensor<4xi64>
  %1 = neuron.launch @host_1(%0) on host : (tensor<4xi64>) -> tensor<4xi64>
  func.return %1 : tensor<4xi64>
}
// CHECK-LABEL: func.func @neuron_0(%i: tensor<4xi32>) -> tensor<4xi32>
// CHECK-NEXT:    %c = graph.constant 7 : tensor<i32>
// CHECK-NEXT:    %d = graph.constant dense [1, 2, 3, -4] : tensor<4xi32>
// CHECK-NEXT:    %w = graph.weight @w : tensor<4xi64>
// CHECK-NEXT:    %w_1 = graph.cast %w : (tensor<4xi64>) -> tensor<4xi32>
// CHECK-NEXT:    %0 = graph.binary add %i, %c : (tensor<4xi32>, tensor<i32>) -> tensor<4xi32>
// CHECK-NEXT:    %1 = graph.binary mul %0, %d
// CHECK-NEXT:    %2 = graph.gather %1, %w_1 axis 0 : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi32>
// CHECK-NEXT:    %3 = graph.cast %2 : (tensor<4xi32>) -> tensor<4xf32>
// CHECK-NEXT:    %4 = graph.cast %3 : (tensor<4xf32>) -> tensor<4xi32>
// CHECK-NEXT:    func.return %4 : tensor<4xi32>
func.func @neuron_0(%i: tensor<4xi64>) -> tensor<4xi64> attributes {neuron.executor = #neuron.executor<core>} {
  %c = graph.constant 7 : tensor<i64>
  %d = graph.constant dense [1, 2, 3, -4] : tensor<4xi64>
  %w = graph.weight @w : tensor<4xi64>
  %0 = graph.binary add %i, %c : (tensor<4xi64>, tensor<i64>) -> tensor<4xi64>
  %1 = graph.binary mul %0, %d : (tensor<4xi64>, tensor<4xi64>) -> tensor<4xi64>
  %2 = graph.cast %1 : (tensor<4xi64>) -> tensor<4xi32>
  %3 = graph.gather %2, %w axis 0 : (tensor<4xi32>, tensor<4xi64>) -> tensor<4xi32>
  %4 = graph.cast %3 : (tensor<4xi32>) -> tensor<4xf32>
  %5 = graph.cast %4 : (tensor<4xf32>) -> tensor<4xi64>
  func.return %5 : tensor<4xi64>
}
// CHECK-LABEL: func.func @host_1(%i: tensor<4xi64>) -> tensor<4xi64>
// CHECK-NEXT:    graph.binary add %i, %i : (tensor<4xi64>, tensor<4xi64>) -> tensor<4xi64>
func.func @host_1(%i: tensor<4xi64>) -> tensor<4xi64> attributes {neuron.executor = #neuron.executor<host>} {
  %0 = graph.binary add %i, %i : (tensor<4xi64>, tensor<4xi64>) -> tensor<4xi64>
  func.return %0 : tensor<4xi64>
}

// -----

// A number beyond 32 bits that is only compared with becomes the nearest that fits, and says what it was.
// CHECK:      %large = graph.constant 2147483647 {neuron.saturated = 9223372036854775807 : i64} : tensor<i32>
// CHECK-NEXT: %both = graph.constant dense [-2147483648, 5] {neuron.saturated = -4294967296 : i64} : tensor<2xi32>
func.func @neuron_0(%i: tensor<2xi64>) -> (tensor<2xi1>, tensor<2xi64>) attributes {neuron.executor = #neuron.executor<core>} {
  %large = graph.constant 9223372036854775807 : tensor<i64>
  %both = graph.constant dense [-4294967296, 5] : tensor<2xi64>
  %0 = graph.compare lt %i, %large : (tensor<2xi64>, tensor<i64>) -> tensor<2xi1>
  %1 = graph.binary max %i, %both : (tensor<2xi64>, tensor<2xi64>) -> tensor<2xi64>
  func.return %0, %1 : tensor<2xi1>, tensor<2xi64>
}

// -----

// Inside groups of operators too.
// CHECK:      graph.fused (%a = %i) : (tensor<2xi32>) -> tensor<2xi32> {
// CHECK-NEXT:   graph.binary add %a, %a : (tensor<2xi32>, tensor<2xi32>) -> tensor<2xi32>
func.func @neuron_0(%i: tensor<2xi64>) -> tensor<2xi64> attributes {neuron.executor = #neuron.executor<core>} {
  %0 = graph.fused (%a = %i) : (tensor<2xi64>) -> tensor<2xi64> {
    %1 = graph.binary add %a, %a : (tensor<2xi64>, tensor<2xi64>) -> tensor<2xi64>
    graph.yield %1 : tensor<2xi64>
  }
  func.return %0 : tensor<2xi64>
}

// -----

// Where such a number would change a result, the pass refuses.
func.func @neuron_0(%i: tensor<2xi64>) -> tensor<2xi64> attributes {neuron.executor = #neuron.executor<core>} {
  %large = graph.constant 4294967296 : tensor<i64>
  // expected-error@below {{error[NX-PASS-002]: node 'sum': graph-narrow-integers: graph.binary computes with a constant that does not fit 32 bits}}
  %0 = graph.binary add %i, %large : (tensor<2xi64>, tensor<i64>) -> tensor<2xi64> loc("sum")
  func.return %0 : tensor<2xi64>
}

// -----

// A launch converts between the program's and the core's element types, but not between shapes or other types.
func.func @main(%i: tensor<4xi64>) {
  // expected-error@below {{'neuron.launch' passes (tensor<4xi64>) to @f, which takes (tensor<2xi32>)}}
  neuron.launch @f(%i) on core : (tensor<4xi64>) -> ()
  func.return
}
func.func private @f(tensor<2xi32>)

// -----

func.func @main(%i: tensor<4xf32>) {
  // expected-error@below {{'neuron.launch' passes (tensor<4xf32>) to @f, which takes (tensor<4xi32>)}}
  neuron.launch @f(%i) on core : (tensor<4xf32>) -> ()
  func.return
}
func.func private @f(tensor<4xi32>)

// -----

// A function on buffers takes one for each operand and each result, with as many elements.
func.func @main(%i: tensor<4xi1>) {
  %0 = neuron.launch @g(%i) on core : (tensor<4xi1>) -> tensor<i64>
  // expected-error@below {{'neuron.launch' passes (tensor<4xi1>, tensor<i64>) to @f, which takes (memref<4xui8>, memref<2xi32>)}}
  %1 = neuron.launch @f(%i) on core : (tensor<4xi1>) -> tensor<i64>
  func.return
}
func.func private @f(memref<4xui8>, memref<2xi32>)
func.func private @g(memref<4xui8>, memref<1xi32>)
