"""An order of rows as few strided pieces; plain arithmetic.

Neighbouring rows that come from neighbouring rows are a run; runs of one length that follow each other by constant
steps are one piece with an index more, and so on.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from neuron_dialects.graph.reorder import RowPiece

MOST_DIMS = 4
"""Indices of a piece at most: as many as an engine counts."""

Order = np.ndarray[Any, np.dtype[np.int64]]


def period_of(order: Order, rows: int) -> int:
    """The fewest of `rows` rows after which `order`, of all of them, repeats."""
    tops = np.maximum.accumulate(order)
    for period in np.flatnonzero(tops == np.arange(rows)) + 1:
        if rows % period == 0:
            repeated = order[:period][None, :] + np.arange(rows // period)[:, None] * period
            if np.array_equal(repeated.reshape(-1), order):
                return int(period)
    return rows


def pieces_of(order: Order) -> list[RowPiece]:
    """Pieces that hold the rows of `order`: row i of the result is row order[i]."""
    pieces = [RowPiece(i, int(source)) for i, source in enumerate(order)]
    for _ in range(MOST_DIMS):
        merged = _merged(pieces)
        if len(merged) == len(pieces):
            break
        pieces = merged
    return pieces


def _merged(pieces: Sequence[RowPiece]) -> list[RowPiece]:
    """Pieces of one form that follow each other by constant steps as one piece each; in order of their first rows."""
    alike: dict[tuple[tuple[int, int, int], ...], list[RowPiece]] = {}
    for piece in pieces:
        alike.setdefault(piece.dims, []).append(piece)
    return sorted((new for group in alike.values() for new in _progressions(group)), key=lambda piece: piece.to)


def _progressions(group: Sequence[RowPiece]) -> Iterable[RowPiece]:
    start = 0
    while start < len(group):
        first, end = group[start], start + 1
        if end < len(group):
            steps = _steps(first, group[end])
            while end + 1 < len(group) and _steps(group[end], group[end + 1]) == steps:
                end += 1
            yield RowPiece(first.to, first.source, ((end + 1 - start, *steps), *first.dims))
            start = end + 1
        else:
            yield first
            start = end


def _steps(a: RowPiece, b: RowPiece) -> tuple[int, int]:
    return b.to - a.to, b.source - a.source
