"""Drops waits that the text of the program shows to be redundant: the same queue waited for at least as much earlier.

A queue goes on only when its waits are over, so what it waited for in this iteration, or in an enclosing one before the
loop, is known. After a loop, what its last iteration waited for is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from neuron_dialects.access import Affine
from passes.nisa.program_tree import Loop, Node, ProgramTree, Statement, substituted
from passes.nisa.wait_generation import WaitSet

Known = dict[tuple[str, str], list[Affine]]
"""(queue, stream) -> numbers that the queue has waited for."""


def drop_known(tree: ProgramTree, sets: Sequence[WaitSet]) -> list[WaitSet]:
    """`sets` without what the same queue has waited for before, in the same or an enclosing iteration."""
    kept = [WaitSet(wait_set.statement) for wait_set in sets]
    _drop_known(tree.body, sets, kept, {}, {})
    return kept


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
    if any(other.at_least(count, trips) for other in known):
        return False
    known[:] = [*(other for other in known if not count.at_least(other, trips)), count]
    return True
