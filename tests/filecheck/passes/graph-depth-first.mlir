// RUN: neuron-opt %s -p 'graph-depth-first{budget_share=0.085}' | filecheck %s

// A map of 64 x 64 takes 8192 bytes of a partition, with zeros around it 8712; 15319 are allowed. What the second
// convolution reads and makes is too much, half of it is not. Where the halves meet, two rows of the first convolution
// are made twice; only at the ends of the image there is padding.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x128x64x64xbf16>) -> tensor<1x128x32x32xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<128x128x3x3xbf16>
    %0 = graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x128x64x64xbf16>, tensor<128x128x3x3xbf16>) -> tensor<1x128x64x64xbf16>
    %1 = graph.conv %0, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x128x64x64xbf16>, tensor<128x128x3x3xbf16>) -> tensor<1x128x64x64xbf16>
    %2 = graph.unary relu %1 : (tensor<1x128x64x64xbf16>) -> tensor<1x128x64x64xbf16>
    %3 = graph.pool max %2 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<1x128x64x64xbf16>) -> tensor<1x128x32x32xbf16>
    func.return %3 : tensor<1x128x32x32xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<1x128x64x64xbf16>) -> tensor<1x128x32x32xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<128x128x3x3xbf16>
// CHECK-NEXT:     %0 = graph.slice %x starts [0, 0, 0, 0] sizes [1, 128, 34, 64] steps [1, 1, 1, 1] : (tensor<1x128x64x64xbf16>) -> tensor<1x128x34x64xbf16>
// CHECK-NEXT:     %1 = graph.conv %0, %w strides [1, 1] pads [1, 1, 0, 1] dilations [1, 1] groups 1 : (tensor<1x128x34x64xbf16>, tensor<128x128x3x3xbf16>) -> tensor<1x128x33x64xbf16>
// CHECK-NEXT:     %2 = graph.conv %1, %w strides [1, 1] pads [1, 1, 0, 1] dilations [1, 1] groups 1 : (tensor<1x128x33x64xbf16>, tensor<128x128x3x3xbf16>) -> tensor<1x128x32x64xbf16>
// CHECK-NEXT:     %3 = graph.unary relu %2 : (tensor<1x128x32x64xbf16>) -> tensor<1x128x32x64xbf16>
// CHECK-NEXT:     %4 = graph.pool max %3 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<1x128x32x64xbf16>) -> tensor<1x128x16x32xbf16>
// CHECK-NEXT:     %5 = graph.slice %x starts [0, 0, 30, 0] sizes [1, 128, 34, 64] steps [1, 1, 1, 1] : (tensor<1x128x64x64xbf16>) -> tensor<1x128x34x64xbf16>
// CHECK-NEXT:     %6 = graph.conv %5, %w strides [1, 1] pads [0, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x128x34x64xbf16>, tensor<128x128x3x3xbf16>) -> tensor<1x128x33x64xbf16>
// CHECK-NEXT:     %7 = graph.conv %6, %w strides [1, 1] pads [0, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x128x33x64xbf16>, tensor<128x128x3x3xbf16>) -> tensor<1x128x32x64xbf16>
// CHECK-NEXT:     %8 = graph.unary relu %7 : (tensor<1x128x32x64xbf16>) -> tensor<1x128x32x64xbf16>
// CHECK-NEXT:     %9 = graph.pool max %8 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<1x128x32x64xbf16>) -> tensor<1x128x16x32xbf16>
// CHECK-NEXT:     %10 = graph.concat %4, %9 axis 2 : (tensor<1x128x16x32xbf16>, tensor<1x128x16x32xbf16>) -> tensor<1x128x32x32xbf16>
// CHECK-NEXT:     func.return %10 : tensor<1x128x32x32xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
