"""The Scatter family: what onnxruntime computes, in the graph and on the core."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from lowering.onnx_to_graph import import_onnx
from lowering.onnx_to_graph.scattering import rounds_of
from tests.graph_level import Array, assert_close
from tests.lowering.onnx_cases import (
    Case,
    case,
    check,
    floats,
    ints,
    model_and_feeds,
    with_constants,
)
from tests.onnx_models import core_results, onnxruntime_results, results_of

X = floats(5, 4, 3)
REDUCTIONS = ("add", "mul", "max", "min")


def distinct(rows: int, count: int, *others: int) -> Array:
    """Indices along the first dimension of which no two are equal."""
    columns = [np.random.default_rng(seed).permutation(rows)[:count] for seed in range(int(np.prod(others)))]
    return np.stack(columns, 1).reshape(count, *others).astype(np.int64)


def elements(data: Array, indices: Array, *, known: bool, axis: int = 0, reduction: str = "none") -> Case:
    updates = floats(*indices.shape, seed=1).astype(data.dtype) if data.dtype.kind == "f" else ints(*indices.shape)
    made = case("ScatterElements", data, None, updates.astype(data.dtype), axis=axis, reduction=reduction)
    if known:
        return with_constants(made, at1=indices)
    return case("ScatterElements", data, indices, updates.astype(data.dtype), axis=axis, reduction=reduction)


def parts(data: Array, indices: Array, *, known: bool, reduction: str = "none") -> Case:
    updates = floats(*indices.shape[:-1], *data.shape[indices.shape[-1] :], seed=1).astype(data.dtype)
    if known:
        return with_constants(case("ScatterND", data, None, updates, reduction=reduction), at1=indices)
    return case("ScatterND", data, indices, updates, reduction=reduction)


MANY = ints(6, 4, 3, low=-5, high=5)
SMALLER = ints(2, 3, 2, low=0, high=3)
TUPLES = np.stack([distinct(5, 3, 1)[:, 0], ints(3, low=-4, high=4)], 1)
REPEATED = np.array([[1], [-1], [1], [0], [1]], np.int64)
WHOLE = np.array([[2, 3, 1], [2, 3, 1], [-5, 0, -1]], np.int64)

CASES = [
    *(
        made
        for known in (False, True)
        for made in (
            elements(X, distinct(5, 3, 4, 3), known=known),
            elements(X, distinct(5, 2, 3, 2) - 5, known=known),
            elements(X.astype(np.int32), distinct(3, 3, 4, 2).transpose(2, 1, 0), known=known, axis=-1),
            parts(X, TUPLES, known=known),
            parts(X, distinct(5, 2, 1), known=known),
            *(elements(X, MANY, known=known, reduction=reduction) for reduction in REDUCTIONS),
            *(elements(X, SMALLER, known=known, axis=2, reduction=reduction) for reduction in REDUCTIONS),
            *(parts(X, REPEATED, known=known, reduction=reduction) for reduction in REDUCTIONS),
            *(parts(X, WHOLE, known=known, reduction=reduction) for reduction in ("add", "max")),
            elements(ints(4, 3, low=-(2**30), high=2**30), ints(4, 3, low=0, high=4), known=known, reduction="max"),
        )
    ),
    # A run of rows is a concatenation.
    parts(X, np.array([[1], [2], [3]], np.int64), known=True),
    case("MaxUnpool", floats(2, 1, 2, 2), np.array([5, 7, 13, 15, 16, 18, 24, 31], np.int64).reshape(2, 1, 2, 2),
         opset=11, kernel_shape=[2, 2], strides=[2, 2]),
    case("Scatter", X, distinct(5, 3, 4, 3), floats(3, 4, 3, seed=1), opset=10),
]  # fmt: skip


@pytest.mark.parametrize("made", CASES, ids=str)
def test_as_onnxruntime(made: Case) -> None:
    check(made)


def test_run_of_rows_is_a_concatenation() -> None:
    made = with_constants(case("ScatterND", X, None, floats(3, 4, 3)), at1=np.array([[1], [2], [3]], np.int64))
    assert check(made) == ["graph.slice", "graph.slice", "graph.concat"]


# A position named more often than there are rounds is found by comparison.
def test_constant_indices_with_many_repetitions() -> None:
    indices = np.zeros((20, 2), np.int64)
    assert "graph.scatter" not in check(elements(floats(3, 2), indices, known=True, reduction="add"))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_rounds(positions: list[int]) -> None:
    rounds = rounds_of(np.array(positions))
    assert sorted(int(number) for members in rounds for number in members) == list(range(len(positions)))
    assert all(len({positions[number] for number in members}) == len(members) for members in rounds)
    assert len(rounds) == max(positions.count(position) for position in positions)
    # A position's updates keep their order.
    order = [int(number) for members in rounds for number in members]
    for position in positions:
        mine = [number for number in order if positions[number] == position]
        assert mine == sorted(mine)


def cache_case(mode: str, first: Array | None, axis: int | None = None) -> Case:
    cache, update = floats(2, 3, 5, 4), floats(2, 3, 2, 4, seed=1)
    if axis == 1:
        cache, update = cache.transpose(0, 2, 1, 3).copy(), update.transpose(0, 2, 1, 3).copy()
    inputs = [cache, update] if first is None else [cache, update, first]
    attributes: dict[str, Any] = {"mode": mode} | ({} if axis is None else {"axis": axis})
    return case("TensorScatter", *inputs, opset=24, **attributes)


@pytest.mark.parametrize(
    "made",
    [
        cache_case("linear", np.array([3, 0])),
        cache_case("linear", None),
        cache_case("circular", np.array([4, 1])),
        cache_case("circular", np.array([4, 2]), axis=1),
    ],
    ids=str,
)
def test_cache_update(made: Case) -> None:
    model, feeds = model_and_feeds(made)
    result = import_onnx(model)
    assert not result.info.onnx_nodes
    (expected,) = cast(list[Array], ReferenceEvaluator(model).run(None, feeds))
    assert_close(results_of(result, feeds)[0], expected, 0)
    assert_close(core_results(model, feeds)[0], expected, 0)


# What would take too many comparisons, and truth values that are to be added up, are left to the host.
@pytest.mark.parametrize(
    "made",
    [
        case("ScatterND", floats(5000, 8), ints(5000, 1, low=0, high=5000), floats(5000, 8), reduction="add"),
        case("ScatterElements", X > 0, ints(5, 4, 3, low=0, high=3), X > 1, reduction="add"),
    ],
    ids=str,
)
def test_left_to_the_host(made: Case) -> None:
    model, _ = model_and_feeds(made)
    assert [node.op_type for node in import_onnx(model).info.onnx_nodes] == [made.op_type]


@pytest.mark.parametrize("made", CASES[:: len(CASES) // 9], ids=str)
def test_on_the_core(made: Case) -> None:
    model, feeds = model_and_feeds(made)
    for have, want in zip(core_results(model, feeds), onnxruntime_results(model, feeds), strict=True):
        assert_close(have, want, tolerance=1e-5)


# NaN and infinity stay where they are written.
def test_special_numbers_do_not_spread() -> None:
    updates = np.array([np.nan, np.inf, 1], np.float32)
    made = case("ScatterElements", floats(6), np.array([1, 3, 3]), updates, reduction="add")
    model, feeds = model_and_feeds(made)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    (have,), (want,) = core_results(model, feeds), onnxruntime_results(model, feeds)
    np.testing.assert_allclose(have, want, rtol=1e-6)
