"""Chains of pointwise convolutions that run piece by piece: which kernels, and numbers of them down to tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, Operation, SSAValue

from lowering.graph_to_tile.conv_chain import shares
from neuron_dialects.graph import BinaryKind, BinaryOp, ConvOp, UnaryKind, UnaryOp, shape_of
from neuron_dialects.target import load_target
from passes.graph import chain_pixels
from passes.graph.chain_pixels import chain_block, chains
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from passes.graph.pieces import CHAINED
from tests.core_kernels import core_function, core_module, lowered_error

CAPACITY = 100_000
TOLERANCE = 8e-3

Weights = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
Make = Callable[[Block, Sequence[SSAValue], Mapping[str, SSAValue]], Sequence[SSAValue]]


@pytest.fixture(autouse=True)
def small_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains of maps that are small enough for a test."""
    monkeypatch.setattr(chain_pixels, "WHOLE_SHARE", 0.0)
    monkeypatch.setattr(chain_pixels, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(chain_pixels, "LEAST_COLUMNS", 1)


def weights_of(channels: int, hidden: int, dtype: type = ml_dtypes.bfloat16) -> Weights:
    rng = np.random.default_rng(channels)
    shapes = {"m": (channels, channels, 1, 1), "u": (hidden, channels, 1, 1), "v": (channels, hidden, 1, 1)}
    shapes |= {"a": (hidden, 1, 1), "e": (channels, 1, 1)}
    found: Weights = {n: (rng.standard_normal(s) * channels**-0.5).astype(dtype) for n, s in shapes.items()}
    return found | {"m": np.full(shapes["m"], 1 / channels).astype(dtype)}


def pointwise(x: SSAValue, w: SSAValue) -> ConvOp:
    return ConvOp(x, w, strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))


def normalized_block(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> list[SSAValue]:
    """Two sums over channels as a layer normalisation has them, a product with GELU, another one with a residual."""
    first = UnaryOp(UnaryKind.RELU, arguments[0])
    x = first.result
    mean = pointwise(x, values["m"])
    centred = BinaryOp(BinaryKind.SUB, x, mean.result)
    square = UnaryOp(UnaryKind.SQUARE, centred.result)
    variance = pointwise(square.result, values["m"])
    raised = UnaryOp(UnaryKind.EXP, variance.result)
    scaled = BinaryOp(BinaryKind.MUL, centred.result, raised.result)
    up = pointwise(scaled.result, values["u"])
    biased = BinaryOp(BinaryKind.ADD, up.result, values["a"])
    gelu = UnaryOp(UnaryKind.GELU, biased.result)
    down = pointwise(gelu.result, values["v"])
    total = BinaryOp(BinaryKind.ADD, down.result, x)
    last = BinaryOp(BinaryKind.ADD, total.result, values["e"])
    block.add_ops([first, mean, centred, square, variance, raised, scaled, up, biased, gelu, down, total, last])
    return [last.result]


def laid_out(lengths: list[list[int]], capacity: int = CAPACITY, target: str = "trn1") -> Callable[[Block], None]:
    """Fuse, mark and lay out; `lengths` get the kernels of each chain before and after layouts are chosen."""

    def lay_out(block: Block) -> None:
        fuse_block(block)
        chain_block(block, load_target(target))
        lengths.append([len(chain) for chain in chains(list(block.ops))])
        choose_layouts(block, capacity)
        lengths.append([len(chain) for chain in chains(list(block.ops))])

    return lay_out


# Whole images and parts of them as pieces, tiles that leave a rest, channels that fill more than a tile of lanes, one
# image alone, a target with half as many columns; float32, whose products take several passes.
@pytest.mark.parametrize(
    ("shape", "hidden", "target", "dtype"),
    [
        ((4, 20, 14, 6), 40, "trn1", "bf16"),
        ((8, 24, 7, 9), 300, "trn1", "bf16"),
        ((2, 130, 26, 30), 150, "trn1", "bf16"),
        ((1, 12, 52, 40), 48, "inf1", "bf16"),
        ((4, 20, 5, 6), 40, "trn1", "f32"),
    ],
)
def test_pieces_compute_what_the_whole_did(
    shape: tuple[int, ...], hidden: int, target: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_pixels, "RING_SHARE", 0.08)
    lengths: list[list[int]] = []
    weights = weights_of(shape[1], hidden, np.float32 if dtype == "f32" else ml_dtypes.bfloat16)
    lay_out = laid_out(lengths, target=target)
    assert lowered_error(target, [(dtype, shape)], weights, normalized_block, lay_out) < TOLERANCE
    assert lengths == [[4], [4]]


# A convolution in groups has the last kernel made a block of channels ahead of it: the chain ends in front of that one.
@pytest.mark.parametrize(("groups", "found"), [(1, [[3]]), (40, [[2]])])
def test_what_groups_read_ends_no_chain(groups: int, found: list[list[int]]) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> list[SSAValue]:
        x, ops = arguments[0], list[Operation]()
        for name in ("u", "v", "u"):
            sums = pointwise(x, values[name])
            gelu = UnaryOp(UnaryKind.GELU, sums.result)
            x = gelu.result
            ops += [sums, gelu]
        last = ConvOp(x, values["d"], strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), groups=groups)
        block.add_ops([*ops, last])
        return [last.result]

    weights = weights_of(20, 40) | {"d": np.zeros((40, 40 // groups, 3, 3), ml_dtypes.bfloat16)}
    module = core_module("trn1", [("bf16", (4, 20, 14, 6))], weights, make)
    lengths: list[list[int]] = []
    laid_out(lengths)(core_function(module).body.block)
    assert lengths[:1] == found


# Maps that fill half of the lanes at most are in no chain: those of two images lie beside each other.
@pytest.mark.parametrize(("least", "found"), [(20, [[4]]), (21, [[]])])
def test_thin_maps_are_in_no_chain(least: int, found: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_pixels, "LEAST_CHANNELS", least)
    module = core_module("trn1", [("bf16", (4, 20, 14, 6))], weights_of(20, 40), normalized_block)
    lengths: list[list[int]] = []
    laid_out(lengths)(core_function(module).body.block)
    assert lengths[:1] == found


# Where what a chain reads has no room on chip, its kernels run one after the other, and nothing of them is there.
def test_a_chain_without_room_is_none() -> None:
    lengths: list[list[int]] = []
    inputs = [("bf16", (4, 20, 14, 6))]
    assert lowered_error("trn1", inputs, weights_of(20, 40), normalized_block, laid_out(lengths, 300)) < TOLERANCE
    assert lengths == [[4], []]


def read_twice(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> list[SSAValue]:
    first = UnaryOp(UnaryKind.RELU, arguments[0])
    up = pointwise(first.result, values["u"])
    down = pointwise(up.result, values["v"])
    other = UnaryOp(UnaryKind.TANH, up.result)
    block.add_ops([first, up, down, other])
    return [down.result, other.result]


def given_out(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> list[SSAValue]:
    up = pointwise(arguments[0], values["u"])
    down = pointwise(up.result, values["v"])
    block.add_ops([up, down])
    return [down.result, up.result]


def strided(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> list[SSAValue]:
    up = pointwise(arguments[0], values["u"])
    down = ConvOp(up.result, values["v"], strides=(2, 2), pads=(0,) * 4, dilations=(1, 1))
    block.add_ops([up, down])
    return [down.result]


def added(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> list[SSAValue]:
    """A shortcut: the second convolution adds what the first one makes, and multiplies something else."""
    first = UnaryOp(UnaryKind.RELU, arguments[0])
    short = pointwise(first.result, values["m"])
    other = pointwise(first.result, values["m"])
    total = BinaryOp(BinaryKind.ADD, other.result, short.result)
    block.add_ops([first, short, other, total])
    return [total.result]


# What others read as well, what leaves the function, and other pixels than those that were made: no chain.
@pytest.mark.parametrize("make", [read_twice, given_out, strided, added])
def test_no_chain(make: Make) -> None:
    lengths: list[list[int]] = []
    inputs = [("bf16", (4, 20, 14, 6))]
    assert lowered_error("trn1", inputs, weights_of(20, 40), make, laid_out(lengths)) < TOLERANCE
    assert lengths == [[], []]


# A chain of five is cut behind four; a map of one pixel, or of no piece but one, is none.
@pytest.mark.parametrize(("shape", "found"), [((4, 20, 14, 6), [4]), ((1, 20, 1, 6), []), ((4, 20, 1, 1), [4])])
def test_length_and_pieces(shape: tuple[int, ...], found: list[int]) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        x = arguments[0]
        for _ in range(5):
            conv = pointwise(x, values["m"])
            block.add_op(conv)
            x = conv.result
        return [x]

    block = core_function(core_module("trn1", [("bf16", shape)], weights_of(20, 40), make)).body.block
    chain_block(block, load_target("trn1"))
    assert [len(chain) for chain in chains(list(block.ops))] == found


# A pass in between has taken a chain apart: what is left of its marks goes.
def test_marks_without_a_chain_are_taken_away() -> None:
    block = core_function(
        core_module("trn1", [("bf16", (4, 20, 14, 6))], weights_of(20, 40), normalized_block)
    ).body.block
    fuse_block(block)
    chain_block(block, load_target("trn1"))
    (chain,) = chains(list(block.ops))
    relu = UnaryOp(UnaryKind.RELU, chain[1].results[0])
    block.insert_op_after(relu, chain[1])
    chain[2].operands[0] = relu.result
    assert [len(found) for found in chains(list(block.ops))] == [2]
    assert [CHAINED in op.attributes for op in chain] == [False, False, True, False]
    assert shape_of(relu.result) == (4, 20, 14, 6)


# Kernels have as many banks each, what is left goes where most sums are made.
@pytest.mark.parametrize(
    ("sums", "found"), [([1], [8]), ([1, 3], [4, 4]), ([1, 12, 3], [2, 3, 3]), ([1] * 4, [2] * 4), ([], [])]
)
def test_shares_of_banks(sums: list[int], found: list[int]) -> None:
    assert shares(sums, 8) == found
