"""Intervals hold every value that a program really computes, and are as narrow as the operators allow."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from neuron_dialects.dtypes import F32, I32, I64, UI8, dtype_by_name
from neuron_dialects.graph import BinaryKind, BinaryOp, UnaryKind
from passes.graph.intervals import (
    ANY,
    BINARY,
    UNARY,
    Interval,
    clipped,
    held,
    join,
    of_dtype,
    product,
    repeated_sum,
)
from passes.graph.value_ranges import interval_of, value_ranges
from runtime.graph_interpreter.elementwise import binary
from tests.graph_level import build, main_of, parse

INTERVALS = [Interval(-7, 3), Interval(0, 5), Interval(2, 9), Interval(-4, -1), Interval(3, 3), Interval(-6, 0)]


# Every pair of numbers of two intervals, computed as the interpreter does, lies in the result's interval.
@pytest.mark.parametrize("kind", list(BINARY))
def test_binary_intervals_hold_all_results(kind: BinaryKind) -> None:
    for first in INTERVALS:
        for second in INTERVALS:
            a, b = (np.arange(int(i.low), int(i.high) + 1, dtype=np.int64) for i in (first, second))
            pairs = np.stack(np.meshgrid(a, b), -1).reshape(-1, 2)
            if kind in (BinaryKind.DIV, BinaryKind.MOD, BinaryKind.FMOD):
                pairs = pairs[pairs[:, 1] != 0]
            if not len(pairs):
                continue
            made = build(lambda x, y, k=kind: BinaryOp(k, x, y), [pairs[:, 0], pairs[:, 1]])
            op = next(op for op in made.body.block.ops if isinstance(op, BinaryOp))
            results = binary(op, pairs[:, 0].copy(), pairs[:, 1].copy())
            found = BINARY[kind](first, second)
            assert found.low <= results.min() and results.max() <= found.high, (kind, first, second, found)


# Sums, differences, products and extremes are exact bounds.
def test_intervals_are_narrow() -> None:
    a, b = Interval(-2, 3), Interval(-5, 4)
    assert BINARY[BinaryKind.ADD](a, b) == Interval(-7, 7)
    assert BINARY[BinaryKind.SUB](a, b) == Interval(-6, 8)
    assert product(a, b) == Interval(-15, 12)
    assert product(Interval(0, 0), Interval(-inf, inf)) == Interval(0, 0)
    assert BINARY[BinaryKind.MIN](a, b) == Interval(-5, 3)
    assert BINARY[BinaryKind.MOD](Interval(-100, 100), Interval(8, 8)) == Interval(0, 7)
    assert UNARY[UnaryKind.ABS](a) == Interval(0, 3)
    assert UNARY[UnaryKind.SQUARE](a) == Interval(0, 9)
    assert UNARY[UnaryKind.SIGN](Interval(1, 3)) == Interval(0, 1)
    assert clipped(Interval(-10, 10), 0.0, 6.0) == Interval(0, 6)
    assert not clipped(Interval(-10, 10), 0.5, None).integral
    assert repeated_sum(Interval(-2, 3), 10) == Interval(-20, 30)
    assert join(Interval(1, 2), Interval(5, 6, integral=False)) == Interval(1, 6, integral=False)


# Integers wrap around beyond their type; f32 holds whole numbers up to 2**24, bf16 up to 2**8.
def test_what_types_hold() -> None:
    assert held(Interval(0, 255), UI8) == Interval(0, 255)
    assert held(Interval(0, 256), UI8) == of_dtype(UI8)
    assert held(Interval(0, 2**31), I32) == of_dtype(I32)
    assert held(Interval(0, 2**31), I64) == Interval(0, 2**31)
    assert held(Interval(-(2**24), 2**24), F32) == Interval(-(2**24), 2**24)
    assert held(Interval(0, 2**24 + 1), F32) == ANY
    assert held(Interval(0, 257), dtype_by_name("bf16")) == ANY


PROGRAM = """
builtin.module {
  func.func @main(%q: tensor<2x4xui8>, %f: tensor<2x4xf32>, %i: tensor<2x4xi64>) -> tensor<2x2xf32> {
    %z = graph.constant 128.0 : tensor<f32>
    %0 = graph.cast %q : (tensor<2x4xui8>) -> tensor<2x4xf32>
    %1 = graph.binary sub %0, %z : (tensor<2x4xf32>, tensor<f32>) -> tensor<2x4xf32>
    %w = graph.weight @w$f32 : tensor<4x2xf32>
    %2 = graph.matmul %1, %w : (tensor<2x4xf32>, tensor<4x2xf32>) -> tensor<2x2xf32>
    %h = graph.constant 0.5 : tensor<f32>
    %3 = graph.binary mul %2, %h : (tensor<2x2xf32>, tensor<f32>) -> tensor<2x2xf32>
    %v = graph.weight @v {neuron.range = [-3, 40]} : tensor<8xi64>
    %4 = graph.gather %v, %i axis 0 : (tensor<8xi64>, tensor<2x4xi64>) -> tensor<2x4xi64>
    %5 = graph.binary add %i, %i : (tensor<2x4xi64>, tensor<2x4xi64>) -> tensor<2x4xi64>
    %6 = graph.binary mul %f, %f : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32>
    func.return %3 : tensor<2x2xf32>
  }
  graph.derived_weight @w$f32 : tensor<4x2xf32> {
    %0 = graph.weight @w {neuron.range = [-7, 5]} : tensor<4x2xi8>
    %1 = graph.cast %0 : (tensor<4x2xi8>) -> tensor<4x2xf32>
    graph.yield %1 : tensor<4x2xf32>
  }
}
"""


# From bytes through a zero point and weights of known bounds to the sums of a product, and what is not whole.
def test_ranges_of_a_program() -> None:
    module = parse(PROGRAM)
    block = main_of(module).body.block
    ranges = value_ranges(block, module)
    found = {value.name_hint: interval_of(ranges, value) for op in block.ops for value in op.results}
    results = [interval_of(ranges, op.results[0]) for op in block.ops if op.results and op.name != "graph.constant"]
    assert found["w"] == Interval(-7, 5)
    cast, centered, _, sums, scaled, table, gathered, doubled, square = results
    assert cast == Interval(0, 255)
    assert centered == Interval(-128, 127)
    assert sums == Interval(4 * -127 * 7, 4 * 128 * 7)
    assert scaled == ANY
    assert table == gathered == Interval(-3, 40)
    # Twice an i64 may wrap around: nothing but the type is known. Floats may be anything.
    assert doubled == of_dtype(I64)
    assert square == ANY
    given = value_ranges(block, module, {block.args[2]: Interval(-8, 7)})
    assert interval_of(
        given, next(op for op in block.ops if op.name == "graph.binary" and op.operands[0] == block.args[2]).results[0]
    ) == Interval(-16, 14)
