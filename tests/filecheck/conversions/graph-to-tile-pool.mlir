// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // Rows of the image in tiles: the first tile has a padded row, the others are one loop; -inf never wins.
  // CHECK-LABEL: func.func private @maximum
  // CHECK: %1 = tile.alloc : memref<64x17x113xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %1[0:64][0 : 113] {value = -inf}
  // CHECK-NEXT: tile.memset dst %1[0:64][0 : 17 step 113] {value = -inf}
  // CHECK-NEXT: tile.load dst %1[0:64][114 : 16 step 113, 112] src %x[0 : 64 step 12544, 1792]
  // CHECK-NEXT: %2 = tile.alloc : memref<64x1x8x56xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %2[0:64][0 : 448] data %1[0:64][0 : 8 step 226, 56 step 2, 3 step 113, 3] {op = maximum, axes = 2}
  // CHECK-NEXT: tile.store dst %0[0 : 64 step 3136, 448] src %2[0:64][0 : 448]
  // CHECK-NEXT: scf.for %i = %c0 to %c6 step %c1 {
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<64x17x113xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %3[0:64][0 : 17 step 113] {value = -inf}
  // CHECK-NEXT: tile.load dst %3[0:64][1 : 17 step 113, 112] src %x[1792*%i + 1680 : 64 step 12544, 1904]
  // CHECK-NEXT: %4 = tile.alloc copies 2 : memref<64x1x8x56xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %4[0:64][0 : 448] data %3[0:64][0 : 8 step 226, 56 step 2, 3 step 113, 3] {op = maximum, axes = 2}
  // CHECK-NEXT: tile.store dst %0[448*%i + 448 : 64 step 3136, 448] src %4[0:64][0 : 448]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @maximum(%x: tensor<1x64x112x112xf32>) -> tensor<1x64x56x56xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.pool max %x kernel [3, 3] strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] : (tensor<1x64x112x112xf32>) -> tensor<1x64x56x56xf32>
    func.return %y : tensor<1x64x56x56xf32>
  }

  // Large windows at stride 1 are reduced one dimension after the other; corners and edges count fewer elements.
  // CHECK-LABEL: func.func private @average
  // CHECK-NEXT: %1 = tile.alloc : memref<32x10x10xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %1[0:32][0 : 10]
  // CHECK-NEXT: tile.memset dst %1[0:32][90 : 10]
  // CHECK-NEXT: tile.memset dst %1[0:32][0 : 10 step 10]
  // CHECK-NEXT: tile.memset dst %1[0:32][9 : 10 step 10]
  // CHECK-NEXT: tile.load dst %1[0:32][11 : 8 step 10, 8] src %x[0 : 2048]
  // CHECK-NEXT: %2 = tile.alloc : memref<32x1x8x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %3 = tile.alloc : memref<32x10x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %3[0:32][0 : 80] data %1[0:32][0 : 10 step 10, 8, 3]
  // CHECK-NEXT: %4 = tile.alloc : memref<32x8x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %4[0:32][0 : 64] data %3[0:32][0 : 64, 3 step 8]
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][0 : 1] data %4[0:32][0 : 1] {op0 = multiply, scalar0 = 0.25}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][1 : 6] data %4[0:32][1 : 6] {op0 = multiply, scalar0 = 0.16666666666666666}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][7 : 1] data %4[0:32][7 : 1] {op0 = multiply, scalar0 = 0.25}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][8 : 6 step 8] data %4[0:32][8 : 6 step 8] {op0 = multiply, scalar0 = 0.16666666666666666}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][9 : 6 step 8, 6] data %4[0:32][9 : 6 step 8, 6] {op0 = multiply, scalar0 = 0.1111111111111111}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][15 : 6 step 8] data %4[0:32][15 : 6 step 8] {op0 = multiply, scalar0 = 0.16666666666666666}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][56 : 1] data %4[0:32][56 : 1] {op0 = multiply, scalar0 = 0.25}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][57 : 6] data %4[0:32][57 : 6] {op0 = multiply, scalar0 = 0.16666666666666666}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:32][63 : 1] data %4[0:32][63 : 1] {op0 = multiply, scalar0 = 0.25}
  // CHECK-NEXT: tile.store dst %0[0 : 2048] src %2[0:32][0 : 64]
  // CHECK-NEXT: func.return
  func.func private @average(%x: tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.pool average %x kernel [3, 3] strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] : (tensor<1x32x8x8xf32>) -> tensor<1x32x8x8xf32>
    func.return %y : tensor<1x32x8x8xf32>
  }

  // A resident operand without padding is read where it lies.
  // CHECK-LABEL: func.func private @resident
  // CHECK-NEXT: %1 = tile.alloc : memref<128x1x1x8x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %2 = tile.alloc : memref<128x1x8x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:128][0 : 64] src %x[0 : 8192]
  // CHECK-NEXT: tile.tensor_scalar dst %1[0:128][0 : 64] data %2[0:128][0 : 64] {op0 = maximum}
  // CHECK-NEXT: %3 = tile.alloc : memref<128x1x4x4xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %3[0:128][0 : 16] data %1[0:128][0 : 4 step 16, 4 step 2, 2 step 8, 2] {op = maximum, axes = 2}
  // CHECK-NEXT: tile.store dst %0[0 : 2048] src %3[0:128][0 : 16]
  // CHECK-NEXT: func.return
  func.func private @resident(%x: tensor<1x128x8x8xf32>) -> tensor<1x128x4x4xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.unary relu %x : (tensor<1x128x8x8xf32>) -> tensor<1x128x8x8xf32, #graph.layout<sbuf, partition 1>>
    %1 = graph.pool max %0 kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] : (tensor<1x128x8x8xf32, #graph.layout<sbuf, partition 1>>) -> tensor<1x128x4x4xf32>
    func.return %1 : tensor<1x128x4x4xf32>
  }
}
