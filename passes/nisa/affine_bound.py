"""The tightest affine function above given numbers, as a pure algorithm.

A wait can only be affine in the loop variables, while the number of the last instruction that a consumer depends on
can be any function of them. `affine_upper_bound` finds an affine function that is nowhere below the needs and nowhere
above a ceiling (what precedes the consumer in program order), with the least total excess among the slopes that the
needs suggest.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

MANY_DIMENSIONS, MANY_NEEDS = 3, 4096
"""With more loops or more needs than this only the most frequent slope and 0 are tried for each loop."""


def affine_upper_bound(
    needs: Numbers, defined: npt.NDArray[np.bool_], ceiling: int, ceiling_slopes: Sequence[int]
) -> tuple[int, tuple[int, ...]]:
    """(constant, slope of each dimension) of the bound.

    Args:
        needs: what the bound must reach, one dimension for each loop; int64.
        defined: where `needs` counts; elsewhere the bound is free.
        ceiling: the bound must not exceed `ceiling` plus `ceiling_slopes` times the variables. It is at least the
            largest need where all variables are 0, and its slopes are not negative, so a constant bound exists.
        ceiling_slopes: see `ceiling`.
    """
    indices = np.indices(needs.shape, dtype=np.int64)
    best = (int(needs[defined].max()), (0,) * needs.ndim)
    best_excess: int | None = None
    for slopes in itertools.product(*_slope_candidates(needs, defined)):
        linear = sum((slope * index for slope, index in zip(slopes, indices, strict=True)), np.zeros_like(needs))
        constant = int((needs - linear)[defined].max())
        # The room below the ceiling is affine too: it is smallest in a corner.
        room = ceiling - constant
        for limit, slope, size in zip(ceiling_slopes, slopes, needs.shape, strict=True):
            room += min(0, (limit - slope) * (size - 1))
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
            along, known = np.moveaxis(needs, axis, 0), np.moveaxis(defined, axis, 0)
            steps, counts = np.unique(np.diff(along, axis=0)[known[1:] & known[:-1]], return_counts=True)
            if steps.size:
                found.append(int(steps[counts.argmax()]))
                if needs.ndim <= MANY_DIMENSIONS and needs.size <= MANY_NEEDS:
                    mean = float((steps * counts).sum() / counts.sum())
                    found += [int(steps[0]), int(steps[-1]), int(np.floor(mean)), int(np.ceil(mean))]
        candidates.append(list(dict.fromkeys([*found, 0])))
    return candidates
