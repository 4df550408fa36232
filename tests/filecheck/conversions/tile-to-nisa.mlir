// RUN: neuron-opt %s -p 'tile-to-nisa' | filecheck %s

// The whole way down from tiles: addresses, semaphores, one queue per engine, scalar registers.
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
      tile.store dst %out[4096*%i : 4096] src %y[0:64][0 : 64]
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<128x64xf32, #neuron.space<dram>>, %out: memref<128x64xbf16, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64, neuron.peak_sbuf_bytes = 768 : i64, neuron.peak_psum_bytes = 4096 : i64, neuron.spills = []} {
// CHECK-NEXT:     %t = nisa.alloc copies 2 at 0, 0 stride 256 : memref<64x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %p = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<64x64xf32, #neuron.space<psum>>
// CHECK-NEXT:     %y = nisa.alloc copies 2 at 0, 512 stride 128 : memref<64x64xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.queue pe {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control reg_move r2, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.nc_transpose on pe dst %p[0:64][r2 : 64] data %t[0:64][r1 : 64] wait(load0 >= r0 + 1) signal(pe)
// CHECK-NEXT:       nisa.control reg_add r0, r0, 1
// CHECK-NEXT:       nisa.control reg_rotate r1, 64, 128
// CHECK-NEXT:       nisa.control reg_rotate r2, 512, 1024
// CHECK-NEXT:       nisa.control branch_less r0, 2, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue act {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control reg_move r2, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.activation on act dst %y[0:64][r1 : 64] data %p[0:64][r2 : 64] {func = exp} wait(pe >= r0 + 1) signal(act)
// CHECK-NEXT:       nisa.control reg_add r0, r0, 1
// CHECK-NEXT:       nisa.control reg_rotate r1, 64, 128
// CHECK-NEXT:       nisa.control reg_rotate r2, 512, 1024
// CHECK-NEXT:       nisa.control branch_less r0, 2, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue dve {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.tensor_tensor on dve dst %y[0:64][r1 : 64] data %y[0:64][r1 : 64] other %y[0:64][r1 : 64] {op = multiply} wait(act >= r0 + 1) signal(dve)
// CHECK-NEXT:       nisa.control reg_add r0, r0, 1
// CHECK-NEXT:       nisa.control reg_rotate r1, 64, 128
// CHECK-NEXT:       nisa.control branch_less r0, 2, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue pool {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control reg_move r2, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.dma_copy on pool ring store0 dst %out[r1 : 4096] src %y[0:64][r2 : 64] wait(dve >= r0 + 1)
// CHECK-NEXT:       nisa.control reg_add r0, r0, 1
// CHECK-NEXT:       nisa.control reg_add r1, r1, 4096
// CHECK-NEXT:       nisa.control reg_rotate r2, 64, 128
// CHECK-NEXT:       nisa.control branch_less r0, 2, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue sp {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.dma_copy on sp ring load0 dst %t[0:64][r1 : 64] src %x[r0 : 4096] signal(load0)
// CHECK-NEXT:       nisa.control reg_add r0, r0, 4096
// CHECK-NEXT:       nisa.control reg_rotate r1, 64, 128
// CHECK-NEXT:       nisa.control branch_less r0, 8192, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
