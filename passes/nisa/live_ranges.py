"""Where the on-chip buffers of a function live: given its IR, leaves plain data for the memory planner.

Positions are the indices of the function's top-level statements (instructions and loop nests). A buffer that is
allocated or used inside a nest is live over the whole nest: the streams of a nest run ahead of each other, so its
buffers must not share memory. Buffers that are used by several statements live from the first to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import cast

from xdsl.dialects.builtin import MemRefType
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Attribute, Operation, Use

from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.nisa import AllocOp, NisaOp, PinnedOp
from passes.nisa.program_tree import trip_count


@dataclass(eq=False)
class OnChipBuffer:
    """An on-chip `nisa.alloc` with the positions of the top-level statements that use it (none: it is never used).

    `writes`: those of the positions that write it.
    `row_bytes`: bytes of one copy in each partition; `executions`: how often the alloc is executed. `span`: the first
    and the last of all operations of the function, in program order, between which it holds something in an iteration
    of the loop that it belongs to. Buffers whose spans are apart can share memory even inside a loop, which costs that
    what uses them cannot overlap.
    """

    alloc: AllocOp
    space: str
    row_bytes: int
    executions: int
    uses: tuple[int, ...]
    writes: tuple[int, ...]
    span: tuple[int, int]

    @property
    def in_loop(self) -> bool:
        """Whether each iteration of some loop has a buffer of its own."""
        return not isinstance(self.alloc.parent_op(), FuncOp)

    @property
    def is_loaded(self) -> bool:
        """Whether only transfers write it, beside what clears its borders, so that they may run ahead."""
        writers = [op for use in self.alloc.buffer.uses if is_write(use) and isinstance(op := use.operation, NisaOp)]
        others = [op for op in writers if not op.is_dma]
        return not others or (len(others) < len(writers) and all(op.DEFINITION.name == "memset" for op in others))

    @property
    def spill_transfers(self) -> int:
        """Stores and reloads, if it is spilled wherever it lies idle."""
        runs = runs_of(self.uses)
        written = set(self.writes)
        return len(runs) - 1 + sum(not written.isdisjoint(run) for run in runs[:-1])

    @property
    def copies(self) -> int:
        """Copies that can be used: one outside of loops, and never more than there are executions."""
        return max(1, min(self.alloc.copies.value.data, self.executions)) if self.in_loop else 1


def top_level_statements(function: FuncOp) -> list[Operation]:
    """Instructions and loop nests of the function's body in program order; their indices are the positions."""
    return [op for op in function.body.block.ops if isinstance(op, NisaOp | ForOp)]


def pinned_buffers(function: FuncOp) -> list[AllocOp]:
    """The buffers that are filled when the model is loaded, and live for ever, in the order of their transfers."""
    sections = [op for op in function.body.block.ops if isinstance(op, PinnedOp)]
    buffers = dict.fromkeys(op.buffers[0].owner for section in sections for op in section.transfers)
    return [alloc for alloc in buffers if isinstance(alloc, AllocOp)]


def on_chip_buffers(function: FuncOp, statements: Sequence[Operation]) -> list[OnChipBuffer]:
    """All on-chip buffers of the function but the pinned ones, in program order."""
    pinned = set(pinned_buffers(function))
    position = {op: index for index, op in enumerate(statements)}
    extents = _extents(function)
    found = (op for op in function.walk() if isinstance(op, AllocOp) and space_of(op.buffer) != "dram")
    allocs = [op for op in found if op not in pinned]
    return [_on_chip_buffer(alloc, function, position, extents) for alloc in allocs]


def _extents(function: FuncOp) -> dict[Operation, tuple[int, int]]:
    """(first, last) number of each operation and what it contains, in program order."""
    first = {op: number for number, op in enumerate(function.walk())}
    last = dict(first)
    for op in reversed(first):
        parent = op.parent_op()
        if parent is not None and parent in last:
            last[parent] = max(last[parent], last[op])
    return {op: (first[op], last[op]) for op in first}


def is_write(use: Use) -> bool:
    """Whether an access writes."""
    op = use.operation
    return isinstance(op, NisaOp) and op.DEFINITION.operand(op.access.data[use.index][0]).writes


def runs_of(uses: Sequence[int]) -> list[list[int]]:
    """Positions grouped into runs of neighbouring ones."""
    runs: list[list[int]] = []
    for position in uses:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def _on_chip_buffer(
    alloc: AllocOp,
    function: FuncOp,
    position: dict[Operation, int],
    extents: dict[Operation, tuple[int, int]],
) -> OnChipBuffer:
    uses: set[int] = set()
    writes: set[int] = set()
    for use in alloc.buffer.uses:
        at = position[_child_of(function, use.operation)]
        uses.add(at)
        if is_write(use):
            writes.add(at)
    executions = 1
    parent = alloc.parent_op()
    assert parent is not None
    around = [extents[_child_of(parent, use.operation)] for use in alloc.buffer.uses]
    span = (min((low for low, _ in around), default=0), max((high for _, high in around), default=0))
    while isinstance(parent, ForOp):
        executions *= trip_count(parent)
        parent = parent.parent_op()
    space = space_of(alloc.buffer)
    used, written = tuple(sorted(uses)), tuple(sorted(writes))
    return OnChipBuffer(alloc, space, row_bytes_of(alloc), executions, used, written, span)


def row_bytes_of(alloc: AllocOp) -> int:
    """Bytes of one copy of a buffer in each partition."""
    memref = cast("MemRefType[Attribute]", alloc.buffer.type)
    return prod(memref.get_shape()[1:]) * dtype_by_name(dtype_name_of(alloc.buffer)).size_bytes


def _child_of(ancestor: Operation, op: Operation) -> Operation:
    """The operation in the body of `ancestor` that is or contains `op`."""
    while (parent := op.parent_op()) is not ancestor:
        assert parent is not None, "a buffer is used where it is allocated, or in loops inside"
        op = parent
    return op
