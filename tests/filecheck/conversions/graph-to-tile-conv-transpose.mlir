// RUN: neuron-opt %s -p 'convert-graph-to-tile' | filecheck %s

// One plain convolution for each output column modulo 2, each with one tap for even rows and one for odd ones, whose
// channels lie beside each other on the partitions; each half is stored as every other row.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x8x3x3xbf16>, %w: tensor<8x8x2x2xbf16>) -> tensor<1x8x6x6xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.conv_transpose %x, %w strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] output_padding [0, 0] groups 1 : (tensor<1x8x3x3xbf16>, tensor<8x8x2x2xbf16>) -> tensor<1x8x6x6xf32>
    func.return %0 : tensor<1x8x6x6xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<1x8x3x3xbf16, #neuron.space<dram>>, %w: memref<8x8x2x2xbf16, #neuron.space<dram>>, %0: memref<1x8x6x6xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 2 : i64, neuron.macs = 2304 : i64, neuron.compulsory_bytes = 1808 : i64} {
// CHECK-NEXT:     %rows = tile.alloc : memref<16x1x1x3x6xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %weights = tile.alloc copies 2 : memref<8x1x1x16xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights[0:8][0 : 8] src %w[0 : 64 step 4]
// CHECK-NEXT:     tile.load dst %weights[0:8][8 : 8] src %w[2 : 64 step 4]
// CHECK-NEXT:     %pixels = tile.alloc copies 2 : memref<8x1x1x1x3x3xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %pixels[0:8][0 : 9] src %x[0 : 72]
// CHECK-NEXT:     %sum = tile.alloc copies 4 : memref<16x1x1x3x3xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %sum[0:16][0 : 9] stationary %weights[0:8][0 : 16] moving %pixels[0:8][0 : 9]
// CHECK-NEXT:     tile.activation dst %rows[0:16][0 : 9 step 2] data %sum[0:16][0 : 9]
// CHECK-NEXT:     %weights_1 = tile.alloc copies 2 : memref<8x1x1x16xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights_1[0:8][0 : 8] src %w[1 : 64 step 4]
// CHECK-NEXT:     tile.load dst %weights_1[0:8][8 : 8] src %w[3 : 64 step 4]
// CHECK-NEXT:     %pixels_1 = tile.alloc copies 2 : memref<8x1x1x1x3x3xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %pixels_1[0:8][0 : 9] src %x[0 : 72]
// CHECK-NEXT:     %sum_1 = tile.alloc copies 4 : memref<16x1x1x3x3xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %sum_1[0:16][0 : 9] stationary %weights_1[0:8][0 : 16] moving %pixels_1[0:8][0 : 9]
// CHECK-NEXT:     tile.activation dst %rows[0:16][1 : 9 step 2] data %sum_1[0:16][0 : 9]
// CHECK-NEXT:     tile.store dst %0[0 : 2 step 6, 24 step 12, 6] src %rows[0:16][0 : 18]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
