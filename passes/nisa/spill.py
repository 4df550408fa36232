"""Moves idle SBUF buffers out to DRAM: the rewriting half of spilling (the planner chooses whom).

Given a function in program order and buffers that are used by several of its top-level statements, each buffer is cut
into one buffer per run of neighbouring uses. The last write of a run is followed by a store to a DRAM scratch tensor,
each later run begins with a reload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from xdsl.dialects.builtin import MemRefType, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Attribute, BlockArgument, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.isa.limits import MAX_SIZE
from neuron_dialects.neuron import MemorySpace, MemorySpaceAttr, location_name, name_inside
from neuron_dialects.nisa import NISA_OPS, AllocOp, NisaOp
from neuron_dialects.target import Target
from passes.nisa.live_ranges import OnChipBuffer, runs_of
from passes.nisa.program_tree import trip_count

SPILL_RING, RELOAD_RING = "spill", "reload"
"""DMA rings of their own: neither waits for transfers that were asked for earlier by others."""


@dataclass(frozen=True)
class Spill:
    """A buffer that was moved out: its bytes (of all partitions), stores and reloads, and its framework node."""

    bytes: int
    stores: int
    reloads: int
    node: str | None

    def __str__(self) -> str:
        owner = f" of node '{self.node}'" if self.node else ""
        return f"{self.bytes} bytes{owner} (stores: {self.stores}, reloads: {self.reloads})"


class Part(NamedTuple):
    """Elements `low` to `high` - 1 of the rows of some partitions of a buffer."""

    first_partition: int
    partitions: int
    low: int
    high: int


def spill_buffer(buffer: OnChipBuffer, function: FuncOp, statements: Sequence[Operation], target: Target) -> Spill:
    """Keep `buffer` in DRAM wherever it lies idle; `statements` are the function's top-level statements."""
    alloc = buffer.alloc
    memref = cast("MemRefType[Attribute]", alloc.buffer.type)
    scratch = AllocOp(
        MemRefType(memref.element_type, memref.get_shape(), memory_space=MemorySpaceAttr(MemorySpace.DRAM)),
        name=_hint(alloc, "spilled"),
    )
    scratch.location = alloc.location
    Rewriter.insert_op(scratch, InsertPoint.before(alloc))
    stores = reloads = 0
    in_dram: list[Part] = []
    runs = runs_of(buffer.uses)
    for number, run in enumerate(runs):
        first = statements[run[0]]
        own = AllocOp(memref, name=_hint(alloc, "part"))
        own.location = alloc.location
        Rewriter.insert_op(own, InsertPoint.before(first))
        if in_dram:
            reloads += 1
            transfers = _transfers(own.buffer, scratch.buffer, _merged(in_dram), target, reload=True)
            _insert(transfers, InsertPoint.before(first), first)
        written: list[Part] = []
        last = first
        for position in run:
            parts = list(_written_parts(alloc.buffer, statements[position]))
            written += parts
            last = statements[position] if parts else last
            _use_instead(statements[position], alloc.buffer, own.buffer)
        if written and number + 1 < len(runs):
            stores += 1
            in_dram += written
            transfers = _transfers(own.buffer, scratch.buffer, _merged(written), target, reload=False)
            _insert(transfers, InsertPoint.after(last), last)
    node = location_name(alloc.location)
    node = node or next((name for p in buffer.uses if (name := name_inside(statements[p]))), None)
    Rewriter.erase_op(alloc)
    return Spill(buffer.row_bytes * memref.get_shape()[0], stores, reloads, node)


def _hint(alloc: AllocOp, suffix: str) -> str:
    return f"{alloc.buffer.name_hint or 'buffer'}_{suffix}"


def _insert(transfers: Sequence[NisaOp], place: InsertPoint, statement: Operation) -> None:
    """Insert DMAs that belong to a statement, and carry its location."""
    located = next((op.location for op in statement.walk() if location_name(op.location)), statement.location)
    for op in transfers:
        op.location = located
    Rewriter.insert_op(transfers, place)


def _use_instead(statement: Operation, old: SSAValue, new: SSAValue) -> None:
    for op in statement.walk():
        if old in op.operands:
            op.operands = [new if operand is old else operand for operand in op.operands]


def _written_parts(buffer: SSAValue, statement: Operation) -> Iterator[Part]:
    """The boxes that a statement writes, over all iterations of its loops."""
    for op in statement.walk():
        if not isinstance(op, NisaOp) or buffer not in op.buffers:
            continue
        trips = {number: _trips(value) for number, value in enumerate(op.indices)}
        for (role, pattern), value in zip(op.access.data, op.buffers, strict=True):
            if value is buffer and op.DEFINITION.operand(role).writes:
                first, last = pattern.offset.bounds(trips)
                low, high = pattern.extent
                yield Part(pattern.partition.constant, pattern.partitions, first + low, last + high + 1)


def _trips(index: SSAValue) -> int:
    loop = index.block.parent_op() if isinstance(index, BlockArgument) else None
    assert isinstance(loop, ForOp), "before allocation all indices are loop variables"
    return trip_count(loop)


def _merged(parts: Sequence[Part]) -> list[Part]:
    """The same elements in fewer parts: those of the same partitions that overlap or adjoin are joined."""
    merged: list[Part] = []
    for part in sorted(parts):
        last = merged[-1] if merged else None
        if last and last[:2] == part[:2] and part.low <= last.high:
            merged[-1] = Part(part.first_partition, part.partitions, last.low, max(last.high, part.high))
        else:
            merged.append(part)
    return merged


def _transfers(own: SSAValue, scratch: SSAValue, parts: Sequence[Part], target: Target, reload: bool) -> list[NisaOp]:
    """DMAs of the parts: one for each, or several where a row is longer than a dimension of a pattern may be."""
    row = 1
    for size in cast("MemRefType[Attribute]", own.type).get_shape()[1:]:
        row *= size
    trigger, ring = ("load", RELOAD_RING) if reload else ("store", SPILL_RING)
    place = {"engine": StringAttr(target.dma_trigger_list[trigger]), "ring": StringAttr(ring)}
    transfers: list[NisaOp] = []
    for part in parts:
        for low in range(part.low, part.high, MAX_SIZE):
            count = min(MAX_SIZE, part.high - low)
            on_chip = AccessPattern(Affine(part.first_partition), part.partitions, Affine(low), ((1, count),))
            start = Affine(part.first_partition * row + low)
            in_dram = AccessPattern(Affine(), 0, start, ((row, part.partitions), (1, count)))
            views = [(own, on_chip), (scratch, in_dram)] if reload else [(scratch, in_dram), (own, on_chip)]
            operands = [(role, value, pattern) for role, (value, pattern) in zip(("dst", "src"), views, strict=True)]
            transfers.append(NISA_OPS["dma_copy"].make(operands, extra=place))
    return transfers
