"""Rows of weights that the tensor engine repeats for all lanes: the same bits, infinities too, and no long transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from neuron_dialects.graph import BinaryKind, BinaryOp, LayerNormOp, MatMulOp, UnaryKind, UnaryOp, layout_of
from neuron_dialects.tile import TileOp
from passes.graph.fuse import LEAST_DEPTH, fuse_block
from passes.graph.layout import choose_layouts
from tests.core_kernels import core_function, core_module, lowered_error

COLUMNS = 256


def residual_layer(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
    """y . w + x * scale + bias."""
    product = MatMulOp(arguments[0], weights["w"])
    scaled = BinaryOp(BinaryKind.MUL, arguments[1], weights["scale"])
    total = BinaryOp(BinaryKind.ADD, product.result, scaled.result)
    biased = BinaryOp(BinaryKind.ADD, total.result, weights["bias"])
    b.add_ops([product, scaled, total, biased])
    return [biased.result]


def lay_out(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, 100000)


@pytest.mark.parametrize("rows", [40, 128, 300])
def test_repeated_rows_compute_the_same(rows: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {"w": (64, COLUMNS), "scale": (COLUMNS,), "bias": (COLUMNS,)}
    weights = {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    inputs = [("bf16", (rows, 64)), ("bf16", (rows, COLUMNS))]
    assert lowered_error("inf1", inputs, weights, residual_layer, lay_out) < 5e-3


# Scale and bias of a normalisation on chip, for one tile of rows from PSUM, for several from SBUF.
@pytest.mark.parametrize("rows", [40, 300])
def test_parameters_of_a_normalisation(rows: int) -> None:
    rng = np.random.default_rng(0)
    shapes = {"w": (64, COLUMNS), "scale": (COLUMNS,), "bias": (COLUMNS,)}
    weights = {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}

    def normalised(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
        product = MatMulOp(arguments[0], weights["w"])
        norm = LayerNormOp(product.result, weights["scale"], weights["bias"], axis=1, epsilon=1e-5)
        relu = UnaryOp(UnaryKind.RELU, norm.result)
        b.add_ops([product, norm, relu])
        return [relu.result]

    def resident(block: Block) -> None:
        lay_out(block)
        assert all(layout_of(op.results[0]) for op in block.ops if isinstance(op, MatMulOp | LayerNormOp))

    assert lowered_error("inf1", [("bf16", (rows, 64))], weights, normalised, resident) < 1e-2


# Multiplied with the zeros of an identity matrix an infinite bias would spoil its neighbours.
def test_an_infinite_bias_stays_in_its_column() -> None:
    def rectified(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
        relu = UnaryOp(UnaryKind.RELU, residual_layer(b, arguments, weights)[0])
        b.add_op(relu)
        return [relu.result]

    ones = {name: np.ones(shape, ml_dtypes.bfloat16) for name, shape in (("w", (64, COLUMNS)), ("scale", (COLUMNS,)))}
    bias = np.zeros(COLUMNS, ml_dtypes.bfloat16)
    bias[7] = -np.inf
    inputs = [("bf16", (40, 64)), ("bf16", (40, COLUMNS))]
    assert lowered_error("inf1", inputs, ones | {"bias": bias}, rectified, lay_out) < 5e-3


# On inf1, whose DMA is slow, no transfer repeats a row; trn1 loads it as it is.
@pytest.mark.parametrize(("target", "spread"), [("inf1", True), ("trn1", False)])
def test_rows_are_repeated_by_whoever_is_faster(target: str, spread: bool) -> None:
    weights = {
        name: np.ones(shape, ml_dtypes.bfloat16)
        for name, shape in (("w", (LEAST_DEPTH, COLUMNS)), ("scale", (COLUMNS,)), ("bias", (COLUMNS,)))
    }
    module = core_module(target, [("bf16", (128, LEAST_DEPTH)), ("bf16", (128, COLUMNS))], weights, residual_layer)
    lay_out(core_function(module).body.block)
    ConvertGraphToTilePass().apply(Context(), module)
    loads = [op for op in core_function(module).body.walk() if isinstance(op, TileOp) and op.name == "tile.load"]
    repeated = [op for op in loads if any(stride == 0 and n > 1 for stride, n in op.access.data[1][1].dims)]
    assert bool(repeated) is not spread
