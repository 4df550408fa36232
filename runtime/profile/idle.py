"""The stall explainer: for every gap in which an engine had nothing to run, what it waited for, piece by piece.

All DMA rings share the DMA engines and count as one stream here, `DMA`. A gap before an event is cut into the waits of
the sequencer that handed the event over, what lies between hand-over and start, and the rest, which the sequencer
spent on control instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from runtime.profile.causes import NOTHING, Cause, Causes
from runtime.profile.columns import F64, I8, I16, I32, Array, Table
from runtime.profile.model import ENGINES, ProgramProfile

DMA = len(ENGINES)
"""Number of the stream that all transfers form."""
_SHORTEST_NS = 1e-3
"""Gaps below this come from rounding."""


class Reason(IntEnum):
    """What an idle stream waits for. The text says it after "waited for"."""

    SEMAPHORE = 0
    CONTROL = 1
    WEIGHTS = 2
    TRIGGER = 3
    PORT = 4
    RESULT = 5
    FINISHED = 6

    @property
    def text(self) -> str:
        """In words."""
        return _TEXTS[self]


_TEXTS = {
    Reason.SEMAPHORE: "a result of another stream",
    Reason.CONTROL: "control instructions of its sequencer",
    Reason.WEIGHTS: "weights to load",
    Reason.TRIGGER: "a transfer to reach its ring",
    Reason.PORT: "the memory port, which another engine used",
    Reason.RESULT: "an earlier result of its own",
    Reason.FINISHED: "nothing: it had no more to do",
}


@dataclass(frozen=True)
class Idle(Table):
    """Pieces of idle time, in order for each stream: from `since` to `until` (ns), for a `Reason`.

    `event`: the one that ran after the gap, or -1 at the end of the run. `producer`: event whose completion ended a
    wait, or that held the port. `wait`: row of `Waits`.
    """

    stream: I16
    event: I32
    since: F64
    until: F64
    reason: I8
    producer: I32
    wait: I32

    def by_reason(self, program: ProgramProfile) -> dict[tuple[int, Reason, int], float]:
        """(stream, reason, stream of the producer or NOTHING) -> ns, largest first."""
        total: dict[tuple[int, Reason, int], float] = {}
        producers = np.where(self.producer >= 0, streams_of(program)[self.producer], NOTHING)
        columns = (self.stream, self.reason, producers, self.until - self.since)
        for stream, reason, producer, length in zip(*(c.tolist() for c in columns), strict=True):
            key = (stream, Reason(reason), producer)
            total[key] = total.get(key, 0.0) + length
        return dict(sorted(total.items(), key=lambda item: -item[1]))


def streams_of(program: ProgramProfile) -> Array:
    """Stream of every event, where all transfers are `DMA`. One more row, NOTHING, for events that are not there."""
    return np.append(np.where(program.is_transfer(), DMA, program.stream), NOTHING)


def idle_of(program: ProgramProfile, causes: Causes) -> Idle:
    """The idle time of every engine that runs something, and of the DMA engines."""
    rows: list[tuple[int, int, float, float, int, int, int]] = []
    stream, finder = streams_of(program)[:-1], _Gap(program, causes)
    for number in range(DMA + 1):
        own = np.flatnonzero(stream == number)
        if not len(own):
            continue
        start = program.events.start[own]
        ends = np.maximum.accumulate(program.events.end[own])
        before = np.concatenate([[0.0], ends[:-1]])
        for place in np.flatnonzero(start - before > _SHORTEST_NS):
            event = int(own[place])
            pieces = finder.pieces(event, float(before[place]), float(start[place]))
            rows += [(number, event, *piece) for piece in pieces]
        if program.total_ns - ends[-1] > _SHORTEST_NS:
            rows.append((number, NOTHING, float(ends[-1]), program.total_ns, Reason.FINISHED, NOTHING, NOTHING))
    names = ("stream", "event", "since", "until", "reason", "producer", "wait")
    return Idle.of(**dict(zip(names, zip(*rows, strict=True), strict=True))) if rows else Idle.of()


class _Gap:
    """Cuts gaps into pieces."""

    def __init__(self, program: ProgramProfile, causes: Causes) -> None:
        self.program, self.causes = program, causes
        self.transfer = program.is_transfer()
        self.queue = program.instructions.queue[program.events.instruction]
        waits = program.waits
        rows = (np.flatnonzero(waits.queue == engine) for engine in range(len(ENGINES)))
        self.rows = [own[np.argsort(waits.until[own], kind="stable")] for own in rows]
        self.until = [waits.until[own] for own in self.rows]

    def pieces(self, event: int, since: float, until: float) -> list[tuple[float, float, int, int, int]]:
        """The pieces of the gap before an event: since, until, reason, producer, wait."""
        handed = min(until, max(since, float(self.program.events.dispatched[event])))
        found = list(self._sequencer(int(self.queue[event]), since, handed))
        if until - handed > _SHORTEST_NS:
            cause, other = Cause(int(self.causes.start[event])), int(self.causes.start_event[event])
            reason = Reason.TRIGGER if self.transfer[event] else Reason.WEIGHTS
            if cause in (Cause.PORT, Cause.RESULT):
                reason = Reason.PORT if cause == Cause.PORT else Reason.RESULT
            found.append((handed, until, reason, other if cause != Cause.DISPATCH else NOTHING, NOTHING))
        return found

    def _sequencer(self, queue: int, since: float, until: float) -> Iterator[tuple[float, float, int, int, int]]:
        """What the sequencer of `queue` did in this time."""
        waits, time = self.program.waits, since
        place = int(np.searchsorted(self.until[queue], since, side="right"))
        while place < len(self.rows[queue]) and waits.since[self.rows[queue][place]] < until:
            row = int(self.rows[queue][place])
            begin, end = max(since, float(waits.since[row])), min(until, float(waits.until[row]))
            if begin - time > _SHORTEST_NS:
                yield (time, begin, Reason.CONTROL, NOTHING, NOTHING)
            yield (begin, end, Reason.SEMAPHORE, int(self.causes.producers[row]), row)
            time, place = end, place + 1
        if until - time > _SHORTEST_NS:
            yield (time, until, Reason.CONTROL, NOTHING, NOTHING)
