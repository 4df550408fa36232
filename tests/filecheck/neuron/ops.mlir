// RUN: neuron-opt %s | filecheck %s
// RUN: neuron-opt %s | neuron-opt | filecheck %s
// RUN: neuron-opt %s --print-op-generic | filecheck %s --check-prefix=GENERIC
// RUN: neuron-opt %s --print-op-generic | neuron-opt | filecheck %s

// What a module carries: its target, and the name of its weights file.
// CHECK: builtin.module attributes {neuron.target = #neuron.target<"trn1">, neuron.weights = "digits.safetensors"} {
// GENERIC: }) {neuron.target = #neuron.target<"trn1">, neuron.weights = "digits.safetensors"} : () -> ()
builtin.module attributes {neuron.target = #neuron.target<"trn1">, neuron.weights = "digits.safetensors"} {
  // A program whose first part runs on a core and whose second part runs on the host.
  // CHECK-NEXT: func.func @main(%image: tensor<1x64xf32>) -> tensor<i64> {
  // CHECK-NEXT:   %scores = neuron.launch @neuron_0(%image) on core : (tensor<1x64xf32>) -> tensor<1x10xf32>
  // CHECK-NEXT:   %digit = neuron.launch @host_1(%scores) on host {note = "not supported"} : (tensor<1x10xf32>) -> tensor<i64>
  // CHECK-NEXT:   func.return %digit : tensor<i64>
  func.func @main(%image: tensor<1x64xf32>) -> tensor<i64> {
    %scores = neuron.launch @neuron_0(%image) on core : (tensor<1x64xf32>) -> tensor<1x10xf32>
    %digit = neuron.launch @host_1(%scores) on host {note = "not supported"} : (tensor<1x10xf32>) -> tensor<i64>
    func.return %digit : tensor<i64>
  }
  func.func private @neuron_0(tensor<1x64xf32>) -> tensor<1x10xf32>
  func.func private @host_1(tensor<1x10xf32>) -> tensor<i64>

  // A segment without operands, and one of two results.
  // CHECK: %first, %second = neuron.launch @pair() on core : () -> (tensor<4xf32>, tensor<4xbf16>)
  // CHECK-NEXT: neuron.launch @drop(%first, %second) on core : (tensor<4xf32>, tensor<4xbf16>) -> ()
  func.func @shapes() {
    %first, %second = neuron.launch @pair() on core : () -> (tensor<4xf32>, tensor<4xbf16>)
    neuron.launch @drop(%first, %second) on core : (tensor<4xf32>, tensor<4xbf16>) -> ()
    func.return
  }
  func.func private @pair() -> (tensor<4xf32>, tensor<4xbf16>)
  func.func private @drop(tensor<4xf32>, tensor<4xbf16>)

  // A segment that runs three times, each time on its own result, with a weight of its own and the same mask.
  // CHECK: %last = neuron.launch @layers(%x, %mask) on core times 3 {note = "rolled"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  func.func @rolled(%x: tensor<4xf32>, %mask: tensor<4xf32>) -> tensor<4xf32> {
    %last = neuron.launch @layers(%x, %mask) on core times 3 {note = "rolled"} : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
    func.return %last : tensor<4xf32>
  }
  // CHECK: func.func private @layers(tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> attributes {neuron.layer_weights = {{\[\["w0", "w1", "w2"\]\]}}}
  func.func private @layers(tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> attributes {neuron.layer_weights = [["w0", "w1", "w2"]]}

  // The memory spaces.
  // CHECK: func.func private @spaces(memref<64x8xf32, #neuron.space<dram>>, memref<128x8xf32, #neuron.space<sbuf>>, memref<128x8xf32, #neuron.space<psum>>)
  func.func private @spaces(memref<64x8xf32, #neuron.space<dram>>, memref<128x8xf32, #neuron.space<sbuf>>, memref<128x8xf32, #neuron.space<psum>>)
}
