// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // Whole rows on chip: the maximum is the exponential's bias, its row sum comes with it. 768 rows are six tiles.
  // CHECK-LABEL: func.func private @rows
  // CHECK: scf.for %i = %c0 to %c6 step %c1 {
  // CHECK-NEXT: %1 = tile.alloc copies 2 : memref<128x1x384xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 384] src %x[384*%i : 128 step 2304, 384]
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<128x1x384xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %4 = tile.alloc copies 2 : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %3[0:128][0 : 1] data %1[0:128][0 : 384] {op = maximum, negate = true}
  // CHECK-NEXT: %5 = tile.alloc copies 2 : memref<128x1x384xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %5[0:128][0 : 384] data %1[0:128][0 : 384] bias %3[0:128][0 : 1] sum %4[0:128][0 : 1] {func = exp}
  // CHECK-NEXT: tile.reciprocal dst %4[0:128][0 : 1] data %4[0:128][0 : 1]
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:128][0 : 384] data %5[0:128][0 : 384] operand0 %4[0:128][0 : 1] {op0 = multiply}
  // CHECK-NEXT: tile.store dst %0[384*%i : 128 step 2304, 384] src %2[0:128][0 : 384]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @rows(%x: tensor<1x12x64x384xf32>) -> tensor<1x12x64x384xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.softmax %x axis 3 : (tensor<1x12x64x384xf32>) -> tensor<1x12x64x384xf32>
    func.return %y : tensor<1x12x64x384xf32>
  }

  // Short rows share instructions: 8 of them on each of 125 partitions, with the statistics repeated along the rows.
  // CHECK-LABEL: func.func private @short_rows
  // CHECK-NEXT: %1 = tile.alloc : memref<125x8x10xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:125][0 : 80] src %x[0 : 10000]
  // CHECK-NEXT: %2 = tile.alloc : memref<125x8x10xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %3 = tile.alloc : memref<125x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %4 = tile.alloc : memref<125x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %3[0:125][0 : 8] data %1[0:125][0 : 8 step 10, 10] {op = maximum, negate = true}
  // CHECK-NEXT: %5 = tile.alloc : memref<125x8x10xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %5[0:125][0 : 80] data %1[0:125][0 : 80] other %3[0:125][0 : 8, 10 step 0]
  // CHECK-NEXT: tile.activation dst %5[0:125][0 : 80] data %5[0:125][0 : 80] {func = exp}
  // CHECK-NEXT: tile.reduce dst %4[0:125][0 : 8] data %5[0:125][0 : 8 step 10, 10]
  // CHECK-NEXT: tile.reciprocal dst %4[0:125][0 : 8] data %4[0:125][0 : 8]
  // CHECK-NEXT: tile.tensor_tensor dst %2[0:125][0 : 80] data %5[0:125][0 : 80] other %4[0:125][0 : 8, 10 step 0] {op = multiply}
  // CHECK-NEXT: tile.store dst %0[0 : 10000] src %2[0:125][0 : 80]
  // CHECK-NEXT: func.return
  func.func private @short_rows(%x: tensor<1000x10xf32>) -> tensor<1000x10xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.softmax %x axis 1 : (tensor<1000x10xf32>) -> tensor<1000x10xf32>
    func.return %y : tensor<1000x10xf32>
  }

  // log-softmax subtracts the maximum and the logarithm of the sum in one instruction.
  // CHECK-LABEL: func.func private @logarithm
  // CHECK-NEXT: %1 = tile.alloc : memref<128x100xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 100] src %x[0 : 12800]
  // CHECK-NEXT: %2 = tile.alloc : memref<128x100xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %3 = tile.alloc : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %4 = tile.alloc : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %3[0:128][0 : 1] data %1[0:128][0 : 100] {op = maximum, negate = true}
  // CHECK-NEXT: %5 = tile.alloc : memref<128x100xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %5[0:128][0 : 100] data %1[0:128][0 : 100] bias %3[0:128][0 : 1] sum %4[0:128][0 : 1] {func = exp}
  // CHECK-NEXT: tile.activation dst %4[0:128][0 : 1] data %4[0:128][0 : 1] {func = log}
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:128][0 : 100] data %1[0:128][0 : 100] operand0 %3[0:128][0 : 1] operand1 %4[0:128][0 : 1] {op0 = add, op1 = subtract}
  // CHECK-NEXT: tile.store dst %0[0 : 12800] src %2[0:128][0 : 100]
  // CHECK-NEXT: func.return
  func.func private @logarithm(%x: tensor<128x100xf32>) -> tensor<128x100xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.softmax %x axis 1 log : (tensor<128x100xf32>) -> tensor<128x100xf32>
    func.return %y : tensor<128x100xf32>
  }

  // A row longer than SBUF: a pass with a running maximum and a sum scaled to it, then a pass for the result.
  // CHECK-LABEL: func.func private @long_rows
  // CHECK: %1 = tile.alloc : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %2 = tile.alloc : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %1[0:128][0 : 1] {value = 3.4028234663852886e+38}
  // CHECK-NEXT: tile.memset dst %2[0:128][0 : 1]
  // CHECK-NEXT: scf.for %i = %c0 to %c2 step %c1 {
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<128x3500xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %3[0:128][0 : 3500] src %x[3500*%i : 128 step 7000, 3500]
  // CHECK-NEXT: %4 = tile.alloc copies 2 : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %5 = tile.alloc copies 2 : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %6 = tile.alloc copies 2 : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %7 = tile.alloc copies 2 : memref<128x3500xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.copy dst %4[0:128][0 : 1] data %1[0:128][0 : 1]
  // CHECK-NEXT: tile.reduce dst %5[0:128][0 : 1] data %3[0:128][0 : 3500] {op = maximum, negate = true}
  // CHECK-NEXT: tile.tensor_tensor dst %1[0:128][0 : 1] data %4[0:128][0 : 1] other %5[0:128][0 : 1] {op = minimum}
  // CHECK-NEXT: tile.tensor_tensor dst %5[0:128][0 : 1] data %1[0:128][0 : 1] other %4[0:128][0 : 1] {op = subtract}
  // CHECK-NEXT: tile.activation dst %5[0:128][0 : 1] data %5[0:128][0 : 1] {func = exp}
  // CHECK-NEXT: tile.activation dst %7[0:128][0 : 3500] data %3[0:128][0 : 3500] bias %1[0:128][0 : 1] sum %6[0:128][0 : 1] {func = exp}
  // CHECK-NEXT: tile.scalar_tensor_tensor dst %2[0:128][0 : 1] data %2[0:128][0 : 1] operand0 %5[0:128][0 : 1] other %6[0:128][0 : 1] {op0 = multiply, op1 = add}
  // CHECK-NEXT: }
  // CHECK-NEXT: tile.reciprocal dst %2[0:128][0 : 1] data %2[0:128][0 : 1]
  // CHECK-NEXT: scf.for %i_1 = %c0 to %c2 step %c1 {
  // CHECK-NEXT: %8 = tile.alloc copies 2 : memref<128x3500xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %8[0:128][0 : 3500] src %x[3500*%i_1 : 128 step 7000, 3500]
  // CHECK-NEXT: %9 = tile.alloc copies 2 : memref<128x3500xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %10 = tile.alloc copies 2 : memref<128x3500xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %10[0:128][0 : 3500] data %8[0:128][0 : 3500] bias %1[0:128][0 : 1] {func = exp}
  // CHECK-NEXT: tile.tensor_scalar dst %9[0:128][0 : 3500] data %10[0:128][0 : 3500] operand0 %2[0:128][0 : 1] {op0 = multiply}
  // CHECK-NEXT: tile.store dst %0[3500*%i_1 : 128 step 7000, 3500] src %9[0:128][0 : 3500]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @long_rows(%x: tensor<128x7000xf32>) -> tensor<128x7000xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.softmax %x axis 1 : (tensor<128x7000xf32>) -> tensor<128x7000xf32>
    func.return %y : tensor<128x7000xf32>
  }
}
