// RUN: neuron-opt %s --verify-diagnostics --split-input-file -p nisa-verify | filecheck %s

// trn1 has 128 columns, so this passes.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0() {
    %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
    %x = nisa.alloc : memref<128x512xbf16, #neuron.space<sbuf>>
    nisa.nc_matmul on pe dst %p[0:128][0 : 512] stationary %x[0:128][0 : 128] moving %x[0:128][0 : 512]
    func.return
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @neuron_0() {
// CHECK-NEXT:     %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
// CHECK-NEXT:     %x = nisa.alloc : memref<128x512xbf16, #neuron.space<sbuf>>
// CHECK-NEXT:     nisa.nc_matmul on pe dst %p[0:128][0 : 512] stationary %x[0:128][0 : 128] moving %x[0:128][0 : 512]
// CHECK-NEXT:     func.return
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// inf1 has 64.
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @neuron_0() {
    %p = nisa.alloc : memref<128x512xf32, #neuron.space<psum>>
    %x = nisa.alloc : memref<128x512xbf16, #neuron.space<sbuf>>
    // expected-error@below {{error[NX-ISA-001]: node 'Gemm_7': nc_matmul: M = 128, limit 64}}
    // expected-note@below {{tile within the limits of inf1, or compile for the target that this is meant for}}
    nisa.nc_matmul on pe dst %p[0:128][0 : 512] stationary %x[0:128][0 : 128] moving %x[0:128][0 : 512] loc("Gemm_7")
    func.return
  }
}


// -----

// The last iteration reads elements 448 to 575 of a row of 512.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // expected-error@below {{error[NX-ISA-001]: memset: operand dst touches elements 0 to 575 of 512}}
  // expected-note@below {{an access must stay inside of its buffer}}
  func.func @neuron_0() {
    %c0 = arith.constant 0 : index
    %c1 = arith.constant 1 : index
    %c8 = arith.constant 8 : index
    %x = nisa.alloc : memref<128x512xf32, #neuron.space<sbuf>>
    scf.for %i = %c0 to %c8 step %c1 {
      nisa.memset on dve dst %x[0:128][64*%i : 128]
    }
    func.return
  }
}


// -----

// A buffer of 64 partitions is accessed in 128.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // expected-error@below {{error[NX-ISA-001]: memset: operand dst touches partition 127 of 64}}
  // expected-note@below {{an access must stay inside of its buffer}}
  func.func @neuron_0() {
    %x = nisa.alloc : memref<64x512xf32, #neuron.space<sbuf>>
    nisa.memset on dve dst %x[0:128][0 : 512]
    func.return
  }
}

