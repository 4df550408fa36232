// RUN: neuron-opt %s -p nisa-link-parts | filecheck %s

// A part that runs three times between two that run once. What it passes on lies in four copies, its weights lie one
// behind the other. Counts go on from part to part, and from iteration to iteration; the first instruction of each
// engine waits for all that came before.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<128x64xf32>) -> tensor<128x64xf32> {
    %0 = neuron.launch @part_0(%x) on core : (tensor<128x64xf32>) -> tensor<128x64xf32>
    %1 = neuron.launch @part_1(%0) on core times 3 : (tensor<128x64xf32>) -> tensor<128x64xf32>
    %2 = neuron.launch @part_2(%1) on core : (tensor<128x64xf32>) -> tensor<128x64xf32>
    func.return %2 : tensor<128x64xf32>
  }
  func.func private @part_0(%x: memref<128x64xf32, #neuron.space<dram>>, %y: memref<128x64xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64, neuron.part_of = "neuron_0"} {
    nisa.dma_copy on sp ring load0 dst %y[0 : 128 step 64, 64] src %x[0 : 128 step 64, 64]
    func.return
  }
  func.func private @part_1(%x: memref<128x64xf32, #neuron.space<dram>>, %y: memref<128x64xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64, neuron.part_of = "neuron_0", neuron.layer_weights = [["w0", "w1", "w2"]]} {
    %a = nisa.alloc at 0, 0 : memref<128x64xf32, #neuron.space<sbuf>>
    %w = nisa.param "w0" : memref<128x64xf32, #neuron.space<dram>>
    nisa.dma_copy on sp ring load0 dst %a[0:128][0 : 64] src %x[0 : 128 step 64, 64] signal(load0)
    nisa.dma_copy on sp ring load0 dst %y[0 : 128 step 64, 64] src %w[0 : 128 step 64, 64] signal(load0)
    nisa.activation on act dst %a[0:128][0 : 64] data %a[0:128][0 : 64] {func = relu} wait(load0 >= 1) signal(act)
    nisa.dma_copy on pool ring store0 dst %y[0 : 128 step 64, 64] src %a[0:128][0 : 64] wait(act >= 1, load0 >= 2)
    func.return
  }
  func.func private @part_2(%x: memref<128x64xf32, #neuron.space<dram>>, %y: memref<128x64xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64, neuron.part_of = "neuron_0"} {
    nisa.dma_copy on sp ring load0 dst %y[0 : 128 step 64, 64] src %x[0 : 128 step 64, 64]
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<128x64xf32>) -> tensor<128x64xf32> {
// CHECK-NEXT:     %0 = neuron.launch @neuron_0(%x) on core : (tensor<128x64xf32>) -> tensor<128x64xf32>
// CHECK-NEXT:     func.return %0 : tensor<128x64xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<128x64xf32, #neuron.space<dram>>, %y: memref<128x64xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64, neuron.macs = 0 : i64, neuron.compulsory_bytes = 65536 : i64} {
// CHECK-NEXT:     %carried = nisa.alloc : memref<4x128x64xf32, #neuron.space<dram>>
// CHECK-NEXT:     %a = nisa.alloc at 0, 0 : memref<128x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %w = nisa.param "w0.stacked" : memref<3x128x64xf32, #neuron.space<dram>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c3 = arith.constant 3 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %carried[0 : 128 step 64, 64] src %x[0 : 128 step 64, 64] signal(load0)
// CHECK-NEXT:     scf.for %layer = %c0 to %c3 step %c1 {
// CHECK-NEXT:       nisa.dma_copy on sp ring load0 dst %a[0:128][0 : 64] src %carried[8192*%layer : 128 step 64, 64] wait(act >= %layer, load0 >= 2*%layer + 1, store0 >= %layer) signal(load0)
// CHECK-NEXT:       nisa.dma_copy on sp ring load0 dst %carried[8192*%layer + 8192 : 128 step 64, 64] src %w[8192*%layer : 128 step 64, 64] signal(load0)
// CHECK-NEXT:       nisa.activation on act dst %a[0:128][0 : 64] data %a[0:128][0 : 64] {func = relu} wait(load0 >= 2*%layer + 2, act >= %layer, store0 >= %layer) signal(act)
// CHECK-NEXT:       nisa.dma_copy on pool ring store0 dst %carried[8192*%layer + 8192 : 128 step 64, 64] src %a[0:128][0 : 64] wait(act >= %layer + 1, load0 >= 2*%layer + 3, store0 >= %layer) signal(store0)
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %y[0 : 128 step 64, 64] src %carried[24576 : 128 step 64, 64] wait(act >= 3, load0 >= 7, store0 >= 3) signal(load0)
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @w0.stacked : tensor<3x128x64xf32> {
// CHECK-NEXT:     %0 = graph.weight @w0 : tensor<128x64xf32>
// CHECK-NEXT:     %1 = graph.reshape %0 : (tensor<128x64xf32>) -> tensor<1x128x64xf32>
// CHECK-NEXT:     %2 = graph.weight @w1 : tensor<128x64xf32>
// CHECK-NEXT:     %3 = graph.reshape %2 : (tensor<128x64xf32>) -> tensor<1x128x64xf32>
// CHECK-NEXT:     %4 = graph.weight @w2 : tensor<128x64xf32>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<128x64xf32>) -> tensor<1x128x64xf32>
// CHECK-NEXT:     %6 = graph.concat %1, %3, %5 axis 0 : (tensor<1x128x64xf32>, tensor<1x128x64xf32>, tensor<1x128x64xf32>) -> tensor<3x128x64xf32>
// CHECK-NEXT:     graph.yield %6 : tensor<3x128x64xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
