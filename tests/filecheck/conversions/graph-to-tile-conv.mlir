// RUN: neuron-opt %s -p 'graph-fuse,convert-graph-to-tile' | filecheck %s

// A tap is a strided view of one input tile with a zero border; residual, bias and relu ride on the eviction from PSUM.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<1x16x8x8xbf16>, %w: tensor<32x16x3x3xbf16>, %b: tensor<32xf32>, %r: tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.conv %x, %w, %b strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : (tensor<1x16x8x8xbf16>, tensor<32x16x3x3xbf16>, tensor<32xf32>) -> tensor<1x32x8x8xf32>
    %1 = graph.binary add %0, %r : (tensor<1x32x8x8xf32>, tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32>
    %2 = graph.unary relu %1 : (tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32>
    func.return %2 : tensor<1x32x8x8xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: memref<1x16x8x8xbf16, #neuron.space<dram>>, %w: memref<32x16x3x3xbf16, #neuron.space<dram>>, %b: memref<32xf32, #neuron.space<dram>>, %r: memref<1x32x8x8xf32, #neuron.space<dram>>, %0: memref<1x32x8x8xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 4 : i64, neuron.macs = 294912 : i64, neuron.compulsory_bytes = 27776 : i64} {
// CHECK-NEXT:     %column = tile.alloc : memref<32x1xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %column[0:32][0 : 1] src %b[0 : 32]
// CHECK-NEXT:     %weights = tile.alloc copies 2 : memref<48x1x3x32xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %weights[0:16][0 : 96] src %w[0 : 16 step 9, 3, 32 step 144]
// CHECK-NEXT:     tile.load dst %weights[16:16][0 : 96] src %w[3 : 16 step 9, 3, 32 step 144]
// CHECK-NEXT:     tile.load dst %weights[32:16][0 : 96] src %w[6 : 16 step 9, 3, 32 step 144]
// CHECK-NEXT:     %pixels = tile.alloc copies 3 : memref<48x1x1x8x10xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.memset dst %pixels[0:48][0 : 10]
// CHECK-NEXT:     tile.memset dst %pixels[0:48][70 : 10]
// CHECK-NEXT:     tile.memset dst %pixels[0:48][0 : 8 step 10]
// CHECK-NEXT:     tile.memset dst %pixels[0:48][9 : 8 step 10]
// CHECK-NEXT:     tile.load dst %pixels[0:16][11 : 7 step 10, 8] src %x[0 : 16 step 64, 56]
// CHECK-NEXT:     tile.load dst %pixels[16:16][1 : 8 step 10, 8] src %x[0 : 1024]
// CHECK-NEXT:     tile.load dst %pixels[32:16][1 : 7 step 10, 8] src %x[8 : 16 step 64, 56]
// CHECK-NEXT:     %sum = tile.alloc copies 4 : memref<32x1x1x8x8xf32, #neuron.space<psum>>
// CHECK-NEXT:     tile.matmul dst %sum[0:32][0 : 64] stationary %weights[0:48][0 : 32] moving %pixels[0:48][0 : 8 step 10, 8]
// CHECK-NEXT:     tile.matmul dst %sum[0:32][0 : 64] stationary %weights[0:48][32 : 32] moving %pixels[0:48][1 : 8 step 10, 8] {accumulate = 1}
// CHECK-NEXT:     tile.matmul dst %sum[0:32][0 : 64] stationary %weights[0:48][64 : 32] moving %pixels[0:48][2 : 8 step 10, 8] {accumulate = 1}
// CHECK-NEXT:     %1 = tile.alloc copies 6 : memref<32x1x8x8xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %2 = tile.alloc copies 2 : memref<32x1x8x8xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.load dst %2[0:32][0 : 64] src %r[0 : 2048]
// CHECK-NEXT:     %3 = tile.alloc : memref<32x1x8x8xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     tile.tensor_tensor dst %3[0:32][0 : 64] data %sum[0:32][0 : 64] other %2[0:32][0 : 64]
// CHECK-NEXT:     tile.tensor_scalar dst %1[0:32][0 : 64] data %3[0:32][0 : 64] operand0 %column[0:32][0 : 1] {op0 = add, op1 = maximum}
// CHECK-NEXT:     tile.store dst %0[0 : 2048] src %1[0:32][0 : 64]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
