// RUN: neuron-opt %s --split-input-file -p nisa-allocate | filecheck %s

// Buffers of a loop get addresses for all their copies; accesses begin at the copy in use. Buffers that stand in one
// block with equally many copies share a slot. A PSUM buffer takes whole banks (2048 bytes).
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%in: memref<128x4096xf32, #neuron.space<dram>>, %w: memref<128x512xf32, #neuron.space<dram>>) {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    scf.for %i = %c0 to %c8 step %c1 {
      %x = nisa.alloc copies 2 : memref<128x512xf32, #neuron.space<sbuf>>
      %p = nisa.alloc copies 2 : memref<128x256xf32, #neuron.space<psum>>
      nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 512] src %in[512*%i : 128 step 4096, 512]
      nisa.nc_matmul on pe dst %p[0:128][0 : 256] stationary %x[0:128][0 : 128] moving %x[0:128][128 : 256]
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%in: memref<128x4096xf32, #neuron.space<dram>>, %w: memref<128x512xf32, #neuron.space<dram>>) attributes {neuron.peak_sbuf_bytes = 4096 : i64, neuron.peak_psum_bytes = 4096 : i64, neuron.spills = []} {
// CHECK-NEXT:     %x = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x512xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %p = nisa.alloc copies 2 at 0, 0 stride 2048 : memref<128x256xf32, #neuron.space<psum>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c8 = arith.constant 8 : index
// CHECK-NEXT:     scf.for %i = %c0 to %c8 step %c1 {
// CHECK-NEXT:       %slot = nisa.slot 2 : i64
// CHECK-NEXT:       nisa.dma_copy on sp ring load0 dst %x[0:128][512*%slot : 512] src %in[512*%i : 128 step 4096, 512]
// CHECK-NEXT:       nisa.nc_matmul on pe dst %p[0:128][512*%slot : 256] stationary %x[0:128][512*%slot : 128] moving %x[0:128][512*%slot + 128 : 256]
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// Buffers that do not live at the same time: the third one could lie where the first was, but is given a place that
// nobody used just now. What the tightest placement needs is 2 x 4096 bytes.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%in: memref<128x1024xf32, #neuron.space<dram>>) {
    %x = nisa.alloc : memref<128x1024xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 1024] src %in[0 : 128 step 1024, 1024]
    %y = nisa.alloc : memref<128x1024xf32, #neuron.space<sbuf>>
    nisa.tensor_copy on dve dst %y[0:128][0 : 1024] data %x[0:128][0 : 1024]
    %z = nisa.alloc : memref<128x1024xf32, #neuron.space<sbuf>>
    nisa.tensor_copy on dve dst %z[0:128][0 : 1024] data %y[0:128][0 : 1024]
    nisa.dma_copy on pool ring store0 dst %in[0 : 128 step 1024, 1024] src %z[0:128][0 : 1024]
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%in: memref<128x1024xf32, #neuron.space<dram>>) attributes {neuron.peak_sbuf_bytes = 8192 : i64, neuron.peak_psum_bytes = 0 : i64, neuron.spills = []} {
// CHECK-NEXT:     %x = nisa.alloc at 0, 0 : memref<128x1024xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %y = nisa.alloc at 0, 4096 : memref<128x1024xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %z = nisa.alloc at 0, 8192 : memref<128x1024xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 1024] src %in[0 : 128 step 1024, 1024]
// CHECK-NEXT:     nisa.tensor_copy on dve dst %y[0:128][0 : 1024] data %x[0:128][0 : 1024]
// CHECK-NEXT:     nisa.tensor_copy on dve dst %z[0:128][0 : 1024] data %y[0:128][0 : 1024]
// CHECK-NEXT:     nisa.dma_copy on pool ring store0 dst %in[0 : 128 step 1024, 1024] src %z[0:128][0 : 1024]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// 3 x 61440 bytes fit into the 180224 of a partition only as 2 x 61440: the buffer loses a copy, and the function says so.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%in: memref<128x15360xf32, #neuron.space<dram>>) {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    scf.for %i = %c0 to %c8 step %c1 {
      %x = nisa.alloc copies 3 : memref<128x15360xf32, #neuron.space<sbuf>>
      nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 15360] src %in[0 : 128 step 15360, 15360]
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%in: memref<128x15360xf32, #neuron.space<dram>>) attributes {neuron.peak_sbuf_bytes = 122880 : i64, neuron.peak_psum_bytes = 0 : i64, neuron.spills = [], neuron.reduced_copies = ["%x: 2 copies instead of 3, 61440 bytes per partition each"]} {
// CHECK-NEXT:     %x = nisa.alloc copies 2 at 0, 0 stride 61440 : memref<128x15360xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c8 = arith.constant 8 : index
// CHECK-NEXT:     scf.for %i = %c0 to %c8 step %c1 {
// CHECK-NEXT:       %slot = nisa.slot 2 : i64
// CHECK-NEXT:       nisa.dma_copy on sp ring load0 dst %x[0:128][15360*%slot : 15360] src %in[0 : 128 step 15360, 15360]
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// x is idle while y and z, which fill most of a partition, are used: it is stored to DRAM and reloaded. Only the part
// that was written is moved. The transfers carry the locations of the instructions that they serve.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%in: memref<128x20480xf32, #neuron.space<dram>>) {
    %x = nisa.alloc : memref<128x8192xf32, #neuron.space<sbuf>>
    %y = nisa.alloc : memref<128x20480xf32, #neuron.space<sbuf>>
    %z = nisa.alloc : memref<128x20480xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %x[0:128][0 : 4096] src %in[0 : 128 step 20480, 4096]
    nisa.dma_copy on sp ring load0 dst %y[0:128][0 : 20480] src %in[0 : 128 step 20480, 20480]
    nisa.tensor_copy on dve dst %z[0:128][0 : 20480] data %y[0:128][0 : 20480]
    nisa.dma_copy on pool ring store0 dst %in[0 : 128 step 20480, 20480] src %z[0:128][0 : 20480]
    nisa.dma_copy on pool ring store0 dst %in[0 : 128 step 20480, 4096] src %x[0:128][0 : 4096]
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0(%in: memref<128x20480xf32, #neuron.space<dram>>) attributes {neuron.peak_sbuf_bytes = 163840 : i64, neuron.peak_psum_bytes = 0 : i64, neuron.spills = ["4194304 bytes (stores: 1, reloads: 1)"]} {
// CHECK-NEXT:     %y = nisa.alloc at 0, 0 : memref<128x20480xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %z = nisa.alloc at 0, 81920 : memref<128x20480xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %x_part = nisa.alloc at 0, 81920 : memref<128x8192xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %x_part_1 = nisa.alloc at 0, 0 : memref<128x8192xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %x_spilled = nisa.alloc : memref<128x8192xf32, #neuron.space<dram>>
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %x_part[0:128][0 : 4096] src %in[0 : 128 step 20480, 4096]
// CHECK-NEXT:     nisa.dma_copy on pool ring spill dst %x_spilled[0 : 128 step 8192, 4096] src %x_part[0:128][0 : 4096]
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %y[0:128][0 : 20480] src %in[0 : 128 step 20480, 20480]
// CHECK-NEXT:     nisa.tensor_copy on dve dst %z[0:128][0 : 20480] data %y[0:128][0 : 20480]
// CHECK-NEXT:     nisa.dma_copy on pool ring store0 dst %in[0 : 128 step 20480, 20480] src %z[0:128][0 : 20480]
// CHECK-NEXT:     nisa.dma_copy on sp ring reload dst %x_part_1[0:128][0 : 4096] src %x_spilled[0 : 128 step 8192, 4096]
// CHECK-NEXT:     nisa.dma_copy on pool ring store0 dst %in[0 : 128 step 20480, 4096] src %x_part_1[0:128][0 : 4096]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// Ten times 281 units of 64 bytes are live at once, of 2,816 that there are. Greedy orders need eleven times 281; the
// search finds addresses, so that nobody is spilled.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0() {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    %a = nisa.alloc : memref<128x8992xf32, #neuron.space<sbuf>>
    %b = nisa.alloc : memref<128x13488xf32, #neuron.space<sbuf>>
    %c = nisa.alloc : memref<128x13488xf32, #neuron.space<sbuf>>
    %d = nisa.alloc : memref<128x8992xf32, #neuron.space<sbuf>>
    %e = nisa.alloc : memref<128x17984xf32, #neuron.space<sbuf>>
    %f = nisa.alloc : memref<128x17984xf32, #neuron.space<sbuf>>
    scf.for %i = %c0 to %c2 step %c1 {
      nisa.memset on dve dst %a[0:128][%i : 1]
      nisa.memset on dve dst %d[0:128][%i : 1]
    }
    scf.for %i = %c0 to %c2 step %c1 {
      nisa.memset on dve dst %b[0:128][%i : 1]
      nisa.memset on dve dst %c[0:128][%i : 1]
      nisa.memset on dve dst %d[0:128][%i : 1]
    }
    scf.for %i = %c0 to %c2 step %c1 {
      nisa.memset on dve dst %b[0:128][%i : 1]
      nisa.memset on dve dst %e[0:128][%i : 1]
    }
    scf.for %i = %c0 to %c2 step %c1 {
      nisa.memset on dve dst %a[0:128][%i : 1]
      nisa.memset on dve dst %e[0:128][%i : 1]
      nisa.memset on dve dst %f[0:128][%i : 1]
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0() attributes {neuron.peak_sbuf_bytes = 179840 : i64, neuron.peak_psum_bytes = 0 : i64, neuron.spills = []} {
// CHECK-NEXT:     %a = nisa.alloc at 0, 143872 : memref<128x8992xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %b = nisa.alloc at 0, 89920 : memref<128x13488xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %c = nisa.alloc at 0, 0 : memref<128x13488xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %d = nisa.alloc at 0, 53952 : memref<128x8992xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %e = nisa.alloc at 0, 0 : memref<128x17984xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %f = nisa.alloc at 0, 71936 : memref<128x17984xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c2 = arith.constant 2 : index
// CHECK-NEXT:     scf.for %i = %c0 to %c2 step %c1 {
// CHECK-NEXT:       nisa.memset on dve dst %a[0:128][%i : 1]
// CHECK-NEXT:       nisa.memset on dve dst %d[0:128][%i : 1]
// CHECK-NEXT:     }
// CHECK-NEXT:     scf.for %i_1 = %c0 to %c2 step %c1 {
// CHECK-NEXT:       nisa.memset on dve dst %b[0:128][%i_1 : 1]
// CHECK-NEXT:       nisa.memset on dve dst %c[0:128][%i_1 : 1]
// CHECK-NEXT:       nisa.memset on dve dst %d[0:128][%i_1 : 1]
// CHECK-NEXT:     }
// CHECK-NEXT:     scf.for %i_2 = %c0 to %c2 step %c1 {
// CHECK-NEXT:       nisa.memset on dve dst %b[0:128][%i_2 : 1]
// CHECK-NEXT:       nisa.memset on dve dst %e[0:128][%i_2 : 1]
// CHECK-NEXT:     }
// CHECK-NEXT:     scf.for %i_3 = %c0 to %c2 step %c1 {
// CHECK-NEXT:       nisa.memset on dve dst %a[0:128][%i_3 : 1]
// CHECK-NEXT:       nisa.memset on dve dst %e[0:128][%i_3 : 1]
// CHECK-NEXT:       nisa.memset on dve dst %f[0:128][%i_3 : 1]
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
