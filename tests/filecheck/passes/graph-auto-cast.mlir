// RUN: neuron-opt %s -p graph-auto-cast | filecheck %s
// RUN: neuron-opt %s -p "graph-auto-cast{mode=all type=f16}" | filecheck %s --check-prefix=ALL
// RUN: neuron-opt %s -p "graph-auto-cast{mode=none}" | filecheck %s --check-prefix=NONE
// RUN: neuron-opt %s -p "graph-auto-cast{mode=all type=tf32}" | filecheck %s --check-prefix=TF32

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // What is multiplied is cast, once for each value; the f32 sum, a bias and what is not multiplied stay.
  // CHECK-LABEL: func.func @layers
  // CHECK-SAME:    attributes {neuron.casts = ["conv node|f32|bf16", "matmul node|f32|bf16", "graph.matmul|f32|bf16"], neuron.products = ["conv node|bf16|", "matmul node|bf16|", "graph.matmul|bf16|"]} {
  // CHECK-NEXT:    %w = graph.weight @w
  // CHECK-NEXT:    %b = graph.weight @b
  // CHECK-NEXT:    %x_1 = graph.cast %x : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xbf16>
  // CHECK-NEXT:    %w_1 = graph.cast %w : (tensor<8x3x1x1xf32>) -> tensor<8x3x1x1xbf16>
  // CHECK-NEXT:    %0 = graph.conv %x_1, %w_1, %b {{.*}} : (tensor<1x3x4x4xbf16>, tensor<8x3x1x1xbf16>, tensor<8xf32>) -> tensor<1x8x4x4xf32>
  // CHECK-NEXT:    %1 = graph.unary relu %0 : (tensor<1x8x4x4xf32>) -> tensor<1x8x4x4xf32>
  // CHECK-NEXT:    %2 = graph.cast %1
  // CHECK-NEXT:    %3 = graph.matmul %2, %2 transpose_b : (tensor<1x8x4x4xbf16>, tensor<1x8x4x4xbf16>) -> tensor<1x8x4x4xf32>
  // CHECK-NEXT:    %4 = graph.cast %3
  // CHECK-NEXT:    %5 = graph.matmul %4, %2 :
  // CHECK-NEXT:    func.return %5

  // Everything is f16: the argument is cast at the entry, the result at the exit; 1e9 becomes the largest f16.
  // ALL-LABEL: func.func @layers
  // ALL-NEXT:    %w = graph.weight @w
  // ALL-NEXT:    %b = graph.weight @b
  // ALL-NEXT:    %x_1 = graph.cast %x : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xf16>
  // ALL-NEXT:    %w_1 = graph.cast %w
  // ALL-NEXT:    %b_1 = graph.cast %b : (tensor<8xf32>) -> tensor<8xf16>
  // ALL-NEXT:    %0 = graph.conv %x_1, %w_1, %b_1 {{.*}} -> tensor<1x8x4x4xf16>
  // ALL-NEXT:    %1 = graph.unary relu %0 : (tensor<1x8x4x4xf16>) -> tensor<1x8x4x4xf16>
  // ALL-NEXT:    %2 = graph.matmul %1, %1 transpose_b : (tensor<1x8x4x4xf16>, tensor<1x8x4x4xf16>) -> tensor<1x8x4x4xf16>
  // ALL-NEXT:    %3 = graph.matmul %2, %1
  // ALL-NEXT:    %4 = graph.cast %3 : (tensor<1x8x4x4xf16>) -> tensor<1x8x4x4xf32>
  // ALL-NEXT:    func.return %4

  // The target multiplies f32, so that nothing need be cast. tf32 exists in the tensor engine only.
  // NONE-LABEL: func.func @layers
  // NONE-NOT:     graph.cast
  // NONE-LABEL: func.func @mask
  // TF32-LABEL: func.func @layers
  // TF32:         graph.cast %x : (tensor<1x3x4x4xf32>) -> tensor<1x3x4x4xtf32>
  // TF32:         graph.conv {{.*}} -> tensor<1x8x4x4xf32>
  func.func @layers(%x: tensor<1x3x4x4xf32>) -> tensor<1x8x4x4xf32> {
    %w = graph.weight @w : tensor<8x3x1x1xf32>
    %b = graph.weight @b : tensor<8xf32>
    %0 = graph.conv %x, %w, %b strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x3x4x4xf32>, tensor<8x3x1x1xf32>, tensor<8xf32>) -> tensor<1x8x4x4xf32> loc("conv node")
    %1 = graph.unary relu %0 : (tensor<1x8x4x4xf32>) -> tensor<1x8x4x4xf32>
    %2 = graph.matmul %1, %1 transpose_b : (tensor<1x8x4x4xf32>, tensor<1x8x4x4xf32>) -> tensor<1x8x4x4xf32> loc("matmul node")
    %3 = graph.matmul %2, %1 : (tensor<1x8x4x4xf32>, tensor<1x8x4x4xf32>) -> tensor<1x8x4x4xf32>
    func.return %3 : tensor<1x8x4x4xf32>
  }

  // Integers stay, a mask's large constant must not become infinite, a node of the host gets and gives f32.
  // ALL-LABEL: func.func @mask
  // ALL-NEXT:    %large = graph.constant -1.0e+09 : tensor<f32>
  // ALL-NEXT:    %0 = graph.cast %mask : (tensor<4xi64>) -> tensor<4xf16>
  // ALL-NEXT:    %large_1 = graph.constant -65504.0 : tensor<f16>
  // ALL-NEXT:    %1 = graph.binary mul %0, %large_1 : (tensor<4xf16>, tensor<f16>) -> tensor<4xf16>
  // ALL-NEXT:    %2 = graph.cast %1 : (tensor<4xf16>) -> tensor<4xf32>
  // ALL-NEXT:    %3 = graph.onnx_node "Foo"(%2) {{.*}} : (tensor<4xf32>) -> tensor<4xf32>
  // ALL-NEXT:    %4 = graph.cast %3 : (tensor<4xf32>) -> tensor<4xf16>
  // ALL-NEXT:    %5 = graph.unary exp %4
  func.func @mask(%mask: tensor<4xi64>) -> tensor<4xf32> {
    %large = graph.constant -1.0e9 : tensor<f32>
    %0 = graph.cast %mask : (tensor<4xi64>) -> tensor<4xf32>
    %1 = graph.binary mul %0, %large : (tensor<4xf32>, tensor<f32>) -> tensor<4xf32>
    %2 = graph.onnx_node "Foo"(%1) domain "" opset 1 node "" : (tensor<4xf32>) -> tensor<4xf32>
    %3 = graph.unary exp %2 : (tensor<4xf32>) -> tensor<4xf32>
    func.return %3 : tensor<4xf32>
  }

  // Small integers are multiplied in bf16 in every mode, which loses nothing: it is no cast that the report lists. What
  // decides an integer, from the layer on, is computed in f32 in every mode.
  // NONE-LABEL: func.func @integers
  // NONE-SAME:    attributes {neuron.products = ["product|bf16|260100"]} {
  // NONE:         %4 = graph.matmul %2, %3 : (tensor<4x4xbf16>, tensor<4x4xbf16>) -> tensor<4x4xf32>
  // ALL-LABEL:  func.func @integers
  // ALL-SAME:     attributes {neuron.casts = ["graph.cast|f32|f16", "graph.binary|f32|f16", "graph.unary|f32|f16"], neuron.products = ["product|f16|260100"]} {
  // ALL:          %0 = graph.cast %q : (tensor<4x4xui8>) -> tensor<4x4xf16>
  // ALL:          graph.matmul {{.*}} : (tensor<4x4xf16>, tensor<4x4xf16>) -> tensor<4x4xf32>
  // ALL-NEXT:     graph.binary mul {{.*}} -> tensor<4x4xf32>
  // ALL-NEXT:     graph.unary round {{.*}} -> tensor<4x4xf32>
  // ALL:          graph.cast {{.*}} : (tensor<4x4xf32>) -> tensor<4x4xui8>
  // ALL:          graph.unary exp {{.*}} -> tensor<4x4xf16>
  func.func @integers(%q: tensor<4x4xui8>, %s: tensor<f32>) -> (tensor<4x4xui8>, tensor<4x4xf32>) {
    %0 = graph.cast %q : (tensor<4x4xui8>) -> tensor<4x4xf32>
    %1 = graph.binary max %0, %0 : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
    %2 = graph.matmul %0, %1 : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32> loc("product")
    %3 = graph.binary mul %2, %s : (tensor<4x4xf32>, tensor<f32>) -> tensor<4x4xf32>
    %4 = graph.unary round %3 : (tensor<4x4xf32>) -> tensor<4x4xf32>
    %5 = graph.cast %4 : (tensor<4x4xf32>) -> tensor<4x4xui8>
    %6 = graph.unary exp %3 : (tensor<4x4xf32>) -> tensor<4x4xf32>
    func.return %5, %6 : tensor<4x4xui8>, tensor<4x4xf32>
  }

  // A recurrent layer casts its state itself, which stays f32; its gates are sums already. With mode=all its results are
  // f16 too.
  // CHECK-LABEL: func.func @recurrent
  // CHECK-NEXT:    %r_1 = graph.cast %r
  // CHECK-NEXT:    graph.recurrent rnn %g, %r_1 {{.*}} : (tensor<1x2x5x3xf32>, tensor<1x2x2xbf16>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>)
  // ALL-LABEL:   func.func @recurrent
  // ALL:           graph.recurrent rnn {{.*}} : (tensor<1x2x5x3xf16>, tensor<1x2x2xf16>) -> (tensor<1x2x5x3xf16>, tensor<1x2x3xf16>)
  func.func @recurrent(%g: tensor<1x2x5x3xf32>, %r: tensor<1x2x2xf32>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>) {
    %y, %h = graph.recurrent rnn %g, %r reversed [0] functions [tanh] : (tensor<1x2x5x3xf32>, tensor<1x2x2xf32>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>)
    func.return %y, %h : tensor<1x2x5x3xf32>, tensor<1x2x3xf32>
  }

  // Functions of the host are left alone.
  // CHECK-LABEL: func.func @host_0
  // CHECK-NEXT:    graph.matmul %a, %a : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  // ALL-LABEL:  func.func @host_0
  // ALL-NEXT:     graph.matmul %a, %a : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
  func.func @host_0(%a: tensor<2x2xf32>) -> tensor<2x2xf32> attributes {neuron.executor = #neuron.executor<host>} {
    %0 = graph.matmul %a, %a : (tensor<2x2xf32>, tensor<2x2xf32>) -> tensor<2x2xf32>
    func.return %0 : tensor<2x2xf32>
  }
}
