"""A nisa program as a plain tree of loops and instructions, for the algorithms that need no IR.

`read_function` is given a function in program order (forms 1 to 3) and leaves its tree, `read_queue` does the same for
one `nisa.queue` (form 4). Variables of all `Affine` expressions are then numbers that are unique in the tree: those of
the enclosing loops (`Loop.variable`) and of the slots (`Slot.variable`). A `Binding` leads back from the numbers to
the IR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import UNKNOWN_LOC, IntegerAttr, MemRefType, ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.dialects.scf import ForOp, YieldOp
from xdsl.ir import Attribute, Block, Operation, SSAValue

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.access_ops import dtype_name_of, space_of
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.hand_over import HandOverOp
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.neuron import location_name
from neuron_dialects.nisa import AllocOp, NisaOp, ParamOp, PinnedOp, QueueOp, SlotOp

Waits = tuple[tuple[str, Affine], ...]


@dataclass(frozen=True)
class Buffer:
    """A buffer: its memory, element type and shape, and, once allocated, where its copies lie.

    `address`: bytes from the start of the partition to the first copy, None before allocation and in DRAM;
    `copy_bytes`: distance of neighbouring copies.
    """

    id: int
    space: str
    dtype: str
    shape: tuple[int, ...]
    copies: int = 1
    address: int | None = None
    copy_bytes: int = 0

    @property
    def element_bytes(self) -> int:
        """Bytes of one element."""
        return dtype_by_name(self.dtype).size_bytes

    @property
    def row_elements(self) -> int:
        """Elements of one copy: per partition on chip, in all in DRAM."""
        total = 1
        for size in self.shape if self.space == "dram" else self.shape[1:]:
            total *= size
        return total


@dataclass(eq=False)
class Loop:
    """Runs `body` for `variable` = 0 .. trip_count - 1. `loops`: the loops around it, outermost first."""

    variable: int
    trip_count: int
    loops: tuple[Loop, ...] = ()
    body: list[Node] = field(default_factory=list)
    location: Attribute = UNKNOWN_LOC


@dataclass(eq=False)
class Slot:
    """Sets `variable` to how often this node was executed before, modulo `copies`.

    Counted anew in each iteration of the first `within` of its loops.
    """

    variable: int
    copies: int
    loops: tuple[Loop, ...] = ()
    location: Attribute = UNKNOWN_LOC
    within: int = 0

    @property
    def counted(self) -> tuple[Loop, ...]:
        """The loops whose iterations it counts."""
        return self.loops[self.within :]

    @cached_property
    def executions(self) -> Affine:
        """How often it was executed before, over the variables of its loops."""
        count, terms = 1, dict[int, int]()
        for loop in reversed(self.counted):
            terms[loop.variable] = count
            count *= loop.trip_count
        return Affine.of(0, terms)


@dataclass(eq=False)
class Statement:
    """One instruction in its place. `engine` executes it, or triggers it on `ring` when it is a DMA."""

    number: int
    instruction: Instruction
    engine: str
    ring: str | None = None
    loops: tuple[Loop, ...] = ()
    waits: Waits = ()
    signal: str | None = None

    @property
    def stream(self) -> str:
        """The stream that completes it, in order: its ring, or its engine."""
        return self.engine if self.ring is None else self.ring

    @cached_property
    def trips(self) -> dict[int, int]:
        """Trip count by variable of the loops around it."""
        return {loop.variable: loop.trip_count for loop in self.loops}


Node = Loop | Slot | Statement


@dataclass(eq=False)
class ProgramTree:
    """A program: `statements` and `slots` lists every node of the tree `body`; Operand.buffer indexes `buffers`."""

    body: list[Node] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    statements: list[Statement] = field(default_factory=list)
    slots: dict[int, Slot] = field(default_factory=dict)


@dataclass(eq=False)
class Binding:
    """What the numbers of a tree stand for in the IR."""

    operations: list[NisaOp] = field(default_factory=list)
    """The op of each statement, by its number."""
    values: dict[int, SSAValue] = field(default_factory=dict)
    """The SSA value of each variable."""
    buffers: list[SSAValue] = field(default_factory=list)
    """The SSA value of each buffer, by its id."""

    def node_name(self, statement: Statement) -> str | None:
        """The framework node that a statement comes from."""
        return location_name(self.operations[statement.number].location)


def nisa_functions(module: ModuleOp) -> list[FuncOp]:
    """The functions of `module` that are at the nisa level: those that hold a nisa operation."""
    return [op for op in module.body.block.ops if isinstance(op, FuncOp) and _is_nisa_function(op)]


def _is_nisa_function(function: FuncOp) -> bool:
    kinds = (NisaOp, AllocOp, ParamOp, QueueOp, SlotOp)
    return any(isinstance(op, kinds) for op in function.walk())


def read_function(function: FuncOp) -> tuple[ProgramTree, Binding]:
    """The tree of a function in program order. NeuronError NX-PASS-002 for what has no place in it."""
    reader = _Reader()
    for argument in function.body.block.args:
        if isinstance(argument.type, MemRefType):
            reader.add_buffer(argument)
    reader.read_block(function.body.block, (), reader.tree.body)
    return reader.tree, reader.binding


def read_queue(queue: QueueOp) -> tuple[ProgramTree, Binding]:
    """The tree of one queue, with the buffers that it uses. NeuronError NX-PASS-002 for what has no place in it."""
    reader = _Reader()
    reader.read_block(queue.body.block, (), reader.tree.body)
    return reader.tree, reader.binding


def trip_count(loop: ForOp) -> int:
    """Iterations of a loop that runs from 0 with step 1 to a constant; NeuronError NX-PASS-002 for any other loop."""
    low, high, step = (_constant(value) for value in (loop.lb, loop.ub, loop.step))
    if low != 0 or step != 1 or high is None or loop.iter_args:
        raise NeuronError(
            "NX-PASS-002",
            "a loop does not run from 0 with step 1 to a constant",
            node=location_name(loop.location),
            help="at this level loops have static bounds and carry no values",
        )
    return max(0, high)


def _constant(value: SSAValue) -> int | None:
    owner = value.owner
    if isinstance(owner, ConstantOp) and isinstance(owner.value, IntegerAttr):
        return owner.value.value.data
    return None


class _Reader:
    """Builds tree and binding in one walk over the operations."""

    def __init__(self) -> None:
        self.tree = ProgramTree()
        self.binding = Binding()
        self._variables: dict[SSAValue, int] = {}
        self._buffers: dict[SSAValue, int] = {}

    def read_block(self, block: Block, loops: tuple[Loop, ...], body: list[Node]) -> None:
        for op in block.ops:
            if isinstance(op, NisaOp):
                body.append(self._statement(op, loops))
            elif isinstance(op, ForOp):
                loop = Loop(self._variable(op.body.block.args[0]), trip_count(op), loops, [], op.location)
                body.append(loop)
                self.read_block(op.body.block, (*loops, loop), loop.body)
            elif isinstance(op, SlotOp):
                slot = Slot(self._variable(op.slot), op.copies.value.data, loops, op.location, op.outer_loops)
                self.tree.slots[slot.variable] = slot
                body.append(slot)
            elif not isinstance(op, AllocOp | ParamOp | PinnedOp | HandOverOp | ConstantOp | YieldOp | ReturnOp):
                raise NeuronError(
                    "NX-PASS-002",
                    f"operation '{op.name}' has no place in a nisa program at this point",
                    node=location_name(op.location),
                )

    def _variable(self, value: SSAValue) -> int:
        number = len(self._variables)
        self._variables[value] = number
        self.binding.values[number] = value
        return number

    def _statement(self, op: NisaOp, loops: tuple[Loop, ...]) -> Statement:
        names = [self._index(op, value) for value in op.indices]
        operands: dict[str, Operand] = {}
        for (role, pattern), value in zip(op.access.data, op.buffers, strict=True):
            buffer = self.tree.buffers[self.add_buffer(value)]
            operands[role] = Operand(buffer.space, buffer.dtype, _renamed_pattern(pattern, names), buffer.id)
        fields = {name: _renamed(value, names) for name, value in op.fields.data}
        engine = "dma" if op.is_dma else op.engine.data
        instruction = Instruction(op.DEFINITION.name, engine, operands, fields)
        waits: Waits = ()
        signal = None
        if op.sync is not None:
            waits = tuple((name, _renamed(value, names)) for name, value in op.sync.data.waits)
            signal = op.sync.data.signal
        ring = op.ring.data if op.is_dma and op.ring is not None else None
        statement = Statement(len(self.tree.statements), instruction, op.engine.data, ring, loops, waits, signal)
        self.tree.statements.append(statement)
        self.binding.operations.append(op)
        return statement

    def _index(self, op: Operation, value: SSAValue) -> int:
        number = self._variables.get(value)
        if number is None:
            raise NeuronError(
                "NX-PASS-002",
                f"operation '{op.name}' uses an index that is neither a loop variable nor a slot",
                node=location_name(op.location),
            )
        return number

    def add_buffer(self, value: SSAValue) -> int:
        """The id of the buffer `value`, which is numbered when it is met first."""
        number = self._buffers.get(value)
        if number is None:
            number = self._buffers[value] = len(self.tree.buffers)
            self.tree.buffers.append(_buffer(number, value))
            self.binding.buffers.append(value)
        return number


def _buffer(number: int, value: SSAValue) -> Buffer:
    shape = tuple(cast("MemRefType[Attribute]", value.type).get_shape())
    space, dtype = space_of(value), dtype_name_of(value)
    owner = value.owner
    if not isinstance(owner, AllocOp):
        return Buffer(number, space, dtype, shape)
    address = owner.address.value.data if owner.address is not None else None
    copy_bytes = owner.copy_bytes.value.data if owner.copy_bytes is not None else 0
    return Buffer(number, space, dtype, shape, owner.copies.value.data, address, copy_bytes)


def _renamed(value: Any, names: Sequence[int]) -> Any:
    return value.rename(lambda position: names[position]) if isinstance(value, Affine) else value


def _renamed_pattern(pattern: AccessPattern, names: Sequence[int]) -> AccessPattern:
    if pattern.offset.is_constant and pattern.partition.is_constant:
        return pattern
    return pattern.rename(lambda position: names[position])


def substituted(expression: Affine, constants: Mapping[int, int]) -> Affine:
    """`expression` with the variables of `constants` replaced by their numbers."""
    if not any(variable in constants for variable, _ in expression.terms):
        return expression
    constant = expression.constant + sum(c * constants[v] for v, c in expression.terms if v in constants)
    return Affine(constant, tuple((v, c) for v, c in expression.terms if v not in constants))
