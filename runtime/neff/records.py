"""What an encoded queue is made of: record layouts, codes, and the fingerprint of the instruction table behind them.

Encoder, decoder and the tables of the manual read these; `runtime.neff.encoding` says how the parts follow each other.
"""

import hashlib
import math
import re
import struct

from neuron_dialects.dtypes import DTYPES
from neuron_dialects.isa import ENUMS, INSTRUCTIONS, Operand, OperandDef
from neuron_dialects.isa.definitions import PLUGIN_OPCODES
from neuron_dialects.isa.model import SPACES
from neuron_dialects.isa.program import CONTROL_KINDS
from runtime.neff.layout import Layout

ENCODING_VERSION = 1
MAGIC = b"NXQ1"
NO_REGISTER = 0xFFFF
NO_BUFFER = 0xFFFFFFFF
MAX_DIMS = 5

ENGINE_CODES = ("pe", "act", "dve", "pool", "sp", "dma")
"""Who executes an instruction; the position is the code."""

CONTROL_OPCODES: dict[str, int] = {kind: 0x80 + position for position, kind in enumerate(CONTROL_KINDS)}
"""Control instructions have opcodes from 0x80 upwards, in the order of `CONTROL_KINDS`."""

CONTROL_BY_OPCODE = {opcode: kind for kind, opcode in CONTROL_OPCODES.items()}
"""Kind of a control instruction by opcode."""

SHORT_CONTROL_OPCODES: dict[str, int] = {kind: opcode + 0x40 for kind, opcode in CONTROL_OPCODES.items()}
"""The same for the short form, which has no header but its length and opcode."""

SHORT_CONTROL_BY_OPCODE = {opcode: kind for kind, opcode in SHORT_CONTROL_OPCODES.items()}
"""Kind of a short control instruction by opcode."""

QUEUE_HEADER = Layout(
    (
        ("magic", "4s", "`NXQ1`"),
        ("version", "H", f"{ENCODING_VERSION}"),
        ("rings", "H", "number of ring names that follow"),
        ("entries", "I", "number of records"),
        ("records_offset", "I", "byte offset of the first record, a multiple of 8"),
        ("fingerprint", "Q", "first 8 bytes of the SHA-256 of the instruction table (`instruction_table_text`)"),
    )
)

RECORD_HEADER = Layout(
    (
        ("length", "H", "bytes of the record, a multiple of 8"),
        ("opcode", "B", "instruction, or 0x80 upwards for control"),
        ("engine", "B", "code of the executing engine; 0 for control"),
        ("waits", "B", "number of waits"),
        ("ring", "B", "1 + index into the queue's ring names, 0 for none"),
        ("signal", "H", "1 + semaphore that the completion increments, 0 for none"),
        ("origin", "I", "index into the subgraph's list of framework node names"),
        ("operands", "H", "bit i: operand i of the definition is present"),
        ("fields", "H", "bit i: field i of the definition is present; absent fields have their default"),
    )
)

SHORT_CONTROL = Layout(
    (
        ("length", "H", "16"),
        ("opcode", "B", "0xC0 upwards: a control instruction without waits, signal and origin"),
        ("reserved", "B", "0"),
        ("number0", "i", "its numbers in order; 0 where it has fewer"),
        ("number1", "i", ""),
        ("number2", "i", ""),
    )
)

WAIT = Layout(
    (
        ("semaphore", "H", "semaphore number"),
        ("register", "H", "scalar register added to the value, 0xFFFF for none"),
        ("value", "q", "the entry starts when the semaphore is at least value + register"),
    )
)

OPERAND = Layout(
    (
        ("space", "B", "0 SBUF, 1 PSUM, 2 DRAM"),
        ("dtype", "B", "element type code"),
        ("dims", "B", f"number of free dimensions, 1 to {MAX_DIMS}"),
        ("partitions", "H", "number of partitions, 0 in DRAM"),
        ("partition_register", "H", "scalar register added to the first partition, 0xFFFF for none"),
        ("partition", "i", "first partition"),
        ("buffer", "I", "DRAM variable, 0xFFFFFFFF for an absolute on-chip address"),
        ("offset_register", "H", "scalar register added to the offset, 0xFFFF for none"),
        ("offset", "q", "first element, from the start of the partition or of the variable"),
    )
)

DIMENSION = Layout((("stride", "i", "distance in elements"), ("size", "I", "number of elements, at least 1")))
AFFINE = Layout((("register", "H", "scalar register, 0xFFFF for none"), ("constant", "q", "added to the register")))

F32 = struct.Struct("<f")
I32 = struct.Struct("<i")
BYTE = struct.Struct("<B")
"""Booleans and members of enumerations."""
NUMBER = struct.Struct("<q")
"""Numbers of control instructions."""

FIELD_BYTES: dict[str, int] = {"f32": 4, "i32": 4, "bool": 1, "affine": AFFINE.size_bytes} | dict.fromkeys(ENUMS, 1)
"""Encoded bytes of a field by kind."""

RING_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}")


def instruction_table_text() -> str:
    """Everything of the instruction table that the encoding depends on, as text; its SHA-256 is the fingerprint.

    Instructions of plug-ins are not in it: with a plug-in or without, equal models have equal files.
    """
    lines = [f"engines {' '.join(ENGINE_CODES)}", f"spaces {' '.join(SPACES)}"]
    lines.append("dtypes " + " ".join(f"{row.code}:{row.name}" for row in DTYPES))
    lines += [f"enum {name} {' '.join(members)}" for name, members in ENUMS.items()]
    for definition in (row for row in INSTRUCTIONS.values() if row.opcode not in PLUGIN_OPCODES):
        operands = " ".join(operand.name for operand in definition.operands)
        fields = " ".join(f"{f.name}:{f.kind}={f.default}" for f in definition.fields)
        lines.append(f"{definition.opcode} {definition.name} ({operands}) {{{fields}}}")
    lines += [f"{CONTROL_OPCODES[kind]} {kind} {' '.join(roles)}" for kind, roles in CONTROL_KINDS.items()]
    return "\n".join(lines) + "\n"


FINGERPRINT = int.from_bytes(hashlib.sha256(instruction_table_text().encode()).digest()[:8], "little")


def as_f32(value: float) -> float:
    """`value` rounded to what an f32 immediate holds; beyond its range an infinity."""
    try:
        return F32.unpack(F32.pack(value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def check_operand(operand: Operand, role: OperandDef) -> None:
    """The rules that both encoder and decoder keep; ValueError otherwise."""
    pattern = operand.pattern
    if operand.space not in role.spaces:
        raise ValueError(f"operand {role.name} lies in {operand.space}; allowed: {', '.join(role.spaces)}")
    if (operand.space == "dram") != pattern.is_dram:
        raise ValueError(f"operand {role.name} in {operand.space} has {pattern.partitions} partitions")
    if (operand.space == "dram") != (operand.buffer is not None):
        raise ValueError(f"operand {role.name}: a DRAM variable is named exactly for operands in DRAM")
    if not 1 <= len(pattern.dims) <= MAX_DIMS:
        raise ValueError(f"operand {role.name} has {len(pattern.dims)} free dimensions, allowed 1 to {MAX_DIMS}")
    if any(size < 1 for _, size in pattern.dims):
        raise ValueError(f"operand {role.name} has an empty dimension")
