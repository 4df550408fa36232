"""Places things that live for a while into one linear memory (dynamic storage allocation): the greedy algorithms.

Given intervals of program positions with sizes, an offset for each is wanted, so that no two that live at the same
position overlap. Units are the caller's: bytes of a partition, banks. The problem is NP-complete. `place_tight` tries
several greedy orders and keeps the best. `place_spread` uses memory in turn instead: a new occupant takes the place
that has been free for longest, so that whoever fills it need not wait for whoever used it just now. `placement_ladder`
tells which is used when, and what comes after.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

MANY_PAIRS = 500_000
"""From this many pairs of intervals on that live at the same time, the first order that fits is good enough."""

MANY_STRETCHES = 128
"""From this many free stretches on, those released long ago count as never used, so that they can be joined."""

LONG_AGO = 32
"""Positions after which it no longer matters who used a place before."""

_FLOOR = np.zeros(1, np.int64)


@dataclass(frozen=True)
class Interval:
    """An occupant of `size` units from position `start` to position `end`, both included."""

    key: int
    start: int
    end: int
    size: int


@dataclass(frozen=True)
class Placement:
    """Offset by key, and the units that the tightest placement found needs.

    `needed` is at most the capacity exactly when everything fits; `misfits` are the keys that lie beyond it otherwise.
    `rung`: of the ladder, that found it; `proved`: that there are misfits in any placement.
    """

    offsets: dict[int, int]
    needed: int
    misfits: tuple[int, ...] = ()
    rung: str = "greedy"
    proved: bool = False


def load_profile(intervals: Sequence[Interval]) -> list[int]:
    """Units that are live at each position, from 0 to the last end. Its maximum is a lower bound of what is needed."""
    if not intervals:
        return []
    changes = [0] * (max(interval.end for interval in intervals) + 2)
    for interval in intervals:
        changes[interval.start] += interval.size
        changes[interval.end + 1] -= interval.size
    load, profile = 0, list[int]()
    for change in changes[:-1]:
        load += change
        profile.append(load)
    return profile


# -- tight: several greedy orders ------------------------------------------------------------------------------------


def _orders(intervals: Sequence[Interval]) -> Iterator[list[int]]:
    """Orders in which intervals are placed, most promising first; ties are broken by index, to be reproducible."""
    indices = range(len(intervals))

    def lifetime(i: int) -> int:
        return intervals[i].end - intervals[i].start + 1

    keys: tuple[Callable[[int], tuple[int, ...]], ...] = (
        lambda i: (-intervals[i].size, -lifetime(i), i),
        lambda i: (-intervals[i].size * lifetime(i), i),
        lambda i: (-lifetime(i), -intervals[i].size, i),
        lambda i: (intervals[i].start, -intervals[i].size, i),
        lambda i: (intervals[i].start, -lifetime(i), i),
        lambda i: (-intervals[i].end, -intervals[i].size, i),
    )
    for key in keys:
        yield sorted(indices, key=key)


def place_tight(intervals: Sequence[Interval], capacity: int, tightest: bool = True) -> Placement:
    """The placement with the smallest extent over all orders, first fit and best fit.

    Unless the `tightest` is asked for, and where there are very many pairs, the first that fits is good enough.
    """
    bound = max(load_profile(intervals), default=0)
    neighbours = [np.array(n, np.int64) for n in neighbours_of(intervals)]
    many = not tightest or sum(len(n) for n in neighbours) > 2 * MANY_PAIRS
    best: list[int] | None = None
    best_extent = 0
    for order in _orders(intervals):
        for best_fit in (False, True):
            offsets = _place_in_order(intervals, neighbours, order, best_fit)
            extent = max((o + i.size for o, i in zip(offsets, intervals, strict=True)), default=0)
            if best is None or extent < best_extent:
                best, best_extent = offsets, extent
            if best_extent == bound or (many and best_extent <= capacity):
                return _placement(intervals, best, best_extent, capacity)
    return _placement(intervals, best or [], best_extent, capacity)


def _placement(intervals: Sequence[Interval], offsets: Sequence[int], extent: int, capacity: int) -> Placement:
    pairs = list(zip(intervals, offsets, strict=True))
    misfits = tuple(interval.key for interval, offset in pairs if offset + interval.size > capacity)
    return Placement({interval.key: offset for interval, offset in pairs}, extent, misfits)


def neighbours_of(intervals: Sequence[Interval]) -> list[list[int]]:
    """For each interval those that share a position with it."""
    neighbours: list[list[int]] = [[] for _ in intervals]
    live: list[int] = []
    for i in sorted(range(len(intervals)), key=lambda i: intervals[i].start):
        live = [j for j in live if intervals[j].end >= intervals[i].start]
        for j in live:
            neighbours[i].append(j)
            neighbours[j].append(i)
        live.append(i)
    return neighbours


def _place_in_order(
    intervals: Sequence[Interval], neighbours: Sequence[Integers], order: Sequence[int], best_fit: bool
) -> list[int]:
    """Give each interval the lowest gap between its placed neighbours that holds it, or the smallest such gap."""
    offsets = np.full(len(intervals), -1, np.int64)
    ends = np.zeros(len(intervals), np.int64)
    for i in order:
        size, beside = intervals[i].size, neighbours[i]
        beside = beside[offsets[beside] >= 0]
        lows = offsets[beside]
        by_offset = lows.argsort()
        # In front of each neighbour lies a gap that reaches down to the highest end of those below it.
        floors = np.concatenate([_FLOOR, np.maximum.accumulate(ends[beside[by_offset]])])
        gaps = lows[by_offset] - floors[:-1]
        (fitting,) = np.nonzero(gaps >= size)
        if len(fitting):
            chosen = fitting[gaps[fitting].argmin()] if best_fit else fitting[0]
            offsets[i] = floors[chosen]
        else:
            offsets[i] = floors[-1]
        ends[i] = offsets[i] + size
    return offsets.tolist()


# -- spread: the place that has been free for longest ----------------------------------------------------------------


@dataclass(frozen=True, order=True)
class _Stretch:
    """Units low .. high - 1, free since position `freed` (-1: never used)."""

    low: int
    high: int
    freed: int


def place_spread(intervals: Sequence[Interval], capacity: int) -> dict[int, int] | None:
    """Offsets by key, each interval where memory has been free for longest; None when that leaves one without."""
    free = [_Stretch(0, capacity, -1)]
    live: list[tuple[int, int, int]] = []
    offsets: dict[int, int] = {}
    for interval in sorted(intervals, key=lambda i: (i.start, -i.size, i.key)):
        for end, low, high in live:
            if end < interval.start:
                insort(free, _Stretch(low, high, end))
        live = [occupant for occupant in live if occupant[0] >= interval.start]
        if len(free) > MANY_STRETCHES:
            free = _joined(free, interval.start - LONG_AGO)
        low = _longest_free(free, interval.size)
        if low is None:
            return None
        free = _without(free, low, low + interval.size)
        live.append((interval.end, low, low + interval.size))
        offsets[interval.key] = low
    return offsets


def _joined(free: Sequence[_Stretch], oldest: int) -> list[_Stretch]:
    """Adjoining stretches of one age as one, where whatever was released before `oldest` counts as never used."""
    joined: list[_Stretch] = []
    for stretch in free:
        freed = stretch.freed if stretch.freed >= oldest else -1
        if joined and joined[-1].high == stretch.low and joined[-1].freed == freed:
            joined[-1] = _Stretch(joined[-1].low, stretch.high, freed)
        else:
            joined.append(_Stretch(stretch.low, stretch.high, freed))
    return joined


def _longest_free(free: Sequence[_Stretch], size: int) -> int | None:
    """Start of the `size` free units whose latest release is earliest; the lowest of equals."""
    best: tuple[int, int] | None = None
    for first, stretch in enumerate(free):
        # Units from the start of this stretch on, over as many adjoining stretches as it takes.
        end, freed, index = stretch.high, stretch.freed, first + 1
        while end - stretch.low < size and index < len(free) and free[index].low == end:
            end, freed, index = free[index].high, max(freed, free[index].freed), index + 1
        if end - stretch.low >= size and (best is None or (freed, stretch.low) < best):
            best = (freed, stretch.low)
    return None if best is None else best[1]


def _without(free: Sequence[_Stretch], low: int, high: int) -> list[_Stretch]:
    """The free stretches less the units low .. high - 1."""
    remaining: list[_Stretch] = []
    for stretch in free:
        if stretch.high <= low or stretch.low >= high:
            remaining.append(stretch)
            continue
        if stretch.low < low:
            remaining.append(_Stretch(stretch.low, low, stretch.freed))
        if stretch.high > high:
            remaining.append(_Stretch(high, stretch.high, stretch.freed))
    return remaining
