// RUN: neuron-opt %s --verify-diagnostics --split-input-file

// An operand that is not there.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'tile.copy' operand data is missing}}
  tile.copy dst %a[0:128][0 : 512]
  func.return
}

// -----

// An operand that the op does not have.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  %p = tile.alloc : memref<128x512xf32, #neuron.space<psum>>
  // expected-error@below {{'tile.memset' unknown operand data}}
  "tile.memset"(%a, %p) <{access = #tile.access<"dst [0:128][0 : 512]", "data [0:128][0 : 512]">, fields = #tile.fields<>, operandSegmentSizes = array<i32: 2, 0>}> : (memref<128x512xf32, #neuron.space<sbuf>>, memref<128x512xf32, #neuron.space<psum>>) -> ()
  func.return
}

// -----

// A matmul reads from SBUF only.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  %p = tile.alloc : memref<128x512xf32, #neuron.space<psum>>
  // expected-error@below {{'tile.matmul' operand moving lies in psum; allowed: sbuf}}
  tile.matmul dst %p[0:128][0 : 512] stationary %a[0:128][0 : 128] moving %p[0:128][0 : 512]
  func.return
}

// -----

// A view of SBUF without partitions.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'tile.store' operand src in sbuf has 0 partitions}}
  tile.store dst %x[0 : 512] src %a[0 : 512]
  func.return
}

// -----

// A view of DRAM with partitions.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'tile.load' operand src in dram has 128 partitions}}
  tile.load dst %a[0:128][0 : 512] src %x[0:128][0 : 512]
  func.return
}

// -----

// One view for two buffers.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  %p = tile.alloc : memref<128x512xf32, #neuron.space<psum>>
  // expected-error@below {{'tile.copy' 1 views for 2 buffers}}
  "tile.copy"(%a, %p) <{access = #tile.access<"dst [0:128][0 : 512]">, fields = #tile.fields<>, operandSegmentSizes = array<i32: 2, 0>}> : (memref<128x512xf32, #neuron.space<sbuf>>, memref<128x512xf32, #neuron.space<psum>>) -> ()
  func.return
}

// -----

// A field that the op does not have.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{tile.memset has no field scale}}
  tile.memset dst %a[0:128][0 : 512] {scale = 1.0}
  func.return
}

// -----

// A function that the scalar engine does not have.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{func = cosh is none of copy, square, sigmoid, relu, prelu, gelu, gelu_apprx_tanh, silu, tanh, softplus, mish, erf, exp, sign, abs, log, sin, arctan, sqrt, rsqrt, reciprocal}}
  tile.activation dst %a[0:128][0 : 512] data %a[0:128][0 : 512] {func = cosh}
  func.return
}

// -----

// A view that cannot be read.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{expected : at column 9 of '[0:128][0 ; 512]'}}
  "tile.memset"(%a) <{access = #tile.access<"dst [0:128][0 ; 512]">, fields = #tile.fields<>, operandSegmentSizes = array<i32: 1, 0>}> : (memref<128x512xf32, #neuron.space<sbuf>>) -> ()
  func.return
}

// -----

// A loop variable that is not among the operands.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>, %i: index) {
  %a = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  // expected-error@below {{'tile.memset' operand dst uses an unknown loop variable}}
  "tile.memset"(%a, %i) <{access = #tile.access<"dst [0:128][512*$1 : 512]">, fields = #tile.fields<>, operandSegmentSizes = array<i32: 1, 1>}> : (memref<128x512xf32, #neuron.space<sbuf>>, index) -> ()
  func.return
}

// -----

// A buffer that is defined later.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{buffer %late is not defined before its use}}
  tile.memset dst %late[0:128][0 : 512]
  %late = tile.alloc : memref<128x512xf32, #neuron.space<sbuf>>
  func.return
}

// -----

// A tile on more partitions than there are.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{'tile.alloc' 129 partitions exceed 128}}
  %c = tile.alloc : memref<129x512xf32, #neuron.space<sbuf>>
  func.return
}

// -----

// A shape that is not static.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{'tile.alloc' memref<?x512xf32, #neuron.space<sbuf>> has a dynamic dimension}}
  %c = tile.alloc : memref<?x512xf32, #neuron.space<sbuf>>
  func.return
}

// -----

// A buffer that rotates over nothing.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{'tile.alloc' 0 copies, there must be at least 1}}
  %c = tile.alloc copies 0 : memref<128x512xf32, #neuron.space<sbuf>>
  func.return
}

// -----

// Parameters are in DRAM.
func.func @f(%x: memref<256x512xf32, #neuron.space<dram>>) {
  // expected-error@below {{'tile.param' lies in sbuf, must be dram}}
  %c = tile.param "w" : memref<128x512xf32, #neuron.space<sbuf>>
  func.return
}
