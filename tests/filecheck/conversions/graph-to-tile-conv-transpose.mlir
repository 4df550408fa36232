// RUN: neuron-opt %s -p 'convert-graph-to-tile' | filecheck %s

// One plain convolution for each of the four output phases, each with one tap and stored with stride 2.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x8x3x3xbf16>, %w: tensor<8x8x2x2xbf16>) -> tensor<1x8x6x6xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.conv_transpose %x, %w strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] output_padding [0, 0] groups 1 : (tensor<1x8x3x3xbf16>, tensor<8x8x2x2xbf16>) -> tensor<1x8x6x6xf32>
    func.return %0 : tensor<1x8x6x6xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<1x8x3x3xbf16, #neuron.space<dram>>, %w: memref<8x8x2x2xbf16, #neuron.space<dram>>, %0: memref<1x8x6x6xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 2 : i64, neuron.macs = 2304 : i64, neuron.compulsory_bytes = 1808 : i64} {
// CHECK-NEXT:     %rows = tile.alloc : memref<8x1x1x6x6xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %weights = tile.alloc copies 2 : memref<8x1x1x8xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights[0:8][0 : 8] src %w[0 : 64 step 4]
// CHECK-NEXT:     %pixels = tile.alloc copies 2 : memref<8x1x1x1x3x3xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %pixels[0:8][0 : 9] src %x[0 : 72]
// CHECK-NEXT:     %sum = tile.alloc copies 4 : memref<8x1x1x3x3xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %sum[0:8][0 : 9] stationary %weights[0:8][0 : 8] moving %pixels[0:8][0 : 9]
// CHECK-NEXT:     tile.activation dst %rows[0:8][0 : 3 step 12, 3 step 2] data %sum[0:8][0 : 9]
// CHECK-NEXT:     %weights_1 = tile.alloc copies 2 : memref<8x1x1x8xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights_1[0:8][0 : 8] src %w[1 : 64 step 4]
// CHECK-NEXT:     %pixels_1 = tile.alloc copies 2 : memref<8x1x1x1x3x3xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %pixels_1[0:8][0 : 9] src %x[0 : 72]
// CHECK-NEXT:     %sum_1 = tile.alloc copies 4 : memref<8x1x1x3x3xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %sum_1[0:8][0 : 9] stationary %weights_1[0:8][0 : 8] moving %pixels_1[0:8][0 : 9]
// CHECK-NEXT:     tile.activation dst %rows[0:8][1 : 3 step 12, 3 step 2] data %sum_1[0:8][0 : 9]
// CHECK-NEXT:     %weights_2 = tile.alloc copies 2 : memref<8x1x1x8xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights_2[0:8][0 : 8] src %w[2 : 64 step 4]
// CHECK-NEXT:     %pixels_2 = tile.alloc copies 2 : memref<8x1x1x1x3x3xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %pixels_2[0:8][0 : 9] src %x[0 : 72]
// CHECK-NEXT:     %sum_2 = tile.alloc copies 4 : memref<8x1x1x3x3xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %sum_2[0:8][0 : 9] stationary %weights_2[0:8][0 : 8] moving %pixels_2[0:8][0 : 9]
// CHECK-NEXT:     tile.activation dst %rows[0:8][6 : 3 step 12, 3 step 2] data %sum_2[0:8][0 : 9]
// CHECK-NEXT:     %weights_3 = tile.alloc copies 2 : memref<8x1x1x8xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights_3[0:8][0 : 8] src %w[3 : 64 step 4]
// CHECK-NEXT:     %pixels_3 = tile.alloc copies 2 : memref<8x1x1x1x3x3xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %pixels_3[0:8][0 : 9] src %x[0 : 72]
// CHECK-NEXT:     %sum_3 = tile.alloc copies 4 : memref<8x1x1x3x3xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %sum_3[0:8][0 : 9] stationary %weights_3[0:8][0 : 8] moving %pixels_3[0:8][0 : 9]
// CHECK-NEXT:     tile.activation dst %rows[0:8][7 : 3 step 12, 3 step 2] data %sum_3[0:8][0 : 9]
// CHECK-NEXT:     tile.store dst %0[0 : 288] src %rows[0:8][0 : 36]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
