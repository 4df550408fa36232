"""Bounds of numbers: intervals, and what the operators of the graph level make of them. Plain arithmetic.

An interval says that every element of a tensor lies between two numbers and, if it is integral, that every element is a
whole number. Bounds are exact: Python integers where they are finite and whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from neuron_dialects.dtypes import DType
from neuron_dialects.graph import BinaryKind, UnaryKind

EXACT_INTEGERS: Mapping[str, int] = {"f64": 2**53, "f32": 2**24, "tf32": 2**11, "f16": 2**11, "bf16": 2**8}
"""Float type -> the magnitude up to which it holds every integer."""


@dataclass(frozen=True, slots=True)
class Interval:
    """low <= every element <= high; `integral`: every element is a whole number."""

    low: float
    high: float
    integral: bool = True

    @property
    def magnitude(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))

    def within(self, low: float, high: float) -> bool:
        """Whether every element is a whole number of low..high."""
        return self.integral and low <= self.low and self.high <= high


ANY = Interval(-inf, inf, integral=False)
"""Nothing is known."""

TRUTH = Interval(0, 1)


def of_dtype(dtype: DType) -> Interval:
    """What the element type alone says."""
    if dtype.is_float:
        return ANY
    if not dtype.is_integer:
        return TRUTH
    limits = np.iinfo(dtype.numpy)
    return Interval(int(limits.min), int(limits.max))


def held(interval: Interval, dtype: DType) -> Interval:
    """What is left of an interval when its numbers are computed in a type.

    Integers beyond the type wrap around. Floats stay whole only up to where the type holds every integer; of others
    nothing is known here.
    """
    if dtype.is_float:
        limit = EXACT_INTEGERS.get(dtype.name, 0)
        return interval if interval.within(-limit, limit) else ANY
    full = of_dtype(dtype)
    return interval if interval.within(full.low, full.high) else full


def join(*intervals: Interval) -> Interval:
    """The smallest interval that holds all of them."""
    return Interval(min(i.low for i in intervals), max(i.high for i in intervals), all(i.integral for i in intervals))


def times(a: float, b: float) -> float:
    """A product in which zero times infinity is zero."""
    return 0 if a == 0 or b == 0 else a * b


def product(a: Interval, b: Interval) -> Interval:
    """Of every element of one with every element of the other."""
    corners = [times(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    return Interval(min(corners), max(corners), a.integral and b.integral)


def repeated_sum(interval: Interval, count: int) -> Interval:
    """The sum of `count` elements, and every partial sum of them."""
    return Interval(min(0, times(interval.low, count)), max(0, times(interval.high, count)), interval.integral)


def clipped(interval: Interval, minimum: float | None, maximum: float | None) -> Interval:
    """min(max(x, minimum), maximum) of whole numbers; bounds that are none give nothing new."""
    low, high = interval.low, interval.high
    for bound in (minimum, maximum):
        if bound is not None and not float(bound).is_integer() and abs(bound) != inf:
            return Interval(low, high, integral=False)
    if minimum is not None:
        low, high = max(low, _whole(minimum)), max(high, _whole(minimum))
    if maximum is not None:
        low, high = min(low, _whole(maximum)), min(high, _whole(maximum))
    return Interval(low, high, interval.integral)


def _whole(number: float) -> float:
    return int(number) if abs(number) != inf else number


def _quotient(a: Interval, b: Interval) -> Interval:
    """Truncating division; dividing by zero has no result."""
    if not (a.integral and b.integral):
        return ANY
    least = min(abs(b.low), abs(b.high)) if b.low > 0 or b.high < 0 else 1
    largest = a.magnitude if a.magnitude == inf else int(a.magnitude) // max(int(least), 1)
    signed = a.low < 0 or b.low < 0
    return Interval(-largest if signed else 0, largest)


def _floor_remainder(a: Interval, b: Interval) -> Interval:
    """The remainder with b's sign."""
    if not (a.integral and b.integral):
        return ANY
    return Interval(min(0, b.low + 1), max(0, b.high - 1))


def _signed_remainder(a: Interval, b: Interval) -> Interval:
    """The remainder with a's sign."""
    if not (a.integral and b.integral):
        return ANY
    largest = min(a.magnitude, max(b.magnitude - 1, 0))
    return Interval(-largest if a.low < 0 else 0, largest if a.high > 0 else 0)


BINARY: Mapping[BinaryKind, Callable[[Interval, Interval], Interval]] = {
    BinaryKind.ADD: lambda a, b: Interval(a.low + b.low, a.high + b.high, a.integral and b.integral),
    BinaryKind.SUB: lambda a, b: Interval(a.low - b.high, a.high - b.low, a.integral and b.integral),
    BinaryKind.MUL: product,
    BinaryKind.DIV: _quotient,
    BinaryKind.MOD: _floor_remainder,
    BinaryKind.FMOD: _signed_remainder,
    BinaryKind.MAX: lambda a, b: Interval(max(a.low, b.low), max(a.high, b.high), a.integral and b.integral),
    BinaryKind.MIN: lambda a, b: Interval(min(a.low, b.low), min(a.high, b.high), a.integral and b.integral),
}
"""Kind -> interval of the results, from those of the operands; div as integers divide."""


def _absolute(x: Interval) -> Interval:
    low = 0 if x.low <= 0 <= x.high else min(abs(x.low), abs(x.high))
    return Interval(low, x.magnitude, x.integral)


UNARY: Mapping[UnaryKind, Callable[[Interval], Interval]] = {
    UnaryKind.ABS: _absolute,
    UnaryKind.NEG: lambda x: Interval(-x.high, -x.low, x.integral),
    UnaryKind.SQUARE: lambda x: product(_absolute(x), _absolute(x)),
    UnaryKind.RELU: lambda x: Interval(max(0, x.low), max(0, x.high), x.integral),
    UnaryKind.SIGN: lambda x: Interval(-1 if x.low < 0 else 0, 1 if x.high > 0 else 0, x.integral),
    UnaryKind.FLOOR: lambda x: x,
    UnaryKind.CEIL: lambda x: x,
    UnaryKind.ROUND: lambda x: x,
    UnaryKind.NOT: lambda _: TRUTH,
    UnaryKind.IS_NAN: lambda _: TRUTH,
}
"""Kind -> interval of the results, from that of the operand; rounding leaves whole numbers alone."""
