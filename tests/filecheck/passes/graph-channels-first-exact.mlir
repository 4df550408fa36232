// RUN: neuron-opt %s -p "graph-channels-first{mode=matmult},graph-auto-cast{mode=matmult}" --split-input-file | filecheck %s

// Where only products are cast, what a normalisation sums up stays f32.
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @norm(%x: tensor<2x8x5x5xf32>) -> tensor<2x4x5x5xf32> {
    %w = graph.weight @w : tensor<8x4xf32>
    %0 = graph.transpose %x permutation [0, 2, 3, 1] : (tensor<2x8x5x5xf32>) -> tensor<2x5x5x8xf32>
    %1 = graph.layer_norm %0 axis 3 epsilon 1.0e-06 : (tensor<2x5x5x8xf32>) -> tensor<2x5x5x8xf32>
    %2 = graph.matmul %1, %w : (tensor<2x5x5x8xf32>, tensor<8x4xf32>) -> tensor<2x5x5x4xf32>
    %3 = graph.transpose %2 permutation [0, 3, 1, 2] : (tensor<2x5x5x4xf32>) -> tensor<2x4x5x5xf32>
    func.return %3 : tensor<2x4x5x5xf32>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
// CHECK-NEXT:   func.func @norm(%x: tensor<2x8x5x5xf32>) -> tensor<2x4x5x5xf32> attributes {neuron.casts = ["graph.conv|f32|bf16"], neuron.products = ["graph.conv|f32|", "graph.conv|f32|", "graph.conv|bf16|"]} {
// CHECK-NEXT:     %w = graph.weight @w : tensor<8x4xf32>
// CHECK-NEXT:     %0 = graph.constant 1.0 : tensor<8x8x1x1xf32>
// CHECK-NEXT:     %1 = graph.constant 0.125 : tensor<f32>
// CHECK-NEXT:     %2 = graph.conv %x, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 0 : i64, graph.keeps_type} : (tensor<2x8x5x5xf32>, tensor<8x8x1x1xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %3 = graph.binary mul %2, %1 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %4 = graph.binary sub %x, %3 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %5 = graph.unary square %4 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %6 = graph.conv %5, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 0 : i64, graph.keeps_type} : (tensor<2x8x5x5xf32>, tensor<8x8x1x1xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %7 = graph.binary mul %6, %1 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %8 = graph.constant 1.0e-06 : tensor<f32>
// CHECK-NEXT:     %9 = graph.binary add %7, %8 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %10 = graph.unary rsqrt %9 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %11 = graph.binary mul %4, %10 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %12 = graph.transpose %w permutation [1, 0] : (tensor<8x4xf32>) -> tensor<4x8xf32>
// CHECK-NEXT:     %13 = graph.reshape %12 : (tensor<4x8xf32>) -> tensor<4x8x1x1xf32>
// CHECK-NEXT:     %14 = graph.cast %11 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xbf16>
// CHECK-NEXT:     %15 = graph.cast %13 : (tensor<4x8x1x1xf32>) -> tensor<4x8x1x1xbf16>
// CHECK-NEXT:     %16 = graph.conv %14, %15 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 : (tensor<2x8x5x5xbf16>, tensor<4x8x1x1xbf16>) -> tensor<2x4x5x5xf32>
// CHECK-NEXT:     func.return %16 : tensor<2x4x5x5xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }

// -----

// A target that does not multiply f32 sums up two parts of each value.
builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
  func.func @norm(%x: tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32> {
    %0 = graph.transpose %x permutation [0, 2, 3, 1] : (tensor<2x8x5x5xf32>) -> tensor<2x5x5x8xf32>
    %1 = graph.layer_norm %0 axis 3 epsilon 1.0e-06 : (tensor<2x5x5x8xf32>) -> tensor<2x5x5x8xf32>
    %2 = graph.transpose %1 permutation [0, 3, 1, 2] : (tensor<2x5x5x8xf32>) -> tensor<2x8x5x5xf32>
    func.return %2 : tensor<2x8x5x5xf32>
  }
}
// CHECK:      builtin.module attributes {neuron.target = #neuron.target<"inf1">} {
// CHECK-NEXT:   func.func @norm(%x: tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32> attributes {neuron.products = ["graph.conv|bf16|", "graph.conv|bf16|", "graph.conv|bf16|", "graph.conv|bf16|"]} {
// CHECK-NEXT:     %0 = graph.constant 1.0 : tensor<8x8x1x1xbf16>
// CHECK-NEXT:     %1 = graph.constant 0.125 : tensor<f32>
// CHECK-NEXT:     %2 = graph.cast %x : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xbf16>
// CHECK-NEXT:     %3 = graph.cast %2 : (tensor<2x8x5x5xbf16>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %4 = graph.binary sub %x, %3 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %5 = graph.cast %4 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xbf16>
// CHECK-NEXT:     %6 = graph.conv %2, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 0 : i64} : (tensor<2x8x5x5xbf16>, tensor<8x8x1x1xbf16>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %7 = graph.conv %5, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 0 : i64} : (tensor<2x8x5x5xbf16>, tensor<8x8x1x1xbf16>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %8 = graph.binary add %6, %7 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %9 = graph.binary mul %8, %1 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %10 = graph.binary sub %x, %9 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %11 = graph.unary square %10 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %12 = graph.cast %11 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xbf16>
// CHECK-NEXT:     %13 = graph.cast %12 : (tensor<2x8x5x5xbf16>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %14 = graph.binary sub %11, %13 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %15 = graph.cast %14 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xbf16>
// CHECK-NEXT:     %16 = graph.conv %12, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 0 : i64} : (tensor<2x8x5x5xbf16>, tensor<8x8x1x1xbf16>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %17 = graph.conv %15, %0 strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1 {graph.model_macs = 0 : i64} : (tensor<2x8x5x5xbf16>, tensor<8x8x1x1xbf16>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %18 = graph.binary add %16, %17 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %19 = graph.binary mul %18, %1 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %20 = graph.constant 1.0e-06 : tensor<f32>
// CHECK-NEXT:     %21 = graph.binary add %19, %20 : (tensor<2x8x5x5xf32>, tensor<f32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %22 = graph.unary rsqrt %21 : (tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     %23 = graph.binary mul %10, %22 : (tensor<2x8x5x5xf32>, tensor<2x8x5x5xf32>) -> tensor<2x8x5x5xf32>
// CHECK-NEXT:     func.return %23 : tensor<2x8x5x5xf32>
// CHECK-NEXT:   }
// CHECK-NEXT: }
