"""Finds runs of equal layers in a list of operators, as a pure algorithm on plain data.

Given operators in program order, with what each of them computes (`Node.kind`) and takes, `find_layers` leaves the runs
in which every layer computes the same as the one before it: of what that one made, of the same values from before the
run, and of weights of its own. Periods are found from short sequences of kinds that come again, and wiring is compared
layer by layer, so that the time grows with the number of operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

GRAM = 4
"""Operators in a row that are looked for further on."""

MANY_PERIODS = 8
"""How many distances, those at which most sequences come again, are tried as the period."""

MANY_CUTS = 4
"""At how many places in a layer a run is tried to begin: those that least is passed over."""


@dataclass(frozen=True)
class Made:
    """A result of an earlier operator."""

    node: int
    result: int = 0


@dataclass(frozen=True)
class Given:
    """An argument of the function."""

    number: int


@dataclass(frozen=True)
class Weight:
    """A weight; `kind` is what weights must have in common to take each other's place (their type)."""

    name: str
    kind: Hashable


Operand = Made | Given | Weight


@dataclass(frozen=True)
class Node:
    """An operator: equal kinds compute the same of their operands. `result_bytes`: size of each result."""

    kind: Hashable
    operands: tuple[Operand, ...]
    result_bytes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Carried:
    """A value that goes from layer to layer: `first` is that of the first one, each makes it at `position` in it."""

    first: Made | Given
    position: int
    result: int


@dataclass(frozen=True)
class Run:
    """Layers of `period` operators, `layers` of them from operator `start` on."""

    start: int
    period: int
    layers: int
    carried: tuple[Carried, ...]

    @property
    def end(self) -> int:
        """The first operator behind the run."""
        return self.start + self.layers * self.period


def find_layers(nodes: Sequence[Node], returned: Sequence[Operand], least: int = 2) -> list[Run]:
    """The runs of at least `least` equal layers, in order; none overlap. `returned`: what the function returns."""
    finder = _Finder(nodes, returned)
    found: list[Run] = []
    pending = [(0, len(nodes))]
    while pending:
        first, last = pending.pop()
        run = finder.longest(first, last, least)
        if run is not None:
            found.append(run)
            pending += [(first, run.start), (run.end, last)]
    return sorted(found, key=lambda run: run.start)


def body_layers(layers: int, most: int) -> int:
    """How many of so many layers make one body that is repeated: `most`, or fewer, so that few are left over.

    No fewer than half of it, unless it would run only once.
    """
    most = max(1, min(most, layers // 2))
    return min(range(most, -(-most // 2) - 1, -1), key=lambda count: layers % count)


def weight_rows(nodes: Sequence[Node], run: Run, layers: int) -> dict[str, list[str]] | None:
    """Weight of the first `layers` layers of a run -> the weights in its place, for each time that they are repeated.

    None where a weight would have to stand for different ones.
    """
    rows: dict[str, list[str]] = {}
    body = layers * run.period
    times = run.layers // layers
    for position in range(run.start, run.start + body):
        for number, operand in enumerate(nodes[position].operands):
            if isinstance(operand, Weight):
                others = (nodes[position + i * body].operands[number] for i in range(times))
                row = [other.name for other in others if isinstance(other, Weight)]
                if rows.setdefault(operand.name, row) != row:
                    return None
    return {name: row for name, row in rows.items() if any(other != name for other in row)}


class _Finder:
    """What is known of a list of operators: a number for each that compares alike, and who uses results last."""

    def __init__(self, nodes: Sequence[Node], returned: Sequence[Operand]) -> None:
        self._nodes = nodes
        numbers: dict[Hashable, int] = {}
        self._kinds = [numbers.setdefault((node.kind, _shape(node)), len(numbers)) for node in nodes]
        self._last_use: dict[Made, int] = {}
        for position, node in enumerate(nodes):
            self._last_use.update((operand, position) for operand in node.operands if isinstance(operand, Made))
        self._last_use.update((operand, len(nodes)) for operand in returned if isinstance(operand, Made))

    def longest(self, first: int, last: int, least: int) -> Run | None:
        """The run of most operators among those from `first` to before `last`."""
        stretches = [(*self._stretch(first, last, period), period) for period in self._periods(first, last)]
        # A multiple of the period covers as much.
        stretches.sort(key=lambda stretch: (stretch[0] - stretch[1], stretch[2]))
        for begin, end, period in stretches:
            if (end - begin) // period < least:
                continue
            runs = [run for start in self._cuts(begin, end, period) if (run := self._run(start, end, period))]
            most = max((run.layers for run in runs), default=0)
            if most >= least:
                # A layer more is no reason to pass on more.
                return next(run for run in runs if run.layers >= max(least, most - 1))
        return None

    def _periods(self, first: int, last: int) -> list[int]:
        """The distances at which most short sequences of operators come again."""
        seen: dict[tuple[int, ...], int] = {}
        distances: Counter[int] = Counter()
        for position in range(first, last - GRAM + 1):
            gram = tuple(self._kinds[position : position + GRAM])
            if gram in seen:
                distances[position - seen[gram]] += 1
            seen[gram] = position
        return [distance for distance, _ in distances.most_common(MANY_PERIODS)]

    def _stretch(self, first: int, last: int, period: int) -> tuple[int, int]:
        """The longest stretch of operators each of which is as the one `period` further on, up to its end."""
        best, begin = (first, first), first
        for position in range(first, last - period + 1):
            if position == last - period or self._kinds[position] != self._kinds[position + period]:
                if position > begin and position + period - begin > best[1] - best[0]:
                    best = begin, position + period
                begin = position + 1
        return best

    def _cuts(self, begin: int, end: int, period: int) -> list[int]:
        """Where a run may begin, in the first layer of a stretch: the places that the fewest bytes are passed over."""
        costs: list[tuple[int, int]] = []
        for start in range(begin, min(begin + period, end - 2 * period + 1)):
            # The layer behind the first one takes what every other one takes.
            taken = {o for node in self._nodes[start + period : start + 2 * period] for o in node.operands}
            passed = [o for o in taken if isinstance(o, Made) and start <= o.node < start + period]
            costs.append((sum(self._nodes[o.node].result_bytes[o.result] for o in passed), start))
        return [start for _, start in sorted(costs)[:MANY_CUTS]]

    def _run(self, start: int, end: int, period: int) -> Run | None:
        """The first layers that are wired alike, from `start` or a whole number of layers behind it on."""
        for first in range(start, end - 2 * period + 1, period):
            pattern = self._wiring(first, period, 1)
            carried = None if pattern is None else self._carried(first, period, pattern)
            if carried is None:
                continue
            passed_on = {(value.position, value.result) for value in carried}
            layers = self._closed(first, period, (end - first) // period, passed_on)
            alike = next((t for t in range(2, layers) if self._wiring(first, period, t) != pattern), layers)
            layers = self._closed(first, period, alike, passed_on)
            if layers >= 2:
                return Run(first, period, layers, carried)
        return None

    def _wiring(self, start: int, period: int, layer: int) -> list[Hashable] | None:
        """Where the operands of a layer come from, seen from it; None where one skips a layer."""
        base = start + layer * period
        wiring: list[Hashable] = []
        for node in self._nodes[base : base + period]:
            for operand in node.operands:
                if isinstance(operand, Weight):
                    wiring.append("weight")
                elif isinstance(operand, Given) or operand.node < start:
                    wiring.append(operand)
                elif operand.node < base - period:
                    return None
                else:
                    wiring.append((operand.node - base, operand.result))
        return wiring

    def _carried(self, start: int, period: int, pattern: Sequence[Hashable]) -> tuple[Carried, ...] | None:
        """What goes from layer to layer; None where the first layer is no layer like the others."""
        operands = [operand for node in self._nodes[start : start + period] for operand in node.operands]
        carried: dict[tuple[int, int], Made | Given] = {}
        for operand, wired in zip(operands, pattern, strict=True):
            if isinstance(wired, tuple) and wired[0] < 0:
                inside = isinstance(operand, Made) and operand.node >= start
                if isinstance(operand, Weight) or inside or carried.setdefault(wired, operand) != operand:
                    return None
            elif isinstance(wired, tuple):
                if operand != Made(start + wired[0], wired[1]):
                    return None
            elif wired != ("weight" if isinstance(operand, Weight) else operand):
                return None
        return tuple(Carried(first, node + period, result) for (node, result), first in sorted(carried.items()))

    def _closed(self, start: int, period: int, layers: int, passed_on: set[tuple[int, int]]) -> int:
        """How many of the layers can be a run: nobody but the next one uses what one makes.

        Behind the last one everybody may use what it passes on.
        """
        fit = 0
        for layer in range(layers):
            base = start + layer * period
            used_later = [
                (position - base, result, use)
                for position in range(base, base + period)
                for result in range(len(self._nodes[position].result_bytes))
                if (use := self._last_use.get(Made(position, result), -1)) >= base + period
            ]
            if all((position, result) in passed_on for position, result, _ in used_later):
                fit = layer + 1
            if any(use >= base + 2 * period for _, _, use in used_later):
                break
        return fit


def _shape(node: Node) -> Hashable:
    """What operands are, wherever they come from."""
    return tuple(operand.kind if isinstance(operand, Weight) else None for operand in node.operands)
