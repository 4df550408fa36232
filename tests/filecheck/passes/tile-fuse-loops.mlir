// RUN: neuron-opt %s -p 'tile-fuse-loops' | filecheck %s

// A product of tiles of rows and what is done with each row after it: one loop; the scale that the second needs is
// loaded before. The loop that loads what the first one stores stays apart.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: memref<4x128x64xbf16, #neuron.space<dram>>, %s: memref<64xf32, #neuron.space<dram>>, %y: memref<4x128x64xf32, #neuron.space<dram>>, %z: memref<4x128x64xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %sum = tile.alloc : memref<128x4x64xf32, #neuron.space<sbuf>>
    scf.for %i = %c0 to %c4 step %c1 {
      %a = tile.alloc copies 2 : memref<128x64xbf16, #neuron.space<sbuf>>
      tile.load dst %a[0:128][0 : 64] src %x[8192*%i : 128 step 64, 64]
      %p = tile.alloc copies 2 : memref<64x64xf32, #neuron.space<psum>>
      tile.matmul dst %p[0:64][0 : 64] stationary %a[0:128][0 : 64] moving %a[0:128][0 : 64]
      tile.copy dst %sum[0:64][64*%i : 64] data %p[0:64][0 : 64]
    }
    %scale = tile.alloc : memref<128x64xf32, #neuron.space<sbuf>>
    tile.load dst %scale[0:128][0 : 64] src %s[0 : 128 step 0, 64]
    scf.for %j = %c0 to %c4 step %c1 {
      %b = tile.alloc copies 2 : memref<128x64xf32, #neuron.space<sbuf>>
      tile.tensor_tensor dst %b[0:64][0 : 64] data %sum[0:64][64*%j : 64] other %scale[0:64][0 : 64] {op = multiply}
      tile.store dst %y[8192*%j : 64 step 64, 64] src %b[0:64][0 : 64]
    }
    scf.for %k = %c0 to %c4 step %c1 {
      %c = tile.alloc copies 2 : memref<128x64xf32, #neuron.space<sbuf>>
      tile.load dst %c[0:64][0 : 64] src %y[8192*%k : 64 step 64, 64]
      tile.store dst %z[8192*%k : 64 step 64, 64] src %c[0:64][0 : 64]
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<4x128x64xbf16, #neuron.space<dram>>, %s: memref<64xf32, #neuron.space<dram>>, %y: memref<4x128x64xf32, #neuron.space<dram>>, %z: memref<4x128x64xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c4 = arith.constant 4 : index
// CHECK-NEXT:     %sum = tile.alloc : memref<128x4x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %scale = tile.alloc : memref<128x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %scale[0:128][0 : 64] src %s[0 : 128 step 0, 64]
// CHECK-NEXT:     scf.for %i = %c0 to %c4 step %c1 {
// CHECK-NEXT:       %a = tile.alloc copies 2 : memref<128x64xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:       tile.load dst %a[0:128][0 : 64] src %x[8192*%i : 128 step 64, 64]
// CHECK-NEXT:       %p = tile.alloc copies 2 : memref<64x64xf32, #neuron.space<psum>>
// CHECK-NEXT:       tile.matmul dst %p[0:64][0 : 64] stationary %a[0:128][0 : 64] moving %a[0:128][0 : 64]
// CHECK-NEXT:       tile.copy dst %sum[0:64][64*%i : 64] data %p[0:64][0 : 64]
// CHECK-NEXT:       %b = tile.alloc copies 2 : memref<128x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:       tile.tensor_tensor dst %b[0:64][0 : 64] data %sum[0:64][64*%i : 64] other %scale[0:64][0 : 64] {op = multiply}
// CHECK-NEXT:       tile.store dst %y[8192*%i : 64 step 64, 64] src %b[0:64][0 : 64]
// CHECK-NEXT:     }
// CHECK-NEXT:     scf.for %k = %c0 to %c4 step %c1 {
// CHECK-NEXT:       %c = tile.alloc copies 2 : memref<128x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:       tile.load dst %c[0:64][0 : 64] src %y[8192*%k : 64 step 64, 64]
// CHECK-NEXT:       tile.store dst %z[8192*%k : 64 step 64, 64] src %c[0:64][0 : 64]
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
