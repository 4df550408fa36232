"""Runs programs of copies and memsets in program order on symbols, to see that a rewriting moves the same data.

Works before allocation (every execution of an alloc is a fresh buffer) and after it (buffers are addresses). Two
partitions stand for all: 0 and 64, since the programs treat partitions 0 to 63 alike, and 64 to 127.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import IntegerAttr
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.access import AccessPattern
from neuron_dialects.access_ops import space_of
from neuron_dialects.nisa import AllocOp, NisaOp, SlotOp

ELEMENT_BYTES = 4
PARTITIONS = (0, 64)


class SymbolicRun:
    """`memory` maps (memory, partition, element) to a symbol; what nobody wrote reads as a symbol of its own."""

    def __init__(self, function: FuncOp) -> None:
        self.memory: dict[tuple[Any, ...], Any] = {}
        self.uninitialised = 0
        self._indices: dict[SSAValue, int] = {}
        self._executions: dict[Operation, int] = {}
        self._memsets = 0
        for argument in function.body.block.args:
            self._indices[argument] = argument.index
        self._block(function.body.block)

    def results(self) -> dict[tuple[Any, ...], Any]:
        """The contents of the arguments."""
        return {place: symbol for place, symbol in self.memory.items() if place[0] == "argument"}

    def _block(self, block: Block) -> None:
        for op in block.ops:
            if isinstance(op, ForOp):
                owner = op.ub.owner
                assert isinstance(owner, ConstantOp) and isinstance(owner.value, IntegerAttr)
                for index in range(owner.value.value.data):
                    self._indices[op.body.block.args[0]] = index
                    self._block(op.body.block)
            elif isinstance(op, SlotOp | AllocOp):
                count = self._executions[op] = self._executions.get(op, -1) + 1
                if isinstance(op, SlotOp):
                    self._indices[op.slot] = count % op.copies.value.data
            elif isinstance(op, NisaOp):
                self._instruction(op)

    def _instruction(self, op: NisaOp) -> None:
        operands = [
            list(self._places(op, pattern, buffer))
            for (_, pattern), buffer in zip(op.access.data, op.buffers, strict=True)
        ]
        if op.name == "nisa.memset":
            self._memsets += 1
            symbols: list[Any] = [("memset", self._memsets)] * len(operands[0])
        else:
            symbols = [self._read(place) for place in operands[1]]
        for place, symbol in zip(operands[0], symbols, strict=True):
            self.memory[place] = symbol

    def _read(self, place: tuple[Any, ...]) -> Any:
        if place not in self.memory and place[0] != "argument":
            self.uninitialised += 1
            return "uninitialised"
        return self.memory.get(place, place)

    def _places(self, op: NisaOp, pattern: AccessPattern, buffer: SSAValue) -> Iterator[tuple[Any, ...]]:
        """Every element of an operand, for the partitions that stand for all."""
        values = {number: self._indices[value] for number, value in enumerate(op.indices)}
        offset = pattern.offset.value(values)
        rows = pattern.partitions if not pattern.is_dram else pattern.dims[0][1]
        size = pattern.dims[-1][1]
        for row in PARTITIONS:
            if row >= rows:
                continue
            if pattern.is_dram:
                start = offset + row * pattern.dims[0][0]
                yield from ((*self._dram(buffer), start + i) for i in range(size))
            else:
                partition = pattern.partition.constant + row
                yield from (self._on_chip(buffer, partition, offset + i) for i in range(size))

    def _dram(self, buffer: SSAValue) -> tuple[Any, ...]:
        return ("argument", self._indices[buffer]) if buffer in self._indices else ("scratch", buffer)

    def _on_chip(self, buffer: SSAValue, partition: int, element: int) -> tuple[Any, ...]:
        alloc = buffer.owner
        assert isinstance(alloc, AllocOp)
        if alloc.address is None:
            return "fresh", alloc, self._executions[alloc], partition, element
        return space_of(buffer), partition, alloc.address.value.data + ELEMENT_BYTES * element
