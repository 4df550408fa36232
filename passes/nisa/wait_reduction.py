"""Removes waits that order nothing which is not ordered already.

A wait is kept only if some instance of it orders something that program order and the other waits do not. Dependences
in program order have no cycles, so all waits implied by others can go at once: what remains, the transitive reduction,
is unique and implies them. A wait of the reduction may still ask for more than any conflict needs. Whether it guards a
conflict that would not be ordered without it is tested on the boxes, and waits that guard none go one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    if not all(replay.guards(number, active) for number in sorted(verdicts.needed - verdicts.guarding)):
        # A wait that guards nothing goes. Those that its text implied may be needed then, so begin with all of them.
        replay = WaitReplay(trace, sets, accesses)
        verdicts = _without_idle_waits(replay)
    kept = [WaitSet(wait_set.statement) for wait_set in sets]
    for wait in replay.waits:
        if wait.number in verdicts.needed:
            kept[wait.statement.number].counts.setdefault(trace.streams[wait.stream], []).append(wait.count)
    return kept


def _without_idle_waits(replay: WaitReplay) -> Verdicts:
    """The verdicts on the waits that are left when those that guard nothing are removed, one after the other."""
    active = {wait.number for wait in replay.waits}
    removed: set[int] = set()
    # A wait that guards something does so all the more when others are gone.
    guarding: set[int] = set()
    while True:
        verdicts = replay.run(active)
        guarding |= verdicts.guarding
        before = len(removed)
        for number in sorted(verdicts.needed - guarding):
            if replay.guards(number, active, removed):
                guarding.add(number)
            else:
                active.remove(number)
                removed.add(number)
        if len(removed) == before:
            return verdicts
