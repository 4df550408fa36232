"""Concatenations of channels that stay on chip: numbers, and what is computed in its place."""

from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from neuron_dialects.graph import (
    BroadcastOp,
    ConcatOp,
    PoolKind,
    PoolOp,
    ReshapeOp,
    UnaryKind,
    UnaryOp,
    layout_of,
    shape_of,
)
from passes.graph.joined import computed_in_place, lanes_allow, marked, source_of
from passes.graph.layout import choose_layouts
from tests.core_kernels import add, conv, lowered_error

Make = Callable[[Block, SSAValue, Mapping[str, SSAValue]], SSAValue]


def dense_block(block: Block, x: SSAValue, w: Mapping[str, SSAValue]) -> SSAValue:
    """Layers of 32 channels that each read all before them; the last row of lanes is reached."""
    parts = [conv(block, x, w["64x8x1x1"])]
    for channels in (64, 96, 128):
        joined = add(block, ConcatOp(parts, 1)) if len(parts) > 1 else parts[0]
        parts.append(conv(block, joined, w[f"32x{channels}x3x3"]))
    whole = add(block, UnaryOp(UnaryKind.RELU, add(block, ConcatOp(parts, 1))))
    return conv(block, whole, w["8x160x1x1"])


def nested(block: Block, x: SSAValue, w: Mapping[str, SSAValue]) -> SSAValue:
    """The same with a concatenation as the first operand of the next."""
    joined = conv(block, x, w["64x8x1x1"])
    for channels in (64, 96, 128):
        joined = add(block, ConcatOp([joined, conv(block, joined, w[f"32x{channels}x3x3"])], 1))
    return conv(block, joined, w["8x160x1x1"])


def pyramid(block: Block, x: SSAValue, w: Mapping[str, SSAValue]) -> SSAValue:
    """A map of half the size, repeated, beside a pooled one, and one that starts within a lane's quadrant."""
    first = conv(block, x, w["128x8x1x1"])
    half = add(block, PoolOp(PoolKind.MAX, first, kernel=(2, 2), strides=(2, 2), pads=(0,) * 4, dilations=(1, 1)))
    images, channels, height, width = shape_of(half)
    split = add(block, ReshapeOp(half, (images, channels, height, 1, width, 1)))
    repeated = add(block, BroadcastOp(split, (images, channels, height, 2, width, 2)))
    up = add(block, ReshapeOp(repeated, (images, channels, height * 2, width * 2)))
    pooled = add(block, PoolOp(PoolKind.MAX, first, kernel=(3, 3), strides=(1, 1), pads=(1,) * 4, dilations=(1, 1)))
    thin = conv(block, x, w["8x8x1x1"])
    whole = add(block, ConcatOp([up, pooled, thin, conv(block, x, w["24x8x1x1"])], 1))
    return conv(block, whole, w["8x288x1x1"])


FILTERS: dict[Make, tuple[str, ...]] = {
    dense_block: ("64x8x1x1", "32x64x3x3", "32x96x3x3", "32x128x3x3", "8x160x1x1"),
    nested: ("64x8x1x1", "32x64x3x3", "32x96x3x3", "32x128x3x3", "8x160x1x1"),
    pyramid: ("128x8x1x1", "8x8x1x1", "24x8x1x1", "8x288x1x1"),
}


@pytest.mark.parametrize(("make", "flags"), [(dense_block, [1] * 4), (nested, [1] * 4), (pyramid, [1, 1, 1, 0])])
def test_parts_are_computed_in_place(make: Make, flags: Sequence[int]) -> None:
    rng = np.random.default_rng(3)
    shapes = {name: tuple(int(n) for n in name.split("x")) for name in FILTERS[make]}
    weights = {name: (rng.standard_normal(shape) * 0.2).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    found: list[list[int]] = []

    def layouts(block: Block) -> None:
        choose_layouts(block, 100_000)
        for join in marked(list(block.ops)):
            there = {value for value, _ in computed_in_place(join)}
            found.append([int(source_of(leaf) in there) for leaf in join.leaves])
            assert all(layout_of(op.result) == layout_of(join.whole.result) for op in join.all)

    error = lowered_error(
        "trn1", [("bf16", (2, 8, 6, 4))], weights, lambda block, x, w: [make(block, x[0], w)], layouts
    )
    assert found == [list(flags)]
    assert error < 2e-2


# A part of a tile begins on a quadrant; more than half of one, at its start.
def test_lanes() -> None:
    assert [lanes_allow(first, 32) for first in (0, 16, 32, 96, 160)] == [True, False, True, True, True]
    assert [lanes_allow(first, 64) for first in (32, 64, 128, 192)] == [False, True, True, True]
    assert [lanes_allow(first, 96) for first in (0, 32)] == [True, False]
