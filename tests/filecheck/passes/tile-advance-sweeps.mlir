// RUN: neuron-opt %s -p 'tile-advance-sweeps' | filecheck %s

// A product whose sums become the second tile of %x, then activations of both tiles: those of the first, which was there
// before, move up with the load of their column; those of the second stay behind the product.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%b: memref<256xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %w = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
    tile.memset dst %w[0:128][0 : 128] {value = 1.0}
    %x = tile.alloc : memref<128x2x256xbf16, #neuron.space<sbuf>>
    tile.memset dst %x[0:128][0 : 256] {value = 1.0}
    scf.for %i = %c0 to %c4 step %c1 {
      %p = tile.alloc copies 2 : memref<128x64xf32, #neuron.space<psum>>
      tile.matmul dst %p[0:128][0 : 64] stationary %w[0:128][0 : 128] moving %x[0:128][64*%i : 64]
      tile.copy dst %x[0:128][256 + 64*%i : 64] data %p[0:128][0 : 64]
    }
    %column = tile.alloc : memref<128x2xf32, #neuron.space<sbuf>>
    tile.load dst %column[0:128][0 : 2] src %b[0 : 128, 2 step 128]
    %y = tile.alloc : memref<128x2x256xbf16, #neuron.space<sbuf>>
    scf.for %j = %c0 to %c4 step %c1 {
      tile.activation dst %y[0:128][64*%j : 64] data %x[0:128][64*%j : 64] bias %column[0:128][0 : 1] {func = relu}
    }
    scf.for %j = %c0 to %c4 step %c1 {
      tile.activation dst %y[0:128][256 + 64*%j : 64] data %x[0:128][256 + 64*%j : 64] bias %column[0:128][1 : 1] {func = relu}
    }
    func.return
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%b: memref<256xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c4 = arith.constant 4 : index
// CHECK-NEXT:     %w = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.memset dst %w[0:128][0 : 128] {value = 1.0}
// CHECK-NEXT:     %x = tile.alloc : memref<128x2x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.memset dst %x[0:128][0 : 256] {value = 1.0}
// CHECK-NEXT:     %column = tile.alloc : memref<128x2xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %y = tile.alloc : memref<128x2x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %column[0:128][0 : 2] src %b[0 : 128, 2 step 128]
// CHECK-NEXT:     scf.for %j = %c0 to %c4 step %c1 {
// CHECK-NEXT:       tile.activation dst %y[0:128][64*%j : 64] data %x[0:128][64*%j : 64] bias %column[0:128][0 : 1] {func = relu}
// CHECK-NEXT:     }
// CHECK-NEXT:     scf.for %i = %c0 to %c4 step %c1 {
// CHECK-NEXT:       %p = tile.alloc copies 2 : memref<128x64xf32, #neuron.space<psum>>
// CHECK-NEXT:       tile.matmul dst %p[0:128][0 : 64] stationary %w[0:128][0 : 128] moving %x[0:128][64*%i : 64]
// CHECK-NEXT:       tile.copy dst %x[0:128][64*%i + 256 : 64] data %p[0:128][0 : 64]
// CHECK-NEXT:     }
// CHECK-NEXT:     scf.for %j_1 = %c0 to %c4 step %c1 {
// CHECK-NEXT:       tile.activation dst %y[0:128][64*%j_1 + 256 : 64] data %x[0:128][64*%j_1 + 256 : 64] bias %column[0:128][1 : 1] {func = relu}
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
