"""Cutting a chain of operators into the stages of a NeuronCore Pipeline: pure algorithms on numbered nodes.

Nodes are numbered in program order. A stage is a run of neighbouring nodes; it keeps its weights on chip, takes what it
uses and does not make itself from earlier stages, and passes on what later ones use. Large nodes may be cut too: into
equal pieces that make parts of their results. What an operator takes depends on the room that it is given for its
buffers: with less it may be slower. A `Cutter` finds the stages whose slowest one is as fast as possible, and
how many are needed at least; `misfit` says what is missing. Times in ns, sizes in bytes; on-chip sizes are those of one
SBUF partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

INFINITE = float("inf")
OUTSIDE = -1
"""Producer of what enters the pipeline."""

ENDLESS_BYTES = 1 << 62

Level = tuple[float, int]
"""Time in ns, and working bytes."""


@dataclass(frozen=True)
class Node:
    """One operator.

    `pinned_bytes`: of its weights. `levels`: (ns on a core that has its weights, bytes of everything else that must lie
    on chip meanwhile), at each level of room; those of all nodes of a chain are as many. `inputs`, `outputs`: numbers
    of values. `pieces`: equal parts it can be cut into; `join_bytes`: what must be moved to put its result together
    from parts. With `partial_bytes` pieces make no parts: each takes a sum of that size from the one before it, adds to
    it, and the last one makes the result.
    """

    levels: tuple[Level, ...]
    pinned_bytes: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    pieces: int = 1
    join_bytes: int = 0
    partial_bytes: int = 0


@dataclass(frozen=True)
class Value:
    """A tensor: its bytes, and whether it is a result of the whole chain."""

    bytes: int
    is_returned: bool = False


@dataclass(frozen=True)
class Costs:
    """What a stage may hold and what passing values on costs.

    `capacity_bytes`: SBUF of a partition; `bytes_per_ns`, `transfer_ns`: rate, and start and completion of a transfer.
    `rooms`: for each level the bytes that kernels are told to be there for their buffers, 0 for all that is left.
    """

    capacity_bytes: int
    bytes_per_ns: float
    transfer_ns: float
    rooms: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Stage:
    """Atoms `first` to `last` - 1 of the chain (see `Chain.atoms`), and what they cost together.

    `levels` as those of a node; times include the transfers of `bytes_in` and `bytes_out`. `level` is the one taken:
    the fastest that fits on a core of its own, unless said otherwise.
    """

    first: int
    last: int
    pinned_bytes: int
    bytes_in: int
    bytes_out: int
    levels: tuple[Level, ...]
    level: int = 0

    @property
    def time_ns(self) -> float:
        """Nanoseconds that the stage takes."""
        return self.levels[self.level][0]

    @property
    def working_bytes(self) -> int:
        """Bytes beside the weights that must lie on chip meanwhile."""
        return self.levels[self.level][1]

    def within(self, room: int) -> Stage | None:
        """The stage with so many bytes beside weights; None where it cannot do with them."""
        level = fastest(self.levels, room)
        return None if level is None else replace(self, level=level)

    @property
    def needed_bytes(self) -> int:
        """Bytes of each partition that the stage needs."""
        return self.pinned_bytes + self.working_bytes


@dataclass(frozen=True)
class Misfit:
    """Why a chain cannot be cut into `stages`: each would need `needed_bytes` of a partition at least, and the node at
    which the last stage is full.
    """

    stages: int
    needed_bytes: int
    capacity_bytes: int
    node: int


@dataclass(frozen=True)
class Atom:
    """Piece `piece` of node `node`."""

    node: int
    piece: int
    levels: tuple[Level, ...]
    pinned_bytes: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def least_working_bytes(self) -> int:
        """Working bytes that it can do with."""
        return min(working for _, working in self.levels)


def fastest(levels: Sequence[Level], room: int) -> int | None:
    """The number of the fastest level that needs no more than `room`, the first of equals; None where all need more."""
    able = [(time, number) for number, (time, working) in enumerate(levels) if working <= room]
    return min(able)[1] if able else None


@dataclass
class Chain:
    """Nodes as atoms, with values of their own for the parts of cut results."""

    nodes: Sequence[Node]
    values: Sequence[Value]
    atoms: list[Atom] = field(default_factory=list[Atom])
    sizes: list[int] = field(default_factory=list[int])
    last_use: list[int] = field(default_factory=list[int])

    def __post_init__(self) -> None:
        self.sizes = [value.bytes for value in self.values]
        parts: dict[int, tuple[int, ...]] = {}
        for number, node in enumerate(self.nodes):
            inputs = tuple(part for value in node.inputs for part in parts.get(value, (value,)))
            earlier: tuple[int, ...] = ()
            for piece in range(node.pieces):
                outputs, taken = node.outputs, (*inputs, *earlier)
                if node.partial_bytes and piece < node.pieces - 1:
                    outputs = earlier = (len(self.sizes),)
                    self.sizes.append(node.partial_bytes)
                elif node.pieces > 1 and not node.partial_bytes:
                    outputs = tuple(len(self.sizes) + i for i in range(len(node.outputs)))
                    self.sizes += [-(-self.values[value].bytes // node.pieces) for value in node.outputs]
                    for value, part in zip(node.outputs, outputs, strict=True):
                        parts[value] = (*parts.get(value, ()), part)
                share = node.pieces
                levels = tuple((time / share, working) for time, working in node.levels)
                self.atoms.append(Atom(number, piece, levels, -(-node.pinned_bytes // share), taken, outputs))
        self.last_use = [OUTSIDE] * len(self.sizes)
        for number, atom in enumerate(self.atoms):
            for value in atom.inputs:
                self.last_use[value] = number
        for value, entry in enumerate(self.values):
            if entry.is_returned:
                for part in parts.get(value, (value,)):
                    self.last_use[part] = len(self.atoms)

    def stages_ending_at(self, last: int, costs: Costs, capacity: float) -> list[Stage]:
        """The stages that end before atom `last`, the shortest first, as long as they fit into `capacity`."""
        found: list[Stage] = []
        used: set[int] = set()
        levels: list[Level] = [(0.0, 0)] * len(costs.rooms)
        pinned = bytes_in = bytes_out = sent = 0
        cut_behind = last < len(self.atoms) and self.atoms[last].piece > 0
        behind_ns = self._join_ns(self.atoms[last].node, costs) if cut_behind else 0.0
        for first in range(last - 1, -1, -1):
            atom = self.atoms[first]
            pinned += atom.pinned_bytes
            levels = [
                (time + own, max(working, own_working))
                for (time, working), (own, own_working) in zip(levels, atom.levels, strict=True)
            ]
            if pinned + min(working for _, working in levels) > capacity:
                break
            for value in atom.outputs:
                if value in used:
                    used.discard(value)
                    bytes_in -= self.sizes[value]
                if self.last_use[value] >= last:
                    bytes_out += self.sizes[value]
                    sent += 1
            for value in atom.inputs:
                if value not in used:
                    used.add(value)
                    bytes_in += self.sizes[value]
            moved = (bytes_in + bytes_out) / costs.bytes_per_ns
            starts = (int(bool(used)) + int(bool(sent))) * costs.transfer_ns
            joins = behind_ns + (self._join_ns(atom.node, costs) if atom.piece > 0 else 0.0)
            passing = moved + starts + joins
            whole = tuple([(time + passing, working) for time, working in levels])
            level = fastest(whole, int(min(capacity - pinned, ENDLESS_BYTES)))
            assert level is not None
            found.append(Stage(first, last, pinned, bytes_in, bytes_out, whole, level))
        return found

    def _join_ns(self, node: int, costs: Costs) -> float:
        """What it costs that a node is cut: its result is put together from parts."""
        return self.nodes[node].join_bytes / costs.bytes_per_ns


class Cutter:
    """All cuts of one chain into up to `most` stages.

    `slowest_ns[k]`: of the best cut into k, infinite without one. `ending[place]`: the stages that end there and fit.
    """

    def __init__(self, chain: Chain, costs: Costs, most: int) -> None:
        self.chain, self.costs = chain, costs
        count = len(chain.atoms)
        self.ending = [chain.stages_ending_at(last, costs, costs.capacity_bytes) for last in range(count + 1)]
        self._times = [np.array([stage.time_ns for stage in stages]) for stages in self.ending]
        most = min(most, count)
        best: list[NDArray[np.float64]] = [np.full(count + 1, INFINITE)]
        best[0][0] = 0.0
        for _ in range(most):
            best.append(self._one_more(best[-1]))
        self.slowest_ns = [float(row[count]) for row in best]

    def _one_more(self, before: NDArray[np.float64]) -> NDArray[np.float64]:
        """The slowest stage up to each atom with one stage more than `before`."""
        after = np.full(len(before), INFINITE)
        for last, times in enumerate(self._times):
            if len(times):
                # Stages are listed from the shortest: the one at position i begins at last - 1 - i.
                earlier = before[last - len(times) : last][::-1]
                after[last] = np.maximum(earlier, times).min()
        return after

    def stages(self, count: int) -> list[Stage] | None:
        """The cut into `count` stages with the fastest slowest stage, and of these the one with the least work."""
        if count >= len(self.slowest_ns) or self.slowest_ns[count] == INFINITE:
            return None
        limit = self.slowest_ns[count] * (1 + 1e-12)
        atoms = len(self.chain.atoms)
        totals = [np.full(atoms + 1, INFINITE)]
        totals[0][0] = 0.0
        choices: list[NDArray[np.int64]] = []
        for _ in range(count):
            before, after = totals[-1], np.full(atoms + 1, INFINITE)
            chosen = np.zeros(atoms + 1, np.int64)
            for last, times in enumerate(self._times):
                if len(times):
                    sums = np.where(times <= limit, before[last - len(times) : last][::-1] + times, INFINITE)
                    chosen[last] = sums.argmin()
                    after[last] = sums[chosen[last]]
            totals.append(after)
            choices.append(chosen)
        found: list[Stage] = []
        last = atoms
        for chosen in reversed(choices):
            stage = self.ending[last][int(chosen[last])]
            found.append(stage)
            last = stage.first
        return found[::-1]

    @property
    def fewest(self) -> int | None:
        """The least number of stages that fit, None if not even the most allowed do."""
        return next((k for k, time in enumerate(self.slowest_ns) if k and time < INFINITE), None)

    @property
    def best_per_core(self) -> int | None:
        """The number of stages with the most throughput per core; the least of equals."""
        able = [k for k, time in enumerate(self.slowest_ns) if k and time < INFINITE]
        return min(able, key=lambda k: self.slowest_ns[k] * k, default=None)


def misfit(chain: Chain, costs: Costs, stages: int) -> Misfit:
    """What is missing for a chain that cannot be cut into `stages`."""
    low = max((atom.pinned_bytes + atom.least_working_bytes for atom in chain.atoms), default=0)
    high = sum(atom.pinned_bytes for atom in chain.atoms) + max((a.levels[0][1] for a in chain.atoms), default=0)
    while low < high:
        middle = (low + high) // 2
        if len(_filled(chain, middle)) <= stages:
            high = middle
        else:
            low = middle + 1
    starts = _filled(chain, max(costs.capacity_bytes, 1))
    full = starts[stages] if stages < len(starts) else 0
    return Misfit(stages, low, costs.capacity_bytes, chain.atoms[full].node if chain.atoms else 0)


def _filled(chain: Chain, capacity: int) -> list[int]:
    """First atoms of the stages when each takes as much as fits; an atom that fits nowhere has a stage of its own."""
    starts: list[int] = []
    pinned, working = 0, [0]
    for number, atom in enumerate(chain.atoms):
        own = [size for _, size in atom.levels]
        both = [max(sizes) for sizes in zip(working, own, strict=True)] if starts else own
        if not starts or pinned + atom.pinned_bytes + min(both) > capacity:
            starts.append(number)
            pinned, both = 0, own
        pinned += atom.pinned_bytes
        working = both
    return starts
