"""Constant matrices of which most is zero, as blocks: pure algorithms on arrays.

Given a constant operand of the tensor engine, in which a convolution in groups or one with several pixels on the
partitions leaves a small matrix for each group, finds an order of its rows and columns in which the small ones stand
one behind the other. Zeros need not be multiplied then, and hundreds of small products are one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

MOST_USED = 0.6
"""Share of a matrix up to which it is worth while to leave zeros out."""

MOST_PARTS = 8
"""Kinds of blocks (by size) that a matrix may have; each kind is one call."""

MOST_LOOPS = 3
"""Loops in which the places of rows may lie."""


@dataclass(frozen=True)
class Part:
    """`count` blocks of `depth` rows x `width` columns, the first of them at `row` and `column`; `adds`: to others."""

    count: int
    depth: int
    width: int
    row: int
    column: int
    adds: bool = False

    @property
    def size(self) -> int:
        """Elements of all blocks."""
        return self.count * self.depth * self.width


@dataclass(frozen=True)
class Blocks:
    """Where each row and each column of a matrix stands in the order of its blocks; `idle` rows are in none."""

    rows: Places
    columns: Places
    parts: tuple[Part, ...]
    idle: Places

    @property
    def size(self) -> int:
        """Elements of all blocks."""
        return sum(part.size for part in self.parts)


def find_blocks(matrix: Floats, pieces: Sequence[int]) -> Blocks | None:
    """The blocks of a matrix; None where it does not pay to look at them.

    Where the blocks of all rows together are no smaller than the matrix, each of the `pieces` of its rows is taken by
    itself: a product to which something is added by an identity, say.
    """
    most = MOST_USED * matrix.size
    used = matrix != 0
    if np.count_nonzero(used) > most:
        return None
    whole = _blocks(used)
    if whole is not None and whole.size <= most:
        return whole
    several = _one_by_one(used, pieces)
    return several if several is not None and several.size <= most else None


def _one_by_one(used: NDArray[np.bool_], pieces: Sequence[int]) -> Blocks | None:
    """The blocks of pieces of the rows, of which every one adds to those before."""
    rows: list[Places] = []
    parts: list[Part] = []
    idle: list[Places] = []
    columns: Places | None = None
    start = 0
    for size in pieces:
        own = _blocks(used[start : start + size])
        if own is None or (columns is not None and not np.array_equal(own.columns, columns)):
            return None
        adds, columns = columns is not None, own.columns
        parts += [Part(p.count, p.depth, p.width, p.row + start, p.column, adds) for p in own.parts]
        rows.append(own.rows + start)
        idle.append(own.idle + start)
        start += size
    if columns is None or len(parts) > MOST_PARTS or _covered([p for p in parts if not p.adds]) != _covered(parts):
        return None
    return Blocks(np.concatenate(rows), columns, tuple(parts), np.concatenate(idle))


def _covered(parts: Sequence[Part]) -> int:
    """One past the last column of any block."""
    return max(part.column + part.count * part.width for part in parts)


def _blocks(used: NDArray[np.bool_]) -> Blocks | None:
    """The blocks of a matrix that is zero where it is not `used`; None where they have too many sizes."""
    row_of, column_of = _components(used)
    numbers = np.unique(row_of[row_of >= 0])
    depths, widths = ((of == numbers[:, np.newaxis]).sum(axis=1) for of in (row_of, column_of))
    order = np.lexsort((numbers, widths, depths))
    sizes, counts = np.unique(np.stack([depths, widths])[:, order], axis=1, return_counts=True)
    if not 1 <= len(counts) <= MOST_PARTS:
        return None
    parts: list[Part] = []
    row = column = 0
    for (depth, width), count in zip(sizes.T.tolist(), counts.tolist(), strict=True):
        parts.append(Part(count, depth, width, row, column))
        row, column = row + count * depth, column + count * width
    rank = {number: place for place, number in enumerate(numbers[order].tolist())}
    idle = np.flatnonzero(row_of < 0)
    return Blocks(_places(row_of, rank), _places(column_of, rank), tuple(parts), idle)


def _components(used: NDArray[np.bool_]) -> tuple[Places, Places]:
    """A number for each row and each column, equal where a chain of used elements joins them; -1 without any."""
    columns = used.shape[1]
    column_of = np.where(used.any(axis=0), np.arange(columns), columns)
    while True:
        row_of = np.where(used, column_of, columns).min(axis=1, initial=columns)
        joined = np.where(used, row_of[:, np.newaxis], columns).min(axis=0, initial=columns)
        if np.array_equal(joined, column_of):
            return np.where(row_of == columns, -1, row_of), np.where(column_of == columns, -1, column_of)
        column_of = joined


def _places(numbers: Places, rank: dict[int, int]) -> Places:
    """Where each stands when they are sorted by the rank of their numbers; those without one are the last."""
    ranks = np.array([rank.get(number, len(rank)) for number in numbers.tolist()], np.int64)
    places = np.empty(len(ranks), np.int64)
    places[np.argsort(ranks, kind="stable")] = np.arange(len(ranks))
    return places


def regular(places: Places) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(sizes, steps) of the nest of a few loops that lists these places; None if there is none."""
    sizes: list[int] = []
    steps: list[int] = []
    rest = places
    while len(rest) > 1 and len(sizes) < MOST_LOOPS:
        step = int(rest[1] - rest[0])
        breaks = np.flatnonzero(np.diff(rest) != step)
        size = int(breaks[0]) + 1 if len(breaks) else len(rest)
        table = rest.reshape(-1, size) if len(rest) % size == 0 else None
        if table is None or (table - table[:, :1] != np.arange(size) * step).any():
            return None
        sizes.insert(0, size)
        steps.insert(0, step)
        rest = table[:, 0]
    if len(rest) > 1:
        return None
    return (tuple(sizes), tuple(steps)) if sizes else ((1,), (1,))


def rows_at(array: NDArray[Any], places: Places) -> NDArray[Any] | None:
    """The rows of a matrix at these places as a view [*sizes, columns], in the order of the places; None where they
    do not lie regularly.
    """
    nest = regular(places)
    if nest is None:
        return None
    sizes, steps = nest
    strides = tuple(step * array.strides[0] for step in steps)
    return as_strided(array[int(places[0]) :], (*sizes, *array.shape[1:]), (*strides, *array.strides[1:]))


def rows_split(view: NDArray[Any], sizes: Sequence[int]) -> NDArray[Any]:
    """A view with its first dimension split into `sizes`."""
    assert prod(sizes) == view.shape[0]
    return view.reshape(*sizes, *view.shape[1:])


@dataclass(frozen=True)
class BlockOperand:
    """A constant matrix by its blocks.

    `values`: for each part its blocks transposed, [count, width, depth]. `gathered`: the rows of the other operand in
    the order of the blocks, which have to be brought into it; None where they are put there in this order.
    """

    blocks: Blocks
    values: tuple[Floats, ...]
    gathered: Places | None

    @staticmethod
    def of(matrix: Floats, pieces: Sequence[int]) -> BlockOperand | None:
        """The blocks of a matrix [rows, columns], if it pays to take them; `pieces`: rows that come together."""
        blocks = find_blocks(matrix, pieces)
        if blocks is None:
            return None
        rows, columns = np.argsort(blocks.rows), np.argsort(blocks.columns)
        values: list[Floats] = []
        for part in blocks.parts:
            own_rows = rows[part.row : part.row + part.count * part.depth].reshape(part.count, 1, part.depth)
            own = columns[part.column : part.column + part.count * part.width].reshape(part.count, part.width, 1)
            values.append(np.ascontiguousarray(matrix[own_rows, own]))
        in_order = all(regular(piece) is not None for piece in np.split(blocks.rows, np.cumsum(pieces)[:-1]))
        return BlockOperand(blocks, tuple(values), None if in_order else rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return sum(value.nbytes for value in self.values)

    @property
    def row_places(self) -> Places | None:
        """Where the rows of the other operand have to be put; None where that is their own order."""
        return self.blocks.rows if self.gathered is None else None

    @property
    def keeps_columns(self) -> bool:
        """Whether the columns are in their own order."""
        return np.array_equal(self.blocks.columns, np.arange(len(self.blocks.columns)))

    def multiply(self, moving: Floats, result: Floats) -> None:
        """result[columns, n] = matrix^T . moving[rows, n], the columns in the order of the blocks.

        Zero times infinity is NaN, as it is where nothing is left out: what is not finite, in rows that some block
        multiplies, shows in that block's result, and then all is multiplied.
        """
        finite = True
        if len(self.blocks.idle):
            idle = self.blocks.idle if self.gathered is not None else self.blocks.rows[self.blocks.idle]
            rows = rows_at(moving, idle)
            finite = bool(np.isfinite(moving[idle] if rows is None else rows).all())
        ordered = moving if self.gathered is None else moving[self.gathered]
        result[_covered(self.blocks.parts) :] = 0
        for part, values in zip(self.blocks.parts, self.values, strict=True):
            own = ordered[part.row : part.row + part.count * part.depth].reshape(part.count, part.depth, -1)
            out = result[part.column : part.column + part.count * part.width].reshape(part.count, part.width, -1)
            if not part.adds:
                np.matmul(values, own, out=out)
            elif part.depth == part.width == 1:
                out += own if (values == 1).all() else values * own
            else:
                out += np.matmul(values, own)
        if not (finite and np.isfinite(result).all()):
            np.matmul(self._dense(), ordered, out=result)

    def _dense(self) -> Floats:
        """The transposed matrix [columns, rows] in the order of the blocks."""
        whole = np.zeros((len(self.blocks.columns), len(self.blocks.rows)), np.float32)
        for part, values in zip(self.blocks.parts, self.values, strict=True):
            for number, value in enumerate(values):
                row, column = part.row + number * part.depth, part.column + number * part.width
                whole[column : column + part.width, row : row + part.depth] = value
        return whole
