"""Convolutions and pools of feature maps in pairs of rows against the graph level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, SSAValue

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConcatOp,
    ConvOp,
    FusedOp,
    PoolKind,
    PoolOp,
    RelayoutOp,
    SliceOp,
    UnaryKind,
    UnaryOp,
    layout_of,
)
from neuron_dialects.target import load_target
from passes.graph import pair_rows
from passes.graph.fold_weights import Recipes
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from passes.graph.pair_rows import pair_block
from passes.graph.row_pairs import paired_layout
from tests.core_kernels import Array, lowered_error

TRN1 = load_target("trn1")
TOLERANCE = 8e-3

Layer = tuple[int, int, tuple[int, int, int, int], int] | tuple[int, int, tuple[int, int, int, int]]
"""Outputs, rows and columns of the filter, padding, stride if that is not 1."""

SAME = (1, 1, 1, 1)
NONE = (0, 0, 0, 0)

THIN = (32, 64)
"""Channels of inputs of which two parts are convolved: these are brought on chip in pairs, in turn."""

CASES: dict[str, tuple[tuple[int, ...], tuple[Layer, ...], bool, int]] = {
    # input, layers, whether a pool follows, values that lie in pairs
    "an image to a pool": ((2, 3, 12, 10), ((64, 3, SAME), (64, 3, SAME)), True, 2),
    "the upper band of an image": ((1, 3, 11, 10), ((64, 3, (1, 1, 0, 1)), (64, 3, (1, 1, 0, 1))), True, 2),
    "the lower band of an image": ((1, 3, 11, 10), ((64, 3, (0, 1, 1, 1)), (64, 3, (0, 1, 1, 1))), True, 2),
    "an inner band, an odd number of rows": ((1, 3, 13, 6), ((64, 3, (0, 1, 0, 1)), (64, 3, (0, 1, 0, 1))), True, 2),
    "three layers in pairs": (
        (1, 128, 10, 7),
        ((64, 3, SAME), (64, 3, SAME), (64, 3, SAME), (8, 1, NONE)),
        False,
        3,
    ),
    "a wider result": ((1, 16, 10, 9), ((32, 3, SAME), (160, 3, SAME)), False, 1),
    "a part of an image": ((2, 64, 15, 9), ((128, 3, (0, 1, 1, 1)),), False, 0),
    "parts of images through two layers": ((2, 32, 14, 9), ((64, 3, SAME), (128, 3, SAME)), False, 2),
    "every second row, images beside each other": (
        (4, 3, 24, 20),
        ((32, 6, (2, 2, 2, 2), 2), (64, 3, SAME, 2)),
        False,
        1,
    ),
    "every second row of an inner band, four images beside each other": (
        (4, 3, 22, 14),
        ((16, 6, (0, 2, 1, 2), 2), (64, 3, (0, 1, 0, 1), 2)),
        False,
        1,
    ),
    "every second row between pairs": ((1, 3, 16, 10), ((64, 3, SAME), (64, 3, SAME, 2), (64, 3, SAME)), False, 2),
    "every second row, an odd number": ((2, 64, 15, 9), ((128, 3, (0, 1, 1, 1), 2),), False, 0),
    "every second row, stored": ((2, 3, 12, 9), ((64, 3, SAME), (32, 3, SAME, 2)), False, 1),
    "every second row, one tap": ((2, 3, 12, 8), ((64, 3, SAME), (160, 1, NONE, 2)), False, 1),
    "more columns of padding than of the map": ((1, 3, 12, 2), ((64, 3, SAME), (8, 5, (2, 0, 2, 3))), False, 1),
    "five rows, none beside": ((2, 4, 12, 9), ((64, 5, (2, 2, 2, 2)), (32, 5, (2, 0, 2, 0))), False, 1),
}


# `early`: a part is brought on chip before the one in front of it has been read, whose memory it takes otherwise.
@pytest.mark.parametrize(("case", "early"), [*((case, False) for case in CASES), ("a part of an image", True)])
def test_pairs_match_the_graph_level(case: str, early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shape, layers, pooled, count = CASES[case]
    rng = np.random.default_rng(len(case))
    weights: dict[str, Array] = {}
    channels = shape[1]
    for number, (outputs, taps, *_) in enumerate(layers):
        scale = 1 / np.sqrt(channels * taps)
        weights[f"w{number}"] = rng.standard_normal((outputs, channels, taps, taps)) * scale
        weights[f"b{number}"] = rng.standard_normal((outputs, 1, 1)) + 0.5
        channels = outputs
    rounded = {name: array.astype(ml_dtypes.bfloat16) for name, array in weights.items()}
    monkeypatch.setattr(pair_rows, "WORTH", float("inf"))

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        images, _, rows, columns = shape
        inputs = [arguments[0]]
        if shape[1] in THIN:
            sizes = (images, shape[1], rows - 2, columns)
            parts = [SliceOp(arguments[0], (0, 0, first, 0), sizes, (1, 1, 1, 1)) for first in (0, 2)]
            block.add_ops(parts)
            inputs = [part.result for part in parts]
        made: list[SSAValue] = []
        for x in inputs:
            for number, (_, _, pads, *stride) in enumerate(layers):
                strides = (stride or [1]) * 2
                conv = ConvOp(x, values[f"w{number}"], strides=strides, pads=pads, dilations=(1, 1))
                total = BinaryOp(BinaryKind.ADD, conv.result, values[f"b{number}"])
                relu = UnaryOp(UnaryKind.RELU, total.result)
                block.add_ops([conv, total, relu])
                x = relu.result
            made.append(x)
        # The result goes elsewhere too, as to the other side of a network.
        whole = ConcatOp([made[0], made[-1]], 2)
        block.add_op(whole)
        if not pooled:
            return [whole.result]
        pool = PoolOp(PoolKind.MAX, made[0], kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1))
        block.add_op(pool)
        return [whole.result, pool.result]

    def lay_out(block: Block) -> None:
        fuse_block(block)
        function = block.parent_op()
        assert function is not None
        module = function.parent_op()
        assert isinstance(module, ModuleOp)
        pair_block(block, TRN1, Recipes(module))
        choose_layouts(block, 100000)
        layouts = [layout_of(op.results[0]) for op in block.ops if isinstance(op, FusedOp)]
        assert sum(layout is not None and layout.is_paired for layout in layouts) == count
        brought = [op for op in block.ops if isinstance(op, RelayoutOp) and paired_layout(op.result) is not None]
        assert len(brought) == 2 * (shape[1] in THIN)
        if early:
            brought[1].detach()
            block.insert_op_after(brought[1], brought[0])

    assert lowered_error("trn1", [("bf16", shape)], rounded, make, lay_out) < TOLERANCE
