// RUN: neuron-opt %s -p 'graph-roll-layers{layers=2 least-layers=4 least-operators=1}' | filecheck %s

// Four layers, each a product with a weight of its own and the sum with the same argument. Two of them become a body that
// runs twice: @w0 stands for @w2 the second time. The parts around it only pass values on.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<16x64xf32>, %m: tensor<16x64xf32>) -> tensor<16x64xf32> {
    %0 = neuron.launch @neuron_0(%x, %m) on core : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
    func.return %0 : tensor<16x64xf32>
  }
  func.func private @neuron_0(%x: tensor<16x64xf32>, %m: tensor<16x64xf32>) -> tensor<16x64xf32> attributes {neuron.executor = #neuron.executor<core>} {
    %w0 = graph.weight @w0 : tensor<64x64xf32>
    %p0 = graph.matmul %x, %w0 : (tensor<16x64xf32>, tensor<64x64xf32>) -> tensor<16x64xf32>
    %0 = graph.binary add %p0, %m : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
    %w1 = graph.weight @w1 : tensor<64x64xf32>
    %p1 = graph.matmul %0, %w1 : (tensor<16x64xf32>, tensor<64x64xf32>) -> tensor<16x64xf32>
    %1 = graph.binary add %p1, %m : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
    %w2 = graph.weight @w2 : tensor<64x64xf32>
    %p2 = graph.matmul %1, %w2 : (tensor<16x64xf32>, tensor<64x64xf32>) -> tensor<16x64xf32>
    %2 = graph.binary add %p2, %m : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
    %w3 = graph.weight @w3 : tensor<64x64xf32>
    %p3 = graph.matmul %2, %w3 : (tensor<16x64xf32>, tensor<64x64xf32>) -> tensor<16x64xf32>
    %3 = graph.binary add %p3, %m : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
    func.return %3 : tensor<16x64xf32>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @main(%x: tensor<16x64xf32>, %m: tensor<16x64xf32>) -> tensor<16x64xf32> {
// CHECK-NEXT:     %x_1 = neuron.launch @neuron_0_part_0(%x) on core : (tensor<16x64xf32>) -> tensor<16x64xf32>
// CHECK-NEXT:     %0 = neuron.launch @neuron_0_part_1(%x_1, %m) on core times 2 : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
// CHECK-NEXT:     %1 = neuron.launch @neuron_0_part_2(%0) on core : (tensor<16x64xf32>) -> tensor<16x64xf32>
// CHECK-NEXT:     func.return %1 : tensor<16x64xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_0_part_0(%x: tensor<16x64xf32>) -> tensor<16x64xf32> attributes {neuron.executor = #neuron.executor<core>, neuron.part_of = "neuron_0"} {
// CHECK-NEXT:     func.return %x : tensor<16x64xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_0_part_1(%x: tensor<16x64xf32>, %m: tensor<16x64xf32>) -> tensor<16x64xf32> attributes {neuron.executor = #neuron.executor<core>, neuron.part_of = "neuron_0", neuron.layer_weights = [["w0", "w2"], ["w1", "w3"]]} {
// CHECK-NEXT:     %w0 = graph.weight @w0 : tensor<64x64xf32>
// CHECK-NEXT:     %p0 = graph.matmul %x, %w0 : (tensor<16x64xf32>, tensor<64x64xf32>) -> tensor<16x64xf32>
// CHECK-NEXT:     %0 = graph.binary add %p0, %m : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
// CHECK-NEXT:     %w1 = graph.weight @w1 : tensor<64x64xf32>
// CHECK-NEXT:     %p1 = graph.matmul %0, %w1 : (tensor<16x64xf32>, tensor<64x64xf32>) -> tensor<16x64xf32>
// CHECK-NEXT:     %1 = graph.binary add %p1, %m : (tensor<16x64xf32>, tensor<16x64xf32>) -> tensor<16x64xf32>
// CHECK-NEXT:     func.return %1 : tensor<16x64xf32>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_0_part_2(%0: tensor<16x64xf32>) -> tensor<16x64xf32> attributes {neuron.executor = #neuron.executor<core>, neuron.part_of = "neuron_0"} {
// CHECK-NEXT:     func.return %0 : tensor<16x64xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
