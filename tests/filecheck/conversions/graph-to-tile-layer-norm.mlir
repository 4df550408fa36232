// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // Scale and bias are loaded once, repeated over the partitions. 768 elements are two statistics instructions.
  // CHECK-LABEL: func.func private @rows
  // CHECK: %1 = tile.alloc : memref<128x768xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 768] src %s[0 : 128 step 0, 768]
  // CHECK-NEXT: %2 = tile.alloc : memref<128x768xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:128][0 : 768] src %b[0 : 128 step 0, 768]
  // CHECK-NEXT: scf.for %i = %c0 to %c3 step %c1 {
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<128x768xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %3[0:128][0 : 768] src %x[98304*%i : 98304]
  // CHECK-NEXT: %4 = tile.alloc copies 2 : memref<128x768xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %5 = tile.alloc copies 2 : memref<128x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %6 = tile.alloc copies 2 : memref<128x12xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.bn_stats dst %6[0:128][0 : 6] data %3[0:128][0 : 512]
  // CHECK-NEXT: tile.bn_stats dst %6[0:128][6 : 6] data %3[0:128][512 : 256]
  // CHECK-NEXT: tile.bn_aggregate dst %5[0:128][0 : 2] data %6[0:128][0 : 12]
  // CHECK-NEXT: tile.tensor_scalar dst %5[0:128][1 : 1] data %5[0:128][1 : 1] {op0 = add, scalar0 = 9.999999747378752e-06}
  // CHECK-NEXT: tile.activation dst %5[0:128][1 : 1] data %5[0:128][1 : 1] {func = rsqrt}
  // CHECK-NEXT: tile.scalar_tensor_tensor dst %4[0:128][0 : 768] data %3[0:128][0 : 768] operand0 %5[0:128][0 : 1] other %1[0:128][0 : 768] {op0 = subtract, op1 = multiply}
  // CHECK-NEXT: tile.scalar_tensor_tensor dst %4[0:128][0 : 768] data %4[0:128][0 : 768] operand0 %5[0:128][1 : 1] other %2[0:128][0 : 768] {op0 = multiply, op1 = add}
  // CHECK-NEXT: tile.store dst %0[98304*%i : 98304] src %4[0:128][0 : 768]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @rows(%x: tensor<384x768xf32>, %s: tensor<768xf32>, %b: tensor<768xf32>) -> tensor<384x768xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.layer_norm %x scale %s : tensor<768xf32> bias %b : tensor<768xf32> axis 1 epsilon 1.0e-05 : (tensor<384x768xf32>) -> tensor<384x768xf32>
    func.return %y : tensor<384x768xf32>
  }

  // Eight short rows on each partition: a load and a store for four of them, statistics row by row.
  // CHECK-LABEL: func.func private @short_rows
  // CHECK: scf.for %i = %c0 to %c2 step %c1 {
  // CHECK-NEXT: %1 = tile.alloc copies 2 : memref<128x4x96xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 384] src %x[384*%i : 128 step 768, 384]
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<128x4x96xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<128x4x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %4 = tile.alloc copies 2 : memref<128x4x6xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: scf.for %i_1 = %c0 to %c4 step %c1 {
  // CHECK-NEXT: tile.bn_stats dst %4[0:128][6*%i_1 : 6] data %1[0:128][96*%i_1 : 96]
  // CHECK-NEXT: }
  // CHECK-NEXT: scf.for %i_2 = %c0 to %c4 step %c1 {
  // CHECK-NEXT: tile.bn_aggregate dst %3[0:128][2*%i_2 : 2] data %4[0:128][6*%i_2 : 6]
  // CHECK-NEXT: }
  // CHECK-NEXT: tile.tensor_scalar dst %3[0:128][1 : 4 step 2] data %3[0:128][1 : 4 step 2] {op0 = add, scalar0 = 9.999999747378752e-06}
  // CHECK-NEXT: tile.activation dst %3[0:128][1 : 4 step 2] data %3[0:128][1 : 4 step 2] {func = rsqrt}
  // CHECK-NEXT: tile.scalar_tensor_tensor dst %3[0:128][0 : 4 step 2] data %3[0:128][0 : 4 step 2] other %3[0:128][1 : 4 step 2] {op0 = multiply, scalar0 = -1.0, op1 = multiply}
  // CHECK-NEXT: scf.for %i_3 = %c0 to %c4 step %c1 {
  // CHECK-NEXT: tile.activation dst %2[0:128][96*%i_3 : 96] data %1[0:128][96*%i_3 : 96] bias %3[0:128][2*%i_3 : 1] scale_column %3[0:128][2*%i_3 + 1 : 1]
  // CHECK-NEXT: }
  // CHECK-NEXT: tile.store dst %0[384*%i : 128 step 768, 384] src %2[0:128][0 : 384]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @short_rows(%x: tensor<1024x96xf32>) -> tensor<1024x96xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.layer_norm %x axis 1 epsilon 1.0e-05 : (tensor<1024x96xf32>) -> tensor<1024x96xf32>
    func.return %y : tensor<1024x96xf32>
  }

  // Tiles of short rows on chip: a lane works on the rows of several tiles together.
  // CHECK-LABEL: func.func private @tiles
  // CHECK: scf.for %i_4 = %c0 to %c4 step %c1 {
  // CHECK: tile.bn_stats dst %7[0:128][6*%i_5 : 6] data %1[0:128][768*%i_4 + 96*%i_5 : 96]
  func.func private @tiles(%x: tensor<4096x96xf32>) -> tensor<4096x96xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.layer_norm %x axis 1 epsilon 1.0e-05 : (tensor<4096x96xf32>) -> tensor<4096x96xf32, #graph.layout<sbuf, partition 0>>
    %z = graph.layer_norm %y axis 1 epsilon 1.0e-05 : (tensor<4096x96xf32, #graph.layout<sbuf, partition 0>>) -> tensor<4096x96xf32>
    func.return %z : tensor<4096x96xf32>
  }
}
