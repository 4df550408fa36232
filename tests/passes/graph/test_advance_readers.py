"""Readers of one feature map side by side: what stays in its place, and numbers."""

from __future__ import annotations

import numpy as np
import pytest

from neuron_dialects.graph import ConvOp
from neuron_dialects.ssa_order import check_ssa_order
from passes.graph.advance_readers import advance_block
from runtime.graph_interpreter import run_graph
from tests.graph_level import main_of, no_weights, parse, random_inputs

ONE = "strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1"
TWO = "strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] groups 1"
OF_X = "(tensor<1x4x6x6xf32>, tensor<2x4x1x1xf32>)"
SMALL = "tensor<1x2x6x6xf32>"

# Branches of %x, of which a filter stands behind the first one; the last convolution is what the case says.
TEXT = """
func.func @main(%x: tensor<1x4x6x6xf32>) -> {result} {{
  %u = graph.constant 0.25 : tensor<2x4x1x1xf32>
  %v = graph.constant -0.75 : tensor<2x2x1x1xf32>
  %0 = graph.conv %x, %u {one} : {of_x} -> {small}
  %1 = graph.conv %0, %v {one} : ({small}, tensor<2x2x1x1xf32>) -> {small}
  %k = graph.constant 0.5 : tensor<2x4x1x1xf32>
  %2 = graph.conv %x, %k {one} : {of_x} -> {small}
  %3 = graph.binary add %1, %2 : ({small}, {small}) -> {small}
  %4 = graph.binary mul %3, %3 : ({small}, {small}) -> {small}
  %5 = graph.conv {last} -> {result}
  %6 = graph.binary mul %5, %5 : ({result}, {result}) -> {result}
  func.return %6 : {result}
}}"""

CASES = {
    # last convolution, its result, operators that are between it and the second branch then
    "a third branch": (f"%x, %k {ONE} : {OF_X}", SMALL, 0),
    "every second pixel": (f"%x, %k {TWO} : {OF_X}", "tensor<1x2x3x3xf32>", 2),
    "of another map": (f"%4, %v {ONE} : ({SMALL}, tensor<2x2x1x1xf32>)", SMALL, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_results_are_the_same(case: str) -> None:
    last, result, between = CASES[case]
    function = main_of(parse(TEXT.format(result=result, one=ONE, of_x=OF_X, small=SMALL, last=last)))
    inputs = random_inputs(function)
    before = run_graph(function, inputs, no_weights)
    block = function.body.block
    *_, second, third = (op for op in block.ops if isinstance(op, ConvOp))
    advance_block(block)
    assert check_ssa_order(function) == []
    order = list(block.ops)
    assert order.index(third) - order.index(second) - 1 == between
    assert all(np.array_equal(a, b) for a, b in zip(before, run_graph(function, inputs, no_weights), strict=True))
