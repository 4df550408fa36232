// RUN: neuron-opt %s -p graph-fold-mean-pool | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // The mean of 2 x 2 pixels of a convolution of one tap: a quarter of the weights in each of four taps; the bias stays.
  func.func @main(%x: tensor<8x256x56x56xf32>) -> (tensor<8x128x28x28xf32>, tensor<8x16x27x27xf32>) {
    %w = graph.weight @w : tensor<128x256x1x1xf32>
    %b = graph.weight @b : tensor<128xf32>
    %0 = graph.conv %x, %w, %b strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x256x56x56xf32>, tensor<128x256x1x1xf32>, tensor<128xf32>) -> tensor<8x128x56x56xf32>
    %1 = graph.pool average %0 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<8x128x56x56xf32>) -> tensor<8x128x28x28xf32>
    // Windows that overlap: as many sums as before, of more taps.
    %v = graph.weight @v : tensor<16x256x1x1xf32>
    %2 = graph.conv %x, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x256x56x56xf32>, tensor<16x256x1x1xf32>) -> tensor<8x16x56x56xf32>
    %3 = graph.pool average %2 kernel [3, 3] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<8x16x56x56xf32>) -> tensor<8x16x27x27xf32>
    func.return %1, %3 : tensor<8x128x28x28xf32>, tensor<8x16x27x27xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<8x256x56x56xf32>) -> (tensor<8x128x28x28xf32>, tensor<8x16x27x27xf32>) {
// CHECK-NEXT:     %w = graph.weight @w : tensor<128x256x1x1xf32>
// CHECK-NEXT:     %b = graph.weight @b : tensor<128xf32>
// CHECK-NEXT:     %0 = graph.constant 0.25 : tensor<f32>
// CHECK-NEXT:     %1 = graph.binary mul %w, %0 : (tensor<128x256x1x1xf32>, tensor<f32>) -> tensor<128x256x1x1xf32>
// CHECK-NEXT:     %2 = graph.concat %1, %1, %1, %1 axis 2 : (tensor<128x256x1x1xf32>, tensor<128x256x1x1xf32>, tensor<128x256x1x1xf32>, tensor<128x256x1x1xf32>) -> tensor<128x256x4x1xf32>
// CHECK-NEXT:     %3 = graph.reshape %2 : (tensor<128x256x4x1xf32>) -> tensor<128x256x2x2xf32>
// CHECK-NEXT:     %4 = graph.conv %x, %3, %b strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x256x56x56xf32>, tensor<128x256x2x2xf32>, tensor<128xf32>) -> tensor<8x128x28x28xf32>
// CHECK-NEXT:     %v = graph.weight @v : tensor<16x256x1x1xf32>
// CHECK-NEXT:     %5 = graph.conv %x, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x256x56x56xf32>, tensor<16x256x1x1xf32>) -> tensor<8x16x56x56xf32>
// CHECK-NEXT:     %6 = graph.pool average %5 kernel [3, 3] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<8x16x56x56xf32>) -> tensor<8x16x27x27xf32>
// CHECK-NEXT:     func.return %4, %6 : tensor<8x128x28x28xf32>, tensor<8x16x27x27xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
