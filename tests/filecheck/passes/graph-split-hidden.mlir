// RUN: neuron-opt %s -p 'graph-split-hidden{budget_share=0.0012}' | filecheck %s

// 512 bf16 numbers of 8 rows with features on 128 partitions take 4 * 8 * 2 = 64 bytes of each, x takes 16, and the
// result with rows on partitions 64 * 2 = 128. Two hidden matrices do not fit in 0.0012 * 180224 = 216 bytes, halves do.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func private @neuron_0(%x: tensor<8x64xbf16>, %r: tensor<8x64xbf16>) -> tensor<8x64xbf16> attributes {neuron.executor = #neuron.executor<core>} {
    %gate = graph.weight @gate : tensor<64x512xbf16>
    %up = graph.weight @up : tensor<64x512xbf16>
    %down = graph.weight @down : tensor<64x512xbf16>
    %b = graph.weight @b : tensor<512xbf16>
    %0 = graph.matmul %x, %gate : (tensor<8x64xbf16>, tensor<64x512xbf16>) -> tensor<8x512xbf16>
    %1 = graph.binary add %0, %b : (tensor<8x512xbf16>, tensor<512xbf16>) -> tensor<8x512xbf16>
    %2 = graph.unary silu %1 : (tensor<8x512xbf16>) -> tensor<8x512xbf16>
    %3 = graph.matmul %x, %up : (tensor<8x64xbf16>, tensor<64x512xbf16>) -> tensor<8x512xbf16>
    %4 = graph.binary mul %2, %3 : (tensor<8x512xbf16>, tensor<8x512xbf16>) -> tensor<8x512xbf16>
    %5 = graph.matmul %4, %down transpose_b : (tensor<8x512xbf16>, tensor<64x512xbf16>) -> tensor<8x64xbf16>
    %6 = graph.binary add %r, %5 : (tensor<8x64xbf16>, tensor<8x64xbf16>) -> tensor<8x64xbf16>
    func.return %6 : tensor<8x64xbf16>
  }

  // What somebody else reads stays whole.
  func.func private @neuron_1(%x: tensor<8x64xbf16>) -> (tensor<8x512xbf16>, tensor<8x64xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
    %w = graph.weight @w : tensor<64x512xbf16>
    %v = graph.weight @v : tensor<512x64xbf16>
    %0 = graph.matmul %x, %w : (tensor<8x64xbf16>, tensor<64x512xbf16>) -> tensor<8x512xbf16>
    %1 = graph.matmul %0, %v : (tensor<8x512xbf16>, tensor<512x64xbf16>) -> tensor<8x64xbf16>
    func.return %0, %1 : tensor<8x512xbf16>, tensor<8x64xbf16>
  }
}

// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func private @neuron_0(%x: tensor<8x64xbf16>, %r: tensor<8x64xbf16>) -> tensor<8x64xbf16> attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %gate = graph.weight @gate : tensor<64x512xbf16>
// CHECK-NEXT:     %up = graph.weight @up : tensor<64x512xbf16>
// CHECK-NEXT:     %down = graph.weight @down : tensor<64x512xbf16>
// CHECK-NEXT:     %b = graph.weight @b : tensor<512xbf16>
// CHECK-NEXT:     %0 = graph.slice %up starts [0, 0] sizes [64, 256] steps [1, 1] : (tensor<64x512xbf16>) -> tensor<64x256xbf16>
// CHECK-NEXT:     %1 = graph.matmul %x, %0 : (tensor<8x64xbf16>, tensor<64x256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %2 = graph.slice %gate starts [0, 0] sizes [64, 256] steps [1, 1] : (tensor<64x512xbf16>) -> tensor<64x256xbf16>
// CHECK-NEXT:     %3 = graph.matmul %x, %2 : (tensor<8x64xbf16>, tensor<64x256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %4 = graph.slice %b starts [0] sizes [256] steps [1] : (tensor<512xbf16>) -> tensor<256xbf16>
// CHECK-NEXT:     %5 = graph.binary add %3, %4 : (tensor<8x256xbf16>, tensor<256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %6 = graph.unary silu %5 : (tensor<8x256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %7 = graph.binary mul %6, %1 : (tensor<8x256xbf16>, tensor<8x256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %8 = graph.slice %down starts [0, 0] sizes [64, 256] steps [1, 1] : (tensor<64x512xbf16>) -> tensor<64x256xbf16>
// CHECK-NEXT:     %9 = graph.matmul %7, %8 transpose_b : (tensor<8x256xbf16>, tensor<64x256xbf16>) -> tensor<8x64xbf16>
// CHECK-NEXT:     %10 = graph.binary add %r, %9 : (tensor<8x64xbf16>, tensor<8x64xbf16>) -> tensor<8x64xbf16>
// CHECK-NEXT:     %11 = graph.slice %up starts [0, 256] sizes [64, 256] steps [1, 1] : (tensor<64x512xbf16>) -> tensor<64x256xbf16>
// CHECK-NEXT:     %12 = graph.matmul %x, %11 : (tensor<8x64xbf16>, tensor<64x256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %13 = graph.slice %gate starts [0, 256] sizes [64, 256] steps [1, 1] : (tensor<64x512xbf16>) -> tensor<64x256xbf16>
// CHECK-NEXT:     %14 = graph.matmul %x, %13 : (tensor<8x64xbf16>, tensor<64x256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %15 = graph.slice %b starts [256] sizes [256] steps [1] : (tensor<512xbf16>) -> tensor<256xbf16>
// CHECK-NEXT:     %16 = graph.binary add %14, %15 : (tensor<8x256xbf16>, tensor<256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %17 = graph.unary silu %16 : (tensor<8x256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %18 = graph.binary mul %17, %12 : (tensor<8x256xbf16>, tensor<8x256xbf16>) -> tensor<8x256xbf16>
// CHECK-NEXT:     %19 = graph.slice %down starts [0, 256] sizes [64, 256] steps [1, 1] : (tensor<64x512xbf16>) -> tensor<64x256xbf16>
// CHECK-NEXT:     %20 = graph.matmul %18, %19 transpose_b : (tensor<8x256xbf16>, tensor<64x256xbf16>) -> tensor<8x64xbf16>
// CHECK-NEXT:     %21 = graph.binary add %10, %20 : (tensor<8x64xbf16>, tensor<8x64xbf16>) -> tensor<8x64xbf16>
// CHECK-NEXT:     func.return %21 : tensor<8x64xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT:   func.func private @neuron_1(%x: tensor<8x64xbf16>) -> (tensor<8x512xbf16>, tensor<8x64xbf16>) attributes {neuron.executor = #neuron.executor<core>} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<64x512xbf16>
// CHECK-NEXT:     %v = graph.weight @v : tensor<512x64xbf16>
// CHECK-NEXT:     %0 = graph.matmul %x, %w : (tensor<8x64xbf16>, tensor<64x512xbf16>) -> tensor<8x512xbf16>
// CHECK-NEXT:     %1 = graph.matmul %0, %v : (tensor<8x512xbf16>, tensor<512x64xbf16>) -> tensor<8x64xbf16>
// CHECK-NEXT:     func.return %0, %1 : tensor<8x512xbf16>, tensor<8x64xbf16>
// CHECK-NEXT:   }
// CHECK-NEXT: }
