// RUN: neuron-opt %s -p 'graph-fold-images' | filecheck %s

// Four images of 32 channels fill the array's 128 rows: four convolutions of each kind cost what one did. What lies
// between the two stays folded, images come apart behind them.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<4x32x56x56xbf16>) -> tensor<4x128x56x56xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<32x1x3x3xbf16>
    %v = graph.weight @v : tensor<128x32x1x1xbf16>
    %0 = graph.conv %x, %w strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 32 : (tensor<4x32x56x56xbf16>, tensor<32x1x3x3xbf16>) -> tensor<4x32x56x56xbf16>
    %1 = graph.conv %0, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<4x32x56x56xbf16>, tensor<128x32x1x1xbf16>) -> tensor<4x128x56x56xbf16>
    func.return %1 : tensor<4x128x56x56xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<4x32x56x56xbf16>) -> tensor<4x128x56x56xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<32x1x3x3xbf16>
// CHECK-NEXT:     %0 = graph.concat %w, %w, %w, %w axis 0 : (tensor<32x1x3x3xbf16>, tensor<32x1x3x3xbf16>, tensor<32x1x3x3xbf16>, tensor<32x1x3x3xbf16>) -> tensor<128x1x3x3xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<128x32x1x1xbf16>
// CHECK-NEXT:     %1 = graph.concat %v, %v, %v, %v axis 0 : (tensor<128x32x1x1xbf16>, tensor<128x32x1x1xbf16>, tensor<128x32x1x1xbf16>, tensor<128x32x1x1xbf16>) -> tensor<512x32x1x1xbf16>
// CHECK-NEXT:     %2 = graph.reshape %x : (tensor<4x32x56x56xbf16>) -> tensor<1x128x56x56xbf16>
// CHECK-NEXT:     %3 = graph.conv %2, %0 strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 128 : (tensor<1x128x56x56xbf16>, tensor<128x1x3x3xbf16>) -> tensor<1x128x56x56xbf16>
// CHECK-NEXT:     %4 = graph.conv %3, %1 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 4 : (tensor<1x128x56x56xbf16>, tensor<512x32x1x1xbf16>) -> tensor<1x512x56x56xbf16>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<1x512x56x56xbf16>) -> tensor<4x128x56x56xbf16>
// CHECK-NEXT:     func.return %5 : tensor<4x128x56x56xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
