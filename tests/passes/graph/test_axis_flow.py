"""Dimensions on their way through a model: positions that stay apart, and every kind of operator that mixes them.

A verdict is checked by numbers: where positions are found to be apart, running the model on a part of the input gives
that part of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, SSAValue

from neuron_dialects import graph
from neuron_dialects.graph import BinaryKind, PadMode, PoolKind, ReduceKind, UnaryKind
from neuron_dialects.weights import WeightStore
from passes.graph.axis_flow import AtSize, Mixed, State, follow_axis
from passes.graph.tracked_axis import Mixes, Tracked, reshaped
from runtime.graph_interpreter import run_graph
from tests.graph_level import Array, build, no_weights

SIZES = (5, 7)
Make = Callable[[int, SSAValue], Operation]


def constant(values: Array) -> graph.ConstantOp:
    return graph.ConstantOp(values)


def state_of(make: Make, shape: Sequence[int | None], *, positions: bool = False, dtype: Any = np.float32) -> State:
    """What becomes of the axis of `shape` that is None, in the operators made for each size."""
    axis = list(shape).index(None)
    at = [AtSize(_function(make, shape, size, dtype), WeightStore(), size) for size in SIZES]
    (state,) = follow_axis(at[0], at[1], [(0, axis)], positions=positions)
    return state


def _function(make: Make, shape: Sequence[int | None], size: int, dtype: Any) -> FuncOp:
    sizes = [size if dim is None else dim for dim in shape]
    return build(lambda x: make(size, x), [np.zeros(sizes, dtype)])


def weights(*shape: int) -> graph.ConstantOp:
    return graph.ConstantOp(np.float32(0.5), shape=shape)


APART: dict[str, tuple[Make, tuple[int | None, ...], Tracked]] = {
    "unary": (lambda n, x: graph.UnaryOp(UnaryKind.EXP, x), (None, 3), Tracked(0)),
    "added to a row": (lambda n, x: graph.BinaryOp(BinaryKind.ADD, x, weights(3)), (None, 3), Tracked(0)),
    "broadcast to a new axis": (
        lambda n, x: graph.BinaryOp(BinaryKind.ADD, x, weights(2, 1, 1)), (None, 3), Tracked(1),
    ),
    "an equal row for each": (lambda n, x: graph.BinaryOp(BinaryKind.ADD, x, weights(n, 1)), (None, 3), Tracked(0)),
    "reduced elsewhere": (lambda n, x: graph.ReduceOp(ReduceKind.SUM, x, [0], keep_dims=False), (3, None), Tracked(0)),
    "softmax elsewhere": (lambda n, x: graph.SoftmaxOp(x, 1), (None, 3), Tracked(0)),
    "left rows": (lambda n, x: graph.MatMulOp(x, weights(3, 4)), (None, 3), Tracked(0)),
    "right columns": (lambda n, x: graph.MatMulOp(weights(4, 3), x), (3, None), Tracked(1)),
    "right rows transposed": (lambda n, x: graph.MatMulOp(weights(4, 3), x, transpose_b=True), (None, 3), Tracked(1)),
    "batched product": (lambda n, x: graph.MatMulOp(x, x), (None, 3, 3), Tracked(0)),
    "attention of each sequence": (
        lambda n, x: graph.AttentionOp(x, x, x, heads=2, kv_heads=2, scale=0.5), (None, 3, 8), Tracked(0),
    ),
    "attention with a mask": (
        lambda n, x: graph.AttentionOp(
            x, x, x, graph.ReshapeOp(graph.ReduceOp(ReduceKind.SUM, x, [2], keep_dims=False), [n, 1, 1, 3]),
            heads=2, kv_heads=2, scale=0.5,
        ),
        (None, 3, 8), Tracked(0),
    ),
    "images": (
        lambda n, x: graph.ConvOp(x, weights(2, 3, 3, 3), strides=[1, 1], pads=[1] * 4, dilations=[1, 1]),
        (None, 3, 4, 4), Tracked(0),
    ),
    "channels of a pool": (
        lambda n, x: graph.PoolOp(PoolKind.MAX, x, kernel=[2], strides=[2], pads=[0, 0], dilations=[1]),
        (2, None, 4), Tracked(1),
    ),
    "transposed": (lambda n, x: graph.TransposeOp(x, [1, 2, 0]), (None, 2, 3), Tracked(2)),
    "merged": (lambda n, x: graph.ReshapeOp(x, [2 * n, 3]), (None, 2, 3), Tracked(0, 2)),
    "merged behind": (lambda n, x: graph.ReshapeOp(x, [2 * n, 3]), (2, None, 3), Tracked(0, 1)),
    "concatenated elsewhere": (lambda n, x: graph.ConcatOp([x, x], 1), (None, 3), Tracked(0)),
    "cut elsewhere": (lambda n, x: graph.SliceOp(x, [0, 1], [n, 2], [1, 1]), (None, 3), Tracked(0)),
    "padded elsewhere": (
        lambda n, x: graph.PadOp(x, [0, 1], [0, 1], mode=PadMode.CONSTANT), (None, 3), Tracked(0),
    ),
    "rows picked elsewhere": (
        lambda n, x: graph.GatherOp(x, constant(np.array([[0], [2]])), 1), (4, 3, None), Tracked(3),
    ),
    "its own rows": (
        lambda n, x: graph.GatherOp(
            graph.ReshapeOp(x, [n * 3]), constant(np.arange(n)[:, None] * 3 + np.array([2, 0])), 0
        ),
        (None, 3), Tracked(0),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_positions_stay_apart(name: str) -> None:
    make, shape, expected = APART[name]
    assert state_of(make, shape) == expected


# Each verdict by numbers: a run on three of the positions gives their part of a run on all.
@pytest.mark.parametrize("name", [name for name, (_, _, tracked) in APART.items() if tracked.inner == 1])
def test_what_stays_apart_can_be_cut(name: str) -> None:
    make, shape, tracked = APART[name]
    axis = shape.index(None)
    sizes = [7 if dim is None else dim for dim in shape]
    x = np.random.default_rng(1).standard_normal(sizes).astype(np.float32)
    (whole,) = run_graph(_function(make, shape, 7, np.float32), [x], no_weights)
    if whole.shape[tracked.axis] != 7:
        return  # Merged with another dimension that is outside: parts are not in one piece.
    (part,) = run_graph(_function(make, shape, 3, np.float32), [x.take(range(2, 5), axis)], no_weights)
    np.testing.assert_allclose(part, whole.take(range(2, 5), tracked.axis), rtol=1e-6)


MIXING: dict[str, tuple[Make, tuple[int | None, ...], str]] = {
    "reduced": (lambda n, x: graph.ReduceOp(ReduceKind.MEAN, x, [0], keep_dims=True), (None, 3), "reduces over"),
    "softmax": (lambda n, x: graph.SoftmaxOp(x, 0), (None, 3), "normalises along"),
    "layer norm": (lambda n, x: graph.LayerNormOp(x, axis=0, epsilon=1e-5), (None, 3), "normalises along"),
    "contracted": (lambda n, x: graph.MatMulOp(x, x, transpose_a=True), (None, 3), "sums products"),
    "with each other": (lambda n, x: graph.MatMulOp(x, x, transpose_b=True), (None, 3), "with each other"),
    "attended": (
        lambda n, x: graph.AttentionOp(x, x, x, heads=2, kv_heads=2, scale=0.5), (1, None, 8), "attends along",
    ),
    "window": (
        lambda n, x: graph.ConvOp(x, weights(2, 3, 3), strides=[1], pads=[1, 1], dilations=[1]),
        (1, 3, None), "sums windows",
    ),
    "pooled": (
        lambda n, x: graph.PoolOp(PoolKind.MAX, x, kernel=[3], strides=[1], pads=[1, 1], dilations=[1]),
        (1, 3, None), "pools",
    ),
    "outer sum": (
        lambda n, x: graph.BinaryOp(BinaryKind.ADD, x, graph.TransposeOp(x, [1, 0])), (None, 1), "with each other",
    ),
    "split": (lambda n, x: graph.ReshapeOp(x, [3, n]), (None, 3), "splits"),
    "concatenated": (lambda n, x: graph.ConcatOp([x, x], 0), (None, 3), "concatenates along"),
    "reversed": (lambda n, x: graph.SliceOp(x, [n - 1, 0], [n, 3], [-1, 1]), (None, 3), "its starts depends"),
    "but the last": (lambda n, x: graph.SliceOp(x, [0, 0], [n - 1, 3], [1, 1]), (None, 3), "takes a part"),
    "the first": (lambda n, x: graph.GatherOp(x, constant(np.array([0])), 0), (None, 3), "picks elements"),
    "padded": (lambda n, x: graph.PadOp(x, [1, 0], [0, 0], mode=PadMode.CONSTANT), (None, 3), "pads"),
    "numbered": (
        lambda n, x: graph.BinaryOp(BinaryKind.ADD, x, constant(np.arange(n, dtype=np.float32)[:, None])),
        (None, 3), "differs along",
    ),
    "divided by the size": (
        lambda n, x: graph.BinaryOp(BinaryKind.DIV, x, constant(np.array(n, np.float32))), (None, 3), "depends on the",
    ),
    "clipped to the size": (
        lambda n, x: graph.ClipOp(x, minimum=0.0, maximum=float(n)), (None, 3), "its maximum depends",
    ),
    "the next row": (
        lambda n, x: graph.GatherOp(graph.ReshapeOp(x, [n * 3]), constant(np.arange(n) * 3 % (3 * n - 3)), 0),
        (None, 3), "picks elements",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXING)
def test_positions_are_mixed(name: str) -> None:
    make, shape, reason = MIXING[name]
    state = state_of(make, shape)
    assert isinstance(state, Mixed)
    assert reason in state.reason or "a constant differs" in state.reason


# A table of positions makes a position depend on its number: no matter for padding, but for cutting.
def test_a_table_of_positions_can_be_padded() -> None:
    def make(n: int, x: SSAValue) -> Operation:
        return graph.BinaryOp(BinaryKind.ADD, x, constant(np.arange(n, dtype=np.float32)[:, None]))

    assert isinstance(state_of(make, (None, 3)), Mixed)
    assert state_of(make, (None, 3), positions=True) == Tracked(0)

    def from_the_end(n: int, x: SSAValue) -> Operation:
        return graph.BinaryOp(BinaryKind.ADD, x, constant(np.arange(n, dtype=np.float32)[::-1, None].copy()))

    assert isinstance(state_of(from_the_end, (None, 3), positions=True), Mixed)


def test_other_operators_at_another_size() -> None:
    def make(n: int, x: SSAValue) -> Operation:
        return graph.UnaryOp(UnaryKind.EXP, x) if n == SIZES[0] else graph.SoftmaxOp(x, 1)

    state = state_of(make, (None, 3))
    assert isinstance(state, Mixed)
    assert "other operators" in state.reason


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    """A shape with a prime somewhere, another shape of as many elements, and the axis of the prime."""
    factors = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    at = draw(st.integers(0, len(factors)))
    shape = [*factors[:at], 7, *factors[at:]]
    elements, result = int(np.prod(shape)), []
    while elements > 1:
        dim = draw(st.sampled_from([d for d in range(2, elements + 1) if elements % d == 0]))
        result.append(dim)
        elements //= dim
    for _ in range(draw(st.integers(0, 2))):
        result.insert(draw(st.integers(0, len(result))), 1)
    return shape, result, at


# By numbers: an array of position numbers, reshaped, has them where `reshaped` says.
@given(reshapes())
def test_reshapes(case: tuple[list[int], list[int], int]) -> None:
    shape, result, axis = case
    numbers = np.broadcast_to(np.arange(7).reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
    moved = numbers.reshape(result)
    assume(result)
    try:
        tracked = reshaped(Tracked(axis), shape, result, 7)
    except Mixes:
        return
    along = np.arange(result[tracked.axis]) // tracked.inner % 7
    wanted = along.reshape([-1 if i == tracked.axis else 1 for i in range(len(result))])
    np.testing.assert_array_equal(moved, np.broadcast_to(wanted, result))
