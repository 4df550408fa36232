"""The convolution templates against the graph level, and the window arithmetic against brute force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile.conv_diagonals import taps_made
from lowering.graph_to_tile.conv_phases import rows_beside, transposed_phases
from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from lowering.graph_to_tile.windows import output_tile, segments, with_last_apart, without_padding
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    UnaryKind,
    UnaryOp,
    layout_of,
)
from neuron_dialects.target import load_target
from neuron_dialects.tile import TileOp
from passes.graph.conv_groups import plan_groups
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from tests.core_kernels import Make, core_function, core_module, executions, lowered_error

BF16_TOLERANCE = 4e-3


def conv(strides: list[int], pads: list[int], dilations: list[int], groups: int = 1) -> Make:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        filters = arguments[1] if len(arguments) > 1 else weights["w"]
        op = ConvOp(arguments[0], filters, None, strides=strides, pads=pads, dilations=dilations, groups=groups)
        block.add_op(op)
        return [op.result]

    return make


def transposed(strides: list[int], pads: list[int], output_padding: list[int], groups: int = 1) -> Make:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        op = ConvTransposeOp(
            arguments[0],
            weights["w"],
            None,
            strides=strides,
            pads=pads,
            dilations=[1] * len(strides),
            output_padding=output_padding,
            groups=groups,
        )
        block.add_op(op)
        return [op.result]

    return make


CASES = {
    "3x3": ((1, 16, 14, 14), (32, 16, 3, 3), conv([1, 1], [1] * 4, [1, 1])),
    "two channel tiles, stride 2": ((2, 140, 30, 31), (150, 140, 3, 3), conv([2, 2], [1] * 4, [1, 1])),
    "1x1": ((1, 256, 28, 28), (64, 256, 1, 1), conv([1, 1], [0] * 4, [1, 1])),
    "thin input, 7x7 stride 2": ((1, 3, 64, 64), (64, 3, 7, 7), conv([2, 2], [3] * 4, [1, 1])),
    "thin input, dilated, uneven pads": ((2, 3, 33, 40), (20, 3, 3, 3), conv([2, 1], [0, 1, 1, 2], [1, 2])),
    "depthwise": ((1, 200, 14, 14), (200, 1, 3, 3), conv([1, 1], [1] * 4, [1, 1], 200)),
    # 10 blocks x 25 taps x 256 bytes are 64,000: more than a third of SBUF on both targets.
    "depthwise, filters in parts": ((2, 1190, 5, 4), (1190, 1, 5, 5), conv([1, 1], [2] * 4, [1, 1], 1190)),
    "depthwise, few channels": ((1, 20, 9, 9), (20, 1, 3, 3), conv([2, 2], [1] * 4, [1, 1], 20)),
    "depthwise, taps on partitions": ((1, 16, 9, 9), (16, 1, 3, 3), conv([1, 1], [1] * 4, [1, 1], 16)),
    "32 groups": ((1, 256, 9, 9), (256, 8, 3, 3), conv([1, 1], [1] * 4, [1, 1], 32)),
    "7 groups of 24": ((1, 168, 9, 9), (336, 24, 3, 3), conv([1, 1], [1] * 4, [1, 1], 7)),
    "2 groups of 192": ((1, 384, 6, 6), (384, 192, 3, 3), conv([1, 1], [1] * 4, [1, 1], 2)),
    # Both groups in one block, so that 128 outputs fill the array: half of the weights of each channel tile are zeros.
    "2 groups of 256 to 64": ((1, 512, 6, 6), (128, 256, 1, 1), conv([1, 1], [0] * 4, [1, 1], 2)),
    "thin input in 2 groups": ((2, 6, 30, 30), (40, 3, 5, 5), conv([2, 2], [2] * 4, [1, 1], 2)),
    "1-d": ((2, 40, 500), (60, 40, 5), conv([2], [2, 2], [1])),
    "1-d thin": ((1, 1, 3000), (16, 1, 11), conv([5], [5, 5], [1])),
    "3-d": ((1, 20, 6, 9, 9), (30, 20, 3, 3, 3), conv([1, 2, 1], [1] * 6, [1, 1, 1])),
    "rows longer than a bank": ((1, 8, 5, 700), (8, 8, 3, 3), conv([1, 1], [1] * 4, [1, 1])),
    "padding larger than the image": ((1, 8, 3, 3), (8, 8, 3, 3), conv([1, 1], [3] * 4, [1, 1])),
    "transposed 2x2 stride 2": ((1, 64, 8, 8), (64, 32, 2, 2), transposed([2, 2], [0] * 4, [0, 0])),
    "transposed 4x4 stride 2": ((1, 30, 8, 9), (30, 20, 4, 4), transposed([2, 2], [1] * 4, [0, 0])),
    "transposed, output padding": ((2, 30, 5, 6), (30, 20, 3, 3), transposed([3, 3], [1, 0, 1, 0], [1, 2])),
    "transposed, window below stride": ((1, 30, 5, 6), (30, 20, 1, 1), transposed([2, 2], [0] * 4, [0, 0])),
    "transposed 1-d stride 8": ((1, 64, 40), (64, 32, 16), transposed([8], [4, 4], [0])),
    # inf1: an eighth of SBUF is 12,288 bytes, 2 x 2,400 a row of both phases: 2 rows of each phase at a time.
    "transposed, rows put together": ((1, 8, 5, 600), (8, 40, 4, 4), transposed([2, 2], [1] * 4, [1, 0])),
    "transposed in groups": ((1, 64, 8, 8), (64, 3, 3, 3), transposed([2, 2], [1] * 4, [1, 1], 32)),
}


# A diagonal of 2-byte numbers is 32,768 bytes: on trn1 120 ns to load (272 bytes a ns), 91 ns to make; on inf1 2,441 ns
# to load (13.4 bytes a ns), 128 ns to make. One tap is always loaded.
def test_diagonals_are_made_as_fast_as_they_are_loaded() -> None:
    assert taps_made(25, 2, load_target("trn1")) == round(25 * 120 / (120 + 91))
    assert taps_made(25, 2, load_target("inf1")) == 24
    assert taps_made(1, 2, load_target("inf1")) == 0


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("case", CASES)
def test_convolution_matches_the_graph_level(case: str, target: str) -> None:
    x, w, make = CASES[case]
    weights = {"w": np.random.default_rng(1).standard_normal(w).astype(ml_dtypes.bfloat16)}
    assert lowered_error(target, [("bf16", x)], weights, make) < BF16_TOLERANCE


# Convolutions around a transposed one: its input has a halo, its phases interleave in the resident result.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize(("kernel", "pads", "output_padding"), [(4, 1, 0), (2, 0, 0), (3, 1, 1), (5, 3, 1)])
def test_transposed_convolutions_stay_on_chip(target: str, kernel: int, pads: int, output_padding: int) -> None:
    rng = np.random.default_rng(kernel)
    shapes = {"w0": (150, 8, 3, 3), "w1": (150, 40, kernel, kernel), "w2": (8, 40, 3, 3)}
    weights = {name: (rng.standard_normal(shape) / 8).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        plain, results = conv([1, 1], [1] * 4, [1, 1]), arguments
        steps = (plain, transposed([2, 2], [pads] * 4, [output_padding] * 2), plain)
        for number, step in enumerate(steps):
            results = step(block, results, {"w": values[f"w{number}"]})
        return results

    def lay_out(block: Block) -> None:
        choose_layouts(block, 50000)
        inner = [op for op in block.ops if isinstance(op, ConvOp | ConvTransposeOp)][:2]
        assert all(layout_of(op.results[0]) for op in inner)

    assert lowered_error(target, [("bf16", (2, 8, 7, 9))], weights, make, lay_out) < 2 * BF16_TOLERANCE


# The rows that one row makes share the columns of the array, as channels beside each other: two of 40, or three of 32
# in pieces that fit on chip. Their bias is there once for each.
@pytest.mark.parametrize(("outputs", "kernel", "shape"), [(40, 2, (2, 70, 5, 7)), (32, 3, (1, 8, 12, 300))])
def test_rows_of_a_transposed_convolution_lie_beside_each_other(
    outputs: int, kernel: int, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(outputs)
    shapes = {"w": (shape[1], outputs, kernel, kernel), "bias": (outputs, 1, 1)}
    weights = {name: rng.standard_normal(size).astype(ml_dtypes.bfloat16) for name, size in shapes.items()}

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        (x,) = transposed([kernel] * 2, [0] * 4, [0, 0])(block, arguments, values)
        added = BinaryOp(BinaryKind.ADD, x, values["bias"])
        rectified = UnaryOp(UnaryKind.RELU, added.result)
        block.add_ops([added, rectified])
        return [rectified.result]

    assert lowered_error("trn1", [("bf16", shape)], weights, make, fuse_block) < BF16_TOLERANCE
    taps = (1, kernel, kernel)
    phases = transposed_phases(taps, taps, (0, 0, 0), (1, 1, 1), (1, 3 * kernel, 3 * kernel))
    assert [phase.origin for phase in rows_beside(phases)] == [(0, 0, column) for column in range(kernel)]


# Rows that overlap are made one after the other.
def test_rows_that_overlap_do_not_lie_beside_each_other() -> None:
    assert rows_beside(transposed_phases((1, 4, 4), (1, 2, 2), (0, 1, 1), (1, 1, 1), (1, 8, 8))) == []


# relu(conv(x) + bias + x) of one tap and up to 128 channels: trn1's tensor engine adds x, where the vector engine would
# be slower; on inf1 it is the tensor engine that limits.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize(
    ("channels", "size", "with_bias"), [(128, (9, 30), True), (70, (600,), True), (70, (9, 9), False)]
)
def test_residuals_are_added_in_psum(target: str, channels: int, size: tuple[int, ...], *, with_bias: bool) -> None:
    rng, n = np.random.default_rng(channels), len(size)
    weights = {
        name: (rng.standard_normal((channels, channels, *[1] * n)) / 8).astype(ml_dtypes.bfloat16)
        for name in ("w0", "w1")
    }
    weights["bias"] = rng.standard_normal((channels, *[1] * n)).astype(ml_dtypes.bfloat16)
    plain = conv([1] * n, [0] * 2 * n, [1] * n)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        (x,) = plain(block, arguments, {"w": values["w0"]})
        (total,) = plain(block, [x], {"w": values["w1"]})
        for other in (values["bias"], x) if with_bias else (x,):
            added = BinaryOp(BinaryKind.ADD, total, other)
            block.add_op(added)
            total = added.result
        relu = UnaryOp(UnaryKind.RELU, total)
        block.add_op(relu)
        return plain(block, [relu.result], {"w": values["w0"]})

    def lay_out(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, 50000)
        assert sum(layout_of(op.results[0]) is not None for op in block.ops if isinstance(op, ConvOp | FusedOp)) == 2

    inputs = [("bf16", (2, channels, *size))]
    assert lowered_error(target, inputs, weights, make, lay_out) < 2 * BF16_TOLERANCE
    module = core_module(target, inputs, weights, make)
    lay_out(core_function(module).body.block)
    ConvertGraphToTilePass().apply(Context(), module)
    assert any(op.name == "tile.tensor_tensor" for op in module.walk()) == (target == "inf1")


def test_computed_filters_are_read_where_they_lie() -> None:
    inputs = [("bf16", (1, 20, 9, 9)), ("bf16", (12, 10, 3, 3))]
    assert lowered_error("trn1", inputs, {}, conv([1, 1], [1] * 4, [1, 1], 2)) < BF16_TOLERANCE


@given(
    output=st.integers(1, 40),
    tile=st.integers(1, 12),
    stride=st.integers(1, 3),
    reach=st.integers(1, 7),
    pad_low=st.integers(0, 6),
    slack=st.integers(-5, 5),
    apart=st.booleans(),
)
def test_segments_cover_the_output_and_know_their_padding(
    output: int, tile: int, stride: int, reach: int, pad_low: int, slack: int, apart: bool
) -> None:
    inputs = max(1, (output - 1) * stride + reach - pad_low + slack)
    position = 0
    cut = segments(output, tile, stride, reach, pad_low, inputs)
    if apart:
        cut = with_last_apart(cut, stride)
        assert cut[-1].count == 1
    for segment in cut:
        for i in range(segment.count):
            assert segment.start + i * segment.size == position
            first = segment.input_start + i * segment.size * stride
            assert first == position * stride - pad_low
            read = range(first, first + segment.extent)
            assert segment.extent == (segment.size - 1) * stride + reach
            real = [p for p in read if 0 <= p < inputs]
            inner = read[segment.low : segment.extent - segment.high]
            assert list(inner) == real or not real
            position += segment.size
    assert position == output


@given(st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 512))
def test_output_tile_is_as_large_as_allowed(sizes: list[int], most: int) -> None:
    tile = output_tile(tuple(sizes), most)
    assert int(np.prod(tile)) <= most
    assert all(1 <= t <= n for t, n in zip(tile, sizes, strict=True))


@given(st.integers(1, 40), st.integers(1, 200), st.integers(1, 200))
def test_group_blocks_fill_the_array_and_start_on_tiles(groups: int, inputs: int, outputs: int) -> None:
    plan = plan_groups(groups * inputs, groups * outputs, groups)

    def products(per_block: int) -> int:
        return ceil(groups / per_block) * ceil(per_block * inputs / 128) * ceil(per_block * outputs / 128)

    assert all(products(plan.per_block) <= products(n) for n in range(1, min(groups, max(1, 128 // inputs)) + 1))
    assert plan.blocks == 1 or plan.block_outputs % plan.lane_step == 0
    assert 1 <= plan.lane_step <= 128


# A filter of one number is made on chip, and one sum serves all tiles of outputs; 136 channels are two tiles.
@pytest.mark.parametrize(("channels", "outputs"), [(136, 136), (12, 260)])
def test_filters_of_one_number(channels: int, outputs: int) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        ones = ConstantOp(0.5, BF16, (outputs, channels, 1, 1))
        total = ConvOp(arguments[0], ones.result, strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1])
        block.add_ops([ones, total])
        return [total.result]

    assert lowered_error("trn1", [("bf16", (2, channels, 5, 7))], {}, make) < BF16_TOLERANCE


# Patches of 16 x 16 pixels in 3 channels: with the rows of the filter on partitions, weights of all 256 outputs stay on
# chip, and each pixel is loaded once.
def test_pixels_of_patches_are_loaded_once() -> None:
    weights = {"w": np.ones((256, 3, 16, 16), ml_dtypes.bfloat16)}
    module = core_module("trn1", [("bf16", (2, 3, 64, 64))], weights, conv([16, 16], [0] * 4, [1, 1]))
    ConvertGraphToTilePass().apply(Context(), module)
    body = core_function(module).body.block
    loads = [op for op in body.walk() if isinstance(op, TileOp) and op.name == "tile.load"]
    pixels = [op for op in loads if op.views["src"][0] is body.args[0]]
    assert sum(executions(op) * op.views["src"][1].elements for op in pixels) == 2 * 3 * 64 * 64


# 56 rows in tiles of 8 with a border: the first and the last read it, which makes no difference where it is memory.
def test_tiles_are_alike_where_padding_is_memory() -> None:
    cut = segments(56, 8, 1, 3, 1, 56)
    assert [segment.count for segment in cut] == [1, 5, 1]
    (alike,) = without_padding(cut)
    assert (alike.count, alike.input_start, alike.low, alike.high) == (7, -1, 0, 0)
    assert [segment.size for segment in without_padding(segments(20, 8, 1, 3, 1, 20))] == [8, 4]
