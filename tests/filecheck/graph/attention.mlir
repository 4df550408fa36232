// RUN: neuron-opt %s -p 'graph-canonicalize' | filecheck %s

// Attention and relayout print as they are parsed.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%q: tensor<1x64x128xbf16>, %k: tensor<1x96x128xbf16>, %v: tensor<1x96x128xbf16>, %mask: tensor<1x1x1x96xf32>) -> tensor<1x64x128xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.attention %q, %k, %v, %mask heads 2 kv_heads 2 scale 0.125 : (tensor<1x64x128xbf16>, tensor<1x96x128xbf16>, tensor<1x96x128xbf16>, tensor<1x1x1x96xf32>) -> tensor<1x64x128xbf16>
    func.return %0 : tensor<1x64x128xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%q: tensor<1x64x128xbf16>, %k: tensor<1x96x128xbf16>, %v: tensor<1x96x128xbf16>, %mask: tensor<1x1x1x96xf32>) -> tensor<1x64x128xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.attention %q, %k, %v, %mask heads 2 kv_heads 2 scale 0.125 : (tensor<1x64x128xbf16>, tensor<1x96x128xbf16>, tensor<1x96x128xbf16>, tensor<1x1x1x96xf32>) -> tensor<1x64x128xbf16>
// CHECK-NEXT:     func.return %0 : tensor<1x64x128xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
