"""Moves idle SBUF buffers out to DRAM: the rewriting half of spilling (the planner chooses whom).

Given a function in program order and buffers that are used by several of its top-level statements, each buffer is cut
into one buffer per run of neighbouring uses. The last write of a run is followed by a store to a DRAM scratch tensor, each
later run begins with a reload.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from xdsl.dialects.builtin import MemRefType, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Operation, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.access_ops import dtype_name_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa.limits import MAX_SIZE
from neuron_dialects.neuron import MemorySpace, MemorySpaceAttr, location_name
from neuron_dialects.nisa import NISA_OPS, AllocOp, NisaOp
from neuron_dialects.target import Target
from passes.nisa.live_ranges import OnChipBuffer

SPILL_RING, RELOAD_RING = "spill", "reload"
"""DMA rings of their own: neither waits for transfers that were asked for earlier by others."""


@dataclass(frozen=True)
class Spill:
    """A buffer that was moved out: its bytes (all partitions), stores and reloads, and the framework node it belongs to."""

    bytes: int
    stores: int
    reloads: int
    node: str | None

    def __str__(self) -> str:
        owner = f" of node '{self.node}'" if self.node else ""
        return f"{self.bytes} bytes{owner}: stored {self.stores} times, reloaded {self.reloads} times"


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
    runs = _runs(buffer.uses)
    stores = reloads = 0
    for number, run in enumerate(runs):
        part = AllocOp(memref, name=_hint(alloc, "part"))
        part.location = alloc.location
        first = statements[run[0]]
        Rewriter.insert_op(part, InsertPoint.before(first))
        if number > 0:
            reloads += 1
            for op in _transfers(part.buffer, scratch.buffer, target, reload=True):
                op.location = first.location
                Rewriter.insert_op(op, InsertPoint.before(first))
        for position in run:
            _use_instead(statements[position], alloc.buffer, part.buffer)
        written = [position for position in run if position in buffer.writes]
        if written and number + 1 < len(runs):
            stores += 1
            last = statements[written[-1]]
            after = InsertPoint.after(last)
            for op in _transfers(part.buffer, scratch.buffer, target, reload=False):
                op.location = last.location
                Rewriter.insert_op(op, after)
    node = next((name for p in buffer.uses if (name := _node_of(statements[p]))), location_name(alloc.location))
    Rewriter.erase_op(alloc)
    return Spill(buffer.row_bytes * memref.get_shape()[0], stores, reloads, node)


def _node_of(statement: Operation) -> str | None:
    return next((name for op in statement.walk() if (name := location_name(op.location))), None)


def _hint(alloc: AllocOp, suffix: str) -> str:
    return f"{alloc.buffer.name_hint or 'buffer'}_{suffix}"


def _runs(uses: Sequence[int]) -> list[list[int]]:
    """Uses grouped into runs of neighbouring positions."""
    runs: list[list[int]] = []
    for position in uses:
        if runs and position == runs[-1][-1] + 1:
            runs[-1].append(position)
        else:
            runs.append([position])
    return runs


def _use_instead(statement: Operation, old: SSAValue, new: SSAValue) -> None:
    for op in statement.walk():
        if old in op.operands:
            op.operands = [new if operand is old else operand for operand in op.operands]


def _transfers(part: SSAValue, scratch: SSAValue, target: Target, reload: bool) -> Iterator[NisaOp]:
    """DMAs of the whole buffer: one, or several where a row is longer than a dimension of a pattern may be."""
    shape = cast("MemRefType[Attribute]", part.type).get_shape()
    partitions, row = shape[0], 1
    for size in shape[1:]:
        row *= size
    trigger, ring = ("load", RELOAD_RING) if reload else ("store", SPILL_RING)
    place = {"engine": StringAttr(target.dma_trigger_list[trigger]), "ring": StringAttr(ring)}
    for first in range(0, row, MAX_SIZE):
        count = min(MAX_SIZE, row - first)
        on_chip = AccessPattern(Affine(), partitions, Affine(first), ((1, count),))
        in_dram = AccessPattern(Affine(), 0, Affine(first), ((row, partitions), (1, count)))
        views = [(part, on_chip), (scratch, in_dram)] if reload else [(scratch, in_dram), (part, on_chip)]
        operands = [(role, value, pattern) for role, (value, pattern) in zip(("dst", "src"), views, strict=True)]
        yield NISA_OPS["dma_copy"].make(operands, extra=place)


