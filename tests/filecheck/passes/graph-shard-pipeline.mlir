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
// CHECK-NEXT:     %0 = neuron.launch @neuron_0_stage_0(%x) on core : (tensor<64x512xbf16>) -> tensor<64x512xf32>
// CHECK-NEXT:     %1 = neuron.launch @neuron_0_stage_1(%x, %0) on core : (tensor<64x512xbf16>, tensor<64x512xf32>) -> tensor<64x512xbf16>
// CHECK-NEXT:     func.return %1 : tensor<64x512xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_0_stage_0(%x: tensor<64x512xbf16>) -> tensor<64x512xf32> attributes {neuron.executor = #neuron.executor<core>, neuron.pin_weights, neuron.pipeline_stage = 0 : i64, neuron.pipeline_core = 0 : i64, neuron.working_bytes = 94208 : i64} {
// CHECK-NEXT:     %0 = graph.weight @w$slice : tensor<512x256xbf16>
// CHECK-NEXT:     %1 = graph.matmul %x, %0 : (tensor<64x512xbf16>, tensor<512x256xbf16>) -> tensor<64x256xbf16>
// CHECK-NEXT:     %2 = graph.weight @v$slice : tensor<256x512xbf16>
// CHECK-NEXT:     %3 = graph.matmul %1, %2 : (tensor<64x256xbf16>, tensor<256x512xbf16>) -> tensor<64x512xf32>
// CHECK-NEXT:     func.return %3 : tensor<64x512xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_0_stage_1(%x: tensor<64x512xbf16>, %0: tensor<64x512xf32>) -> tensor<64x512xbf16> attributes {neuron.executor = #neuron.executor<core>, neuron.pin_weights, neuron.pipeline_stage = 1 : i64, neuron.pipeline_core = 1 : i64, neuron.working_bytes = 94208 : i64} {
// CHECK-NEXT:     %1 = graph.weight @w$slice.2 : tensor<512x256xbf16>
// CHECK-NEXT:     %2 = graph.matmul %x, %1 : (tensor<64x512xbf16>, tensor<512x256xbf16>) -> tensor<64x256xbf16>
// CHECK-NEXT:     %3 = graph.weight @v$slice.2 : tensor<256x512xbf16>
// CHECK-NEXT:     %4 = graph.fused (%5 = %2, %6 = %3, %7 = %0) : (tensor<64x256xbf16>, tensor<256x512xbf16>, tensor<64x512xf32>) -> tensor<64x512xbf16> {
// CHECK-NEXT:       %8 = graph.matmul %5, %6 : (tensor<64x256xbf16>, tensor<256x512xbf16>) -> tensor<64x512xf32>
// CHECK-NEXT:       %9 = graph.binary add %8, %7 : (tensor<64x512xf32>, tensor<64x512xf32>) -> tensor<64x512xf32>
// CHECK-NEXT:       %10 = graph.cast %9 : (tensor<64x512xf32>) -> tensor<64x512xbf16>
// CHECK-NEXT:       graph.yield %10 : tensor<64x512xbf16>
// CHECK-NEXT:     }
// CHECK-NEXT:     %5 = graph.binary add %4, %x : (tensor<64x512xbf16>, tensor<64x512xbf16>) -> tensor<64x512xbf16>
// CHECK-NEXT:     func.return %5 : tensor<64x512xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @w$slice : tensor<512x256xbf16> {
// CHECK-NEXT:     %w = graph.weight @w : tensor<512x512xbf16>
// CHECK-NEXT:     %0 = graph.slice %w starts [0, 0] sizes [512, 256] steps [1, 1] : (tensor<512x512xbf16>) -> tensor<512x256xbf16>
// CHECK-NEXT:     graph.yield %0 : tensor<512x256xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @v$slice : tensor<256x512xbf16> {
// CHECK-NEXT:     %v = graph.weight @v : tensor<512x512xbf16>
// CHECK-NEXT:     %0 = graph.slice %v starts [0, 0] sizes [256, 512] steps [1, 1] : (tensor<512x512xbf16>) -> tensor<256x512xbf16>
// CHECK-NEXT:     graph.yield %0 : tensor<256x512xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @w$slice.2 : tensor<512x256xbf16> {
// CHECK-NEXT:     %w = graph.weight @w : tensor<512x512xbf16>
// CHECK-NEXT:     %0 = graph.slice %w starts [0, 256] sizes [512, 256] steps [1, 1] : (tensor<512x512xbf16>) -> tensor<512x256xbf16>
// CHECK-NEXT:     graph.yield %0 : tensor<512x256xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @v$slice.2 : tensor<256x512xbf16> {
// CHECK-NEXT:     %v = graph.weight @v : tensor<512x512xbf16>
// CHECK-NEXT:     %0 = graph.slice %v starts [256, 0] sizes [256, 512] steps [1, 1] : (tensor<512x512xbf16>) -> tensor<256x512xbf16>
// CHECK-NEXT:     graph.yield %0 : tensor<256x512xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
