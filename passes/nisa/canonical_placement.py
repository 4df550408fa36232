"""Searches for a placement that fits, among those in which each occupant rests on another or on the floor.

A placement that fits can be pushed down until nothing moves any more, so these canonical placements are all that has
to be looked at. They are built from the floor up: occupants are placed by ascending offset, each on what lies under it,
and a branch is left as soon as some position has more to hold than is left above its floor. The search is complete, so
that its end without a placement proves that there is none; it is also bounded, in steps and not in seconds, so that the
same occupants get the same addresses on every machine. Which of several occupants that could rest next is tried first
decides nearly everything: a few orders are tried in turn, each for a while.

The idea of searching canonical solutions is that of Moffitt, MiniMalloc (ASPLOS 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from passes.nisa.allocation import Interval, load_profile, neighbours_of

Integers = np.ndarray[Any, np.dtype[np.int64]]

FAR = np.iinfo(np.int64).max // 4
"""Above every offset."""

PATIENCE_STEPS = 256
"""Steps that an order gets besides one for each interval; orders that work seldom need a hundred."""

MOST_WORK = 100_000_000
"""Members of sections looked at, over all steps of all orders: some tenths of a second."""


@dataclass(frozen=True)
class SearchResult:
    """`offsets` by index, None when none were found; then `proved` says that there are none. `steps` were taken."""

    offsets: list[int] | None
    proved: bool
    steps: int


def search_placement(intervals: Sequence[Interval], capacity: int, patience: int = PATIENCE_STEPS) -> SearchResult:
    """Offsets within `capacity` for all intervals, found in at most (intervals + `patience`) steps for each order."""
    if not intervals:
        return SearchResult([], False, 0)
    if max(load_profile(intervals)) > capacity:
        return SearchResult(None, True, 0)
    problem = _Problem(intervals, capacity)
    steps, most_steps = 0, MOST_WORK // len(problem.members)
    for key in _orders(problem):
        if steps + len(intervals) > most_steps:
            break
        rank = np.empty(len(intervals), np.int64)
        rank[sorted(range(len(intervals)), key=key)] = np.arange(len(intervals))
        search = _Search(problem, rank, len(intervals) + patience)
        offsets = search.run()
        steps += search.steps
        if offsets is not None or search.steps <= search.limit:
            return SearchResult(offsets, offsets is None, steps)
    return SearchResult(None, False, steps)


class _Problem:
    """The intervals as arrays, over the sections: positions at which a maximal set of them is live."""

    def __init__(self, intervals: Sequence[Interval], capacity: int):
        self.capacity = capacity
        self.sizes: Integers = np.array([i.size for i in intervals], np.int64)
        self.neighbours: list[Integers] = [np.array(n, np.int64) for n in neighbours_of(intervals)]
        sections = _sections(intervals)
        positions = [position for position, _ in sections]
        starts, ends = ([getattr(i, side) for i in intervals] for side in ("start", "end"))
        # Sections first .. last - 1 of each interval, members of each section one after the other.
        self.first: Integers = np.searchsorted(positions, starts, "left")
        self.last: Integers = np.searchsorted(positions, ends, "right")
        self.members: Integers = np.array([i for _, live in sections for i in live], np.int64)
        self.member_starts: Integers = np.cumsum([0, *(len(live) for _, live in sections[:-1])])
        self.loads: Integers = np.add.reduceat(self.sizes[self.members], self.member_starts)


def _sections(intervals: Sequence[Interval]) -> list[tuple[int, list[int]]]:
    """(position, indices live there) for every position at which no more intervals are live than at a neighbouring one.

    Those are the positions before an end that follows a start: any set that is live at once is part of one of them.
    """
    events = sorted(
        [(i.start, 0, index) for index, i in enumerate(intervals)]
        + [(i.end, 1, index) for index, i in enumerate(intervals)]
    )
    live: dict[int, None] = {}
    sections: list[tuple[int, list[int]]] = []
    grew = False
    for position, is_end, index in events:
        if not is_end:
            live[index], grew = None, True
            continue
        if grew:
            sections.append((position, list(live)))
            grew = False
        del live[index]
    return sections


def _orders(problem: _Problem) -> list[Callable[[int], tuple[int, ...]]]:
    """Which of the intervals that could rest at one offset is tried first: the smallest key. Most promising first."""
    first, last, sizes = (array.tolist() for array in (problem.first, problem.last, problem.sizes))
    lengths = [b - a for a, b in zip(first, last, strict=True)]
    areas = [length * size for length, size in zip(lengths, sizes, strict=True)]
    crowds: list[int] = [int(problem.loads[a:b].max()) for a, b in zip(first, last, strict=True)]
    return [
        lambda i: (-crowds[i], -areas[i], -lengths[i], i),
        lambda i: (-last[i], -lengths[i], i),
        lambda i: (-lengths[i], -crowds[i], -areas[i], i),
        lambda i: (-areas[i], i),
        lambda i: (first[i], -lengths[i], i),
        lambda i: (-crowds[i], -lengths[i], -areas[i], i),
        lambda i: (-sizes[i], -lengths[i], i),
    ]


@dataclass
class _Choice:
    """A level of the search: who could rest next from offset `low` on, and what to restore when a try is taken back."""

    candidates: list[int]
    low: int
    next: int = 0
    placed: int = -1
    raised: Integers = field(default_factory=lambda: np.empty(0, np.int64))
    refused: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])


class _Search:
    """Depth-first search with one preference. `supports`: where each interval would rest on what is placed so far."""

    def __init__(self, problem: _Problem, rank: Integers, limit: int):
        count = len(problem.sizes)
        self.problem, self.rank, self.limit = problem, rank, limit
        self.steps = 0
        self.supports: Integers = np.zeros(count, np.int64)
        self.offsets: Integers = np.full(count, -1, np.int64)
        # The support at which an interval was tried in vain: it has to be raised before it is tried again.
        self.refused: Integers = np.full(count, -1, np.int64)
        self.remaining: Integers = problem.loads.copy()

    def run(self) -> list[int] | None:
        """Offsets, or None: because there are none if `steps` is at most `limit`."""
        levels = [_Choice(self._candidates(0), 0)]
        while levels:
            level = levels[-1]
            if level.placed >= 0:
                self._take_back(level)
            if level.next == len(level.candidates):
                for index, before in reversed(level.refused):
                    self.refused[index] = before
                levels.pop()
                continue
            self.steps += 1
            if self.steps > self.limit:
                return None
            offset = self._place(level)
            if len(levels) == len(self.offsets):
                return [int(offset) for offset in self.offsets]
            levels.append(_Choice(self._candidates(offset), offset))
        return None

    def _candidates(self, low: int) -> list[int]:
        """Who could rest next, at offset `low` or above, the most promising first; empty where no placement fits."""
        problem = self.problem
        lowest = np.where(self.offsets < 0, np.maximum(self.supports, low), FAR)
        floors = np.minimum.reduceat(lowest[problem.members], problem.member_starts)
        if (np.where(self.remaining > 0, floors, 0) + self.remaining > problem.capacity).any():
            return []
        # Whoever fits wholly under an offset would have been pushed down there, so nobody rests so high before that.
        ceiling = (lowest + problem.sizes).min()
        rests = (lowest < ceiling) & (self.supports >= low) & (self.supports != self.refused)
        found = np.nonzero(rests)[0]
        return [int(i) for i in found[np.lexsort((self.rank[found], lowest[found]))]]

    def _place(self, level: _Choice) -> int:
        index = level.candidates[level.next]
        level.next += 1
        problem, offset = self.problem, int(self.supports[index])
        above = problem.neighbours[index]
        level.placed, level.raised = index, self.supports[above]
        self.offsets[index] = offset
        self.supports[above] = np.maximum(level.raised, offset + problem.sizes[index])
        self.remaining[problem.first[index] : problem.last[index]] -= problem.sizes[index]
        return offset

    def _take_back(self, level: _Choice) -> None:
        index, problem = level.placed, self.problem
        self.supports[problem.neighbours[index]] = level.raised
        self.offsets[index] = -1
        self.remaining[problem.first[index] : problem.last[index]] += problem.sizes[index]
        level.refused.append((index, int(self.refused[index])))
        self.refused[index] = self.supports[index]
        level.placed = -1
