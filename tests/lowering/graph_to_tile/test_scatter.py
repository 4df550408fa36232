"""Scatters on the core against numpy: any axis, any rank of indices, equal and negative indices, rows beyond a tile."""

from typing import Any

import numpy as np
import pytest

from neuron_dialects.graph import ConcatOp, ReshapeOp, ScatterOp, TransposeOp
from tests.lowering.graph_to_tile.test_gather import TARGETS, Array, check, indices, table


def scattered(data: Array, which: Array, updates: Array, axis: int) -> Array:
    """The data after one update at a time."""
    result = data.copy()
    flat = updates.reshape(*data.shape[:axis], which.size, *data.shape[axis + 1 :])
    for index, row in zip(which.reshape(-1), np.moveaxis(flat, axis, 0), strict=True):
        np.moveaxis(result, axis, 0)[index] = row
    return result


def updates_for(data: Array, which: Array, axis: int) -> Array:
    return -table((*data.shape[:axis], *which.shape, *data.shape[axis + 1 :])) - np.float32(1)


# 200 indices into 50 rows: two tiles on one table, with most rows named more than once.
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("shape", "axis", "count"), [((50, 6), 0, (200,)), ((5, 50, 6), 1, (130,)), ((3, 7), -1, (2, 3)), ((9,), 0, (1,))]
)
def test_scatter(shape: tuple[int, ...], axis: int, count: tuple[int, ...], target: str):
    axis %= len(shape)
    data, which = table(shape), indices(count, shape[axis])
    updates = updates_for(data, which, axis)
    made = [data, which, updates]
    check(lambda d, i, u: ScatterOp(d, i, u, axis), made, scattered(data, which, updates, axis), target=target)


# Rows that exceed a tile go in chunks.
def test_long_rows():
    data, which = table((4, 14000)), indices((3,), 4)
    updates = updates_for(data, which, 0)
    names = check(lambda d, i, u: ScatterOp(d, i, u, 0), [data, which, updates], scattered(data, which, updates, 0))
    assert names.count("scatter") == 1


# The operands are windows, the result is read by another kernel, in its place in a concatenation and as it is.
def test_windows():
    data, which, updates = table((6, 5)), indices((2, 2), 6), table((5, 2, 2)) + 100
    expected = scattered(data, which.T, np.moveaxis(updates, 0, 2), 0)

    def make(d: Any, i: Any, u: Any) -> list[Any]:
        made = ScatterOp(d, TransposeOp(i, (1, 0)), TransposeOp(u, (1, 2, 0)), 0)
        return [ConcatOp([made, d], 0), ReshapeOp(made, (3, 10))]

    check(make, [data, which, updates], np.concatenate([expected, data]), expected.reshape(3, 10))
