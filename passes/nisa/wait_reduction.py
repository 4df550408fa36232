"""Removes waits that order nothing which is not ordered already.

A wait is kept only if some instance of it orders something that program order and the other waits do not. Dependences
in program order have no cycles, so all waits implied by others can go at once: what remains, the transitive reduction,
is unique and implies them. A wait of the reduction may still ask for more than any conflict needs. Whether it guards a
conflict that would not be ordered without it is tested on the boxes, and waits that guard none go one by one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from passes.nisa.known_waits import drop_known
from passes.nisa.memory_access import Access
from passes.nisa.trace import Trace
from passes.nisa.wait_generation import WaitSet
from passes.nisa.wait_replay import History, Verdicts, WaitReplay


def minimal_waits(trace: Trace, sets: Sequence[WaitSet], accesses: Sequence[list[Access]]) -> list[WaitSet]:
    """The waits of `sets` that each guard a conflict which nothing else guards."""
    replay = WaitReplay(trace, drop_known(trace.tree, sets), accesses)
    active = {wait.number for wait in replay.waits}
    verdicts = replay.run(active)
    if any(replay.orders_all({number}, active) for number in sorted(verdicts.needed - verdicts.guarding)):
        # A wait that guards nothing goes. Those that its text implied may be needed then, so begin with all of them.
        replay = WaitReplay(trace, sets, accesses)
        verdicts = without_idle_waits(replay)
    kept = [WaitSet(wait_set.statement) for wait_set in sets]
    for wait in replay.waits:
        if wait.number in verdicts.needed:
            kept[wait.statement.number].counts.setdefault(trace.streams[wait.stream], []).append(wait.count)
    return kept


def without_idle_waits(replay: WaitReplay) -> Verdicts:
    """The verdicts on the waits that are left when those that guard nothing are removed, one after the other.

    The conflicts of a wait that was removed rely on other waits. When one of those goes, its own stream is checked at
    once, and all streams at the end. Where a conflict was lost, the first removal that lost one is looked for: it does
    not take place, and what came after it is tried anew.
    """
    outcomes: list[bool] = []
    known: dict[frozenset[int], Verdicts] = {}
    good = 0
    while True:
        removal = _Removal(replay, _all_waits(replay), outcomes)
        verdicts = _remove_idle_waits(replay, removal, known)
        good = removal.first_lost(good)
        if good == len(removal.journal):
            return verdicts
        del outcomes[removal.journal[good].attempt :]
        outcomes.append(False)


def _remove_idle_waits(replay: WaitReplay, removal: _Removal, known: dict[frozenset[int], Verdicts]) -> Verdicts:
    """Replay and remove until nothing more goes. `known`: verdicts by the waits that were there."""
    # A wait that guards something does so all the more when others are gone.
    guarding: set[int] = set()
    while True:
        active = frozenset(removal.active)
        if active not in known:
            known[active] = replay.run(active)
        verdicts = known[active]
        guarding |= verdicts.guarding
        by_stream: dict[int, list[int]] = {}
        for number in sorted(verdicts.needed - guarding):
            by_stream.setdefault(replay.waits[number].stream, []).append(number)
        kept = {number for numbers in by_stream.values() for number in removal.remove(numbers, replay.history())}
        guarding |= kept
        if sum(map(len, by_stream.values())) == len(kept):
            return verdicts


def _all_waits(replay: WaitReplay) -> set[int]:
    return {wait.number for wait in replay.waits}


@dataclass(frozen=True)
class _Removed:
    """Waits of one stream that went together, in attempt number `attempt`."""

    attempt: int
    stream: int
    numbers: Sequence[int]


@dataclass
class _Removal:
    """Waits that are still there. `outcomes`: of each attempt to remove some, in order, whether they went; the first
    are known. `removed`: those that went, by stream. `journal`: the same in the order in which they went.
    """

    replay: WaitReplay
    active: set[int]
    outcomes: list[bool]
    removed: dict[int, set[int]] = field(default_factory=dict)
    journal: list[_Removed] = field(default_factory=list)
    attempts: int = 0

    def remove(self, numbers: Sequence[int], history: History) -> list[int]:
        """Remove of these waits of one stream those without which its conflicts stay ordered; returns the others.

        All together are tried first, then halves: what can go one after the other can go at once, and replays are dear.
        `history`: that of the stream, as far as it is known.
        """
        stream = self.replay.waits[numbers[0]].stream
        watched = self.removed.get(stream, set()) | set(numbers)
        attempt, self.attempts = self.attempts, self.attempts + 1
        if attempt == len(self.outcomes):
            self.outcomes.append(self.replay.orders_all(watched, self.active, history, set(numbers)))
        if self.outcomes[attempt]:
            self.active.difference_update(numbers)
            self.removed[stream] = watched
            self.journal.append(_Removed(attempt, stream, numbers))
            return []
        if len(numbers) == 1:
            return list(numbers)
        half = len(numbers) // 2
        return [*self.remove(numbers[:half], history), *self.remove(numbers[half:], history)]

    def first_lost(self, good: int) -> int:
        """The first removal in the journal that lost a conflict; its length if none did, nor the first `good` ones."""

        def lost(place: int) -> bool:
            active, removed = _all_waits(self.replay), dict[int, set[int]]()
            for entry in self.journal[: place + 1]:
                active.difference_update(entry.numbers)
                removed.setdefault(entry.stream, set()).update(entry.numbers)
            return not all(self.replay.orders_all(group, active) for group in removed.values())

        last = len(self.journal) - 1
        if good > last or not lost(last):
            return last + 1
        # With fewer waits there, no more is ordered.
        return bisect_left(range(last), True, lo=good, key=lost)
