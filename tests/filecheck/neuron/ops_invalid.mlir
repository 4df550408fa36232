// RUN: neuron-opt %s --verify-diagnostics --split-input-file

// A target that has no description.
// expected-error@below {{unknown target 'inf9', expected one of inf1, inf2, trn1, trn2}}
builtin.module attributes {neuron.target = #neuron.target<"inf9">} {}

// -----

// A memory that does not exist.
// expected-error@below {{Expected `dram`, `sbuf`, or `psum`.}}
func.func private @f(memref<8xf32, #neuron.space<cache>>)

// -----

// A launch on something else than a core or the host.
func.func @f() {
  // expected-error@below {{Expected `core`, or `host`.}}
  neuron.launch @g() on gpu : () -> ()
  func.return
}

// -----

// A launch of a function that is not there: found at the launch's own line.
func.func @f() {
  // expected-error@below {{'neuron.launch' launches @g, but the module has no such function}}
  neuron.launch @g() on core : () -> ()
  func.return
}

// -----

// Operands that the function does not take.
func.func @f(%x: tensor<4xf32>) {
  // expected-error@below {{'neuron.launch' passes (tensor<4xf32>) to @g, which takes (tensor<4xbf16>)}}
  neuron.launch @g(%x) on core : (tensor<4xf32>) -> ()
  func.return
}
func.func private @g(tensor<4xbf16>)

// -----

// Results that the function does not return.
func.func @f() {
  // expected-error@below {{'neuron.launch' expects () of @g, which returns (tensor<4xf32>)}}
  neuron.launch @g() on core : () -> ()
  func.return
}
func.func private @g() -> tensor<4xf32>

// -----

// Segments exchange tensors, nothing else.
func.func @f(%x: i32) {
  // expected-error@below {{'neuron.launch' operand 'arguments' at position 0 does not verify}}
  neuron.launch @g(%x) on core : (i32) -> ()
  func.return
}
func.func private @g(i32)

// -----

// What a repeated launch passes on to itself is of one type.
func.func @f(%x: tensor<4xf32>) -> tensor<2xf32> {
  // expected-error@below {{the results of a repeated launch have other types than its first operands}}
  %0 = neuron.launch @g(%x) on core times 2 : (tensor<4xf32>) -> tensor<2xf32>
  func.return %0 : tensor<2xf32>
}
func.func private @g(tensor<4xf32>) -> tensor<2xf32>

// -----

// The host repeats nothing.
func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> {
  // expected-error@below {{only a core repeats a launch, at least once}}
  %0 = neuron.launch @g(%x) on host times 2 : (tensor<4xf32>) -> tensor<4xf32>
  func.return %0 : tensor<4xf32>
}
func.func private @g(tensor<4xf32>) -> tensor<4xf32>
