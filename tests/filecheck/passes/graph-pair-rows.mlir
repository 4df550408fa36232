// RUN: neuron-opt %s -p graph-pair-rows --split-input-file | filecheck %s

// Two layers of 64 channels in front of a pool lie in pairs of rows; one of 128 outputs, and what a pool alone reads of
// it, does not.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<2x3x64x64xbf16>) -> tensor<2x128x16x16xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %u = graph.weight @u : tensor<64x3x3x3xbf16>
    %v = graph.weight @v : tensor<64x64x3x3xbf16>
    %w = graph.weight @w : tensor<128x64x3x3xbf16>
    %0 = graph.conv %x, %u strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<2x3x64x64xbf16>, tensor<64x3x3x3xbf16>) -> tensor<2x64x64x64xbf16>
    %1 = graph.conv %0, %v strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<2x64x64x64xbf16>, tensor<64x64x3x3xbf16>) -> tensor<2x64x64x64xbf16>
    %2 = graph.pool max %1 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<2x64x64x64xbf16>) -> tensor<2x64x32x32xbf16>
    %3 = graph.conv %2, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<2x64x32x32xbf16>, tensor<128x64x3x3xbf16>) -> tensor<2x128x32x32xbf16>
    %4 = graph.pool max %3 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<2x128x32x32xbf16>) -> tensor<2x128x16x16xbf16>
    func.return %4 : tensor<2x128x16x16xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<2x3x64x64xbf16>) -> tensor<2x128x16x16xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %u = graph.weight @u : tensor<64x3x3x3xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<64x64x3x3xbf16>
// CHECK-NEXT:     %w = graph.weight @w : tensor<128x64x3x3xbf16>
// CHECK-NEXT:     %0 = graph.conv %x, %u strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<2x3x64x64xbf16>, tensor<64x3x3x3xbf16>) -> tensor<2x64x64x64xbf16, #graph.layout<sbuf, partition 1, rows 2, halo [0, 0, 1, 1, 1, 1]>>
// CHECK-NEXT:     %1 = graph.conv %0, %v strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<2x64x64x64xbf16, #graph.layout<sbuf, partition 1, rows 2, halo [0, 0, 1, 1, 1, 1]>>, tensor<64x64x3x3xbf16>) -> tensor<2x64x64x64xbf16, #graph.layout<sbuf, partition 1, rows 2>>
// CHECK-NEXT:     %2 = graph.pool max %1 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<2x64x64x64xbf16, #graph.layout<sbuf, partition 1, rows 2>>) -> tensor<2x64x32x32xbf16>
// CHECK-NEXT:     %3 = graph.conv %2, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<2x64x32x32xbf16>, tensor<128x64x3x3xbf16>) -> tensor<2x128x32x32xbf16>
// CHECK-NEXT:     %4 = graph.pool max %3 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<2x128x32x32xbf16>) -> tensor<2x128x16x16xbf16>
// CHECK-NEXT:     func.return %4 : tensor<2x128x16x16xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// A part of a feature map in DRAM comes on chip in pairs for a layer of 64 channels, not for one of 128.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<2x64x64x64xbf16>, %y: tensor<2x128x64x64xbf16>) -> (tensor<2x128x32x64xbf16>, tensor<2x128x32x64xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
    %u = graph.weight @u : tensor<128x64x3x3xbf16>
    %v = graph.weight @v : tensor<128x128x3x3xbf16>
    %0 = graph.slice %x starts [0, 0, 0, 0] sizes [2, 64, 33, 64] steps [1, 1, 1, 1] : (tensor<2x64x64x64xbf16>) -> tensor<2x64x33x64xbf16>
    %1 = graph.conv %0, %u strides [1, 1] pads [1, 1, 0, 1] dilations [1, 1] groups 1 : (tensor<2x64x33x64xbf16>, tensor<128x64x3x3xbf16>) -> tensor<2x128x32x64xbf16>
    %2 = graph.slice %y starts [0, 0, 0, 0] sizes [2, 128, 33, 64] steps [1, 1, 1, 1] : (tensor<2x128x64x64xbf16>) -> tensor<2x128x33x64xbf16>
    %3 = graph.conv %2, %v strides [1, 1] pads [1, 1, 0, 1] dilations [1, 1] groups 1 : (tensor<2x128x33x64xbf16>, tensor<128x128x3x3xbf16>) -> tensor<2x128x32x64xbf16>
    func.return %1, %3 : tensor<2x128x32x64xbf16>, tensor<2x128x32x64xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<2x64x64x64xbf16>, %y: tensor<2x128x64x64xbf16>) -> (tensor<2x128x32x64xbf16>, tensor<2x128x32x64xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %u = graph.weight @u : tensor<128x64x3x3xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<128x128x3x3xbf16>
// CHECK-NEXT:     %0 = graph.slice %x starts [0, 0, 0, 0] sizes [2, 64, 33, 64] steps [1, 1, 1, 1] : (tensor<2x64x64x64xbf16>) -> tensor<2x64x33x64xbf16>
// CHECK-NEXT:     %1 = graph.relayout %0 : (tensor<2x64x33x64xbf16>) -> tensor<2x64x33x64xbf16, #graph.layout<sbuf, partition 1, rows 2, halo [0, 0, 1, 0, 1, 1]>>
// CHECK-NEXT:     %2 = graph.conv %1, %u strides [1, 1] pads [1, 1, 0, 1] dilations [1, 1] groups 1 : (tensor<2x64x33x64xbf16, #graph.layout<sbuf, partition 1, rows 2, halo [0, 0, 1, 0, 1, 1]>>, tensor<128x64x3x3xbf16>) -> tensor<2x128x32x64xbf16>
// CHECK-NEXT:     %3 = graph.slice %y starts [0, 0, 0, 0] sizes [2, 128, 33, 64] steps [1, 1, 1, 1] : (tensor<2x128x64x64xbf16>) -> tensor<2x128x33x64xbf16>
// CHECK-NEXT:     %4 = graph.conv %3, %v strides [1, 1] pads [1, 1, 0, 1] dilations [1, 1] groups 1 : (tensor<2x128x33x64xbf16>, tensor<128x128x3x3xbf16>) -> tensor<2x128x32x64xbf16>
// CHECK-NEXT:     func.return %2, %4 : tensor<2x128x32x64xbf16>, tensor<2x128x32x64xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// A map of 32 channels in front of a stride of two: two images and two rows beside each other.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<2x3x64x64xbf16>) -> tensor<2x64x16x16xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %u = graph.weight @u : tensor<32x3x6x6xbf16>
    %v = graph.weight @v : tensor<64x32x3x3xbf16>
    %0 = graph.conv %x, %u strides [2, 2] pads [2, 2, 2, 2] dilations [1, 1] groups 1 : (tensor<2x3x64x64xbf16>, tensor<32x3x6x6xbf16>) -> tensor<2x32x32x32xbf16>
    %1 = graph.conv %0, %v strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<2x32x32x32xbf16>, tensor<64x32x3x3xbf16>) -> tensor<2x64x16x16xbf16>
    func.return %1 : tensor<2x64x16x16xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<2x3x64x64xbf16>) -> tensor<2x64x16x16xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %u = graph.weight @u : tensor<32x3x6x6xbf16>
// CHECK-NEXT:     %0 = graph.weight @u$concat : tensor<64x3x6x6xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<64x32x3x3xbf16>
// CHECK-NEXT:     %1 = graph.weight @v$concat : tensor<128x32x3x3xbf16>
// CHECK-NEXT:     %2 = graph.reshape %x : (tensor<2x3x64x64xbf16>) -> tensor<1x6x64x64xbf16>
// CHECK-NEXT:     %3 = graph.conv %2, %0 strides [2, 2] pads [2, 2, 2, 2] dilations [1, 1] groups 2 : (tensor<1x6x64x64xbf16>, tensor<64x3x6x6xbf16>) -> tensor<1x64x32x32xbf16, #graph.layout<sbuf, partition 1, rows 2, halo [0, 0, 1, 1, 1, 0]>>
// CHECK-NEXT:     %4 = graph.conv %3, %1 strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 2 : (tensor<1x64x32x32xbf16, #graph.layout<sbuf, partition 1, rows 2, halo [0, 0, 1, 1, 1, 0]>>, tensor<128x32x3x3xbf16>) -> tensor<1x128x16x16xbf16>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<1x128x16x16xbf16>) -> tensor<2x64x16x16xbf16>
// CHECK-NEXT:     func.return %5 : tensor<2x64x16x16xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @u$concat : tensor<64x3x6x6xbf16> {
// CHECK-NEXT:     %u = graph.weight @u : tensor<32x3x6x6xbf16>
// CHECK-NEXT:     %0 = graph.concat %u, %u axis 0 : (tensor<32x3x6x6xbf16>, tensor<32x3x6x6xbf16>) -> tensor<64x3x6x6xbf16>
// CHECK-NEXT:     graph.yield %0 : tensor<64x3x6x6xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @v$concat : tensor<128x32x3x3xbf16> {
// CHECK-NEXT:     %v = graph.weight @v : tensor<64x32x3x3xbf16>
// CHECK-NEXT:     %0 = graph.concat %v, %v axis 0 : (tensor<64x32x3x3xbf16>, tensor<64x32x3x3xbf16>) -> tensor<128x32x3x3xbf16>
// CHECK-NEXT:     graph.yield %0 : tensor<128x32x3x3xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
