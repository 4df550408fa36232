// RUN: neuron-opt %s -p default | filecheck %s --match-full-lines
// RUN: neuron-opt %s -p to-graph | neuron-opt -p graph-to-tile | neuron-opt -p tile-to-nisa | filecheck %s --match-full-lines

// The whole pipeline, at once or level by level: an exponential becomes a launch of a core function. Each partition has
// 32768 elements (8 rows), which pass in 16 tiles of 2048. Load, exp and store run in three queues of their own, each with
// the loop and with registers for what it needs of the loop variable: offsets advance (reg_add) or rotate over the two
// copies of a buffer (reg_rotate), and the waits name the tile before last where a copy is written again.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<1024x4096xf32>) -> tensor<1024x4096xf32> {
    %y = graph.unary exp %x : (tensor<1024x4096xf32>) -> tensor<1024x4096xf32> loc("exp_0")
    func.return %y : tensor<1024x4096xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">, neuron.partition = ["exp_0|graph.unary|core|neuron_0|supported"]} {
// CHECK-NEXT:   func.func @main(%x: tensor<1024x4096xf32>) -> tensor<1024x4096xf32> {
// CHECK-NEXT:     %y = neuron.launch @neuron_0(%x) on core : (tensor<1024x4096xf32>) -> tensor<1024x4096xf32>
// CHECK-NEXT:     func.return %y : tensor<1024x4096xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @neuron_0(%x: memref<1024x4096xf32, #neuron.space<dram>>, %0: memref<1024x4096xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64, neuron.macs = 0 : i64, neuron.compulsory_bytes = 33554432 : i64, neuron.peak_sbuf_bytes = 32768 : i64, neuron.peak_psum_bytes = 0 : i64, neuron.spills = []} {
// CHECK-NEXT:     %1 = nisa.alloc copies 2 at 0, 0 stride 8192 : memref<128x2048xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %2 = nisa.alloc copies 2 at 0, 16384 stride 8192 : memref<128x2048xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.queue act {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.activation on act dst %2[0:128][r1 : 2048] data %1[0:128][r1 : 2048] {func = exp} wait(load0 >= r0 + 1, store0 >= r0 - 1) signal(act)
// CHECK-NEXT:       nisa.control reg_add r0, r0, 1
// CHECK-NEXT:       nisa.control reg_rotate r1, 2048, 4096
// CHECK-NEXT:       nisa.control branch_less r0, 16, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue pool {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control reg_move r2, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.dma_copy on pool ring store0 dst %0[r1 : 128 step 32768, 2048] src %2[0:128][r2 : 2048] wait(act >= r0 + 1) signal(store0)
// CHECK-NEXT:       nisa.control reg_add r0, r0, 1
// CHECK-NEXT:       nisa.control reg_add r1, r1, 2048
// CHECK-NEXT:       nisa.control reg_rotate r2, 2048, 4096
// CHECK-NEXT:       nisa.control branch_less r0, 16, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue sp {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control reg_move r2, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.dma_copy on sp ring load0 dst %1[0:128][r2 : 2048] src %x[r1 : 128 step 32768, 2048] wait(act >= r0 - 1) signal(load0)
// CHECK-NEXT:       nisa.control reg_add r0, r0, 1
// CHECK-NEXT:       nisa.control reg_add r1, r1, 2048
// CHECK-NEXT:       nisa.control reg_rotate r2, 2048, 4096
// CHECK-NEXT:       nisa.control branch_less r0, 16, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
