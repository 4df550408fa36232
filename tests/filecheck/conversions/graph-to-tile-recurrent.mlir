// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // The weight is loaded before the loop over time, its tiles are stationary; the state moves and is never turned. The
  // last step comes first.
  // CHECK-LABEL: func.func private @lstm
  // CHECK: %recurrence = tile.alloc : memref<64x1x4x1x64xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %recurrence[0:64][0 : 256] src %1[0 : 64 step 64, 4 step 4096, 64]
  // CHECK-NEXT: %h_1 = tile.alloc : memref<64x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %h_1[0:64][0 : 2] src %h[0 : 128]
  // CHECK-NEXT: %c = tile.alloc : memref<64x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %c[0:64][0 : 2]
  // CHECK-NEXT: %moving = tile.alloc : memref<64x1x2xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.copy dst %moving[0:64][0 : 2] data %h_1[0:64][0 : 2]
  // CHECK-NEXT: %gates = tile.alloc : memref<64x4x1x40x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %gates[0:64][0 : 320] src %g[0 : 64 step 80, 4 step 5120, 80]
  // CHECK-NEXT: %y = tile.alloc : memref<64x1x40x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: scf.for %i = %c0 to %c40 step %c1 {
  // CHECK-NEXT: %sums = tile.alloc copies 2 : memref<64x4x1x2xf32, #neuron.space<psum>>
  // CHECK-NEXT: tile.matmul dst %sums[0:64][0 : 2] stationary %recurrence[0:64][0 : 64] moving %moving[0:64][0 : 2]
  // CHECK-NEXT: tile.matmul dst %sums[0:64][2 : 2] stationary %recurrence[0:64][64 : 64] moving %moving[0:64][0 : 2]
  // CHECK-NEXT: tile.matmul dst %sums[0:64][4 : 2] stationary %recurrence[0:64][128 : 64] moving %moving[0:64][0 : 2]
  // CHECK-NEXT: tile.matmul dst %sums[0:64][6 : 2] stationary %recurrence[0:64][192 : 64] moving %moving[0:64][0 : 2]
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<64x4x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %2[0:64][0 : 8] data %sums[0:64][0 : 8] other %gates[0:64][-2*%i + 78 : 4 step 80, 2]
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<64x4x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %3[0:64][0 : 6] data %2[0:64][0 : 6] {func = sigmoid}
  // CHECK-NEXT: tile.activation dst %3[0:64][6 : 2] data %2[0:64][6 : 2] {func = tanh}
  // CHECK-NEXT: tile.tensor_tensor dst %2[0:64][0 : 2] data %3[0:64][4 : 2] other %c[0:64][0 : 2] {op = multiply}
  // CHECK-NEXT: tile.tensor_tensor dst %3[0:64][6 : 2] data %3[0:64][0 : 2] other %3[0:64][6 : 2] {op = multiply}
  // CHECK-NEXT: tile.tensor_tensor dst %c[0:64][0 : 2] data %2[0:64][0 : 2] other %3[0:64][6 : 2]
  // CHECK-NEXT: tile.activation dst %2[0:64][2 : 2] data %c[0:64][0 : 2] {func = tanh}
  // CHECK-NEXT: tile.tensor_tensor dst %moving[0:64][0 : 2] data %3[0:64][2 : 2] other %2[0:64][2 : 2] {op = multiply}
  // CHECK-NEXT: tile.tensor_tensor dst %y[0:64][-2*%i + 78 : 2] data %3[0:64][2 : 2] other %2[0:64][2 : 2] {op = multiply}
  // CHECK-NEXT: }
  // CHECK-NEXT: tile.store dst %0[0 : 5120] src %y[0:64][0 : 80]
  // CHECK-NEXT: func.return
  func.func private @lstm(%g: tensor<1x256x40x2xf32>, %h: tensor<1x64x2xf32>) -> tensor<1x64x40x2xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %r = graph.weight @r : tensor<1x256x64xbf16>
    %y, %fh, %fc = graph.recurrent lstm %g, %r initial_h %h reversed [1] functions [sigmoid, tanh, tanh] : (tensor<1x256x40x2xf32>, tensor<1x256x64xbf16>, tensor<1x64x2xf32>) -> (tensor<1x64x40x2xf32>, tensor<1x64x2xf32>, tensor<1x64x2xf32>)
    func.return %y : tensor<1x64x40x2xf32>
  }

  // A gru whose reset gate comes first multiplies twice in a step; the mask chooses between old and new state.
  // CHECK-LABEL: func.func private @gru
  // CHECK: %recurrence = tile.alloc : memref<64x1x3x1x64xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %recurrence[0:64][0 : 192] src %1[0 : 64 step 64, 3 step 4096, 64]
  // CHECK-NEXT: %h = tile.alloc : memref<64x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %h[0:64][0 : 2]
  // CHECK-NEXT: %moving = tile.alloc : memref<64x1x2xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.copy dst %moving[0:64][0 : 2] data %h[0:64][0 : 2]
  // CHECK-NEXT: %gates = tile.alloc : memref<64x3x1x40x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %gates[0:64][0 : 240] src %g[0 : 64 step 80, 3 step 5120, 80]
  // CHECK-NEXT: %2 = tile.alloc : memref<64x40x2xi1, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:64][0 : 80] src %m[0 : 64 step 0, 80]
  // CHECK-NEXT: scf.for %i = %c0 to %c40 step %c1 {
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<64x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %4 = tile.alloc copies 2 : memref<64x1x2xbf16, #neuron.space<sbuf>>
  // CHECK-NEXT: %sums = tile.alloc copies 2 : memref<64x2x1x2xf32, #neuron.space<psum>>
  // CHECK-NEXT: tile.matmul dst %sums[0:64][0 : 2] stationary %recurrence[0:64][0 : 64] moving %moving[0:64][0 : 2]
  // CHECK-NEXT: tile.matmul dst %sums[0:64][2 : 2] stationary %recurrence[0:64][64 : 64] moving %moving[0:64][0 : 2]
  // CHECK-NEXT: %5 = tile.alloc copies 2 : memref<64x2x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %5[0:64][0 : 4] data %sums[0:64][0 : 4] other %gates[0:64][2*%i : 2 step 80, 2]
  // CHECK-NEXT: %6 = tile.alloc copies 2 : memref<64x2x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %6[0:64][0 : 4] data %5[0:64][0 : 4] {func = sigmoid}
  // CHECK-NEXT: tile.tensor_tensor dst %4[0:64][0 : 2] data %6[0:64][2 : 2] other %h[0:64][0 : 2] {op = multiply}
  // CHECK-NEXT: tile.copy dst %3[0:64][0 : 2] data %6[0:64][0 : 2]
  // CHECK-NEXT: %sums_1 = tile.alloc copies 2 : memref<64x1x1x2xf32, #neuron.space<psum>>
  // CHECK-NEXT: tile.matmul dst %sums_1[0:64][0 : 2] stationary %recurrence[0:64][128 : 64] moving %4[0:64][0 : 2]
  // CHECK-NEXT: %7 = tile.alloc copies 2 : memref<64x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %7[0:64][0 : 2] data %sums_1[0:64][0 : 2] other %gates[0:64][2*%i + 160 : 2]
  // CHECK-NEXT: %8 = tile.alloc copies 2 : memref<64x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %9 = tile.alloc copies 2 : memref<64x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %8[0:64][0 : 2] data %7[0:64][0 : 2] {func = tanh}
  // CHECK-NEXT: tile.tensor_tensor dst %9[0:64][0 : 2] data %h[0:64][0 : 2] other %8[0:64][0 : 2] {op = subtract}
  // CHECK-NEXT: tile.tensor_tensor dst %9[0:64][0 : 2] data %3[0:64][0 : 2] other %9[0:64][0 : 2] {op = multiply}
  // CHECK-NEXT: %10 = tile.alloc copies 2 : memref<64x1x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_tensor dst %10[0:64][0 : 2] data %8[0:64][0 : 2] other %9[0:64][0 : 2]
  // CHECK-NEXT: tile.select dst %h[0:64][0 : 2] data %10[0:64][0 : 2] predicate %2[0:64][2*%i : 2]
  // CHECK-NEXT: tile.copy dst %moving[0:64][0 : 2] data %h[0:64][0 : 2]
  // CHECK-NEXT: }
  // CHECK-NEXT: tile.store dst %0[0 : 128] src %h[0:64][0 : 2]
  // CHECK-NEXT: func.return
  func.func private @gru(%g: tensor<1x192x40x2xf32>, %m: tensor<40x2xi1>) -> tensor<1x64x2xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %r = graph.weight @q : tensor<1x192x64xbf16>
    %y, %fh = graph.recurrent gru %g, %r mask %m reversed [0] functions [sigmoid, tanh] : (tensor<1x192x40x2xf32>, tensor<1x192x64xbf16>, tensor<40x2xi1>) -> (tensor<1x64x40x2xf32>, tensor<1x64x2xf32>)
    func.return %fh : tensor<1x64x2xf32>
  }
}
