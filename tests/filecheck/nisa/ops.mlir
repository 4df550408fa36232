// RUN: neuron-opt %s | filecheck %s
// RUN: neuron-opt %s | neuron-opt | filecheck %s
// RUN: neuron-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC
// RUN: neuron-opt %s --print-op-generic | neuron-opt | filecheck %s

// A core function, as at tile level.
// CHECK: builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT: func.func @ops(%x: memref<1024x512xf32, #neuron.space<dram>>, %y: memref<1024x512xf32, #neuron.space<dram>>) attributes {neuron.input_count = 1 : i64} {
// CHECK-NEXT: %c0 = arith.constant 0 : index
// CHECK-NEXT: %c1 = arith.constant 1 : index
// CHECK-NEXT: %c8 = arith.constant 8 : index
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @ops(%x: memref<1024x512xf32, #neuron.space<dram>>, %y: memref<1024x512xf32, #neuron.space<dram>>) attributes {neuron.input_count = 1 : i64} {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index

    // Buffers before allocation, and with an address: first partition, byte offset, distance between rotating copies.
    // CHECK-NEXT: %w = nisa.param "embedding" : memref<30000x512xf32, #neuron.space<dram>>
    // CHECK-NEXT: %a = nisa.alloc copies 2 : memref<128x512xf32, #neuron.space<sbuf>>
    // CHECK-NEXT: %b = nisa.alloc copies 2 at 0, 4096 stride 1024 : memref<128x4x128xbf16, #neuron.space<sbuf>>
    // CHECK-NEXT: %u = nisa.alloc at 0, 8192 : memref<128x512xui32, #neuron.space<sbuf>>
    // CHECK-NEXT: %g = nisa.alloc at 0, 24576 : memref<128x8xui16, #neuron.space<sbuf>>
    // CHECK-NEXT: %i = nisa.alloc at 32, 0 : memref<32x1xi32, #neuron.space<sbuf>>
    // CHECK-NEXT: %r = nisa.alloc : memref<128x8xf32, #neuron.space<sbuf>>
    // CHECK-NEXT: %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
    // CHECK-NEXT: %t = nisa.alloc : memref<128x128xbf16, #neuron.space<psum>>
    // GENERIC: "nisa.alloc"() <{copies = 2 : i64, partition = 0 : i64, address = 4096 : i64, copy_bytes = 1024 : i64}>
    %w = nisa.param "embedding" : memref<30000x512xf32, #neuron.space<dram>>
    %a = nisa.alloc copies 2 : memref<128x512xf32, #neuron.space<sbuf>>
    %b = nisa.alloc copies 2 at 0, 4096 stride 1024 : memref<128x4x128xbf16, #neuron.space<sbuf>>
    %u = nisa.alloc at 0, 8192 : memref<128x512xui32, #neuron.space<sbuf>>
    %g = nisa.alloc at 0, 24576 : memref<128x8xui16, #neuron.space<sbuf>>
    %i = nisa.alloc at 32, 0 : memref<32x1xi32, #neuron.space<sbuf>>
    %r = nisa.alloc : memref<128x8xf32, #neuron.space<sbuf>>
    %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
    %t = nisa.alloc : memref<128x128xbf16, #neuron.space<psum>>

    // Every instruction names its engine; a DMA the engine that triggers it and its ring. Waits and signals are progress counters.
    // CHECK-NEXT: scf.for %k = %c0 to %c8 step %c1 {
    // CHECK-NEXT: %s = nisa.slot 2 : i64
    // CHECK-NEXT: %v = nisa.slot 2 : i64 within 1 : i64
    // CHECK-NEXT: nisa.dma_copy on sp ring q_load dst %b[0:128][512*%s : 512] src %x[65536*%k : 128 step 512, 512] wait(pe >= %k - 1) signal(q_load)
    // CHECK-NEXT: nisa.nc_matmul on pe dst %p[0:128][0 : 512] stationary %b[0:128][512*%s : 128] moving %b[0:128][512*%s : 512] {accumulate = %k} wait(q_load >= %k + 1) signal(pe)
    // CHECK-NEXT: }
    // GENERIC: "nisa.dma_copy"(%b, %x, %s, %k) <{access = #tile.access<"dst [0:128][512*$0 : 512]", "src [65536*$1 : 128 step 512, 512]">, fields = #tile.fields<>, operandSegmentSizes = array<i32: 2, 2>, engine = "sp", ring = "q_load", sync = #nisa.sync<"wait pe $1 - 1", "signal q_load">}>
    scf.for %k = %c0 to %c8 step %c1 {
      %s = nisa.slot 2 : i64
      %v = nisa.slot 2 : i64 within 1 : i64
      nisa.dma_copy on sp ring q_load dst %b[0:128][512*%s : 512] src %x[65536*%k : 128 step 512, 512] wait(pe >= %k - 1) signal(q_load)
      nisa.nc_matmul on pe dst %p[0:128][0 : 512] stationary %b[0:128][512*%s : 128] moving %b[0:128][512*%s : 512] {accumulate = %k} wait(q_load >= %k + 1) signal(pe)
    }

    // Transfers by address and by index.
    // CHECK-NEXT: nisa.dma_copy on pool ring q_store dst %y[0 : 128 step 512, 512] src %a[0:128][0 : 512] wait(act >= 1, dve >= 16)
    // CHECK-NEXT: nisa.dma_gather on sp ring q_load dst %a[0:32][0 : 512] table %w[0 : 512] indices %i[0:32][0 : 1] {rows = 30000, row_stride = 512}
    // CHECK-NEXT: nisa.dma_scatter on pool ring q_store table %y[0 : 512] data %a[0:32][0 : 512] indices %i[0:32][0 : 1] {rows = 1024, row_stride = 512}
    // GENERIC: engine = "pool", ring = "q_store", sync = #nisa.sync<"wait act 1", "wait dve 16">
    nisa.dma_copy on pool ring q_store dst %y[0 : 128 step 512, 512] src %a[0:128][0 : 512] wait(act >= 1, dve >= 16)
    nisa.dma_gather on sp ring q_load dst %a[0:32][0 : 512] table %w[0 : 512] indices %i[0:32][0 : 1] {rows = 30000, row_stride = 512}
    nisa.dma_scatter on pool ring q_store table %y[0 : 512] data %a[0:32][0 : 512] indices %i[0:32][0 : 1] {rows = 1024, row_stride = 512}

    // The tensor and scalar engines.
    // CHECK-NEXT: nisa.nc_transpose on pe dst %t[0:128][0 : 128] data %b[0:128][128 : 128]
    // CHECK-NEXT: nisa.nc_transpose on dve dst %a[0:32][0 : 32] data %a[32:32][0 : 32]
    // CHECK-NEXT: nisa.activation on act dst %b[0:128][0 : 512] data %p[0:128][0 : 512] bias %r[0:128][0 : 1] sum %r[0:128][1 : 1] {func = gelu, scale = 0.125} signal(act)
    nisa.nc_transpose on pe dst %t[0:128][0 : 128] data %b[0:128][128 : 128]
    nisa.nc_transpose on dve dst %a[0:32][0 : 32] data %a[32:32][0 : 32]
    nisa.activation on act dst %b[0:128][0 : 512] data %p[0:128][0 : 512] bias %r[0:128][0 : 1] sum %r[0:128][1 : 1] {func = gelu, scale = 0.125} signal(act)

    // Elementwise instructions.
    // CHECK-NEXT: nisa.tensor_tensor on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] other %p[0:128][0 : 512] {op = multiply}
    // CHECK-NEXT: nisa.tensor_scalar on pool dst %a[0:128][0 : 512] data %a[0:128][0 : 512] operand0 %r[0:128][0 : 1] {op0 = multiply, op1 = maximum, scalar1 = -1.5}
    // CHECK-NEXT: nisa.tensor_scalar_reduce on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] result %r[0:128][0 : 1] {op0 = multiply, scalar0 = 2.0, reduce = maximum}
    // CHECK-NEXT: nisa.scalar_tensor_tensor on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] operand0 %r[0:128][0 : 1] other %p[0:128][0 : 512] {op0 = multiply, op1 = add}
    // CHECK-NEXT: nisa.tensor_tensor_scan on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] other %p[0:128][0 : 512] {initial_value = 1.0}
    // CHECK-NEXT: nisa.tensor_reduce on dve dst %r[0:128][0 : 4] data %a[0:128][0 : 4 step 128, 128] {op = maximum, negate = true}
    // CHECK-NEXT: nisa.tensor_copy on act dst %b[0:128][0 : 4, 128 step 4] data %a[0:128][511 : 512 step -1]
    // CHECK-NEXT: nisa.tensor_copy_predicated on dve dst %a[0:128][0 : 512] data %p[0:128][0 : 512] predicate %u[0:128][0 : 512] {reverse = true}
    // CHECK-NEXT: nisa.memset on pool dst %a[0:128][0 : 512] {value = -1.0}
    // CHECK-NEXT: nisa.reciprocal on dve dst %a[0:128][0 : 512] data %p[0:128][0 : 512]
    nisa.tensor_tensor on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] other %p[0:128][0 : 512] {op = multiply}
    nisa.tensor_scalar on pool dst %a[0:128][0 : 512] data %a[0:128][0 : 512] operand0 %r[0:128][0 : 1] {op0 = multiply, op1 = maximum, scalar1 = -1.5}
    nisa.tensor_scalar_reduce on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] result %r[0:128][0 : 1] {op0 = multiply, scalar0 = 2.0, reduce = maximum}
    nisa.scalar_tensor_tensor on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] operand0 %r[0:128][0 : 1] other %p[0:128][0 : 512] {op0 = multiply, op1 = add}
    nisa.tensor_tensor_scan on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] other %p[0:128][0 : 512] {initial_value = 1.0}
    nisa.tensor_reduce on dve dst %r[0:128][0 : 4] data %a[0:128][0 : 4 step 128, 128] {op = maximum, negate = true}
    nisa.tensor_copy on act dst %b[0:128][0 : 4, 128 step 4] data %a[0:128][511 : 512 step -1]
    nisa.tensor_copy_predicated on dve dst %a[0:128][0 : 512] data %p[0:128][0 : 512] predicate %u[0:128][0 : 512] {reverse = true}
    nisa.memset on pool dst %a[0:128][0 : 512] {value = -1.0}
    nisa.reciprocal on dve dst %a[0:128][0 : 512] data %p[0:128][0 : 512]

    // Statistics, the eight largest, selection by position in the row.
    // CHECK-NEXT: nisa.bn_stats on dve dst %r[0:128][0 : 6] data %a[0:128][0 : 512]
    // CHECK-NEXT: nisa.bn_aggr on dve dst %r[0:128][0 : 2] data %r[0:128][0 : 6]
    // CHECK-NEXT: nisa.max8 on dve dst %r[0:128][0 : 8] data %a[0:128][0 : 512]
    // CHECK-NEXT: nisa.nc_find_index8 on dve dst %u[0:128][0 : 8] data %a[0:128][0 : 512] values %r[0:128][0 : 8]
    // CHECK-NEXT: nisa.nc_match_replace8 on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] values %r[0:128][0 : 8] {value = 1.0e-30}
    // CHECK-NEXT: nisa.range_select on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] lower %r[0:128][0 : 1] upper %r[0:128][1 : 1]
    nisa.bn_stats on dve dst %r[0:128][0 : 6] data %a[0:128][0 : 512]
    nisa.bn_aggr on dve dst %r[0:128][0 : 2] data %r[0:128][0 : 6]
    nisa.max8 on dve dst %r[0:128][0 : 8] data %a[0:128][0 : 512]
    nisa.nc_find_index8 on dve dst %u[0:128][0 : 8] data %a[0:128][0 : 512] values %r[0:128][0 : 8]
    nisa.nc_match_replace8 on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] values %r[0:128][0 : 8] {value = 1.0e-30}
    nisa.range_select on dve dst %a[0:128][0 : 512] data %a[0:128][0 : 512] lower %r[0:128][0 : 1] upper %r[0:128][1 : 1]

    // The pool engine's own.
    // CHECK-NEXT: nisa.iota on pool dst %u[0:128][0 : 512] {channel_multiplier = 4}
    // CHECK-NEXT: nisa.affine_select on pool dst %a[0:128][0 : 512] data %a[0:128][0 : 512] {step = -1, channel_multiplier = 1, fill = -1.0e+30}
    // CHECK-NEXT: nisa.local_gather on pool dst %a[0:128][0 : 128] data %a[0:128][0 : 512] indices %g[0:128][0 : 8]
    // CHECK-NEXT: nisa.partition_reduce on pool dst %a[0:1][0 : 512] data %a[0:128][0 : 512] {op = multiply}
    nisa.iota on pool dst %u[0:128][0 : 512] {channel_multiplier = 4}
    nisa.affine_select on pool dst %a[0:128][0 : 512] data %a[0:128][0 : 512] {step = -1, channel_multiplier = 1, fill = -1.0e+30}
    nisa.local_gather on pool dst %a[0:128][0 : 128] data %a[0:128][0 : 512] indices %g[0:128][0 : 8]
    nisa.partition_reduce on pool dst %a[0:1][0 : 512] data %a[0:128][0 : 512] {op = multiply}

    // The queue of one engine with its registers allocated: $i of a view or a wait is register i.
    // CHECK-NEXT: nisa.queue act {
    // CHECK-NEXT: nisa.control reg_move r3, 0
    // CHECK-NEXT: nisa.control reg_move r4, -1
    // CHECK-NEXT: nisa.control label L0
    // CHECK-NEXT: nisa.activation on act dst %a[0:128][0 : 512] data %p[0:128][r4 : 512] {func = relu} wait(pe >= r3 + 1) signal(act)
    // CHECK-NEXT: nisa.control reg_multiply r5, r3, 512
    // CHECK-NEXT: nisa.control reg_add_register r4, r5, r3
    // CHECK-NEXT: nisa.control reg_rotate r6, 512, 1024
    // CHECK-NEXT: nisa.control reg_add r3, r3, 1
    // CHECK-NEXT: nisa.control branch_less r3, 8, L0
    // CHECK-NEXT: nisa.control wait
    // CHECK-NEXT: nisa.control halt
    // CHECK-NEXT: }
    // GENERIC: "nisa.control"() <{kind = "reg_move", numbers = array<i64: 4, -1>}>
    nisa.queue act {
      nisa.control reg_move r3, 0
      nisa.control reg_move r4, -1
      nisa.control label L0
      nisa.activation on act dst %a[0:128][0 : 512] data %p[0:128][r4 : 512] {func = relu} wait(pe >= r3 + 1) signal(act)
      nisa.control reg_multiply r5, r3, 512
      nisa.control reg_add_register r4, r5, r3
      nisa.control reg_rotate r6, 512, 1024
      nisa.control reg_add r3, r3, 1
      nisa.control branch_less r3, 8, L0
      nisa.control wait
      nisa.control halt
    }

    // What a stage of a pipeline takes from another core's program.
    // CHECK-NEXT: nisa.hand_over %x from @stage_0 argument 1 semaphore ready0 count 4 buffers 2 : memref<1024x512xf32, #neuron.space<dram>>
    // GENERIC: "nisa.hand_over"(%{{.*}}) <{direction = "from", peer = @stage_0, argument = 1 : i64, semaphore = "ready0", count = 4 : i64, buffers = 2 : i64}>
    nisa.hand_over %x from @stage_0 argument 1 semaphore ready0 count 4 buffers 2 : memref<1024x512xf32, #neuron.space<dram>>

    // CHECK-NEXT: func.return
    // CHECK-NEXT: }
    // CHECK-NEXT: }
    func.return
  }
}
