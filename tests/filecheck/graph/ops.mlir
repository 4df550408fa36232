// RUN: neuron-opt %s | filecheck %s
// RUN: neuron-opt %s | neuron-opt | filecheck %s
// RUN: neuron-opt %s --print-op-generic | neuron-opt | filecheck %s
// RUN: neuron-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC

// A weight computed from another weight: a symbol of the module, with a body that runs when weights are laid out.
// CHECK: graph.derived_weight @w.transposed : tensor<64x3xf32> {
// CHECK-NEXT: %{{.*}} = graph.weight @w : tensor<3x64xf32>
// CHECK-NEXT: %{{.*}} = graph.transpose %{{.*}} permutation [1, 0] : (tensor<3x64xf32>) -> tensor<64x3xf32>
// CHECK-NEXT: graph.yield %{{.*}} : tensor<64x3xf32>
graph.derived_weight @w.transposed : tensor<64x3xf32> {
  %0 = graph.weight @w : tensor<3x64xf32>
  %1 = graph.transpose %0 permutation [1, 0] : (tensor<3x64xf32>) -> tensor<64x3xf32>
  graph.yield %1 : tensor<64x3xf32>
}

// Elementwise operators: parameters are printed as the shortest decimals; a prediction has elements of i1.
// CHECK-LABEL: func.func @elementwise
// GENERIC-LABEL: sym_name = "elementwise"
func.func @elementwise(%x: tensor<2x8xf32>, %row: tensor<8xf32>, %i: tensor<2x8xi64>, %p: tensor<2x8xi1>) {
  // CHECK-NEXT: %{{.*}} = graph.unary relu %x : (tensor<2x8xf32>) -> tensor<2x8xf32>
  // GENERIC: "graph.unary"(%x) <{kind = #graph<unary relu>}> : (tensor<2x8xf32>) -> tensor<2x8xf32>
  %0 = graph.unary relu %x : (tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.unary leaky_relu %x alpha 0.01 : (tensor<2x8xf32>) -> tensor<2x8xf32>
  %1 = graph.unary leaky_relu %x alpha 0.01 : (tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.unary hard_sigmoid %x alpha 0.2 beta 0.5 : (tensor<2x8xf32>) -> tensor<2x8xf32>
  %2 = graph.unary hard_sigmoid %x alpha 0.2 beta 0.5 : (tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.unary is_nan %x : (tensor<2x8xf32>) -> tensor<2x8xi1>
  %3 = graph.unary is_nan %x : (tensor<2x8xf32>) -> tensor<2x8xi1>
  // CHECK-NEXT: %{{.*}} = graph.unary not %p : (tensor<2x8xi1>) -> tensor<2x8xi1>
  %4 = graph.unary not %p : (tensor<2x8xi1>) -> tensor<2x8xi1>
  // CHECK-NEXT: %{{.*}} = graph.clip %x minimum 0.0 maximum 6.0 : (tensor<2x8xf32>) -> tensor<2x8xf32>
  %5 = graph.clip %x minimum 0 maximum 6.0 : (tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.clip %x maximum inf : (tensor<2x8xf32>) -> tensor<2x8xf32>
  %6 = graph.clip %x maximum inf : (tensor<2x8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.binary add %x, %row : (tensor<2x8xf32>, tensor<8xf32>) -> tensor<2x8xf32>
  %7 = graph.binary add %x, %row : (tensor<2x8xf32>, tensor<8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.binary prelu %x, %row : (tensor<2x8xf32>, tensor<8xf32>) -> tensor<2x8xf32>
  %8 = graph.binary prelu %x, %row : (tensor<2x8xf32>, tensor<8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.binary mod %i, %i : (tensor<2x8xi64>, tensor<2x8xi64>) -> tensor<2x8xi64>
  %9 = graph.binary mod %i, %i : (tensor<2x8xi64>, tensor<2x8xi64>) -> tensor<2x8xi64>
  // CHECK-NEXT: %{{.*}} = graph.binary and %p, %p : (tensor<2x8xi1>, tensor<2x8xi1>) -> tensor<2x8xi1>
  %10 = graph.binary and %p, %p : (tensor<2x8xi1>, tensor<2x8xi1>) -> tensor<2x8xi1>
  // CHECK-NEXT: %{{.*}} = graph.compare le %x, %row : (tensor<2x8xf32>, tensor<8xf32>) -> tensor<2x8xi1>
  %11 = graph.compare le %x, %row : (tensor<2x8xf32>, tensor<8xf32>) -> tensor<2x8xi1>
  // CHECK-NEXT: %{{.*}} = graph.select %p, %x, %row : (tensor<2x8xi1>, tensor<2x8xf32>, tensor<8xf32>) -> tensor<2x8xf32>
  %12 = graph.select %p, %x, %row : (tensor<2x8xi1>, tensor<2x8xf32>, tensor<8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.cast %x : (tensor<2x8xf32>) -> tensor<2x8xbf16>
  %13 = graph.cast %x : (tensor<2x8xf32>) -> tensor<2x8xbf16>
  func.return
}

// Recurrent layers: optional operands are named, functions have their parameters, flags are words.
// CHECK-LABEL: func.func @recurrent
// GENERIC-LABEL: sym_name = "recurrent"
func.func @recurrent(%g: tensor<2x32x5x3xf32>, %r: tensor<2x32x8xbf16>, %h: tensor<2x8x3xf32>, %p: tensor<2x24xf32>, %m: tensor<5x3xi1>, %n: tensor<1x6x5x3xf32>, %s: tensor<1x6x2xf32>, %b: tensor<1x2xf32>) {
  // CHECK-NEXT: %{{.*}}, %{{.*}}, %{{.*}} = graph.recurrent lstm %g, %r initial_h %h initial_c %h peepholes %p mask %m reversed [0, 1] functions [sigmoid, tanh, tanh, hard_sigmoid 0.2 0.5, elu 1.0, softsign] clip 3.0 input_forget : (tensor<2x32x5x3xf32>, tensor<2x32x8xbf16>, tensor<2x8x3xf32>, tensor<2x8x3xf32>, tensor<2x24xf32>, tensor<5x3xi1>) -> (tensor<2x8x5x3xf32>, tensor<2x8x3xf32>, tensor<2x8x3xf32>)
  // GENERIC: functions = [#graph.gate<sigmoid>, #graph.gate<tanh>, #graph.gate<tanh>, #graph.gate<hard_sigmoid 0.2 0.5>, #graph.gate<elu 1.0>, #graph.gate<softsign>]
  %0, %1, %2 = graph.recurrent lstm %g, %r initial_h %h initial_c %h peepholes %p mask %m reversed [0, 1] functions [sigmoid, tanh, tanh, hard_sigmoid 0.2 0.5, elu 1.0, softsign] clip 3.0 input_forget : (tensor<2x32x5x3xf32>, tensor<2x32x8xbf16>, tensor<2x8x3xf32>, tensor<2x8x3xf32>, tensor<2x24xf32>, tensor<5x3xi1>) -> (tensor<2x8x5x3xf32>, tensor<2x8x3xf32>, tensor<2x8x3xf32>)
  // CHECK-NEXT: %{{.*}}, %{{.*}} = graph.recurrent gru %n, %s recurrent_bias %b reversed [1] functions [sigmoid, tanh] linear_before_reset : (tensor<1x6x5x3xf32>, tensor<1x6x2xf32>, tensor<1x2xf32>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>)
  %3, %4 = graph.recurrent gru %n, %s recurrent_bias %b reversed [1] functions [sigmoid, tanh] linear_before_reset : (tensor<1x6x5x3xf32>, tensor<1x6x2xf32>, tensor<1x2xf32>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>)
  func.return
}

// Reductions and normalisations: kept dimensions are a flag, the operands of layer_norm are named.
// CHECK-LABEL: func.func @reductions
// GENERIC-LABEL: sym_name = "reductions"
func.func @reductions(%x: tensor<2x4x8xf32>, %c: tensor<4xf32>, %r: tensor<8xf32>) {
  // CHECK-NEXT: %{{.*}} = graph.reduce mean %x axes [1, 2] keep_dims : (tensor<2x4x8xf32>) -> tensor<2x1x1xf32>
  // GENERIC: "graph.reduce"(%x) <{kind = #graph<reduce mean>, axes = array<i64: 1, 2>, keep_dims = true}>
  %0 = graph.reduce mean %x axes [1, 2] keep_dims : (tensor<2x4x8xf32>) -> tensor<2x1x1xf32>
  // CHECK-NEXT: %{{.*}} = graph.reduce log_sum_exp %x axes [1] : (tensor<2x4x8xf32>) -> tensor<2x8xf32>
  %1 = graph.reduce log_sum_exp %x axes [1] : (tensor<2x4x8xf32>) -> tensor<2x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.softmax %x axis 2 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  %2 = graph.softmax %x axis 2 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.softmax %x axis 1 log : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  %3 = graph.softmax %x axis 1 log : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.layer_norm %x scale %r : tensor<8xf32> bias %r : tensor<8xf32> axis 2 epsilon 1.0e-05 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  %4 = graph.layer_norm %x scale %r : tensor<8xf32> bias %r : tensor<8xf32> axis 2 epsilon 1.0e-05 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.layer_norm %x bias %r : tensor<8xf32> axis 2 epsilon 1.0e-12 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  %5 = graph.layer_norm %x bias %r : tensor<8xf32> axis 2 epsilon 1.0e-12 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  // CHECK-NEXT: %{{.*}} = graph.batch_norm %x, %c, %c, %c, %c epsilon 0.001 : (tensor<2x4x8xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<2x4x8xf32>
  %6 = graph.batch_norm %x, %c, %c, %c, %c epsilon 0.001 : (tensor<2x4x8xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<2x4x8xf32>
  func.return
}

// Products and windows: pads are the begins, then the ends.
// CHECK-LABEL: func.func @linear
func.func @linear(%x: tensor<1x4x9x9xf32>, %w: tensor<8x2x3x3xf32>, %b: tensor<8xf32>, %a: tensor<5x2x3xf32>, %m: tensor<7x3xf32>) {
  // CHECK-NEXT: %{{.*}} = graph.matmul %a, %m transpose_b : (tensor<5x2x3xf32>, tensor<7x3xf32>) -> tensor<5x2x7xf32>
  %0 = graph.matmul %a, %m transpose_b : (tensor<5x2x3xf32>, tensor<7x3xf32>) -> tensor<5x2x7xf32>
  // CHECK-NEXT: %{{.*}} = graph.conv %x, %w, %b strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 2 : (tensor<1x4x9x9xf32>, tensor<8x2x3x3xf32>, tensor<8xf32>) -> tensor<1x8x5x5xf32>
  %1 = graph.conv %x, %w, %b strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 2 : (tensor<1x4x9x9xf32>, tensor<8x2x3x3xf32>, tensor<8xf32>) -> tensor<1x8x5x5xf32>
  // CHECK-NEXT: %{{.*}} = graph.conv_transpose %1, %w strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] output_padding [1, 1] groups 1 : (tensor<1x8x5x5xf32>, tensor<8x2x3x3xf32>) -> tensor<1x2x10x10xf32>
  %2 = graph.conv_transpose %1, %w strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] output_padding [1, 1] groups 1 : (tensor<1x8x5x5xf32>, tensor<8x2x3x3xf32>) -> tensor<1x2x10x10xf32>
  // CHECK-NEXT: %{{.*}} = graph.pool max %x kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<1x4x9x9xf32>) -> tensor<1x4x4x4xf32>
  %3 = graph.pool max %x kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<1x4x9x9xf32>) -> tensor<1x4x4x4xf32>
  // The result shape says that the last, partial windows count: 5 of them instead of 4.
  // CHECK: %{{.*}} = graph.pool average %x kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] count_include_pad : (tensor<1x4x9x9xf32>) -> tensor<1x4x5x5xf32>
  %4 = graph.pool average %x kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] count_include_pad : (tensor<1x4x9x9xf32>) -> tensor<1x4x5x5xf32>
  func.return
}

// Movement, of any element type.
// CHECK-LABEL: func.func @movement
func.func @movement(%x: tensor<2x3x4xui8>, %y: tensor<2x1x4xui8>, %f: tensor<3xf32>, %i: tensor<5x6xi32>) {
  // CHECK-NEXT: %{{.*}} = graph.transpose %x permutation [2, 0, 1] : (tensor<2x3x4xui8>) -> tensor<4x2x3xui8>
  %0 = graph.transpose %x permutation [2, 0, 1] : (tensor<2x3x4xui8>) -> tensor<4x2x3xui8>
  // CHECK-NEXT: %{{.*}} = graph.reshape %x : (tensor<2x3x4xui8>) -> tensor<6x1x4xui8>
  %1 = graph.reshape %x : (tensor<2x3x4xui8>) -> tensor<6x1x4xui8>
  // CHECK-NEXT: %{{.*}} = graph.broadcast %y : (tensor<2x1x4xui8>) -> tensor<5x2x3x4xui8>
  %2 = graph.broadcast %y : (tensor<2x1x4xui8>) -> tensor<5x2x3x4xui8>
  // CHECK-NEXT: %{{.*}} = graph.concat %x, %y axis 1 : (tensor<2x3x4xui8>, tensor<2x1x4xui8>) -> tensor<2x4x4xui8>
  %3 = graph.concat %x, %y axis 1 : (tensor<2x3x4xui8>, tensor<2x1x4xui8>) -> tensor<2x4x4xui8>
  // CHECK-NEXT: %{{.*}} = graph.slice %x starts [0, 2, 0] sizes [2, 3, 2] steps [1, -1, 2] : (tensor<2x3x4xui8>) -> tensor<2x3x2xui8>
  %4 = graph.slice %x starts [0, 2, 0] sizes [2, 3, 2] steps [1, -1, 2] : (tensor<2x3x4xui8>) -> tensor<2x3x2xui8>
  // CHECK-NEXT: %{{.*}} = graph.pad constant %f low [1] high [2] value -1.5 : (tensor<3xf32>) -> tensor<6xf32>
  %5 = graph.pad constant %f low [1] high [2] value -1.5 : (tensor<3xf32>) -> tensor<6xf32>
  // CHECK-NEXT: %{{.*}} = graph.pad reflect %f low [2] high [2] value 0.0 : (tensor<3xf32>) -> tensor<7xf32>
  %6 = graph.pad reflect %f low [2] high [2] value 0.0 : (tensor<3xf32>) -> tensor<7xf32>
  // CHECK-NEXT: %{{.*}} = graph.gather %x, %i axis 1 : (tensor<2x3x4xui8>, tensor<5x6xi32>) -> tensor<2x5x6x4xui8>
  %7 = graph.gather %x, %i axis 1 : (tensor<2x3x4xui8>, tensor<5x6xi32>) -> tensor<2x5x6x4xui8>
  // CHECK-NEXT: %{{.*}} = graph.scatter %x, %i, %{{.*}} axis 1 : (tensor<2x3x4xui8>, tensor<5x6xi32>, tensor<2x5x6x4xui8>) -> tensor<2x3x4xui8>
  %8 = graph.scatter %x, %i, %7 axis 1 : (tensor<2x3x4xui8>, tensor<5x6xi32>, tensor<2x5x6x4xui8>) -> tensor<2x3x4xui8>
  func.return
}

// Constants are one value for all elements, or a short list; weights are names, quoted where they must be.
// CHECK-LABEL: func.func @sources
// GENERIC-LABEL: sym_name = "sources"
func.func @sources() {
  // CHECK-NEXT: %{{.*}} = graph.constant 0.1 : tensor<4xf32>
  // GENERIC: "graph.constant"() <{value = 0.10000000149011612 : f64}> : () -> tensor<4xf32>
  %0 = graph.constant 0.1 : tensor<4xf32>
  // CHECK-NEXT: %{{.*}} = graph.constant nan : tensor<bf16>
  %1 = graph.constant nan : tensor<bf16>
  // CHECK-NEXT: %{{.*}} = graph.constant neg_inf : tensor<2x2xf16>
  %2 = graph.constant neg_inf : tensor<2x2xf16>
  // CHECK-NEXT: %{{.*}} = graph.constant true : tensor<i1>
  %3 = graph.constant true : tensor<i1>
  // CHECK-NEXT: %{{.*}} = graph.constant -9223372036854775808 : tensor<i64>
  %4 = graph.constant -9223372036854775808 : tensor<i64>
  // CHECK-NEXT: %{{.*}} = graph.constant 18446744073709551615 : tensor<ui64>
  %5 = graph.constant 18446744073709551615 : tensor<ui64>
  // CHECK-NEXT: %{{.*}} = graph.constant dense [1.5, -0.0, 1.0e-30, 3.0] : tensor<2x2xf32>
  %6 = graph.constant dense [1.5, -0.0, 1.0e-30, 3] : tensor<2x2xf32>
  // CHECK-NEXT: %{{.*}} = graph.constant dense [true, false] : tensor<2xi1>
  %7 = graph.constant dense [true, false] : tensor<2xi1>
  // CHECK-NEXT: %{{.*}} = graph.constant dense [] : tensor<0xi64>
  %8 = graph.constant dense [] : tensor<0xi64>
  // CHECK-NEXT: %{{.*}} = graph.weight @layer.0.bias : tensor<64xf32>
  %9 = graph.weight @layer.0.bias : tensor<64xf32>
  // CHECK-NEXT: %{{.*}} = graph.weight @"layer/0:bias" : tensor<64xf32>
  %10 = graph.weight @"layer/0:bias" : tensor<64xf32>
  func.return
}

// ONNX nodes as they are: types may be partly known; a random node is not pure.
// CHECK-LABEL: func.func @onnx_nodes
func.func @onnx_nodes(%x: tensor<1x8xf32>, %k: tensor<1xi64>, %s: tensor<2x!graph.opaque<"string">>) {
  // CHECK-NEXT: %{{.*}}, %{{.*}} = graph.onnx_node "TopK"(%x, %k) domain "" opset 13 node "AAAA" : (tensor<1x8xf32>, tensor<1xi64>) -> (tensor<1x?xf32>, tensor<1x?xi64>)
  %0, %1 = graph.onnx_node "TopK"(%x, %k) domain "" opset 13 node "AAAA" : (tensor<1x8xf32>, tensor<1xi64>) -> (tensor<1x?xf32>, tensor<1x?xi64>)
  // CHECK-NEXT: %{{.*}} = graph.onnx_node "Loop"(%k, %x) domain "" opset 16 captures ["x"] random node "AAAA" : (tensor<1xi64>, tensor<1x8xf32>) -> tensor<*xf32>
  %2 = graph.onnx_node "Loop"(%k, %x) domain "" opset 16 captures ["x"] random node "AAAA" : (tensor<1xi64>, tensor<1x8xf32>) -> tensor<*xf32>
  // CHECK-NEXT: %{{.*}} = graph.onnx_node "SequenceConstruct"(%s) domain "ai.other" opset 1 node "" : (tensor<2x!graph.opaque<"string">>) -> !graph.opaque<"seq(tensor(string))">
  %3 = graph.onnx_node "SequenceConstruct"(%s) domain "ai.other" opset 1 node "" : (tensor<2x!graph.opaque<"string">>) -> !graph.opaque<"seq(tensor(string))">
  func.return
}

// A kernel's operators: the body names its own arguments.
// CHECK-LABEL: func.func @fused
func.func @fused(%x: tensor<4xf32>, %y: tensor<4xf32>) -> tensor<4xf32> {
  // CHECK-NEXT: %[[F:.*]] = graph.fused (%[[A:.*]] = %x, %[[B:.*]] = %y) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> attributes {tiling = 2 : i64} {
  // CHECK-NEXT:   %[[S:.*]] = graph.binary add %[[A]], %[[B]] : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  // CHECK-NEXT:   %[[R:.*]] = graph.unary relu %[[S]] : (tensor<4xf32>) -> tensor<4xf32>
  // CHECK-NEXT:   graph.yield %[[R]] : tensor<4xf32>
  // CHECK-NEXT: }
  %0 = graph.fused (%a = %x, %b = %y) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> attributes {tiling = 2} {
    %s = graph.binary add %a, %b : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    %r = graph.unary relu %s : (tensor<4xf32>) -> tensor<4xf32>
    graph.yield %r : tensor<4xf32>
  }
  // CHECK-NEXT: func.return %[[F]] : tensor<4xf32>
  func.return %0 : tensor<4xf32>
}
