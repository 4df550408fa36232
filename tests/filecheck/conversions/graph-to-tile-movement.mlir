// RUN: neuron-opt %s -p convert-graph-to-tile | filecheck %s

builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // A reshape is another window on the same memory: as a function result it is one copy from DRAM to DRAM.
  // CHECK-LABEL: func.func private @reshape
  // CHECK-NEXT: tile.load dst %0[0 : 24] src %x[0 : 24]
  // CHECK-NEXT: func.return
  func.func private @reshape(%x: tensor<4x6xf32>) -> tensor<2x12xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.reshape %x : (tensor<4x6xf32>) -> tensor<2x12xf32>
    func.return %y : tensor<2x12xf32>
  }

  // Attention heads: rows of 64 elements stay rows, so the DMA alone moves them; four axes are merged to three.
  // CHECK-LABEL: func.func private @heads
  // CHECK-NEXT: tile.load dst %0[0 : 98304] src %x[0 : 128 step 64, 12 step 8192, 64]
  // CHECK-NEXT: func.return
  func.func private @heads(%x: tensor<1x12x128x64xf32>) -> tensor<128x768xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %t = graph.transpose %x permutation [0, 2, 1, 3] : (tensor<1x12x128x64xf32>) -> tensor<1x128x12x64xf32>
    %y = graph.reshape %t : (tensor<1x128x12x64xf32>) -> tensor<128x768xf32>
    func.return %y : tensor<128x768xf32>
  }

  // A matrix passes the tensor engine: four blocks of 128 rows fill one PSUM bank, rows of 512 elements are stored.
  // CHECK-LABEL: func.func private @matrix
  // CHECK: %1 = tile.alloc copies 2 : memref<128x4x256xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:128][0 : 1024] src %x[0 : 128 step 256, 4 step 32768, 256]
  // CHECK-NEXT: scf.for %i = %c0 to %c2 step %c1 {
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<128x512xf32, #neuron.space<psum>>
  // CHECK-NEXT: scf.for %i_1 = %c0 to %c4 step %c1 {
  // CHECK-NEXT: tile.transpose dst %2[0:128][128*%i_1 : 128] data %1[0:128][128*%i + 256*%i_1 : 128]
  // CHECK-NEXT: }
  // CHECK-NEXT: %3 = tile.alloc copies 2 : memref<128x512xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.copy dst %3[0:128][0 : 512] data %2[0:128][0 : 512]
  // CHECK-NEXT: tile.store dst %0[65536*%i : 65536] src %3[0:128][0 : 512]
  // CHECK-NEXT: }
  // CHECK-NEXT: func.return
  func.func private @matrix(%x: tensor<512x256xf32>) -> tensor<256x512xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.transpose %x permutation [1, 0] : (tensor<512x256xf32>) -> tensor<256x512xf32>
    func.return %y : tensor<256x512xf32>
  }

  // Integers must not pass it: each of 24 partitions takes 32 rows, and an engine turns them within the partition.
  // CHECK-LABEL: func.func private @integers
  // CHECK-NEXT: %1 = tile.alloc copies 2 : memref<24x32x64xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:24][0 : 2048] src %x[0 : 49152]
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<24x64x32xi32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.copy dst %2[0:24][0 : 2048] data %1[0:24][0 : 64, 32 step 64]
  // CHECK-NEXT: tile.store dst %0[0 : 24 step 32, 64 step 768, 32] src %2[0:24][0 : 2048]
  // CHECK-NEXT: func.return
  func.func private @integers(%x: tensor<768x64xi32>) -> tensor<64x768xi32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.transpose %x permutation [1, 0] : (tensor<768x64xi32>) -> tensor<64x768xi32>
    func.return %y : tensor<64x768xi32>
  }

  // Every second pixel: few enough that one transfer picks them out as fast as loading whole rows would be.
  // CHECK-LABEL: func.func private @pixels
  // CHECK-NEXT: tile.load dst %0[0 : 100352] src %x[1 : 3584 step 112, 28 step 2]
  // CHECK-NEXT: func.return
  func.func private @pixels(%x: tensor<1x128x56x56xf32>) -> tensor<1x128x28x28xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.slice %x starts [0, 0, 0, 1] sizes [1, 128, 28, 28] steps [1, 1, 2, 2] : (tensor<1x128x56x56xf32>) -> tensor<1x128x28x28xf32>
    func.return %y : tensor<1x128x28x28xf32>
  }

  // A column repeated along rows: loaded once per partition, repeated by an engine.
  // CHECK-LABEL: func.func private @repeat
  // CHECK-NEXT: %1 = tile.alloc copies 2 : memref<100x2x1xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.load dst %1[0:100][0 : 2] src %x[0 : 200]
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<100x2x300xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.copy dst %2[0:100][0 : 600] data %1[0:100][0 : 2, 300 step 0]
  // CHECK-NEXT: tile.store dst %0[0 : 60000] src %2[0:100][0 : 600]
  // CHECK-NEXT: func.return
  func.func private @repeat(%x: tensor<200x1xf32>) -> tensor<200x300xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.broadcast %x : (tensor<200x1xf32>) -> tensor<200x300xf32>
    func.return %y : tensor<200x300xf32>
  }

  // Each operand of a concatenation goes to its slice of the result.
  // CHECK-LABEL: func.func private @concat
  // CHECK-NEXT: tile.load dst %0[0 : 64 step 128, 100] src %a[0 : 6400]
  // CHECK-NEXT: tile.load dst %0[100 : 64 step 128, 28] src %b[0 : 1792]
  // CHECK-NEXT: func.return
  func.func private @concat(%a: tensor<64x100xf32>, %b: tensor<64x28xf32>) -> tensor<64x128xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.concat %a, %b axis 1 : (tensor<64x100xf32>, tensor<64x28xf32>) -> tensor<64x128xf32>
    func.return %y : tensor<64x128xf32>
  }

  // Padding: the interior is copied, each border slab is filled from a tile that holds the value.
  // CHECK-LABEL: func.func private @pad
  // CHECK-NEXT: tile.load dst %0[30 : 1920] src %x[0 : 1920]
  // CHECK-NEXT: %1 = tile.alloc copies 2 : memref<1x30xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %1[0:1][0 : 30] {value = 0.5}
  // CHECK-NEXT: tile.store dst %0[0 : 30] src %1[0:1][0 : 30]
  // CHECK-NEXT: %2 = tile.alloc copies 2 : memref<1x60xf32, #neuron.space<sbuf>>
  // CHECK-NEXT: tile.memset dst %2[0:1][0 : 60] {value = 0.5}
  // CHECK-NEXT: tile.store dst %0[1950 : 60] src %2[0:1][0 : 60]
  // CHECK-NEXT: func.return
  func.func private @pad(%x: tensor<64x30xf32>) -> tensor<67x30xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.pad constant %x low [1, 0] high [2, 0] value 0.5 : (tensor<64x30xf32>) -> tensor<67x30xf32>
    func.return %y : tensor<67x30xf32>
  }

  // Mirrored padding: the border is copied from rows of the operand in reverse.
  // CHECK-LABEL: func.func private @mirror
  // CHECK-NEXT: tile.load dst %0[0 : 30] src %x[30 : 30]
  // CHECK-NEXT: tile.load dst %0[30 : 1920] src %x[0 : 1920]
  // CHECK-NEXT: tile.load dst %0[1950 : 60] src %x[1860 : 2 step -30, 30]
  // CHECK-NEXT: func.return
  func.func private @mirror(%x: tensor<64x30xf32>) -> tensor<67x30xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %y = graph.pad reflect %x low [1, 0] high [2, 0] value 0.0 : (tensor<64x30xf32>) -> tensor<67x30xf32>
    func.return %y : tensor<67x30xf32>
  }
}
