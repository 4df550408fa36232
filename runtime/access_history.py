"""The accesses to one memory that later ones can still conflict with.

The memory's bytes are cut where accesses begin and end; each cell holds the last writes to it and the reads since, as
boxes of partitions. A new access looks at the cells it covers and drops what it covers and is ordered after: whoever is
ordered after the new access is ordered after those too. So a cell holds few accesses however long the program runs, and
looking up costs no more than the number of cells that an access spans.
"""

from bisect import bisect_left
from typing import NamedTuple

from runtime.vector_clocks import Clock


class Site(NamedTuple):
    """One dynamic access: `piece` of `stream`, partitions first .. last - 1, bytes low .. high - 1; `owner` is the
    caller's.
    """

    stream: int
    piece: int
    first: int
    last: int
    low: int
    high: int
    owner: object


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

    def access(self, site: Site, known: Clock, writes: bool) -> list[Site]:
        """Enter an access; the earlier conflicting ones that it is not ordered after.

        `known` is the clock that the access was issued with. Two accesses conflict when their boxes overlap and one
        writes.
        """
        found: list[Site] = []
        for cell in self._cells[self._cut(site.low) : self._cut(site.high)]:
            if not writes:
                _check(cell.writes, site, known, found)
                cell.reads = _after_read(cell.reads, site, known)
                continue
            _check(cell.writes, site, known, found)
            _check(cell.reads, site, known, found)
            cell.reads, cell.writes = _uncovered(cell.reads, site), _uncovered(cell.writes, site)
            cell.writes.append(site)
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


def _check(sites: list[Site], new: Site, known: Clock, found: list[Site]) -> None:
    """Add to `found` the sites that `new` overlaps and is not ordered after."""
    for site in sites:
        if (
            known[site.stream] < site.piece
            and site.stream != new.stream
            and site.first < new.last
            and new.first < site.last
            and site not in found
        ):
            found.append(site)


def _uncovered(sites: list[Site], new: Site) -> list[Site]:
    """Sites that the write `new` leaves: a covered one is ordered before it, or has just been reported."""
    _, _, first, last, _, _, _ = new
    return [site for site in sites if site.first < first or last < site.last]


def _after_read(sites: list[Site], new: Site, known: Clock) -> list[Site]:
    """Reads after the read `new`: those it covers and is ordered after are gone."""
    stream, _, first, last, _, _, _ = new
    kept = [
        site
        for site in sites
        if site.first < first or last < site.last or (site.stream != stream and known[site.stream] < site.piece)
    ]
    kept.append(new)
    return kept
