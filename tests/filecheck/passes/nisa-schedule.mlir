// RUN: neuron-opt %s -p nisa-schedule | filecheck %s

// The first gather waits for its indices and would hold up the load of the second one's on the stream of sp.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%indices : memref<8xi32, #neuron.space<dram>>, %table : memref<100x64xf32, #neuron.space<dram>>, %out : memref<8x64xf32, #neuron.space<dram>>) {
    %i = nisa.alloc : memref<4x1xi32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %i[0:4][0 : 1] src %indices[0 : 4]
    %r = nisa.alloc : memref<4x64xf32, #neuron.space<sbuf>>
    nisa.dma_gather on sp ring load1 dst %r[0:4][0 : 64] table %table[0 : 64] indices %i[0:4][0 : 1] {rows = 100, row_stride = 64}
    nisa.dma_copy on pool ring store0 dst %out[0 : 256] src %r[0:4][0 : 64]
    %j = nisa.alloc : memref<4x1xi32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load2 dst %j[0:4][0 : 1] src %indices[4 : 4]
    %s = nisa.alloc : memref<4x64xf32, #neuron.space<sbuf>>
    nisa.dma_gather on sp ring load3 dst %s[0:4][0 : 64] table %table[0 : 64] indices %j[0:4][0 : 1] {rows = 100, row_stride = 64}
    nisa.dma_copy on pool ring store1 dst %out[256 : 256] src %s[0:4][0 : 64]
    func.return
  }
}

// CHECK:      func.func @neuron_0
// CHECK-NEXT:   %i = nisa.alloc
// CHECK-NEXT:   nisa.dma_copy on sp ring load0 dst %i
// CHECK-NEXT:   %j = nisa.alloc
// CHECK-NEXT:   nisa.dma_copy on sp ring load2 dst %j
// CHECK-NEXT:   %r = nisa.alloc
// CHECK-NEXT:   nisa.dma_gather on sp ring load1 dst %r
// CHECK-NEXT:   %s = nisa.alloc
// CHECK-NEXT:   nisa.dma_gather on sp ring load3 dst %s
// CHECK-NEXT:   nisa.dma_copy on pool ring store0
// CHECK-NEXT:   nisa.dma_copy on pool ring store1
