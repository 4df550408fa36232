// RUN: neuron-opt %s -p 'graph-join-sequences' | filecheck %s

// Windows of 49 positions: two are one sequence, and the mask hides each from the other.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<3136x96xbf16>) -> tensor<64x49x96xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %q = graph.reshape %x : (tensor<3136x96xbf16>) -> tensor<64x49x96xbf16>
    %m = graph.weight @m : tensor<1x3x49x49xbf16>
    %0 = graph.attention %q, %q, %q, %m heads 3 kv_heads 3 scale 0.25 : (tensor<64x49x96xbf16>, tensor<64x49x96xbf16>, tensor<64x49x96xbf16>, tensor<1x3x49x49xbf16>) -> tensor<64x49x96xbf16>
    func.return %0 : tensor<64x49x96xbf16>
  }

  // A mask that the batch repeats: every fourth window has the same.
  func.func private @neuron_1(%q: tensor<16x49x96xbf16>) -> tensor<16x49x96xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %m = graph.weight @m : tensor<1x3x49x49xbf16>
    %n = graph.weight @n : tensor<1x4x1x49x49xbf16>
    %0 = graph.broadcast %n : (tensor<1x4x1x49x49xbf16>) -> tensor<4x4x1x49x49xbf16>
    %1 = graph.reshape %0 : (tensor<4x4x1x49x49xbf16>) -> tensor<16x1x49x49xbf16>
    %2 = graph.binary add %m, %1 : (tensor<1x3x49x49xbf16>, tensor<16x1x49x49xbf16>) -> tensor<16x3x49x49xbf16>
    %3 = graph.attention %q, %q, %q, %2 heads 3 kv_heads 3 scale 0.25 : (tensor<16x49x96xbf16>, tensor<16x49x96xbf16>, tensor<16x49x96xbf16>, tensor<16x3x49x49xbf16>) -> tensor<16x49x96xbf16>
    func.return %3 : tensor<16x49x96xbf16>
  }

  // A mask that is known only at run time stays as it is, and so do few sequences.
  func.func private @neuron_2(%q: tensor<16x49x96xbf16>, %m: tensor<1x1x49x49xbf16>, %r: tensor<4x49x96xbf16>) -> (tensor<16x49x96xbf16>, tensor<4x49x96xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
    %0 = graph.attention %q, %q, %q, %m heads 3 kv_heads 3 scale 0.25 : (tensor<16x49x96xbf16>, tensor<16x49x96xbf16>, tensor<16x49x96xbf16>, tensor<1x1x49x49xbf16>) -> tensor<16x49x96xbf16>
    %1 = graph.attention %r, %r, %r heads 3 kv_heads 3 scale 0.25 : (tensor<4x49x96xbf16>, tensor<4x49x96xbf16>, tensor<4x49x96xbf16>) -> tensor<4x49x96xbf16>
    func.return %0, %1 : tensor<16x49x96xbf16>, tensor<4x49x96xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<3136x96xbf16>) -> tensor<64x49x96xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.weight @m$concat : tensor<1x3x98x98xbf16>
// CHECK-NEXT:     %1 = graph.reshape %x : (tensor<3136x96xbf16>) -> tensor<32x98x96xbf16>
// CHECK-NEXT:     %2 = graph.reshape %x : (tensor<3136x96xbf16>) -> tensor<32x98x96xbf16>
// CHECK-NEXT:     %3 = graph.reshape %x : (tensor<3136x96xbf16>) -> tensor<32x98x96xbf16>
// CHECK-NEXT:     %4 = graph.attention %1, %2, %3, %0 heads 3 kv_heads 3 scale 0.25 {graph.model_macs = 29503488 : i64} : (tensor<32x98x96xbf16>, tensor<32x98x96xbf16>, tensor<32x98x96xbf16>, tensor<1x3x98x98xbf16>) -> tensor<32x98x96xbf16>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<32x98x96xbf16>) -> tensor<64x49x96xbf16>
// CHECK-NEXT:     func.return %5 : tensor<64x49x96xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_1(%q: tensor<16x49x96xbf16>) -> tensor<16x49x96xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.weight @m$concat.2 : tensor<2x3x98x98xbf16>
// CHECK-NEXT:     %1 = graph.reshape %q : (tensor<16x49x96xbf16>) -> tensor<8x98x96xbf16>
// CHECK-NEXT:     %2 = graph.reshape %q : (tensor<16x49x96xbf16>) -> tensor<8x98x96xbf16>
// CHECK-NEXT:     %3 = graph.reshape %q : (tensor<16x49x96xbf16>) -> tensor<8x98x96xbf16>
// CHECK-NEXT:     %4 = graph.attention %1, %2, %3, %0 heads 3 kv_heads 3 scale 0.25 {graph.model_macs = 7375872 : i64} : (tensor<8x98x96xbf16>, tensor<8x98x96xbf16>, tensor<8x98x96xbf16>, tensor<2x3x98x98xbf16>) -> tensor<8x98x96xbf16>
// CHECK-NEXT:     %5 = graph.reshape %4 : (tensor<8x98x96xbf16>) -> tensor<16x49x96xbf16>
// CHECK-NEXT:     func.return %5 : tensor<16x49x96xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_2(%q: tensor<16x49x96xbf16>, %m: tensor<1x1x49x49xbf16>, %r: tensor<4x49x96xbf16>) -> (tensor<16x49x96xbf16>, tensor<4x49x96xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %0 = graph.attention %q, %q, %q, %m heads 3 kv_heads 3 scale 0.25 : (tensor<16x49x96xbf16>, tensor<16x49x96xbf16>, tensor<16x49x96xbf16>, tensor<1x1x49x49xbf16>) -> tensor<16x49x96xbf16>
// CHECK-NEXT:     %1 = graph.attention %r, %r, %r heads 3 kv_heads 3 scale 0.25 : (tensor<4x49x96xbf16>, tensor<4x49x96xbf16>, tensor<4x49x96xbf16>) -> tensor<4x49x96xbf16>
// CHECK-NEXT:     func.return %0, %1 : tensor<16x49x96xbf16>, tensor<4x49x96xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @m$concat : tensor<1x3x98x98xbf16> {
// CHECK-NEXT:     %m = graph.weight @m : tensor<1x3x49x49xbf16>
// CHECK-NEXT:     %0 = graph.constant -9.980892e+27 : tensor<1x1x1x1xbf16>
// CHECK-NEXT:     %1 = graph.binary max %m, %0 : (tensor<1x3x49x49xbf16>, tensor<1x1x1x1xbf16>) -> tensor<1x3x49x49xbf16>
// CHECK-NEXT:     %2 = graph.pad constant %1 low [0, 0, 0, 0] high [0, 0, 0, 49] value -1.0e+30 : (tensor<1x3x49x49xbf16>) -> tensor<1x3x49x98xbf16>
// CHECK-NEXT:     %3 = graph.pad constant %1 low [0, 0, 0, 49] high [0, 0, 0, 0] value -1.0e+30 : (tensor<1x3x49x49xbf16>) -> tensor<1x3x49x98xbf16>
// CHECK-NEXT:     %4 = graph.concat %2, %3 axis 2 : (tensor<1x3x49x98xbf16>, tensor<1x3x49x98xbf16>) -> tensor<1x3x98x98xbf16>
// CHECK-NEXT:     graph.yield %4 : tensor<1x3x98x98xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   graph.derived_weight @m$concat.2 : tensor<2x3x98x98xbf16> {
// CHECK-NEXT:     %m = graph.weight @m : tensor<1x3x49x49xbf16>
// CHECK-NEXT:     %n = graph.weight @n : tensor<1x4x1x49x49xbf16>
// CHECK-NEXT:     %0 = graph.reshape %n : (tensor<1x4x1x49x49xbf16>) -> tensor<4x1x49x49xbf16>
// CHECK-NEXT:     %1 = graph.binary add %m, %0 : (tensor<1x3x49x49xbf16>, tensor<4x1x49x49xbf16>) -> tensor<4x3x49x49xbf16>
// CHECK-NEXT:     %2 = graph.constant -9.980892e+27 : tensor<1x1x1x1xbf16>
// CHECK-NEXT:     %3 = graph.binary max %1, %2 : (tensor<4x3x49x49xbf16>, tensor<1x1x1x1xbf16>) -> tensor<4x3x49x49xbf16>
// CHECK-NEXT:     %4 = graph.reshape %3 : (tensor<4x3x49x49xbf16>) -> tensor<2x2x3x49x49xbf16>
// CHECK-NEXT:     %5 = graph.slice %4 starts [0, 0, 0, 0, 0] sizes [2, 1, 3, 49, 49] steps [1, 1, 1, 1, 1] : (tensor<2x2x3x49x49xbf16>) -> tensor<2x1x3x49x49xbf16>
// CHECK-NEXT:     %6 = graph.reshape %5 : (tensor<2x1x3x49x49xbf16>) -> tensor<2x3x49x49xbf16>
// CHECK-NEXT:     %7 = graph.pad constant %6 low [0, 0, 0, 0] high [0, 0, 0, 49] value -1.0e+30 : (tensor<2x3x49x49xbf16>) -> tensor<2x3x49x98xbf16>
// CHECK-NEXT:     %8 = graph.reshape %3 : (tensor<4x3x49x49xbf16>) -> tensor<2x2x3x49x49xbf16>
// CHECK-NEXT:     %9 = graph.slice %8 starts [0, 1, 0, 0, 0] sizes [2, 1, 3, 49, 49] steps [1, 1, 1, 1, 1] : (tensor<2x2x3x49x49xbf16>) -> tensor<2x1x3x49x49xbf16>
// CHECK-NEXT:     %10 = graph.reshape %9 : (tensor<2x1x3x49x49xbf16>) -> tensor<2x3x49x49xbf16>
// CHECK-NEXT:     %11 = graph.pad constant %10 low [0, 0, 0, 49] high [0, 0, 0, 0] value -1.0e+30 : (tensor<2x3x49x49xbf16>) -> tensor<2x3x49x98xbf16>
// CHECK-NEXT:     %12 = graph.concat %7, %11 axis 2 : (tensor<2x3x49x98xbf16>, tensor<2x3x49x98xbf16>) -> tensor<2x3x98x98xbf16>
// CHECK-NEXT:     graph.yield %12 : tensor<2x3x98x98xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
