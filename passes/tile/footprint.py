"""Which elements of a buffer an operand touches over loops, and whether two operands can meet, as a pure algorithm.

A footprint is a run of partitions and a sum of strides: `base + sum(stride * k)` with `0 <= k < count` for each
(stride, count). Loops around the operand are such strides too. Everything errs towards meeting.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

MOST_DISTANCES = 64
"""Distances of iterations that are looked at one by one; operands that lie in each other's reach at more of them count
as meeting."""


@dataclass(frozen=True)
class Footprint:
    """Elements of one operand. `step`: how far one iteration of the loop in question, of `trips`, moves them.

    `everything`: it may touch any element of the buffer.
    """

    first_partition: int
    partitions: int
    base: int
    strides: tuple[tuple[int, int], ...]
    step: int = 0
    trips: int = 1
    everything: bool = False

    @property
    def reach(self) -> tuple[int, int]:
        """The least and the greatest element of one iteration."""
        return _reach(self.base, self.strides)

    @property
    def over_loop(self) -> "Footprint":
        """The elements of all iterations together."""
        strides = ((self.step, self.trips), *self.strides) if self.step and self.trips > 1 else self.strides
        return replace(self, strides=strides, step=0, trips=1)

    def in_groups(self, size: int) -> "Footprint":
        """The same over a loop that does `size` of its iterations in one."""
        if not self.step:
            return self
        strides = ((self.step, size), *self.strides)
        return replace(self, strides=strides, step=self.step * size, trips=self.trips // size)


def _reach(base: int, strides: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    low = base + sum(min(0, stride * (count - 1)) for stride, count in strides)
    return low, base + sum(max(0, stride * (count - 1)) for stride, count in strides)


def apart(a: Footprint, b: Footprint) -> bool:
    """Whether no element is surely in both, each in one iteration of its loop."""
    if a.everything or b.everything:
        return False
    # Partitions of 0 are DRAM, which has none.
    if a.partitions and (
        a.first_partition + a.partitions <= b.first_partition or b.first_partition + b.partitions <= a.first_partition
    ):
        return True
    (low_a, high_a), (low_b, high_b) = a.reach, b.reach
    if high_a < low_b or high_b < low_a:
        return True
    return any(_apart_modulo(a, b, modulus) for modulus in _moduli(a, b))


def _moduli(a: Footprint, b: Footprint) -> Iterator[int]:
    yield from sorted({abs(stride) for stride, count in (*a.strides, *b.strides) if abs(stride) > 1 and count > 1})


def _apart_modulo(a: Footprint, b: Footprint, modulus: int) -> bool:
    """Whether their remainders by `modulus` lie in intervals that do not meet."""
    intervals: list[tuple[int, int]] = []
    for footprint in (a, b):
        small = tuple((stride, count) for stride, count in footprint.strides if stride % modulus)
        low, high = _reach(footprint.base, small)
        if high - low >= modulus:
            return False
        intervals.append((low % modulus, low % modulus + high - low))
    (low_a, high_a), (low_b, high_b) = intervals
    return all(high_a + shift < low_b or high_b < low_a + shift for shift in (-modulus, 0, modulus))


def stays_ahead(earlier: Footprint, later: Footprint) -> bool:
    """Whether iteration i of `earlier` never meets iteration j < i of `later`, of two loops of as many trips.

    Then `later` may run its iteration j as soon as `earlier` has run its own.
    """
    if earlier.trips <= 1:
        return True
    if earlier.step != later.step:
        return apart(earlier.over_loop, later.over_loop)
    if earlier.step == 0 or len(distances := _near(earlier, later)) > MOST_DISTANCES:
        return apart(earlier.over_loop, later.over_loop)
    return all(apart(replace(earlier, base=earlier.base + earlier.step * n), later) for n in distances)


def _near(earlier: Footprint, later: Footprint) -> range:
    """How many iterations, one at least, `earlier` may be ahead of `later` and still be in its reach."""
    if earlier.everything or later.everything:
        return range(1, earlier.trips)
    (low, high), (low_later, high_later) = earlier.reach, later.reach
    # base + step * n, for a step that leads to higher elements.
    first, last = (low_later - high, high_later - low) if earlier.step > 0 else (low - high_later, high - low_later)
    step = abs(earlier.step)
    return range(max(1, -(-first // step)), min(earlier.trips - 1, last // step) + 1)
