// RUN: neuron-opt %s -p graph-chain-pixels | filecheck %s

// What lies between two convolutions of one tap does not fit on chip: they run piece by piece, an image each.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%x: tensor<8x96x56x56xbf16>) -> tensor<8x96x56x56xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %v = graph.weight @v : tensor<384x96x1x1xbf16>
    %u = graph.weight @u : tensor<96x384x1x1xbf16>
    %0 = graph.conv %x, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x96x56x56xbf16>, tensor<384x96x1x1xbf16>) -> tensor<8x384x56x56xbf16>
    %1 = graph.conv %0, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x384x56x56xbf16>, tensor<96x384x1x1xbf16>) -> tensor<8x96x56x56xbf16>
    func.return %1 : tensor<8x96x56x56xbf16>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%x: tensor<8x96x56x56xbf16>) -> tensor<8x96x56x56xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %v = graph.weight @v : tensor<384x96x1x1xbf16>
// CHECK-NEXT:     %u = graph.weight @u : tensor<96x384x1x1xbf16>
// CHECK-NEXT:     %0 = graph.conv %x, %v strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.chained = 56 : i64} : (tensor<8x96x56x56xbf16>, tensor<384x96x1x1xbf16>) -> tensor<8x384x56x56xbf16>
// CHECK-NEXT:     %1 = graph.conv %0, %u strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<8x384x56x56xbf16>, tensor<96x384x1x1xbf16>) -> tensor<8x96x56x56xbf16>
// CHECK-NEXT:     func.return %1 : tensor<8x96x56x56xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
