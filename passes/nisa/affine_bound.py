"""The tightest affine function above given numbers, as a pure algorithm.

A wait can only be affine in the loop variables, while the number of the last instruction that a consumer depends on can be any
function of them. `affine_upper_bound` finds an affine function that is nowhere below the needs and nowhere above a ceiling
(what precedes the consumer in program order), with the least total excess among the slopes that the needs suggest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

MANY_DIMENSIONS = 3
"""With more loops than this only the most frequent slope and 0 are tried for each of them."""


def affine_upper_bound(
    needs: Numbers, defined: npt.NDArray[np.bool_], ceiling: int, ceiling_slopes: Sequence[int]
) -> tuple[int, tuple[int, ...]]:
    """(constant, slope of each dimension) of the bound.

    Args:
        needs: what the bound must reach, one dimension for each loop; int64.
        defined: where `needs` counts; elsewhere the bound is free.
        ceiling, ceiling_slopes: the affine function that it must not exceed anywhere. Its slopes are not negative and it
            is at least the largest need where all variables are 0, so that a constant bound always exists.
    """
    indices = np.indices(needs.shape, dtype=np.int64)
    best = (int(needs[defined].max()), (0,) * needs.ndim)
    best_excess: int | None = None
    for slopes in itertools.product(*_slope_candidates(needs, defined)):
        linear = sum((slope * index for slope, index in zip(slopes, indices, strict=True)), np.zeros_like(needs))
        constant = int((needs - linear)[defined].max())
        room = ceiling - constant + sum(
            min(0, (limit - slope) * (size - 1))
            for limit, slope, size in zip(ceiling_slopes, slopes, needs.shape, strict=True)
        )
        if room < 0:
            continue
        excess = int((linear + constant - needs)[defined].sum())
        if best_excess is None or excess < best_excess:
            best, best_excess = (constant, tuple(slopes)), excess
        if excess == 0:
            break
    return best


def _slope_candidates(needs: Numbers, defined: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Slopes worth trying for each dimension, the most promising first: the steps that occur, and their mean."""
    candidates: list[list[int]] = []
    for axis, size in enumerate(needs.shape):
        found: list[int] = []
        if size > 1:
            first, second = _halves(needs, axis)
            both = np.logical_and(*_halves(defined, axis))
            steps, counts = np.unique((second - first)[both], return_counts=True)
            if steps.size:
                found.append(int(steps[counts.argmax()]))
                if needs.ndim <= MANY_DIMENSIONS:
                    mean = float((steps * counts).sum() / counts.sum())
                    found += [int(steps[0]), int(steps[-1]), int(np.floor(mean)), int(np.ceil(mean))]
        candidates.append(list(dict.fromkeys([*found, 0])))
    return candidates


def _halves(values: npt.NDArray[np.generic], axis: int) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """All but the last, and all but the first, along one axis."""
    moved = np.moveaxis(values, axis, 0)
    return moved[:-1], moved[1:]
