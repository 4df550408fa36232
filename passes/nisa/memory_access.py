"""What instructions touch in memory, as boxes: partitions x a range of bytes that moves with the loop variables.

Two accesses conflict when their boxes overlap and one of them writes. A box is the bounding box of an access pattern,
so what lies between strided elements counts as touched. Boxes of on-chip buffers are absolute, those of DRAM buffers
relative to their tensor.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import INSTRUCTIONS
from passes.nisa.program_tree import Buffer, ProgramTree, Slot, Statement


@dataclass(frozen=True)
class Region:
    """Bytes `low` to `high` of one access, over all its instances; `covered`: surely all of them are touched."""

    low: int
    high: int
    covered: bool


@dataclass(frozen=True, eq=False)
class Access:
    """One operand's box.

    `memory`: "sbuf", "psum", or the buffer id of a DRAM tensor. Bytes run from `start + low` to `start + high`, both
    included; `start` is affine in the loop variables. `slot` (with `copy_bytes`): the box moves that far with each
    slot.
    """

    statement: Statement
    memory: str | int
    writes: bool
    first_partition: int
    last_partition: int
    start: Affine
    low: int
    high: int
    buffer: int
    slot: Slot | None = None
    copy_bytes: int = 0

    def box(self, values: Mapping[int, int]) -> tuple[int, int]:
        """First and last byte of one instance, for the values of its loop variables."""
        start = self.start.value(values)
        if self.slot is not None:
            start += self.copy_bytes * (self.slot.executions.value(values) % self.slot.copies)
        return start + self.low, start + self.high

    @cached_property
    def stream(self) -> str:
        """The stream of its instruction."""
        return self.statement.stream

    @cached_property
    def shape(self) -> tuple[Hashable, ...]:
        """How the box moves, wherever it starts: what equal kernels have in common."""
        rotation = None if self.slot is None else (self.slot.copies, len(self.slot.loops), self.copy_bytes)
        loops = self.statement.loops
        moves = tuple((loop.trip_count, self.start.coefficient(loop.variable)) for loop in loops)
        return self.low, self.high, rotation, moves

    @cached_property
    def regions(self) -> list[Region]:
        """The bytes that it touches over all its instances: one region for each copy of its buffer."""
        slot = self.slot
        around_slot = set(slot.loops) if slot is not None else set()
        low, high = self.low + self.start.constant, self.high + self.start.constant
        covered = True
        for loop in sorted(self.statement.loops, key=lambda loop: abs(self.start.coefficient(loop.variable))):
            step = self.start.coefficient(loop.variable)
            if step == 0:
                continue
            covered = covered and abs(step) <= high - low + 1 and loop not in around_slot
            reach = step * (loop.trip_count - 1)
            low, high = low + min(0, reach), high + max(0, reach)
        if slot is None:
            return [Region(low, high, covered)]
        used = min(slot.copies, slot.executions.bounds(self.statement.trips)[1] + 1)
        return [Region(low + c * self.copy_bytes, high + c * self.copy_bytes, covered) for c in range(used)]

    def reach(self) -> tuple[int, int]:
        """First and last byte over all instances."""
        low, high = self.start.bounds(self.statement.trips)
        copies = self.slot.copies - 1 if self.slot is not None else 0
        return low + self.low, high + self.high + copies * self.copy_bytes


def accesses_of(tree: ProgramTree) -> list[list[Access]]:
    """The accesses of each statement, by its number; those of memory that nobody writes are left out."""
    found = [list(_accesses(statement, tree)) for statement in tree.statements]
    written = {access.memory for accesses in found for access in accesses if access.writes}
    return [[access for access in accesses if access.memory in written] for accesses in found]


def _accesses(statement: Statement, tree: ProgramTree) -> Iterable[Access]:
    definition = INSTRUCTIONS[statement.instruction.name]
    for role, operand in statement.instruction.operands.items():
        assert operand.buffer is not None
        buffer = tree.buffers[operand.buffer]
        low, high = _extent(statement, role, operand.pattern, buffer)
        yield _access(statement, buffer, operand.pattern, definition.operand(role).writes, low, high, tree.slots)


def _extent(statement: Statement, role: str, pattern: AccessPattern, buffer: Buffer) -> tuple[int, int]:
    """First and last byte of the pattern relative to its offset; rows of an indexed table count as all touched."""
    low, high = pattern.extent
    if role == "table":
        reach = int(statement.instruction.field("row_stride")) * (int(statement.instruction.field("rows")) - 1)
        low, high = low + min(0, reach), high + max(0, reach)
    return low * buffer.element_bytes, (high + 1) * buffer.element_bytes - 1


def _access(
    statement: Statement,
    buffer: Buffer,
    pattern: AccessPattern,
    writes: bool,
    low: int,
    high: int,
    slots: Mapping[int, Slot],
) -> Access:
    offset = pattern.offset * buffer.element_bytes
    terms = [(v, c) for v, c in offset.terms if v not in slots]
    start = Affine(offset.constant, tuple(terms))
    rotating = [(slots[v], c) for v, c in offset.terms if v in slots]
    slot, copy_bytes = None, 0
    if len(rotating) == 1 and _stays_in_copy(start, low, high, rotating[0][1], buffer, statement):
        slot, copy_bytes = rotating[0]
    else:
        # Not the pattern of a rotating buffer: it may touch whatever any value of the slots leads to.
        for other, step in rotating:
            reach = step * (other.copies - 1)
            low, high = low + min(0, reach), high + max(0, reach)
    if buffer.space == "dram":
        return Access(statement, buffer.id, writes, 0, 0, start, low, high, buffer.id, slot, copy_bytes)
    if buffer.address is None:
        raise NeuronError("NX-PASS-002", "an on-chip buffer has no address", help="run nisa-allocate first")
    first = pattern.partition.constant
    last = first + pattern.partitions - 1
    start = start + buffer.address
    return Access(statement, buffer.space, writes, first, last, start, low, high, buffer.id, slot, copy_bytes)


def _stays_in_copy(start: Affine, low: int, high: int, step: int, buffer: Buffer, statement: Statement) -> bool:
    """Whether all of it lies in the copy that the slot selects, so that different slots never overlap."""
    first, last = start.bounds(statement.trips)
    size = buffer.copy_bytes if buffer.space != "dram" else step
    return step == size and first + low >= 0 and last + high < size
