"""The assembly text of a core program: one directive or one entry a line, which `runtime.assembly` reads back.

    .target trn1
    .semaphore 0 pe
    .variable 0 "x" input f32 [128, 512]
    .queue sp
    L0 0x000020: dma_copy ring q0 dst sbuf f32 [0:128][0 : 512] src dram f32 @0 [0 : 65536] signal(q0) loc("conv")

An entry's line is `L<index> <byte address>: <waits> <mnemonic> <operands> <fields> <signal> <origin>`. `r3` is
scalar register 3, `L5` entry 5 of the same queue, `@2` DRAM variable 2. A pattern is `[first partition:partitions]
[offset : size step stride, ...]`, offsets and strides in elements; on chip they are absolute. Names that come from a
model are JSON strings, so that no name can break a line.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from neuron_dialects.access import Affine
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.isa.program import CONTROL_KINDS, CoreProgram, QueueEntry
from runtime.neff.encoding import record_addresses
from runtime.neff.program_check import REGISTER_ROLES
from runtime.neff.records import F32, as_f32

PINNED_QUEUE = "pinned"
"""How the transfers that fill pinned buffers, when the program is loaded, are called among the queues."""

_CONTROL_PREFIX = {**dict.fromkeys(REGISTER_ROLES, "r"), "label": "L"}


def program_text(program: CoreProgram, engine: str | None = None) -> Iterator[str]:
    """The lines of a whole program, or with only the queue of `engine`; a queue that does not exist gives no lines."""
    yield from directives(program)
    for name in (*program.queues, *([PINNED_QUEUE] if program.pinned else [])):
        if engine in (None, name):
            yield ""
            yield f".queue {name}"
            yield from queue_text(program, name)


def directives(program: CoreProgram) -> Iterator[str]:
    """The lines before the queues: target, semaphores, DRAM variables, framework nodes, figures and the core."""
    yield f".target {program.target}"
    for number, name in enumerate(program.semaphores):
        yield f".semaphore {number} {name}"
    for variable in program.variables:
        line = f".variable {variable.id} {quoted(variable.name)} {variable.kind}"
        line += f" {variable.dtype} {[int(size) for size in variable.shape]}"
        yield f"{line} {quoted(variable.file_name)}" if variable.file_name else line
    for row in program.hand_overs:
        line = f".hand_over {row.variable} program {row.peer} variable {row.peer_variable}"
        yield f"{line} semaphore {program.semaphores[row.semaphore]} count {row.count} buffers {row.buffers}"
    for number, origin in enumerate(program.origins[1:], 1):
        yield f".origin {number} {quoted(origin)}"
    for name, value in ((".macs", program.macs), (".compulsory_bytes", program.compulsory_bytes)):
        if value:
            yield f"{name} {int(value)}"
    if program.core is not None:
        yield f".core {program.core}"
    if program.reserved_bytes:
        yield f".reserved_bytes {program.reserved_bytes}"
    for name, value in program.statistics.items():
        yield f".statistic {quoted(name)} {int(value)}"


def queue_text(program: CoreProgram, engine: str) -> Iterator[str]:
    """One line for each entry of a queue."""
    entries = program.pinned if engine == PINNED_QUEUE else program.queues[engine]
    width = len(str(max(0, len(entries) - 1))) + 1
    first = {name: number for number, name in reversed(list(enumerate(program.origins)))}
    for position, (entry, address) in enumerate(zip(entries, record_addresses(entries, engine), strict=True)):
        line = f"{f'L{position}':<{width}} {address:#08x}: {entry_text(entry, program)}"
        name = program.origins[entry.origin]
        # A name that several framework nodes share stands for the first of them.
        origin = quoted(name) if first[name] == entry.origin else str(entry.origin)
        yield f"{line} loc({origin})" if entry.origin else line


def entry_text(entry: QueueEntry, program: CoreProgram) -> str:
    """One entry without label, address and origin."""
    parts: list[str] = []
    if entry.waits:
        waits = ", ".join(f"{program.semaphores[number]} >= {_affine(value)}" for number, value in entry.waits)
        parts.append(f"wait({waits})")
    if entry.instruction is not None:
        parts.append(instruction_text(entry.instruction, entry.ring))
    elif entry.control is not None:
        parts.append(_control_text(entry.control, entry.numbers))
    if entry.signal is not None:
        parts.append(f"signal({program.semaphores[entry.signal]})")
    return " ".join(parts)


def instruction_text(instruction: Instruction, ring: str | None = None) -> str:
    """Mnemonic, ring, operands, and the fields that are not defaults."""
    parts = [instruction.name]
    if ring is not None:
        parts.append(f"ring {ring}")
    parts += [f"{role} {_operand(operand)}" for role, operand in instruction.operands.items()]
    if instruction.fields:
        fields = ", ".join(f"{name} = {_value(value)}" for name, value in instruction.fields.items())
        parts.append(f"{{{fields}}}")
    return " ".join(parts)


def quoted(name: str) -> str:
    """A name out of a model as a JSON string: one line of printable ASCII."""
    return json.dumps(name)


def _control_text(kind: str, numbers: tuple[int, ...]) -> str:
    operands = (
        f"{_CONTROL_PREFIX.get(role, '')}{number}" for role, number in zip(CONTROL_KINDS[kind], numbers, strict=True)
    )
    return " ".join([kind, ", ".join(operands)]).rstrip()


def _operand(operand: Operand) -> str:
    variable = "" if operand.buffer is None else f"@{operand.buffer} "
    return f"{operand.space} {operand.dtype} {variable}{operand.pattern.text('r{}'.format)}"


def _affine(value: Affine) -> str:
    return value.text("r{}".format)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Affine():
            return _affine(value)
        case float():
            return _f32(as_f32(value))
        case _:
            return str(value)


def _f32(value: float) -> str:
    """The shortest decimal text that gives the same f32 again; the bits of one that has none (some NaNs)."""
    text, bits = str(np.float32(value)), F32.pack(value)
    return text if F32.pack(float(text)) == bits else f"0x{bits[::-1].hex()}"
