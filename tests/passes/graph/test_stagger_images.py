"""Halves of the images one ahead of the other: which layers are split, and numbers of the kernels down to tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile import conv_bands
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConcatOp,
    ConvOp,
    SliceOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    shape_of,
)
from neuron_dialects.ssa_order import check_ssa_order
from neuron_dialects.target import load_target
from neuron_dialects.weights import WeightStore
from passes.graph import stagger_images
from passes.graph.band_filters import Route
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from passes.graph.stagger_images import is_banded, stagger_block
from runtime.graph_interpreter import WeightResolver, run_graph
from tests.core_kernels import core_function, core_module, lowered_error, random_inputs
from tests.lowering.graph_to_tile.test_conv_bands import mark

TRN1 = load_target("trn1")
CAPACITY = 100_000
TOLERANCE = 8e-3


def weights_of(channels: int, layers: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    rng = np.random.default_rng(channels)
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(layers):
        shapes |= {f"d{n}": (channels, 1, 3, 3), f"c{n}": (channels, 1, 1), f"e{n}": (channels, 1, 1)}
        shapes |= {f"u{n}": (2 * channels, channels, 1, 1), f"v{n}": (channels, 2 * channels, 1, 1)}
    scale = channels**-0.5
    return {name: (rng.standard_normal(shape) * scale).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}


def blocks(count: int, block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> list[SSAValue]:
    """Depthwise convolution, product, activation, product and residual, `count` times."""
    x = arguments[0]
    for n in range(count):
        channels = shape_of(x)[1]
        deep = ConvOp(x, values[f"d{n}"], strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), groups=channels)
        shifted = BinaryOp(BinaryKind.ADD, deep.result, values[f"c{n}"])
        up = ConvOp(shifted.result, values[f"u{n}"], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
        relu = UnaryOp(UnaryKind.RELU, up.result)
        down = ConvOp(relu.result, values[f"v{n}"], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
        total = BinaryOp(BinaryKind.ADD, down.result, x)
        biased = BinaryOp(BinaryKind.ADD, total.result, values[f"e{n}"])
        block.add_ops([deep, shifted, up, relu, down, total, biased])
        x = biased.result
    return [x]


# Two layers by bands on every route, and with no room for the bands of a layer: tiles, weights and bands are shared by
# the halves, transfers begin ahead of their convolution.
@pytest.mark.parametrize("route", Route)
@pytest.mark.parametrize("room", [True, False])
def test_halves_compute_what_the_whole_did(route: Route, room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_bands, "quickest_route", lambda *_: route)
    monkeypatch.setattr(stagger_images, "_is_worth_it", lambda *_: True)
    if not room:
        monkeypatch.setattr(conv_bands, "TILE_SHARE", 0.0)

    def lay_out(block: Block) -> None:
        fuse_block(block)
        mark(block)
        stagger_block(block, TRN1, CAPACITY)
        assert sum(map(is_banded, block.ops)) == 4
        choose_layouts(block, CAPACITY)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        return blocks(2, block, arguments, values)

    inputs = [("bf16", (4, 20, 14, 6))]
    assert lowered_error("trn1", inputs, weights_of(20, 2), make, lay_out) < TOLERANCE


# 384 channels of 14 by 14: the halves alternate. On 56 by 56 the bands of a layer have no room beside its tensors.
@pytest.mark.parametrize(
    ("shape", "halves"), [((8, 384, 14, 14), True), ((8, 96, 56, 56), False), ((7, 384, 14, 14), False)]
)
def test_layers_are_split_where_transfers_hide(shape: tuple[int, ...], halves: bool) -> None:
    channels = shape[1]
    weights = {"w": (channels, 1, 7, 7), "u": (8 * channels, channels, 1, 1), "v": (channels, 8 * channels, 1, 1)}
    given = {name: np.zeros(size, ml_dtypes.bfloat16) for name, size in weights.items()}

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        x = arguments[0]
        for _ in range(2):
            deep = ConvOp(x, values["w"], strides=(1, 1), pads=(3,) * 4, dilations=(1, 1), groups=channels)
            up = ConvOp(deep.result, values["u"], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
            down = ConvOp(up.result, values["v"], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
            block.add_ops([deep, up, down])
            x = down.result
        return [x]

    block = core_function(core_module("trn1", [("bf16", shape)], given, make)).body.block
    mark(block)
    stagger_block(block, TRN1, int(TRN1.sbuf_bytes_per_partition))
    assert sum(isinstance(op, SliceOp) for op in block.ops) == (2 if halves else 0)
    order = [shape_of(op.results[0])[0] for op in block.ops if is_banded(op)]
    assert order == ([4] * 4 if halves else [shape[0]] * 2)


# A number behind a layer of images, neither of which has anything to do with the other: both stay as they are.
def test_a_number_is_no_layer_of_images() -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        ops = [UnaryOp(UnaryKind.RELU, argument) for argument in arguments]
        block.add_ops(ops)
        return [op.result for op in ops]

    module = core_module("trn1", [("f32", (2, 3, 4, 4)), ("f32", ())], {}, make)
    block = core_function(module).body.block
    before = str(module)
    stagger_block(block, TRN1, 100000)
    assert str(module) == before


# Rows taken apart and put together between two layers by bands, as parts of a run of bands are: each stands behind what
# it reads.
def test_bands_of_rows_between_layers_stay_in_order() -> None:
    given = {"w": np.zeros((384, 1, 7, 7), ml_dtypes.bfloat16)}

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def deep(x: SSAValue) -> SSAValue:
            conv = ConvOp(x, values["w"], strides=(1, 1), pads=(3,) * 4, dilations=(1, 1), groups=384)
            block.add_op(conv)
            return conv.result

        first = deep(arguments[0])
        halves = [SliceOp(first, (0, 0, row, 0), (8, 384, 7, 14), (1,) * 4) for row in (0, 7)]
        whole = ConcatOp([half.result for half in halves], 2)
        block.add_ops([*halves, whole])
        return [deep(whole.result), first]

    module = core_module("trn1", [("bf16", (8, 384, 14, 14))], given, make)
    block = core_function(module).body.block
    mark(block)
    stagger_block(block, TRN1, int(TRN1.sbuf_bytes_per_partition))
    module.verify()
    assert not check_ssa_order(module)


# Layers that are split read what layers of another part of the function, split as well, have made.
def test_split_layers_read_split_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stagger_images, "_is_worth_it", lambda *_: True)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        first = UnaryOp(UnaryKind.RELU, arguments[0])
        turned = TransposeOp(first.result, (1, 0, 2, 3))
        back = TransposeOp(turned.result, (1, 0, 2, 3))
        total = BinaryOp(BinaryKind.ADD, back.result, first.result)
        block.add_ops([first, turned, back, total])
        return [total.result]

    inputs = [("f32", (4, 8, 6, 6))]
    module = core_module("trn1", inputs, {}, make)
    arrays, weights = random_inputs(inputs), WeightResolver(module, WeightStore())
    (expected,) = run_graph(core_function(module), arrays, weights)
    stagger_block(core_function(module).body.block, TRN1, CAPACITY)
    module.verify()
    assert not check_ssa_order(module)
    (halves,) = run_graph(core_function(module), arrays, weights)
    np.testing.assert_array_equal(halves, expected)
