// RUN: neuron-opt %s -p cse,dce --print-ir-before-all --print-ir-after-all 2>&1 | filecheck %s
// RUN: neuron-opt %s -p cse,dce --print-ir-after-all 2> %t | filecheck %s --check-prefix=OUT
// RUN: not neuron-opt %s -p cse,no-such-pass 2>&1 | filecheck %s --check-prefix=UNKNOWN
// RUN: not neuron-opt %s -p 'scf-for-loop-unroll{factor=2}' 2>&1 | filecheck %s --check-prefix=OPTION

// The program before and after every pass goes to stderr, the result to stdout.
// CHECK: // -----// IR Dump Before CommonSubexpressionElimination (cse) //----- //
// CHECK-NEXT: builtin.module {
// CHECK: arith.constant 1
// CHECK: arith.constant 1
// CHECK: // -----// IR Dump After CommonSubexpressionElimination (cse) //----- //
// CHECK: %a = arith.constant 1
// CHECK-NEXT: func.return %a, %a
// CHECK: // -----// IR Dump Before DeadCodeElimination (dce) //----- //
// CHECK: // -----// IR Dump After DeadCodeElimination (dce) //----- //
// CHECK: builtin.module {
// CHECK: builtin.module {

// OUT-NOT: IR Dump
// OUT: func.return %a, %a : i32, i32

// UNKNOWN: error[NX-PASS-001]: unknown pass 'no-such-pass'
// UNKNOWN-NEXT: help:

// OPTION: error[NX-PASS-001]: pass 'scf-for-loop-unroll': {{.*}}factor
// OPTION-NEXT: help: it has no options
func.func @twice() -> (i32, i32) {
  %a = arith.constant 1 : i32
  %b = arith.constant 1 : i32
  func.return %a, %b : i32, i32
}
