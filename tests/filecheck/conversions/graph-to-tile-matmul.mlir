// RUN: neuron-opt %s -p 'convert-graph-to-tile' | filecheck %s

// Rows of a are turned by the tensor engine into a panel, one tile ahead of the multiplying; 72 rows remain after a full tile.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%a: tensor<200x256xbf16>, %b: tensor<256x40xbf16>) -> tensor<200x40xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.matmul %a, %b : (tensor<200x256xbf16>, tensor<256x40xbf16>) -> tensor<200x40xf32>
    func.return %0 : tensor<200x40xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%a: memref<200x256xbf16, #neuron.space<dram>>, %b: memref<256x40xbf16, #neuron.space<dram>>, %0: memref<200x40xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 2 : i64, neuron.macs = 2048000 : i64, neuron.compulsory_bytes = 154880 : i64} {
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c2 = arith.constant 2 : index
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %panel = tile.alloc : memref<128x2x2x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %columns = tile.alloc : memref<128x2x40xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %rows = tile.alloc copies 4 : memref<128x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %rows[0:128][0 : 256] src %a[0 : 32768]
// CHECK-NEXT:     scf.for %i = %c0 to %c2 step %c1 {
// CHECK-NEXT:       %turned = tile.alloc copies 2 : memref<128x1x128xbf16, #neuron.space<psum>>
// CHECK-NEXT:       tile.transpose dst %turned[0:128][0 : 128] data %rows[0:128][128*%i : 128]
// CHECK-NEXT:       tile.copy dst %panel[0:128][128*%i : 128] data %turned[0:128][0 : 128]
// CHECK-NEXT:     }
// CHECK-NEXT:     tile.load dst %columns[0:128][0 : 80] src %b[0 : 128 step 40, 2 step 5120, 40]
// CHECK-NEXT:     %rows_1 = tile.alloc copies 4 : memref<72x256xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %rows_1[0:72][0 : 256] src %a[32768 : 18432]
// CHECK-NEXT:     %sum = tile.alloc copies 4 : memref<128x40xf32, #neuron.space<psum>>
// CHECK-NEXT:     scf.for %i_1 = %c0 to %c2 step %c1 {
// CHECK-NEXT:       %turned_1 = tile.alloc copies 2 : memref<128x1x72xbf16, #neuron.space<psum>>
// CHECK-NEXT:       tile.transpose dst %turned_1[0:128][0 : 72] data %rows_1[0:72][128*%i_1 : 128]
// CHECK-NEXT:       tile.copy dst %panel[0:128][128*%i_1 + 256 : 72] data %turned_1[0:128][0 : 72]
// CHECK-NEXT:       tile.matmul dst %sum[0:128][0 : 40] stationary %panel[0:128][128*%i_1 : 128] moving %columns[0:128][40*%i_1 : 40] {accumulate = %i_1}
// CHECK-NEXT:     }
// CHECK-NEXT:     %1 = tile.alloc copies 6 : memref<128x40xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.activation dst %1[0:128][0 : 40] data %sum[0:128][0 : 40]
// CHECK-NEXT:     tile.store dst %0[0 : 5120] src %1[0:128][0 : 40]
// CHECK-NEXT:     %sum_1 = tile.alloc copies 4 : memref<72x40xf32, #neuron.space<psum>>
// CHECK-NEXT:     scf.for %i_2 = %c0 to %c2 step %c1 {
// CHECK-NEXT:       tile.matmul dst %sum_1[0:72][0 : 40] stationary %panel[0:128][128*%i_2 + 256 : 72] moving %columns[0:128][40*%i_2 : 40] {accumulate = %i_2}
// CHECK-NEXT:     }
// CHECK-NEXT:     %2 = tile.alloc copies 6 : memref<72x40xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.activation dst %2[0:72][0 : 40] data %sum_1[0:72][0 : 40]
// CHECK-NEXT:     tile.store dst %0[5120 : 2880] src %2[0:72][0 : 40]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
