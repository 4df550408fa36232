// exp of a [128, 4096] tensor, one [128, 512] tile at a time: a program in nisa form 1, written by hand.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<128x4096xf32>) -> tensor<128x4096xf32> attributes {neuron.input_names = ["x"], neuron.output_names = ["y"]} {
    %y = neuron.launch @exp(%x) on core : (tensor<128x4096xf32>) -> tensor<128x4096xf32>
    func.return %y : tensor<128x4096xf32>
  }
  func.func @exp(%in: memref<128x4096xf32, #neuron.space<dram>>, %out: memref<128x4096xf32, #neuron.space<dram>>) attributes {neuron.executor = #neuron.executor<core>, neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    scf.for %i = %c0 to %c8 step %c1 {
      %a = nisa.alloc copies 2 : memref<128x512xf32, #neuron.space<sbuf>>
      %b = nisa.alloc copies 2 : memref<128x512xf32, #neuron.space<sbuf>>
      nisa.dma_copy on sp ring load0 dst %a[0:128][0 : 512] src %in[512*%i : 128 step 4096, 512]
      nisa.activation on act dst %b[0:128][0 : 512] data %a[0:128][0 : 512] {func = exp}
      nisa.dma_copy on pool ring store0 dst %out[512*%i : 128 step 4096, 512] src %b[0:128][0 : 512]
    }
    func.return
  }
}
