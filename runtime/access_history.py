"""The accesses to one memory that later ones can still conflict with.

The memory's bytes are cut where accesses begin and end; each cell holds the last writes to it and the reads since, as boxes
of partitions. A new access looks at the cells it covers and drops what it covers and is ordered after: whoever is ordered
after the new access is ordered after those too. So a cell holds few accesses however long the program runs, and looking up costs
no more than the number of cells that an access spans.
"""

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from runtime.vector_clocks import Clock


class Site(NamedTuple):
    """One dynamic access: `piece` of `stream`, on partitions first .. last - 1; `entry` is the owner's own reference."""

    stream: int
    piece: int
    first: int
    last: int
    entry: object


class _Cell:
    """Bytes that no access has distinguished so far."""

    __slots__ = ("reads", "writes")

    def __init__(self, reads: list[Site], writes: list[Site]) -> None:
        self.reads, self.writes = reads, writes


class AccessHistory:
    """Live accesses of one memory of `size` bytes (per partition)."""

    def __init__(self, size: int) -> None:
        self._starts = [0, size]
        self._cells = [_Cell([], [])]

    def access(self, site: Site, known: Clock, low: int, high: int, writes: bool) -> list[Site]:
        """Enter an access to bytes low .. high - 1; the earlier conflicting accesses that it is not ordered after.

        `known` is the clock that the access was issued with. Two accesses conflict when their boxes overlap and one writes.
        """
        found: list[Site] = []
        for cell in self._cells[self._cut(low) : self._cut(high)]:
            cell.writes = _merge(cell.writes, site, known, found, drop=writes)
            if writes:
                cell.reads = _merge(cell.reads, site, known, found, drop=True)
                cell.writes.append(site)
            else:
                cell.reads = _subsume(cell.reads, site, known)
        return found

    def _cut(self, position: int) -> int:
        """Index of the cell that starts at `position`; a cell that spans it is cut in two."""
        starts = self._starts
        index = bisect_left(starts, position)
        if starts[index] != position:
            starts.insert(index, position)
            cell = self._cells[index - 1]
            self._cells.insert(index, _Cell(list(cell.reads), list(cell.writes)))
        return index


def _merge(sites: list[Site], new: Site, known: Clock, found: list[Site], drop: bool) -> list[Site]:
    """Earlier sites that stay beside `new`, which conflicts with those it overlaps; unordered ones go to `found`."""
    if not sites:
        return sites
    stream, _, first, last, _ = new
    kept: list[Site] = []
    for site in sites:
        if site.first >= last or first >= site.last:
            kept.append(site)
            continue
        if site.stream != stream and known[site.stream] < site.piece and site not in found:
            found.append(site)
        # A covered site that is not ordered has been reported; keeping it would only repeat the report.
        if not (drop and first <= site.first and site.last <= last):
            kept.append(site)
    return kept


def _subsume(sites: list[Site], new: Site, known: Clock) -> list[Site]:
    """Reads after the read `new`: those it covers and is ordered after are gone."""
    stream, _, first, last, _ = new
    kept = [
        site
        for site in sites
        if not (first <= site.first and site.last <= last and (site.stream == stream or known[site.stream] >= site.piece))
    ]
    kept.append(new)
    return kept
