// RUN: neuron-opt %s -p 'convert-graph-to-tile' | filecheck %s

// Scores, softmax and context of two heads stay on chip; what lies as rows is turned.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%q: tensor<1x64x128xbf16>, %k: tensor<1x96x128xbf16>, %v: tensor<1x96x128xbf16>, %mask: tensor<1x1x1x96xf32>) -> tensor<1x64x128xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.attention %q, %k, %v, %mask heads 2 kv_heads 2 scale 0.125 : (tensor<1x64x128xbf16>, tensor<1x96x128xbf16>, tensor<1x96x128xbf16>, tensor<1x1x1x96xf32>) -> tensor<1x64x128xbf16>
    func.return %0 : tensor<1x64x128xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%q: memref<1x64x128xbf16, #neuron.space<dram>>, %k: memref<1x96x128xbf16, #neuron.space<dram>>, %v: memref<1x96x128xbf16, #neuron.space<dram>>, %mask: memref<1x1x1x96xf32, #neuron.space<dram>>, %0: memref<1x64x128xbf16, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 4 : i64, neuron.macs = 1572864 : i64, neuron.compulsory_bytes = 82304 : i64} {
// CHECK-NEXT:     %masked = tile.alloc : memref<64x192xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %mask_1 = tile.alloc : memref<64x96xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %mask_1[0:64][0 : 96] src %mask[0 : 64 step 0, 96]
// CHECK-NEXT:     %scores = tile.alloc : memref<64x512xf32, #neuron.space<psum>>
// CHECK-NEXT:     %q_1 = tile.alloc : memref<128x1x64xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %rows = tile.alloc copies 4 : memref<64x1x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %rows[0:64][0 : 128] src %q[0 : 8192]
// CHECK-NEXT:     %turned = tile.alloc : memref<128x1024xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned[0:128][0 : 64] data %rows[0:64][0 : 128]
// CHECK-NEXT:     tile.copy dst %q_1[0:128][0 : 64] data %turned[0:128][0 : 64]
// CHECK-NEXT:     %k_1 = tile.alloc : memref<128x1x96xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %rows_1 = tile.alloc copies 4 : memref<96x1x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %rows_1[0:96][0 : 128] src %k[0 : 12288]
// CHECK-NEXT:     %turned_1 = tile.alloc : memref<128x1024xbf16, #neuron.space<psum>>
// CHECK-NEXT:     tile.transpose dst %turned_1[0:128][0 : 96] data %rows_1[0:96][0 : 128]
// CHECK-NEXT:     tile.copy dst %k_1[0:128][0 : 96] data %turned_1[0:128][0 : 96]
// CHECK-NEXT:     tile.matmul dst %scores[0:64][0 : 96] stationary %q_1[0:64][0 : 64] moving %k_1[0:64][0 : 96]
// CHECK-NEXT:     tile.matmul dst %scores[0:64][96 : 96] stationary %q_1[64:64][0 : 64] moving %k_1[64:64][0 : 96]
// CHECK-NEXT:     tile.scalar_tensor_tensor dst %masked[0:64][0 : 192] data %scores[0:64][0 : 192] other %mask_1[0:64][0 : 2 step 0, 96] {op0 = multiply, scalar0 = 0.125, op1 = add}
// CHECK-NEXT:     %top = tile.alloc : memref<64x2xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.reduce dst %top[0:64][0 : 2] data %masked[0:64][0 : 2 step 96, 96] {op = maximum, negate = true}
// CHECK-NEXT:     %powers = tile.alloc : memref<64x192xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     %sums = tile.alloc : memref<64x2xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.activation dst %powers[0:64][0 : 96] data %masked[0:64][0 : 96] bias %top[0:64][0 : 1] sum %sums[0:64][0 : 1] {func = exp}
// CHECK-NEXT:     tile.activation dst %powers[0:64][96 : 96] data %masked[0:64][96 : 96] bias %top[0:64][1 : 1] sum %sums[0:64][1 : 1] {func = exp}
// CHECK-NEXT:     %turned_powers = tile.alloc : memref<96x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.transpose dst %turned[0:96][0 : 64] data %powers[0:64][0 : 96]
// CHECK-NEXT:     tile.transpose dst %turned[0:96][64 : 64] data %powers[0:64][96 : 96]
// CHECK-NEXT:     tile.copy dst %turned_powers[0:96][0 : 128] data %turned[0:96][0 : 128]
// CHECK-NEXT:     %v_1 = tile.alloc : memref<96x1x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %v_1[0:96][0 : 128] src %v[0 : 12288]
// CHECK-NEXT:     %weighted = tile.alloc : memref<64x128xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %weighted[0:64][0 : 64] stationary %turned_powers[0:96][0 : 64] moving %v_1[0:96][0 : 64]
// CHECK-NEXT:     tile.matmul dst %weighted[0:64][64 : 64] stationary %turned_powers[0:96][64 : 64] moving %v_1[0:96][64 : 64]
// CHECK-NEXT:     tile.reciprocal dst %sums[0:64][0 : 2] data %sums[0:64][0 : 2]
// CHECK-NEXT:     %context = tile.alloc : memref<64x128xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.tensor_tensor dst %context[0:64][0 : 128] data %weighted[0:64][0 : 128] other %sums[0:64][0 : 2, 64 step 0] {op = multiply}
// CHECK-NEXT:     tile.store dst %0[0 : 8192] src %context[0:64][0 : 128]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
