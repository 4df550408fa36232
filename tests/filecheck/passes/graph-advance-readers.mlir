// RUN: neuron-opt %s -p graph-advance-readers --split-input-file | filecheck %s

// The second branch of %x makes less than it reads, and follows the first one with its filter.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<1x64x8x8xbf16>) -> (tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
    %u = graph.weight @u : tensor<32x64x1x1xbf16>
    %0 = graph.conv %x, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
    %v = graph.weight @v : tensor<32x32x1x1xbf16>
    %1 = graph.conv %0, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16>, tensor<32x32x1x1xbf16>) -> tensor<1x32x8x8xbf16>
    %w = graph.weight @w : tensor<32x64x1x1xbf16>
    %2 = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
    func.return %1, %2 : tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<1x64x8x8xbf16>) -> (tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %u = graph.weight @u : tensor<32x64x1x1xbf16>
// CHECK-NEXT:     %w = graph.weight @w : tensor<32x64x1x1xbf16>
// CHECK-NEXT:     %0 = graph.conv %x, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     %1 = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<32x32x1x1xbf16>
// CHECK-NEXT:     %2 = graph.conv %0, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16>, tensor<32x32x1x1xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     func.return %2, %1 : tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// It makes more than it reads, or something else reads the map later: nothing moves.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<1x64x8x8xbf16>, %y: tensor<1x64x8x8xbf16>) -> (tensor<1x96x8x8xbf16>, tensor<1x32x8x8xbf16>, tensor<1x64x8x8xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
    %u = graph.weight @u : tensor<32x64x1x1xbf16>
    %v = graph.weight @v : tensor<32x32x1x1xbf16>
    %w = graph.weight @w : tensor<96x64x1x1xbf16>
    %0 = graph.conv %x, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
    %1 = graph.conv %0, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16>, tensor<32x32x1x1xbf16>) -> tensor<1x32x8x8xbf16>
    %2 = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<96x64x1x1xbf16>) -> tensor<1x96x8x8xbf16>
    %3 = graph.conv %y, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
    %4 = graph.binary add %1, %3 : (tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16>
    %5 = graph.conv %y, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
    %6 = graph.unary relu %y : (tensor<1x64x8x8xbf16>) -> tensor<1x64x8x8xbf16>
    %7 = graph.binary add %4, %5 : (tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16>
    func.return %2, %7, %6 : tensor<1x96x8x8xbf16>, tensor<1x32x8x8xbf16>, tensor<1x64x8x8xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<1x64x8x8xbf16>, %y: tensor<1x64x8x8xbf16>) -> (tensor<1x96x8x8xbf16>, tensor<1x32x8x8xbf16>, tensor<1x64x8x8xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %u = graph.weight @u : tensor<32x64x1x1xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<32x32x1x1xbf16>
// CHECK-NEXT:     %w = graph.weight @w : tensor<96x64x1x1xbf16>
// CHECK-NEXT:     %0 = graph.conv %x, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     %1 = graph.conv %0, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16>, tensor<32x32x1x1xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     %2 = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<96x64x1x1xbf16>) -> tensor<1x96x8x8xbf16>
// CHECK-NEXT:     %3 = graph.conv %y, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     %4 = graph.binary add %1, %3 : (tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     %5 = graph.conv %y, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x64x8x8xbf16>, tensor<32x64x1x1xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     %6 = graph.unary relu %y : (tensor<1x64x8x8xbf16>) -> tensor<1x64x8x8xbf16>
// CHECK-NEXT:     %7 = graph.binary add %4, %5 : (tensor<1x32x8x8xbf16>, tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16>
// CHECK-NEXT:     func.return %2, %7, %6 : tensor<1x96x8x8xbf16>, tensor<1x32x8x8xbf16>, tensor<1x64x8x8xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
