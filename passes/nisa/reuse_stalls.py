"""Estimates what it costs that buffers share memory: how long a program with given addresses takes, on plain data.

Whoever writes to a place first waits for the last user of what lay there before. Given tasks in program order, with
their own dependences, `ReuseStalls` adds these and simulates the streams (`list_schedule.Streams`), so that placements
can be compared before any of them is written into a program.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from passes.nisa.list_schedule import Streams, Task, dependences


@dataclass(frozen=True)
class Occupant:
    """A buffer in memory: `size` units that tasks from `first` to `last` use."""

    key: int
    first: int
    last: int
    size: int


class ReuseStalls:
    """Times of one program with different addresses of its buffers.

    `free_ns`: time where no two buffers share memory, which no placement beats.
    """

    def __init__(self, tasks: Sequence[Task]):
        self.tasks = tasks
        self.predecessors = dependences(tasks)
        self.free_ns = self._time({})

    def time_ns(self, occupants: Sequence[Occupant], offsets: Mapping[int, int]) -> float:
        """Estimated time with these addresses; occupants that are live at once must not overlap."""
        return self._time(reuse_waits(occupants, offsets))

    def _time(self, waits: Mapping[int, Collection[int]]) -> float:
        predecessors = [
            (limit, [*others, *waits[number]] if number in waits else others)
            for number, (limit, others) in enumerate(self.predecessors)
        ]
        streams = Streams(self.tasks, predecessors)
        for number in range(len(self.tasks)):
            streams.run(number)
        return streams.end


class _Place(NamedTuple):
    """Units low .. high - 1 that a task was the last to use."""

    low: int
    high: int
    last: int


def reuse_waits(occupants: Sequence[Occupant], offsets: Mapping[int, int]) -> dict[int, set[int]]:
    """For each task that is the first to use a place again: the last users of what lay there before."""
    places: list[_Place] = []
    waits: dict[int, set[int]] = {}
    for occupant in sorted(occupants, key=lambda o: (o.first, o.key)):
        low = offsets[occupant.key]
        high = low + occupant.size
        # Places do not overlap, so that both their ends ascend.
        begin = bisect_right(places, low, key=lambda place: place.high)
        end = bisect_left(places, high, lo=begin, key=lambda place: place.low)
        covered = places[begin:end]
        before = {place.last for place in covered if place.last < occupant.first}
        if before:
            waits.setdefault(occupant.first, set()).update(before)
        kept = [_Place(low, high, occupant.last)]
        if covered and covered[0].low < low:
            kept.insert(0, covered[0]._replace(high=low))
        if covered and covered[-1].high > high:
            kept.append(covered[-1]._replace(low=high))
        places[begin:end] = kept
    return waits
