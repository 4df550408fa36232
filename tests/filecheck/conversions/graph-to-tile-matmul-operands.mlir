// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s --match-full-lines

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // One row: nothing of the weight is used twice, so its k tiles stream past, turned to [k, n] once at emission.
  // CHECK-LABEL: {{.*}}@row(%x: memref<1x256xbf16, #neuron.space<dram>>, %0: memref<1x10xf32, #neuron.space<dram>>){{.*}}
  // CHECK-NEXT: %c1 = arith.constant 1 : index
  // CHECK-NEXT: %c2 = arith.constant 2 : index
  // CHECK-NEXT: %c0 = arith.constant 0 : index
  // CHECK-NEXT: %1 = tile.param "fc.k_major" : memref<256x10xbf16, #neuron.space<dram>>
  // CHECK-NEXT: %panel = tile.alloc : memref<128x1x2x1xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %panel[0:128][0 : 2] src %x[0 : 128, 2 step 128]
  // CHECK-NEXT: %sum = tile.alloc copies 4 : memref<1x10xf32, #neuron.space<psum>>
  // CHECK-NEXT: scf.for %i = %c0 to %c2 step %c1 {
  // CHECK-NEXT: %columns = tile.alloc copies 6 : memref<128x1x10xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %columns[0:128][0 : 10] src %1[1280*%i : 1280]
  // CHECK-NEXT: tile.matmul dst %sum[0:1][0 : 10] stationary %panel[0:128][%i : 1] moving %columns[0:128][0 : 10] {accumulate = %i}
  // CHECK-NEXT: }
  // CHECK-NEXT: %2 = tile.alloc copies 6 : memref<1x10xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %2[0:1][0 : 10] data %sum[0:1][0 : 10]
  // CHECK-NEXT: tile.store dst %0[0 : 10] src %2[0:1][0 : 10]
  // CHECK-NEXT: func.return
  func.func private @row(%x: tensor<1x256xbf16>) -> tensor<1x10xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @fc : tensor<10x256xbf16>
    %y = graph.matmul %x, %w transpose_b : (tensor<1x256xbf16>, tensor<10x256xbf16>) -> tensor<1x10xf32>
    func.return %y : tensor<1x10xf32>
  }

  // Scores of attention: both operands have k contiguous, so both are turned by the tensor engine, head by head.
  // CHECK-LABEL: {{.*}}@scores(%q: memref<4x128x64xbf16, #neuron.space<dram>>, %k: memref<4x128x64xbf16, #neuron.space<dram>>, %0: memref<4x128x128xbf16, #neuron.space<dram>>){{.*}}
  // CHECK-NEXT: %c1 = arith.constant 1 : index
  // CHECK-NEXT: %c4 = arith.constant 4 : index
  // CHECK-NEXT: %c0 = arith.constant 0 : index
  // CHECK-NEXT: scf.for %i = %c0 to %c4 step %c1 {
  // CHECK-NEXT: %panel = tile.alloc : memref<64x1x1x128xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: %columns = tile.alloc : memref<64x1x128xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: %rows = tile.alloc copies 4 : memref<128x1x64xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %rows[0:128][0 : 64] src %q[8192*%i : 8192]
  // CHECK-NEXT: %turned = tile.alloc copies 2 : memref<64x1x128xbf16, #neuron.space<psum>>
  // CHECK-NEXT: tile.transpose dst %turned[0:64][0 : 128] data %rows[0:128][0 : 64]
  // CHECK-NEXT: tile.copy dst %panel[0:64][0 : 128] data %turned[0:64][0 : 128]
  // CHECK-NEXT: %rows_1 = tile.alloc copies 4 : memref<128x1x64xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %rows_1[0:128][0 : 64] src %k[8192*%i : 8192]
  // CHECK-NEXT: %turned_1 = tile.alloc copies 2 : memref<64x1x128xbf16, #neuron.space<psum>>
  // CHECK-NEXT: tile.transpose dst %turned_1[0:64][0 : 128] data %rows_1[0:128][0 : 64]
  // CHECK-NEXT: tile.copy dst %columns[0:64][0 : 128] data %turned_1[0:64][0 : 128]
  // CHECK-NEXT: %sum = tile.alloc copies 4 : memref<128x128xf32, #neuron.space<psum>>
  // CHECK-NEXT: tile.matmul dst %sum[0:128][0 : 128] stationary %panel[0:64][0 : 128] moving %columns[0:64][0 : 128]
  // CHECK-NEXT: %1 = tile.alloc copies 6 : memref<128x1x128xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %1[0:128][0 : 128] data %sum[0:128][0 : 128]
  // CHECK-NEXT: tile.store dst %0[16384*%i : 16384] src %1[0:128][0 : 128]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @scores(%q: tensor<4x128x64xbf16>, %k: tensor<4x128x64xbf16>) -> tensor<4x128x128xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.matmul %q, %k transpose_b : (tensor<4x128x64xbf16>, tensor<4x128x64xbf16>) -> tensor<4x128x128xbf16>
    func.return %y : tensor<4x128x128xbf16>
  }
}

// CHECK-LABEL: graph.derived_weight @fc.k_major : tensor<256x10xbf16> {
// CHECK-NEXT:   %0 = graph.weight @fc : tensor<10x256xbf16>
// CHECK-NEXT:   %1 = graph.transpose %0 permutation [1, 0] : (tensor<10x256xbf16>) -> tensor<256x10xbf16>
// CHECK-NEXT:   graph.yield %1 : tensor<256x10xbf16>
