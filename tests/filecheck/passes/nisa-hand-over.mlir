// RUN: neuron-opt %s -p nisa-hand-over | filecheck %s

// @stage_0 makes a tensor in two stores, which @stage_1 and @stage_2 read in one and in four loads. Each reader waits with
// its first load of a queue until both stores are done, the maker with its first store for a buffer that both readers are
// done with. Two stages on, one buffer more is needed: three, for both readers. The model's own input and output are no
// hand-overs.
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
    %0 = neuron.launch @stage_0(%x) on core : (tensor<64x64xf32>) -> tensor<64x64xf32>
    %1 = neuron.launch @stage_1(%0) on core : (tensor<64x64xf32>) -> tensor<64x64xf32>
    %2 = neuron.launch @stage_2(%1, %0) on core : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
    func.return %2 : tensor<64x64xf32>
  }
  func.func @stage_0(%x: memref<64x64xf32, #neuron.space<dram>>, %y: memref<64x64xf32, #neuron.space<dram>>) attributes {neuron.pipeline_stage = 0 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c2 = arith.constant 2 : index
    %t = nisa.alloc at 0, 0 : memref<64x64xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %t[0:64][0 : 64] src %x[0 : 64 step 64, 64] signal(load0)
    scf.for %i = %c0 to %c2 step %c1 {
      nisa.dma_copy on pool ring store0 dst %y[2048*%i : 32 step 64, 64] src %t[0:32][0 : 64] wait(load0 >= 1)
    }
    func.return
  }
  func.func @stage_1(%x: memref<64x64xf32, #neuron.space<dram>>, %y: memref<64x64xf32, #neuron.space<dram>>) attributes {neuron.pipeline_stage = 1 : i64} {
    %t = nisa.alloc at 0, 0 : memref<64x64xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %t[0:64][0 : 64] src %x[0 : 64 step 64, 64] signal(load0)
    nisa.dma_copy on pool ring store0 dst %y[0 : 64 step 64, 64] src %t[0:64][0 : 64] wait(load0 >= 1)
    func.return
  }
  func.func @stage_2(%x: memref<64x64xf32, #neuron.space<dram>>, %z: memref<64x64xf32, #neuron.space<dram>>, %y: memref<64x64xf32, #neuron.space<dram>>) attributes {neuron.pipeline_stage = 2 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c3 = arith.constant 3 : index
    %t = nisa.alloc at 0, 0 : memref<64x64xf32, #neuron.space<sbuf>>
    %u = nisa.alloc at 0, 256 : memref<64x64xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load0 dst %t[0:64][0 : 64] src %x[0 : 64 step 64, 64] signal(load0)
    scf.for %i = %c0 to %c3 step %c1 {
      nisa.dma_copy on sp ring load1 dst %u[0:64][0 : 64] src %z[0 : 64 step 64, 64]
    }
    nisa.dma_copy on pool ring load2 dst %u[0:64][0 : 64] src %z[0 : 64 step 64, 64] wait(load1 >= 3)
    nisa.dma_copy on pool ring store0 dst %y[0 : 64 step 64, 64] src %t[0:64][0 : 64] wait(load0 >= 1)
    func.return
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
// CHECK-NEXT:     %0 = neuron.launch @stage_0(%x) on core : (tensor<64x64xf32>) -> tensor<64x64xf32>
// CHECK-NEXT:     %1 = neuron.launch @stage_1(%0) on core : (tensor<64x64xf32>) -> tensor<64x64xf32>
// CHECK-NEXT:     %2 = neuron.launch @stage_2(%1, %0) on core : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
// CHECK-NEXT:     func.return %2 : tensor<64x64xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @stage_0(%x: memref<64x64xf32, #neuron.space<dram>>, %y: memref<64x64xf32, #neuron.space<dram>>) attributes {neuron.pipeline_stage = 0 : i64} {
// CHECK-NEXT:     nisa.hand_over %y to @stage_1 argument 0 semaphore free0 count 1 buffers 3 : memref<64x64xf32, #neuron.space<dram>>
// CHECK-NEXT:     nisa.hand_over %y to @stage_2 argument 1 semaphore free1 count 4 buffers 3 : memref<64x64xf32, #neuron.space<dram>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c2 = arith.constant 2 : index
// CHECK-NEXT:     %t = nisa.alloc at 0, 0 : memref<64x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %t[0:64][0 : 64] src %x[0 : 64 step 64, 64] signal(load0)
// CHECK-NEXT:     scf.for %i = %c0 to %c2 step %c1 {
// CHECK-NEXT:       nisa.dma_copy on pool ring store0 dst %y[2048*%i : 32 step 64, 64] src %t[0:32][0 : 64] wait(load0 >= 1, free0 >= 1, free1 >= 4)
// CHECK-NEXT:     }
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @stage_1(%x: memref<64x64xf32, #neuron.space<dram>>, %y: memref<64x64xf32, #neuron.space<dram>>) attributes {neuron.pipeline_stage = 1 : i64} {
// CHECK-NEXT:     nisa.hand_over %x from @stage_0 argument 1 semaphore ready0 count 2 buffers 3 : memref<64x64xf32, #neuron.space<dram>>
// CHECK-NEXT:     nisa.hand_over %y to @stage_2 argument 0 semaphore free0 count 1 buffers 2 : memref<64x64xf32, #neuron.space<dram>>
// CHECK-NEXT:     %t = nisa.alloc at 0, 0 : memref<64x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %t[0:64][0 : 64] src %x[0 : 64 step 64, 64] wait(ready0 >= 2) signal(load0)
// CHECK-NEXT:     nisa.dma_copy on pool ring store0 dst %y[0 : 64 step 64, 64] src %t[0:64][0 : 64] wait(load0 >= 1, free0 >= 1)
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func @stage_2(%x: memref<64x64xf32, #neuron.space<dram>>, %z: memref<64x64xf32, #neuron.space<dram>>, %y: memref<64x64xf32, #neuron.space<dram>>) attributes {neuron.pipeline_stage = 2 : i64} {
// CHECK-NEXT:     nisa.hand_over %x from @stage_1 argument 1 semaphore ready0 count 1 buffers 2 : memref<64x64xf32, #neuron.space<dram>>
// CHECK-NEXT:     nisa.hand_over %z from @stage_0 argument 1 semaphore ready1 count 2 buffers 3 : memref<64x64xf32, #neuron.space<dram>>
// CHECK-NEXT:     %c0 = arith.constant 0 : index
// CHECK-NEXT:     %c1 = arith.constant 1 : index
// CHECK-NEXT:     %c3 = arith.constant 3 : index
// CHECK-NEXT:     %t = nisa.alloc at 0, 0 : memref<64x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     %u = nisa.alloc at 0, 256 : memref<64x64xf32, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.dma_copy on sp ring load0 dst %t[0:64][0 : 64] src %x[0 : 64 step 64, 64] wait(ready0 >= 1) signal(load0)
// CHECK-NEXT:     scf.for %i = %c0 to %c3 step %c1 {
// CHECK-NEXT:       nisa.dma_copy on sp ring load1 dst %u[0:64][0 : 64] src %z[0 : 64 step 64, 64] wait(ready1 >= 2)
// CHECK-NEXT:     }
// CHECK-NEXT:     nisa.dma_copy on pool ring load2 dst %u[0:64][0 : 64] src %z[0 : 64 step 64, 64] wait(load1 >= 3, ready1 >= 2)
// CHECK-NEXT:     nisa.dma_copy on pool ring store0 dst %y[0 : 64 step 64, 64] src %t[0:64][0 : 64] wait(load0 >= 1)
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }
