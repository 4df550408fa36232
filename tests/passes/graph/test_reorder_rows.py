"""Orders of rows: as pieces, by numbers; found in functions, which compute the same afterwards; on chip and in DRAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.graph import (
    AttentionOp,
    BinaryKind,
    BinaryOp,
    ConcatOp,
    LayerNormOp,
    MatMulOp,
    ReorderRowsOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    layout_of,
)
from neuron_dialects.graph.reorder import RowPiece, order_of
from neuron_dialects.graph.shapes import ShapeError
from passes.graph.fold_layer_norm import GraphFoldLayerNormPass
from passes.graph.layout import choose_layouts
from passes.graph.reorder_rows import MOST_MOVEMENTS, GraphReorderRowsPass
from passes.graph.row_pieces import Order, period_of, pieces_of
from runtime.graph_interpreter import run_graph
from tests.core_kernels import Array, Make, core_function, core_module, lowered_error, random_inputs


def windows(images: int, side: int, window: int, roll: int) -> Order:
    """Rows of images [side, side] in the order of windows, of the rolled images."""
    rows = np.roll(np.arange(images * side * side).reshape(images, side, side), (-roll, -roll), (1, 2))
    count = side // window
    return rows.reshape(images, count, window, count, window).transpose(0, 1, 3, 2, 4).reshape(-1)


@given(st.permutations(range(24)))
def test_any_order_is_made_of_pieces(order: list[int]) -> None:
    array = np.array(order)
    np.testing.assert_array_equal(order_of(pieces_of(array), len(order)), array)


@pytest.mark.parametrize("roll", [0, 3])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("side", [14, 56])
def test_windows_are_few_pieces(side: int, roll: int, inverse: bool) -> None:
    order = windows(2, side, 7, roll)
    order = np.argsort(order) if inverse else order
    period = period_of(order, len(order))
    assert period == (side * side if roll else 7 * side)
    pieces = pieces_of(order[:period])
    # A rolled image has inner windows, and three kinds that lie on two sides of it, of two, two and four parts.
    assert len(pieces) == (9 if roll else 1)
    np.testing.assert_array_equal(order_of(pieces, period), order[:period])


@pytest.mark.parametrize(
    "pieces",
    [[RowPiece(0, 0, ((3, 1, 1),))], [RowPiece(0, 0, ((2, 1, 1),)), RowPiece(1, 2, ((2, 1, 1),))],
     [RowPiece(0, 0, ((4, 1, 2),))], [RowPiece(0, 0, ((0, 1, 1),))]],
)  # fmt: skip
def test_pieces_hold_every_row_once(pieces: list[RowPiece]) -> None:
    with pytest.raises(ShapeError):
        order_of(pieces, 4)


def attends(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """Two images of 6 x 6 positions, rolled and cut into windows of 3 x 3 that are attended in, and back again."""

    def add(op: Operation) -> SSAValue:
        b.add_op(op)
        return op.results[0]

    def rolled(x: SSAValue, axis: int, by: int) -> SSAValue:
        starts, sizes = [0, 0, 0, 0], [2, 6, 6, 8]
        low, high = (
            SliceOp(x, [*starts[:axis], s, *starts[axis + 1 :]], [*sizes[:axis], n, *sizes[axis + 1 :]], (1,) * 4)
            for s, n in ((by, 6 - by), (0, by))
        )
        return add(ConcatOp([add(low), add(high)], axis))

    image = rolled(rolled(add(ReshapeOp(arguments[0], (2, 6, 6, 8))), 1, 1), 2, 2)
    apart = add(TransposeOp(add(ReshapeOp(image, (2, 2, 3, 2, 3, 8))), (0, 1, 3, 2, 4, 5)))
    rows = add(ReshapeOp(apart, (72, 8)))
    q, k = (add(ReshapeOp(add(MatMulOp(rows, weights[name])), (8, 9, 8))) for name in "qk")
    mixed = add(ReshapeOp(add(AttentionOp(q, k, k, heads=2, kv_heads=2, scale=0.5)), (72, 8)))
    out = add(BinaryOp(BinaryKind.ADD, weights["bias"], add(MatMulOp(mixed, weights["o"]))))
    back = add(TransposeOp(add(ReshapeOp(out, (2, 2, 2, 3, 3, 8))), (0, 1, 3, 2, 4, 5)))
    image = rolled(rolled(add(ReshapeOp(back, (2, 6, 6, 8))), 1, 5), 2, 4)
    return [add(BinaryOp(BinaryKind.ADD, arguments[0], add(ReshapeOp(image, (72, 8)))))]


def test_orders_are_found_and_change_in_front_of_projections() -> None:
    rng = np.random.default_rng(0)
    given_weights = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in "qko"}
    given_weights["bias"] = rng.standard_normal(8).astype(np.float32)
    inputs = [("f32", (72, 8))]
    module = core_module("trn1", inputs, given_weights, attends)

    def results(module: ModuleOp) -> list[Array]:
        return run_graph(core_function(module), random_inputs(inputs), lambda name: given_weights[name])

    (expected,) = results(module)
    GraphReorderRowsPass().apply(Context(), module)
    module.verify()
    (found,) = results(module)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    first, second = (op for op in module.walk() if isinstance(op, ReorderRowsOp))
    assert not any(isinstance(op, SliceOp | ConcatOp | TransposeOp) for op in module.walk())
    assert first.x is core_function(module).body.block.args[0]
    assert isinstance(second.x.owner, ReshapeOp)
    np.testing.assert_array_equal(first.order()[second.order()], np.arange(36))


@pytest.mark.parametrize("turns", [1, MOST_MOVEMENTS + 1])
def test_long_chains_are_left_alone(turns: int) -> None:
    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        apart = ReshapeOp(arguments[0], (2, 2, 8))
        turned: list[Operation] = []
        rows: SSAValue = apart.result
        for _ in range(turns):
            turned.append(TransposeOp(rows, (1, 0, 2)))
            rows = turned[-1].results[0]
        together = ReshapeOp(rows, (4, 8))
        b.add_ops([apart, *turned, together])
        return [together.result]

    module = core_module("trn1", [("f32", (4, 8))], {}, make)
    GraphReorderRowsPass().apply(Context(), module)
    assert any(isinstance(op, ReorderRowsOp) for op in module.walk()) == (turns == 1)


def moved(order: Order, projected: bool) -> Make:
    """Rows in another order; `projected`: between products, so that they stay on chip."""
    period = period_of(order, len(order))

    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def add(op: Operation) -> SSAValue:
            b.add_op(op)
            return op.results[0]

        x = add(MatMulOp(arguments[0], weights["w"])) if projected else arguments[0]
        x = add(ReorderRowsOp(x, period, pieces_of(order[:period])))
        return [add(MatMulOp(x, weights["w"])) if projected else x]

    return make


@pytest.mark.parametrize("features", [24, 136])
@pytest.mark.parametrize("projected", [False, True])
@pytest.mark.parametrize("roll", [0, 1])
def test_kernel_moves_rows(features: int, projected: bool, roll: int) -> None:
    order = windows(3, 8, 4, roll)
    rng = np.random.default_rng(1)
    weight = (rng.standard_normal((features, features)) / features**0.5).astype(ml_dtypes.bfloat16)
    chosen: list[bool] = []

    def lay(block: Block) -> None:
        choose_layouts(block, 100000)
        chosen.extend(layout_of(op.result) is not None for op in block.ops if isinstance(op, ReorderRowsOp))

    inputs, make = [("bf16", (len(order), features))], moved(order, projected)
    assert lowered_error("trn1", inputs, {"w": weight} if projected else {}, make, lay) < (3e-3 if projected else 1e-9)
    assert chosen == [projected]


def test_parameters_of_a_normalisation_are_folded_past_rolls() -> None:
    """A normalisation whose rows are rolled in front of two products: its scale and bias are part of their weights."""

    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        norm = LayerNormOp(arguments[0], weights["scale"], weights["bias"], axis=2, epsilon=1e-5)
        rows = ReshapeOp(norm.result, (12, 8))
        low, high = (SliceOp(rows.result, (s, 0), (n, 8), (1, 1)) for s, n in ((4, 8), (0, 4)))
        rolled = ConcatOp([low.result, high.result], 0)
        products = [MatMulOp(rolled.result, weights[name]) for name in "qk"]
        b.add_ops([norm, rows, low, high, rolled, *products])
        return [product.result for product in products]

    rng = np.random.default_rng(2)
    shapes = {"q": (8, 8), "k": (8, 8), "scale": (8,), "bias": (8,)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs = [("f32", (2, 6, 8))]
    module = core_module("trn1", inputs, arrays, make)
    expected = run_graph(core_function(module), random_inputs(inputs), lambda name: arrays[name])
    GraphFoldLayerNormPass().apply(Context(), module)
    module.verify()
    (norm,) = (op for op in module.walk() if isinstance(op, LayerNormOp))
    assert norm.scale is None
    assert norm.bias is None
    found = run_graph(core_function(module), random_inputs(inputs), lambda name: arrays[name])
    for a, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5)
