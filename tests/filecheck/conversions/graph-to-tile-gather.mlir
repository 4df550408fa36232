// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // An embedding: each of 128 partitions fetches the rows of two indices, which come and leave together; of 300 indices
  // 44 remain, one on a partition. Negative indices count from the end: the number of rows is added to those below 0.
  // CHECK-LABEL: func.func private @embedding
  // CHECK: %1 = tile.param "table" : memref<1000x64xf32, #neuron.space<dram>>
  // CHECK-NEXT: %indices = tile.alloc copies 2 : memref<128x2xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %indices[0:128][0 : 2] src %ids[0 : 256]
  // CHECK-NEXT: %wrapped = tile.alloc copies 2 : memref<128x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %column = tile.alloc copies 2 : memref<128x2xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %wrapped[0:128][0 : 2] data %indices[0:128][0 : 2] {op0 = less, op1 = multiply, scalar1 = 1000.0}
  // CHECK-NEXT: tile.tensor_tensor dst %column[0:128][0 : 2] data %indices[0:128][0 : 2] other %wrapped[0:128][0 : 2]
  // CHECK-NEXT: %rows = tile.alloc copies 3 : memref<128x2x64xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: scf.for %i = %c0 to %c2 step %c1 {
  // CHECK-NEXT: tile.gather dst %rows[0:128][64*%i : 64] table %1[0 : 64] indices %column[0:128][%i : 1] {rows = 1000, row_stride = 64}
  // CHECK-NEXT: }
  // CHECK-NEXT: tile.store dst %0[0 : 16384] src %rows[0:128][0 : 128]
  // CHECK-NEXT: %indices_1 = tile.alloc copies 2 : memref<44x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %indices_1[0:44][0 : 1] src %ids[256 : 44]
  // CHECK-NEXT: %wrapped_1 = tile.alloc copies 2 : memref<44x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %column_1 = tile.alloc copies 2 : memref<44x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %wrapped_1[0:44][0 : 1] data %indices_1[0:44][0 : 1] {op0 = less, op1 = multiply, scalar1 = 1000.0}
  // CHECK-NEXT: tile.tensor_tensor dst %column_1[0:44][0 : 1] data %indices_1[0:44][0 : 1] other %wrapped_1[0:44][0 : 1]
  // CHECK-NEXT: %rows_1 = tile.alloc copies 2 : memref<44x64xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.gather dst %rows_1[0:44][0 : 64] table %1[0 : 64] indices %column_1[0:44][0 : 1] {rows = 1000, row_stride = 64}
  // CHECK-NEXT: tile.store dst %0[16384 : 2816] src %rows_1[0:44][0 : 64]
  // CHECK-NEXT: func.return
  func.func private @embedding(%ids: tensor<1x300xi64>) -> tensor<1x300x64xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %table = graph.weight @table : tensor<1000x64xf32>
    %y = graph.gather %table, %ids axis 0 : (tensor<1000x64xf32>, tensor<1x300xi64>) -> tensor<1x300x64xf32>
    func.return %y : tensor<1x300x64xf32>
  }

  // Another axis: a row is what the data holds at one position of the axis, here 12 pieces of 16 elements.
  // CHECK-LABEL: func.func private @middle
  // CHECK-NEXT: %indices = tile.alloc copies 2 : memref<4x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %indices[0:4][0 : 1] src %i[0 : 4]
  // CHECK-NEXT: %wrapped = tile.alloc copies 2 : memref<4x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %column = tile.alloc copies 2 : memref<4x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %wrapped[0:4][0 : 1] data %indices[0:4][0 : 1] {op0 = less, op1 = multiply, scalar1 = 50.0}
  // CHECK-NEXT: tile.tensor_tensor dst %column[0:4][0 : 1] data %indices[0:4][0 : 1] other %wrapped[0:4][0 : 1]
  // CHECK-NEXT: %rows = tile.alloc copies 2 : memref<4x12x16xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.gather dst %rows[0:4][0 : 192] table %x[0 : 12 step 800, 16] indices %column[0:4][0 : 1] {rows = 50, row_stride = 16}
  // CHECK-NEXT: tile.store dst %0[0 : 4 step 16, 12 step 64, 16] src %rows[0:4][0 : 192]
  // CHECK-NEXT: func.return
  func.func private @middle(%x: tensor<12x50x16xf32>, %i: tensor<4xi32>) -> tensor<12x4x16xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.gather %x, %i axis 1 : (tensor<12x50x16xf32>, tensor<4xi32>) -> tensor<12x4x16xf32>
    func.return %y : tensor<12x4x16xf32>
  }

  // Rows that exceed a tile come in chunks: the window on the table advances in the loop.
  // CHECK-LABEL: func.func private @long_rows
  // CHECK: %indices = tile.alloc copies 2 : memref<4x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %indices[0:4][0 : 1] src %i[0 : 4]
  // CHECK-NEXT: %wrapped = tile.alloc copies 2 : memref<4x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %column = tile.alloc copies 2 : memref<4x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %wrapped[0:4][0 : 1] data %indices[0:4][0 : 1] {op0 = less, op1 = multiply, scalar1 = 50.0}
  // CHECK-NEXT: tile.tensor_tensor dst %column[0:4][0 : 1] data %indices[0:4][0 : 1] other %wrapped[0:4][0 : 1]
  // CHECK-NEXT: scf.for %i_1 = %c0 to %c4 step %c1 {
  // CHECK-NEXT: %rows = tile.alloc copies 2 : memref<4x3500xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.gather dst %rows[0:4][0 : 3500] table %x[3500*%i_1 : 3500] indices %column[0:4][0 : 1] {rows = 50, row_stride = 14000}
  // CHECK-NEXT: tile.store dst %0[3500*%i_1 : 4 step 14000, 3500] src %rows[0:4][0 : 3500]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @long_rows(%x: tensor<50x14000xf32>, %i: tensor<4xi32>) -> tensor<4x14000xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.gather %x, %i axis 0 : (tensor<50x14000xf32>, tensor<4xi32>) -> tensor<4x14000xf32>
    func.return %y : tensor<4x14000xf32>
  }

  // An index known at compile time is a window.
  // CHECK-LABEL: func.func private @known
  // CHECK-NEXT: tile.load dst %0[0 : 256] src %x[8128 : 4 step 8192, 64]
  // CHECK-NEXT: func.return
  func.func private @known(%x: tensor<4x128x64xf32>) -> tensor<4x64xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %i = graph.constant -1 : tensor<i64>
    %y = graph.gather %x, %i axis 1 : (tensor<4x128x64xf32>, tensor<i64>) -> tensor<4x64xf32>
    func.return %y : tensor<4x64xf32>
  }
}
