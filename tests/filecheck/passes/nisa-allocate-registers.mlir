// RUN: neuron-opt %s -p nisa-allocate-registers | filecheck %s

// - Every distinct linear part has a register: 4i + k counts without ever being moved back, since the 4 that the inner loop
//   adds too much and the 4 that the outer one adds cancel.
// - Slots rotate at the end of the body that they stand in. A slot and an inner loop share a register (dve).
// - The loop counts with a register that is there anyway. A loop of one iteration vanishes (act).
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%b: memref<128x4096xbf16, #neuron.space<dram>>) {
    %p = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x512xf32, #neuron.space<psum>>
    %w = nisa.alloc at 0, 0 : memref<128x128xbf16, #neuron.space<sbuf>>
    %x = nisa.alloc copies 3 at 0, 512 stride 1024 : memref<128x512xbf16, #neuron.space<sbuf>>
    %o = nisa.alloc at 0, 4096 : memref<128x512xf32, #neuron.space<sbuf>>
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c8 = arith.constant 8 : index
    nisa.queue pe {
      scf.for %i = %c0 to %c8 step %c1 {
        %two = nisa.slot 2
        scf.for %k = %c0 to %c4 step %c1 {
          %three = nisa.slot 3
          nisa.nc_matmul on pe dst %p[0:128][512*%two : 512] stationary %w[0:128][0 : 128] moving %x[0:128][512*%three : 512] {accumulate = %k} wait(load0 >= 4*%i + %k + 1) signal(pe)
        }
      }
    }
    nisa.queue act {
      scf.for %i = %c0 to %c1 step %c1 {
        nisa.activation on act dst %o[0:128][64*%i : 512] data %o[0:128][0 : 512] wait(pe >= 4*%i + 4)
      }
    }
    nisa.queue dve {
      scf.for %i = %c0 to %c8 step %c1 {
        %two = nisa.slot 2
        scf.for %k = %c0 to %c4 step %c1 {
          nisa.tensor_copy on dve dst %o[0:128][128*%k : 128] data %p[0:128][512*%two + 128*%k : 128] wait(pe >= 4*%i + 4)
        }
      }
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%b: memref<128x4096xbf16, #neuron.space<dram>>) {
// CHECK-NEXT:     %p = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x512xf32, #neuron.space<psum>>
// CHECK-NEXT:     %w = nisa.alloc at 0, 0 : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %x = nisa.alloc copies 3 at 0, 512 stride 1024 : memref<128x512xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %o = nisa.alloc at 0, 4096 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.queue pe {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control reg_move r2, 0
// CHECK-NEXT:       nisa.control reg_move r3, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.control reg_move r4, 0
// CHECK-NEXT:       nisa.control label L1
// CHECK-NEXT:       nisa.nc_matmul on pe dst %p[0:128][r2 : 512] stationary %w[0:128][0 : 128] moving %x[0:128][r3 : 512] {accumulate = r4} wait(load0 >= r1 + 1) signal(pe)
// CHECK-NEXT:       nisa.control reg_add r1, r1, 1
// CHECK-NEXT:       nisa.control reg_add r4, r4, 1
// CHECK-NEXT:       nisa.control reg_rotate r3, 512, 1536
// CHECK-NEXT:       nisa.control branch_less r4, 4, L1
// CHECK-NEXT:       nisa.control reg_add r0, r0, 1
// CHECK-NEXT:       nisa.control reg_rotate r2, 512, 1024
// CHECK-NEXT:       nisa.control branch_less r0, 8, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue act {
// CHECK-NEXT:       nisa.activation on act dst %o[0:128][0 : 512] data %o[0:128][0 : 512] wait(pe >= 4)
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.queue dve {
// CHECK-NEXT:       nisa.control reg_move r0, 0
// CHECK-NEXT:       nisa.control reg_move r1, 0
// CHECK-NEXT:       nisa.control label L0
// CHECK-NEXT:       nisa.control reg_move r2, 0
// CHECK-NEXT:       nisa.control label L1
// CHECK-NEXT:       nisa.tensor_copy on dve dst %o[0:128][r2 : 128] data %p[0:128][r1 : 128] wait(pe >= r0 + 4)
// CHECK-NEXT:       nisa.control reg_add r1, r1, 128
// CHECK-NEXT:       nisa.control reg_add r2, r2, 128
// CHECK-NEXT:       nisa.control branch_less r2, 512, L1
// CHECK-NEXT:       nisa.control reg_add r0, r0, 4
// CHECK-NEXT:       nisa.control reg_add r1, r1, -512
// CHECK-NEXT:       nisa.control reg_rotate r1, 512, 1024
// CHECK-NEXT:       nisa.control branch_less r0, 32, L0
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
