// RUN: neuron-opt %s -p 'convert-graph-to-tile' | filecheck %s

// Layers with features on partitions: rows are turned once, then nothing is.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<300x256xbf16>) -> tensor<300x128xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.relayout %x : (tensor<300x256xbf16>) -> tensor<300x256xbf16, #graph.layout<sbuf, partition 1>>
    %w = graph.weight @w : tensor<256x384xbf16>
    %1 = graph.matmul %0, %w : (tensor<300x256xbf16, #graph.layout<sbuf, partition 1>>, tensor<256x384xbf16>) -> tensor<300x384xbf16, #graph.layout<sbuf, partition 1>>
    %u = graph.weight @u : tensor<384x128xbf16>
    %2 = graph.matmul %1, %u : (tensor<300x384xbf16, #graph.layout<sbuf, partition 1>>, tensor<384x128xbf16>) -> tensor<300x128xf32>
    func.return %2 : tensor<300x128xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<300x256xbf16, #neuron.space<dram>>, %0: memref<300x128xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64, neuron.macs = 44236800 : i64, neuron.compulsory_bytes = 602112 : i64} {
// CHECK-NEXT:     %1 = tile.param "u" : memref<384x128xbf16, #neuron.space<dram>>
// CHECK-NEXT:     %c3 = arith.constant 3 : index
// CHECK-NEXT:     %2 = tile.param "w" : memref<256x384xbf16, #neuron.space<dram>>
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c2 = arith.constant 2 : index
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %3 = tile.alloc : memref<128x2x300xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %rows = tile.alloc copies 2 : memref<128x2x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %rows[0:128][0 : 512] src %x[0 : 128 step 256, 2 step 32768, 256]
// CHECK-NEXT:     scf.for %i = %c0 to %c2 step %c1 {
// CHECK-NEXT:       scf.for %i_1 = %c0 to %c2 step %c1 {
// CHECK-NEXT:         %turned = tile.alloc copies 2 : memref<128x1x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:         tile.transpose dst %turned[0:128][0 : 128] data %rows[0:128][256*%i + 128*%i_1 : 128]
// CHECK-NEXT:         tile.copy dst %3[0:128][128*%i + 300*%i_1 : 128] data %turned[0:128][0 : 128]
// CHECK-NEXT:       }
// CHECK-NEXT:     }
// CHECK-NEXT:     %rows_1 = tile.alloc copies 2 : memref<44x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %rows_1[0:44][0 : 256] src %x[65536 : 11264]
// CHECK-NEXT:     scf.for %i_2 = %c0 to %c2 step %c1 {
// CHECK-NEXT:       %turned_1 = tile.alloc copies 2 : memref<128x1x44xbf16, #neuron.space<psum>>
// CHECK-NEXT:       tile.transpose dst %turned_1[0:128][0 : 44] data %rows_1[0:44][128*%i_2 : 128]
// CHECK-NEXT:       tile.copy dst %3[0:128][300*%i_2 + 256 : 44] data %turned_1[0:128][0 : 44]
// CHECK-NEXT:     }
// CHECK-NEXT:     %4 = tile.alloc : memref<128x3x300xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %weights = tile.alloc : memref<128x2x384xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights[0:128][0 : 768] src %2[0 : 128 step 384, 2 step 49152, 384]
// CHECK-NEXT:     scf.for %i_3 = %c0 to %c3 step %c1 {
// CHECK-NEXT:       %sum = tile.alloc copies 4 : memref<128x300xf32, #neuron.space<psum>>
// CHECK-NEXT:       scf.for %i_4 = %c0 to %c2 step %c1 {
// CHECK-NEXT:         tile.matmul dst %sum[0:128][0 : 300] stationary %weights[0:128][128*%i_3 + 384*%i_4 : 128] moving %3[0:128][300*%i_4 : 300] {accumulate = %i_4}
// CHECK-NEXT:       }
// CHECK-NEXT:       tile.activation dst %4[0:128][300*%i_3 : 300] data %sum[0:128][0 : 300]
// CHECK-NEXT:     }
// CHECK-NEXT:     %weights_1 = tile.alloc : memref<128x3x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights_1[0:128][0 : 384] src %1[0 : 128 step 128, 3 step 16384, 128]
// CHECK-NEXT:     scf.for %i_5 = %c0 to %c2 step %c1 {
// CHECK-NEXT:       %sum_1 = tile.alloc copies 4 : memref<128x128xf32, #neuron.space<psum>>
// CHECK-NEXT:       scf.for %i_6 = %c0 to %c3 step %c1 {
// CHECK-NEXT:         tile.matmul dst %sum_1[0:128][0 : 128] stationary %4[0:128][128*%i_5 + 300*%i_6 : 128] moving %weights_1[0:128][128*%i_6 : 128] {accumulate = %i_6}
// CHECK-NEXT:       }
// CHECK-NEXT:       %5 = tile.alloc copies 6 : memref<128x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:       tile.activation dst %5[0:128][0 : 128] data %sum_1[0:128][0 : 128]
// CHECK-NEXT:       tile.store dst %0[16384*%i_5 : 16384] src %5[0:128][0 : 128]
// CHECK-NEXT:     }
// CHECK-NEXT:     %sum_2 = tile.alloc copies 4 : memref<44x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     scf.for %i_7 = %c0 to %c3 step %c1 {
// CHECK-NEXT:       tile.matmul dst %sum_2[0:44][0 : 128] stationary %4[0:128][300*%i_7 + 256 : 44] moving %weights_1[0:128][128*%i_7 : 128] {accumulate = %i_7}
// CHECK-NEXT:     }
// CHECK-NEXT:     %6 = tile.alloc copies 6 : memref<44x128xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.activation dst %6[0:44][0 : 128] data %sum_2[0:44][0 : 128]
// CHECK-NEXT:     tile.store dst %0[32768 : 5632] src %6[0:44][0 : 128]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
