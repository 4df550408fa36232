// RUN: neuron-opt %s -p 'graph-split-batch{budget_share=0.004}' | filecheck %s

// Two images of 64 channels can share the partitions later on: a feature map takes 8 x 8 x 2 = 128 bytes of each for two
// images, 512 for all eight; 720 are allowed, and two maps are live at the activation. Behind the pool the least is left
// for later layers.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<8x4x8x8xbf16>) -> tensor<8x64x4x4xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<64x4x1x1xbf16>
    %v = graph.weight @v : tensor<64x64x1x1xbf16>
    %0 = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x4x8x8xbf16>, tensor<64x4x1x1xbf16>) -> tensor<8x64x8x8xbf16>
    %1 = graph.unary relu %0 : (tensor<8x64x8x8xbf16>) -> tensor<8x64x8x8xbf16>
    %2 = graph.pool max %1 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<8x64x8x8xbf16>) -> tensor<8x64x4x4xbf16>
    %3 = graph.conv %2, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x64x4x4xbf16>, tensor<64x64x1x1xbf16>) -> tensor<8x64x4x4xbf16>
    func.return %3 : tensor<8x64x4x4xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<8x4x8x8xbf16>) -> tensor<8x64x4x4xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<64x4x1x1xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<64x64x1x1xbf16>
// CHECK-NEXT:     %0 = graph.slice %x starts [0, 0, 0, 0] sizes [4, 4, 8, 8] steps [1, 1, 1, 1] : (tensor<8x4x8x8xbf16>) -> tensor<4x4x8x8xbf16>
// CHECK-NEXT:     %1 = graph.conv %0, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<4x4x8x8xbf16>, tensor<64x4x1x1xbf16>) -> tensor<4x64x8x8xbf16>
// CHECK-NEXT:     %2 = graph.unary relu %1 : (tensor<4x64x8x8xbf16>) -> tensor<4x64x8x8xbf16>
// CHECK-NEXT:     %3 = graph.pool max %2 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<4x64x8x8xbf16>) -> tensor<4x64x4x4xbf16>
// CHECK-NEXT:     %4 = graph.slice %x starts [4, 0, 0, 0] sizes [4, 4, 8, 8] steps [1, 1, 1, 1] : (tensor<8x4x8x8xbf16>) -> tensor<4x4x8x8xbf16>
// CHECK-NEXT:     %5 = graph.conv %4, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<4x4x8x8xbf16>, tensor<64x4x1x1xbf16>) -> tensor<4x64x8x8xbf16>
// CHECK-NEXT:     %6 = graph.unary relu %5 : (tensor<4x64x8x8xbf16>) -> tensor<4x64x8x8xbf16>
// CHECK-NEXT:     %7 = graph.pool max %6 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<4x64x8x8xbf16>) -> tensor<4x64x4x4xbf16>
// CHECK-NEXT:     %8 = graph.concat %3, %7 axis 0 : (tensor<4x64x4x4xbf16>, tensor<4x64x4x4xbf16>) -> tensor<8x64x4x4xbf16>
// CHECK-NEXT:     %9 = graph.conv %8, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x64x4x4xbf16>, tensor<64x64x1x1xbf16>) -> tensor<8x64x4x4xbf16>
// CHECK-NEXT:     func.return %9 : tensor<8x64x4x4xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
