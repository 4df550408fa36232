// RUN: neuron-opt %s | filecheck %s
// RUN: neuron-opt %s | neuron-opt | filecheck %s
// RUN: neuron-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC
// RUN: neuron-opt %s --print-op-generic | neuron-opt | filecheck %s

// A core function: DRAM arguments, the inputs first, then the outputs.
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

    // Buffers: a parameter, DRAM scratch, on-chip tiles whose first dimension is the partition, two rotating PSUM banks.
    // CHECK-NEXT: %w = tile.param "embedding" : memref<30000x512xf32, #neuron.space<dram>>
    // CHECK-NEXT: %scratch = tile.alloc : memref<1024x512xf32, #neuron.space<dram>>
    // CHECK-NEXT: %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
    // CHECK-NEXT: %b = tile.alloc : memref<128x4x128xbf16, #neuron.space<sbuf>>
    // CHECK-NEXT: %u = tile.alloc : memref<128x512xui32, #neuron.space<sbuf>>
    // CHECK-NEXT: %g = tile.alloc : memref<128x8xui16, #neuron.space<sbuf>>
    // CHECK-NEXT: %i = tile.alloc : memref<128x1xi32, #neuron.space<sbuf>>
    // CHECK-NEXT: %r = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
    // CHECK-NEXT: %p = tile.alloc copies 2 : memref<128x512xf32, #neuron.space<psum>>
    // CHECK-NEXT: %t = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<psum>>
    %w = tile.param "embedding" : memref<30000x512xf32, #neuron.space<dram>>
    %scratch = tile.alloc : memref<1024x512xf32, #neuron.space<dram>>
    %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
    %b = tile.alloc : memref<128x4x128xbf16, #neuron.space<sbuf>>
    %u = tile.alloc : memref<128x512xui32, #neuron.space<sbuf>>
    %g = tile.alloc : memref<128x8xui16, #neuron.space<sbuf>>
    %i = tile.alloc : memref<128x1xi32, #neuron.space<sbuf>>
    %r = tile.alloc : memref<128x8xf32, #neuron.space<sbuf>>
    %p = tile.alloc copies 2 : memref<128x512xf32, #neuron.space<psum>>
    %t = tile.alloc copies 2 : memref<128x128xbf16, #neuron.space<psum>>

    // Views are affine in the loop variables; a matmul overwrites its destination in the first iteration and adds later.
    // CHECK-NEXT: scf.for %k = %c0 to %c8 step %c1 {
    // CHECK-NEXT: tile.load dst %a[0:128][0 : 512] src %x[65536*%k : 128 step 512, 512]
    // CHECK-NEXT: tile.store dst %y[65536*%k : 128 step 512, 512] src %a[0:128][0 : 512]
    // CHECK-NEXT: tile.matmul dst %p[0:128][0 : 512] stationary %b[0:128][0 : 128] moving %b[0:128][0 : 512] {accumulate = %k}
    // CHECK-NEXT: }
    // GENERIC: "tile.matmul"(%p, %b, %b, %k) <{access = #tile.access<"dst [0:128][0 : 512]", "stationary [0:128][0 : 128]", "moving [0:128][0 : 512]">, fields = #tile.fields<"accumulate affine $0">, operandSegmentSizes = array<i32: 3, 1>}>
    scf.for %k = %c0 to %c8 step %c1 {
      tile.load dst %a[0:128][0 : 512] src %x[65536*%k : 128 step 512, 512]
      tile.store dst %y[65536*%k : 128 step 512, 512] src %a[0:128][0 : 512]
      tile.matmul dst %p[0:128][0 : 512] stationary %b[0:128][0 : 128] moving %b[0:128][0 : 512] {accumulate = %k}
    }

    // Transfers: within DRAM, and rows of a table by run-time indices.
    // CHECK-NEXT: tile.load dst %scratch[0 : 524288] src %x[0 : 524288]
    // CHECK-NEXT: tile.gather dst %a[0:128][0 : 512] table %w[0 : 512] indices %i[0:128][0 : 1] {rows = 30000, row_stride = 512}
    // CHECK-NEXT: tile.scatter table %y[0 : 512] data %a[0:128][0 : 512] indices %i[0:128][0 : 1] {rows = 1024, row_stride = 512}
    tile.load dst %scratch[0 : 524288] src %x[0 : 524288]
    tile.gather dst %a[0:128][0 : 512] table %w[0 : 512] indices %i[0:128][0 : 1] {rows = 30000, row_stride = 512}
    tile.scatter table %y[0 : 512] data %a[0:128][0 : 512] indices %i[0:128][0 : 1] {rows = 1024, row_stride = 512}

    // The tensor and scalar engines' work.
    // CHECK-NEXT: tile.transpose dst %t[0:128][0 : 128] data %b[0:128][128 : 128]
    // CHECK-NEXT: tile.activation dst %b[0:128][0 : 512] data %p[0:128][0 : 512] bias %r[0:128][0 : 1] sum %r[0:128][1 : 1] {func = gelu, scale = 0.125}
    // CHECK-NEXT: tile.activation dst %a[0:64][0 : 512] data %a[64:64][0 : 512] scale_column %r[0:64][0 : 1] {func = prelu, alpha = 0.01}
    // GENERIC: fields = #tile.fields<"func enum gelu", "scale f32 0.125">
    tile.transpose dst %t[0:128][0 : 128] data %b[0:128][128 : 128]
    tile.activation dst %b[0:128][0 : 512] data %p[0:128][0 : 512] bias %r[0:128][0 : 1] sum %r[0:128][1 : 1] {func = gelu, scale = 0.125}
    tile.activation dst %a[0:64][0 : 512] data %a[64:64][0 : 512] scale_column %r[0:64][0 : 1] {func = prelu, alpha = 0.01}

    // Elementwise work; a number or a column of one element per partition takes the place of a whole tile.
    // CHECK-NEXT: tile.tensor_tensor dst %a[0:128][0 : 512] data %a[0:128][0 : 512] other %p[0:128][0 : 512] {op = multiply}
    // CHECK-NEXT: tile.tensor_scalar dst %a[0:128][0 : 512] data %a[0:128][0 : 512] operand0 %r[0:128][0 : 1] {op0 = subtract, op1 = maximum, scalar1 = -1.5}
    // CHECK-NEXT: tile.tensor_scalar_reduce dst %a[0:128][0 : 512] data %a[0:128][0 : 512] result %r[0:128][0 : 1] {op0 = multiply, scalar0 = 2.0, reduce = maximum}
    // CHECK-NEXT: tile.scalar_tensor_tensor dst %a[0:128][0 : 512] data %a[0:128][0 : 512] operand0 %r[0:128][0 : 1] other %p[0:128][0 : 512] {op0 = multiply, op1 = add}
    tile.tensor_tensor dst %a[0:128][0 : 512] data %a[0:128][0 : 512] other %p[0:128][0 : 512] {op = multiply}
    tile.tensor_scalar dst %a[0:128][0 : 512] data %a[0:128][0 : 512] operand0 %r[0:128][0 : 1] {op0 = subtract, op1 = maximum, scalar1 = -1.5}
    tile.tensor_scalar_reduce dst %a[0:128][0 : 512] data %a[0:128][0 : 512] result %r[0:128][0 : 1] {op0 = multiply, scalar0 = 2.0, reduce = maximum}
    tile.scalar_tensor_tensor dst %a[0:128][0 : 512] data %a[0:128][0 : 512] operand0 %r[0:128][0 : 1] other %p[0:128][0 : 512] {op0 = multiply, op1 = add}

    // Along rows: scan, reduction of the innermost dimension, a copy that regroups and reverses.
    // CHECK-NEXT: tile.scan dst %a[0:128][0 : 512] data %a[0:128][0 : 512] other %p[0:128][0 : 512] {initial_value = 1.0}
    // CHECK-NEXT: tile.reduce dst %r[0:128][0 : 4] data %a[0:128][0 : 4 step 128, 128] {op = maximum, negate = true}
    // CHECK-NEXT: tile.copy dst %b[0:128][0 : 4, 128 step 4] data %a[0:128][511 : 512 step -1]
    // GENERIC: fields = #tile.fields<"op enum maximum", "negate bool true">
    tile.scan dst %a[0:128][0 : 512] data %a[0:128][0 : 512] other %p[0:128][0 : 512] {initial_value = 1.0}
    tile.reduce dst %r[0:128][0 : 4] data %a[0:128][0 : 4 step 128, 128] {op = maximum, negate = true}
    tile.copy dst %b[0:128][0 : 4, 128 step 4] data %a[0:128][511 : 512 step -1]

    // Selection and constants.
    // CHECK-NEXT: tile.select dst %a[0:128][0 : 512] data %p[0:128][0 : 512] predicate %u[0:128][0 : 512] {reverse = true}
    // CHECK-NEXT: tile.memset dst %a[0:128][0 : 512] {value = -1.0}
    // CHECK-NEXT: tile.reciprocal dst %a[0:128][0 : 512] data %p[0:128][0 : 512]
    tile.select dst %a[0:128][0 : 512] data %p[0:128][0 : 512] predicate %u[0:128][0 : 512] {reverse = true}
    tile.memset dst %a[0:128][0 : 512] {value = -1.0}
    tile.reciprocal dst %a[0:128][0 : 512] data %p[0:128][0 : 512]

    // Statistics, the eight largest, their positions, and their replacement.
    // CHECK-NEXT: tile.bn_stats dst %r[0:128][0 : 6] data %a[0:128][0 : 512]
    // CHECK-NEXT: tile.bn_aggregate dst %r[0:128][0 : 2] data %r[0:128][0 : 6]
    // CHECK-NEXT: tile.max8 dst %r[0:128][0 : 8] data %a[0:128][0 : 512]
    // CHECK-NEXT: tile.find_index8 dst %u[0:128][0 : 8] data %a[0:128][0 : 512] values %r[0:128][0 : 8]
    // CHECK-NEXT: tile.match_replace8 dst %a[0:128][0 : 512] data %a[0:128][0 : 512] values %r[0:128][0 : 8] {value = 1.0e-30}
    tile.bn_stats dst %r[0:128][0 : 6] data %a[0:128][0 : 512]
    tile.bn_aggregate dst %r[0:128][0 : 2] data %r[0:128][0 : 6]
    tile.max8 dst %r[0:128][0 : 8] data %a[0:128][0 : 512]
    tile.find_index8 dst %u[0:128][0 : 8] data %a[0:128][0 : 512] values %r[0:128][0 : 8]
    tile.match_replace8 dst %a[0:128][0 : 512] data %a[0:128][0 : 512] values %r[0:128][0 : 8] {value = 1.0e-30}

    // What follows the position of an element, and what crosses partitions.
    // CHECK-NEXT: tile.iota dst %i[0:128][0 : 1] {channel_multiplier = 4}
    // CHECK-NEXT: tile.affine_select dst %a[0:128][0 : 512] data %a[0:128][0 : 512] {step = -1, channel_multiplier = 1, fill = -1.0e+30}
    // CHECK-NEXT: tile.local_gather dst %a[0:128][0 : 128] data %a[0:128][0 : 512] indices %g[0:128][0 : 8]
    // CHECK-NEXT: tile.partition_reduce dst %a[0:1][0 : 512] data %a[0:128][0 : 512] {op = multiply}
    // GENERIC: fields = #tile.fields<"channel_multiplier i32 4">
    tile.iota dst %i[0:128][0 : 1] {channel_multiplier = 4}
    tile.affine_select dst %a[0:128][0 : 512] data %a[0:128][0 : 512] {step = -1, channel_multiplier = 1, fill = -1.0e+30}
    tile.local_gather dst %a[0:128][0 : 128] data %a[0:128][0 : 512] indices %g[0:128][0 : 8]
    tile.partition_reduce dst %a[0:1][0 : 512] data %a[0:128][0 : 512] {op = multiply}

    // CHECK-NEXT: func.return
    // CHECK-NEXT: }
    // CHECK-NEXT: }
    func.return
  }
}
