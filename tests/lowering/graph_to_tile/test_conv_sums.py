"""Sums and means of feature maps that are taken while these leave PSUM, against the graph level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.ir import Block, Operation, SSAValue

from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from lowering.graph_to_tile.map_sums import summed_maps
from neuron_dialects.graph import BinaryKind, BinaryOp, ConvOp, ReduceKind, ReduceOp, UnaryKind, UnaryOp
from neuron_dialects.tile import TileOp
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from tests.core_kernels import Array, Make, core_function, core_module, lowered_error

TOLERANCE = 1e-2
BUDGET = 100_000


@dataclass(frozen=True)
class Squeeze:
    """A convolution of `shape` to `channels`, an activation, and the mean of what it gives, which leaves the function.

    `weighs`: the map is multiplied by its mean. `row_sums`: how many activations sum up what they write, `reduced`:
    the longest row that the vector engine adds up.
    """

    shape: tuple[int, ...]
    channels: int
    activation: UnaryKind | None
    row_sums: int
    reduced: int
    depthwise: bool = False
    weighs: bool = True
    residual: bool = False
    kind: ReduceKind = ReduceKind.MEAN
    target: str = "trn1"
    dtype: str = "bf16"


CASES = {
    "an image in several tiles, the last one shorter": Squeeze((1, 8, 31, 40), 24, UnaryKind.SILU, 2, 3),
    "two images in a tile": Squeeze((3, 8, 14, 14), 130, UnaryKind.SILU, 4, 0),
    "images too small for an instruction of their own": Squeeze((3, 8, 7, 7), 130, UnaryKind.SILU, 0, 49),
    "a sum in f32 of many pixels": Squeeze((1, 4, 25, 23), 5, UnaryKind.RELU, 2, 2, kind=ReduceKind.SUM, dtype="f32"),
    "depthwise": Squeeze((2, 130, 14, 13), 130, UnaryKind.SILU, 2, 0, depthwise=True),
    "nothing behind the convolution": Squeeze((2, 8, 12, 12), 16, None, 1, 0),
    "an activation of the vector engine": Squeeze((2, 8, 12, 12), 16, UnaryKind.HARD_SWISH, 0, 144),
    "a residual": Squeeze((2, 16, 12, 12), 16, UnaryKind.RELU, 1, 0, residual=True),
    "three dimensions": Squeeze((2, 4, 5, 6, 7), 9, UnaryKind.RELU, 1, 0),
    "one dimension, and few columns of the array": Squeeze((2, 4, 701), 70, UnaryKind.SILU, 4, 2, target="inf1"),
    "a map that is read once": Squeeze((2, 8, 12, 12), 16, UnaryKind.RELU, 1, 0, weighs=False),
    "a small map that is read once": Squeeze((2, 8, 7, 7), 16, UnaryKind.RELU, 0, 49, weighs=False),
    "one pixel": Squeeze((2, 8, 1, 1), 16, UnaryKind.SILU, 0, 1),
}


def squeeze(case: Squeeze) -> tuple[Make, dict[str, Array], list[tuple[str, tuple[int, ...]]]]:
    rng = np.random.default_rng(case.channels)
    groups, rank = case.channels if case.depthwise else 1, len(case.shape) - 2
    size = (case.channels, case.shape[1] // groups, *([1] * rank))
    weights = {"w": (rng.standard_normal(size) / 2).astype(np.float32 if case.dtype == "f32" else ml_dtypes.bfloat16)}

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def add(op: Operation) -> SSAValue:
            block.add_op(op)
            return op.results[0]

        ones = (1,) * rank
        x = add(ConvOp(arguments[0], values["w"], strides=ones, pads=(0,) * (2 * rank), dilations=ones, groups=groups))
        if case.residual:
            x = add(BinaryOp(BinaryKind.ADD, x, arguments[0]))
        if case.activation is not None:
            x = add(UnaryOp(case.activation, x))
        mean = add(ReduceOp(case.kind, x, axes=tuple(range(2, 2 + rank)), keep_dims=True))
        if not case.weighs:
            return [add(UnaryOp(UnaryKind.SIGMOID, mean))]
        # What weighs the map is no result: then it stays on chip.
        return [add(BinaryOp(BinaryKind.MUL, x, add(UnaryOp(UnaryKind.SIGMOID, mean))))]

    return make, weights, [(case.dtype, case.shape)]


def lay_out(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, BUDGET)


@pytest.mark.parametrize("name", CASES)
def test_sums_match_the_graph_level(name: str) -> None:
    make, weights, inputs = squeeze(CASES[name])
    assert lowered_error(CASES[name].target, inputs, weights, make, lay_out) < TOLERANCE


# Where an engine sums up what it writes, no other one reads the map again.
@pytest.mark.parametrize("name", CASES)
def test_who_sums_up(name: str) -> None:
    case = CASES[name]
    make, weights, inputs = squeeze(case)
    module = core_module(case.target, inputs, weights, make)
    lay_out(core_function(module).body.block)
    ConvertGraphToTilePass().apply(Context(), module)
    ops = [op for op in core_function(module).walk() if isinstance(op, TileOp)]
    summing = [op for op in ops if op.name == "tile.activation" and "sum" in op.views]
    rows = [op.views["data"][1].dims[-1][1] for op in ops if op.name == "tile.reduce"]
    assert (len(summing), max(rows, default=0)) == (case.row_sums, case.reduced)


# A maximum, a mean over rows alone, or a map in DRAM: nothing is summed up on the way.
@pytest.mark.parametrize(
    ("kind", "axes", "budget"),
    [(ReduceKind.MAX, (2, 3), BUDGET), (ReduceKind.MEAN, (2,), BUDGET), (ReduceKind.MEAN, (2, 3), 0)],
)
def test_what_is_not_summed(kind: ReduceKind, axes: tuple[int, ...], budget: int) -> None:
    make, weights, inputs = squeeze(Squeeze((2, 8, 12, 12), 16, UnaryKind.RELU, 0, 0, weighs=False))
    block = core_function(core_module("trn1", inputs, weights, make)).body.block
    (op,) = [op for op in block.ops if isinstance(op, ReduceOp)]
    other = ReduceOp(kind, op.x, axes=axes, keep_dims=True)
    block.insert_op_before(other, op)
    fuse_block(block)
    choose_layouts(block, budget)
    assert not summed_maps([other])


# What else reads a map of which the mean is taken on the way: a maximum, a mean of rows, a sum that is given out.
@pytest.mark.parametrize(
    ("kind", "axes"), [(ReduceKind.MAX, (2, 3)), (ReduceKind.MEAN, (2,)), (ReduceKind.SUM, (2, 3))]
)
def test_another_reduction_of_the_map(kind: ReduceKind, axes: tuple[int, ...]) -> None:
    make_one, weights, inputs = squeeze(Squeeze((2, 8, 12, 12), 16, UnaryKind.RELU, 0, 0))

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        results = list(make_one(block, arguments, values))
        (mean,) = [op for op in block.ops if isinstance(op, ReduceOp)]
        other = ReduceOp(kind, mean.x, axes=axes, keep_dims=False)
        last = UnaryOp(UnaryKind.TANH, other.result)
        block.add_ops([other, last])
        return [*results, last.result]

    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE


# Means that a convolution with padding reads: they lie inside of its zeros.
def test_means_with_padding_around() -> None:
    rng = np.random.default_rng(0)
    shapes = {"w": (20, 24, 3, 3), "p": (20, 20, 3, 3)}
    weights = {name: (rng.standard_normal(shape) / 3).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    inputs = [("bf16", (3, 24, 14, 14))]

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        conv = ConvOp(arguments[0], values["w"], strides=(2, 2), pads=(1,) * 4, dilations=(1, 1))
        x = UnaryOp(UnaryKind.SILU, conv.result)
        mean = ReduceOp(ReduceKind.MEAN, x.result, axes=(2, 3), keep_dims=True)
        padded = ConvOp(mean.result, values["p"], strides=(1, 1), pads=(1,) * 4, dilations=(1, 1))
        last = BinaryOp(BinaryKind.MUL, x.result, padded.result)
        block.add_ops([conv, x, mean, padded, last])
        return [last.result]

    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE
