// RUN: neuron-opt %s -p 'convert-tile-to-nisa' | filecheck %s

// An engine for each op, rings for loads and stores; a view of five free dimensions becomes a loop over four.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: memref<128x64xf32, #neuron.space<dram>>, %out: memref<128x64xbf16, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    scf.for %i = %c0 to %c2 step %c1 {
      %t = tile.alloc copies 2 : memref<64x64xf32, #neuron.space<sbuf>>
      %p = tile.alloc copies 2 : memref<64x64xf32, #neuron.space<psum>>
      %y = tile.alloc copies 2 : memref<64x64xbf16, #neuron.space<sbuf>>
      tile.load dst %t[0:64][0 : 64] src %x[4096*%i : 4096]
      tile.transpose dst %p[0:64][0 : 64] data %t[0:64][0 : 64]
      tile.activation dst %y[0:64][0 : 64] data %p[0:64][0 : 64] {func = exp}
      tile.tensor_tensor dst %y[0:64][0 : 64] data %y[0:64][0 : 64] other %y[0:64][0 : 64] {op = multiply}
      tile.memset dst %t[0:64][0 : 2 step 32, 2 step 16, 2 step 8, 2 step 4, 2] {value = 1.0}
      tile.store dst %out[4096*%i : 4096] src %y[0:64][0 : 64]
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<128x64xf32, #neuron.space<dram>>, %out: memref<128x64xbf16, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
// CHECK-NEXT:     %0 = arith.constant 1 : index
// CHECK-NEXT:     %1 = arith.constant 2 : index
// CHECK-NEXT:     %2 = arith.constant 0 : index
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c2 = arith.constant 2 : index
// CHECK-NEXT:     scf.for %i = %c0 to %c2 step %c1 {
// CHECK-NEXT:       %t = nisa.alloc copies 2 : memref<64x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:       %p = nisa.alloc copies 2 : memref<64x64xf32, #neuron.space<psum>>
// CHECK-NEXT:       %y = nisa.alloc copies 2 : memref<64x64xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:       nisa.dma_copy on sp ring load0 dst %t[0:64][0 : 64] src %x[4096*%i : 4096]
// CHECK-NEXT:       nisa.nc_transpose on pe dst %p[0:64][0 : 64] data %t[0:64][0 : 64]
// CHECK-NEXT:       nisa.activation on act dst %y[0:64][0 : 64] data %p[0:64][0 : 64] {func = exp}
// CHECK-NEXT:       nisa.tensor_tensor on dve dst %y[0:64][0 : 64] data %y[0:64][0 : 64] other %y[0:64][0 : 64] {op = multiply}
// CHECK-NEXT:       scf.for %3 = %2 to %1 step %0 {
// CHECK-NEXT:         nisa.memset on pool dst %t[0:64][32*%3 : 8 step 4, 2] {value = 1.0}
// CHECK-NEXT:       }
// CHECK-NEXT:       nisa.dma_copy on pool ring store0 dst %out[4096*%i : 4096] src %y[0:64][0 : 64]
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
