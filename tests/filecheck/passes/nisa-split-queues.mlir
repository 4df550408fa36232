// RUN: neuron-opt %s -p nisa-split-queues | filecheck %s

// Each engine gets its instructions and the loops around them: dve has no part in the inner loop, pe and sp need both.
// A slot advances in each queue that uses it; a DMA is in the queue of the engine that triggers it.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%b: memref<128x4096xbf16, #neuron.space<dram>>) {
    %p = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x512xf32, #neuron.space<psum>>
    %w = nisa.alloc at 0, 0 : memref<128x128xbf16, #neuron.space<sbuf>>
    %x = nisa.alloc copies 3 at 0, 512 stride 1024 : memref<128x512xbf16, #neuron.space<sbuf>>
    %o = nisa.alloc copies 2 at 0, 4096 stride 2048 : memref<128x512xf32, #neuron.space<sbuf>>
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c8 = arith.constant 8 : index
    scf.for %i = %c0 to %c8 step %c1 {
      %two = nisa.slot 2
      scf.for %k = %c0 to %c4 step %c1 {
        %three = nisa.slot 3
        nisa.dma_copy on sp ring load0 dst %x[0:128][512*%three : 512] src %b[512*%k : 128 step 4096, 512] wait(pe >= 4*%i + %k - 2) signal(load0)
        nisa.nc_matmul on pe dst %p[0:128][512*%two : 512] stationary %w[0:128][0 : 128] moving %x[0:128][512*%three : 512] {accumulate = %k} wait(dve >= %i - 1, load0 >= 4*%i + %k + 1) signal(pe)
      }
      nisa.tensor_copy on dve dst %o[0:128][512*%two : 512] data %p[0:128][512*%two : 512] wait(pe >= 4*%i + 4) signal(dve)
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%b: memref<128x4096xbf16, #neuron.space<dram>>) {
// CHECK-NEXT:     %p = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x512xf32, #neuron.space<psum>>
// CHECK-NEXT:     %w = nisa.alloc at 0, 0 : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %x = nisa.alloc copies 3 at 0, 512 stride 1024 : memref<128x512xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %o = nisa.alloc copies 2 at 0, 4096 stride 2048 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c4 = arith.constant 4 : index
// CHECK-NEXT:     %c8 = arith.constant 8 : index
// CHECK-NEXT:     nisa.queue pe {
// CHECK-NEXT:       scf.for %i = %c0 to %c8 step %c1 {
// CHECK-NEXT:         %two = nisa.slot 2 : i64
// CHECK-NEXT:         scf.for %k = %c0 to %c4 step %c1 {
// CHECK-NEXT:           %three = nisa.slot 3 : i64
// CHECK-NEXT:           nisa.nc_matmul on pe dst %p[0:128][512*%two : 512] stationary %w[0:128][0 : 128] moving %x[0:128][512*%three : 512] {accumulate = %k} wait(dve >= %i - 1, load0 >= %k + 4*%i + 1) signal(pe)
// CHECK-NEXT:         }
// CHECK-NEXT:       }
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue dve {
// CHECK-NEXT:       scf.for %i_1 = %c0 to %c8 step %c1 {
// CHECK-NEXT:         %two_1 = nisa.slot 2 : i64
// CHECK-NEXT:         nisa.tensor_copy on dve dst %o[0:128][512*%two_1 : 512] data %p[0:128][512*%two_1 : 512] wait(pe >= 4*%i_1 + 4) signal(dve)
// CHECK-NEXT:       }
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue sp {
// CHECK-NEXT:       scf.for %i_2 = %c0 to %c8 step %c1 {
// CHECK-NEXT:         scf.for %k_1 = %c0 to %c4 step %c1 {
// CHECK-NEXT:           %three_1 = nisa.slot 3 : i64
// CHECK-NEXT:           nisa.dma_copy on sp ring load0 dst %x[0:128][512*%three_1 : 512] src %b[512*%k_1 : 128 step 4096, 512] wait(pe >= %k_1 + 4*%i_2 - 2) signal(load0)
// CHECK-NEXT:         }
// CHECK-NEXT:       }
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
