"""The nisa dialect: one operation per NeuronCore instruction, made from the instruction table (neuron_dialects/isa).

A nisa program passes through these forms, each executable:

1. program order: `scf.for` loops, symbolic buffers (`nisa.alloc`), an engine on every instruction;
2. allocated: every on-chip `nisa.alloc` stands at the top of its function with an address; the copy that an iteration
   uses is a `nisa.slot` value;
3. synchronised: instructions wait for progress counters (`wait(act >= %i + 1)`) and bump their stream's own
   (`signal(pe)`);
4. queues: one `nisa.queue` per engine with only its own instructions; queues meet only through memory and semaphores;
5. registers: loops and loop-dependent numbers are scalar registers (`r3`), with labels and branches.

In every form a `nisa.pinned` may hold the transfers that fill pinned buffers once, when the model is loaded. From form
3 on, a `nisa.hand_over` says what a stage of a pipeline takes from, or gives to, a program on another core.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from xdsl.dialects.builtin import (
    I64,
    DenseArrayBase,
    IndexType,
    IntegerAttr,
    MemRefType,
    StringAttr,
    i64,
)
from xdsl.ir import Attribute, Data, Dialect, Operation, OpResult, Region, SSAValue
from xdsl.irdl import (
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    region_def,
    result_def,
    traits_def,
)
from xdsl.parser import AttrParser, Parser
from xdsl.printer import Printer
from xdsl.traits import MemoryAllocEffect, MemoryWriteEffect, NoMemoryEffect, NoTerminator
from xdsl.utils.exceptions import VerifyException

from neuron_dialects.access import Affine, parse_affine
from neuron_dialects.access_ops import AccessOp, access_op_class, dtype_name_of, space_of, verify_allocation
from neuron_dialects.access_syntax import parse_affine_expression
from neuron_dialects.hand_over import HandOverOp
from neuron_dialects.isa import INSTRUCTIONS, Instruction, Operand, verify_instruction
from neuron_dialects.isa.model import InstructionDef
from neuron_dialects.isa.program import CONTROL_KINDS
from neuron_dialects.tile import AccessEffect


@dataclass(frozen=True)
class Sync:
    """What an instruction waits for and which counter it bumps when it completes.

    `waits`: (semaphore, least value); `signal`: the semaphore incremented by 1, or None. A semaphore is named after the
    stream whose progress it counts: an engine or a DMA ring.
    """

    waits: tuple[tuple[str, Affine], ...] = ()
    signal: str | None = None


@irdl_attr_definition
class SyncAttr(Data[Sync]):
    """Waits and signal of one instruction."""

    name = "nisa.sync"

    @classmethod
    def parse_parameter(cls, parser: AttrParser) -> Sync:
        """`<"wait act $0 + 1", "signal pe">`."""
        waits: list[tuple[str, Affine]] = []
        signal: list[str] = []

        def item() -> None:
            words = parser.parse_str_literal().split(" ", 2)
            if words[0] == "signal":
                signal.append(words[1])
            else:
                waits.append((words[1], parse_affine(words[2])))

        parser.parse_comma_separated_list(parser.Delimiter.ANGLE, item)
        return Sync(tuple(waits), signal[0] if signal else None)

    def print_parameter(self, printer: Printer) -> None:
        """Inverse of `parse_parameter`."""
        items = [f"wait {name} {value}" for name, value in self.data.waits]
        items += [f"signal {self.data.signal}"] if self.data.signal else []
        with printer.in_angle_brackets():
            printer.print_list(items, printer.print_string_literal)


class NisaOp(AccessOp):
    """Base of all instructions. `engine` is the engine that executes it (for a DMA: that triggers it on `ring`)."""

    name = "nisa.base"
    engine = prop_def(StringAttr)
    ring = opt_prop_def(StringAttr)
    sync = opt_prop_def(SyncAttr)
    traits = traits_def(AccessEffect())
    DEFINITION: ClassVar[InstructionDef]

    @property
    def is_dma(self) -> bool:
        """Whether a DMA ring executes it."""
        return self.DEFINITION.is_dma

    def instruction(self, buffer_ids: dict[SSAValue, int] | None = None) -> Instruction:
        """The instruction as plain data; `buffer_ids` numbers the buffers, in order of appearance if it is None."""
        ids: dict[SSAValue, int] = {} if buffer_ids is None else buffer_ids
        operands = {
            role: Operand(space_of(b), dtype_name_of(b), pattern, ids.setdefault(b, len(ids)))
            for role, (b, pattern) in self.views.items()
        }
        return Instruction(
            self.DEFINITION.name, "dma" if self.is_dma else self.engine.data, operands, dict(self.fields.data)
        )

    def verify_(self) -> None:
        """The limits of the instruction table on the module's target."""
        super().verify_()
        problems = verify_instruction(self.instruction(), None)
        if problems:
            raise VerifyException(problems[0].removeprefix(f"{self.DEFINITION.name}: "))
        if self.is_dma and self.ring is None:
            raise VerifyException("a DMA names the ring that it goes to")

    def print_leading(self, printer: Printer) -> None:
        """` on pe`, or ` on sp ring q0` for a DMA."""
        printer.print_string(f" on {self.engine.data}")
        if self.ring is not None:
            printer.print_string(f" ring {self.ring.data}")

    @classmethod
    def parse_leading(cls, parser: Parser) -> dict[str, Attribute]:
        """Inverse of `print_leading`."""
        parser.parse_keyword("on")
        found: dict[str, Attribute] = {"engine": StringAttr(parser.parse_identifier())}
        if parser.parse_optional_keyword("ring") is not None:
            found["ring"] = StringAttr(parser.parse_identifier())
        return found

    def print_trailing(self, printer: Printer) -> None:
        """` wait(act >= %i + 1, q0 >= 3) signal(pe)`."""
        if self.sync is None:
            return
        if self.sync.data.waits:
            printer.print_string(" wait(")
            for position, (name, value) in enumerate(self.sync.data.waits):
                printer.print_string(f"{', ' if position else ''}{name} >= ")
                self.print_affine_text(printer, value.text())
            printer.print_string(")")
        if self.sync.data.signal is not None:
            printer.print_string(f" signal({self.sync.data.signal})")

    @classmethod
    def parse_trailing(cls, parser: Parser, indices: list[SSAValue]) -> dict[str, Attribute]:
        """Inverse of `print_trailing`."""
        waits: list[tuple[str, Affine]] = []
        signal = None
        if parser.parse_optional_keyword("wait") is not None:
            parser.parse_punctuation("(")
            while True:
                name = parser.parse_identifier()
                parser.parse_punctuation(">")
                parser.parse_punctuation("=")
                waits.append((name, parse_affine_expression(parser, indices)))
                if parser.parse_optional_punctuation(",") is None:
                    break
            parser.parse_punctuation(")")
        if parser.parse_optional_keyword("signal") is not None:
            parser.parse_punctuation("(")
            signal = parser.parse_identifier()
            parser.parse_punctuation(")")
        return {"sync": SyncAttr(Sync(tuple(waits), signal))} if waits or signal else {}


def _op_class(definition: InstructionDef) -> type[NisaOp]:
    engines = "a DMA ring" if definition.is_dma else ", ".join(definition.engines)
    doc = f"{definition.summary}. Runs on {engines}. Source: {definition.source}."
    made = access_op_class(f"nisa.{definition.name}", definition.operands, definition.fields, doc, NisaOp)
    made.DEFINITION = definition
    return made


NISA_OPS: dict[str, type[NisaOp]] = {name: _op_class(definition) for name, definition in INSTRUCTIONS.items()}
"""Op class by instruction name."""


@irdl_op_definition
class AllocOp(IRDLOperation):
    """A buffer. Before allocation as `tile.alloc`; then at the top of its function, with its first copy's address."""

    name = "nisa.alloc"
    copies = prop_def(IntegerAttr)
    partition = opt_prop_def(IntegerAttr)
    address = opt_prop_def(IntegerAttr)
    copy_bytes = opt_prop_def(IntegerAttr)
    buffer: OpResult = result_def(MemRefType)
    traits = traits_def(MemoryAllocEffect())

    def __init__(
        self,
        buffer_type: Attribute,
        copies: int = 1,
        partition: int | None = None,
        address: int | None = None,
        copy_bytes: int | None = None,
        name: str | None = None,
    ):
        """Allocation gives `partition`, `address` (bytes into the partition) and `copy_bytes` (distance of copies)."""
        numbers = {"copies": copies, "partition": partition, "address": address, "copy_bytes": copy_bytes}
        super().__init__(
            properties={k: IntegerAttr(v, i64) for k, v in numbers.items() if v is not None}, result_types=[buffer_type]
        )
        if name is not None:
            self.buffer.name_hint = name

    def verify_(self) -> None:
        """Address and partition come together; else as `tile.alloc`."""
        if (self.address is None) != (self.partition is None):
            raise VerifyException("an address needs a partition and a byte offset")
        verify_allocation(self.buffer, self.copies.value.data)

    def print(self, printer: Printer) -> None:
        """`nisa.alloc copies 2 at 0, 1024 stride 512 : memref<...>`."""
        if self.copies.value.data != 1:
            printer.print_string(f" copies {self.copies.value.data}")
        if self.address is not None and self.partition is not None:
            printer.print_string(f" at {self.partition.value.data}, {self.address.value.data}")
        if self.copy_bytes is not None:
            printer.print_string(f" stride {self.copy_bytes.value.data}")
        printer.print_string(" : ")
        printer.print_attribute(self.buffer.type)

    @classmethod
    def parse(cls, parser: Parser) -> "AllocOp":
        """Inverse of `print`."""
        copies = parser.parse_integer() if parser.parse_optional_keyword("copies") is not None else 1
        partition = address = copy_bytes = None
        if parser.parse_optional_keyword("at") is not None:
            partition = parser.parse_integer()
            parser.parse_punctuation(",")
            address = parser.parse_integer()
        if parser.parse_optional_keyword("stride") is not None:
            copy_bytes = parser.parse_integer()
        parser.parse_punctuation(":")
        return cls(parser.parse_type(), copies, partition, address, copy_bytes)


@irdl_op_definition
class SlotOp(IRDLOperation):
    """The copy of a rotating buffer that an iteration uses: how often this op was executed before, modulo `copies`.

    `nisa.slot 2 : i64 within 1 : i64` counts from each iteration of the outermost loop (of so many loops) around it.
    """

    name = "nisa.slot"
    copies = prop_def(IntegerAttr)
    within = opt_prop_def(IntegerAttr)
    slot: OpResult = result_def(IndexType)
    traits = traits_def(MemoryWriteEffect())
    assembly_format = "$copies (`within` $within^)? attr-dict"

    def __init__(self, copies: int, within: int = 0):
        numbers = {"copies": copies} | ({"within": within} if within else {})
        super().__init__(
            properties={name: IntegerAttr(number, i64) for name, number in numbers.items()},
            result_types=[IndexType()],
        )

    @property
    def outer_loops(self) -> int:
        """How many of the loops around it, from outside, it begins to count anew in."""
        return self.within.value.data if self.within is not None else 0


@irdl_op_definition
class ParamOp(IRDLOperation):
    """A constant DRAM tensor, as `tile.param`."""

    name = "nisa.param"
    symbol = prop_def(StringAttr)
    buffer: OpResult = result_def(MemRefType)
    traits = traits_def(NoMemoryEffect())
    assembly_format = "$symbol attr-dict `:` type($buffer)"

    def __init__(self, symbol: str, buffer_type: Attribute):
        super().__init__(properties={"symbol": StringAttr(symbol)}, result_types=[buffer_type])


@irdl_op_definition
class QueueOp(IRDLOperation):
    """The instruction stream of one engine: executed in order, ordered against other queues only by semaphores."""

    name = "nisa.queue"
    engine = prop_def(StringAttr)
    body = region_def("single_block")
    traits = traits_def(NoTerminator())

    def __init__(self, engine: str, body: Region):
        super().__init__(properties={"engine": StringAttr(engine)}, regions=[body])

    def print(self, printer: Printer) -> None:
        """`nisa.queue pe { ... }`."""
        printer.print_string(f" {self.engine.data} ")
        printer.print_region(self.body, print_block_terminators=True)

    @classmethod
    def parse(cls, parser: Parser) -> "QueueOp":
        """Inverse of `print`."""
        engine = parser.parse_identifier()
        return cls(engine, parser.parse_region())


@irdl_op_definition
class PinnedOp(IRDLOperation):
    """Transfers from parameters into pinned buffers, in order, when the model is loaded; no run writes these buffers.

    They are no part of the program: streams neither wait for them nor signal them. Every offset is a number.
    """

    name = "nisa.pinned"
    body = region_def("single_block")
    traits = traits_def(NoTerminator())

    def __init__(self, body: Region):
        super().__init__(regions=[body])

    @property
    def transfers(self) -> "list[NisaOp]":
        """The transfers in order."""
        return [op for op in self.body.block.ops if isinstance(op, NisaOp)]

    def verify_(self) -> None:
        """Only DMAs from DRAM to SBUF, without indices, waits and signals."""
        for op in self.body.block.ops:
            if not isinstance(op, NisaOp) or op.DEFINITION.name != "dma_copy":
                raise VerifyException(f"{op.name} among the transfers of pinned buffers")
            if op.indices or op.sync is not None:
                raise VerifyException("a transfer of a pinned buffer depends on loops or semaphores")
            if [space_of(buffer) for buffer in op.buffers] != ["sbuf", "dram"]:
                raise VerifyException("a transfer of a pinned buffer goes from dram to sbuf")

    def print(self, printer: Printer) -> None:
        """`nisa.pinned { ... }`."""
        printer.print_string(" ")
        printer.print_region(self.body, print_block_terminators=True)

    @classmethod
    def parse(cls, parser: Parser) -> "PinnedOp":
        """Inverse of `print`."""
        return cls(parser.parse_region())


CONTROL: dict[str, tuple[str, ...]] = {**CONTROL_KINDS, "label": ("label",)}
"""Control instructions in text: those of a queue, plus labels (which take no space) as branch targets."""


@lru_cache(4096)
def _numbers_attr(numbers: tuple[int, ...]) -> DenseArrayBase[I64]:
    return DenseArrayBase.from_list(i64, numbers)


@irdl_op_definition
class ControlOp(IRDLOperation):
    """A control instruction of a sequencer (see `CONTROL`): registers, labels and branch targets are numbers."""

    name = "nisa.control"
    kind = prop_def(StringAttr)
    numbers = prop_def(DenseArrayBase[I64])
    traits = traits_def(MemoryWriteEffect())

    def __init__(self, kind: str, *numbers: int):
        # Programs hold thousands of them: without the constructor that looks for operands and regions.
        Operation.__init__(self, properties={"kind": StringAttr(kind), "numbers": _numbers_attr(numbers)})

    @property
    def operand_numbers(self) -> tuple[int, ...]:
        """The numbers in the order of `CONTROL`."""
        return tuple(int(n) for n in self.numbers.get_values())

    def verify_(self) -> None:
        """Known kind, right number of operands."""
        if self.kind.data not in CONTROL:
            raise VerifyException(f"unknown instruction {self.kind.data}")
        expected = len(CONTROL[self.kind.data])
        if len(self.numbers) != expected:
            raise VerifyException(f"{self.kind.data} has {expected} operands, not {len(self.numbers)}")

    def print(self, printer: Printer) -> None:
        """`nisa.control reg_add r1, r1, 4`; registers are printed as `r1`, labels as `L0`."""
        printer.print_string(f" {self.kind.data}")
        for position, (role, number) in enumerate(zip(CONTROL[self.kind.data], self.operand_numbers, strict=True)):
            prefix = "r" if role in ("dst", "src", "other") else "L" if role == "label" else ""
            printer.print_string(f"{',' if position else ''} {prefix}{number}")

    @classmethod
    def parse(cls, parser: Parser) -> "ControlOp":
        """Inverse of `print`."""
        kind = parser.parse_identifier()
        if kind not in CONTROL:
            parser.raise_error(f"unknown control instruction {kind}")
        numbers: list[int] = []
        for position, role in enumerate(CONTROL[kind]):
            if position:
                parser.parse_punctuation(",")
            if role in ("value", "limit"):
                numbers.append(parser.parse_integer())
            else:
                word = parser.parse_identifier()
                if not word[1:].isdigit():
                    parser.raise_error(f"expected {'a label L0' if role == 'label' else 'a register r0'}, not {word}")
                numbers.append(int(word[1:]))
        return cls(kind, *numbers)


_OPERATIONS: list[type[Operation]] = [
    AllocOp,
    SlotOp,
    ParamOp,
    QueueOp,
    PinnedOp,
    HandOverOp,
    ControlOp,
    *NISA_OPS.values(),
]

Nisa = Dialect("nisa", _OPERATIONS, [SyncAttr])


def add_instruction(name: str) -> None:
    """Give an instruction that a plug-in added to the table its op `nisa.<name>`."""
    NISA_OPS[name] = made = _op_class(INSTRUCTIONS[name])
    _OPERATIONS.append(made)
