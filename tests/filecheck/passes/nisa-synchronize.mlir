// RUN: neuron-opt %s --split-input-file -p nisa-synchronize | filecheck %s

// A blocked matmul. pe is done with the k-th matmul of iteration i when it has completed 4i + k + 1 instructions.
// - load0 reuses the copy that matmul 4i + k - 3 read last. Having waited for that, the sp queue need not wait for pe in
//   front of load1, whose copy was last read in iteration i - 2.
// - A matmul waits for its two loads, and for the eviction of the bank that it overwrites (two iterations ago).
// - The eviction waits for the last matmul, and for the store that read its copy of %o; the store waits for the eviction.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%a: memref<128x4096xbf16, #neuron.space<dram>>, %b: memref<128x4096xbf16, #neuron.space<dram>>, %out: memref<128x4096xf32, #neuron.space<dram>>) {
    %p = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x512xf32, #neuron.space<psum>>
    %w = nisa.alloc copies 2 at 0, 0 stride 256 : memref<128x128xbf16, #neuron.space<sbuf>>
    %x = nisa.alloc copies 3 at 0, 512 stride 1024 : memref<128x512xbf16, #neuron.space<sbuf>>
    %o = nisa.alloc copies 2 at 0, 4096 stride 2048 : memref<128x512xf32, #neuron.space<sbuf>>
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c8 = arith.constant 8 : index
    scf.for %i = %c0 to %c8 step %c1 {
      %two = nisa.slot 2
      nisa.dma_copy on sp ring load1 dst %w[0:128][128*%two : 128] src %a[128*%i : 128 step 4096, 128]
      scf.for %k = %c0 to %c4 step %c1 {
        %three = nisa.slot 3
        nisa.dma_copy on sp ring load0 dst %x[0:128][512*%three : 512] src %b[512*%k : 128 step 4096, 512]
        nisa.nc_matmul on pe dst %p[0:128][512*%two : 512] stationary %w[0:128][128*%two : 128] moving %x[0:128][512*%three : 512] {accumulate = %k}
      }
      nisa.activation on act dst %o[0:128][512*%two : 512] data %p[0:128][512*%two : 512] {func = exp}
      nisa.dma_copy on pool ring store0 dst %out[512*%i : 128 step 4096, 512] src %o[0:128][512*%two : 512]
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%a: memref<128x4096xbf16, #neuron.space<dram>>, %b: memref<128x4096xbf16, #neuron.space<dram>>, %out: memref<128x4096xf32, #neuron.space<dram>>) {
// CHECK-NEXT:     %p = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x512xf32, #neuron.space<psum>>
// CHECK-NEXT:     %w = nisa.alloc copies 2 at 0, 0 stride 256 : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %x = nisa.alloc copies 3 at 0, 512 stride 1024 : memref<128x512xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %o = nisa.alloc copies 2 at 0, 4096 stride 2048 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c4 = arith.constant 4 : index
// CHECK-NEXT:     %c8 = arith.constant 8 : index
// CHECK-NEXT:     scf.for %i = %c0 to %c8 step %c1 {
// CHECK-NEXT:       %two = nisa.slot 2 : i64
// CHECK-NEXT:       nisa.dma_copy on sp ring load1 dst %w[0:128][128*%two : 128] src %a[128*%i : 128 step 4096, 128] signal(load1)
// CHECK-NEXT:       scf.for %k = %c0 to %c4 step %c1 {
// CHECK-NEXT:         %three = nisa.slot 3 : i64
// CHECK-NEXT:         nisa.dma_copy on sp ring load0 dst %x[0:128][512*%three : 512] src %b[512*%k : 128 step 4096, 512] wait(pe >= %k + 4*%i - 2) signal(load0)
// CHECK-NEXT:         nisa.nc_matmul on pe dst %p[0:128][512*%two : 512] stationary %w[0:128][128*%two : 128] moving %x[0:128][512*%three : 512] {accumulate = %k} wait(act >= %i - 1, load0 >= %k + 4*%i + 1, load1 >= %i + 1) signal(pe)
// CHECK-NEXT:       }
// CHECK-NEXT:       nisa.activation on act dst %o[0:128][512*%two : 512] data %p[0:128][512*%two : 512] {func = exp} wait(pe >= 4*%i + 4, store0 >= %i - 1) signal(act)
// CHECK-NEXT:       nisa.dma_copy on pool ring store0 dst %out[512*%i : 128 step 4096, 512] src %o[0:128][512*%two : 512] wait(act >= %i + 1) signal(store0)
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// The second loop reads in blocks of 128 what the first one wrote in blocks of 256: block j needs instruction j / 2 + 1 of
// act, which is affine in the loops of the reader. It begins while the writer goes on.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0() {
    %x = nisa.alloc at 0, 0 : memref<128x1024xf32, #neuron.space<sbuf>>
    %y = nisa.alloc at 0, 4096 : memref<128x1024xf32, #neuron.space<sbuf>>
    %z = nisa.alloc at 0, 8192 : memref<128x1024xf32, #neuron.space<sbuf>>
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    %c4 = arith.constant 4 : index
    scf.for %i = %c0 to %c4 step %c1 {
      nisa.activation on act dst %y[0:128][256*%i : 256] data %x[0:128][256*%i : 256] {func = exp}
    }
    scf.for %j = %c0 to %c4 step %c1 {
      scf.for %k = %c0 to %c2 step %c1 {
        nisa.tensor_copy on dve dst %z[0:128][256*%j + 128*%k : 128] data %y[0:128][256*%j + 128*%k : 128]
      }
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0() {
// CHECK-NEXT:     %x = nisa.alloc at 0, 0 : memref<128x1024xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %y = nisa.alloc at 0, 4096 : memref<128x1024xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %z = nisa.alloc at 0, 8192 : memref<128x1024xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c2 = arith.constant 2 : index
// CHECK-NEXT:     %c4 = arith.constant 4 : index
// CHECK-NEXT:     scf.for %i = %c0 to %c4 step %c1 {
// CHECK-NEXT:       nisa.activation on act dst %y[0:128][256*%i : 256] data %x[0:128][256*%i : 256] {func = exp} signal(act)
// CHECK-NEXT:     }
// CHECK-NEXT:     scf.for %j = %c0 to %c4 step %c1 {
// CHECK-NEXT:       scf.for %k = %c0 to %c2 step %c1 {
// CHECK-NEXT:         nisa.tensor_copy on dve dst %z[0:128][256*%j + 128*%k : 128] data %y[0:128][256*%j + 128*%k : 128] wait(act >= %j + 1)
// CHECK-NEXT:       }
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// A DMA that act triggers waits for act's own counter: its trigger may overtake what is still in act's pipeline. %y lies
// where %x was, so the memset waits for the store that read %x.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%in: memref<128x512xf32, #neuron.space<dram>>, %out: memref<128x512xf32, #neuron.space<dram>>) {
    %x = nisa.alloc at 0, 0 : memref<128x512xf32, #neuron.space<sbuf>>
    %y = nisa.alloc at 0, 1024 : memref<128x512xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 512] src %in[0 : 128 step 512, 512]
    nisa.activation on act dst %x[0:128][0 : 512] data %x[0:128][0 : 512] {func = exp}
    nisa.dma_copy on act ring store0 dst %out[0 : 128 step 512, 512] src %x[0:128][0 : 512]
    nisa.memset on dve dst %y[0:128][0 : 512]
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%in: memref<128x512xf32, #neuron.space<dram>>, %out: memref<128x512xf32, #neuron.space<dram>>) {
// CHECK-NEXT:     %x = nisa.alloc at 0, 0 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %y = nisa.alloc at 0, 1024 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 512] src %in[0 : 128 step 512, 512] signal(load0)
// CHECK-NEXT:     nisa.activation on act dst %x[0:128][0 : 512] data %x[0:128][0 : 512] {func = exp} wait(load0 >= 1) signal(act)
// CHECK-NEXT:     nisa.dma_copy on act ring store0 dst %out[0 : 128 step 512, 512] src %x[0:128][0 : 512] wait(act >= 1) signal(store0)
// CHECK-NEXT:     nisa.memset on dve dst %y[0:128][0 : 512] wait(store0 >= 1)
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// Waits that others imply are left out: the last copy need not wait for load0, because act did before it.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%in: memref<128x512xf32, #neuron.space<dram>>) {
    %x = nisa.alloc at 0, 0 : memref<128x512xf32, #neuron.space<sbuf>>
    %y = nisa.alloc at 0, 2048 : memref<128x512xf32, #neuron.space<sbuf>>
    %z = nisa.alloc at 0, 4096 : memref<128x512xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 512] src %in[0 : 128 step 512, 512]
    nisa.activation on act dst %y[0:128][0 : 512] data %x[0:128][0 : 512] {func = exp}
    nisa.tensor_tensor on dve dst %z[0:128][0 : 512] data %x[0:128][0 : 512] other %y[0:128][0 : 512] {op = add}
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%in: memref<128x512xf32, #neuron.space<dram>>) {
// CHECK-NEXT:     %x = nisa.alloc at 0, 0 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %y = nisa.alloc at 0, 2048 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %z = nisa.alloc at 0, 4096 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 512] src %in[0 : 128 step 512, 512] signal(load0)
// CHECK-NEXT:     nisa.activation on act dst %y[0:128][0 : 512] data %x[0:128][0 : 512] {func = exp} wait(load0 >= 1) signal(act)
// CHECK-NEXT:     nisa.tensor_tensor on dve dst %z[0:128][0 : 512] data %x[0:128][0 : 512] other %y[0:128][0 : 512] wait(act >= 1)
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
