"""Depthwise convolutions by bands against the graph level, on every route to rows on partitions; and their choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import UnitAttr
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile import conv_bands
from lowering.graph_to_tile.band_state import maxima
from lowering.graph_to_tile.conv_bands import Chunk, chunks
from neuron_dialects.graph import BinaryKind, BinaryOp, ConvOp, FusedOp, UnaryKind, UnaryOp, layout_of, shape_of
from neuron_dialects.target import load_target
from passes.graph.band_filters import BANDS, Depthwise, Route, band_block, is_banded_faster, quickest_route
from passes.graph.fuse import fuse_block
from passes.graph.kernel_layouts import anchor_of
from passes.graph.layout import choose_layouts
from tests.core_kernels import core_function, core_module, lowered_error

TRN1 = load_target("trn1")
TOLERANCE = 8e-3

CASES: dict[str, tuple[tuple[int, ...], tuple[int, int], tuple[tuple[int, ...], ...]]] = {
    # input, taps of the filter, (strides, pads, dilations)
    "two tiles of channels": ((2, 136, 9, 11), (5, 3), ((1, 1), (2, 1, 2, 1), (1, 1))),
    "strides": ((3, 20, 14, 9), (3, 5), ((2, 2), (1, 2, 1, 2), (1, 1))),
    "an even filter": ((1, 18, 70, 8), (2, 2), ((1, 1), (0, 0, 1, 1), (1, 1))),
    "a dilation": ((2, 17, 6, 12), (3, 3), ((1, 1), (1, 2, 1, 2), (1, 2))),
    "no border": ((2, 16, 8, 8), (3, 3), ((1, 1), (0, 0, 0, 0), (1, 1))),
}


def plain(x: SSAValue, w: SSAValue) -> ConvOp:
    """A convolution of one tap."""
    return ConvOp(x, w, strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1))


def mark(block: Block) -> None:
    """Mark the depthwise convolution, whatever is faster."""
    for op in block.ops:
        if (
            isinstance(op, ConvOp | FusedOp)
            and isinstance(conv := anchor_of(op), ConvOp)
            and conv.groups.value.data > 1
        ):
            conv.attributes[BANDS] = UnitAttr()


# Products around a depthwise convolution with a bias and an activation: what lies between them stays on chip.
@pytest.mark.parametrize("route", [*Route, None])
@pytest.mark.parametrize("case", CASES)
def test_bands_match_the_graph_level(case: str, route: Route | None, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, taps, settings = CASES[case]
    channels, rng = shape[1], np.random.default_rng(len(case))
    shapes = {"w0": (channels, 8, 1, 1), "dw": (channels, 1, *taps), "b": (channels, 1, 1), "w1": (8, channels, 1, 1)}
    weights = {name: (rng.standard_normal(size) / 2).astype(ml_dtypes.bfloat16) for name, size in shapes.items()}
    if route is not None:
        monkeypatch.setattr(conv_bands, "quickest_route", lambda *_: route)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        x = plain(arguments[0], values["w0"])
        strides, pads, dilations = settings
        deep = ConvOp(x.result, values["dw"], strides=strides, pads=pads, dilations=dilations, groups=channels)
        total = BinaryOp(BinaryKind.ADD, deep.result, values["b"])
        relu = UnaryOp(UnaryKind.RELU, total.result)
        last = plain(relu.result, values["w1"])
        block.add_ops([x, deep, total, relu, last])
        return [last.result]

    def lay_out(block: Block) -> None:
        fuse_block(block)
        mark(block)
        if route is not None:
            choose_layouts(block, 50000)
            kept = [op for op in block.ops if isinstance(op, ConvOp | FusedOp) and layout_of(op.results[0]) is not None]
            assert len(kept) == 2

    inputs = [("bf16", (shape[0], 8, *shape[2:]))]
    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE


# A map that two depthwise convolutions read, with borders of their own, the later one of which was made first; and one
# that a second depthwise convolution reads while it is still on its way back from the first.
@pytest.mark.parametrize("one_behind_the_other", [False, True])
def test_two_convolutions_by_bands(one_behind_the_other: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    shapes = {"w0": (24, 8, 1, 1), "d0": (24, 1, 5, 5), "d1": (24, 1, 3, 3), "w1": (8, 24, 1, 1)}
    weights = {name: (rng.standard_normal(size) / 2).astype(ml_dtypes.bfloat16) for name, size in shapes.items()}
    monkeypatch.setattr(conv_bands, "quickest_route", lambda *_: Route.TURNED)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def deep(x: SSAValue, w: str) -> ConvOp:
            pads = (shape_of(values[w])[2] // 2,) * 4
            return ConvOp(x, values[w], strides=(1, 1), pads=pads, dilations=(1, 1), groups=24)

        x = plain(arguments[0], values["w0"])
        first = deep(x.result, "d0")
        second = deep(first.result if one_behind_the_other else x.result, "d1")
        found = [plain(op.result, values["w1"]) for op in (first, second)]
        block.add_ops([x, *([first, second] if one_behind_the_other else [second, first]), *found])
        return [op.result for op in found]

    def lay_out(block: Block) -> None:
        mark(block)
        choose_layouts(block, 50000)
        assert len([op for op in block.ops if op.results and layout_of(op.results[0]) is not None]) == 3

    assert lowered_error("trn1", [("bf16", (2, 8, 9, 11))], weights, make, lay_out) < TOLERANCE


@given(st.lists(st.integers(0, 9), min_size=1), st.data())
def test_the_greatest_size_of_a_range(sizes: list[int], data: st.DataObject) -> None:
    ends = {i: data.draw(st.integers(i, len(sizes) - 1)) for i in range(0, len(sizes), 2)}
    assert maxima(sizes, ends) == {start: max(sizes[start : end + 1]) for start, end in ends.items()}


def test_blocks_stay_within_tiles() -> None:
    assert chunks(136, 14, 8) == [Chunk(0, 14, 5), Chunk(70, 14, 4), Chunk(126, 2, 1), Chunk(128, 8, 1)]
    assert chunks(6, 2, 8) == [Chunk(0, 2, 3)]


# 7 by 7 on 56 rows: 49 diagonal matrices against 7 bands of two channels; 3 by 3 on 7 rows is done before data arrive.
def test_bands_are_for_large_filters_on_large_maps() -> None:
    assert is_banded_faster(Depthwise(8, 96, 56, 56, 56, 56, 7, 7, 2), TRN1)
    assert not is_banded_faster(Depthwise(8, 960, 7, 7, 7, 7, 3, 3, 2), TRN1)
    assert not is_banded_faster(Depthwise(8, 32, 200, 200, 200, 200, 7, 7, 2), TRN1)


# Rows of 112 bytes go straight, a transfer for each block; of two images that is little for a transfer. Rows of 28
# bytes are put together on chip.
def test_routes_by_their_time() -> None:
    assert quickest_route(Depthwise(8, 96, 56, 56, 56, 56, 7, 7, 2), 56, 56, TRN1) is Route.DIRECT
    assert quickest_route(Depthwise(2, 96, 56, 56, 56, 56, 7, 7, 2), 56, 56, TRN1) is Route.BOUNCED
    assert quickest_route(Depthwise(8, 384, 14, 14, 14, 14, 7, 7, 2), 14, 14, TRN1) is Route.TURNED


# A sum with another tensor behind the convolution, or a filter that is computed: diagonals, as before.
@pytest.mark.parametrize("residual", [False, True])
def test_what_is_marked(residual: bool) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        deep = ConvOp(arguments[0], values["w"], strides=(1, 1), pads=(3,) * 4, dilations=(1, 1), groups=96)
        other = arguments[0] if residual else values["b"]
        total = BinaryOp(BinaryKind.ADD, deep.result, other)
        block.add_ops([deep, total])
        return [total.result]

    weights = {"w": np.zeros((96, 1, 7, 7), ml_dtypes.bfloat16), "b": np.zeros((96, 1, 1), ml_dtypes.bfloat16)}
    block = core_function(core_module("trn1", [("bf16", (8, 96, 56, 56))], weights, make)).body.block
    fuse_block(block)
    band_block(block, TRN1)
    (group,) = [op for op in block.ops if isinstance(op, FusedOp)]
    assert shape_of(group.results[0]) == (8, 96, 56, 56)
    assert (BANDS in anchor_of(group).attributes) is not residual
