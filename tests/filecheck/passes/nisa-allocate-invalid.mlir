// RUN: neuron-opt %s --verify-diagnostics --split-input-file --print-debuginfo -p nisa-allocate

// One buffer is larger than a partition.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @neuron_0() {
    // expected-error@below {{error[NX-MEM-001]: node 'conv1': 262144 bytes of SBUF per partition are needed, limit 180224; largest: 262144 by %x of node 'conv1'}}
    // expected-note@below {{use smaller tiles, or cast to a narrower type}}
    %x = nisa.alloc : memref<128x65536xf32, #neuron.space<sbuf>> loc("conv1")
    nisa.memset on dve dst %x[0:128][0 : 65535]
    func.return
  }
}


// -----

// Nine banks at once; PSUM cannot be spilled.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  // expected-error@below {{error[NX-MEM-001]: 18432 bytes of PSUM per partition are needed, limit 16384; largest: 18432 by %x}}
  // expected-note@below {{use smaller tiles, or cast to a narrower type}}
  func.func @neuron_0() {
    %x = nisa.alloc : memref<128x4608xf32, #neuron.space<psum>>
    nisa.memset on dve dst %x[0:128][0 : 4608]
    func.return
  }
}


// -----

// The module must say what it is compiled for.
builtin.module {
  // expected-error@below {{error[NX-TARGET-003]: the module names no target}}
  // expected-note@below {{add attributes {neuron.target = #neuron.target<"trn1">} to the module}}
  func.func @neuron_0() {
    %x = nisa.alloc : memref<128x16xf32, #neuron.space<sbuf>>
    nisa.memset on dve dst %x[0:128][0 : 16]
    func.return
  }
}

