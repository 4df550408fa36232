"""Gathers on the core against numpy: any axis, any rank of indices, negative indices, rows larger than a tile."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowering.graph_to_tile.gather import row_chunks
from neuron_dialects.dtypes import dtype_by_name, dtype_of_numpy
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import ConstantOp, GatherOp, ReshapeOp, SliceOp, TransposeOp, WeightOp, tensor_type
from neuron_dialects.target import load_target
from runtime.program_interpreter import run_function
from tests.graph_level import no_weights
from tests.lowering.graph_to_tile.core_kernel import (
    Array,
    Make,
    check_instructions,
    core_module,
    lowered,
    resident,
    tile_ops,
)

TARGETS = ("inf1", "trn1", "trn2")


def table(shape: Sequence[int], dtype: str = "f32") -> Array:
    """Distinct numbers where the type can hold them."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype_by_name(dtype).numpy)


def indices(shape: Sequence[int], rows: int, dtype: type[np.generic] = np.int32, seed: int = 0) -> Array:
    """Indices within [-rows, rows); the extremes are among the first."""
    picked = np.random.default_rng(seed).integers(-rows, rows, shape).astype(dtype)
    picked.reshape(-1)[:2] = [-rows, rows - 1][: picked.size]
    return picked


def check(
    make: Make, inputs: Sequence[Array], *expected: Array, target: str = "trn1", weights: dict[str, Array] | None = None
) -> list[str]:
    """Lower, run, compare bit by bit; returns the names of the tile ops in order."""
    module, _ = core_module(make, inputs, target)
    function = lowered(module)
    check_instructions(function, load_target(target))
    held = weights or {}
    resolve = held.__getitem__ if held else no_weights
    outputs = run_function(function, [np.atleast_1d(x) for x in inputs], resolve)
    for output, want in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, np.atleast_1d(want))
    return [op.name.removeprefix("tile.") for op in tile_ops(function)]


@st.composite
def gathers(draw: st.DrawFn) -> tuple[list[int], int, list[int]]:
    """Shape of the data, axis, shape of the indices."""
    shape = draw(st.lists(st.sampled_from([1, 2, 3, 7, 20, 150]), min_size=1, max_size=5))
    axis = draw(st.integers(0, len(shape) - 1))
    picked = draw(st.lists(st.sampled_from([1, 2, 5, 130, 300]), max_size=3))
    return shape, axis, picked


# Any axis of any data, indices of any rank and both types, on every target.
@settings(max_examples=80)
@given(
    gathers().filter(lambda g: np.prod(g[0]) <= 40_000 and np.prod(g[0]) / g[0][g[1]] * np.prod(g[2]) <= 100_000),
    st.sampled_from(TARGETS),
    st.sampled_from(["f32", "bf16", "i32", "i8"]),
    st.sampled_from([np.int32, np.int64]),
)
def test_gather(case: Any, target: str, dtype: str, index_type: type[np.generic]):
    shape, axis, picked = case
    data, which = table(shape, dtype), indices(picked, shape[axis], index_type)
    check(lambda d, i: GatherOp(d, i, axis), [data, which], np.take(data, which, axis), target=target)


# An embedding: the table is a weight, 300 tokens are two for each of 128 lanes, in a loop, and a remainder of 44.
def test_embedding():
    rows, which = table((1000, 96)), indices((2, 150), 1000, np.int64)

    def make(i: Any) -> GatherOp:
        return GatherOp(WeightOp("embedding", tensor_type(dtype_of_numpy(rows.dtype), rows.shape)), i, 0)

    names = check(make, [which], rows[which], weights={"embedding": rows})
    assert names.count("gather") == 2


# Three whole columns of 128 indices come in one transfer, the last 16 in another.
@pytest.mark.parametrize("target", TARGETS)
def test_many_indices(target: str):
    data, picked = table((50, 6)), indices((400,), 50)
    names = check(lambda d, i: GatherOp(d, i, 0), [data, picked], data[picked], target=target)
    # Each gathers in a loop or once, and stores what it fetched.
    assert names.count("load") == names.count("gather") == names.count("store") == 2


# Rows of 80 KiB do not fit into a tile: they come in chunks, by windows on the table that advance in a loop.
@pytest.mark.parametrize("target", TARGETS)
def test_long_rows(target: str):
    data, which = table((5, 20_000)), indices((7,), 5)
    names = check(lambda d, i: GatherOp(d, i, 0), [data, which], data[which], target=target)
    assert names.count("gather") <= 2


# How rows are cut: whole inner dimensions first; an outer one is cut to what is left, evenly where that is possible.
def test_row_chunks():
    assert row_chunks((4, 100, 30, 16), 1, 4000).dims == ()
    cut = row_chunks((4, 100, 30, 16), 1, 500)
    assert (cut.dims, cut.sizes) == ((0,), {0: 1, 2: 30, 3: 16})
    assert row_chunks((9, 7000), 0, 2000).sizes == {1: 1750}
    # A DMA has five dimensions: rows of more than four are fetched piece by piece, even where they would fit.
    assert row_chunks((2, 2, 2, 2, 2, 9), 5, 4000).sizes == {4: 2, 3: 2, 2: 2, 1: 2, 0: 1}


# Data and indices that are windows: transposed, sliced, repeated.
def test_windows():
    data, which = table((30, 40)), indices((10, 6), 20)

    def make(d: Any, i: Any) -> list[Any]:
        turned = SliceOp(TransposeOp(d, (1, 0)), (39, 0), (20, 30), (-2, 1))
        flipped = TransposeOp(i, (1, 0))
        return [GatherOp(turned, flipped, 0), GatherOp(turned, SliceOp(i, (9, 0), (3, 6), (-3, 1)), 0)]

    window = data.T[::-2]
    check(make, [data, which], window[which.T], window[which[9:2:-3]])


# One index at run time removes a dimension; one known at compile time, or the same one repeated, is a window.
def test_scalar_indices():
    data, which = table((6, 7, 8)), np.array(-2, np.int64)
    check(lambda d, i: GatherOp(d, i, 1), [data, which], data[:, -2])
    names = check(
        lambda d: [GatherOp(d, ConstantOp(np.int64(-2)), 1), GatherOp(d, ConstantOp(np.int64(4), shape=(3,)), 2)],
        [data], data[:, -2], data[:, :, [4, 4, 4]],
    )  # fmt: skip
    assert "gather" not in names


# Constant indices that differ are a parameter like any other tensor.
def test_constant_indices():
    data = table((6, 7))
    which = np.array([5, -6, 2])

    def make(d: Any) -> GatherOp:
        return GatherOp(d, ConstantOp(which), 0)

    module, _ = core_module(make, [data])
    function = lowered(module)
    (parameter,) = [op for op in function.walk() if op.name == "tile.param"]
    assert str(parameter.results[0].type).startswith("memref<3xi64")
    np.testing.assert_array_equal(run_function(function, [data], lambda _: which)[0], data[which])


# A result that is read as another shape, and one that stays on chip.
def test_results():
    data, which = table((50, 12)), indices((4, 5), 50)

    def make(d: Any, i: Any) -> list[Any]:
        held = resident(GatherOp(d, i, 0), 1)
        return [ReshapeOp(GatherOp(d, i, 0), (20, 12)), ReshapeOp(held, (4, 60))]

    check(make, [data, which], data[which].reshape(20, 12), data[which].reshape(4, 60))


# Nothing to gather is nothing to do.
def test_no_indices():
    data, which = table((5, 3)), np.zeros((0,), np.int32)
    module, _ = core_module(lambda d, i: GatherOp(d, i, 0), [data, which])
    assert tile_ops(lowered(module)) == []


# fp32 counts to 2^24: a longer table is refused with the figure, not gathered wrongly.
def test_too_many_rows():
    data = np.broadcast_to(np.int8(0), (2**24 + 1, 1))
    module, _ = core_module(lambda d, i: GatherOp(d, i, 0), [data, indices((3,), 5)])
    with pytest.raises(NeuronError) as error:
        lowered(module)
    assert error.value.code == "NX-OP-002"
    assert "16777217 rows exceeds the 16777216" in error.value.message
    assert error.value.node == "the node"


# An index outside of the table is an error of the run, with the node's name.
@pytest.mark.parametrize("index", [5, -6])
def test_index_out_of_range(index: int):
    data, which = table((5, 3)), np.array([0, index], np.int32)
    module, _ = core_module(lambda d, i: GatherOp(d, i, 0), [data, which])
    with pytest.raises(NeuronError) as error:
        run_function(lowered(module), [data, which], no_weights)
    assert error.value.code == "NX-RUN-002"
