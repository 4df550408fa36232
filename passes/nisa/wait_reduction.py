"""Removes waits that order nothing which is not ordered already.

A wait is kept only if some instance of it orders something that program order and the other waits do not. Dependences
in program order have no cycles, so all waits implied by others can go at once: what remains, the transitive reduction,
is unique and implies them. A wait of the reduction may still ask for more than any conflict needs. Whether it guards a
conflict that would not be ordered without it is tested on the boxes, and waits that guard none go one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        verdicts = _without_idle_waits(replay, careful=False) or _without_idle_waits(replay, careful=True)
        assert verdicts is not None
    kept = [WaitSet(wait_set.statement) for wait_set in sets]
    for wait in replay.waits:
        if wait.number in verdicts.needed:
            kept[wait.statement.number].counts.setdefault(trace.streams[wait.stream], []).append(wait.count)
    return kept


def _without_idle_waits(replay: WaitReplay, careful: bool) -> Verdicts | None:
    """The verdicts on the waits that are left when those that guard nothing are removed, one after the other.

    The conflicts of a wait that was removed rely on other waits. When one of those goes, its own stream is checked at
    once and all streams at the end (None: a conflict was lost); if `careful`, all streams are checked at once.
    """
    removal = _Removal(replay, careful, {wait.number for wait in replay.waits})
    # A wait that guards something does so all the more when others are gone.
    guarding: set[int] = set()
    while True:
        verdicts = replay.run(removal.active)
        guarding |= verdicts.guarding
        by_stream: dict[int, list[int]] = {}
        for number in sorted(verdicts.needed - guarding):
            by_stream.setdefault(replay.waits[number].stream, []).append(number)
        kept = {number for numbers in by_stream.values() for number in removal.remove(numbers, replay.history())}
        guarding |= kept
        if sum(map(len, by_stream.values())) == len(kept):
            break
    return verdicts if careful or _all_ordered(replay, removal.removed.values(), removal.active) else None


@dataclass
class _Removal:
    """Waits that are still there, and by stream those that were removed."""

    replay: WaitReplay
    careful: bool
    active: set[int]
    removed: dict[int, set[int]] = field(default_factory=dict)

    def remove(self, numbers: Sequence[int], history: History) -> list[int]:
        """Remove of these waits of one stream those without which all conflicts stay ordered; returns the others.

        All together are tried first, then halves: what can go one after the other can go at once, and replays are dear.
        `history`: that of the stream, as far as it is known.
        """
        stream = self.replay.waits[numbers[0]].stream
        affected = {**self.removed, stream: self.removed.get(stream, set()) | set(numbers)}
        remaining = self.active - set(numbers)
        ordered = self.replay.orders_all(affected[stream], self.active, history, set(numbers))
        if ordered and self.careful:
            ordered = _all_ordered(self.replay, affected.values(), remaining)
            history.cut(0, 0)
        if ordered:
            self.active, self.removed = remaining, affected
            return []
        if len(numbers) == 1:
            return list(numbers)
        half = len(numbers) // 2
        return [*self.remove(numbers[:half], history), *self.remove(numbers[half:], history)]


def _all_ordered(replay: WaitReplay, groups: Iterable[set[int]], active: set[int]) -> bool:
    return all(replay.orders_all(group, active) for group in groups)
