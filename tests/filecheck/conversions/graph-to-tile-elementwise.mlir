// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // Tensors that all operands walk alike are one run of elements, spread over the 128 partitions in equal rows.
  // 6400 elements: 50 on each partition.
  // CHECK-LABEL: func.func private @relu
  // CHECK-NEXT: %1 = tile.alloc : memref<128x50xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 50] src %x[0 : 6400]
  // CHECK-NEXT: %2 = tile.alloc : memref<128x50xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:128][0 : 50] data %1[0:128][0 : 50] {op0 = maximum}
  // CHECK-NEXT: tile.store dst %0[0 : 6400] src %2[0:128][0 : 50]
  // CHECK-NEXT: func.return
  func.func private @relu(%x: tensor<64x100xf32>) -> tensor<64x100xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.unary relu %x : (tensor<64x100xf32>) -> tensor<64x100xf32>
    func.return %y : tensor<64x100xf32>
  }

  // An operand per channel is a column: one number on each partition, loaded before the loop over images.
  // CHECK-LABEL: func.func private @per_channel
  // CHECK: %1 = tile.alloc : memref<64x1x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:64][0 : 1] src %c[0 : 64]
  // CHECK-NEXT: scf.for %i = %c0 to %c4 step %c1 {
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<64x1x3136xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:64][0 : 3136] src %x[200704*%i : 200704]
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<64x1x3136xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %3[0:64][0 : 3136] data %2[0:64][0 : 3136] operand0 %1[0:64][0 : 1] {op0 = multiply}
  // CHECK-NEXT: tile.store dst %0[200704*%i : 200704] src %3[0:64][0 : 3136]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @per_channel(%x: tensor<4x64x56x56xf32>, %c: tensor<64x1x1xf32>) -> tensor<4x64x56x56xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.binary mul %x, %c : (tensor<4x64x56x56xf32>, tensor<64x1x1xf32>) -> tensor<4x64x56x56xf32>
    func.return %y : tensor<4x64x56x56xf32>
  }

  // An operand per element of a row is repeated over the partitions by one load. 100 partitions have 41 rows each.
  // CHECK-LABEL: func.func private @per_row_element
  // CHECK: %1 = tile.alloc : memref<100x1x96xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:100][0 : 96] src %c[0 : 100 step 0, 96]
  // CHECK-NEXT: scf.for %i = %c0 to %c4 step %c1 {
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<100x9x96xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:100][0 : 864] src %x[864*%i : 100 step 3936, 864]
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<100x9x96xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %3[0:100][0 : 864] data %2[0:100][0 : 864] other %1[0:100][0 : 9 step 0, 96] {op = subtract}
  // CHECK-NEXT: tile.store dst %0[864*%i : 100 step 3936, 864] src %3[0:100][0 : 864]
  // CHECK-NEXT: }
  // CHECK-NEXT: %4 = tile.alloc : memref<100x5x96xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %4[0:100][0 : 480] src %x[3456 : 100 step 3936, 480]
  // CHECK-NEXT: %5 = tile.alloc : memref<100x5x96xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %5[0:100][0 : 480] data %4[0:100][0 : 480] other %1[0:100][0 : 5 step 0, 96] {op = subtract}
  // CHECK-NEXT: tile.store dst %0[3456 : 100 step 3936, 480] src %5[0:100][0 : 480]
  // CHECK-NEXT: func.return
  func.func private @per_row_element(%x: tensor<4100x96xf32>, %c: tensor<96xf32>) -> tensor<4100x96xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.binary sub %x, %c : (tensor<4100x96xf32>, tensor<96xf32>) -> tensor<4100x96xf32>
    func.return %y : tensor<4100x96xf32>
  }

  // A group: scale, shift and function are one instruction, a cast rides on its store; both results leave the sweep.
  // CHECK-LABEL: func.func private @group
  // CHECK-NEXT: %2 = tile.alloc : memref<128x300xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:128][0 : 300] src %x[0 : 38400]
  // CHECK-NEXT: %3 = tile.alloc : memref<128x300xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %3[0:128][0 : 300] src %y[0 : 38400]
  // CHECK-NEXT: %4 = tile.alloc : memref<128x300xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: %5 = tile.alloc : memref<128x300xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.scalar_tensor_tensor dst %5[0:128][0 : 300] data %2[0:128][0 : 300] other %3[0:128][0 : 300] {op0 = multiply, scalar0 = 0.5, op1 = add}
  // CHECK-NEXT: tile.activation dst %4[0:128][0 : 300] data %5[0:128][0 : 300] {func = tanh}
  // CHECK-NEXT: tile.store dst %0[0 : 38400] src %4[0:128][0 : 300]
  // CHECK-NEXT: tile.store dst %1[0 : 38400] src %5[0:128][0 : 300]
  // CHECK-NEXT: func.return
  func.func private @group(%x: tensor<128x300xf32>, %y: tensor<128x300xf32>) -> (tensor<128x300xbf16>, tensor<128x300xf32>) attributes {neuron.executor = #neuron.executor<core>} {
    %half = graph.constant 0.5 : tensor<f32>
    %0, %1 = graph.fused (%a = %x, %b = %y, %s = %half) : (tensor<128x300xf32>, tensor<128x300xf32>, tensor<f32>) -> (tensor<128x300xbf16>, tensor<128x300xf32>) {
      %2 = graph.binary mul %a, %s : (tensor<128x300xf32>, tensor<f32>) -> tensor<128x300xf32>
      %3 = graph.binary add %2, %b : (tensor<128x300xf32>, tensor<128x300xf32>) -> tensor<128x300xf32>
      %4 = graph.unary tanh %3 : (tensor<128x300xf32>) -> tensor<128x300xf32>
      %5 = graph.cast %4 : (tensor<128x300xf32>) -> tensor<128x300xbf16>
      graph.yield %5, %3 : tensor<128x300xbf16>, tensor<128x300xf32>
    }
    func.return %0, %1 : tensor<128x300xbf16>, tensor<128x300xf32>
  }

  // Recipes: division multiplies with a reciprocal, floor corrects a rounding cast, select copies where it holds.
  // CHECK-LABEL: func.func private @recipes
  // CHECK-NEXT: %1 = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 8] src %x[0 : 1024]
  // CHECK-NEXT: %2 = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:128][0 : 8] src %y[0 : 1024]
  // CHECK-NEXT: %3 = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %4 = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %5 = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reciprocal dst %5[0:128][0 : 8] data %2[0:128][0 : 8]
  // CHECK-NEXT: tile.tensor_tensor dst %4[0:128][0 : 8] data %1[0:128][0 : 8] other %5[0:128][0 : 8] {op = multiply}
  // CHECK-NEXT: %6 = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %7 = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %8 = tile.alloc : memref<128x8xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %6[0:128][0 : 8] data %4[0:128][0 : 8] {op0 = minimum, scalar0 = 8388608.0, op1 = maximum, scalar1 = -8388608.0}
  // CHECK-NEXT: tile.tensor_tensor dst %7[0:128][0 : 8] data %4[0:128][0 : 8] other %6[0:128][0 : 8] {op = subtract}
  // CHECK-NEXT: tile.copy dst %8[0:128][0 : 8] data %6[0:128][0 : 8]
  // CHECK-NEXT: %9 = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %9[0:128][0 : 8] data %8[0:128][0 : 8] other %6[0:128][0 : 8] {op = greater}
  // CHECK-NEXT: tile.tensor_tensor dst %9[0:128][0 : 8] data %8[0:128][0 : 8] other %9[0:128][0 : 8] {op = subtract}
  // CHECK-NEXT: tile.tensor_tensor dst %5[0:128][0 : 8] data %9[0:128][0 : 8] other %7[0:128][0 : 8]
  // CHECK-NEXT: %10 = tile.alloc : memref<128x8xi1, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %10[0:128][0 : 8] data %5[0:128][0 : 8] other %2[0:128][0 : 8] {op = greater}
  // CHECK-NEXT: tile.copy dst %3[0:128][0 : 8] data %5[0:128][0 : 8]
  // CHECK-NEXT: tile.select dst %3[0:128][0 : 8] data %1[0:128][0 : 8] predicate %10[0:128][0 : 8]
  // CHECK-NEXT: tile.store dst %0[0 : 1024] src %3[0:128][0 : 8]
  // CHECK-NEXT: func.return
  func.func private @recipes(%x: tensor<128x8xf32>, %y: tensor<128x8xf32>) -> tensor<128x8xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.fused (%a = %x, %b = %y) : (tensor<128x8xf32>, tensor<128x8xf32>) -> tensor<128x8xf32> {
      %1 = graph.binary div %a, %b : (tensor<128x8xf32>, tensor<128x8xf32>) -> tensor<128x8xf32>
      %2 = graph.unary floor %1 : (tensor<128x8xf32>) -> tensor<128x8xf32>
      %3 = graph.compare gt %2, %b : (tensor<128x8xf32>, tensor<128x8xf32>) -> tensor<128x8xi1>
      %4 = graph.select %3, %a, %2 : (tensor<128x8xi1>, tensor<128x8xf32>, tensor<128x8xf32>) -> tensor<128x8xf32>
      graph.yield %4 : tensor<128x8xf32>
    }
    func.return %0 : tensor<128x8xf32>
  }

  // A tensor that stays on chip is computed in place: no load, no store. 200 channels are a tile of 128 and one of 72.
  // CHECK-LABEL: func.func private @resident
  // CHECK-NEXT: %1 = tile.alloc : memref<128x2x1x64xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %2 = tile.alloc : memref<128x1x64xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:128][0 : 64] src %x[0 : 8192]
  // CHECK-NEXT: tile.activation dst %1[0:128][0 : 64] data %2[0:128][0 : 64] {func = exp}
  // CHECK-NEXT: %3 = tile.alloc : memref<72x1x64xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %3[0:72][0 : 64] src %x[8192 : 4608]
  // CHECK-NEXT: tile.activation dst %1[0:72][64 : 64] data %3[0:72][0 : 64] {func = exp}
  // CHECK-NEXT: %4 = tile.alloc : memref<128x1x64xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %4[0:128][0 : 64] data %1[0:128][0 : 64] {op0 = multiply, scalar0 = -1.0}
  // CHECK-NEXT: tile.store dst %0[0 : 8192] src %4[0:128][0 : 64]
  // CHECK-NEXT: %5 = tile.alloc : memref<72x1x64xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %5[0:72][0 : 64] data %1[0:72][64 : 64] {op0 = multiply, scalar0 = -1.0}
  // CHECK-NEXT: tile.store dst %0[8192 : 4608] src %5[0:72][0 : 64]
  // CHECK-NEXT: func.return
  func.func private @resident(%x: tensor<1x200x64xf32>) -> tensor<1x200x64xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.unary exp %x : (tensor<1x200x64xf32>) -> tensor<1x200x64xf32, #graph.layout<sbuf, partition 1>>
    %1 = graph.unary neg %0 : (tensor<1x200x64xf32, #graph.layout<sbuf, partition 1>>) -> tensor<1x200x64xf32>
    func.return %1 : tensor<1x200x64xf32>
  }
}
