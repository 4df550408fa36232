"""Where instructions stand in the order of their streams, as affine expressions over the loops around them.

Trip counts are static, so the number of instructions of a stream that come before any point of the program is affine:
what comes before in the first iteration of every loop, plus, for each loop, its variable times what one iteration of
it holds.
"""

from __future__ import annotations

from collections.abc import Sequence

from neuron_dialects.access import Affine
from passes.nisa.program_tree import Loop, Node, ProgramTree, Slot, Statement

EVERYTHING = "*"
"""Stands for all streams together: the position in the whole program."""


class Progress:
    """Counts of instructions in program order. `totals`: instructions by stream, and all of them under `EVERYTHING`."""

    def __init__(self, tree: ProgramTree) -> None:
        self.totals: dict[str, int] = {EVERYTHING: 0}
        self._in_iteration: dict[Loop, dict[str, int]] = {}
        self._before: dict[int, dict[str, int]] = {}
        self._affine: dict[tuple[int, str], Affine] = {}
        self._count(tree.body, self.totals)

    def _count(self, body: Sequence[Node], counts: dict[str, int]) -> None:
        """Walk `body` once; `counts` are those of the program before it, in the first iterations, and then after it."""
        for node in body:
            if isinstance(node, Statement):
                self._before[node.number] = dict(counts)
                for key in (node.stream, EVERYTHING):
                    counts[key] = counts.get(key, 0) + 1
            elif not isinstance(node, Slot):
                inside = dict(counts)
                self._count(node.body, inside)
                iteration = {k: n - counts.get(k, 0) for k, n in inside.items() if n != counts.get(k, 0)}
                self._in_iteration[node] = iteration
                for key, number in iteration.items():
                    counts[key] = counts.get(key, 0) + number * node.trip_count

    def in_iteration(self, loop: Loop, stream: str) -> int:
        """Instructions of `stream` in one iteration of `loop`."""
        return self._in_iteration[loop].get(stream, 0)

    def before(self, statement: Statement, stream: str) -> Affine:
        """Instructions of `stream` that come before an instance of `statement`."""
        key = (statement.number, stream)
        if key not in self._affine:
            terms = [(loop.variable, self.in_iteration(loop, stream)) for loop in statement.loops]
            self._affine[key] = Affine.of(self._before[statement.number].get(stream, 0), terms)
        return self._affine[key]

    def sequence(self, statement: Statement) -> Affine:
        """The number of an instance in its stream, from 1."""
        return self.before(statement, statement.stream) + 1
