"""Feature maps on chip with two neighbouring rows beside each other on partitions, and pools of them.

A kernel that knows such a tensor finds it in `Kernel.pairs`, as [images, 2 * channels, pairs of rows, columns]; for any
other one it is stored to DRAM. Pools take the maximum of the columns first, of both rows at once, and then that of the
rows, from the two halves of the partitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.iteration import balanced
from lowering.graph_to_tile.tensors import DramTensor, SbufTensor, Tensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph.layout import ROWS_OF_PAIR
from passes.graph.residence import Halo
from passes.graph.row_pairs import ROW_HALO, ROWS, RowHalo

STORED_COPIES = 6
"""Copies of what a pool leaves for the DMA: its stores may queue behind those of what it reads."""


@dataclass(frozen=True)
class RowPairs:
    """A tensor of pairs of rows: `tensor` as [images, 2 * channels, pairs, columns], the first pair at row -`low`."""

    tensor: SbufTensor
    rows: RowHalo

    @property
    def channels(self) -> int:
        """Channels of the feature map."""
        return self.tensor.shape[1] // ROWS_OF_PAIR

    def half(self, row: int) -> View:
        """[channels, images, pairs, columns] of the first or second rows of the pairs."""
        return self.tensor.view({}).slice(0, row * self.channels, self.channels)

    @property
    def whole_pairs(self) -> View | None:
        """[2 * channels, images, pairs, columns] without the halo; None where that begins or ends within a pair."""
        (first, count, pair), (_, other, _) = self.rows_of(0), self.rows_of(1)
        return self.tensor.view({ROWS: (pair, count)}) if not first and count == other else None

    def rows_of(self, half: int) -> tuple[int, int, int]:
        """(first row, rows, first pair) of what half of the pairs hold, without those of the halo."""
        first = (half - self.rows.low) % ROWS_OF_PAIR
        count = ceil((self.rows.rows - first) / ROWS_OF_PAIR)
        return first, count, (first + self.rows.low) // ROWS_OF_PAIR


def new_pairs(b: KernelBuilder, shape: Sequence[int], halo: Halo, dtype: str) -> RowPairs:
    """A buffer for a feature map of `shape` in pairs of rows; nothing is written to it."""
    images, channels, rows, columns = shape
    around = RowHalo(rows, *halo[ROW_HALO]) if halo else RowHalo(rows)
    pairs = (images, channels * ROWS_OF_PAIR, around.pairs, columns)
    beside = ((0, 0), (0, 0), halo[ROW_HALO + 1]) if halo else ()
    buffer = b.alloc_outer(SbufTensor.buffer_shape(pairs, 1, beside), dtype, "sbuf")
    return RowPairs(SbufTensor(buffer, pairs, 1, beside), around)


def clear_rows(b: KernelBuilder, pairs: RowPairs) -> None:
    """Write zeros to the rows of the halo: a convolution that made whole pairs has left something there."""
    for half in range(ROWS_OF_PAIR):
        _, count, first = pairs.rows_of(half)
        for start, size in ((0, first), (first + count, pairs.rows.pairs - first - count)):
            if size:
                b.memset(pairs.half(half).slice(2, start, size), 0.0)


def windows_of(pairs: RowPairs, destination: DramTensor) -> list[tuple[View, View]]:
    """For each half of the pairs its rows in DRAM, and on chip: [channels, images, rows, columns]."""
    found: list[tuple[View, View]] = []
    for half in range(ROWS_OF_PAIR):
        row, count, first = pairs.rows_of(half)
        if count:
            starts, sizes, steps = [0] * 4, list(destination.shape), [1] * 4
            starts[ROWS], sizes[ROWS], steps[ROWS] = row, count, ROWS_OF_PAIR
            place = destination.slice(starts, sizes, steps).view(order=[1, 0, 2, 3])
            found.append((place, pairs.half(half).slice(2, first, count)))
    return found


def pool_pairs(b: KernelBuilder, pairs: RowPairs, out: Tensor, limit: int) -> None:
    """The maximum of windows of two by two; `limit`: elements of a lane that are worked on at once."""
    assert not pairs.rows.low % ROWS_OF_PAIR
    images, channels, rows, columns = out.shape
    size = balanced(rows, max(1, limit // (ROWS_OF_PAIR * columns)))

    def piece(image: Affine, start: Affine, count: int) -> None:
        first = start + pairs.rows.low // ROWS_OF_PAIR
        ranges = {0: (image, 1), 1: (Affine(0), channels)}
        block = pairs.tensor.view({0: (image, 1), ROWS: (first, count)}).at(1, 0)
        block = block.slice(2, 0, columns * ROWS_OF_PAIR).split(1, (columns, ROWS_OF_PAIR))
        wide = b.alloc((channels * ROWS_OF_PAIR, count, columns), pairs.tensor.dtype, "sbuf", b.rotation).view()
        b.reduce(wide, block, "maximum")
        view, commit = out.store(b, 1, {**ranges, ROWS: (start, count)}, None, STORED_COPIES)
        halves = [wide.slice(0, half * channels, channels) for half in range(ROWS_OF_PAIR)]
        b.tensor_tensor(view.at(1, 0), halves[0], halves[1], "maximum")
        commit()

    with b.loop(images) as image:
        b.tiles(rows, size, lambda start, count: piece(image, start, count))
