// RUN: neuron-opt %s --split-input-file --verify-diagnostics

// Numpy broadcasting stretches dimensions of 1 only.
func.func @f(%a: tensor<2x8xf32>, %b: tensor<4xf32>) {
  // expected-error@below {{shapes 2x8 and 4 do not broadcast}}
  %0 = graph.binary add %a, %b : (tensor<2x8xf32>, tensor<4xf32>) -> tensor<2x8xf32>
  func.return
}

// -----

// Conversions are visible: both operands have one element type.
func.func @f(%a: tensor<8xf32>, %b: tensor<8xbf16>) {
  // expected-error@below {{element types f32 and bf16 differ}}
  %0 = graph.binary add %a, %b : (tensor<8xf32>, tensor<8xbf16>) -> tensor<8xf32>
  func.return
}

// -----

// The logical kinds are for truth values.
func.func @f(%a: tensor<8xi32>) {
  // expected-error@below {{and is not defined on i32}}
  %0 = graph.binary and %a, %a : (tensor<8xi32>, tensor<8xi32>) -> tensor<8xi32>
  func.return
}

// -----

// The slope of prelu broadcasts to x, not the other way round.
func.func @f(%a: tensor<8xf32>, %b: tensor<4x8xf32>) {
  // expected-error@below {{slope 4x8 does not broadcast to 8}}
  %0 = graph.binary prelu %a, %b : (tensor<8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
  func.return
}

// -----

// The result type must be the one that the operands give.
func.func @f(%a: tensor<2x8xf32>) {
  // expected-error@below {{result is 2x4 of f32 but the operands give 2x8 of f32}}
  %0 = graph.unary exp %a : (tensor<2x8xf32>) -> tensor<2x4xf32>
  func.return
}

// -----

// A test for NaN gives truth values.
func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{result is 8 of f32 but the operands give 8 of i1}}
  %0 = graph.unary is_nan %a : (tensor<8xf32>) -> tensor<8xf32>
  func.return
}

// -----

// Every kind has exactly its parameters.
func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{selu takes alpha, beta, not alpha}}
  %0 = graph.unary selu %a alpha 1.5 : (tensor<8xf32>) -> tensor<8xf32>
  func.return
}

// -----

// Transcendental functions are for floats.
func.func @f(%a: tensor<8xi64>) {
  // expected-error@below {{exp is not defined on i64}}
  %0 = graph.unary exp %a : (tensor<8xi64>) -> tensor<8xi64>
  func.return
}

// -----

// An unknown kind is named at its place.
func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{Expected `abs`,}}
  %0 = graph.unary cube %a : (tensor<8xf32>) -> tensor<8xf32>
  func.return
}

// -----

// Truth values have no order.
func.func @f(%a: tensor<8xi1>) {
  // expected-error@below {{lt is not defined on i1}}
  %0 = graph.compare lt %a, %a : (tensor<8xi1>, tensor<8xi1>) -> tensor<8xi1>
  func.return
}

// -----

// A select condition is a truth value.
func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{a select condition is not defined on f32}}
  %0 = graph.select %a, %a, %a : (tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return
}

// -----

// Operators have static shapes.
func.func @f(%a: tensor<?xf32>) {
  // expected-error@below {{tensor<?xf32> has a dynamic dimension}}
  %0 = graph.unary exp %a : (tensor<?xf32>) -> tensor<?xf32>
  func.return
}

// -----

// Axes increase strictly.
func.func @f(%a: tensor<2x3x4xf32>) {
  // expected-error@below {{axes [2, 1] must be strictly increasing and within [0, 3)}}
  %0 = graph.reduce sum %a axes [2, 1] : (tensor<2x3x4xf32>) -> tensor<2xf32>
  func.return
}

// -----

// Nothing is the largest of no elements.
func.func @f(%a: tensor<2x0xf32>) {
  // expected-error@below {{max over an empty dimension is not defined}}
  %0 = graph.reduce max %a axes [1] : (tensor<2x0xf32>) -> tensor<2xf32>
  func.return
}

// -----

func.func @f(%a: tensor<2x8xf32>) {
  // expected-error@below {{axis 2 is outside [0, 2)}}
  %0 = graph.softmax %a axis 2 : (tensor<2x8xf32>) -> tensor<2x8xf32>
  func.return
}

// -----

// The scale covers the normalised dimensions.
func.func @f(%a: tensor<2x4x8xf32>, %s: tensor<4xf32>) {
  // expected-error@below {{parameter shape 4 differs from the normalised dimensions 4x8}}
  %0 = graph.layer_norm %a scale %s : tensor<4xf32> axis 1 epsilon 1.0e-05 : (tensor<2x4x8xf32>) -> tensor<2x4x8xf32>
  func.return
}

// -----

// Statistics are per channel.
func.func @f(%a: tensor<2x4x8xf32>, %c: tensor<8xf32>) {
  // expected-error@below {{parameter shape 8 differs from the number of channels 4}}
  %0 = graph.batch_norm %a, %c, %c, %c, %c epsilon 1.0e-05 : (tensor<2x4x8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<2x4x8xf32>
  func.return
}

// -----

func.func @f(%a: tensor<2x8xf32>, %b: tensor<4x5xf32>) {
  // expected-error@below {{inner dimensions 8 and 4 differ}}
  %0 = graph.matmul %a, %b : (tensor<2x8xf32>, tensor<4x5xf32>) -> tensor<2x5xf32>
  func.return
}

// -----

// Vectors are reshaped before they are multiplied.
func.func @f(%a: tensor<8xf32>, %b: tensor<8x5xf32>) {
  // expected-error@below {{ranks 1 and 2 must both be at least 2}}
  %0 = graph.matmul %a, %b : (tensor<8xf32>, tensor<8x5xf32>) -> tensor<5xf32>
  func.return
}

// -----

func.func @f(%x: tensor<1x6x9x9xf32>, %w: tensor<8x4x3x3xf32>) {
  // expected-error@below {{6 input channels differ from 4 weight channels x 2 groups}}
  %0 = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 2 : (tensor<1x6x9x9xf32>, tensor<8x4x3x3xf32>) -> tensor<1x8x7x7xf32>
  func.return
}

// -----

// A kernel of 3 with dilation 4 spans 9 elements.
func.func @f(%x: tensor<1x1x8xf32>, %w: tensor<1x1x3xf32>) {
  // expected-error@below {{window of 9 elements exceeds the padded input of 8}}
  %0 = graph.conv %x, %w strides [1] pads [0, 0] dilations [4] groups 1 : (tensor<1x1x8xf32>, tensor<1x1x3xf32>) -> tensor<1x1x1xf32>
  func.return
}

// -----

func.func @f(%x: tensor<1x1x8x8xf32>, %w: tensor<1x1x3x3xf32>) {
  // expected-error@below {{pads has 2 values instead of 4}}
  %0 = graph.conv %x, %w strides [1, 1] pads [0, 0] dilations [1, 1] groups 1 : (tensor<1x1x8x8xf32>, tensor<1x1x3x3xf32>) -> tensor<1x1x6x6xf32>
  func.return
}

// -----

func.func @f(%x: tensor<1x1x8xf32>, %w: tensor<8x1x3xf32>, %b: tensor<4xf32>) {
  // expected-error@below {{bias shape 4 differs from the number of output channels 8}}
  %0 = graph.conv %x, %w, %b strides [1] pads [0, 0] dilations [1] groups 1 : (tensor<1x1x8xf32>, tensor<8x1x3xf32>, tensor<4xf32>) -> tensor<1x8x6xf32>
  func.return
}

// -----

// A window that lies in the padding alone has no maximum.
func.func @f(%x: tensor<1x1x8xf32>) {
  // expected-error@below {{padding 2 holds a whole window of 2 elements}}
  %0 = graph.pool max %x kernel [2] strides [1] pads [2, 2] dilations [1] : (tensor<1x1x8xf32>) -> tensor<1x1x11xf32>
  func.return
}

// -----

// 4 whole windows, or 5 with a last partial one; never 6.
func.func @f(%x: tensor<1x1x9xf32>) {
  // expected-error@below {{result is 1x1x6 of f32 but the operands give 1x1x4 of f32}}
  %0 = graph.pool max %x kernel [2] strides [2] pads [0, 0] dilations [1] : (tensor<1x1x9xf32>) -> tensor<1x1x6xf32>
  func.return
}

// -----

func.func @f(%a: tensor<2x8xf32>) {
  // expected-error@below {{permutation [0, 0] is not one of 2 dimensions}}
  %0 = graph.transpose %a permutation [0, 0] : (tensor<2x8xf32>) -> tensor<2x2xf32>
  func.return
}

// -----

func.func @f(%a: tensor<2x8xf32>) {
  // expected-error@below {{2x8 has 16 elements but 3x5 has 15}}
  %0 = graph.reshape %a : (tensor<2x8xf32>) -> tensor<3x5xf32>
  func.return
}

// -----

func.func @f(%a: tensor<2x8xf32>) {
  // expected-error@below {{shape 2x8 does not broadcast to 4x8}}
  %0 = graph.broadcast %a : (tensor<2x8xf32>) -> tensor<4x8xf32>
  func.return
}

// -----

func.func @f(%a: tensor<2x8xf32>, %b: tensor<3x4xf32>) {
  // expected-error@below {{shapes 2x8 and 3x4 differ outside axis 1}}
  %0 = graph.concat %a, %b axis 1 : (tensor<2x8xf32>, tensor<3x4xf32>) -> tensor<2x12xf32>
  func.return
}

// -----

// Elements 6, 4, 2, 0, -2.
func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{elements 6 to -2 of dimension 0 are outside its size 8}}
  %0 = graph.slice %a starts [6] sizes [5] steps [-2] : (tensor<8xf32>) -> tensor<5xf32>
  func.return
}

// -----

// A mirror image leaves out the edge: 7 elements of 8 can be mirrored.
func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{reflect padding 8 of dimension 0 exceeds 7}}
  %0 = graph.pad reflect %a low [8] high [0] value 0.0 : (tensor<8xf32>) -> tensor<16xf32>
  func.return
}

// -----

func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{shift_left is not defined on f32}}
  %0 = graph.binary shift_left %a, %a : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return
}

// -----

func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{a scatter index is not defined on f32}}
  %0 = graph.scatter %a, %a, %a axis 0 : (tensor<8xf32>, tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return
}

// -----

// The updates have one row for each index.
func.func @f(%a: tensor<8x2xf32>, %i: tensor<3xi32>, %u: tensor<4x2xf32>) {
  // expected-error@below {{updates are 4x2, the indices name 3x2}}
  %0 = graph.scatter %a, %i, %u axis 0 : (tensor<8x2xf32>, tensor<3xi32>, tensor<4x2xf32>) -> tensor<8x2xf32>
  func.return
}

// -----

func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{a gather index is not defined on f32}}
  %0 = graph.gather %a, %a axis 0 : (tensor<8xf32>, tensor<8xf32>) -> tensor<8xf32>
  func.return
}

// -----

// A list has one value for each element.
func.func @f() {
  // expected-error@below {{3 values are given for tensor<300xi32>}}
  %0 = graph.constant dense [1, 2, 3] : tensor<300xi32>
  func.return
}

// -----

func.func @f() {
  // expected-error@below {{a dense constant holds only finite values; use graph.weight}}
  %0 = graph.constant dense [1.0, nan] : tensor<2xf32>
  func.return
}

// -----

func.func @f() {
  // expected-error@below {{expected integer values for tensor<2xi32>}}
  %0 = graph.constant dense [1, 2.5] : tensor<2xi32>
  func.return
}

// -----

func.func @f() {
  // expected-error@below {{tensor<?xf32> is not a static tensor}}
  %0 = graph.weight @w : tensor<?xf32>
  func.return
}

// -----

func.func @f() {
  // expected-error@below {{node is not base64}}
  %0 = graph.onnx_node "Foo"() domain "" opset 13 node "?" : () -> tensor<2xf32>
  func.return
}

// -----

func.func @f(%a: tensor<8xf32>) {
  // expected-error@below {{2 captures but 1 operands}}
  %0 = graph.onnx_node "Loop"(%a) domain "" opset 13 captures ["x", "y"] node "" : (tensor<8xf32>) -> tensor<2xf32>
  func.return
}

// -----

func.func @f(%x: tensor<4xf32>) {
  // expected-error@below {{graph.yield differs from the results in number or type}}
  %0 = graph.fused (%a = %x) : (tensor<4xf32>) -> tensor<4xf32> {
    graph.yield
  }
  func.return
}

// -----

// A derived weight is computed when no input is there yet.
// expected-error@below {{graph.onnx_node cannot be computed when the weights are laid out}}
graph.derived_weight @w : tensor<2xf32> {
  %0 = graph.onnx_node "Foo"() domain "" opset 13 node "" : () -> tensor<2xf32>
  graph.yield %0 : tensor<2xf32>
}

// -----

// expected-error@below {{must end with graph.yield of one tensor<2xf32>}}
graph.derived_weight @w : tensor<2xf32> {
  %0 = graph.weight @v : tensor<3xf32>
  graph.yield %0 : tensor<3xf32>
}

// -----

// The gates of a recurrent layer are as many as its cell has.
func.func @f(%g: tensor<1x6x5x3xf32>, %r: tensor<1x6x2xf32>) {
  // expected-error@below {{gates are 1x6x5x3, must be 1 x multiple of 4 x steps x batch}}
  %0, %1, %2 = graph.recurrent lstm %g, %r reversed [0] functions [sigmoid, tanh, tanh] : (tensor<1x6x5x3xf32>, tensor<1x6x2xf32>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>, tensor<1x2x3xf32>)
  func.return
}

// -----

// Every direction has its functions.
func.func @f(%g: tensor<1x6x5x3xf32>, %r: tensor<1x6x2xf32>) {
  // expected-error@below {{1 functions given, 1 directions of gru need 2 each}}
  %0, %1 = graph.recurrent gru %g, %r reversed [0] functions [sigmoid] : (tensor<1x6x5x3xf32>, tensor<1x6x2xf32>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>)
  func.return
}

// -----

// Only lstm has a cell state.
func.func @f(%g: tensor<1x2x5x3xf32>, %r: tensor<1x2x2xf32>, %c: tensor<1x2x3xf32>) {
  // expected-error@below {{rnn has no cell state and no peepholes}}
  %0, %1 = graph.recurrent rnn %g, %r initial_c %c reversed [0] functions [tanh] : (tensor<1x2x5x3xf32>, tensor<1x2x2xf32>, tensor<1x2x3xf32>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>)
  func.return
}

// -----

// A mask has an entry for each step of each sequence.
func.func @f(%g: tensor<1x2x5x3xf32>, %r: tensor<1x2x2xf32>, %m: tensor<3x5xi1>) {
  // expected-error@below {{mask is 3x5, must be 5x3}}
  %0, %1 = graph.recurrent rnn %g, %r mask %m reversed [0] functions [tanh] : (tensor<1x2x5x3xf32>, tensor<1x2x2xf32>, tensor<3x5xi1>) -> (tensor<1x2x5x3xf32>, tensor<1x2x3xf32>)
  func.return
}
