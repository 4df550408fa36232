"""Bounds of attention scores from weights: never passed, nearly reached, and the shift that follows from them."""

from math import inf, log, nan

import numpy as np
import pytest

from passes.graph.score_bounds import (
    LARGEST,
    SMALLEST,
    Array,
    Projection,
    greatest_value,
    head_range,
    norm_of_rows,
    shift_for,
)


def _projection(seed: int, features: int, size: int, gain: float = 1.0, biased: bool = True) -> Projection:
    rng = np.random.default_rng(seed)
    bias = rng.standard_normal(size) if biased else np.zeros(size)
    return Projection(gain * rng.standard_normal((features, size)) / features**0.5, bias, 1)


def _rows(queries: Projection, keys: Projection) -> Array:
    """Normalised rows that reach for the bounds: singular vectors of the product, eigenvectors, and random ones."""
    product = queries.matrix @ keys.matrix.T
    left, _, right = np.linalg.svd(product)
    _, vectors = np.linalg.eigh(product + product.T)
    rows = np.concatenate(
        [left[:, :2].T, right[:2], vectors.T, np.random.default_rng(9).standard_normal((64, len(left)))]
    )
    rows = np.concatenate([rows, -rows])
    return rows * (norm_of_rows(len(left)) / np.linalg.norm(rows, axis=1, keepdims=True))


# More features than both heads have columns, fewer than one has, and a single one.
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("features", "size"), [(96, 32), (8, 16), (1, 4), (40, 1)])
def test_no_row_passes_the_bounds(features: int, size: int, biased: bool) -> None:
    queries, keys = _projection(1, features, size), _projection(2, features, size, biased=biased)
    rows, found = _rows(queries, keys), head_range(queries, keys, 0.5)
    scores = 0.5 * (rows @ queries.matrix + queries.bias) @ (rows @ keys.matrix + keys.bias).T
    assert np.abs(scores).max() <= found.most
    assert np.diagonal(scores).min() >= found.own


def test_bounds_without_bias_are_nearly_reached() -> None:
    queries, keys = _projection(1, 96, 32, biased=False), _projection(2, 96, 32, biased=False)
    rows, found = _rows(queries, keys), head_range(queries, keys, 1.0)
    scores = (rows @ queries.matrix) @ (rows @ keys.matrix).T
    assert scores.max() > 0.9 * found.most
    assert np.diagonal(scores).min() < 0.9 * found.own


def test_no_value_is_greater() -> None:
    values = _projection(3, 48, 16)
    worst = np.sign(values.bias) * values.matrix / np.linalg.norm(values.matrix, axis=0) * norm_of_rows(48)
    reached = np.abs((worst * values.matrix).sum(axis=0) + values.bias).max()
    assert reached <= greatest_value(values) <= 1.02 * reached


# What fits as it is; what needs to go down, by a round number; up; what is too wide; numbers that are none.
@pytest.mark.parametrize(
    ("most", "least", "shift"),
    [(40.0, -40.0, 0.0), (93.0, -57.0, 16.0), (20.0, -90.0, -32.0), (120.0, -90.0, None), (nan, -1.0, None)],
)
def test_the_shift_is_the_roundest_that_serves(most: float, least: float, shift: float | None) -> None:
    found = shift_for(most, least, 1500, 20.0)
    assert found == shift
    if found is not None:
        assert most - found + log(1500 * 20.0) <= LARGEST
        assert least - found >= SMALLEST + log(1500)


@pytest.mark.parametrize("value", [inf, nan, 0.0])
def test_values_without_a_bound_have_no_shift(value: float) -> None:
    assert shift_for(1.0, -1.0, 4, value) is None
