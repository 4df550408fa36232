// RUN: neuron-opt %s --verify-diagnostics --split-input-file

// An engine that does not execute the instruction.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.tensor_copy' engine pe does not execute it; engines: dve, pool, act}}
  nisa.tensor_copy on pe dst %a[0:128][0 : 512] data %a[0:128][0 : 512]
  func.return
}

// -----

// Pool has no access to PSUM.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
  // expected-error@below {{'nisa.tensor_copy' operand data: pool has no access to PSUM}}
  nisa.tensor_copy on pool dst %a[0:128][0 : 512] data %p[0:128][0 : 512]
  func.return
}

// -----

// More free dimensions than an operand can have.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.tensor_copy' operand data has 5 free dimensions, limit 4}}
  nisa.tensor_copy on dve dst %a[0:128][0 : 32] data %a[0:128][0 : 2 step 100, 2 step 50, 2 step 25, 2 step 12, 2 step 5]
  func.return
}

// -----

// More dimensions than a DMA can have.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.dma_copy' operand src has 6 free dimensions, limit 5}}
  nisa.dma_copy on sp ring q0 dst %a[0:2][0 : 32] src %x[0 : 2 step 64, 2 step 32, 2 step 16, 2 step 8, 2 step 4, 2]
  func.return
}

// -----

// More partitions than there are, from where it starts.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.dma_copy' operand dst spans partitions 64 to 163, limit 127}}
  nisa.dma_copy on sp ring q0 dst %a[64:100][0 : 8] src %x[0 : 800]
  func.return
}

// -----

// A block of 33 to 64 partitions starts at 0 or 64.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.tensor_copy' operand data: 64 partitions cannot start at 32, only at [0, 64]}}
  nisa.tensor_copy on dve dst %a[0:64][0 : 512] data %a[32:64][0 : 512]
  func.return
}

// -----

// The lanes of an instruction are those of all its operands.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.tensor_copy' operands span different numbers of partitions: [32, 64]}}
  nisa.tensor_copy on dve dst %a[0:64][0 : 512] data %a[0:32][0 : 1024]
  func.return
}

// -----

// A partition cannot depend on a loop.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>, %i: index) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.tensor_copy' operand dst starts on a partition that depends on a loop}}
  nisa.tensor_copy on dve dst %a[32*%i:32][0 : 512] data %a[0:32][0 : 512]
  func.return
}

// -----

// A scalar operand is one element per partition.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.activation' operand bias has 2 elements per partition, must have 1}}
  nisa.activation on act dst %a[0:128][0 : 512] data %a[0:128][0 : 512] bias %a[0:128][0 : 2]
  func.return
}

// -----

// Numbers of elements differ.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.tensor_copy' numbers of elements differ: dst 65536, data 65408}}
  nisa.tensor_copy on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 511]
  func.return
}

// -----

// Two inputs in PSUM.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
  // expected-error@below {{'nisa.tensor_tensor' data and other both lie in PSUM}}
  nisa.tensor_tensor on dve dst %a[0:128][0 : 512] data %p[0:128][0 : 512] other %p[0:128][0 : 512]
  func.return
}

// -----

// A matmul whose operands disagree on K.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %b = nisa.alloc : memref<128x512xbf16, #neuron.space<sbuf>>
  %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
  // expected-error@below {{'nisa.nc_matmul' stationary has K = 128, moving has K = 64}}
  nisa.nc_matmul on pe dst %p[0:128][0 : 512] stationary %b[0:128][0 : 128] moving %b[0:64][0 : 512]
  func.return
}

// -----

// A matmul result of another shape.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %b = nisa.alloc : memref<128x512xbf16, #neuron.space<sbuf>>
  %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
  // expected-error@below {{'nisa.nc_matmul' dst is 128 x 256, must be 128 x 512}}
  nisa.nc_matmul on pe dst %p[0:128][0 : 256] stationary %b[0:128][0 : 128] moving %b[0:128][0 : 512]
  func.return
}

// -----

// fp32 is multiplied with fp32 only.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  %b = nisa.alloc : memref<128x512xbf16, #neuron.space<sbuf>>
  %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
  // expected-error@below {{'nisa.nc_matmul' cannot mix f32 with bf16}}
  nisa.nc_matmul on pe dst %p[0:128][0 : 512] stationary %a[0:128][0 : 128] moving %b[0:128][0 : 512]
  func.return
}

// -----

// A transpose of 33 rows on the vector engine.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.nc_transpose' on dve 33 x 8 exceeds 32 x 32}}
  nisa.nc_transpose on dve dst %a[0:8][0 : 33] data %a[0:33][0 : 8]
  func.return
}

// -----

// A reduction that leaves more than its destination holds.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.tensor_reduce' dst has 3 elements per partition, the reduction leaves 4}}
  nisa.tensor_reduce on dve dst %a[0:128][0 : 3] data %a[0:128][0 : 4 step 128, 128]
  func.return
}

// -----

// Statistics of too long a row.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.bn_stats' data has 513 elements per partition, allowed 1 to 512}}
  nisa.bn_stats on dve dst %a[0:128][0 : 6] data %a[0:128][0 : 513]
  func.return
}

// -----

// A DMA names its ring.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'nisa.dma_copy' a DMA names the ring that it goes to}}
  nisa.dma_copy on sp dst %a[0:128][0 : 512] src %x[0 : 65536]
  func.return
}

// -----

// An address is a partition and an offset.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{'nisa.alloc' an address needs a partition and a byte offset}}
  %c = "nisa.alloc"() <{copies = 1 : i64, address = 64 : i64}> : () -> memref<128x512xf32, #neuron.space<sbuf>>
  func.return
}

// -----

// A tile on more partitions than there are.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{'nisa.alloc' 129 partitions exceed 128}}
  %c = nisa.alloc : memref<129x512xf32, #neuron.space<sbuf>>
  func.return
}

// -----

// A control instruction that does not exist.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{unknown control instruction jump}}
  nisa.control jump L0
  func.return
}

// -----

// A control instruction with too few operands.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{'nisa.control' reg_add has 3 operands, not 2}}
  "nisa.control"() <{kind = "reg_add", numbers = array<i64: 1, 2>}> : () -> ()
  func.return
}

// -----

// A number where a register belongs.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{identifier expected}}
  nisa.control reg_add r1, 2, 3
  func.return
}

// -----

// A hand-over of what is no argument of the function.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %w = nisa.param "w" : memref<256x512xf32, #neuron.space<dram>>
  // expected-error@below {{only an argument of the function, in dram, is handed over}}
  nisa.hand_over %w from @g argument 0 semaphore s count 1 buffers 2 : memref<256x512xf32, #neuron.space<dram>>
  func.return
}

// -----

// A hand-over in no transfer.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{a hand-over has an argument from 0, and at least one transfer and one buffer}}
  nisa.hand_over %x to @g argument 0 semaphore s count 0 buffers 2 : memref<256x512xf32, #neuron.space<dram>>
  func.return
}
