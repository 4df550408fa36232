// RUN: neuron-opt %s -p graph-partition --split-input-file | filecheck %s

// A chain through the host: three segments. The weight is repeated where it is used, the report says where and why.
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">, neuron.partition = [
// CHECK-SAME:   "first|graph.binary|core|neuron_0|supported",
// CHECK-SAME:   "top|TopK|host|host_1|cores have no operator TopK",
// CHECK-SAME:   "last|graph.binary|core|neuron_2|supported"]} {
// CHECK-NEXT:   func.func @main(%x: tensor<8xf32>) -> (tensor<4xf32>, tensor<4xi64>) {
// CHECK-NEXT:     %0 = neuron.launch @neuron_0(%x) on core : (tensor<8xf32>) -> tensor<8xf32>
// CHECK-NEXT:     %values, %indices = neuron.launch @host_1(%0) on host : (tensor<8xf32>) -> (tensor<4xf32>, tensor<4xi64>)
// CHECK-NEXT:     %1 = neuron.launch @neuron_2(%values) on core : (tensor<4xf32>) -> tensor<4xf32>
// CHECK-NEXT:     func.return %1, %indices
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<8xf32>) -> tensor<8xf32> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w
// CHECK-NEXT:     %0 = graph.binary add %x, %w
// CHECK-NEXT:     func.return %0
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @host_1(%0: tensor<8xf32>) -> (tensor<4xf32>, tensor<4xi64>) attributes {neuron.executor = #neuron.executor<host>} {
// CHECK-NEXT:     %k = graph.constant 4 : tensor<1xi64>
// CHECK-NEXT:     %values, %indices = graph.onnx_node "TopK"(%0, %k)
// CHECK-NEXT:     func.return %values, %indices
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @neuron_2(%values: tensor<4xf32>) -> tensor<4xf32>
// CHECK-NEXT:     %v = graph.weight @v
// CHECK-NEXT:     %0 = graph.binary add %values, %v
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<8xf32>) -> (tensor<4xf32>, tensor<4xi64>) {
    %w = graph.weight @w : tensor<8xf32>
    %v = graph.weight @v : tensor<4xf32>
    %k = graph.constant 4 : tensor<1xi64>
    %0 = graph.binary add %x, %w : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32> loc("first")
    %values, %indices = graph.onnx_node "TopK"(%0, %k) domain "" opset 13 node "" : (tensor<8xf32>, tensor<1xi64>) -> (tensor<4xf32>, tensor<4xi64>) loc("top")
    %1 = graph.binary add %values, %v : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> loc("last")
    func.return %1, %indices : tensor<4xf32>, tensor<4xi64>
  }
}

// -----

// Two towers, one of which begins on the host: two segments are enough when the host begins.
// CHECK:       func.func @main
// CHECK-NEXT:    %h = neuron.launch @host_0(%y) on host
// CHECK-NEXT:    %0, %1 = neuron.launch @neuron_1(%x, %h) on core
// CHECK-NEXT:    func.return %0, %1
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<4xf32>, %y: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
    %0 = graph.unary exp %x : (tensor<4xf32>) -> tensor<4xf32>
    %h = graph.onnx_node "Foo"(%y) domain "" opset 1 node "" : (tensor<4xf32>) -> tensor<4xf32>
    %1 = graph.unary exp %h : (tensor<4xf32>) -> tensor<4xf32>
    func.return %0, %1 : tensor<4xf32>, tensor<4xf32>
  }
}

// -----

// What only moves data for the host stays there: before a node that the host runs, and behind it.
// CHECK:       "|graph.reshape|host|host_0|only moves data for the host"
// CHECK-SAME:  "|graph.transpose|host|host_0|only moves data for the host"
// CHECK:       func.func @main
// CHECK-NEXT:    %0 = neuron.launch @host_0(%x) on host
// CHECK-NEXT:    func.return %0
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<2x3xf32>) -> tensor<3x2xf32> {
    %0 = graph.reshape %x : (tensor<2x3xf32>) -> tensor<6xf32>
    %h = graph.onnx_node "Foo"(%0) domain "" opset 1 node "" : (tensor<6xf32>) -> tensor<2x3xf32>
    %1 = graph.transpose %h permutation [1, 0] : (tensor<2x3xf32>) -> tensor<3x2xf32>
    func.return %1 : tensor<3x2xf32>
  }
}

// -----

// Why something is on the host: its type, its shape, a number that a core cannot hold.
// CHECK:      "f64|graph.unary|host|host_0|cores have no element type f64"
// CHECK-SAME: "empty|graph.unary|host|host_0|a tensor of 0x2 has no elements"
// CHECK-SAME: "number|graph.binary|host|host_0|the constant 4294967296 does not fit the 32-bit integers of a core"
// CHECK-SAME: "compared|graph.compare|core|neuron_1|supported"
// CHECK-SAME: "float8|graph.matmul|host|host_0|cores have no element type f8e5m2"
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%a: tensor<2xf64>, %b: tensor<0x2xf32>, %c: tensor<2xi64>, %e: tensor<2x2xf8E5M2>) -> (tensor<2xf64>, tensor<0x2xf32>, tensor<2xi64>, tensor<2xi1>, tensor<2x2xf8E5M2>) {
    %large = graph.constant 4294967296 : tensor<i64>
    %0 = graph.unary exp %a : (tensor<2xf64>) -> tensor<2xf64> loc("f64")
    %1 = graph.unary exp %b : (tensor<0x2xf32>) -> tensor<0x2xf32> loc("empty")
    %2 = graph.binary add %c, %large : (tensor<2xi64>, tensor<i64>) -> tensor<2xi64> loc("number")
    %3 = graph.compare lt %c, %large : (tensor<2xi64>, tensor<i64>) -> tensor<2xi1> loc("compared")
    %5 = graph.matmul %e, %e : (tensor<2x2xf8E5M2>, tensor<2x2xf8E5M2>) -> tensor<2x2xf8E5M2> loc("float8")
    func.return %0, %1, %2, %3, %5 : tensor<2xf64>, tensor<0x2xf32>, tensor<2xi64>, tensor<2xi1>, tensor<2x2xf8E5M2>
  }
}

// -----

// 64-bit integers of which nothing is known stay with the host: a weight that is returned as it is comes from there,
// an argument that is returned needs nobody.
// CHECK:       builtin.module attributes {neuron.target = #neuron.target<"inf1">, neuron.partition = []} {
// CHECK-NEXT:  func.func @main
// CHECK-NEXT:    %w = neuron.launch @host_0() on host : () -> tensor<2xi64>
// CHECK-NEXT:    func.return %w, %x
// CHECK:       func.func @host_0() -> tensor<2xi64>
// CHECK-NEXT:    %w = graph.weight @w
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<2xi64>) -> (tensor<2xi64>, tensor<2xi64>) {
    %w = graph.weight @w : tensor<2xi64>
    func.return %w, %x : tensor<2xi64>, tensor<2xi64>
  }
}

// -----

// A core copies other weights, arguments, constants, and a result that stands twice.
// CHECK:       func.func @main
// CHECK-NEXT:    %e, %w, %x_1, %c, %e_1 = neuron.launch @neuron_0(%x) on core
// CHECK-NEXT:    func.return %w, %x_1, %c, %e, %e_1
// CHECK:       func.func @neuron_0
// CHECK:         graph.reshape %w : (tensor<2xf32>) -> tensor<2xf32>
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>, tensor<2xi64>, tensor<2xf32>, tensor<2xf32>) {
    %w = graph.weight @w : tensor<2xf32>
    %c = graph.constant dense [1, 2] : tensor<2xi64>
    %e = graph.unary exp %x : (tensor<2xf32>) -> tensor<2xf32>
    func.return %w, %x, %c, %e, %e : tensor<2xf32>, tensor<2xf32>, tensor<2xi64>, tensor<2xf32>, tensor<2xf32>
  }
}

// -----

// Locations stay on operators, and a launch has that of its segment's first.
// RUN: neuron-opt %s -p graph-partition --split-input-file --print-debuginfo | filecheck %s --check-prefix=LOC
// LOC: neuron.launch @neuron_0(%located) {{.*}} loc("one")
// LOC: graph.unary exp {{.*}} loc("one")
// LOC: graph.unary neg {{.*}} loc("two")
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%located: tensor<2xf32>) -> tensor<2xf32> {
    %0 = graph.unary exp %located : (tensor<2xf32>) -> tensor<2xf32> loc("one")
    %1 = graph.unary neg %0 : (tensor<2xf32>) -> tensor<2xf32> loc("two")
    func.return %1 : tensor<2xf32>
  }
}

// -----

// By time, a few exponentials behind the host are not worth a launch: they stay there, with both estimates.
// RUN: neuron-opt %s -p graph-partition --split-input-file | filecheck %s --check-prefix=TIME
// TIME:      "product|graph.matmul|core|neuron_0|supported"
// TIME-SAME: "foo|Foo|host|host_1|cores have no operator Foo"
// TIME-SAME: "tail|graph.unary|host|host_1|too little work for a core: with transfers
// TIME-NOT:  @neuron_2

// Names decide otherwise: of a node, or of an operator.
// RUN: neuron-opt %s -p 'graph-partition{force-core="tail" force-host=matmul}' --split-input-file | filecheck %s --check-prefix=FORCED
// FORCED:      "product|graph.matmul|host|host_0|forced to the host"
// FORCED-SAME: "foo|Foo|host|host_0|cores have no operator Foo"
// FORCED-SAME: "tail|graph.unary|core|neuron_1|forced to the core"

// A segment of one operator is smaller than two.
// RUN: neuron-opt %s -p 'graph-partition{minimum-segment-size=2 by-time=false}' --split-input-file | filecheck %s --check-prefix=SMALL
// SMALL:      "product|graph.matmul|host|host_0|in a segment of fewer than 2 operators"
// SMALL-SAME: "tail|graph.unary|host|host_0|in a segment of fewer than 2 operators"
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
    %w = graph.weight @w : tensor<64x64xf32>
    %0 = graph.matmul %x, %w : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32> loc("product")
    %1 = graph.onnx_node "Foo"(%0) domain "" opset 1 node "" : (tensor<64x64xf32>) -> tensor<64x64xf32> loc("foo")
    %2 = graph.unary exp %1 : (tensor<64x64xf32>) -> tensor<64x64xf32> loc("tail")
    func.return %2 : tensor<64x64xf32>
  }
}

// -----

// An argument that is returned under its own name is no other tensor than the argument.
// CHECK:       func.func @main(%x: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>)
// CHECK-NEXT:    %x_1 = neuron.launch @neuron_0(%x) on core
// CHECK-NEXT:    func.return %x, %x_1
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>) attributes {neuron.input_names = ["x"], neuron.output_names = ["x", "y"]} {
    func.return %x, %x : tensor<2xf32>, tensor<2xf32>
  }
}
