// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // The mean over a plane: channels on the partitions, one row reduction for all of a tile's images.
  // CHECK-LABEL: func.func private @global_average
  // CHECK-NEXT: %1 = tile.alloc : memref<128x2x49xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 98] src %x[0 : 12544]
  // CHECK-NEXT: %2 = tile.alloc : memref<128x2x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %3 = tile.alloc : memref<128x2xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %3[0:128][0 : 2] data %1[0:128][0 : 2 step 49, 49]
  // CHECK-NEXT: tile.tensor_scalar dst %2[0:128][0 : 2] data %3[0:128][0 : 2] {op0 = multiply, scalar0 = 0.02040816326530612}
  // CHECK-NEXT: tile.store dst %0[0 : 256] src %2[0:128][0 : 2]
  // CHECK-NEXT: func.return
  func.func private @global_average(%x: tensor<2x128x7x7xf32>) -> tensor<2x128x1x1xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.reduce mean %x axes [2, 3] keep_dims : (tensor<2x128x7x7xf32>) -> tensor<2x128x1x1xf32>
    func.return %y : tensor<2x128x1x1xf32>
  }

  // Over the first axis: runs of 8 elements stay whole for the transfer; the view on chip puts the axis innermost.
  // CHECK-LABEL: func.func private @first_axis
  // CHECK-NEXT: %1 = tile.alloc : memref<128x32x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 256] src %x[0 : 128 step 8, 32 step 1024, 8]
  // CHECK-NEXT: %2 = tile.alloc : memref<128x1x8xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %2[0:128][0 : 8] data %1[0:128][0 : 8, 32 step 8] {op = maximum}
  // CHECK-NEXT: tile.store dst %0[0 : 1024] src %2[0:128][0 : 8]
  // CHECK-NEXT: func.return
  func.func private @first_axis(%x: tensor<32x1024xf32>) -> tensor<1024xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.reduce max %x axes [0] : (tensor<32x1024xf32>) -> tensor<1024xf32>
    func.return %y : tensor<1024xf32>
  }

  // Everything to one number: runs of 512 elements are reduced side by side, their sums pass through a scratch tensor.
  // CHECK-LABEL: func.func private @all
  // CHECK-NEXT: %1 = tile.alloc : memref<128x1x1xf32, #neuron.space<dram>>
  // CHECK-NEXT: %2 = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %2[0:128][0 : 512] src %x[0 : 65536]
  // CHECK-NEXT: %3 = tile.alloc : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %4 = tile.alloc : memref<128x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %5 = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %5[0:128][0 : 512] data %2[0:128][0 : 512] {func = square}
  // CHECK-NEXT: tile.reduce dst %4[0:128][0 : 1] data %5[0:128][0 : 512]
  // CHECK-NEXT: tile.activation dst %3[0:128][0 : 1] data %4[0:128][0 : 1] {func = sqrt}
  // CHECK-NEXT: tile.store dst %1[0 : 128] src %3[0:128][0 : 1]
  // CHECK-NEXT: %6 = tile.alloc : memref<1x128xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %6[0:1][0 : 128] src %1[0 : 128]
  // CHECK-NEXT: %7 = tile.alloc : memref<1x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %8 = tile.alloc : memref<1x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: %9 = tile.alloc : memref<1x128xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.activation dst %9[0:1][0 : 128] data %6[0:1][0 : 128] {func = square}
  // CHECK-NEXT: tile.reduce dst %8[0:1][0 : 1] data %9[0:1][0 : 128]
  // CHECK-NEXT: tile.activation dst %7[0:1][0 : 1] data %8[0:1][0 : 1] {func = sqrt}
  // CHECK-NEXT: tile.store dst %0[0 : 1] src %7[0:1][0 : 1]
  // CHECK-NEXT: func.return
  func.func private @all(%x: tensor<256x256xf32>) -> tensor<f32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.reduce l2 %x axes [0, 1] : (tensor<256x256xf32>) -> tensor<f32>
    func.return %y : tensor<f32>
  }

  // Integers: 11-bit limbs, whose sums f32 holds exactly, are added up and put together with carries.
  // CHECK-LABEL: func.func private @integers
  // CHECK-NEXT: %1 = tile.alloc : memref<128x100xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 100] src %x[0 : 12800]
  // CHECK-NEXT: %2 = tile.alloc : memref<128x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: %3 = tile.alloc : memref<128x100xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %3[0:128][0 : 100] data %1[0:128][0 : 100] {op0 = right_shift, op1 = bitwise_and, scalar1 = 2047.0}
  // CHECK-NEXT: %4 = tile.alloc : memref<128x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %4[0:128][0 : 1] data %3[0:128][0 : 100]
  // CHECK-NEXT: tile.tensor_scalar dst %3[0:128][0 : 100] data %1[0:128][0 : 100] {op0 = right_shift, scalar0 = 11.0, op1 = bitwise_and, scalar1 = 2047.0}
  // CHECK-NEXT: %5 = tile.alloc : memref<128x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %5[0:128][0 : 1] data %3[0:128][0 : 100]
  // CHECK-NEXT: tile.tensor_scalar dst %3[0:128][0 : 100] data %1[0:128][0 : 100] {op0 = right_shift, scalar0 = 22.0, op1 = bitwise_and, scalar1 = 2047.0}
  // CHECK-NEXT: %6 = tile.alloc : memref<128x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.reduce dst %6[0:128][0 : 1] data %3[0:128][0 : 100]
  // CHECK-NEXT: %7 = tile.alloc : memref<128x1xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.tensor_scalar dst %5[0:128][0 : 1] data %5[0:128][0 : 1] {op0 = left_shift, scalar0 = 11.0}
  // CHECK-NEXT: tile.tensor_scalar dst %6[0:128][0 : 1] data %6[0:128][0 : 1] {op0 = left_shift, scalar0 = 22.0}
  // CHECK-NEXT: tile.tensor_tensor dst %4[0:128][0 : 1] data %4[0:128][0 : 1] other %5[0:128][0 : 1]
  // CHECK-NEXT: tile.tensor_tensor dst %7[0:128][0 : 1] data %4[0:128][0 : 1] other %6[0:128][0 : 1]
  // CHECK-NEXT: tile.copy dst %2[0:128][0 : 1] data %7[0:128][0 : 1]
  // CHECK-NEXT: tile.store dst %0[0 : 128] src %2[0:128][0 : 1]
  // CHECK-NEXT: func.return
  func.func private @integers(%x: tensor<128x100xi32>) -> tensor<128xi32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.reduce sum %x axes [1] : (tensor<128x100xi32>) -> tensor<128xi32>
    func.return %y : tensor<128xi32>
  }
}
