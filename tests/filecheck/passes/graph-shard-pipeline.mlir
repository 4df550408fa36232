// RUN: neuron-opt %s -p 'graph-shard-pipeline{cores=2}' | filecheck %s

// Two products of the same size: a stage each. What the second one adds to its result is an input of @main, and enters
// both stages.
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<64x512xbf16>) -> tensor<64x512xbf16> {
    %0 = neuron.launch @neuron_0(%x) on core : (tensor<64x512xbf16>) -> tensor<64x512xbf16>
    func.return %0 : tensor<64x512xbf16>
  }
  func.func private @neuron_0(%x: tensor<64x512xbf16>) -> tensor<64x512xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<512x512xbf16>
    %v = graph.weight @v : tensor<512x512xbf16>
    %0 = graph.matmul %x, %w : (tensor<64x512xbf16>, tensor<512x512xbf16>) -> tensor<64x512xbf16>
    %1 = graph.matmul %0, %v : (tensor<64x512xbf16>, tensor<512x512xbf16>) -> tensor<64x512xbf16>
    %2 = graph.binary add %1, %x : (tensor<64x512xbf16>, tensor<64x512xbf16>) -> tensor<64x512xbf16>
    func.return %2 : tensor<64x512xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<64x512xbf16>) -> tensor<64x512xbf16> {
// CHECK-NEXT:     %0 = neuron.launch @neuron_0_stage_0(%x) on core : (tensor<64x512xbf16>) -> tensor<64x512xbf16>
// CHECK-NEXT:     %1 = neuron.launch @neuron_0_stage_1(%0, %x) on core : (tensor<64x512xbf16>, tensor<64x512xbf16>) -> tensor<64x512xbf16>
// CHECK-NEXT:     func.return %1 : tensor<64x512xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_0_stage_0(%x: tensor<64x512xbf16>) -> tensor<64x512xbf16> attributes {neuron.executor = #neuron.executor<core>, neuron.pin_weights, neuron.pipeline_stage = 0 : i64, neuron.working_bytes = 94208 : i64} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<512x512xbf16>
// CHECK-NEXT:     %0 = graph.matmul %x, %w : (tensor<64x512xbf16>, tensor<512x512xbf16>) -> tensor<64x512xbf16>
// CHECK-NEXT:     func.return %0 : tensor<64x512xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_0_stage_1(%0: tensor<64x512xbf16>, %x: tensor<64x512xbf16>) -> tensor<64x512xbf16> attributes {neuron.executor = #neuron.executor<core>, neuron.pin_weights, neuron.pipeline_stage = 1 : i64, neuron.working_bytes = 94208 : i64} {
// CHECK-NEXT:     %v = graph.weight @v : tensor<512x512xbf16>
// CHECK-NEXT:     %1 = graph.matmul %0, %v : (tensor<64x512xbf16>, tensor<512x512xbf16>) -> tensor<64x512xbf16>
// CHECK-NEXT:     %2 = graph.binary add %1, %x : (tensor<64x512xbf16>, tensor<64x512xbf16>) -> tensor<64x512xbf16>
// CHECK-NEXT:     func.return %2 : tensor<64x512xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
