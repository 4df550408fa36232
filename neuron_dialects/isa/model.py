"""What an instruction is, as plain data: operands, fields, limits, engines and cost, without IR and without numpy.

`InstructionDef` is the one definition of an instruction. The nisa dialect's op and verifier, the encoder and decoder,
the assembler, the cost model and the ISA page of the manual are all derived from it; its meaning on numbers is
registered once in the machine (runtime/semantics).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.target import Target

SPACES = ("sbuf", "psum", "dram")


@dataclass(frozen=True)
class Operand:
    """One operand of one instruction: where it lies, its element type, its pattern.

    `buffer` identifies the buffer the pattern is relative to; it is None once the pattern is an absolute on-chip
    address (its offset then counts elements of `dtype` from the start of the partition).
    """

    space: str
    dtype: str
    pattern: AccessPattern
    buffer: int | None = None

    @property
    def elements(self) -> int:
        """Elements per partition (on chip) or in all (DRAM)."""
        return self.pattern.free_elements


@dataclass(frozen=True)
class OperandDef:
    """Role of an operand: its name, direction and the memories that it may lie in.

    `shape`: "tile" (partitions x free), "column" (one element per partition, broadcast along the free dimension) or
    "free" (no relation to the others).
    """

    name: str
    direction: str  # "in", "out" or "inout"
    spaces: tuple[str, ...] = ("sbuf", "psum")
    optional: bool = False
    shape: str = "tile"

    @property
    def reads(self) -> bool:
        """Whether the instruction reads the operand."""
        return self.direction != "out"

    @property
    def writes(self) -> bool:
        """Whether the instruction writes the operand."""
        return self.direction != "in"


@dataclass(frozen=True)
class FieldDef:
    """An immediate: `kind` is f32, i32, bool, affine (a loop-dependent integer) or the name of an enum in `ENUMS`."""

    name: str
    kind: str
    default: Any = None
    doc: str = ""


@dataclass(frozen=True)
class Instruction:
    """One instruction in plain data. Operands that are absent (optional ones) are not in the mapping."""

    name: str
    engine: str
    operands: Mapping[str, Operand]
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def definition(self) -> "InstructionDef":
        """Its row of the instruction table."""
        from neuron_dialects.isa.definitions import INSTRUCTIONS

        return INSTRUCTIONS[self.name]

    def field(self, name: str) -> Any:
        """Value of a field, or its default."""
        return self.fields[name] if name in self.fields else self.definition.field_default(name)


CostFunction = Callable[[Instruction, Target], float]
CheckFunction = Callable[[Instruction, Target | None], str | None]


@dataclass(frozen=True)
class InstructionDef:
    """One instruction: `cost` gives engine cycles between issues, `checks` its limits beyond the operand table.

    `macs` is set for instructions of the tensor engine that multiply.
    """

    name: str
    opcode: int
    engines: tuple[str, ...]
    operands: tuple[OperandDef, ...]
    fields: tuple[FieldDef, ...]
    summary: str
    source: str
    cost: CostFunction
    checks: tuple[CheckFunction, ...] = ()

    def operand(self, name: str) -> OperandDef:
        """Operand definition by name."""
        return self._operands[name]

    @cached_property
    def _operands(self) -> dict[str, OperandDef]:
        return {operand.name: operand for operand in self.operands}

    def field_default(self, name: str) -> Any:
        """Default of a field."""
        return next(f.default for f in self.fields if f.name == name)

    @property
    def is_dma(self) -> bool:
        """Whether a DMA ring executes it; the engine only triggers it."""
        return self.engines == ("dma",)


ALU_OPS = (
    "bypass", "add", "subtract", "multiply", "maximum", "minimum", "equal", "not_equal", "greater_equal", "greater",
    "less_equal", "less", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor",
    "left_shift", "right_shift", "power", "rsqrt", "abs",
)  # fmt: skip
"""ALU operators; `bypass` passes the first operand through."""

ACTIVATIONS = (
    "copy", "square", "sigmoid", "relu", "prelu", "gelu", "gelu_apprx_tanh", "silu", "tanh", "softplus", "mish", "erf",
    "exp", "sign", "abs", "log", "sin", "arctan", "sqrt", "rsqrt", "reciprocal",
)  # fmt: skip
"""Functions of the scalar engine's table."""

REDUCE_OPS = ("add", "maximum", "minimum", "multiply")
"""Operators that a row reduction may use."""

ENUMS: dict[str, tuple[str, ...]] = {"alu": ALU_OPS, "activation": ACTIVATIONS, "reduce": REDUCE_OPS}
"""Enumerations by name; the position of a member is its encoding."""


def constant(value: Any) -> Affine:
    """An integer as an affine field value."""
    return value if isinstance(value, Affine) else Affine(int(value))
