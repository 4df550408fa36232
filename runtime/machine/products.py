"""Which matrix multiplications can be computed together, and in which scratch arrays, as a pure algorithm.

Given the reads and writes of a program's executions in the order of time, leaves groups of multiplications that add to
one another in the same place while nobody looks there, so that one long product takes the place of many short ones and
their additions. Operands lie one below the other in slabs, scratch arrays of float32. They are put there when
they are read, and a slab that holds what is needed again is used again.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Times = NDArray[np.int64]
Box = tuple[Hashable, int, int, int, int]
"""(memory, first partition, one past the last, first byte, one past the last)."""

MAX_ROWS = 1024
"""Rows (the contracted dimension) of a slab: longer products are no quicker, and leave the caches."""

PAGE_BYTES, PAGE_PARTITIONS = 64, 32
"""Granularity in which is remembered when memory was last written."""

MAX_DEPTH = 16
"""Constants that are made of one another, one after the other."""

SLAB_BYTES = 64 << 20
"""Size of all slabs that stay, in case that what they hold is needed again in the same run."""


@dataclass(frozen=True)
class Listing:
    """Elements of a box; `layout`: which of them, in which order, as what."""

    box: Box
    layout: Hashable


@dataclass(frozen=True)
class Product:
    """A multiplication: rows, the place it goes to, what it reads, whether it adds to what is there."""

    rows: int
    adds: bool
    place: Listing
    stationary: Listing
    moving: Listing


@dataclass(frozen=True)
class Touches:
    """What one execution reads and writes; `product` if it is a multiplication that may be grouped.

    `constant`: a name of what it writes, if that fills all of its one box, and is the same in every run in which its
    `sources` are, the operands that it reads.
    """

    reads: tuple[Box, ...]
    writes: tuple[Box, ...]
    product: Product | None = None
    constant: Hashable | None = None
    sources: tuple[Listing, ...] = ()


@dataclass(frozen=True)
class Content:
    """What an operand held when it was read; equal contents are equal data. `constant`: in every run, and then `name`
    begins with the name of the constant that was written. `written`: when that was; -1 before the first event.
    """

    name: Hashable
    constant: bool
    written: int = field(default=-1, compare=False)


@dataclass(eq=False)
class Group:
    """Multiplications that are computed as one when the last of them is written; with contents of their operands."""

    members: list[int]
    adds: bool
    box: Box
    rows: int = 0
    stationary: list[Content] = field(default_factory=list)
    moving: list[Content] = field(default_factory=list)

    def contents(self, role: str) -> list[Content]:
        """What one of the two operands held, member by member."""
        return self.stationary if role == "stationary" else self.moving


class _LastWrites:
    """When each page of each memory was last written."""

    def __init__(self) -> None:
        self._times: dict[Hashable, Times] = {}

    def write(self, box: Box, time: int) -> None:
        self.pages(box)[...] = time

    def last(self, box: Box) -> int:
        return int(self.pages(box).max())

    def pages(self, box: Box) -> Times:
        memory, first, last, low, high = box
        rows, columns = -(-last // PAGE_PARTITIONS), -(-high // PAGE_BYTES)
        times = self._times.get(memory)
        if times is None or times.shape[0] < rows or times.shape[1] < columns:
            held = (0, 0) if times is None else times.shape
            grown = np.full((max(rows, held[0]), max(columns, 2 * held[1])), -1, dtype=np.int64)
            if times is not None:
                grown[: held[0], : held[1]] = times
            times = self._times[memory] = grown
        return times[first // PAGE_PARTITIONS : rows, low // PAGE_BYTES : columns]


@dataclass(frozen=True)
class Found:
    """The groups of all products, and, by their numbers, the executions that write constants: contents of what each
    reads, in the order of its sources.
    """

    groups: list[Group] = field(default_factory=list[Group])
    constants: dict[int, list[Content]] = field(default_factory=dict[int, list[Content]])


def find_groups(order: Sequence[int], touches: Mapping[int, Touches]) -> Found:
    """The groups of all products in `touches`, and the constants.

    Args:
        order: what happens in time: `number` when an execution reads, `~number` when its results are written.
        touches: what each execution does, by number. One with a product reads before it writes, both in `order`.
    """
    finder = _Finder(order, touches)
    for time, entry in enumerate(order):
        if entry >= 0:
            finder.read(entry)
        else:
            finder.write(~entry, time)
    return finder.found


def idle_constants(
    order: Sequence[int],
    touches: Mapping[int, Touches],
    constants: Collection[int],
    spared: Mapping[int, Collection[Listing]],
) -> set[int]:
    """The executions whose constants nobody reads in further runs: what needs them keeps what it made of them.

    Args:
        order, touches: as for `find_groups`.
        constants: the executions that write constants, which it found.
        spared: the operands that are not read in further runs, by the number of the execution.
    """
    writers, idle, read = _LastWrites(), set[int](), set[int]()
    needs: dict[int, set[int]] = {}

    def see(box: Box, seen: set[int]) -> None:
        pages = writers.pages(box)
        if (pages >= 0).any():
            seen.update(np.unique(pages).tolist())

    for entry in order:
        number = entry if entry >= 0 else ~entry
        touch = touches[number]
        if entry >= 0:
            boxes = list(touch.reads)
            for operand in spared.get(number, ()):
                boxes.remove(operand.box)
            seen = needs.setdefault(number, set()) if number in constants else read
            for box in boxes:
                see(box, seen)
            continue
        constant = number in constants
        for box in touch.writes:
            _, first, last, low, high = box
            if first % PAGE_PARTITIONS or last % PAGE_PARTITIONS or low % PAGE_BYTES or high % PAGE_BYTES:
                # Others may still read what else lies on these pages.
                see(box, read)
            writers.write(box, number if constant else -1)
        if constant:
            idle.add(number)
    # What a constant was made of is needed where the constant is; it was read first.
    for number in sorted(needs, reverse=True):
        if number in read or number not in idle:
            read |= needs[number]
    return idle - read


@dataclass(frozen=True)
class _Constant:
    """What an execution writes that is the same in every run; `depth`: how many were made of one another."""

    name: int
    depth: int


class _Finder:
    """The groups that are open: more products may be added to them."""

    def __init__(self, order: Sequence[int], touches: Mapping[int, Touches]) -> None:
        self.found = Found()
        self._order, self._touches = order, touches
        self._open: dict[Listing, Group] = {}
        self._writes = _LastWrites()
        self._contents: dict[int, tuple[Content, Content]] = {}
        self._names: dict[Hashable, int] = {}
        self._constants: dict[int, _Constant] = {}

    def read(self, number: int) -> None:
        touch = self._touches[number]
        product = touch.product
        if touch.constant is not None:
            self._read_constant(number, touch.constant, [self._content(source) for source in touch.sources])
        if product is not None:
            self._contents[number] = self._content(product.stationary), self._content(product.moving)
        self._close(touch.reads, product.place if product is not None else None)

    def _read_constant(self, number: int, name: Hashable, sources: list[Content]) -> None:
        """An execution makes a constant, if all that it reads is constant."""
        depth = 1 + max(
            (self._constants[~self._order[content.written]].depth for content in sources if content.constant), default=0
        )
        if depth <= MAX_DEPTH and all(content.constant for content in sources):
            # A number, so that names do not grow with what they are made of.
            made = self._names.setdefault((name, *sources), len(self._names))
            self._constants[number] = _Constant(made, depth)
            self.found.constants[number] = sources

    def _content(self, operand: Listing) -> Content:
        time = self._writes.last(operand.box)
        constant = self._constants.get(~self._order[time]) if time >= 0 else None
        if constant is not None:
            _, first, last, low, high = operand.box
            for _, from_first, to_last, from_low, to_high in self._touches[~self._order[time]].writes:
                if from_first <= first and last <= to_last and from_low <= low and high <= to_high:
                    part = (first - from_first, last - first, low - from_low, high - low)
                    return Content((constant.name, part, operand.layout), constant=True, written=time)
        return Content((operand, time), constant=False, written=time)

    def write(self, number: int, time: int) -> None:
        touch = self._touches[number]
        if touch.product is None:
            self._close(touch.writes)
        else:
            self._write_product(number, touch, touch.product)
        for box in touch.writes:
            self._writes.write(box, time)

    def _write_product(self, number: int, touch: Touches, product: Product) -> None:
        self._close(touch.writes, product.place)
        group = self._open.get(product.place)
        if group is None or not product.adds or group.rows + product.rows > MAX_ROWS:
            group = self._open[product.place] = Group([], product.adds, touch.writes[0])
            self.found.groups.append(group)
        stationary, moving = self._contents.pop(number)
        group.members.append(number)
        group.rows += product.rows
        group.stationary.append(stationary)
        group.moving.append(moving)

    def _close(self, boxes: Iterable[Box], but: Listing | None = None) -> None:
        """Nothing is added any more to groups whose place these boxes touch."""
        for memory, first, last, low, high in boxes:
            for place, group in list(self._open.items()):
                other, other_first, other_last, other_low, other_high = group.box
                if (
                    low < other_high and other_low < high and first < other_last and other_first < last
                    and memory == other and place != but
                ):  # fmt: skip
                    del self._open[place]


@dataclass(eq=False)
class Slab:
    """One scratch array; `filled`: which of its operands are in it."""

    key: Hashable
    array: Floats
    filled: list[bool]


class Slabs:
    """Scratch arrays by what they hold, their keys; `uses` counts how often each will be taken.

    One whose contents nobody needs again is taken at once for something else, while it is in the processor's caches;
    the rest stays, what was used last the longest, if there is room.
    """

    def __init__(self, uses: Mapping[Hashable, int], limit_bytes: int = SLAB_BYTES) -> None:
        self._room_bytes = limit_bytes
        self._uses = dict(uses)
        self._users: dict[Hashable, int] = {}
        self._held: dict[int, dict[Hashable, Slab]] = {}
        self._free: dict[int, list[Floats]] = {}

    def take(self, key: Hashable, rows: int, columns: int, operands: int) -> Slab:
        """A slab for so many operands, in use until `leave`; what it holds already is marked in it."""
        # Sizes are powers of two, so that few of them suffice.
        size = 1 << (rows * columns - 1).bit_length()
        held = self._held.setdefault(size, {})
        slab = held.pop(key, None)
        if slab is None:
            array = self._memory(size, held)[: rows * columns].reshape(rows, columns)
            slab = Slab(key, array, [False] * operands)
        held[key] = slab
        self._uses[key] -= 1
        self._users[key] = self._users.get(key, 0) + 1
        return slab

    def leave(self, slab: Slab) -> None:
        """A group that used the slab has been computed."""
        self._users[slab.key] -= 1
        if not self._users[slab.key] and not self._uses[slab.key]:
            memory = _memory_of(slab)
            del self._held[memory.size][slab.key]
            self._free.setdefault(memory.size, []).append(memory)

    def _memory(self, size: int, held: dict[Hashable, Slab]) -> Floats:
        free = self._free.get(size)
        if free:
            return free.pop()
        if self._room_bytes < 4 * size:
            oldest = next((key for key in held if not self._users[key]), None)
            if oldest is not None:
                return _memory_of(held.pop(oldest))
        self._room_bytes -= 4 * size
        return np.empty(size, np.float32)


def _memory_of(slab: Slab) -> Floats:
    memory = slab.array.base
    assert memory is not None
    return memory
