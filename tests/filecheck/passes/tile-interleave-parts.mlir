// RUN: neuron-opt %s -p 'tile-interleave-parts' | filecheck %s

// Rows that are fetched, turned, and multiplied twice: the layers work on a quarter of the rows, between the pieces of
// the next quarter, and what the first one leaves to the second takes a quarter of the memory. Indices come first, before
// what the function does besides; weights come after the first rows.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%t: memref<100x128xbf16, #neuron.space<dram>>, %i: memref<1024xi32, #neuron.space<dram>>, %w: memref<128x128xbf16, #neuron.space<dram>>, %y: memref<1024x128xf32, #neuron.space<dram>>, %z: memref<128x64xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c8 = arith.constant 8 : index
    %first = tile.alloc : memref<128x64xf32, #neuron.space<sbuf>>
    tile.memset dst %first[0:128][0 : 64]
    tile.store dst %z[0 : 128 step 64, 64] src %first[0:128][0 : 64]
    %columns = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
    tile.load dst %columns[0:128][0 : 8] src %i[0 : 128, 8 step 128]
    %x = tile.alloc : memref<128x1024xbf16, #neuron.space<sbuf>>
    scf.for %a = %c0 to %c8 step %c1 {
      %rows = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<sbuf>>
      tile.gather dst %rows[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][%a : 1] {rows = 100, row_stride = 128}
      %turned = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<psum>>
      tile.transpose dst %turned[0:128][0 : 128] data %rows[0:128][0 : 128]
      tile.copy dst %x[0:128][128*%a : 128] data %turned[0:128][0 : 128]
    }
    %weights = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
    tile.load dst %weights[0:128][0 : 128] src %w[0 : 128 step 128, 128]
    %h = tile.alloc : memref<128x2x1024xbf16, #neuron.space<sbuf>>
    scf.for %b = %c0 to %c4 step %c1 {
      %p = tile.alloc copies 2 : memref<128x256xf32, #neuron.space<psum>>
      tile.matmul dst %p[0:128][0 : 256] stationary %weights[0:128][0 : 128] moving %x[0:128][256*%b : 256]
      tile.copy dst %h[0:128][256*%b : 256] data %p[0:128][0 : 256]
      tile.copy dst %h[0:128][256*%b + 1024 : 256] data %p[0:128][0 : 256]
    }
    scf.for %d = %c0 to %c8 step %c1 {
      %q = tile.alloc copies 2 : memref<128x128xf32, #neuron.space<psum>>
      tile.matmul dst %q[0:128][0 : 128] stationary %h[0:128][128*%d + 1024 : 128] moving %weights[0:128][0 : 128]
      %out = tile.alloc copies 2 : memref<128x128xf32, #neuron.space<sbuf>>
      tile.copy dst %out[0:128][0 : 128] data %q[0:128][0 : 128]
      tile.store dst %y[16384*%d : 128 step 128, 128] src %out[0:128][0 : 128]
    }
    func.return
  }
  // A layer that reads all rows keeps everything as it is.
  func.func private @neuron_1(%t: memref<100x128xbf16, #neuron.space<dram>>, %i: memref<1024xi32, #neuron.space<dram>>, %y: memref<4x1024xbf16, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c4 = arith.constant 4 : index
    %c8 = arith.constant 8 : index
    %columns = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
    tile.load dst %columns[0:128][0 : 8] src %i[0 : 128, 8 step 128]
    %x = tile.alloc : memref<128x1024xbf16, #neuron.space<sbuf>>
    scf.for %a = %c0 to %c8 step %c1 {
      tile.gather dst %x[0:128][128*%a : 128] table %t[0 : 128] indices %columns[0:128][%a : 1] {rows = 100, row_stride = 128}
    }
    scf.for %b = %c0 to %c4 step %c1 {
      tile.store dst %y[1024*%b : 1, 1024] src %x[0:1][0 : 1024]
    }
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%t: memref<100x128xbf16, #neuron.space<dram>>, %i: memref<1024xi32, #neuron.space<dram>>, %w: memref<128x128xbf16, #neuron.space<dram>>, %y: memref<1024x128xf32, #neuron.space<dram>>, %z: memref<128x64xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c4 = arith.constant 4 : index
// CHECK-NEXT:     %c8 = arith.constant 8 : index
// CHECK-NEXT:     %first = tile.alloc : memref<128x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %columns = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %columns[0:128][0 : 8] src %i[0 : 128, 8 step 128]
// CHECK-NEXT:     tile.memset dst %first[0:128][0 : 64]
// CHECK-NEXT:     tile.store dst %z[0 : 128 step 64, 64] src %first[0:128][0 : 64]
// CHECK-NEXT:     %weights = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %x = tile.alloc : memref<128x1x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %x_1 = tile.alloc : memref<128x1x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %h = tile.alloc : memref<128x2x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %rows = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.gather dst %rows[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][0 : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     %turned = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned[0:128][0 : 128] data %rows[0:128][0 : 128]
// CHECK-NEXT:     tile.copy dst %x[0:128][0 : 128] data %turned[0:128][0 : 128]
// CHECK-NEXT:     %rows_1 = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.gather dst %rows_1[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][1 : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     %turned_1 = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned_1[0:128][0 : 128] data %rows_1[0:128][0 : 128]
// CHECK-NEXT:     tile.copy dst %x[0:128][128 : 128] data %turned_1[0:128][0 : 128]
// CHECK-NEXT:     tile.load dst %weights[0:128][0 : 128] src %w[0 : 128 step 128, 128]
// CHECK-NEXT:     %rows_2 = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.gather dst %rows_2[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][2 : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     %turned_2 = tile.alloc : memref<128x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned_2[0:128][0 : 128] data %rows_2[0:128][0 : 128]
// CHECK-NEXT:     tile.copy dst %x_1[0:128][0 : 128] data %turned_2[0:128][0 : 128]
// CHECK-NEXT:     %p = tile.alloc : memref<128x256xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %p[0:128][0 : 256] stationary %weights[0:128][0 : 128] moving %x[0:128][0 : 256]
// CHECK-NEXT:     tile.copy dst %h[0:128][0 : 256] data %p[0:128][0 : 256]
// CHECK-NEXT:     tile.copy dst %h[0:128][256 : 256] data %p[0:128][0 : 256]
// CHECK-NEXT:     %q = tile.alloc : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %q[0:128][0 : 128] stationary %h[0:128][256 : 128] moving %weights[0:128][0 : 128]
// CHECK-NEXT:     %out = tile.alloc : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.copy dst %out[0:128][0 : 128] data %q[0:128][0 : 128]
// CHECK-NEXT:     tile.store dst %y[0 : 128 step 128, 128] src %out[0:128][0 : 128]
// CHECK-NEXT:     %q_1 = tile.alloc : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %q_1[0:128][0 : 128] stationary %h[0:128][384 : 128] moving %weights[0:128][0 : 128]
// CHECK-NEXT:     %out_1 = tile.alloc : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.copy dst %out_1[0:128][0 : 128] data %q_1[0:128][0 : 128]
// CHECK-NEXT:     tile.store dst %y[16384 : 128 step 128, 128] src %out_1[0:128][0 : 128]
// CHECK-NEXT:     %rows_3 = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.gather dst %rows_3[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][3 : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     %turned_3 = tile.alloc : memref<128x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned_3[0:128][0 : 128] data %rows_3[0:128][0 : 128]
// CHECK-NEXT:     tile.copy dst %x_1[0:128][128 : 128] data %turned_3[0:128][0 : 128]
// CHECK-NEXT:     %rows_4 = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.gather dst %rows_4[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][4 : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     %turned_4 = tile.alloc : memref<128x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned_4[0:128][0 : 128] data %rows_4[0:128][0 : 128]
// CHECK-NEXT:     tile.copy dst %x[0:128][0 : 128] data %turned_4[0:128][0 : 128]
// CHECK-NEXT:     %p_1 = tile.alloc : memref<128x256xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %p_1[0:128][0 : 256] stationary %weights[0:128][0 : 128] moving %x_1[0:128][0 : 256]
// CHECK-NEXT:     tile.copy dst %h[0:128][0 : 256] data %p_1[0:128][0 : 256]
// CHECK-NEXT:     tile.copy dst %h[0:128][256 : 256] data %p_1[0:128][0 : 256]
// CHECK-NEXT:     %q_2 = tile.alloc : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %q_2[0:128][0 : 128] stationary %h[0:128][256 : 128] moving %weights[0:128][0 : 128]
// CHECK-NEXT:     %out_2 = tile.alloc : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.copy dst %out_2[0:128][0 : 128] data %q_2[0:128][0 : 128]
// CHECK-NEXT:     tile.store dst %y[32768 : 128 step 128, 128] src %out_2[0:128][0 : 128]
// CHECK-NEXT:     %q_3 = tile.alloc : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %q_3[0:128][0 : 128] stationary %h[0:128][384 : 128] moving %weights[0:128][0 : 128]
// CHECK-NEXT:     %out_3 = tile.alloc : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.copy dst %out_3[0:128][0 : 128] data %q_3[0:128][0 : 128]
// CHECK-NEXT:     tile.store dst %y[49152 : 128 step 128, 128] src %out_3[0:128][0 : 128]
// CHECK-NEXT:     %rows_5 = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.gather dst %rows_5[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][5 : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     %turned_5 = tile.alloc : memref<128x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned_5[0:128][0 : 128] data %rows_5[0:128][0 : 128]
// CHECK-NEXT:     tile.copy dst %x[0:128][128 : 128] data %turned_5[0:128][0 : 128]
// CHECK-NEXT:     %rows_6 = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.gather dst %rows_6[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][6 : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     %turned_6 = tile.alloc : memref<128x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned_6[0:128][0 : 128] data %rows_6[0:128][0 : 128]
// CHECK-NEXT:     tile.copy dst %x_1[0:128][0 : 128] data %turned_6[0:128][0 : 128]
// CHECK-NEXT:     %p_2 = tile.alloc : memref<128x256xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %p_2[0:128][0 : 256] stationary %weights[0:128][0 : 128] moving %x[0:128][0 : 256]
// CHECK-NEXT:     tile.copy dst %h[0:128][0 : 256] data %p_2[0:128][0 : 256]
// CHECK-NEXT:     tile.copy dst %h[0:128][256 : 256] data %p_2[0:128][0 : 256]
// CHECK-NEXT:     %q_4 = tile.alloc : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %q_4[0:128][0 : 128] stationary %h[0:128][256 : 128] moving %weights[0:128][0 : 128]
// CHECK-NEXT:     %out_4 = tile.alloc : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.copy dst %out_4[0:128][0 : 128] data %q_4[0:128][0 : 128]
// CHECK-NEXT:     tile.store dst %y[65536 : 128 step 128, 128] src %out_4[0:128][0 : 128]
// CHECK-NEXT:     %q_5 = tile.alloc : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %q_5[0:128][0 : 128] stationary %h[0:128][384 : 128] moving %weights[0:128][0 : 128]
// CHECK-NEXT:     %out_5 = tile.alloc : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.copy dst %out_5[0:128][0 : 128] data %q_5[0:128][0 : 128]
// CHECK-NEXT:     tile.store dst %y[81920 : 128 step 128, 128] src %out_5[0:128][0 : 128]
// CHECK-NEXT:     %rows_7 = tile.alloc : memref<128x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.gather dst %rows_7[0:128][0 : 128] table %t[0 : 128] indices %columns[0:128][7 : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     %turned_7 = tile.alloc : memref<128x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned_7[0:128][0 : 128] data %rows_7[0:128][0 : 128]
// CHECK-NEXT:     tile.copy dst %x_1[0:128][128 : 128] data %turned_7[0:128][0 : 128]
// CHECK-NEXT:     %p_3 = tile.alloc : memref<128x256xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %p_3[0:128][0 : 256] stationary %weights[0:128][0 : 128] moving %x_1[0:128][0 : 256]
// CHECK-NEXT:     tile.copy dst %h[0:128][0 : 256] data %p_3[0:128][0 : 256]
// CHECK-NEXT:     tile.copy dst %h[0:128][256 : 256] data %p_3[0:128][0 : 256]
// CHECK-NEXT:     %q_6 = tile.alloc : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %q_6[0:128][0 : 128] stationary %h[0:128][256 : 128] moving %weights[0:128][0 : 128]
// CHECK-NEXT:     %out_6 = tile.alloc : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.copy dst %out_6[0:128][0 : 128] data %q_6[0:128][0 : 128]
// CHECK-NEXT:     tile.store dst %y[98304 : 128 step 128, 128] src %out_6[0:128][0 : 128]
// CHECK-NEXT:     %q_7 = tile.alloc : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %q_7[0:128][0 : 128] stationary %h[0:128][384 : 128] moving %weights[0:128][0 : 128]
// CHECK-NEXT:     %out_7 = tile.alloc : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.copy dst %out_7[0:128][0 : 128] data %q_7[0:128][0 : 128]
// CHECK-NEXT:     tile.store dst %y[114688 : 128 step 128, 128] src %out_7[0:128][0 : 128]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_1(%t: memref<100x128xbf16, #neuron.space<dram>>, %i: memref<1024xi32, #neuron.space<dram>>, %y: memref<4x1024xbf16, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c4 = arith.constant 4 : index
// CHECK-NEXT:     %c8 = arith.constant 8 : index
// CHECK-NEXT:     %columns = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %columns[0:128][0 : 8] src %i[0 : 128, 8 step 128]
// CHECK-NEXT:     %x = tile.alloc : memref<128x1024xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     scf.for %a = %c0 to %c8 step %c1 {
// CHECK-NEXT:       tile.gather dst %x[0:128][128*%a : 128] table %t[0 : 128] indices %columns[0:128][%a : 1] {rows = 100, row_stride = 128}
// CHECK-NEXT:     }
// CHECK-NEXT:     scf.for %b = %c0 to %c4 step %c1 {
// CHECK-NEXT:       tile.store dst %y[1024*%b : 1, 1024] src %x[0:1][0 : 1024]
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
