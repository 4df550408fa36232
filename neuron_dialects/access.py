"""Affine expressions over loop variables, access patterns over buffers: the plain data that lower levels are built on.

An `AccessPattern` says which elements of one buffer an operand touches, and in which order: a run of partitions and a
strided pattern in the free dimension that is the same for every partition (SBUF and PSUM), or a strided pattern over
linear memory (DRAM). Starts are affine in the enclosing loops' variables, so that a loop stays a loop. Nothing here
knows the IR: variables are small integers whose meaning the owner gives (an operand position of an op, a loop's
identity in a program).

Text form, used by the IR, the assembler and messages alike (`$0` is variable 0):

    [32:64][512*$0 + 4 : 14 step 28, 14]      64 partitions from 32; 14 rows of 14 elements, rows 28 elements apart
    [1024*$1 : 128 step 2048, 512]            DRAM: 128 rows of 512 elements
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Affine:
    """`constant + sum(coefficient * variable)`; terms are sorted by variable and never have coefficient 0."""

    constant: int = 0
    terms: tuple[tuple[int, int], ...] = ()

    @staticmethod
    def of(constant: int, terms: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> "Affine":
        """Affine expression from a constant and variable -> coefficient; zero coefficients are dropped."""
        items: Any = terms
        # Most are lists; an abstract class takes long to ask.
        if not isinstance(terms, list | tuple) and isinstance(terms, Mapping):
            items = terms.items()
        kept = [(v, c) for v, c in items if c]
        if len(kept) > 1:
            kept.sort()
        return Affine(constant, tuple(kept))

    @staticmethod
    def variable(index: int, coefficient: int = 1) -> "Affine":
        """`coefficient * $index`."""
        return Affine.of(0, ((index, coefficient),))

    @property
    def is_constant(self) -> bool:
        """Whether no variable takes part."""
        return not self.terms

    @property
    def linear(self) -> "Affine":
        """The expression without its constant."""
        return Affine(0, self.terms)

    def coefficient(self, variable: int) -> int:
        """Coefficient of `variable` (0 when absent)."""
        for v, c in self.terms:
            if v == variable:
                return c
        return 0

    def __add__(self, other: "Affine | int") -> "Affine":
        if isinstance(other, int):
            return Affine(self.constant + other, self.terms)
        if not other.terms:
            return Affine(self.constant + other.constant, self.terms)
        total = dict(self.terms)
        for v, c in other.terms:
            total[v] = total.get(v, 0) + c
        return Affine.of(self.constant + other.constant, total)

    __radd__ = __add__

    def __neg__(self) -> "Affine":
        return self * -1

    def __sub__(self, other: "Affine | int") -> "Affine":
        if isinstance(other, int):
            return Affine(self.constant - other, self.terms)
        if not other.terms:
            return Affine(self.constant - other.constant, self.terms)
        if self.terms == other.terms:
            return Affine(self.constant - other.constant)
        total = dict(self.terms)
        for v, c in other.terms:
            total[v] = total.get(v, 0) - c
        return Affine.of(self.constant - other.constant, total)

    def __mul__(self, factor: int) -> "Affine":
        if factor == 0:
            return Affine()
        return Affine(self.constant * factor, tuple((v, c * factor) for v, c in self.terms))

    __rmul__ = __mul__

    def divided(self, divisor: int) -> "Affine":
        """The expression divided by a number that divides the constant and each coefficient; ValueError otherwise."""
        if self.constant % divisor or any(c % divisor for _, c in self.terms):
            raise ValueError(f"{self} is not a multiple of {divisor}")
        return Affine(self.constant // divisor, tuple((v, c // divisor) for v, c in self.terms))

    def value(self, variables: Mapping[int, int]) -> int:
        """The number for given values of the variables."""
        total = self.constant
        for v, c in self.terms:
            total += c * variables[v]
        return total

    def rename(self, mapping: Callable[[int], int]) -> "Affine":
        """The same expression with every variable v called mapping(v)."""
        return Affine.of(self.constant, [(mapping(v), c) for v, c in self.terms]) if self.terms else self

    def bounds(self, trips: Mapping[int, int]) -> tuple[int, int]:
        """Smallest and largest value when variable v runs over 0 .. trips[v] - 1."""
        low = high = self.constant
        for v, c in self.terms:
            reach = c * (trips[v] - 1)
            low, high = low + min(0, reach), high + max(0, reach)
        return low, high

    def at_least(self, other: "Affine", trips: Mapping[int, int]) -> bool:
        """Whether it is nowhere smaller than `other` when variable v runs over 0 .. trips[v] - 1."""
        if self.terms == other.terms:
            return self.constant >= other.constant
        return (self - other).bounds(trips)[0] >= 0

    def __str__(self) -> str:
        return self.text()

    def text(self, name: Callable[[int], str] = "${}".format) -> str:
        """Readable form; `name` gives the spelling of a variable."""
        parts: list[str] = []
        for v, c in self.terms:
            sign = "-" if c < 0 else "+"
            body = name(v) if abs(c) == 1 else f"{abs(c)}*{name(v)}"
            parts.append(f"{sign} {body}" if parts else (f"-{body}" if c < 0 else body))
        if self.constant or not parts:
            constant = self.constant
            if parts:
                parts.append(f"{'-' if constant < 0 else '+'} {abs(constant)}")
            else:
                parts.append(str(constant))
        return " ".join(parts)


Dims = tuple[tuple[int, int], ...]
"""Free dimensions, outermost first: (stride in elements, size)."""


def contiguous_dims(shape: Iterable[int]) -> Dims:
    """Row-major dims of a dense block of `shape`, with neighbours merged where they form one run."""
    dims: list[tuple[int, int]] = []
    stride = 1
    for size in reversed(tuple(shape)):
        dims.append((stride, size))
        stride *= size
    return merge_dims(tuple(reversed(dims)))


def merge_dims(dims: Dims) -> Dims:
    """The same elements in the same order with the fewest dims: size-1 dims dropped, adjacent runs joined."""
    merged: list[tuple[int, int]] = []
    for stride, size in dims:
        if size == 1:
            continue
        if merged and merged[-1][0] == stride * size:
            merged[-1] = (stride, merged[-1][1] * size)
        else:
            merged.append((stride, size))
    return tuple(merged) or ((1, 1),)


@dataclass(frozen=True)
class AccessPattern:
    """Elements of a buffer touched by one operand.

    `partition` / `partitions`: first partition and their number; `partitions == 0` marks DRAM, which has no partitions.
    `offset`: first element, counted from the start of the partition's row (on chip) or of the tensor (DRAM).
    `dims`: free dimensions, outermost first, (stride, size) in elements; stride 0 repeats.
    """

    partition: Affine
    partitions: int
    offset: Affine
    dims: Dims

    @property
    def is_dram(self) -> bool:
        """Whether the pattern is over linear memory."""
        return self.partitions == 0

    @property
    def free_elements(self) -> int:
        """Elements per partition (on chip) or in all (DRAM)."""
        total = 1
        for _, size in self.dims:
            total *= size
        return total

    @property
    def elements(self) -> int:
        """Elements in all."""
        return self.free_elements * max(1, self.partitions)

    @property
    def extent(self) -> tuple[int, int]:
        """Smallest and largest element distance from `offset`."""
        low = high = 0
        for stride, size in self.dims:
            reach = stride * (size - 1)
            low, high = low + min(0, reach), high + max(0, reach)
        return low, high

    @property
    def contiguous_run(self) -> int:
        """Length in elements of the innermost contiguous run."""
        run = 1
        for stride, size in reversed(self.dims):
            if size == 1:
                continue
            if stride != run:
                break
            run *= size
        return run

    def rename(self, mapping: Callable[[int], int]) -> "AccessPattern":
        """The same pattern with its variables renamed."""
        return AccessPattern(self.partition.rename(mapping), self.partitions, self.offset.rename(mapping), self.dims)

    def variables(self) -> set[int]:
        """Variables that the starts depend on."""
        return {v for v, _ in self.partition.terms} | {v for v, _ in self.offset.terms}

    def shifted(self, elements: "Affine | int") -> "AccessPattern":
        """The same pattern `elements` further in the free dimension."""
        return AccessPattern(self.partition, self.partitions, self.offset + elements, self.dims)

    def __str__(self) -> str:
        return self.text()

    def text(self, name: Callable[[int], str] = "${}".format) -> str:
        """Text form, see the module's head."""
        sizes = ", ".join(str(n) if s == 1 else f"{n} step {s}" for s, n in self.dims)
        free = f"[{self.offset.text(name)} : {sizes}]"
        return free if self.is_dram else f"[{self.partition.text(name)}:{self.partitions}]{free}"


_TOKEN = re.compile(r"\s*([\[\]:,*+-]|step|\d+|[$%][A-Za-z0-9_.$]+)")


class _Reader:
    """Tokens of the text form; raises ValueError with the position of whatever does not fit."""

    def __init__(self, text: str, variable: Callable[[str], int]):
        self.text, self.position, self.variable = text, 0, variable

    def peek(self) -> str:
        match = _TOKEN.match(self.text, self.position)
        return match.group(1) if match else ""

    def take(self, expected: str | None = None) -> str:
        match = _TOKEN.match(self.text, self.position)
        if match is None or (expected is not None and match.group(1) != expected):
            raise ValueError(f"expected {expected or 'a token'} at column {self.position} of '{self.text}'")
        self.position = match.end()
        return match.group(1)

    def integer(self) -> int:
        sign = 1
        if self.peek() == "-":
            self.take()
            sign = -1
        token = self.take()
        if not token.isdigit():
            raise ValueError(f"expected a number at column {self.position} of '{self.text}'")
        return sign * int(token)

    def affine(self) -> Affine:
        total, sign = Affine(), 1
        if self.peek() == "-":
            self.take()
            sign = -1
        while True:
            token = self.take()
            if token.isdigit() and self.peek() == "*":
                self.take("*")
                total = total + Affine.variable(self.variable(self.take()), sign * int(token))
            elif token.isdigit():
                total = total + sign * int(token)
            else:
                total = total + Affine.variable(self.variable(token), sign)
            if self.peek() not in ("+", "-"):
                return total
            sign = 1 if self.take() == "+" else -1

    def pattern(self) -> AccessPattern:
        self.take("[")
        first = self.affine()
        self.take(":")
        leading = self.integer()
        partition, partitions = Affine(), 0
        dims: list[tuple[int, int]] = []
        if self.peek() == "]":
            after = _TOKEN.match(self.text, self.position)
            following = _TOKEN.match(self.text, after.end()) if after else None
            if following and following.group(1) == "[":
                self.take("]")
                partition, partitions = first, leading
                self.take("[")
                first = self.affine()
                self.take(":")
                leading = self.integer()
        while True:
            stride = 1
            if self.peek() == "step":
                self.take("step")
                stride = self.integer()
            dims.append((stride, leading))
            if self.peek() != ",":
                break
            self.take(",")
            leading = self.integer()
        self.take("]")
        return AccessPattern(partition, partitions, first, tuple(dims))


def _numbered(token: str) -> int:
    if not token.startswith("$") or not token[1:].isdigit():
        raise ValueError(f"expected a variable like $0, not '{token}'")
    return int(token[1:])


def parse_pattern(text: str, variable: Callable[[str], int] = _numbered) -> AccessPattern:
    """Read the text form of an access pattern; `variable` maps a name to its number. Raises ValueError."""
    reader = _Reader(text, variable)
    pattern = reader.pattern()
    if reader.text[reader.position :].strip():
        raise ValueError(f"unexpected text after the access pattern: '{reader.text[reader.position :]}'")
    return pattern


def parse_affine(text: str, variable: Callable[[str], int] = _numbered) -> Affine:
    """Read the text form of an affine expression. Raises ValueError."""
    reader = _Reader(text, variable)
    expression = reader.affine()
    if reader.text[reader.position :].strip():
        raise ValueError(f"unexpected text after the expression: '{reader.text[reader.position :]}'")
    return expression
