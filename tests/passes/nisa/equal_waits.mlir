builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0(%0: memref<128x24xf32, #neuron.space<dram>>, %1: memref<128x24xf32, #neuron.space<dram>>) {
    %2 = arith.constant 0 : index
    %3 = arith.constant 4 : index
    %4 = arith.constant 1 : index
    %5 = arith.constant 2 : index
    %6 = arith.constant 3 : index
    %7 = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
    %8 = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
    scf.for %9 = %2 to %3 step %4 {
      %10 = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
      nisa.dma_copy on act ring load_act0 dst %7[0:128][0 : 4] src %8[0:128][0 : 4]
    }
    nisa.tensor_copy on dve dst %7[0:128][0 : 24] data %8[0:128][0 : 24]
    scf.for %11 = %2 to %3 step %4 {
      %12 = nisa.alloc copies 3 : memref<128x24xf32, #neuron.space<psum>>
      scf.for %13 = %2 to %5 step %4 {
        %14 = nisa.alloc copies 3 : memref<128x24xf32, #neuron.space<psum>>
        nisa.dma_copy on act ring load_act0 dst %7[0:128][%11 + 4*%13 + 15 : 2] src %1[%11 + 4*%13 + 15 : 128 step 24, 2]
        nisa.tensor_copy on dve dst %7[0:128][%11 + 8*%13 + 2 : 8] data %12[0:128][16*%13 : 8]
      }
    }
    nisa.tensor_copy on dve dst %8[0:128][0 : 24] data %7[0:128][0 : 24]
    nisa.tensor_copy on pool dst %7[64:64][0 : 1] data %7[64:64][0 : 1]
    scf.for %15 = %2 to %6 step %4 {
      nisa.dma_copy on pool ring store_pool1 dst %1[2*%15 + 19 : 128 step 24, 1] src %0[2*%15 : 128 step 24, 1]
      scf.for %16 = %2 to %3 step %4 {
        nisa.memset on pool dst %7[0:128][%15 + 10 : 1]
        scf.for %17 = %2 to %3 step %4 {
          scf.for %18 = %2 to %5 step %4 {
            %19 = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
          }
          nisa.dma_copy on act ring load_act1 dst %7[0:64][8*%15 : 8] src %0[0 : 64 step 24, 8]
          scf.for %20 = %2 to %5 step %4 {
            nisa.tensor_copy on act dst %8[0:128][%17 + 2*%20 + 17 : 2] data %7[0:128][2*%17 + 8 : 2]
            nisa.tensor_copy on act dst %8[0:128][%15 : 8] data %8[0:128][8*%20 : 8]
          }
        }
        %21 = nisa.alloc : memref<128x24xf32, #neuron.space<sbuf>>
        nisa.memset on pool dst %7[64:64][0 : 24]
      }
    }
    %22 = nisa.alloc copies 3 : memref<128x24xf32, #neuron.space<sbuf>>
    nisa.dma_copy on sp ring load_sp1 dst %8[0:128][23 : 1] src %8[0:128][23 : 1]
    nisa.tensor_copy on act dst %7[0:128][0 : 24] data %7[0:128][0 : 24]
    nisa.dma_copy on act ring load_act0 dst %8[64:64][16 : 8] src %8[64:64][0 : 8]
    func.return
  }
}