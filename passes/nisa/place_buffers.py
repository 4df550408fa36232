"""Writes an allocation into the IR: allocs with addresses at the top of the function, accesses of the copy in use.

A buffer of several copies is accessed through a `nisa.slot` that stands where its alloc stood; buffers of one block
with equally many copies share it. An access then begins `slot * (elements between copies)` further on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from xdsl.dialects.builtin import MemRefType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, SSAValue
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.access import Affine
from neuron_dialects.access_ops import AccessAttr, AccessOp, dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.nisa import AllocOp, SlotOp


@dataclass(frozen=True)
class PlacedBuffer:
    """A buffer's alloc, the address of its first copy in bytes from the partition's start, and the copies' distance."""

    alloc: AllocOp
    address: int
    copies: int
    copy_bytes: int


def place_buffers(function: FuncOp, buffers: Sequence[PlacedBuffer]) -> None:
    """Replace the allocs by allocs with addresses at the top of `function`, in the order given."""
    slots = _Slots()
    made: list[AllocOp] = []
    for buffer in buffers:
        copy_bytes = None
        if buffer.copies > 1:
            copy_bytes = buffer.copy_bytes
            element_bytes = dtype_by_name(dtype_name_of(buffer.alloc.buffer)).size_bytes
            slots.rotate(buffer.alloc, buffer.copies, copy_bytes // element_bytes)
        alloc = AllocOp(buffer.alloc.buffer.type, buffer.copies, 0, buffer.address, copy_bytes)
        made.append(_replaced(buffer.alloc, alloc))
    Rewriter.insert_op(made, InsertPoint.at_start(function.body.block))


def hoist_dram_buffers(function: FuncOp) -> None:
    """Move DRAM scratch buffers out of loops; one with several copies gets a leading dimension of that size."""
    slots = _Slots()
    made: list[AllocOp] = []
    allocs = [op for op in function.walk() if isinstance(op, AllocOp) and space_of(op.buffer) == "dram"]
    for old in allocs:
        if old.parent_op() is function:
            continue
        memref = cast("MemRefType[Attribute]", old.buffer.type)
        shape, copies = tuple(memref.get_shape()), old.copies.value.data
        if copies > 1:
            elements = 1
            for size in shape:
                elements *= size
            slots.rotate(old, copies, elements)
            memref = MemRefType(memref.element_type, (copies, *shape), memory_space=memref.memory_space)
        made.append(_replaced(old, AllocOp(memref)))
    Rewriter.insert_op(made, InsertPoint.at_start(function.body.block))


def _replaced(old: AllocOp, new: AllocOp) -> AllocOp:
    """`new` in place of `old`, not inserted yet."""
    new.location = old.location
    old.buffer.replace_all_uses_with(new.buffer)
    Rewriter.erase_op(old)
    return new


class _Slots:
    """The slots made so far: one for each block and number of copies."""

    def __init__(self) -> None:
        self._made: dict[tuple[Block, int], SlotOp] = {}

    def rotate(self, alloc: AllocOp, copies: int, copy_elements: int) -> None:
        """Let every access of the alloc's buffer begin `copy_elements` further on for each slot."""
        block = alloc.parent_block()
        assert block is not None
        slot = self._made.get((block, copies))
        if slot is None:
            slot = self._made[block, copies] = SlotOp(copies)
            slot.location = alloc.location
            slot.slot.name_hint = "slot"
            Rewriter.insert_op(slot, InsertPoint.before(alloc))
        for op in {use.operation: None for use in alloc.buffer.uses}:
            assert isinstance(op, AccessOp)
            shift_views(op, alloc.buffer, slot.slot, copy_elements)


def shift_views(op: AccessOp, buffer: SSAValue, index: SSAValue, elements: int) -> None:
    """Shift the op's views of `buffer` by `elements * index`."""
    buffers, indices = list(op.buffers), list(op.indices)
    if index not in indices:
        indices.append(index)
    step = Affine.variable(indices.index(index), elements)
    views = [
        (role, pattern.shifted(step) if value is buffer else pattern)
        for (role, pattern), value in zip(op.access.data, buffers, strict=True)
    ]
    op.set_operands(buffers, indices)
    op.properties["access"] = AccessAttr(tuple(views))
