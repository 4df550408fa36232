// RUN: neuron-opt %s -p 'graph-reorder-rows' | filecheck %s

// Windows of 2 x 2 of an image of 4 x 4, whose order repeats after two of its rows.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<16x8xbf16>) -> tensor<16x8xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.reshape %x : (tensor<16x8xbf16>) -> tensor<2x2x2x2x8xbf16>
    %1 = graph.transpose %0 permutation [0, 2, 1, 3, 4] : (tensor<2x2x2x2x8xbf16>) -> tensor<2x2x2x2x8xbf16>
    %2 = graph.reshape %1 : (tensor<2x2x2x2x8xbf16>) -> tensor<16x8xbf16>
    func.return %2 : tensor<16x8xbf16>
  }

  // What moves features stays as it is.
  func.func private @neuron_1(%x: tensor<16x8xbf16>) -> tensor<16x8xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.reshape %x : (tensor<16x8xbf16>) -> tensor<16x2x4xbf16>
    %1 = graph.transpose %0 permutation [1, 0, 2] : (tensor<16x2x4xbf16>) -> tensor<2x16x4xbf16>
    %2 = graph.reshape %1 : (tensor<2x16x4xbf16>) -> tensor<16x8xbf16>
    func.return %2 : tensor<16x8xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<16x8xbf16>) -> tensor<16x8xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.reorder_rows %x period 8 pieces [0, 0, 3, 2, 4, 2, 2, 2, 4, 2, 1, 1] : (tensor<16x8xbf16>) -> tensor<16x8xbf16>
// CHECK-NEXT:     func.return %0 : tensor<16x8xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_1(%x: tensor<16x8xbf16>) -> tensor<16x8xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.reshape %x : (tensor<16x8xbf16>) -> tensor<16x2x4xbf16>
// CHECK-NEXT:     %1 = graph.transpose %0 permutation [1, 0, 2] : (tensor<16x2x4xbf16>) -> tensor<2x16x4xbf16>
// CHECK-NEXT:     %2 = graph.reshape %1 : (tensor<2x16x4xbf16>) -> tensor<16x8xbf16>
// CHECK-NEXT:     func.return %2 : tensor<16x8xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
