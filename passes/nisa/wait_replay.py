"""Replays the waits of a program over its expanded trace, to find out what each of them is good for.

For each queue a clock says how many instructions of each stream it knows to be done; waiting for an instruction
teaches a queue what the instruction's own queue knew when it started. Only instances of waits are visited, not all
instructions.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from neuron_dialects.access import Affine
from passes.nisa.memory_access import Access
from passes.nisa.program_tree import Statement
from passes.nisa.trace import Trace, boxes_conflict
from passes.nisa.wait_generation import WaitSet

MANY_TESTS = 20_000
"""Pairs of instances that are tested for conflicts of one wait; then it is taken to guard one, without a proof."""

FEW_INSTANCES = 16
"""First instances of a wait that are tested while all waits are there, besides every later one whose number is a power
of two; a wait that guards nothing in them is doubtful."""

Clock = tuple[int, ...]
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StaticWait:
    """A statement in queue number `queue` waits until stream number `stream` has completed `count` instructions."""

    number: int
    statement: Statement
    queue: int
    stream: int
    count: Affine


class Event(NamedTuple):
    """An instance of a wait for at least `least` completions, at `position` in program order.

    `awaited`: the position of the instruction that is the last of them.
    """

    position: int
    wait: int
    least: int
    instance: int
    awaited: int


@dataclass
class Verdicts:
    """What a replay found, by wait number."""

    needed: set[int] = field(default_factory=set)
    """Some instance orders something that program order and the other waits do not."""
    guarding: set[int] = field(default_factory=set)
    """Some instance guards a conflict that nothing else guards, other instances of the same wait included."""


@dataclass
class _Judgement:
    """What a replay has found so far.

    `ties`: waits of one instruction for the same count of a stream that order something together, with an instance of
    them and what is known without them. `tried`: instances of each wait that were tested for conflicts.
    """

    verdicts: Verdicts = field(default_factory=Verdicts)
    ties: dict[frozenset[int], tuple[Event, int]] = field(default_factory=dict)
    tried: dict[int, int] = field(default_factory=dict)


@dataclass
class History:
    """What every queue knows of one stream before the instruction of row `row`.

    `changes`: the positions at which a queue learned more, ascending; `values`: how many instructions it then knew of.
    """

    row: int
    changes: list[list[int]]
    values: list[list[int]]

    def cut(self, row: int, position: int) -> None:
        """Forget what was learned from `position`, which is that of `row`, on."""
        for changes, values in zip(self.changes, self.values, strict=True):
            kept = bisect_left(changes, position)
            del changes[kept:], values[kept:]
        self.row = row

    def copy(self) -> History:
        """A history that goes on by itself."""
        return History(self.row, [list(own) for own in self.changes], [list(own) for own in self.values])


class WaitReplay:
    """The waits of a program and all their instances."""

    def __init__(self, trace: Trace, sets: Sequence[WaitSet], accesses: Sequence[list[Access]]) -> None:
        self._trace = trace
        self._accesses = accesses
        self._order = [trace.order[stream] for stream in trace.streams]
        queues = sorted(set(trace.queue_of.values()))
        self._queues = [queues.index(trace.queue_of[stream]) for stream in trace.streams]
        number = {stream: number for number, stream in enumerate(trace.streams)}
        self.waits: list[StaticWait] = []
        for wait_set in sets:
            queue = queues.index(wait_set.statement.engine)
            for stream, count in wait_set.waits():
                self.waits.append(StaticWait(len(self.waits), wait_set.statement, queue, number[stream], count))
        self._rows = self._all_rows()
        order = np.argsort(self._rows[1], kind="stable")
        ends = np.searchsorted(self._rows[1][order], np.arange(len(self.waits) + 1))
        self._rows_of = [order[first:last] for first, last in pairwise(ends.tolist())]
        self._positions, self._numbers, self._least, self._instances, self._awaited = self._rows.tolist()
        self._taught: dict[tuple[int, int], tuple[Flags, Rows]] = {}
        pairs: dict[tuple[int, int], list[int]] = {}
        for wait in self.waits:
            pairs.setdefault((wait.queue, wait.stream), []).append(wait.number)
        self._waits_of_pair = {
            pair: (np.array(numbers), np.sort(np.concatenate([self._rows_of[number] for number in numbers])))
            for pair, numbers in pairs.items()
        }
        self._stream_of, self._queue_of = [w.stream for w in self.waits], [w.queue for w in self.waits]
        self._streams, self._waiters = (np.array(own, dtype=np.int64) for own in (self._stream_of, self._queue_of))
        self._owners = np.array([self._queues[stream] for stream in self._stream_of], dtype=np.int64)
        self._looked: dict[tuple[int, int], tuple[int, bool]] = {}
        self._tests = [0] * len(self.waits)

    def _all_rows(self) -> Rows:
        """The events as columns: position, wait, least, instance, awaited."""
        parts = [np.zeros((5, 0), dtype=np.int64)]
        positions_of = [np.array(positions, dtype=np.int64) for positions, _, _ in self._order]
        once: list[tuple[int, int, int, int, int]] = []
        for wait in self.waits:
            positions = self._trace.positions(wait.statement)
            if not wait.statement.loops:
                if (least := wait.count.constant) > 0:
                    awaited = self._order[wait.stream][0][least - 1]
                    once.append((int(positions[0]), wait.number, least, 0, awaited))
                continue
            counts = self._trace.values(wait.statement, wait.count)
            (instances,) = np.nonzero(counts > 0)
            counts, positions = counts[instances], positions[instances]
            numbers = np.full_like(positions, wait.number)
            parts.append(np.stack([positions, numbers, counts, instances, positions_of[wait.stream][counts - 1]]))
        parts.append(np.array(once, dtype=np.int64).reshape(-1, 5).T)
        rows = np.concatenate(parts, axis=1)
        return rows[:, np.lexsort((rows[1], rows[0]))]

    def _flags(self, waits: Set[int]) -> Flags:
        """Which waits these are, by number."""
        flags = np.zeros(len(self.waits), dtype=bool)
        flags[np.fromiter(waits, dtype=np.int64, count=len(waits))] = True
        return flags

    def _teaching(self, active: Flags) -> Flags:
        """Which events of active waits ask for more than their queue asked of that stream before, by row.

        All others are known when they come up. In a loop those are most: its first iteration waited already.
        """
        more = np.zeros(self._rows.shape[1], dtype=bool)
        for pair, (numbers, rows) in self._waits_of_pair.items():
            # From one replay to the next most pairs of queue and stream keep all their waits.
            there = active[numbers]
            known = self._taught.get(pair)
            if known is None or not np.array_equal(known[0], there):
                known = self._taught[pair] = there, self._rows_that_teach(rows[active[self._rows[1, rows]]])
            more[known[1]] = True
        return more

    def _rows_that_teach(self, rows: Rows) -> Rows:
        """`_teaching` for the rows, in order, of the waits of one queue for one stream."""
        positions, least = self._rows[0, rows], self._rows[2, rows]
        # Compared with earlier instructions only: equal waits of one instruction are judged together.
        asked = np.concatenate([[0], np.maximum.accumulate(least)])
        return rows[least > asked[np.searchsorted(positions, positions)]]

    def run(self, active: Set[int]) -> Verdicts:
        """Replay the active waits; what they are is judged one by one, all others being there."""
        judgement = _Judgement()
        start: Clock = (0,) * len(self._order)
        clocks: list[Clock] = [start for _ in self._queues]
        history: list[tuple[list[int], list[Clock]]] = [([-1], [start]) for _ in self._queues]
        waits = self.waits
        for queue, events in self._instructions(self._rows[:, self._teaching(self._flags(active))]):
            clock = clocks[queue]
            unknown = [event for event in events if clock[self._stream_of[event[1]]] < event[2]]
            if not unknown:
                continue
            unknown = list(map(Event._make, unknown))
            # What is known once each of the waits is over, besides what is known already.
            learned: list[Clock] = []
            for event in unknown:
                stream = waits[event.wait].stream
                positions, past = history[self._queues[stream]]
                then = past[bisect_right(positions, event.awaited) - 1]
                learned.append((*then[:stream], event.least, *then[stream + 1 :]))
            self._judge(unknown, learned, clock, judgement)
            for other in learned:
                clock = tuple(map(max, clock, other))
            clocks[queue] = clock
            history[queue][0].append(unknown[0].position)
            history[queue][1].append(clock)
        self._break_ties(judgement)
        return judgement.verdicts

    def _instructions(self, rows: Rows) -> Iterator[tuple[int, list[tuple[int, int, int, int, int]]]]:
        """By instruction that waits: its queue, and its events among these rows."""
        events = list(zip(*rows.tolist(), strict=True))
        queues = self._waiters[rows[1]].tolist()
        starts = np.flatnonzero(np.diff(rows[0], prepend=-1)).tolist()
        for first, last in pairwise([*starts, len(events)]):
            yield queues[first], events[first:last]

    def _judge(self, events: Sequence[Event], learned: Sequence[Clock], clock: Clock, judgement: _Judgement) -> None:
        """Decide for each of an instruction's waits, unknown to the clock, whether its other waits imply it."""
        if len(events) == 1:
            self._find_needed(events[0], clock[self.waits[events[0].wait].stream], judgement)
            return
        for i, event in enumerate(events):
            stream = self.waits[event.wait].stream
            known = clock[stream]
            equal: list[Event] = []
            for j, other in enumerate(events):
                if self.waits[other.wait].stream == stream and other.least == event.least:
                    equal.append(other)
                elif i != j:
                    known = max(known, learned[j][stream])
            if known >= event.least:
                continue
            if len(equal) > 1:
                judgement.ties.setdefault(frozenset(other.wait for other in equal), (event, known))
            else:
                self._find_needed(event, known, judgement)

    def _find_needed(self, event: Event, known: int, judgement: _Judgement) -> None:
        """An instance that orders something alone, where `known` instructions of its stream are known otherwise."""
        verdicts, tried = judgement.verdicts, judgement.tried
        verdicts.needed.add(event.wait)
        if event.wait in verdicts.guarding:
            return
        # The first instances often guard nothing (a fresh buffer), so some later ones are tested too.
        seen = tried.get(event.wait, 0)
        tried[event.wait] = seen + 1
        if (seen < FEW_INSTANCES or seen & (seen - 1) == 0) and self._conflicts(event, known):
            verdicts.guarding.add(event.wait)

    def _break_ties(self, judgement: _Judgement) -> None:
        """Where equal waits of one instruction are needed only together, one of them will do.

        One that is needed elsewhere is preferred; of the others, those that turn out superfluous are left out again.
        """
        elsewhere = set(judgement.verdicts.needed)
        chosen: dict[int, tuple[Event, int]] = {}
        for tied, (event, known) in judgement.ties.items():
            if not tied & (elsewhere | chosen.keys()):
                first = min(tied)
                chosen[first] = (event._replace(wait=first), known)
        for number in list(chosen):
            rest = elsewhere | (chosen.keys() - {number})
            if all(tied & rest for tied in judgement.ties if number in tied):
                del chosen[number]
        for event, known in chosen.values():
            self._find_needed(event, known, judgement)

    def history(self) -> History:
        """What queues know of a stream before the program begins."""
        return History(0, [[-1] for _ in self._queues], [[0] for _ in self._queues])

    def orders_all(
        self, watched: Set[int], active: Set[int], history: History | None = None, fresh: Set[int] | None = None
    ) -> bool:
        """Whether the active waits order all conflicts that the watched ones, all of one stream, are there for.

        The watched waits themselves do not count, active or not. Those of them that are not `fresh` were found to be
        covered before the fresh ones were watched. `history`: that of the stream with the active waits; afterwards it
        reaches up to the first instance of a fresh wait, and if the answer is yes, to the last of a watched one, the
        watched ones not being there.
        """
        rows = np.sort(np.concatenate([self._rows_of[number] for number in sorted(watched)]))
        first = min((int(own[0]) for n in fresh or watched if len(own := self._rows_of[n])), default=None)
        if first is None:
            return True
        history = history or self.history()
        counted = self._flags(active - watched)
        chosen = self._teaching(counted)
        first = self._first_of_instruction(first)
        begin = min(first, self._first_of_instruction(history.row))
        history.cut(begin, self._positions[begin])
        self._learn(history, begin, np.flatnonzero(chosen[begin:first]), watched, counted)
        history.row = first
        chosen[rows] = True
        # To the end of the instruction: its other waits are over too when it starts.
        after, end = history.copy(), bisect_right(self._positions, self._positions[int(rows[-1])])
        if not self._learn(after, first, np.flatnonzero(chosen[first:end]), watched, counted):
            return False
        history.row, history.changes, history.values = end, after.changes, after.values
        return True

    def _first_of_instruction(self, row: int) -> int:
        """The first of the rows of the same instruction."""
        return bisect_left(self._positions, self._positions[row]) if row < len(self._positions) else row

    def _learn(self, history: History, begin: int, rows: Rows, watched: Set[int], counted: Flags) -> bool:
        """Continue a history by rows counted from `begin`, until a watched wait has a conflict that is not ordered.

        Only what is known of the one stream matters, so that clocks are single numbers.
        """
        queues, conflicts = self._queue_of, self._conflicts
        stream = self._stream_of[min(watched)]
        changes, values = history.changes, history.values
        known = [own[-1] for own in values]
        waiting: list[Event] = []
        at = 0
        for position, wait, least, instance, awaited, teaches, owner, queue in self._lessons(
            rows + begin, stream, watched, counted
        ):
            if position != at:
                # All waits of the instruction before are over now.
                at = position
                if waiting:
                    if any(conflicts(event, known[queues[event.wait]]) for event in waiting):
                        return False
                    waiting = []
            if not teaches:
                waiting.append(Event(position, wait, least, instance, awaited))
                continue
            if owner >= 0:
                if known[owner] <= known[queue]:
                    continue
                least = values[owner][bisect_right(changes[owner], awaited) - 1]
            if least > known[queue]:
                known[queue] = least
                changes[queue].append(position)
                values[queue].append(least)
        return not any(conflicts(event, known[queues[event.wait]]) for event in waiting)

    def _lessons(
        self, rows: Rows, stream: int, watched: Set[int], counted: Flags
    ) -> Iterator[tuple[int, int, int, int, int, bool, int, int]]:
        """What is to be learned of a stream from these rows, without events that neither count nor are watched.

        Of each the event, whether it counts, whose knowledge it passes on (-1: it is of the stream itself), to whom.
        """
        waits = self._rows[1, rows]
        concerns = counted | self._flags(watched)
        rows = rows[concerns[waits]]
        events = self._rows[:, rows]
        waits = events[1]
        owners = np.where(self._streams[waits] == stream, -1, self._owners[waits])
        return zip(
            *events.tolist(),
            counted[waits].tolist(),
            owners.tolist(),
            self._waiters[waits].tolist(),
            strict=True,
        )

    def _conflicts(self, event: Event, known: int) -> bool:
        """Whether an instruction between the first `known` ones and the awaited one conflicts with the waiting one."""
        # Looked for from the awaited one backwards, once: how far, and whether one was found there, is remembered.
        key = (event.position, event.wait)
        done, found = self._looked.get(key, (event.least, False))
        if not found and done > known:
            wait = self.waits[event.wait]
            mine = self._accesses[wait.statement.number]
            values = self._trace.loop_values(wait.statement, event.instance)
            _, statements, instances = self._order[wait.stream]
            while not found and done > known:
                self._tests[event.wait] += 1
                other = self._trace.tree.statements[statements[done - 1]]
                other_values = self._trace.loop_values(other, instances[done - 1])
                found = boxes_conflict(self._accesses[other.number], other_values, mine, values)
                found = found or self._tests[event.wait] > MANY_TESTS
                done -= 0 if found else 1
            self._looked[key] = (done, found)
        return found and done > known
