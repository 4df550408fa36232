"""Removes waits that order nothing which is not ordered already.

Two steps. `drop_known` looks at the text: a wait is dropped when the same queue waited for at least as much earlier.
`minimal_waits` looks at the expanded program: it replays all waits once with vector clocks (for each queue, how far it
knows every stream to have come) and keeps a wait only if some instance of it orders something that program order and
the other waits do not. Dependences in program order have no cycles, so all waits implied by others can go at once:
what remains, the transitive reduction, is unique and implies them. A wait of the reduction may still ask for more than
any conflict needs; whether some instance guards a real conflict is then tested on the boxes, and waits that guard none
are removed one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from neuron_dialects.access import Affine
from passes.nisa.memory_access import Access
from passes.nisa.program_tree import Loop, Node, ProgramTree, Statement, substituted
from passes.nisa.trace import Trace, boxes_conflict
from passes.nisa.wait_generation import WaitSet

MANY_TESTS = 20_000
"""Pairs of instances that are tested for a conflict before a wait is kept without a proof that it guards one."""


# -- by the text -----------------------------------------------------------------------------------------------------


def drop_known(tree: ProgramTree, sets: Sequence[WaitSet]) -> list[WaitSet]:
    """`sets` without what the same queue has waited for before, in the same or an enclosing iteration."""
    kept = [WaitSet(wait_set.statement) for wait_set in sets]
    _drop_known(tree.body, sets, kept, {}, {})
    return kept


Known = dict[tuple[str, str], list[Affine]]
"""(queue, stream) -> numbers that the queue has waited for."""


def _drop_known(
    body: Sequence[Node], sets: Sequence[WaitSet], kept: Sequence[WaitSet], known: Known, trips: dict[int, int]
) -> None:
    for node in body:
        if isinstance(node, Statement):
            for stream, count in sets[node.number].waits():
                if _learn(known.setdefault((node.engine, stream), []), count, trips):
                    kept[node.number].counts.setdefault(stream, []).append(count)
        elif isinstance(node, Loop) and node.trip_count > 0:
            inside = {key: list(counts) for key, counts in known.items()}
            _drop_known(node.body, sets, kept, inside, {**trips, node.variable: node.trip_count})
            last = {node.variable: node.trip_count - 1}
            for key, counts in inside.items():
                before = known.setdefault(key, [])
                for count in counts:
                    _learn(before, substituted(count, last), trips)


def _learn(known: list[Affine], count: Affine, trips: dict[int, int]) -> bool:
    """Add a number to those known, unless one of them is never smaller; whether it was added."""
    if any((other - count).bounds(trips)[0] >= 0 for other in known):
        return False
    known[:] = [*(other for other in known if (count - other).bounds(trips)[0] < 0), count]
    return True


# -- by replay -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wait:
    """One static wait: a statement waits until `stream` has completed `count` instructions."""

    number: int
    statement: Statement
    stream: int
    count: Affine


@dataclass
class _Verdicts:
    """What one replay found, by wait number."""

    needed: set[int] = field(default_factory=set)
    """Some instance orders something that nothing else orders."""
    guarding: set[int] = field(default_factory=set)
    """Some instance guards a conflict that nothing else guards."""


def minimal_waits(trace: Trace, sets: Sequence[WaitSet], accesses: Sequence[list[Access]]) -> list[WaitSet]:
    """The waits of `sets` that each guard a conflict which nothing else guards."""
    # Waits dropped by the text are missed only once a wait that implied them turns out to guard nothing itself.
    replay = _Replay(trace, drop_known(trace.tree, sets), accesses)
    active = {wait.number for wait in replay.waits}
    verdicts = replay.run(active, set())
    if verdicts.needed - verdicts.guarding:
        replay = _Replay(trace, sets, accesses)
        active = {wait.number for wait in replay.waits}
        verdicts = replay.run(active, set())
    while removable := _removable(replay, active, verdicts):
        active -= removable
        verdicts = replay.run(active, set())
    kept = [WaitSet(wait_set.statement) for wait_set in sets]
    for wait in replay.waits:
        if wait.number in verdicts.needed:
            kept[wait.statement.number].counts.setdefault(trace.streams[wait.stream], []).append(wait.count)
    return kept


def _removable(replay: _Replay, active: set[int], verdicts: _Verdicts) -> set[int]:
    """Some waits that may go, because without them all the conflicts that they guard are guarded still."""
    doubtful = verdicts.needed - verdicts.guarding
    if not doubtful:
        return set()
    # Whoever guards nothing while all of them are away guards nothing when only some are.
    removable = doubtful - replay.run(active, doubtful).guarding
    if removable:
        return removable
    alone = (number for number in sorted(doubtful) if number not in replay.run(active, {number}).guarding)
    return set(islice(alone, 1))


class _Replay:
    """Replays the waits of a program. A clock says for each stream how many of its instructions are done."""

    def __init__(self, trace: Trace, sets: Sequence[WaitSet], accesses: Sequence[list[Access]]) -> None:
        self._trace = trace
        self._accesses = accesses
        self._order = [trace.order[stream] for stream in trace.streams]
        self._queues = [trace.queue_of[stream] for stream in trace.streams]
        stream_number = {stream: number for number, stream in enumerate(trace.streams)}
        self.waits: list[_Wait] = []
        for wait_set in sets:
            for stream, count in wait_set.waits():
                self.waits.append(_Wait(len(self.waits), wait_set.statement, stream_number[stream], count))
        self._tests = [0] * len(self.waits)
        self._events = self._all_events()

    def _all_events(self) -> list[tuple[int, int, int, int]]:
        """(position, wait, count, instance) of every instance of a wait for more than nothing, in program order."""
        parts = [np.zeros((4, 0), dtype=np.int64)]
        for wait in self.waits:
            counts = self._trace.values(wait.statement, wait.count)
            (instances,) = np.nonzero(counts > 0)
            positions = self._trace.positions(wait.statement)[instances]
            parts.append(np.stack([positions, np.full_like(positions, wait.number), counts[instances], instances]))
        rows = np.concatenate(parts, axis=1)
        rows = rows[:, np.lexsort((rows[1], rows[0]))]
        return list(zip(*rows.tolist(), strict=True))

    def run(self, active: set[int], removed: set[int]) -> _Verdicts:
        """Replay the active waits as if those of `removed` were not there; verdicts are on all active ones."""
        verdicts = _Verdicts()
        start: tuple[int, ...] = (0,) * len(self._order)
        clocks: dict[str, tuple[int, ...]] = dict.fromkeys(self._queues, start)
        history: dict[str, tuple[list[int], list[tuple[int, ...]]]] = {q: ([-1], [start]) for q in self._queues}
        index, total = 0, len(self._events)
        while index < total:
            position = self._events[index][0]
            events: list[tuple[int, int, int, int]] = []
            while index < total and self._events[index][0] == position:
                if self._events[index][1] in active:
                    events.append(self._events[index])
                index += 1
            if not events:
                continue
            queue = self.waits[events[0][1]].statement.engine
            clock = clocks[queue]
            # What is known once each of the waits is over, besides what is known already.
            unknown = [event for event in events if clock[self.waits[event[1]].stream] < event[2]]
            if not unknown:
                continue
            learned = [self._clock_after(event, history) for event in unknown]
            self._judge(unknown, learned, clock, removed, verdicts)
            for event, other in zip(unknown, learned, strict=True):
                if event[1] not in removed:
                    clock = tuple(map(max, clock, other))
            clocks[queue] = clock
            history[queue][0].append(position)
            history[queue][1].append(clock)
        return verdicts

    def _clock_after(
        self, event: tuple[int, int, int, int], history: dict[str, tuple[list[int], list[tuple[int, ...]]]]
    ) -> tuple[int, ...]:
        """What is known to be done when the awaited instruction is done."""
        stream, count = self.waits[event[1]].stream, event[2]
        positions, clocks = history[self._queues[stream]]
        clock = clocks[bisect_right(positions, self._order[stream][0][count - 1]) - 1]
        return (*clock[:stream], count, *clock[stream + 1 :])

    def _judge(
        self,
        events: Sequence[tuple[int, int, int, int]],
        learned: Sequence[tuple[int, ...]],
        clock: tuple[int, ...],
        removed: set[int],
        verdicts: _Verdicts,
    ) -> None:
        """Decide for each wait of one instance whether the clock and the other waits imply it."""
        for i, (_, number, count, instance) in enumerate(events):
            stream = self.waits[number].stream
            known = clock[stream]
            for j, other in enumerate(events):
                # Of two equal waits the first one stays.
                equal = self.waits[other[1]].stream == stream and other[2] == count
                if i != j and other[1] not in removed and not (equal and j > i):
                    known = max(known, learned[j][stream])
            if known >= count:
                continue
            verdicts.needed.add(number)
            if number not in verdicts.guarding and self._guards(number, instance, known, count):
                verdicts.guarding.add(number)

    def _guards(self, number: int, instance: int, known: int, count: int) -> bool:
        """Whether an instruction between the first `known` ones and the awaited one conflicts with the waiting one."""
        wait = self.waits[number]
        mine = self._accesses[wait.statement.number]
        values = self._trace.loop_values(wait.statement, instance)
        _, statements, instances = self._order[wait.stream]
        for done in range(count - 1, known - 1, -1):
            if self._tests[number] >= MANY_TESTS:
                return True
            self._tests[number] += 1
            other = self._trace.tree.statements[statements[done]]
            other_values = self._trace.loop_values(other, instances[done])
            if boxes_conflict(self._accesses[other.number], other_values, mine, values):
                return True
        return False
