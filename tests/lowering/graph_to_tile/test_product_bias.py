"""Biases that the tensor engine adds keep their fp32 accuracy, in products whose weights stay and that stream past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from neuron_dialects.access_ops import buffer_shape
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import BinaryKind, BinaryOp, CastOp, MatMulOp, UnaryKind, UnaryOp
from neuron_dialects.tile import AllocOp, ParamOp
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from tests.core_kernels import Make, core_function, core_module, lowered_error


def layers(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """relu(x . w) in bf16, then . v + b, whose rows leave the core."""
    hidden = MatMulOp(arguments[0], weights["w"], accumulate_f32=True)
    relu = UnaryOp(UnaryKind.RELU, hidden.result)
    narrow = CastOp(relu.result, BF16)
    product = MatMulOp(narrow.result, weights["v"], accumulate_f32=True)
    biased = BinaryOp(BinaryKind.ADD, weights["b"], product.result)
    block.add_ops([hidden, relu, narrow, product, biased])
    return [biased.result]


def narrow_layers(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """The same, with all that lies between in bf16."""
    hidden = MatMulOp(arguments[0], weights["w"])
    relu = UnaryOp(UnaryKind.RELU, hidden.result)
    product = MatMulOp(relu.result, weights["v"])
    biased = BinaryOp(BinaryKind.ADD, weights["b"], product.result)
    block.add_ops([hidden, relu, product, biased])
    return [biased.result]


NARROW = {"w": (64, 96), "v": (96, 200), "b": (200,)}
"""Shapes of weights."""


def lay_out(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, 100000)


# The weights are so small that the result is the bias to 7 digits, which bf16 alone would round to 3.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize(
    ("rows", "inner", "columns"), [(200, 96, 200), (40, 300, 200), (130, 12000, 200), (3, 8, 13001)]
)
def test_a_bias_keeps_its_digits(target: str, rows: int, inner: int, columns: int) -> None:
    rng = np.random.default_rng(1)
    weights = {
        "w": (1e-4 * rng.standard_normal((64, inner))).astype(ml_dtypes.bfloat16),
        "v": (1e-6 * rng.standard_normal((inner, columns))).astype(ml_dtypes.bfloat16),
        "b": (1000 * rng.standard_normal(columns)).astype(np.float32),
    }
    assert lowered_error(target, [("bf16", (rows, 64))], weights, layers, lay_out) < 2e-7


# The bias of many columns has no room on a partition: it is loaded with each block of columns.
@pytest.mark.parametrize(("columns", "stays"), [(4000, True), (50257, False)])
def test_a_bias_of_many_columns_streams_past(columns: int, stays: bool) -> None:
    weights = {
        "w": np.zeros((64, 96), ml_dtypes.bfloat16),
        "v": np.zeros((96, columns), ml_dtypes.bfloat16),
        "b": np.zeros(columns, np.float32),
    }
    module = core_module("inf1", [("bf16", (128, 64))], weights, layers)
    lay_out(core_function(module).body.block)
    ConvertGraphToTilePass().apply(Context(), module)
    allocs = [op for op in core_function(module).body.walk() if isinstance(op, AllocOp)]
    rows = [buffer_shape(op.buffer)[-1] for op in allocs if op.buffer.name_hint == "bias"]
    assert rows
    assert (max(rows) == columns) is stays


# A bias of bf16 is added before the only rounding; the results are as near as that is.
def test_a_narrow_bias_is_added_before_rounding() -> None:
    rng = np.random.default_rng(2)
    weights = {name: (0.1 * rng.standard_normal(shape)).astype(ml_dtypes.bfloat16) for name, shape in NARROW.items()}
    assert lowered_error("trn1", [("bf16", (200, 64))], weights, narrow_layers, lay_out) < 0.01


# The addition is no pointwise work any more: only the tensor engine touches the bias.
@pytest.mark.parametrize(("dtype", "made"), [(np.float32, layers), (ml_dtypes.bfloat16, narrow_layers)])
def test_the_bias_is_part_of_the_product(dtype: type, made: Make) -> None:
    weights = {
        "w": np.zeros((64, 96), ml_dtypes.bfloat16),
        "v": np.zeros((96, 200), ml_dtypes.bfloat16),
        "b": np.zeros(200, dtype),
    }
    module = core_module("trn1", [("bf16", (128, 64))], weights, made)
    lay_out(core_function(module).body.block)
    ConvertGraphToTilePass().apply(Context(), module)
    names = [op.name for op in core_function(module).body.walk()]
    assert "tile.tensor_tensor" not in names
    assert "tile.scalar_tensor_tensor" not in names


def scaled_layers(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """relu(x . w) . v * b, where b is one row for all lanes."""
    hidden = MatMulOp(arguments[0], weights["w"])
    relu = UnaryOp(UnaryKind.RELU, hidden.result)
    product = MatMulOp(relu.result, weights["v"])
    scaled = BinaryOp(BinaryKind.MUL, product.result, weights["b"])
    block.add_ops([hidden, relu, product, scaled])
    return [scaled.result]


# A row repeated on 128 lanes takes the DMA of inf1 ten times as long as the vector engine, and that of trn1 just as
# long: only on inf1 it is worth its place.
@pytest.mark.parametrize(("target", "kept"), [("inf1", True), ("trn1", False)])
def test_a_row_stays_on_chip_where_loads_are_slow(target: str, kept: bool) -> None:
    weights = {name: np.ones(shape, ml_dtypes.bfloat16) for name, shape in NARROW.items()}
    module = core_module(target, [("bf16", (300, 64))], weights, scaled_layers)
    lay_out(core_function(module).body.block)
    ConvertGraphToTilePass().apply(Context(), module)
    hints = {op.buffer.name_hint for op in core_function(module).body.walk() if isinstance(op, AllocOp)}
    assert ("row" in hints) is kept
    assert lowered_error(target, [("bf16", (300, 64))], weights, scaled_layers, lay_out) < 0.01


def single_layer(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """x . v + b, of x in DRAM."""
    product = MatMulOp(arguments[0], weights["v"], accumulate_f32=True)
    biased = BinaryOp(BinaryKind.ADD, product.result, weights["b"])
    block.add_ops([product, biased])
    return [biased.result]


# Weights stream past one tile of rows; blocks of columns past a panel of rows; the first rows and columns load k tile
# by k tile. The bias outweighs the product as above.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("rows", [40, 300, 512])
def test_a_bias_streams_past_with_its_columns(target: str, rows: int) -> None:
    rng = np.random.default_rng(3)
    weights = {
        "v": (1e-6 * rng.standard_normal((256, 1100))).astype(ml_dtypes.bfloat16),
        "b": (1000 * rng.standard_normal(1100)).astype(np.float32),
    }
    assert lowered_error(target, [("bf16", (rows, 256))], weights, single_layer, lay_out) < 2e-7


def biased_features(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """relu(x . w + c) . v, where what lies between has features on partitions."""
    product = MatMulOp(arguments[0], weights["w"])
    biased = BinaryOp(BinaryKind.ADD, product.result, weights["c"])
    relu = UnaryOp(UnaryKind.RELU, biased.result)
    result = MatMulOp(relu.result, weights["v"])
    block.add_ops([product, biased, relu, result])
    return [result.result]


# A bias of 2,048 features on 128 partitions is as many elements apart: it comes packed, each partition's in one run.
def test_a_long_column_is_packed() -> None:
    rng = np.random.default_rng(4)
    weights = {
        "w": (0.1 * rng.standard_normal((64, 2048))).astype(ml_dtypes.bfloat16),
        "c": rng.standard_normal(2048).astype(ml_dtypes.bfloat16),
        "v": (0.1 * rng.standard_normal((2048, 32))).astype(ml_dtypes.bfloat16),
    }
    module = core_module("trn1", [("bf16", (40, 64))], weights, biased_features)
    lay_out(core_function(module).body.block)
    ConvertGraphToTilePass().apply(Context(), module)
    loaded = [op.symbol.data for op in core_function(module).body.walk() if isinstance(op, ParamOp)]
    assert "c.lanes128" in loaded
    assert "c" not in loaded
    assert lowered_error("trn1", [("bf16", (40, 64))], weights, biased_features, lay_out) < 0.01
