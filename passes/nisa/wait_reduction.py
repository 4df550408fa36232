"""Removes waits that order nothing which is not ordered already.

A wait is kept only if some instance of it orders something that program order and the other waits do not. Dependences
in program order have no cycles, so all waits implied by others can go at once: what remains, the transitive reduction,
is unique and implies them. A wait of the reduction may still ask for more than any conflict needs. Whether it guards a
conflict that would not be ordered without it is tested on the boxes, and waits that guard none go one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from passes.nisa.known_waits import drop_known
from passes.nisa.memory_access import Access
from passes.nisa.trace import Trace
from passes.nisa.wait_generation import WaitSet
from passes.nisa.wait_replay import Verdicts, WaitReplay


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
    active = {wait.number for wait in replay.waits}
    removed: dict[int, set[int]] = {}
    # A wait that guards something does so all the more when others are gone.
    guarding: set[int] = set()
    while True:
        idle = False
        verdicts = replay.run(active)
        guarding |= verdicts.guarding
        for number in sorted(verdicts.needed - guarding):
            stream = replay.waits[number].stream
            affected = {**removed, stream: removed.get(stream, set()) | {number}}
            remaining = active - {number}
            checked = affected.values() if careful else [affected[stream]]
            if _all_ordered(replay, checked, remaining):
                active, removed, idle = remaining, affected, True
            else:
                guarding.add(number)
        if not idle:
            break
    return verdicts if careful or _all_ordered(replay, removed.values(), active) else None


def _all_ordered(replay: WaitReplay, groups: Iterable[set[int]], active: set[int]) -> bool:
    return all(replay.orders_all(group, active) for group in groups)
