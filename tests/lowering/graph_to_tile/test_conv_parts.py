"""Sums of 1x1 convolutions in place of one of a concatenation: numbers, and where they are made."""

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from neuron_dialects.graph import ConcatOp, ConvOp, FusedOp, UnaryKind, UnaryOp, shape_of
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from passes.graph.part_sums import take_apart
from tests.core_kernels import add, lowered_error


def conv(block: Block, x: SSAValue, w: SSAValue, bias: SSAValue | None = None) -> SSAValue:
    """A 1x1 convolution."""
    return add(block, ConvOp(x, w, bias=bias, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=1))


# Maps on chip and in DRAM, three of them; two readers; the sums, bias and activation are one kernel.
@pytest.mark.parametrize("capacity", [100_000, 0])
def test_sum_is_one_kernel(capacity: int) -> None:
    rng = np.random.default_rng(4)
    shapes = {"w": (32, 8, 1, 1), "v": (24, 96, 1, 1), "u": (16, 96, 1, 1), "b": (24,)}
    weights = {name: (rng.standard_normal(shape) * 0.3).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}

    def make(block: Block, arguments: Sequence[SSAValue], w: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        maps = [conv(block, x, w["w"]) for x in arguments]
        whole = add(block, ConcatOp(maps, 1))
        first = add(block, UnaryOp(UnaryKind.RELU, conv(block, whole, w["v"], w["b"])))
        return [first, conv(block, whole, w["u"])]

    made: list[int] = []

    def layouts(block: Block) -> None:
        take_apart(block)
        fuse_block(block)
        choose_layouts(block, capacity)
        assert not any(isinstance(op, ConcatOp) for op in block.ops)
        made.extend(len(list(op.body.block.ops)) for op in block.ops if isinstance(op, FusedOp))

    inputs = [("bf16", (4, 8, 10, 12))] * 3
    assert lowered_error("trn1", inputs, weights, make, layouts) < 2e-2
    assert sorted(made) == [6, 8]


# Maps that fill their lanes, or another reader, keep the concatenation.
@pytest.mark.parametrize(("channels", "activates"), [(64, False), (32, True)])
def test_concatenation_stays(channels: int, activates: bool) -> None:
    rng = np.random.default_rng(5)
    shapes = {"w": (channels, 8, 1, 1), "v": (24, 2 * channels, 1, 1)}
    weights = {name: (rng.standard_normal(shape) * 0.3).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}

    def make(block: Block, arguments: Sequence[SSAValue], w: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        whole = add(block, ConcatOp([conv(block, x, w["w"]) for x in arguments], 1))
        read = add(block, UnaryOp(UnaryKind.RELU, whole)) if activates else whole
        return [conv(block, read, w["v"])]

    def layouts(block: Block) -> None:
        before = [shape_of(op.results[0]) for op in block.ops if op.results]
        take_apart(block)
        assert [shape_of(op.results[0]) for op in block.ops if op.results] == before

    assert lowered_error("trn1", [("bf16", (4, 8, 4, 4))] * 2, weights, make, layouts) < 2e-2
