// RUN: neuron-opt %s -p nisa-pin-weights | filecheck %s

// Each iteration loads another tile of the weight: the buffer becomes eight places, filled when the model is loaded, and
// the reader moves from one to the next. The input is loaded in each run.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: memref<1024x64xbf16, #neuron.space<dram>>, %y: memref<64x256xf32, #neuron.space<dram>>) attributes {neuron.pin_weights} {
    %w = nisa.param "w" : memref<1024x256xbf16, #neuron.space<dram>>
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    %p = nisa.alloc : memref<64x256xf32, #neuron.space<psum>>
    %o = nisa.alloc : memref<64x256xf32, #neuron.space<sbuf>>
    scf.for %i = %c0 to %c8 step %c1 {
      %a = nisa.alloc copies 2 : memref<128x64xbf16, #neuron.space<sbuf>>
      nisa.dma_copy on sp ring load0 dst %a[0:128][0 : 64] src %x[8192*%i : 128 step 64, 64]
      %t = nisa.alloc copies 2 : memref<128x256xbf16, #neuron.space<sbuf>>
      nisa.dma_copy on sp ring load1 dst %t[0:128][0 : 256] src %w[32768*%i : 128 step 256, 256]
      nisa.nc_matmul on pe dst %p[0:64][0 : 256] stationary %a[0:128][0 : 64] moving %t[0:128][0 : 256] {accumulate = %i}
    }
    nisa.tensor_copy on dve dst %o[0:64][0 : 256] data %p[0:64][0 : 256]
    nisa.dma_copy on pool ring store0 dst %y[0 : 64 step 256, 256] src %o[0:64][0 : 256]
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<1024x64xbf16, #neuron.space<dram>>, %y: memref<64x256xf32, #neuron.space<dram>>) attributes {neuron.pin_weights, neuron.pinned_bytes = 4096 : i64, neuron.streamed_weights = []} {
// CHECK-NEXT:     %w = nisa.param "w" : memref<1024x256xbf16, #neuron.space<dram>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c8 = arith.constant 8 : index
// CHECK-NEXT:     %t = nisa.alloc : memref<128x8x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.pinned {
// CHECK-NEXT:       nisa.dma_copy on sp ring pinned dst %t[0:128][0 : 256] src %w[0 : 128 step 256, 256]
// CHECK-NEXT:       nisa.dma_copy on sp ring pinned dst %t[0:128][256 : 256] src %w[32768 : 128 step 256, 256]
// CHECK-NEXT:       nisa.dma_copy on sp ring pinned dst %t[0:128][512 : 256] src %w[65536 : 128 step 256, 256]
// CHECK-NEXT:       nisa.dma_copy on sp ring pinned dst %t[0:128][768 : 256] src %w[98304 : 128 step 256, 256]
// CHECK-NEXT:       nisa.dma_copy on sp ring pinned dst %t[0:128][1024 : 256] src %w[131072 : 128 step 256, 256]
// CHECK-NEXT:       nisa.dma_copy on sp ring pinned dst %t[0:128][1280 : 256] src %w[163840 : 128 step 256, 256]
// CHECK-NEXT:       nisa.dma_copy on sp ring pinned dst %t[0:128][1536 : 256] src %w[196608 : 128 step 256, 256]
// CHECK-NEXT:       nisa.dma_copy on sp ring pinned dst %t[0:128][1792 : 256] src %w[229376 : 128 step 256, 256]
// CHECK-NEXT:     }
// CHECK-NEXT:     %p = nisa.alloc : memref<64x256xf32, #neuron.space<psum>>
// CHECK-NEXT:     %o = nisa.alloc : memref<64x256xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     scf.for %i = %c0 to %c8 step %c1 {
// CHECK-NEXT:       %a = nisa.alloc copies 2 : memref<128x64xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:       nisa.dma_copy on sp ring load0 dst %a[0:128][0 : 64] src %x[8192*%i : 128 step 64, 64]
// CHECK-NEXT:       nisa.nc_matmul on pe dst %p[0:64][0 : 256] stationary %a[0:128][0 : 64] moving %t[0:128][256*%i : 256] {accumulate = %i}
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.tensor_copy on dve dst %o[0:64][0 : 256] data %p[0:64][0 : 256]
// CHECK-NEXT:     nisa.dma_copy on pool ring store0 dst %y[0 : 64 step 256, 256] src %o[0:64][0 : 256]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
