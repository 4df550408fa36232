"""All instances of a program's instructions, in arrays: the program order with its loops expanded.

Positions, numbers in streams and awaited numbers are affine in the loop variables, so each statement contributes whole
arrays. Instances of a statement are numbered in program order, as its loops run, the innermost fastest.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import numpy.typing as npt

from neuron_dialects.access import Affine
from passes.nisa.memory_access import Access
from passes.nisa.program_tree import ProgramTree, Statement
from passes.nisa.progress import EVERYTHING, Progress

Numbers = npt.NDArray[np.int64]


class Trace:
    """The expanded program. `queue_of`: by stream, the engine whose queue holds the stream's instructions."""

    def __init__(self, tree: ProgramTree, progress: Progress) -> None:
        self.tree = tree
        self.progress = progress
        self.streams = sorted(stream for stream in progress.totals if stream != EVERYTHING)
        self.queue_of = {statement.stream: statement.engine for statement in tree.statements}
        self._variables: dict[int, dict[int, Numbers]] = {}
        self._positions: dict[int, Numbers] = {}

    def values(self, statement: Statement, expression: Affine) -> Numbers:
        """The expression for every instance of the statement."""
        if not statement.loops:
            return np.array([expression.constant], dtype=np.int64)
        shape = [loop.trip_count for loop in statement.loops]
        count = math.prod(shape)
        variables = self._variables.get(statement.number)
        if variables is None:
            grids = np.indices(shape, dtype=np.int64).reshape(len(shape), count)
            variables = {loop.variable: grid for loop, grid in zip(statement.loops, grids, strict=True)}
            self._variables[statement.number] = variables
        total = np.full(count, expression.constant, dtype=np.int64)
        for variable, coefficient in expression.terms:
            total += coefficient * variables[variable]
        return total

    def positions(self, statement: Statement) -> Numbers:
        """Place in the whole program, from 0, of every instance."""
        found = self._positions.get(statement.number)
        if found is None:
            before = self.progress.before(statement, EVERYTHING)
            found = self._positions[statement.number] = self.values(statement, before)
        return found

    @cached_property
    def order(self) -> dict[str, tuple[list[int], list[int], list[int]]]:
        """By stream: position, statement number and instance of its first, second, ... instruction."""
        parts: dict[str, list[Numbers]] = {stream: [] for stream in self.streams}
        for statement in self.tree.statements:
            positions = self.positions(statement)
            numbers = np.full_like(positions, statement.number)
            parts[statement.stream].append(np.stack([positions, numbers, np.arange(len(positions))]))
        ordered: dict[str, tuple[list[int], list[int], list[int]]] = {}
        for stream, arrays in parts.items():
            rows = np.concatenate(arrays, axis=1)
            rows = rows[:, np.argsort(rows[0])]
            ordered[stream] = (rows[0].tolist(), rows[1].tolist(), rows[2].tolist())
        return ordered

    def loop_values(self, statement: Statement, instance: int) -> dict[int, int]:
        """The values of a statement's loop variables in one instance."""
        values: dict[int, int] = {}
        for loop in reversed(statement.loops):
            instance, values[loop.variable] = divmod(instance, loop.trip_count)
        return values


def boxes_conflict(
    first: list[Access], first_values: dict[int, int], second: list[Access], second_values: dict[int, int]
) -> bool:
    """Whether two instances (accesses, values of loop variables) touch the same bytes and one of them writes."""
    for a in first:
        for b in second:
            if not (a.writes or b.writes) or a.memory != b.memory:
                continue
            if a.last_partition < b.first_partition or b.last_partition < a.first_partition:
                continue
            (a_low, a_high), (b_low, b_high) = a.box(first_values), b.box(second_values)
            if a_low <= b_high and b_low <= a_high:
                return True
    return False
