"""What lies where on chip, and when: one rectangle (addresses x time) for each value that is written.

A value lives from the start of the event that writes it to the end of the last one that reads it before its bytes are
written again. A PSUM bank that several matmuls accumulate into is one value. Bytes are kept apart by cells of
`CELL_BYTES` and quarters of the partitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neuron_dialects.target import Target
from runtime.profile.columns import F64, I16, I32, I64, Array, Table
from runtime.profile.model import PSUM, SBUF, ProgramProfile

CELL_BYTES = 32
QUARTERS = 4


@dataclass(frozen=True)
class Values(Table):
    """Values in the order in which they were written: `event` wrote bytes `low` to `high` - 1 of `partitions`
    partitions from `first_partition`; the value lives from `since` to `until` (ns) and was read by `reads` events.
    """

    event: I32
    first_partition: I16
    partitions: I16
    low: I32
    high: I32
    since: F64
    until: F64
    reads: I32


@dataclass(frozen=True)
class Usage(Table):
    """How much of a memory holds values: `bytes` over all partitions from each `time` (ns) on."""

    time: F64
    bytes: I64


@dataclass(frozen=True)
class MemoryMap:
    """Values of SBUF and PSUM, how full both are, and the bytes of one partition of each."""

    sbuf: Values
    psum: Values
    sbuf_usage: Usage
    psum_usage: Usage
    sbuf_bytes: int
    psum_bytes: int


def memory_map(program: ProgramProfile, target: Target) -> MemoryMap:
    """The values of a program."""
    sizes = int(target.sbuf_bytes_per_partition), int(target.psum_banks) * int(target.psum_bank_bytes)
    sbuf, psum = (
        _Memory(program, memory, size, int(target.partitions)) for memory, size in zip((SBUF, PSUM), sizes, strict=True)
    )
    return MemoryMap(sbuf.values(), psum.values(), sbuf.usage(), psum.usage(), *sizes)


class _Memory:
    """One memory while the accesses are replayed in the order of time."""

    def __init__(self, program: ProgramProfile, memory: int, size: int, partitions: int) -> None:
        self.bytes, self.quarter = size, max(1, partitions // QUARTERS)
        self.owner = np.full((QUARTERS, -(-size // CELL_BYTES)), -1, dtype=np.int64)
        self.rows: list[list[float]] = []
        self.read_by_others: list[bool] = []
        self.cells: list[int] = []
        self.changes: list[tuple[float, int]] = []
        self._replay(program, _accesses_of(program, memory))

    def values(self) -> Values:
        """The values."""
        names = ("event", "first_partition", "partitions", "low", "high", "since", "until", "reads")
        columns = zip(*self.rows, strict=True)
        return Values.of(**dict(zip(names, columns, strict=True))) if self.rows else Values.of()

    def usage(self) -> Usage:
        """How full the memory is."""
        changes = [*self.changes, *((row[6], -cells) for row, cells in zip(self.rows, self.cells, strict=True))]
        if not changes:
            return Usage.of()
        time, change = (np.array(part) for part in zip(*changes, strict=True))
        order = np.argsort(time, kind="stable")
        time, total = time[order], np.cumsum(change[order])
        last = np.append(time[1:] != time[:-1], True)
        return Usage.of(time=time[last], bytes=total[last] * CELL_BYTES * self.quarter)

    def _replay(self, program: ProgramProfile, accesses: Mapping[int, Sequence[_Row]]) -> None:
        events, shifts = program.events, program.shifts.bytes.tolist()
        columns = (part.tolist() for part in (events.instruction, events.start, events.end, events.shift))
        for event, (instruction, start, end, shift) in enumerate(zip(*columns, strict=True)):
            for first, last, low, high, slot, reads, writes in accesses.get(instruction, ()):
                moved = shifts[shift + slot]
                low, high = (min(max(0, byte + moved), self.bytes) for byte in (low, high))
                rows = slice(first // self.quarter, -(-last // self.quarter))
                cells = self.owner[rows, low // CELL_BYTES : -(-high // CELL_BYTES)]
                if reads and self._read(cells, end, (low, high) if writes else None):
                    continue
                if writes:
                    self._write(cells)
                    self.rows.append([event, first, last - first, low, high, start, end, 0])
                    self.read_by_others.append(False)
                    self.cells.append(cells.size)
                    self.changes.append((start, cells.size))

    def _read(self, cells: Array, end: float, written: tuple[int, int] | None) -> bool:
        """A read until `end`. True when it only accumulates: the bytes that are `written` are one value's."""
        touched = [value for value, _ in _counted(cells)]
        if written is not None:
            if len(touched) != 1 or self.read_by_others[touched[0]] or tuple(self.rows[touched[0]][3:5]) != written:
                return False
            self.rows[touched[0]][6] = end
            return True
        for value in touched:
            row = self.rows[value]
            row[6] = max(row[6], end)
            row[7] += 1
            self.read_by_others[value] = True
        return False

    def _write(self, cells: Array) -> None:
        """What was in the cells ends with its last read."""
        for value, count in _counted(cells):
            self.changes.append((self.rows[value][6], -count))
            self.cells[value] -= count
        cells[...] = len(self.rows)


def _counted(cells: Array) -> list[tuple[int, int]]:
    """The values in some cells, each with the number of its cells."""
    first = int(cells[0, 0]) if cells.size else -1
    if (cells == first).all():
        return [(first, cells.size)] if first >= 0 else []
    values, counts = np.unique(cells, return_counts=True)
    return [pair for pair in zip(values.tolist(), counts.tolist(), strict=True) if pair[0] >= 0]


_Row = tuple[int, int, int, int, int, bool, bool]
"""First and last partition, low, high, slot, reads, writes."""


def _accesses_of(program: ProgramProfile, memory: int) -> dict[int, list[_Row]]:
    """The accesses of each instruction to a memory, reads first."""
    table = program.accesses
    own = table.take(table.memory == memory)
    found: dict[int, list[_Row]] = {}
    names = ("first_partition", "last_partition", "low", "high", "slot", "reads", "writes")
    columns = (getattr(own, name).tolist() for name in names)
    for instruction, *row in zip(own.instruction.tolist(), *columns, strict=True):
        found.setdefault(instruction, []).append(tuple(row))
    for rows in found.values():
        rows.sort(key=lambda row: row[6])
    return found
