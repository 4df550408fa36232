// RUN: neuron-opt %s --verify-diagnostics --split-input-file | filecheck %s

// A target that has no description.
// CHECK: {{.*}}ops_invalid.mlir:5:{{[0-9]+}}: error[NX-IR-001]: unknown target 'inf9', expected one of inf1, inf2, trn1, trn2
builtin.module attributes {neuron.target = #neuron.target<"inf9">} {}

// -----

// A memory that does not exist.
// CHECK: error[NX-IR-001]: Expected `dram`, `sbuf`, or `psum`.
func.func private @f(memref<8xf32, #neuron.space<cache>>)

// -----

// A launch on something else than a core or the host.
// CHECK: error[NX-IR-001]: Expected `core`, or `host`.
func.func @f() {
  neuron.launch @g() on gpu : () -> ()
  func.return
}

// -----

// A launch of a function that is not there: found at the launch's own line.
// CHECK: {{.*}}ops_invalid.mlir:27:3: error[NX-IR-001]: 'neuron.launch' launches @g, but the module has no such function
func.func @f() {
  neuron.launch @g() on core : () -> ()
  func.return
}

// -----

// Operands that the function does not take.
// CHECK: error[NX-IR-001]: 'neuron.launch' passes (tensor<4xf32>) to @g, which takes (tensor<4xbf16>)
func.func @f(%x: tensor<4xf32>) {
  neuron.launch @g(%x) on core : (tensor<4xf32>) -> ()
  func.return
}
func.func private @g(tensor<4xbf16>)

// -----

// Results that the function does not return.
// CHECK: error[NX-IR-001]: 'neuron.launch' expects () of @g, which returns (tensor<4xf32>)
func.func @f() {
  neuron.launch @g() on core : () -> ()
  func.return
}
func.func private @g() -> tensor<4xf32>

// -----

// Segments exchange tensors, nothing else.
// CHECK: error[NX-IR-001]: 'neuron.launch' operand 'arguments' at position 0 does not verify
func.func @f(%x: i32) {
  neuron.launch @g(%x) on core : (i32) -> ()
  func.return
}
func.func private @g(i32)
