// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s --match-full-lines

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // Depthwise: 64 groups of one channel are put side by side into one block, whose filters are diagonal matrices of
  // 64 x 64 for each of the 3 taps, one packed at emission, two made on chip: one multiplication per tap does all groups.
  // CHECK-LABEL: {{.*}}@depthwise(%x: memref<1x64x20xbf16, #neuron.space<dram>>, %0: memref<1x64x18xf32, #neuron.space<dram>>){{.*}}
  // CHECK-NEXT: %1 = tile.param "identity.64.bf16" : memref<64x64xbf16, #neuron.space<dram>>
  // CHECK-NEXT: %2 = tile.param "dw.diagonals1" : memref<64x1x1x64xbf16, #neuron.space<dram>>
  // CHECK-NEXT: %3 = tile.param "dw.lanes" : memref<64x1x3xbf16, #neuron.space<dram>>
  // CHECK-NEXT: %diagonals = tile.alloc : memref<64x1x1x64xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %diagonals[0:64][0 : 64] src %2[0 : 4096]
  // CHECK-NEXT: %identity = tile.alloc : memref<64x64xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %identity[0:64][0 : 64] src %1[0 : 4096]
  // CHECK-NEXT: %numbers = tile.alloc : memref<64x1x2xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %numbers[0:64][0 : 2] src %3[1 : 64 step 3, 2]
  // CHECK-NEXT: %diagonals_1 = tile.alloc : memref<64x1x2x64xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %diagonals_1[0:64][0 : 128] data %identity[0:64][0 : 2 step 0, 64] other %numbers[0:64][0 : 2, 64 step 0] {op = multiply}
  // CHECK-NEXT: %pixels = tile.alloc copies 2 : memref<64x1x1x1x20x1xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %pixels[0:64][0 : 20] src %x[0 : 1280]
  // CHECK-NEXT: %sum = tile.alloc copies 4 : memref<64x1x1x18x1xf32, #neuron.space<psum>>
  // CHECK-NEXT: tile.matmul dst %sum[0:64][0 : 18] stationary %diagonals[0:64][0 : 64] moving %pixels[0:64][0 : 18]
  // CHECK-NEXT: tile.matmul dst %sum[0:64][0 : 18] stationary %diagonals_1[0:64][0 : 64] moving %pixels[0:64][1 : 18] {accumulate = 1}
  // CHECK-NEXT: tile.matmul dst %sum[0:64][0 : 18] stationary %diagonals_1[0:64][64 : 64] moving %pixels[0:64][2 : 18] {accumulate = 1}
  // CHECK-NEXT: %4 = tile.alloc copies 6 : memref<64x1x18xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %4[0:64][0 : 18] data %sum[0:64][0 : 18]
  // CHECK-NEXT: tile.store dst %0[0 : 1152] src %4[0:64][0 : 18]
  // CHECK-NEXT: func.return
  func.func private @depthwise(%x: tensor<1x64x20xbf16>) -> tensor<1x64x18xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @dw : tensor<64x1x3xbf16>
    %y = graph.conv %x, %w strides [1] pads [0, 0] dilations [1] groups 64 : (tensor<1x64x20xbf16>, tensor<64x1x3xbf16>) -> tensor<1x64x18xf32>
    func.return %y : tensor<1x64x18xf32>
  }

  // Two tiles of input channels: taps and channel tiles accumulate in one PSUM bank, from 0 at the very first.
  // CHECK-LABEL: {{.*}}@channels(%x: memref<1x160x4x4xbf16, #neuron.space<dram>>, %w: memref<32x160x1x1xbf16, #neuron.space<dram>>, %0: memref<1x32x4x4xf32, #neuron.space<dram>>){{.*}}
  // CHECK-NEXT: %weights = tile.alloc copies 2 : memref<128x2x1x32xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %weights[0:128][0 : 32] src %w[0 : 128, 32 step 160]
  // CHECK-NEXT: tile.load dst %weights[0:32][32 : 32] src %w[128 : 32, 32 step 160]
  // CHECK-NEXT: %pixels = tile.alloc copies 2 : memref<128x2x1x1x4x4xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %pixels[0:128][0 : 16] src %x[0 : 2048]
  // CHECK-NEXT: tile.load dst %pixels[0:32][16 : 16] src %x[2048 : 512]
  // CHECK-NEXT: %sum = tile.alloc copies 4 : memref<32x1x1x4x4xf32, #neuron.space<psum>>
  // CHECK-NEXT: tile.matmul dst %sum[0:32][0 : 16] stationary %weights[0:128][0 : 32] moving %pixels[0:128][0 : 16]
  // CHECK-NEXT: tile.matmul dst %sum[0:32][0 : 16] stationary %weights[0:32][32 : 32] moving %pixels[0:32][16 : 16] {accumulate = 1}
  // CHECK-NEXT: %1 = tile.alloc copies 6 : memref<32x1x4x4xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %1[0:32][0 : 16] data %sum[0:32][0 : 16]
  // CHECK-NEXT: tile.store dst %0[0 : 512] src %1[0:32][0 : 16]
  // CHECK-NEXT: func.return
  func.func private @channels(%x: tensor<1x160x4x4xbf16>, %w: tensor<32x160x1x1xbf16>) -> tensor<1x32x4x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<1x160x4x4xbf16>, tensor<32x160x1x1xbf16>) -> tensor<1x32x4x4xf32>
    func.return %y : tensor<1x32x4x4xf32>
  }

  // An input that stays on chip is read in place, with its halo of zeros as padding: stride 2 is a strided view.
  // CHECK-LABEL: {{.*}}@resident(%x: memref<1x32x8x8xbf16, #neuron.space<dram>>, %w: memref<16x32x3x3xbf16, #neuron.space<dram>>, %0: memref<1x16x4x4xf32, #neuron.space<dram>>){{.*}}
  // CHECK-NEXT: %1 = tile.alloc : memref<32x1x1x9x9xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %1[0:32][0 : 9]
  // CHECK-NEXT: tile.memset dst %1[0:32][9 : 8 step 9]
  // CHECK-NEXT: %2 = tile.alloc : memref<32x1x8x8xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:32][0 : 64] src %x[0 : 2048]
  // CHECK-NEXT: tile.tensor_scalar dst %1[0:32][10 : 8 step 9, 8] data %2[0:32][0 : 64] {op0 = maximum}
  // CHECK-NEXT: %weights = tile.alloc copies 2 : memref<32x1x9x16xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %weights[0:32][0 : 144] src %w[0 : 288, 16 step 288]
  // CHECK-NEXT: %sum = tile.alloc copies 4 : memref<16x1x1x4x4xf32, #neuron.space<psum>>
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][0 : 16] moving %1[0:32][0 : 4 step 18, 4 step 2]
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][16 : 16] moving %1[0:32][1 : 4 step 18, 4 step 2] {accumulate = 1}
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][32 : 16] moving %1[0:32][2 : 4 step 18, 4 step 2] {accumulate = 1}
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][48 : 16] moving %1[0:32][9 : 4 step 18, 4 step 2] {accumulate = 1}
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][64 : 16] moving %1[0:32][10 : 4 step 18, 4 step 2] {accumulate = 1}
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][80 : 16] moving %1[0:32][11 : 4 step 18, 4 step 2] {accumulate = 1}
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][96 : 16] moving %1[0:32][18 : 4 step 18, 4 step 2] {accumulate = 1}
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][112 : 16] moving %1[0:32][19 : 4 step 18, 4 step 2] {accumulate = 1}
  // CHECK-NEXT: tile.matmul dst %sum[0:16][0 : 16] stationary %weights[0:32][128 : 16] moving %1[0:32][20 : 4 step 18, 4 step 2] {accumulate = 1}
  // CHECK-NEXT: %3 = tile.alloc copies 6 : memref<16x1x4x4xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %3[0:16][0 : 16] data %sum[0:16][0 : 16]
  // CHECK-NEXT: tile.store dst %0[0 : 256] src %3[0:16][0 : 16]
  // CHECK-NEXT: func.return
  func.func private @resident(%x: tensor<1x32x8x8xbf16>, %w: tensor<16x32x3x3xbf16>) -> tensor<1x16x4x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %r = graph.unary relu %x : (tensor<1x32x8x8xbf16>) -> tensor<1x32x8x8xbf16, #graph.layout<sbuf, partition 1, halo [0, 0, 1, 0, 1, 0]>>
    %y = graph.conv %r, %w strides [2, 2] pads [1, 1, 0, 0] dilations [1, 1] groups 1 : (tensor<1x32x8x8xbf16, #graph.layout<sbuf, partition 1, halo [0, 0, 1, 0, 1, 0]>>, tensor<16x32x3x3xbf16>) -> tensor<1x16x4x4xf32>
    func.return %y : tensor<1x16x4x4xf32>
  }
}

// CHECK-LABEL: graph.derived_weight @dw.lanes : tensor<64x1x3xbf16> {
// CHECK-NEXT: %0 = graph.weight @dw : tensor<64x1x3xbf16>
// CHECK-NEXT: %1 = graph.reshape %0 : (tensor<64x1x3xbf16>) -> tensor<64x3xbf16>
// CHECK-NEXT: %2 = graph.reshape %1 : (tensor<64x3xbf16>) -> tensor<1x64x3xbf16>
// CHECK-NEXT: %3 = graph.transpose %2 permutation [1, 0, 2] : (tensor<1x64x3xbf16>) -> tensor<64x1x3xbf16>
// CHECK-NEXT: graph.yield %3 : tensor<64x1x3xbf16>
// CHECK-NEXT: }
// CHECK-LABEL: graph.derived_weight @dw.diagonals1 : tensor<64x1x1x64xbf16> {
// CHECK-NEXT: %0 = graph.weight @dw : tensor<64x1x3xbf16>
// CHECK-NEXT: %1 = graph.reshape %0 : (tensor<64x1x3xbf16>) -> tensor<64x3xbf16>
// CHECK-NEXT: %2 = graph.reshape %1 : (tensor<64x3xbf16>) -> tensor<1x64x3xbf16>
// CHECK-NEXT: %3 = graph.transpose %2 permutation [1, 0, 2] : (tensor<1x64x3xbf16>) -> tensor<64x1x3xbf16>
// CHECK-NEXT: %4 = graph.slice %3 starts [0, 0, 0] sizes [64, 1, 1] steps [1, 1, 1] : (tensor<64x1x3xbf16>) -> tensor<64x1x1xbf16>
// CHECK-NEXT: %5 = graph.reshape %4 : (tensor<64x1x1xbf16>) -> tensor<64x1x1x1xbf16>
// CHECK-NEXT: %6 = graph.constant 1.0 : tensor<64x1xbf16>
// CHECK-NEXT: %7 = graph.pad constant %6 low [0, 0] high [0, 64] value 0.0 : (tensor<64x1xbf16>) -> tensor<64x65xbf16>
// CHECK-NEXT: %8 = graph.reshape %7 : (tensor<64x65xbf16>) -> tensor<4160xbf16>
// CHECK-NEXT: %9 = graph.slice %8 starts [0] sizes [4096] steps [1] : (tensor<4160xbf16>) -> tensor<4096xbf16>
// CHECK-NEXT: %10 = graph.reshape %9 : (tensor<4096xbf16>) -> tensor<64x64xbf16>
// CHECK-NEXT: %11 = graph.reshape %10 : (tensor<64x64xbf16>) -> tensor<64x1x1x64xbf16>
// CHECK-NEXT: %12 = graph.binary mul %5, %11 : (tensor<64x1x1x1xbf16>, tensor<64x1x1x64xbf16>) -> tensor<64x1x1x64xbf16>
// CHECK-NEXT: graph.yield %12 : tensor<64x1x1x64xbf16>
// CHECK-NEXT: }
// CHECK-LABEL: graph.derived_weight @identity.64.bf16 : tensor<64x64xbf16> {
// CHECK-NEXT: %0 = graph.constant 1.0 : tensor<64x1xbf16>
// CHECK-NEXT: %1 = graph.pad constant %0 low [0, 0] high [0, 64] value 0.0 : (tensor<64x1xbf16>) -> tensor<64x65xbf16>
// CHECK-NEXT: %2 = graph.reshape %1 : (tensor<64x65xbf16>) -> tensor<4160xbf16>
// CHECK-NEXT: %3 = graph.slice %2 starts [0] sizes [4096] steps [1] : (tensor<4160xbf16>) -> tensor<4096xbf16>
// CHECK-NEXT: %4 = graph.reshape %3 : (tensor<4096xbf16>) -> tensor<64x64xbf16>
// CHECK-NEXT: graph.yield %4 : tensor<64x64xbf16>
// CHECK-NEXT: }
