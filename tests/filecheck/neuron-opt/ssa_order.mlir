// RUN: neuron-opt %s --verify-diagnostics --split-input-file | filecheck %s

// A value used before its definition, which xDSL's verifier accepts.
func.func @later_in_the_block() {
  // expected-error@below {{'test.op' uses operand 0 (%a) before it is defined}}
  "test.op"(%a) : (i32) -> ()
  %a = "test.op"() : () -> i32
  func.return
}

// -----

// A value used outside of the region that defines it: the parser does not see it there.
func.func @out_of_a_region(%n: index) {
  "test.op"() ({
    %a = "test.op"() : () -> i32
    "test.termop"() : () -> ()
  }) : () -> ()
  // expected-error@below {{values used but not defined: [%a]}}
  "test.op"(%a) : (i32) -> ()
  func.return
}

// -----

// A value used inside of the operation that defines it.
func.func @own_result() {
  %a = "test.op"() ({
    // expected-error@below {{'test.op' uses operand 0 (%a) where its definition does not reach}}
    "test.op"(%a) : (i32) -> ()
    "test.termop"() : () -> ()
  }) : () -> i32
  func.return
}

// -----

// A value defined on one way to its use, but not on the other.
func.func @not_dominated(%c: i1) {
  cf.cond_br %c, ^left, ^right
^left:
  %a = "test.op"() : () -> i32
  cf.br ^right
^right:
  // expected-error@below {{'test.op' uses operand 0 (%a) where its definition does not reach}}
  "test.op"(%a) : (i32) -> ()
  func.return
}

// -----

// Nothing wrong: definitions that reach through a branch, around a loop, and into a region.
// CHECK: func.func @reaching
func.func @reaching(%c: i1) {
  %a = "test.op"() : () -> i32
  cf.br ^head
^head:
  %b = "test.op"(%a) : (i32) -> i32
  cf.cond_br %c, ^body, ^exit
^exit:
  "test.op"(%b) ({
    "test.op"(%a, %b) : (i32, i32) -> ()
    "test.termop"() : () -> ()
  }) : (i32) -> ()
  func.return
^body:
  "test.op"(%b) : (i32) -> ()
  cf.br ^head
}
