// RUN: neuron-opt %s -p 'graph-bound-scores' | filecheck %s

// The text has no weights, so that nothing is proved; what it says already stays.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%q: tensor<16x98x96xbf16>) -> (tensor<16x98x96xbf16>, tensor<16x98x96xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
    // CHECK: graph.attention %q, %q, %q heads 3 kv_heads 3 scale 0.25 : (
    %0 = graph.attention %q, %q, %q heads 3 kv_heads 3 scale 0.25 : (tensor<16x98x96xbf16>, tensor<16x98x96xbf16>, tensor<16x98x96xbf16>) -> tensor<16x98x96xbf16>
    // CHECK: graph.attention %q, %q, %q heads 3 kv_heads 3 scale 0.5 {graph.score_shift = 1.600000e+01 : f32} : (
    %1 = graph.attention %q, %q, %q heads 3 kv_heads 3 scale 0.5 {graph.score_shift = 1.600000e+01 : f32} : (tensor<16x98x96xbf16>, tensor<16x98x96xbf16>, tensor<16x98x96xbf16>) -> tensor<16x98x96xbf16>
    func.return %0, %1 : tensor<16x98x96xbf16>, tensor<16x98x96xbf16>
  }
}
