"""Who touched which bytes last: accesses of earlier top-level statements that later ones may still depend on.

Accesses are entered nest by nest. An earlier access drops out where a later one takes its place: a write that surely
covers the bytes (whoever conflicts with the earlier access there also conflicts with the write, which comes after it),
or a read that follows reads in the same stream. So the number of accesses kept does not grow with the length of the
program.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from passes.nisa.memory_access import Access, Region


class RegionMap:
    """The accesses of one memory (or one DRAM tensor), by the bytes that they touch."""

    def __init__(self) -> None:
        # Cell i holds what touched the bytes from _lows[i] to _lows[i + 1] - 1; the last one has no end.
        self._lows: list[int] = [0]
        self._cells: list[tuple[Access, ...]] = [()]

    def touching(self, regions: Sequence[Region]) -> Iterable[Access]:
        """The accesses kept that touch any of the regions, each once."""
        found: dict[Access, None] = {}
        for region in regions:
            first = max(0, bisect_right(self._lows, region.low) - 1)
            for cell in self._cells[first : bisect_right(self._lows, region.high)]:
                found.update(dict.fromkeys(cell))
        return found

    def enter(self, accesses: Sequence[Access]) -> None:
        """Add the accesses of one top-level statement, which come after all that were entered before."""
        new = set(accesses)
        for access in accesses:
            for region in access.regions:
                self._enter(access, region, new)

    def _enter(self, access: Access, region: Region, new: set[Access]) -> None:
        first, last = self._split(region.low), self._split(region.high + 1)
        lows: list[int] = []
        cells: list[tuple[Access, ...]] = []
        for index in range(first, last):
            cell = self._cells[index]
            if region.covered:
                cell = tuple(e for e in cell if e in new or not _replaces(access, e))
            cell = (*cell, access)
            if not cells or cells[-1] != cell:
                lows.append(self._lows[index])
                cells.append(cell)
        self._lows[first:last] = lows
        self._cells[first:last] = cells

    def _split(self, byte: int) -> int:
        """Make `byte` the first one of a cell, whose index is returned."""
        index = bisect_right(self._lows, byte) - 1
        if index < 0:
            self._lows.insert(0, byte)
            self._cells.insert(0, ())
            return 0
        if self._lows[index] == byte:
            return index
        self._lows.insert(index + 1, byte)
        self._cells.insert(index + 1, self._cells[index])
        return index + 1


def _replaces(later: Access, earlier: Access) -> bool:
    """Whether everything that must follow `earlier` must follow `later`, where they touch the same bytes."""
    if later.first_partition > earlier.first_partition or later.last_partition < earlier.last_partition:
        return False
    return later.writes or (not earlier.writes and later.stream == earlier.stream)
