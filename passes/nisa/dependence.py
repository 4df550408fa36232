"""How far a stream must have come before an instruction may start, from the two accesses that conflict.

Given a producer's and a consumer's access (`memory_access`), `Dependences` leaves affine numbers over the
consumer's loop variables: for every instance of the consumer, the last conflicting instance of the producer that
precedes it in program order has at most one of these numbers in its stream. No number exceeds what precedes the
consumer in program order, so that waiting for it cannot block for ever.

The producer's instance differs from the consumer's in one of three ways, and each gives a number:

- *same iteration* of all loops that both share, the producer standing earlier in the text;
- *an earlier iteration* of a shared loop, `distance` iterations ago, loops around it being in the same iteration.
  The number is the producer's own, less what the loop does in `distance` iterations. In the first iterations this
  reaches back into whatever came before the loop: more than is needed, never more than precedes the consumer;
- *the last user of the same copy* of a rotating buffer: `copies` executions of its slot ago.

All of it depends on how the two stand to each other, not on where in the program they stand: of equal layers, one pair
is looked at.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from neuron_dialects.access import Affine
from passes.nisa.affine_bound import Numbers, affine_upper_bound
from passes.nisa.memory_access import Access
from passes.nisa.program_tree import Loop, Statement
from passes.nisa.progress import Progress

LARGE_DOMAIN = 65536
"""Loops with more iterations than this are not looked at one by one: the consumer waits for all of the producer."""

FEW_DISTANCES = 16
"""How many distances are tried one by one before the smallest that may conflict is taken."""


class _Count(NamedTuple):
    """A number to wait for, relative to the instructions before the producer.

    Constant, coefficients by depth of the consumer's loops where they are not 0, and the most that it is.
    """

    constant: int
    slopes: tuple[tuple[int, int], ...]
    most: int


class Dependences:
    """What consumers must wait for, in one program."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._numbers: dict[Hashable, int] = {}
        self._shapes: dict[Access, int] = {}
        self._last: dict[Access, int] = {}
        self._before: dict[tuple[int, str], tuple[int, int]] = {}
        self._known: dict[Hashable, list[_Count]] = {}
        self._apart: dict[Hashable, _Apart] = {}

    def last(self, producer: Access) -> int:
        """The number of the producer's last instance in its stream."""
        found = self._last.get(producer)
        if found is None:
            statement = producer.statement
            found = self._last[producer] = self._progress.sequence(statement).bounds(statement.trips)[1]
        return found

    def required_counts(self, producer: Access, consumer: Access) -> list[Affine]:
        """What the producer's stream must have completed before the consumer starts; see the module's head."""
        if producer.last_partition < consumer.first_partition or consumer.last_partition < producer.first_partition:
            return []
        stream, loops = producer.stream, consumer.statement.loops
        common, rotate = _common(producer, consumer), _rotate(producer, consumer)
        if not common and not rotate:
            touched = self._touched(producer, consumer)
            if touched is not None:
                return [Affine(self.last(producer))] if touched else []
        done, weights = self._numbers_before(producer.statement, stream)
        before, ceilings = self._numbers_before(consumer.statement, stream)
        key = (
            self._shape(producer), self._shape(consumer), producer.start.constant - consumer.start.constant,
            before - done, weights, ceilings, producer.statement.number < consumer.statement.number, common, rotate,
        )  # fmt: skip
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._found(_Pair(producer, consumer, self._progress), done)
        # Loops are numbered from the outside in, so that the terms are in order.
        return [
            Affine(done + count.constant, tuple((loops[depth].variable, slope) for depth, slope in count.slopes))
            for count in found
            if done + count.most > 0
        ]

    def _found(self, pair: _Pair, done: int) -> list[_Count]:
        """What the consumer of a pair must wait for, `done` instructions being before the producer."""
        counts = [count for relation in pair.relations() if (count := pair.count(relation)) is not None]
        consumer = pair.consumer.statement
        limit, trips = self._progress.before(consumer, pair.producer.stream), consumer.trips
        assert all(limit.at_least(count, trips) for count in counts), "a wait exceeds what precedes it"
        depths = {loop.variable: depth for depth, loop in enumerate(consumer.loops)}
        return [
            _Count(
                count.constant - done,
                tuple((depths[variable], slope) for variable, slope in count.terms),
                count.bounds(trips)[1] - done,
            )
            for count in counts
        ]

    def _touched(self, producer: Access, consumer: Access) -> bool | None:
        """Of accesses without a common loop: whether all of the producer's instances, or none, touch the consumer's.

        None where only some do.
        """
        if producer.statement.number > consumer.statement.number:
            return False
        key = (self._shape(producer), self._shape(consumer))
        distance = producer.start.constant - consumer.start.constant
        apart = self._apart.get(key)
        if apart is None:
            pair = _Pair(producer, consumer, self._progress)
            low, high = pair.window((0, 0))
            apart = self._apart[key] = _Apart((low + distance, high + distance), pair.span(0))
        low, high = apart.window[0] - distance, apart.window[1] - distance
        least, most = apart.span
        if least > high or most < low:
            return False
        return True if low <= least and most <= high else None

    def _numbered(self, thing: Hashable) -> int:
        """A small number for a thing, the same for equal things: quicker to hash."""
        return self._numbers.setdefault(thing, len(self._numbers))

    def _shape(self, access: Access) -> int:
        """A number for the access's shape."""
        found = self._shapes.get(access)
        if found is None:
            found = self._shapes[access] = self._numbered(access.shape)
        return found

    def _numbers_before(self, statement: Statement, stream: str) -> tuple[int, int]:
        """How many instructions of the stream come before an instance of the statement.

        That of its first instance, and a number for the coefficients of its loops.
        """
        key = (statement.number, stream)
        found = self._before.get(key)
        if found is None:
            number = self._progress.before(statement, stream)
            coefficients = tuple(number.coefficient(loop.variable) for loop in statement.loops)
            found = self._before[key] = (number.constant, self._numbered(coefficients))
        return found


@dataclass(frozen=True)
class _Apart:
    """Of accesses without a common loop that start at the same byte: `_Pair.window` and `_Pair.span`."""

    window: tuple[int, int]
    span: tuple[int, int]


def _common(producer: Access, consumer: Access) -> int:
    """Number of loops around both."""
    common = 0
    for mine, other in zip(producer.statement.loops, consumer.statement.loops, strict=False):
        if mine is not other:
            break
        common += 1
    return common


def _rotate(producer: Access, consumer: Access) -> bool:
    """Whether both use the same slot of the same buffer, and so touch the same bytes only in the same copy."""
    p, c = producer, consumer
    return p.slot is not None and p.slot is c.slot and p.buffer == c.buffer and p.copy_bytes == c.copy_bytes


@dataclass(frozen=True)
class _Relation:
    """How the instances of producer and consumer differ.

    - shared: outer loops of both whose iterations are related; deeper loops run freely on both sides.
    - lag: instructions of the producer's stream between the related iterations.
    - shift: bytes (least, most) by which the related loops move the producer's box against the consumer's.
    - everywhere: a consumer that conflicts with none of the related instances may do so with earlier ones.
    """

    shared: int
    lag: int
    shift: tuple[int, int]
    everywhere: bool = False


@dataclass(frozen=True)
class _Pair:
    producer: Access
    consumer: Access
    progress: Progress

    @cached_property
    def common(self) -> int:
        """Number of loops around both."""
        return _common(self.producer, self.consumer)

    @cached_property
    def rotates(self) -> bool:
        """Whether both touch the same bytes only in the same copy."""
        return _rotate(self.producer, self.consumer)

    @cached_property
    def scope(self) -> int:
        """Number of loops outside of which different iterations use different copies."""
        return len(self.producer.slot.loops) if self.rotates and self.producer.slot is not None else 0

    @cached_property
    def weights(self) -> Affine:
        """Number of the producer in its stream."""
        return self.progress.sequence(self.producer.statement)

    def slopes(self, loop: Loop) -> tuple[int, int]:
        """Bytes that the producer's and the consumer's box move with one iteration of a loop."""
        return self.producer.start.coefficient(loop.variable), self.consumer.start.coefficient(loop.variable)

    def relations(self) -> Iterator[_Relation]:
        """All ways in which a producer's instance can precede a consumer's that touches the same bytes."""
        if self.producer.statement.number < self.consumer.statement.number:
            yield _Relation(self.common, 0, self.drift(self.common))
        for level in range(self.common, self.scope, -1):
            relation = self.earlier_iteration(level)
            if relation is not None:
                yield relation
        slot = self.producer.slot
        if self.scope and slot is not None and slot.executions.bounds(self.producer.statement.trips)[1] >= slot.copies:
            yield _Relation(self.scope, self.reuse_lag(slot.copies), self.free_drift(self.scope))

    def reuse_lag(self, copies: int) -> int:
        """Instructions of the producer's stream, at least, since its instance `copies` executions of the slot ago.

        Where the copies are as many as some iterations of the loop around that one take, it was in the same iteration
        of the slot's own loop.
        """
        loop, *around = reversed(self.producer.statement.loops[: self.scope])
        for outer in around:
            if copies % loop.trip_count:
                break
            copies, loop = copies // loop.trip_count, outer
        return copies * self.weights.coefficient(loop.variable)

    def drift(self, shared: int) -> tuple[int, int]:
        """Shift by loops of which both are in the same iteration: nothing where both boxes move alike."""
        low = high = 0
        for loop in self.producer.statement.loops[:shared]:
            mine, other = self.slopes(loop)
            reach = (mine - other) * (loop.trip_count - 1)
            low, high = low + min(0, reach), high + max(0, reach)
        return low, high

    def free_drift(self, shared: int) -> tuple[int, int]:
        """Shift by loops of which they may be in any iterations."""
        low = high = 0
        for loop in self.producer.statement.loops[:shared]:
            for slope in (self.slopes(loop)[0], -self.slopes(loop)[1]):
                reach = slope * (loop.trip_count - 1)
                low, high = low + min(0, reach), high + max(0, reach)
        return low, high

    def earlier_iteration(self, level: int) -> _Relation | None:
        """The relation to the last iteration of the loop at depth `level` that may conflict; None when none does."""
        loop = self.producer.statement.loops[level - 1]
        slope = self.slopes(loop)[0]
        step = self.weights.coefficient(loop.variable)
        low, high = self.drift(level)
        if slope == 0:
            return _Relation(level, step, (low, high)) if loop.trip_count > 1 else None
        window = self.window((low, high))
        reach = self.span(level)
        # The boxes meet when window[0] <= x - slope * distance <= window[1] for some x in reach.
        first, last = (reach[0] - window[1], reach[1] - window[0])
        if slope < 0:
            first, last = -last, -first
        distances = range(max(1, -(-first // abs(slope))), min(loop.trip_count - 1, last // abs(slope)) + 1)
        for distance in distances[:FEW_DISTANCES]:
            shift = (low - slope * distance, high - slope * distance)
            relation = _Relation(level, distance * step, shift, everywhere=True)
            if self.needs(relation) is not None:
                return relation
        if len(distances) <= FEW_DISTANCES:
            return None
        shift = (low - slope * distances[-1], high - slope * distances[FEW_DISTANCES])
        if slope < 0:
            shift = (low - slope * distances[FEW_DISTANCES], high - slope * distances[-1])
        return _Relation(level, distances[FEW_DISTANCES] * step, shift, everywhere=True)

    def window(self, shift: tuple[int, int]) -> tuple[int, int]:
        """Least and largest distance (bytes, constants apart) of the producer from the consumer where they overlap."""
        p, c = self.producer, self.consumer
        distance = p.start.constant - c.start.constant
        low = c.low - p.high - distance - shift[1]
        high = c.high - p.low - distance - shift[0]
        if not self.rotates:
            for access, sign in ((p, 1), (c, -1)):
                reach = sign * access.copy_bytes * (access.slot.copies - 1) if access.slot is not None else 0
                low, high = low - max(0, reach), high - min(0, reach)
        return low, high

    def span(self, shared: int) -> tuple[int, int]:
        """Range of the same distance over the loops below `shared` on both sides."""
        low = high = 0
        p, c = self.producer, self.consumer
        for access, sign in ((p, 1), (c, -1)):
            for loop in access.statement.loops[shared:]:
                reach = sign * access.start.coefficient(loop.variable) * (loop.trip_count - 1)
                low, high = low + min(0, reach), high + max(0, reach)
        return low, high

    def moving(self, access: Access, shared: int) -> list[Loop]:
        """Loops below `shared` that move the access's box."""
        return [loop for loop in access.statement.loops[shared:] if access.start.coefficient(loop.variable)]

    def needs(self, relation: _Relation) -> tuple[Numbers, npt.NDArray[np.bool_]] | None:
        """For each iteration of the consumer's inner loops the producer's last that conflicts; None: no conflict."""
        low, high = self.window(relation.shift)
        least, most = self.span(relation.shared)
        if least > high or most < low:
            return None
        inner = self.moving(self.producer, relation.shared)
        outer = self.moving(self.consumer, relation.shared)
        weights = [self.weights.coefficient(loop.variable) for loop in inner]
        if (low <= least and most <= high) or _size(inner) > LARGE_DOMAIN or _size(outer) > LARGE_DOMAIN:
            everything = sum(w * (loop.trip_count - 1) for w, loop in zip(weights, inner, strict=True))
            return np.array(everything), np.array(True)
        starts = _sums(inner, [self.producer.start.coefficient(loop.variable) for loop in inner]).reshape(-1)
        moves = _sums(outer, [self.consumer.start.coefficient(loop.variable) for loop in outer])
        numbers, defined = _last_in_window(starts, _sums(inner, weights).reshape(-1), moves + low, moves + high)
        return (numbers, defined) if defined.any() else None

    def count(self, relation: _Relation) -> Affine | None:
        """The number to wait for under one relation, affine in the consumer's loop variables; None: no conflict."""
        found = self.needs(relation)
        if found is None:
            return None
        needs, defined = found
        producer, consumer = self.producer.statement, self.consumer.statement
        inner = producer.loops[relation.shared :]
        moved = self.moving(self.producer, relation.shared)
        still = sum(
            self.weights.coefficient(loop.variable) * (loop.trip_count - 1) for loop in inner if loop not in moved
        )
        shared = [
            (loop.variable, self.weights.coefficient(loop.variable)) for loop in producer.loops[: relation.shared]
        ]
        base = Affine.of(self.weights.constant + still - relation.lag, shared)
        if needs.ndim == 0:
            return base + int(needs)
        if relation.everywhere:
            needs, defined = np.where(defined, needs, 0), np.ones_like(defined)
        outer = self.moving(self.consumer, relation.shared)
        before = self.progress.before(consumer, producer.stream)
        ceilings = [before.coefficient(loop.variable) for loop in outer]
        constant, slopes = affine_upper_bound(needs, defined, before.constant - base.constant, ceilings)
        terms = [(loop.variable, slope) for loop, slope in zip(outer, slopes, strict=True)]
        return base + Affine.of(constant, terms)


def _size(loops: Sequence[Loop]) -> int:
    size = 1
    for loop in loops:
        size *= loop.trip_count
    return size


def _sums(loops: Sequence[Loop], coefficients: Sequence[int]) -> Numbers:
    """Sum of coefficient * variable for all iterations of the loops, one dimension for each."""
    total = np.zeros([loop.trip_count for loop in loops], dtype=np.int64)
    for axis, (loop, coefficient) in enumerate(zip(loops, coefficients, strict=True)):
        shape = [1] * len(loops)
        shape[axis] = loop.trip_count
        total += (np.arange(loop.trip_count, dtype=np.int64) * coefficient).reshape(shape)
    return total


def _last_in_window(
    starts: Numbers, numbers: Numbers, low: Numbers, high: Numbers
) -> tuple[Numbers, npt.NDArray[np.bool_]]:
    """For each window low .. high the largest number among the starts in it, and whether there is any."""
    order = np.argsort(starts, kind="stable")
    starts, numbers = starts[order], numbers[order]
    left = np.asarray(np.searchsorted(starts, low, "left"))
    right = np.asarray(np.searchsorted(starts, high, "right"))
    defined = np.asarray(right > left)
    # Largest of every run of 2^k neighbours: two overlapping runs cover any range.
    runs = [numbers]
    while 2 << (len(runs) - 1) <= len(numbers):
        half = 1 << (len(runs) - 1)
        runs.append(np.maximum(runs[-1][:-half], runs[-1][half:]))
    lengths = np.maximum(right - left, 1)
    levels = np.frexp(lengths.astype(np.float64))[1] - 1
    largest = np.zeros(left.shape, dtype=np.int64)
    for level, run in enumerate(runs):
        here = defined & (levels == level)
        if here.any():
            largest[here] = np.maximum(run[left[here]], run[right[here] - (1 << level)])
    return largest, defined
