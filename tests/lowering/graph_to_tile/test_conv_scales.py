"""Maps weighed by image and channel, which the convolution behind them makes up for, against the graph level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, Operation, SSAValue

from lowering.graph_to_tile.conv_ahead import followed_blocks
from lowering.graph_to_tile.conv_scales import Scaled, scaled_maps
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConvOp,
    ReduceKind,
    ReduceOp,
    UnaryKind,
    UnaryOp,
    layout_of,
    shape_of,
)
from neuron_dialects.target import load_target
from passes.graph import chain_pixels
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts, resident_profile
from tests.core_kernels import Array, Make, core_function, core_module, lowered_error

TRN1 = load_target("trn1")
TOLERANCE = 1e-2
BUDGET = 100_000

CASES: dict[str, tuple[tuple[int, ...], int, int, int]] = {
    # input, channels of the map, outputs, groups of the convolution behind it
    "one tile": ((2, 8, 9, 9), 96, 24, 1),
    "a last tile of fewer channels": ((3, 8, 7, 10), 300, 40, 1),
    "images that are taken as one": ((2, 8, 12, 6), 288, 48, 2),
    "many rows": ((2, 8, 40, 20), 160, 136, 1),
    "in front of a depthwise one": ((2, 8, 14, 14), 96, 160, 1),
}


def scaled(block: Block) -> dict[Operation, Scaled]:
    ops = list(block.ops)
    return scaled_maps(ops, resident_profile(ops), TRN1)


def weighed(
    case: str, *, twice: bool = False, deep: bool = False, padded: bool = False
) -> tuple[Make, dict[str, Array], list[tuple[str, tuple[int, ...]]]]:
    """A map, what is made of its means, their product, and a convolution of that with a bias.

    `twice`: the product is read again; `deep`: a depthwise convolution comes next; `padded`: convolutions of 3 x 3 read
    the means and what is made of them.
    """
    shape, channels, outputs, groups = CASES[case]
    rng = np.random.default_rng(len(case))
    sizes = {
        "w0": (channels, shape[1], 1, 1),
        "w1": (8, channels, 1, 1),
        "w2": (channels, 8, 1, 1),
        "w3": (outputs, channels // groups, 1, 1),
        "b3": (outputs, 1, 1),
        "w5": (outputs, 1, 3, 3),
        "w4": (4, outputs, 1, 1),
        "w6": (4, channels, 3, 3),
    }
    weights = {name: (rng.standard_normal(size) / 2).astype(ml_dtypes.bfloat16) for name, size in sizes.items()}

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def conv(x: SSAValue, w: str, groups: int = 1) -> SSAValue:
            op = ConvOp(x, values[w], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=groups)
            block.add_op(op)
            return op.result

        relu = UnaryOp(UnaryKind.RELU, conv(arguments[0], "w0"))
        mean = ReduceOp(ReduceKind.MEAN, relu.result, axes=(2, 3), keep_dims=True)
        block.add_ops([relu, mean])
        gate = UnaryOp(UnaryKind.SIGMOID, conv(conv(mean.result, "w1"), "w2"))
        product = BinaryOp(BinaryKind.MUL, relu.result, gate.result)
        block.add_ops([gate, product])
        total = BinaryOp(BinaryKind.ADD, conv(product.result, "w3", groups), values["b3"])
        block.add_op(total)
        last = total.result
        if deep:
            own = ConvOp(last, values["w5"], strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), groups=outputs)
            block.add_op(own)
            last = own.result
        results = [conv(last, "w4")]
        for read in (mean.result, gate.result) if padded else ():
            around = ConvOp(read, values["w6"], strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), groups=1)
            block.add_op(around)
            results.append(around.result)
        return [*results, product.result] if twice else results

    return make, weights, [("bf16", shape)]


# The convolution behind the product runs piece by piece with the next one: its weights are those of all images.
@pytest.mark.parametrize("case", ["one tile", "a last tile of fewer channels", "many rows"])
def test_chains_multiply_the_map(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_pixels, "WHOLE_SHARE", 0.0)
    monkeypatch.setattr(chain_pixels, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(chain_pixels, "LEAST_COLUMNS", 1)
    make, weights, inputs = weighed(case)

    def lay_out(block: Block) -> None:
        fuse_block(block)
        chain_pixels.chain_block(block, TRN1)
        choose_layouts(block, BUDGET)
        assert [len(chain) for chain in chain_pixels.chains(list(block.ops))] == [2]
        assert not scaled(block)

    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_weighed_maps_match_the_graph_level(case: str) -> None:
    make, weights, inputs = weighed(case)

    def lay_out(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, BUDGET)
        assert len(scaled(block)) == 1

    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE


# Numbers of each image and channel that have a halo, as convolutions with padding read them.
def test_weighed_maps_by_numbers_within_a_halo() -> None:
    make, weights, inputs = weighed("a last tile of fewer channels", padded=True)

    def lay_out(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, BUDGET)
        assert len(scaled(block)) == 1
        halos = [layout.halo_pairs for value in numbers(block) if (layout := layout_of(value)) is not None]
        assert halos == [((0, 0), (1, 1), (1, 1))] * 2

    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE


def numbers(block: Block) -> list[SSAValue]:
    """What the convolutions of 3 x 3 read."""
    windows = [op for op in block.ops if isinstance(op, ConvOp) and shape_of(op.w)[2] == 3]
    return [op.x for op in windows]


# The convolution behind the product could be put off for a depthwise one, but for its weights of each image.
def test_weighed_maps_in_front_of_a_depthwise_convolution() -> None:
    make, weights, inputs = weighed("in front of a depthwise one", deep=True)

    def lay_out(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, BUDGET)
        ops = list(block.ops)
        assert len(scaled(block)) == len(followed_blocks(ops, resident_profile(ops), TRN1)) == 1

    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE


# A product that leaves the function, a convolution to more outputs than an image has pixels, or weights of 400 images,
# 400 * 136 * 2 = 108,800 bytes beside maps of 400 * 144 * 2 = 115,200: nothing is handed on.
@pytest.mark.parametrize(
    ("shape", "outputs", "twice"),
    [((2, 8, 9, 9), 24, True), ((2, 8, 4, 4), 24, False), ((400, 8, 12, 12), 136, False)],
)
def test_what_is_not_handed_on(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], outputs: int, twice: bool
) -> None:
    monkeypatch.setitem(CASES, "not handed on", (shape, 96, outputs, 1))
    make, weights, inputs = weighed("not handed on", twice=twice)
    block = core_function(core_module("trn1", inputs, weights, make)).body.block
    fuse_block(block)
    choose_layouts(block, 2 * BUDGET if shape[0] > 2 else BUDGET)
    assert not scaled(block)
