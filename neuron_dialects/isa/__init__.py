"""The instruction set: plain-data definitions (see `definitions`), limits and the `Instruction` record."""

from neuron_dialects.isa.definitions import INSTRUCTIONS, OPCODES, verify_instruction
from neuron_dialects.isa.model import (
    ACTIVATIONS,
    ALU_OPS,
    ENUMS,
    REDUCE_OPS,
    FieldDef,
    Instruction,
    InstructionDef,
    Operand,
    OperandDef,
)

__all__ = [
    "ACTIVATIONS", "ALU_OPS", "ENUMS", "INSTRUCTIONS", "OPCODES", "REDUCE_OPS", "FieldDef", "Instruction",
    "InstructionDef", "Operand", "OperandDef", "verify_instruction",
]  # fmt: skip
