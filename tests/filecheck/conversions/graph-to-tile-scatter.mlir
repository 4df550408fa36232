// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // The data is copied to the result, in which the indirect DMA then replaces the rows that the indices name.
  // CHECK-LABEL: func.func private @cache
  // CHECK-NEXT: tile.load dst %0[0 : 19200] src %data[0 : 19200]
  // CHECK-NEXT: %indices = tile.alloc copies 2 : memref<2x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %indices[0:2][0 : 1] src %i[0 : 2]
  // CHECK-NEXT: %wrapped = tile.alloc copies 2 : memref<2x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %column = tile.alloc copies 2 : memref<2x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %wrapped[0:2][0 : 1] data %indices[0:2][0 : 1] {op0 = less, op1 = multiply, scalar1 = 300.0}
  // CHECK-NEXT: tile.tensor_tensor dst %column[0:2][0 : 1] data %indices[0:2][0 : 1] other %wrapped[0:2][0 : 1]
  // CHECK-NEXT: %rows = tile.alloc copies 2 : memref<2x64xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %rows[0:2][0 : 64] src %u[0 : 128]
  // CHECK-NEXT: tile.scatter table %0[0 : 64] data %rows[0:2][0 : 64] indices %column[0:2][0 : 1] {rows = 300, row_stride = 64}
  // CHECK-NEXT: func.return
  func.func private @cache(%data: tensor<300x64xf32>, %i: tensor<2xi32>, %u: tensor<2x64xf32>) -> tensor<300x64xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.scatter %data, %i, %u axis 0 : (tensor<300x64xf32>, tensor<2xi32>, tensor<2x64xf32>) -> tensor<300x64xf32>
    func.return %y : tensor<300x64xf32>
  }

  // Another axis: a row is what the data holds at one position of the axis, here 12 pieces of 16 elements.
  // CHECK-LABEL: func.func private @middle
  // CHECK: tile.load dst %rows[0:4][0 : 192] src %u[0 : 4 step 16, 12 step 64, 16]
  // CHECK-NEXT: tile.scatter table %0[0 : 12 step 800, 16] data %rows[0:4][0 : 192] indices %column[0:4][0 : 1] {rows = 50, row_stride = 16}
  func.func private @middle(%x: tensor<12x50x16xf32>, %i: tensor<4xi32>, %u: tensor<12x4x16xf32>) -> tensor<12x50x16xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.scatter %x, %i, %u axis 1 : (tensor<12x50x16xf32>, tensor<4xi32>, tensor<12x4x16xf32>) -> tensor<12x50x16xf32>
    func.return %y : tensor<12x50x16xf32>
  }
}
