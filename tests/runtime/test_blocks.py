"""Constant matrices with many zeros: their blocks, and products that leave zeros out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.machine.blocks import BlockOperand, find_blocks, regular, rows_at, rows_split

RNG = np.random.default_rng(7)


def diagonal(count: int, depth: int, width: int) -> np.ndarray:
    """Blocks on the diagonal."""
    return np.kron(np.eye(count), RNG.integers(1, 5, (depth, width))).astype(np.float32)


def product(operand: BlockOperand, moving: np.ndarray) -> np.ndarray:
    """The product, its rows in the order of the matrix' columns."""
    put = moving
    if operand.row_places is not None:
        put = np.empty_like(moving)
        put[operand.row_places] = moving
    result = np.full((len(operand.blocks.columns), moving.shape[1]), np.nan, np.float32)
    operand.multiply(put, result)
    return result[operand.blocks.columns]


# A convolution in groups: the taps are pieces of the rows, in each of which the channels lie one behind the other.
def test_taps_of_a_convolution_in_groups():
    matrix = np.concatenate([diagonal(32, 4, 2)] * 9)
    operand = BlockOperand.of(matrix, [128] * 9)
    assert operand is not None and operand.gathered is None
    assert [(p.count, p.depth, p.width) for p in operand.blocks.parts] == [(32, 36, 2)]
    moving = RNG.integers(-4, 5, (len(matrix), 12)).astype(np.float32)
    np.testing.assert_array_equal(product(operand, moving), matrix.T @ moving)


# What is added by an identity joins all channels; by itself each piece has its blocks.
def test_an_identity_beside_a_product():
    weights = np.zeros((128, 128), np.float32)
    weights[64:] = RNG.integers(1, 5, (64, 128))
    matrix = np.concatenate([weights, np.eye(128, dtype=np.float32)])
    operand = BlockOperand.of(matrix, [128, 128])
    assert operand is not None
    assert [(p.count, p.depth, p.width, p.adds) for p in operand.blocks.parts] == [
        (1, 64, 128, False),
        (128, 1, 1, True),
    ]
    moving = RNG.integers(-4, 5, (256, 12)).astype(np.float32)
    np.testing.assert_array_equal(product(operand, moving), matrix.T @ moving)


@pytest.mark.parametrize("used", [1.0, 0.5])
def test_what_has_no_blocks(used: float):
    assert find_blocks((RNG.random((64, 64)) <= used).astype(np.float32), [64]) is None


# What is zero times infinity or NaN is NaN in a row that no block multiplies too, as in the whole product.
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("row", [0, 13, 63])
def test_what_is_not_finite_shows(value: float, row: int):
    matrix = diagonal(8, 8, 8)
    matrix[56:] = 0
    operand = BlockOperand.of(matrix, [64])
    assert operand is not None and len(operand.blocks.idle) == 8
    moving = RNG.integers(-4, 5, (64, 3)).astype(np.float32)
    moving[row, 1] = value
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(product(operand, moving), matrix.T @ moving)


# Any matrix of small integers, in pieces of any size: the same product, and it is found where blocks were hidden.
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_blocks_give_the_product(data: st.DataObject):
    count, depth, width = (data.draw(st.integers(1, 5)) for _ in range(3))
    matrix = diagonal(count, depth, width)
    matrix[:, data.draw(st.lists(st.integers(0, matrix.shape[1] - 1), max_size=2))] = 0
    matrix[data.draw(st.lists(st.integers(0, len(matrix) - 1), max_size=2))] = 0
    order = np.random.default_rng(data.draw(st.integers(0, 3)))
    if data.draw(st.booleans()):
        matrix = matrix[order.permutation(len(matrix))]
    if data.draw(st.booleans()):
        matrix = matrix[:, order.permutation(matrix.shape[1])]
    half = data.draw(st.integers(1, len(matrix)))
    operand = BlockOperand.of(matrix, [half, len(matrix) - half] if half < len(matrix) else [half])
    if operand is None:
        return
    moving = order.integers(-4, 5, (len(matrix), 3)).astype(np.float32)
    np.testing.assert_array_equal(product(operand, moving), matrix.T @ moving)


@pytest.mark.parametrize(
    ("places", "nest"),
    [
        ([5], ((1,), (1,))),
        ([0, 1, 2, 3], ((4,), (1,))),
        ([6, 4, 2], ((3,), (-2,))),
        ([0, 8, 16, 1, 9, 17], ((2, 3), (1, 8))),
        ([0, 1, 4, 5, 20, 21, 24, 25], ((2, 2, 2), (20, 4, 1))),
        ([0, 1, 3], None),
        ([0, 1, 2, 4, 5], None),
    ],
)
def test_regular_places(places: list[int], nest: object):
    assert regular(np.array(places)) == nest
    array = np.arange(60).reshape(30, 2)
    found = rows_at(array, np.array(places))
    if found is not None:
        np.testing.assert_array_equal(found, rows_split(array[places], found.shape[:-1]))
