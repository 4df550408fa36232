"""Layout choice: the budget, halos, and whole functions that stay right when their tensors stay on chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ConcatOp,
    ConvOp,
    FusedOp,
    LayerNormOp,
    MatMulOp,
    PoolKind,
    PoolOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    layout_of,
)
from passes.graph.fuse import fuse_block
from passes.graph.kernel_layouts import conv_halo, merge_halo
from passes.graph.layout import choose_layouts
from passes.graph.residence import Budget, Interval, live_profile, overwrites, resident_bytes
from tests.core_kernels import core_function, core_module, lowered_error


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 50)), max_size=30))
def test_the_budget_is_never_exceeded(intervals: list[tuple[int, int, int]]) -> None:
    budget = Budget([100] * 20, [0] * 20)
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


# All of the intervals find room, or none of them leaves a trace.
def test_room_for_all_or_for_none() -> None:
    budget = Budget([100] * 4, [0] * 4)
    assert budget.admit_all([Interval(0, 1, 60), Interval(1, 3, 40)])
    assert not budget.admit_all([Interval(3, 3, 60), Interval(0, 1, 1)])
    assert budget.used == [60, 100, 40, 40]


@given(st.lists(st.builds(Interval, st.integers(0, 6), st.integers(0, 7), st.integers(0, 50)), max_size=10))
def test_the_profile_adds_up_what_is_live(intervals: list[Interval]) -> None:
    live, crossing = live_profile(7, intervals)
    assert live == [sum(one.bytes for one in intervals if one.start <= i <= one.end) for i in range(7)]
    assert crossing == [sum(one.bytes for one in intervals if one.start <= i < one.end) for i in range(7)]


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


# A mask of 8 samples: on 8 partitions the other 120 lanes would stand idle, on those of its 40 positions fewer do.
def test_pointwise_work_lies_along_a_dimension_of_many_positions() -> None:
    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        first = UnaryOp(UnaryKind.RELU, arguments[0])
        second = BinaryOp(BinaryKind.MUL, first.result, weights["w"])
        b.add_ops([first, second])
        return [second.result]

    weights = {"w": np.ones((1, 1, 40, 50), np.float32)}
    module = core_module("trn1", [("f32", (1, 8, 40, 50))], weights, make)
    choose_layouts(core_function(module).body.block, 1 << 16)
    layouts = [layout_of(op.result) for op in core_function(module).body.block.ops if isinstance(op, UnaryOp)]
    assert [layout and layout.partition_dimension for layout in layouts] == [2]


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


# Squeeze and excite: means over the pixels, two small products, and every pixel scaled by its channel's result.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("channels", [32, 200])
def test_channels_scaled_by_their_means_stay_on_chip(target: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "w0": (channels, 16, 3, 3),
        "w1": (8, channels, 1, 1),
        "w2": (channels, 8, 1, 1),
        "w3": (24, channels, 1, 1),
    }
    weights = {name: (rng.standard_normal(shape) / 4).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}

    def make(b: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def conv(x: SSAValue, name: str, pad: int = 0) -> SSAValue:
            return add(ConvOp(x, values[name], None, strides=[1, 1], pads=[pad] * 4, dilations=[1, 1]))

        def add(op: Operation) -> SSAValue:
            b.add_op(op)
            return op.results[0]

        x = conv(arguments[0], "w0", pad=1)
        means = add(ReduceOp(ReduceKind.MEAN, x, axes=(2, 3), keep_dims=True))
        gates = add(UnaryOp(UnaryKind.SIGMOID, conv(conv(means, "w1"), "w2")))
        return [conv(add(BinaryOp(BinaryKind.MUL, x, gates)), "w3")]

    def apply(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, 50000)
        assert all(layout_of(op.results[0]) for op in block.ops if isinstance(op, FusedOp | ReduceOp | BinaryOp))

    assert lowered_error(target, [("bf16", (2, 16, 9, 7))], weights, make, apply) < 2e-2


# y = relu(conv(relu(conv(x))) + bias + x): the sum takes the place of x only where there is no room for another tensor.
# 8 x 8 positions of 2 bytes are 128 bytes, 200 with a halo: x, the inner tensor and the sum take 128 + 200 + 128.
@pytest.mark.parametrize(("capacity", "in_place"), [(456, False), (455, True)])
def test_a_convolution_takes_the_place_of_its_residual_where_memory_is_short(capacity: int, *, in_place: bool) -> None:
    rng = np.random.default_rng(1)
    shapes = {"w0": (16, 16, 1, 1), "w1": (16, 16, 1, 1), "w2": (16, 16, 3, 3), "bias": (16, 1, 1)}
    weights = {name: (rng.standard_normal(shape) / 4).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}

    def make(b: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def add(op: Operation) -> SSAValue:
            b.add_op(op)
            return op.results[0]

        def conv(x: SSAValue, name: str, pad: int = 0) -> SSAValue:
            return add(ConvOp(x, values[name], None, strides=[1, 1], pads=[pad] * 4, dilations=[1, 1]))

        x = conv(arguments[0], "w0")
        inner = add(UnaryOp(UnaryKind.RELU, conv(x, "w1")))
        biased = add(BinaryOp(BinaryKind.ADD, conv(inner, "w2", pad=1), values["bias"]))
        total = add(UnaryOp(UnaryKind.RELU, add(BinaryOp(BinaryKind.ADD, biased, x))))
        return [conv(total, "w0")]

    def apply(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, capacity)
        assert any(overwrites(op) for op in block.ops) == in_place

    assert lowered_error("trn1", [("bf16", (1, 16, 8, 8))], weights, make, apply) < 2e-2


# Two parts of a batch, joined and read by two convolutions, of which one reads around its input.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
def test_parts_of_a_batch_come_back_on_chip(target: str) -> None:
    rng = np.random.default_rng(2)
    shapes = {"w0": (150, 16, 1, 1), "w1": (16, 150, 1, 1), "w2": (16, 150, 3, 3)}
    weights = {name: (rng.standard_normal(shape) / 8).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}

    def make(b: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def conv(x: SSAValue, name: str, pad: int = 0) -> SSAValue:
            op = ConvOp(x, values[name], None, strides=[1, 1], pads=[pad] * 4, dilations=[1, 1])
            b.add_op(op)
            return op.result

        joined = ConcatOp([conv(argument, "w0") for argument in arguments], 0)
        b.add_op(joined)
        return [conv(joined.result, "w1"), conv(joined.result, "w2", pad=1)]

    def apply(block: Block) -> None:
        choose_layouts(block, 50000)
        assert any(isinstance(op, ConcatOp) and layout_of(op.result) is not None for op in block.ops)

    inputs = [("bf16", (2, 16, 6, 7)), ("bf16", (3, 16, 6, 7))]
    assert lowered_error(target, inputs, weights, make, apply) < 2e-2


# Patches that a convolution makes are normalised with channels last: maps stay on chip where their pixels fill tiles.
@pytest.mark.parametrize(("side", "stays"), [(16, True), (7, False)])
def test_maps_that_are_normalised_with_channels_last(side: int, stays: bool) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        conv = ConvOp(arguments[0], values["w"], strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1))
        maps = ReshapeOp(conv.result, (2, 96, side * side))
        turned = TransposeOp(maps.result, (0, 2, 1))
        rows = ReshapeOp(turned.result, (2 * side * side, 96))
        norm = LayerNormOp(rows.result, values["scale"], values["bias"], axis=1, epsilon=1e-5)
        product = MatMulOp(norm.result, values["p"])
        block.add_ops((conv, maps, turned, rows, norm, product))
        return [product.result]

    rng = np.random.default_rng(0)
    shapes = {"w": (96, 3, 2, 2), "scale": (96,), "bias": (96,), "p": (96, 40)}
    weights = {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    inputs = [("bf16", (2, 3, 2 * side, 2 * side))]
    found: list[bool] = []

    def layouts(block: Block) -> None:
        choose_layouts(block, 128 * 1024)
        found.extend(layout_of(op.result) is not None for op in block.ops if isinstance(op, ConvOp))

    for target in ("trn1", "inf1"):
        assert lowered_error(target, inputs, weights, make, layouts) < 1.5e-2
    assert found == [stays, stays]
