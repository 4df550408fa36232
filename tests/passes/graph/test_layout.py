"""Layout choice: the budget, halos, and whole functions that stay right when their tensors stay on chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from xdsl.ir import Block, SSAValue

from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import CastOp, ConvOp, PoolKind, PoolOp, layout_of
from passes.graph.layout import Budget, Interval, choose_layouts, conv_halo, merge_halo, resident_bytes
from tests.core_kernels import core_function, core_module


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 50)), max_size=30))
def test_the_budget_is_never_exceeded(intervals: list[tuple[int, int, int]]) -> None:
    budget = Budget(100, [0] * 20)
    live = [0] * 20
    for start, length, size in intervals:
        interval = Interval(start, start + length, size)
        if budget.admit(interval):
            for i in range(start, start + length + 1):
                live[i] += size
        else:
            assert any(live[i] + size > 100 for i in range(start, start + length + 1))
    assert budget.used == live
    assert max(live) <= 100


def test_bytes_count_tiles_of_128_and_the_halo() -> None:
    # 130 channels are two tiles; (8 + 2) x (8 + 2) positions of 2 bytes each: 2 * 100 * 2 = 400.
    assert resident_bytes((1, 130, 8, 8), 1, ((0, 0), (1, 1), (1, 1)), 2) == 400


def test_halos_merge_to_the_larger() -> None:
    assert merge_halo(((0, 0), (1, 0)), ((0, 0), (0, 2))) == ((0, 0), (1, 2))
    assert merge_halo((), ((0, 0), (0, 2))) == ((0, 0), (0, 2))


def test_the_halo_of_a_strided_window_reaches_only_what_it_reads() -> None:

    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        op = ConvOp(arguments[0], weights["w"], None, strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1])
        b.add_op(op)
        # 8 inputs, outputs 0..3 read -1 .. 7: one zero before, none after.
        assert conv_halo(op) == ((0, 0), (1, 0), (1, 0))
        return [op.result]

    weights = {"w": np.zeros((4, 4, 3, 3), ml_dtypes.bfloat16)}
    core_module("trn1", [("bf16", (1, 4, 8, 8))], weights, make)


def test_function_results_and_tensors_over_budget_stay_in_dram() -> None:
    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        value = arguments[0]
        for _ in range(3):
            op = ConvOp(value, weights["w"], None, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])
            b.add_op(op)
            value = op.result
        return [value]

    def resident(capacity: int) -> list[bool]:
        weights = {"w": np.zeros((16, 16, 3, 3), ml_dtypes.bfloat16)}
        block = core_function(core_module("trn1", [("bf16", (1, 16, 8, 8))], weights, make)).body.block
        choose_layouts(block, capacity)
        return [layout_of(op.results[0]) is not None for op in block.ops if isinstance(op, ConvOp)]

    # One tensor with its halo takes 10 x 10 x 2 = 200 bytes; two are live at the middle convolution.
    assert resident(400) == [True, True, False]
    assert resident(399) == [True, False, False]
    assert resident(199) == [False, False, False]


def test_an_image_stays_in_dram_where_the_first_convolution_spreads_its_taps() -> None:
    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        image, pooled = (
            CastOp(arguments[0], BF16),
            PoolOp(PoolKind.MAX, arguments[1], kernel=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0], dilations=[1, 1]),
        )
        b.add_ops([image, pooled])
        convs = [
            ConvOp(op.result, weights["w"], None, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])
            for op in (image, pooled)
        ]
        b.add_ops(convs)
        return [conv.result for conv in convs]

    inputs = [("f32", (1, 4, 8, 8)), ("bf16", (1, 4, 16, 16))]
    weights = {"w": np.zeros((8, 4, 3, 3), ml_dtypes.bfloat16)}
    block = core_function(core_module("trn1", inputs, weights, make)).body.block
    choose_layouts(block, 1 << 16)
    layouts = {type(op): layout_of(op.results[0]) for op in block.ops if isinstance(op, CastOp | PoolOp)}
    assert layouts[CastOp] is None
    assert layouts[PoolOp] is not None
