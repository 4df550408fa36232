// RUN: neuron-opt %s -p graph-block-pixels --split-input-file | filecheck %s

// A depthwise filter of 5 x 5 between 1x1 convolutions: blocks of 2 x 2 pixels in between.
// Of the bias 200 are the model's own.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<8x40x28x28xbf16>) -> tensor<8x40x28x28xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %u = graph.weight @u : tensor<240x40x1x1xbf16>
    %v = graph.weight @v : tensor<240x1x5x5xbf16>
    %b = graph.weight @b {graph.model_elements = 200 : i64} : tensor<240xbf16>
    %w = graph.weight @w : tensor<40x240x1x1xbf16>
    %0 = graph.conv %x, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x40x28x28xbf16>, tensor<240x40x1x1xbf16>) -> tensor<8x240x28x28xbf16>
    %1 = graph.conv %0, %v, %b strides [1, 1] pads [2, 2, 2, 2] dilations [1, 1] groups 240 : (tensor<8x240x28x28xbf16>, tensor<240x1x5x5xbf16>, tensor<240xbf16>) -> tensor<8x240x28x28xbf16>
    %2 = graph.conv %1, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x240x28x28xbf16>, tensor<40x240x1x1xbf16>) -> tensor<8x40x28x28xbf16>
    func.return %2 : tensor<8x40x28x28xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<8x40x28x28xbf16>) -> tensor<8x40x28x28xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.weight @u$reshape {graph.model_elements = 9600 : i64} : tensor<960x40x2x2xbf16>
// CHECK-NEXT:     %1 = graph.conv %x, %0 strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 60211200 : i64} : (tensor<8x40x28x28xbf16>, tensor<960x40x2x2xbf16>) -> tensor<8x960x14x14xbf16>
// CHECK-NEXT:     %2 = graph.weight @v$reshape {graph.model_elements = 6000 : i64} : tensor<960x4x3x3xbf16>
// CHECK-NEXT:     %3 = graph.weight @b$reshape {graph.model_elements = 200 : i64} : tensor<960xbf16>
// CHECK-NEXT:     %4 = graph.conv %1, %2, %3 strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 240 {graph.model_macs = 37632000 : i64} : (tensor<8x960x14x14xbf16>, tensor<960x4x3x3xbf16>, tensor<960xbf16>) -> tensor<8x960x14x14xbf16>
// CHECK-NEXT:     %5 = graph.weight @w$reshape {graph.model_elements = 9600 : i64} : tensor<960x40x2x2xbf16>
// CHECK-NEXT:     %6 = graph.conv_transpose %4, %5 strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] output_padding [0, 0] groups 1 {graph.model_macs = 60211200 : i64} : (tensor<8x960x14x14xbf16>, tensor<960x40x2x2xbf16>) -> tensor<8x40x28x28xbf16>
// CHECK-NEXT:     func.return %6 : tensor<8x40x28x28xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @u$reshape : tensor<960x40x2x2xbf16> {
// CHECK-NEXT:     %u = graph.weight @u : tensor<240x40x1x1xbf16>
// CHECK-NEXT:     %0 = graph.pad constant %u low [0, 0, 0, 0] high [0, 0, 1, 1] value 0.0 : (tensor<240x40x1x1xbf16>) -> tensor<240x40x2x2xbf16>
// CHECK-NEXT:     %1 = graph.reshape %0 : (tensor<240x40x2x2xbf16>) -> tensor<240x1x40x2x2xbf16>
// CHECK-NEXT:     %2 = graph.pad constant %u low [0, 0, 0, 1] high [0, 0, 1, 0] value 0.0 : (tensor<240x40x1x1xbf16>) -> tensor<240x40x2x2xbf16>
// CHECK-NEXT:     %3 = graph.reshape %2 : (tensor<240x40x2x2xbf16>) -> tensor<240x1x40x2x2xbf16>
// CHECK-NEXT:     %4 = graph.pad constant %u low [0, 0, 1, 0] high [0, 0, 0, 1] value 0.0 : (tensor<240x40x1x1xbf16>) -> tensor<240x40x2x2xbf16>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<240x40x2x2xbf16>) -> tensor<240x1x40x2x2xbf16>
// CHECK-NEXT:     %6 = graph.pad constant %u low [0, 0, 1, 1] high [0, 0, 0, 0] value 0.0 : (tensor<240x40x1x1xbf16>) -> tensor<240x40x2x2xbf16>
// CHECK-NEXT:     %7 = graph.reshape %6 : (tensor<240x40x2x2xbf16>) -> tensor<240x1x40x2x2xbf16>
// CHECK-NEXT:     %8 = graph.concat %1, %3, %5, %7 axis 1 : (tensor<240x1x40x2x2xbf16>, tensor<240x1x40x2x2xbf16>, tensor<240x1x40x2x2xbf16>, tensor<240x1x40x2x2xbf16>) -> tensor<240x4x40x2x2xbf16>
// CHECK-NEXT:     %9 = graph.reshape %8 : (tensor<240x4x40x2x2xbf16>) -> tensor<960x40x2x1x2x1xbf16>
// CHECK-NEXT:     %10 = graph.transpose %9 permutation [0, 1, 3, 5, 2, 4] : (tensor<960x40x2x1x2x1xbf16>) -> tensor<960x40x1x1x2x2xbf16>
// CHECK-NEXT:     %11 = graph.reshape %10 : (tensor<960x40x1x1x2x2xbf16>) -> tensor<960x40x2x2xbf16>
// CHECK-NEXT:     graph.yield %11 : tensor<960x40x2x2xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @v$reshape : tensor<960x4x3x3xbf16> {
// CHECK-NEXT:     %v = graph.weight @v : tensor<240x1x5x5xbf16>
// CHECK-NEXT:     %0 = graph.pad constant %v low [0, 0, 0, 0] high [0, 0, 1, 1] value 0.0 : (tensor<240x1x5x5xbf16>) -> tensor<240x1x6x6xbf16>
// CHECK-NEXT:     %1 = graph.reshape %0 : (tensor<240x1x6x6xbf16>) -> tensor<240x1x1x6x6xbf16>
// CHECK-NEXT:     %2 = graph.pad constant %v low [0, 0, 0, 1] high [0, 0, 1, 0] value 0.0 : (tensor<240x1x5x5xbf16>) -> tensor<240x1x6x6xbf16>
// CHECK-NEXT:     %3 = graph.reshape %2 : (tensor<240x1x6x6xbf16>) -> tensor<240x1x1x6x6xbf16>
// CHECK-NEXT:     %4 = graph.pad constant %v low [0, 0, 1, 0] high [0, 0, 0, 1] value 0.0 : (tensor<240x1x5x5xbf16>) -> tensor<240x1x6x6xbf16>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<240x1x6x6xbf16>) -> tensor<240x1x1x6x6xbf16>
// CHECK-NEXT:     %6 = graph.pad constant %v low [0, 0, 1, 1] high [0, 0, 0, 0] value 0.0 : (tensor<240x1x5x5xbf16>) -> tensor<240x1x6x6xbf16>
// CHECK-NEXT:     %7 = graph.reshape %6 : (tensor<240x1x6x6xbf16>) -> tensor<240x1x1x6x6xbf16>
// CHECK-NEXT:     %8 = graph.concat %1, %3, %5, %7 axis 1 : (tensor<240x1x1x6x6xbf16>, tensor<240x1x1x6x6xbf16>, tensor<240x1x1x6x6xbf16>, tensor<240x1x1x6x6xbf16>) -> tensor<240x4x1x6x6xbf16>
// CHECK-NEXT:     %9 = graph.reshape %8 : (tensor<240x4x1x6x6xbf16>) -> tensor<960x1x3x2x3x2xbf16>
// CHECK-NEXT:     %10 = graph.transpose %9 permutation [0, 1, 3, 5, 2, 4] : (tensor<960x1x3x2x3x2xbf16>) -> tensor<960x1x2x2x3x3xbf16>
// CHECK-NEXT:     %11 = graph.reshape %10 : (tensor<960x1x2x2x3x3xbf16>) -> tensor<960x4x3x3xbf16>
// CHECK-NEXT:     graph.yield %11 : tensor<960x4x3x3xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @b$reshape : tensor<960xbf16> {
// CHECK-NEXT:     %b = graph.weight @b {graph.model_elements = 200 : i64} : tensor<240xbf16>
// CHECK-NEXT:     %0 = graph.reshape %b : (tensor<240xbf16>) -> tensor<240x1xbf16>
// CHECK-NEXT:     %1 = graph.concat %0, %0, %0, %0 axis 1 : (tensor<240x1xbf16>, tensor<240x1xbf16>, tensor<240x1xbf16>, tensor<240x1xbf16>) -> tensor<240x4xbf16>
// CHECK-NEXT:     %2 = graph.reshape %1 : (tensor<240x4xbf16>) -> tensor<960xbf16>
// CHECK-NEXT:     graph.yield %2 : tensor<960xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @w$reshape : tensor<960x40x2x2xbf16> {
// CHECK-NEXT:     %w = graph.weight @w : tensor<40x240x1x1xbf16>
// CHECK-NEXT:     %0 = graph.transpose %w permutation [1, 0, 2, 3] : (tensor<40x240x1x1xbf16>) -> tensor<240x40x1x1xbf16>
// CHECK-NEXT:     %1 = graph.pad constant %0 low [0, 0, 0, 0] high [0, 0, 1, 1] value 0.0 : (tensor<240x40x1x1xbf16>) -> tensor<240x40x2x2xbf16>
// CHECK-NEXT:     %2 = graph.reshape %1 : (tensor<240x40x2x2xbf16>) -> tensor<240x1x40x2x2xbf16>
// CHECK-NEXT:     %3 = graph.pad constant %0 low [0, 0, 0, 1] high [0, 0, 1, 0] value 0.0 : (tensor<240x40x1x1xbf16>) -> tensor<240x40x2x2xbf16>
// CHECK-NEXT:     %4 = graph.reshape %3 : (tensor<240x40x2x2xbf16>) -> tensor<240x1x40x2x2xbf16>
// CHECK-NEXT:     %5 = graph.pad constant %0 low [0, 0, 1, 0] high [0, 0, 0, 1] value 0.0 : (tensor<240x40x1x1xbf16>) -> tensor<240x40x2x2xbf16>
// CHECK-NEXT:     %6 = graph.reshape %5 : (tensor<240x40x2x2xbf16>) -> tensor<240x1x40x2x2xbf16>
// CHECK-NEXT:     %7 = graph.pad constant %0 low [0, 0, 1, 1] high [0, 0, 0, 0] value 0.0 : (tensor<240x40x1x1xbf16>) -> tensor<240x40x2x2xbf16>
// CHECK-NEXT:     %8 = graph.reshape %7 : (tensor<240x40x2x2xbf16>) -> tensor<240x1x40x2x2xbf16>
// CHECK-NEXT:     %9 = graph.concat %2, %4, %6, %8 axis 1 : (tensor<240x1x40x2x2xbf16>, tensor<240x1x40x2x2xbf16>, tensor<240x1x40x2x2xbf16>, tensor<240x1x40x2x2xbf16>) -> tensor<240x4x40x2x2xbf16>
// CHECK-NEXT:     %10 = graph.reshape %9 : (tensor<240x4x40x2x2xbf16>) -> tensor<960x40x2x2xbf16>
// CHECK-NEXT:     graph.yield %10 : tensor<960x40x2x2xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// A convolution of many channels fills the array as it is.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<8x128x28x28xbf16>) -> tensor<8x128x28x28xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %v = graph.weight @v : tensor<128x128x3x3xbf16>
    %0 = graph.conv %x, %v strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<8x128x28x28xbf16>, tensor<128x128x3x3xbf16>) -> tensor<8x128x28x28xbf16>
    func.return %0 : tensor<8x128x28x28xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<8x128x28x28xbf16>) -> tensor<8x128x28x28xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %v = graph.weight @v : tensor<128x128x3x3xbf16>
// CHECK-NEXT:     %0 = graph.conv %x, %v strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<8x128x28x28xbf16>, tensor<128x128x3x3xbf16>) -> tensor<8x128x28x28xbf16>
// CHECK-NEXT:     func.return %0 : tensor<8x128x28x28xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
