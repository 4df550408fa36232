"""How large scores of attention can be behind a normalisation, from the weights alone: pure arithmetic on arrays.

Rows x of D features that were normalised have a norm of sqrt(D) at most, whatever the data. With queries q = x A + b
and keys k = x C of one head, the score of rows i and j is

    q_i . k_j = x_i (A C^T) x_j^T + (C b^T) . x_j

which lies within D |A C^T| + sqrt(D) |C b^T|, with the spectral norm of the product (tighter than the product of norms,
which is what a bound of q and a bound of k would give); a bias of keys adds terms of the same kind. Among the scores of
row i is that with itself, where keys are made of the same rows; it is no less than D times the least eigenvalue of the
symmetric part of A C^T. So no row's greatest score lies below that.

Where both bounds fit into the range of a float32 power, moved by one shift, no maximum has to be found for a softmax.
"""

from dataclasses import dataclass
from math import ceil, floor, isfinite, log, sqrt
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST = 127 * log(2)
"""Logarithm of a number that float32 holds with room for one more doubling."""

SMALLEST = -126 * log(2)
"""The same of the least number that float32 holds with all its digits."""

LOST = 2.0**-7
"""Share of a row's sum that powers may make up which are too small to be held."""

ROUNDING = 2.0**-8
"""Largest relative error of rounding to bf16."""

INEXACT = 2.0**-12
"""What float32 arithmetic of products and normalisation may add to that."""

GRIDS = tuple(2.0**n for n in range(6, -2, -1))
"""Multiples of these are tried as shifts, so that equal layers have equal ones."""


@dataclass(frozen=True)
class Projection:
    """x A + b: `matrix` [D, heads * size], `bias` [heads * size], rounded to bf16 `roundings` times on the way."""

    matrix: Array
    bias: Array
    roundings: int

    def head(self, number: int, size: int) -> "Projection":
        """The columns of one head."""
        part = slice(number * size, (number + 1) * size)
        return Projection(self.matrix[:, part], self.bias[part], self.roundings)


@dataclass(frozen=True)
class ScoreRange:
    """Every score lies within `most` on both sides of 0; that of a row with itself is no less than `own`."""

    most: float
    own: float


def norm_of_rows(features: int) -> float:
    """The greatest norm of a normalised row that was rounded to bf16."""
    return sqrt(features) * (1 + ROUNDING + INEXACT)


def head_range(queries: Projection, keys: Projection, scale: float) -> ScoreRange:
    """Scores times `scale` (positive) of one head, queries and keys made of normalised rows of as many features."""
    norm = norm_of_rows(queries.matrix.shape[0])
    size = queries.matrix.shape[1]
    # Q R of both side by side: norms and eigenvalues of the product are those of a small one.
    triangle = np.asarray(np.linalg.qr(np.concatenate([queries.matrix, keys.matrix], axis=1), mode="r"))
    left, right = triangle[:, :size], triangle[:, size:]
    product = left @ right.T
    spectral = float(np.linalg.norm(product, 2))
    lowest = min(0.0, float(np.linalg.eigvalsh((product + product.T) / 2)[0]))
    shared = norm * float(np.linalg.norm(keys.matrix @ queries.bias) + np.linalg.norm(queries.matrix @ keys.bias))
    shared += abs(float(queries.bias @ keys.bias))
    query = norm * float(np.linalg.norm(left, 2)) + float(np.linalg.norm(queries.bias))
    key = norm * float(np.linalg.norm(right, 2)) + float(np.linalg.norm(keys.bias))
    error = query * key * ((queries.roundings + keys.roundings) * ROUNDING + INEXACT)
    # The eigenvalue stands for the row times itself, so that its norm counts twice as well.
    return ScoreRange(
        scale * (norm**2 * spectral + shared + error),
        scale * (norm**2 * lowest - shared - error),
    )


def greatest_value(values: Projection) -> float:
    """No element of the values is larger."""
    norm = norm_of_rows(values.matrix.shape[0])
    columns = norm * np.linalg.norm(values.matrix, axis=0) + np.abs(values.bias)
    return float(columns.max()) * (1 + (values.roundings + 1) * ROUNDING + INEXACT)


def shift_for(most: float, least: float, keys: int, value: float) -> float | None:
    """What to lower scores by so that all sums over `keys` powers are in range; values are `value` at most.

    No score is greater than `most`, and the greatest of each row no less than `least`. The roundest such number; None
    where there is none.
    """
    if not (isfinite(value) and value > 0.0 and isfinite(most - least)):
        return None
    low = most + log(keys) + log(max(1.0, value)) - LARGEST
    high = least + log(min(1.0, value)) - log(keys / LOST) - SMALLEST
    if not low <= high:
        return None
    if low <= 0.0 <= high:
        return 0.0
    for grid in GRIDS:
        multiple = ceil(low / grid) if low > 0 else floor(high / grid)
        if low <= multiple * grid <= high:
            return multiple * grid
    return None
