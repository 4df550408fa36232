"""Tensors that several kernels read in one form: brought on chip once, stored from there, and right to the last bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.ir import Block, Operation, SSAValue

from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from neuron_dialects.dtypes import BF16, F32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ConcatOp,
    ConvOp,
    LayerNormOp,
    MatMulOp,
    RelayoutOp,
    SliceOp,
    UnaryKind,
    UnaryOp,
    layout_of,
)
from neuron_dialects.tile import TileOp
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from passes.graph.shared_forms import gives_out
from tests.core_kernels import Array, core_function, core_module, lowered_error

FEATURES = 256


def block_of_a_transformer(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
    """Three products of the argument and a residual; what is normalised then is a result, and read by a product."""

    def add(op: Operation) -> SSAValue:
        b.add_op(op)
        return op.results[0]

    def product(x: SSAValue, name: str) -> SSAValue:
        return add(CastOp(add(MatMulOp(x, weights[name], accumulate_f32=True)), BF16))

    x = arguments[0]
    gate, up, down = (product(x, name) for name in ("w0", "w1", "w2"))
    mixed = add(BinaryOp(BinaryKind.ADD, add(BinaryOp(BinaryKind.MUL, gate, up)), down))
    total = add(BinaryOp(BinaryKind.ADD, product(mixed, "w3"), x))
    normal = add(LayerNormOp(total, axis=1, epsilon=1e-5))
    return [normal, add(UnaryOp(UnaryKind.RELU, product(normal, "w4")))]


def weights_of(rng: np.random.Generator) -> dict[str, Array]:
    shape = (FEATURES, FEATURES)
    return {f"w{i}": (rng.standard_normal(shape) / 16).astype(ml_dtypes.bfloat16) for i in range(5)}


def lay_out(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, 40000)


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("rows", [40, 200])
def test_shared_forms_compute_the_same(target: str, rows: int) -> None:
    weights = weights_of(np.random.default_rng(0))
    assert lowered_error(target, [("bf16", (rows, FEATURES))], weights, block_of_a_transformer, lay_out) < 1e-2


# One transfer brings the argument, for three products and the residual; one stores each result, and none reads it back.
def test_an_argument_is_loaded_once_and_a_result_is_not_loaded_again() -> None:
    weights = weights_of(np.random.default_rng(0))
    module = core_module("inf1", [("bf16", (128, FEATURES))], weights, block_of_a_transformer)
    block = core_function(module).body.block
    lay_out(block)
    assert sum(gives_out(op) for op in block.ops) == 1
    ConvertGraphToTilePass().apply(Context(), module)
    body = core_function(module).body.block
    transfers = [op for op in body.walk() if isinstance(op, TileOp) and op.name in ("tile.load", "tile.store")]
    counts = [sum(argument in op.buffers for op in transfers) for argument in body.args]
    assert counts == [1, 1, 1]


# Without room on chip the result is computed where it is returned, and no copy of it is made.
def test_a_result_that_does_not_stay_on_chip_is_returned_itself() -> None:
    weights = weights_of(np.random.default_rng(0))
    module = core_module("inf1", [("bf16", (128, FEATURES))], weights, block_of_a_transformer)
    block = core_function(module).body.block
    choose_layouts(block, 0)
    assert not any(gives_out(op) for op in block.ops)


# A convolution's result with channels on partitions is stored in runs of an image; a matrix turned for its reader would
# be stored element by element.
def test_results_stay_on_chip_only_as_they_can_be_stored() -> None:
    def images(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
        first = ConvOp(arguments[0], weights["c"], None, strides=[1, 1], pads=[0] * 4, dilations=[1, 1])
        second = ConvOp(first.result, weights["c"], None, strides=[1, 1], pads=[1] * 4, dilations=[1, 1])
        b.add_ops([first, second])
        return [first.result, second.result]

    def layers(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
        first = MatMulOp(arguments[0], weights["w"])
        second = MatMulOp(first.result, weights["w"])
        b.add_ops([first, second])
        return [first.result, second.result]

    shapes = {"c": (32, 32, 3, 3), "w": (256, 256)}
    weights = {name: np.full(shape, 1 / 64, ml_dtypes.bfloat16) for name, shape in shapes.items()}
    for make, shape, partition in ((images, (1, 32, 12, 12), 1), (layers, (128, 256), 0)):
        module = core_module("inf1", [("bf16", shape)], weights, make)
        block = core_function(module).body.block
        choose_layouts(block, 40000)
        layout = layout_of(next(op for op in block.ops if isinstance(op, ConvOp | MatMulOp)).results[0])
        assert layout is not None
        assert layout.partition_dimension == partition
        assert any(isinstance(op, RelayoutOp) for op in block.ops)
        error = lowered_error("inf1", [("bf16", shape)], weights, make, lambda block: choose_layouts(block, 40000))
        assert error < 1e-2


# The first row of what stays on chip is stored alone; the other reader finds all of it there.
@pytest.mark.parametrize("row", [0, 130])
def test_a_small_part_is_stored_apart(row: int) -> None:
    def pooled(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
        norm = LayerNormOp(arguments[0], axis=1, epsilon=1e-5)
        part = SliceOp(norm.result, (row, 0), (1, FEATURES), (1, 1))
        wide, product = CastOp(norm.result, F32), MatMulOp(part.result, weights["w0"])
        b.add_ops([norm, part, wide, product])
        return [wide.result, product.result]

    weights = weights_of(np.random.default_rng(0))
    inputs = [("bf16", (200, FEATURES))]
    assert lowered_error("inf1", inputs, weights, pooled, lay_out) < 1e-2
    module = core_module("inf1", inputs, weights, pooled)
    block = core_function(module).body.block
    lay_out(block)
    assert layout_of(next(op for op in block.ops if isinstance(op, LayerNormOp)).result) is not None


# Columns that another stage made and columns made here lie side by side on chip, without a way through DRAM.
@pytest.mark.parametrize("rows", [40, 200])
def test_columns_are_put_together_on_chip(rows: int) -> None:
    def joined(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
        own = MatMulOp(arguments[0], weights["w0"])
        whole = ConcatOp([arguments[1], own.result], 1)
        norm = LayerNormOp(whole.result, axis=1, epsilon=1e-5)
        b.add_ops([own, whole, norm])
        return [norm.result]

    def resident(block: Block) -> None:
        lay_out(block)
        assert all(layout_of(op.results[0]) for op in block.ops if isinstance(op, MatMulOp | ConcatOp))

    inputs = [("bf16", (rows, FEATURES)), ("bf16", (rows, 128))]
    assert lowered_error("inf1", inputs, weights_of(np.random.default_rng(0)), joined, resident) < 1e-2
