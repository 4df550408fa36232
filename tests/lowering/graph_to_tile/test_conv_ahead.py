"""Pointwise convolutions that a depthwise one emits a block of channels ahead, against the graph level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_ahead import followed_blocks, with_following
from neuron_dialects.access import Affine
from neuron_dialects.graph import BinaryKind, BinaryOp, ClipOp, ConvOp, layout_of, shape_of
from neuron_dialects.target import load_target
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts, resident_profile
from tests.core_kernels import Make, core_function, core_module, lowered_error

TRN1 = load_target("trn1")
TOLERANCE = 8e-3
BUDGET = 100_000

CASES: dict[str, tuple[tuple[int, ...], int, int, int, int]] = {
    # input, channels between, taps of a side, stride, groups of the pointwise convolution
    "two full blocks": ((1, 16, 9, 9), 256, 3, 1, 1),
    "a last block of fewer channels": ((2, 24, 12, 10), 300, 3, 1, 1),
    "strides, and an even number of rows": ((3, 16, 12, 8), 400, 3, 2, 1),
    "images that are taken as one": ((2, 48, 6, 6), 288, 5, 1, 2),
    "many rows": ((1, 16, 56, 28), 260, 3, 1, 1),
    "two tiles of input channels": ((1, 160, 7, 7), 400, 3, 1, 1),
    "strides that leave rows out": ((2, 16, 9, 8), 256, 3, 2, 1),
    "blocks of pixels, whose result has a row more": ((3, 24, 14, 14), 320, 2, 1, 1),
    "blocks of pixels of one image": ((1, 24, 28, 28), 512, 2, 1, 1),
    "blocks of pixels, strides": ((2, 24, 8, 8), 256, 3, 2, 1),
}

EACH = 4
"""Channels of a group between blocks of pixels."""


def block_of(
    case: str, residual: bool = False
) -> tuple[Make, dict[str, np.ndarray], list[tuple[str, tuple[int, ...]]]]:
    """A pointwise and a depthwise convolution, each with a bias and an activation, between two others of one tap."""
    shape, channels, taps, stride, groups = CASES[case]
    images, thin, rows, columns = shape
    each = EACH if case.startswith("blocks of pixels") else 1
    rng = np.random.default_rng(len(case))
    sizes = {
        "w0": (thin, 8, 1, 1),
        "w1": (channels, thin // groups, 1, 1),
        "b1": (channels, 1, 1),
        "dw": (channels, each, taps, taps),
        "b2": (channels, 1, 1),
        "w2": (8, channels, 1, 1),
    }
    weights = {name: (rng.standard_normal(size) / 2).astype(ml_dtypes.bfloat16) for name, size in sizes.items()}

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def conv(x: SSAValue, w: str, pad: int = 0, step: int = 1, groups: int = 1) -> ConvOp:
            return ConvOp(x, values[w], strides=(step,) * 2, pads=(pad,) * 4, dilations=(1, 1), groups=groups)

        x = conv(arguments[0], "w0")
        wide = conv(x.result, "w1", groups=groups)
        total = BinaryOp(BinaryKind.ADD, wide.result, values["b1"])
        clipped = ClipOp(total.result, minimum=0.0, maximum=6.0)
        deep = conv(clipped.result, "dw", taps // 2, stride, channels // each)
        again = BinaryOp(BinaryKind.ADD, deep.result, values["b2"])
        last = ClipOp(again.result, minimum=0.0, maximum=6.0)
        out = conv(last.result, "w2")
        block.add_ops([x, wide, total, clipped, deep, again, last, out])
        return [out.result]

    return make, weights, [("bf16", (images, 8, rows, columns))]


def lay_out(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, BUDGET)
    ops = list(block.ops)
    assert len(followed_blocks(ops, resident_profile(ops), TRN1)) == 1


@pytest.mark.parametrize("case", CASES)
def test_blocks_ahead_match_the_graph_level(case: str) -> None:
    make, weights, inputs = block_of(case)
    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE


# What else reads the map keeps the convolution where it stands.
def test_what_is_not_put_off() -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def plain(x: SSAValue, w: str) -> ConvOp:
            return ConvOp(x, values[w], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))

        wide = plain(arguments[0], "w1")
        deep = ConvOp(wide.result, values["dw"], strides=(2, 2), pads=(1,) * 4, dilations=(1, 1), groups=256)
        block.add_ops([wide, deep])
        other = plain(wide.result, "w2")
        block.add_op(other)
        return [deep.result, other.result]

    sizes = {"w1": (256, 8, 1, 1), "dw": (256, 1, 3, 3), "w2": (8, 256, 1, 1)}
    weights = {name: np.zeros(size, ml_dtypes.bfloat16) for name, size in sizes.items()}
    block = core_function(core_module("trn1", [("bf16", (1, 8, 12, 8))], weights, make)).body.block
    fuse_block(block)
    choose_layouts(block, BUDGET)
    ops = list(block.ops)
    kept = [op for op in ops if op.results and layout_of(op.results[0]) is not None]
    assert [shape_of(op.results[0])[1] for op in kept] == [256]
    assert not followed_blocks(ops, resident_profile(ops), TRN1)


# 300 channels, 128 at a time, of which each tile knows how many follow: in a loop only where a full tile does.
@pytest.mark.parametrize(("extent", "left"), [(300, 300), (256, 256), (256, 300), (128, 128), (512, 512)])
def test_tiles_and_what_follows(extent: int, left: int) -> None:
    seen: list[tuple[Affine, int, int]] = []
    with_following(KernelBuilder(Block(), TRN1), extent, 128, left, True, lambda *tile: seen.append(tile))
    looped = [tile for tile in seen if not tile[0].is_constant]
    assert all(tile[1:] == (128, 128) for tile in looped)
    for start, count, following in seen:
        if start.is_constant:
            assert count == min(128, extent - start.constant)
            assert following == min(128, left - start.constant - count)
    assert sum(count for _, count, _ in seen) + 128 * max(0, min(extent, left - 128) // 128 - 1) == extent
