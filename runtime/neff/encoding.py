"""The toolkit's own instruction encoding: queue entries to bytes and back.

Vendor encodings are not public, so this one is ours, derived from the instruction table: an operand or a field is
encoded under its position in the instruction's definition, an enumeration member under its position in `ENUMS`. Every
queue starts with a fingerprint of that table, so that a changed table is noticed instead of misread. All numbers are
little-endian.

    queue   = queue header, ring names (length byte, ASCII), zeros to a multiple of 8, records
    record  = record header, waits, operands and their dimensions, fields or control numbers, zeros to a multiple of 8

The decoder trusts no byte: whatever is wrong is a NeuronError NX-NEFF-006 that names the queue and the byte offset.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.dtypes import dtype_by_code, dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import ENUMS, INSTRUCTIONS, OPCODES, FieldDef, Instruction, InstructionDef, Operand, OperandDef
from neuron_dialects.isa.definitions import PLUGIN_OPCODES
from neuron_dialects.isa.model import SPACES, constant
from neuron_dialects.isa.program import CONTROL_KINDS, QueueEntry
from runtime.neff.records import (
    AFFINE,
    BYTE,
    CONTROL_BY_OPCODE,
    CONTROL_OPCODES,
    DIMENSION,
    ENCODING_VERSION,
    ENGINE_CODES,
    F32,
    FINGERPRINT,
    I32,
    MAGIC,
    NO_BUFFER,
    NO_REGISTER,
    NUMBER,
    OPERAND,
    QUEUE_HEADER,
    RECORD_HEADER,
    RING_NAME,
    SHORT_CONTROL,
    SHORT_CONTROL_BY_OPCODE,
    SHORT_CONTROL_OPCODES,
    WAIT,
    as_f32,
    check_operand,
)

# -- encoder -----------------------------------------------------------------------------------------------------------


def encode_queue(entries: Sequence[QueueEntry], name: str = "queue") -> bytes:
    """The bytes of one engine's queue.

    Args:
        entries: entries in the form of neuron_dialects/isa/program.py: an `Affine` is a constant plus at most one
            register.
        name: how messages call the queue.

    Raises:
        NeuronError: NX-NEFF-009, an entry is not in that form or a number does not fit its field.
    """
    rings = tuple(dict.fromkeys(entry.ring for entry in entries if entry.ring is not None))
    try:
        head = _ring_table(rings)
        ring_codes = {ring: position + 1 for position, ring in enumerate(rings)}
        records_offset = QUEUE_HEADER.size_bytes + len(head)
        header = QUEUE_HEADER.codec.pack(MAGIC, ENCODING_VERSION, len(rings), len(entries), records_offset, FINGERPRINT)
    except (ValueError, struct.error) as error:
        raise NeuronError("NX-NEFF-009", f"{name}: {error}") from None
    return b"".join((header, head, *encode_records(entries, ring_codes, name)))


def encode_records(entries: Sequence[QueueEntry], ring_codes: dict[str, int], name: str = "queue") -> Iterator[bytes]:
    """The record of each entry; `ring_codes`: ring name -> its code. Raises as `encode_queue`."""
    for position, entry in enumerate(entries):
        try:
            yield _record(entry, ring_codes)
        except (ValueError, TypeError, struct.error) as error:
            raise NeuronError("NX-NEFF-009", f"{name}: entry {position} cannot be encoded: {error}") from None


def entry_problem(entry: QueueEntry) -> str | None:
    """Why an entry cannot be encoded, None where it can."""
    try:
        _record(entry, {} if entry.ring is None else {entry.ring: 1})
        _ring_table(() if entry.ring is None else (entry.ring,))
    except (ValueError, TypeError, struct.error) as error:
        return f"it cannot be encoded: {error}"
    return None


def record_addresses(entries: Sequence[QueueEntry], name: str = "queue") -> list[int]:
    """Byte offset of each entry's record within the encoded queue. Raises as `encode_queue`."""
    rings = tuple(dict.fromkeys(entry.ring for entry in entries if entry.ring is not None))
    position = QUEUE_HEADER.size_bytes + len(_ring_table(rings))
    addresses: list[int] = []
    for record in encode_records(entries, {ring: code + 1 for code, ring in enumerate(rings)}, name):
        addresses.append(position)
        position += len(record)
    return addresses


def _ring_table(rings: Sequence[str]) -> bytes:
    if len(rings) > 255:
        raise ValueError(f"{len(rings)} rings exceed 255")
    for ring in rings:
        if not RING_NAME.fullmatch(ring):
            raise ValueError(f"'{ring}' is not the name of a ring")
    return _padded(b"".join(BYTE.pack(len(ring)) + ring.encode("ascii") for ring in rings))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _record(entry: QueueEntry, ring_codes: dict[str, int]) -> bytes:
    if (entry.instruction is None) == (entry.control is None):
        raise ValueError("it must hold either an instruction or a control instruction")
    if (short := _short_control(entry)) is not None:
        return short
    body = [WAIT.codec.pack(semaphore, *_affine(value)) for semaphore, value in entry.waits]
    operand_mask = field_mask = engine = 0
    if entry.instruction is not None:
        definition = _definition(entry.instruction, entry)
        opcode, engine = definition.opcode, ENGINE_CODES.index(entry.instruction.engine)
        operand_mask = _append_operands(entry.instruction, definition, body)
        field_mask = _append_fields(entry.instruction, definition, body)
    else:
        opcode = _append_control(entry, body)
    ring = 0 if entry.ring is None else ring_codes[entry.ring]
    signal = 0 if entry.signal is None else entry.signal + 1
    if entry.signal is not None and entry.signal < 0:
        raise ValueError(f"semaphore {entry.signal} is negative")
    payload = b"".join(body)
    length = RECORD_HEADER.size_bytes + len(payload)
    length += -length % 8
    header = RECORD_HEADER.codec.pack(
        length, opcode, engine, len(entry.waits), ring, signal, entry.origin, operand_mask, field_mask
    )
    return _padded(header + payload)


def _definition(instruction: Instruction, entry: QueueEntry) -> InstructionDef:
    definition = INSTRUCTIONS.get(instruction.name)
    if definition is None:
        raise ValueError(f"unknown instruction {instruction.name}")
    if entry.numbers:
        raise ValueError(f"{instruction.name} has control numbers")
    if instruction.engine not in definition.engines:
        raise ValueError(f"engine {instruction.engine} does not execute {instruction.name}")
    if definition.is_dma != (entry.ring is not None):
        raise ValueError(f"{instruction.name} {'needs a' if definition.is_dma else 'is not a DMA and has no'} ring")
    missing = [o.name for o in definition.operands if not o.optional and o.name not in instruction.operands]
    unknown = set(instruction.operands) - {o.name for o in definition.operands}
    unknown |= set(instruction.fields) - {f.name for f in definition.fields}
    if missing or unknown:
        problem = f"operand {missing[0]} is missing" if missing else f"it has no {min(unknown)}"
        raise ValueError(f"{instruction.name}: {problem}")
    return definition


def _append_operands(instruction: Instruction, definition: InstructionDef, body: list[bytes]) -> int:
    mask = 0
    for position, role in enumerate(definition.operands):
        operand = instruction.operands.get(role.name)
        if operand is None:
            continue
        mask |= 1 << position
        check_operand(operand, role)
        pattern = operand.pattern
        partition_register, partition = _affine(pattern.partition)
        body.append(
            OPERAND.codec.pack(
                SPACES.index(operand.space), dtype_by_name(operand.dtype).code, len(pattern.dims),
                pattern.partitions, partition_register, partition,
                NO_BUFFER if operand.buffer is None else operand.buffer, *_affine(pattern.offset),
            )
        )  # fmt: skip
        body += [DIMENSION.codec.pack(stride, size) for stride, size in pattern.dims]
    return mask


def _append_fields(instruction: Instruction, definition: InstructionDef, body: list[bytes]) -> int:
    mask = 0
    for position, definition_field in enumerate(definition.fields):
        if definition_field.name in instruction.fields:
            mask |= 1 << position
            body.append(_encode_field(definition_field, instruction.fields[definition_field.name]))
    return mask


def _append_control(entry: QueueEntry, body: list[bytes]) -> int:
    assert entry.control is not None
    roles = CONTROL_KINDS.get(entry.control)
    if roles is None:
        raise ValueError(f"unknown control instruction {entry.control}")
    if len(entry.numbers) != len(roles):
        raise ValueError(f"{entry.control} has {len(roles)} numbers, not {len(entry.numbers)}")
    if entry.ring is not None:
        raise ValueError(f"{entry.control} is not a DMA and has no ring")
    body += [NUMBER.pack(number) for number in entry.numbers]
    return CONTROL_OPCODES[entry.control]


def _short_control(entry: QueueEntry) -> bytes | None:
    """The short form of a control instruction, None where it does not apply."""
    roles = CONTROL_KINDS.get(entry.control) if entry.control is not None else None
    bare = not entry.waits and entry.signal is None and entry.ring is None and not entry.origin
    if roles is None or not bare or len(entry.numbers) != len(roles):
        return None
    if not all(-(2**31) <= number < 2**31 for number in entry.numbers):
        return None
    numbers = (*entry.numbers, 0, 0, 0)[:3]
    return SHORT_CONTROL.codec.pack(SHORT_CONTROL.size_bytes, SHORT_CONTROL_OPCODES[entry.control or ""], 0, *numbers)


def _affine(value: Affine) -> tuple[int, int]:
    """(register, constant) of a constant plus at most one register."""
    match value.terms:
        case ():
            return NO_REGISTER, value.constant
        case ((register, 1),) if 0 <= register < NO_REGISTER:
            return register, value.constant
        case _:
            raise ValueError(f"{value} is not a constant plus one register")


def _encode_field(definition: FieldDef, value: Any) -> bytes:
    match definition.kind:
        case "f32":
            return F32.pack(as_f32(value))
        case "i32":
            return I32.pack(value)
        case "bool":
            return BYTE.pack(bool(value))
        case "affine":
            return AFFINE.codec.pack(*_affine(constant(value)))
        case enumeration:
            return BYTE.pack(ENUMS[enumeration].index(value))


# -- decoder -----------------------------------------------------------------------------------------------------------


def decode_queue(data: bytes | memoryview, name: str = "queue") -> list[QueueEntry]:
    """The entries of an encoded queue; the inverse of `encode_queue` (f32 fields rounded to f32).

    Raises:
        NeuronError: NX-NEFF-006 with the byte offset for whatever is malformed, NX-NEFF-002 for another instruction
            table.
    """
    view = memoryview(data)
    try:
        rings, position, count = _decode_queue_header(view)
    except (ValueError, struct.error) as error:
        raise NeuronError("NX-NEFF-006", f"{name}: queue header: {error}") from None
    entries: list[QueueEntry] = []
    while position < len(view):
        try:
            length = _record_length(view, position)
            entries.append(_decode_record(view[position : position + length], rings))
        except (ValueError, struct.error) as error:
            raise NeuronError("NX-NEFF-006", f"{name}: record {len(entries)} at byte {position}: {error}") from None
        position += length
    if len(entries) != count:
        raise NeuronError("NX-NEFF-006", f"{name}: the header announces {count} records, there are {len(entries)}")
    return entries


def _decode_queue_header(view: memoryview) -> tuple[tuple[str, ...], int, int]:
    """(ring names, offset of the first record, number of records)."""
    if len(view) < QUEUE_HEADER.size_bytes:
        raise ValueError(f"{len(view)} bytes, a queue has at least {QUEUE_HEADER.size_bytes}")
    magic, version, ring_count, count, records_offset, fingerprint = QUEUE_HEADER.codec.unpack_from(view)
    if magic != MAGIC or version != ENCODING_VERSION:
        raise ValueError(f"it is {magic!r} version {version}, expected {MAGIC!r} version {ENCODING_VERSION}")
    if fingerprint != FINGERPRINT:
        raise NeuronError(
            "NX-NEFF-002",
            f"its instruction table has fingerprint {fingerprint:#018x}, this toolkit's {FINGERPRINT:#018x}",
            help="compile the model again with this version of the toolkit",
        )
    rings: list[str] = []
    position = QUEUE_HEADER.size_bytes
    for _ in range(ring_count):
        (length,) = BYTE.unpack_from(view, position)
        ring = bytes(view[position + 1 : position + 1 + length]).decode("ascii", "replace")
        if not RING_NAME.fullmatch(ring) or ring in rings:
            raise ValueError(f"ring name at byte {position} is malformed or repeated")
        rings.append(ring)
        position += 1 + length
    if records_offset != position + -position % 8 or records_offset > len(view) or any(view[position:records_offset]):
        raise ValueError(f"records start at byte {records_offset}, the ring names end at byte {position}")
    return tuple(rings), records_offset, count


def _record_length(view: memoryview, position: int) -> int:
    left = len(view) - position
    if left < RECORD_HEADER.size_bytes:
        raise ValueError(f"{left} bytes left, a record has at least {RECORD_HEADER.size_bytes}")
    length = int.from_bytes(view[position : position + 2], "little")
    if length < RECORD_HEADER.size_bytes or length % 8 or length > left:
        raise ValueError(f"length {length} is not a multiple of 8 between {RECORD_HEADER.size_bytes} and {left}")
    return length


class _Cursor:
    """Reads values off one record in order; struct.error past its end."""

    def __init__(self, record: memoryview) -> None:
        self.record = record
        self.position = 0

    def take(self, codec: struct.Struct) -> tuple[Any, ...]:
        values = codec.unpack_from(self.record, self.position)
        self.position += codec.size
        return values

    def finish(self) -> None:
        """All has been read but zeros of padding."""
        if len(self.record) - self.position >= 8 or any(self.record[self.position :]):
            raise ValueError(f"{len(self.record) - self.position} bytes behind its last value")


def _decode_short(record: memoryview) -> QueueEntry:
    """A short control instruction."""
    if len(record) != SHORT_CONTROL.size_bytes:
        raise ValueError(f"a short control instruction of {len(record)} bytes, not {SHORT_CONTROL.size_bytes}")
    _, opcode, reserved, *numbers = SHORT_CONTROL.codec.unpack(record)
    control = SHORT_CONTROL_BY_OPCODE[opcode]
    used = len(CONTROL_KINDS[control])
    if reserved or any(numbers[used:]):
        raise ValueError(f"{control}: a reserved field is not 0")
    return QueueEntry(control=control, numbers=tuple(numbers[:used]))


def _decode_record(record: memoryview, rings: tuple[str, ...]) -> QueueEntry:
    if record[2] in SHORT_CONTROL_BY_OPCODE:
        return _decode_short(record)
    cursor = _Cursor(record)
    _, opcode, engine, wait_count, ring, signal, origin, operand_mask, field_mask = cursor.take(RECORD_HEADER.codec)
    waits: list[tuple[int, Affine]] = []
    for _ in range(wait_count):
        semaphore, register, value = cursor.take(WAIT.codec)
        waits.append((semaphore, _decode_affine(register, value)))
    if ring > len(rings):
        raise ValueError(f"ring {ring} of {len(rings)}")
    ring_name = rings[ring - 1] if ring else None
    instruction = control = None
    numbers: tuple[int, ...] = ()
    if opcode in OPCODES:
        instruction = _decode_instruction(OPCODES[opcode], engine, operand_mask, field_mask, cursor)
        if OPCODES[opcode].is_dma != (ring_name is not None):
            raise ValueError(f"{instruction.name}: exactly a DMA has a ring")
    elif opcode in CONTROL_BY_OPCODE:
        control = CONTROL_BY_OPCODE[opcode]
        if engine or operand_mask or field_mask or ring:
            raise ValueError(f"{control} has an engine, operands, fields or a ring")
        numbers = tuple(cursor.take(NUMBER)[0] for _ in CONTROL_KINDS[control])
    else:
        whose = ", an instruction of a plug-in that is not loaded" if opcode in PLUGIN_OPCODES else ""
        raise ValueError(f"unknown opcode {opcode:#04x}{whose}")
    cursor.finish()
    return QueueEntry(instruction, control, numbers, ring_name, tuple(waits), signal - 1 if signal else None, origin)


def _decode_instruction(
    definition: InstructionDef, engine: int, operand_mask: int, field_mask: int, cursor: _Cursor
) -> Instruction:
    if engine >= len(ENGINE_CODES) or ENGINE_CODES[engine] not in definition.engines:
        raise ValueError(f"engine code {engine} does not execute {definition.name}")
    if operand_mask >> len(definition.operands) or field_mask >> len(definition.fields):
        raise ValueError(f"{definition.name} has no such operand or field (masks {operand_mask:#x}, {field_mask:#x})")
    operands: dict[str, Operand] = {}
    for position, role in enumerate(definition.operands):
        if operand_mask >> position & 1:
            operands[role.name] = _decode_operand(role, cursor)
        elif not role.optional:
            raise ValueError(f"{definition.name}: operand {role.name} is missing")
    fields: dict[str, Any] = {}
    for position, definition_field in enumerate(definition.fields):
        if field_mask >> position & 1:
            fields[definition_field.name] = _decode_field(definition_field, cursor)
    return Instruction(definition.name, ENGINE_CODES[engine], operands, fields)


def _decode_operand(role: OperandDef, cursor: _Cursor) -> Operand:
    space, dtype, rank, partitions, partition_register, partition, buffer, offset_register, offset = cursor.take(
        OPERAND.codec
    )
    if space >= len(SPACES):
        raise ValueError(f"operand {role.name}: unknown memory {space}")
    dims = tuple(cursor.take(DIMENSION.codec) for _ in range(rank))
    pattern = AccessPattern(
        _decode_affine(partition_register, partition), partitions, _decode_affine(offset_register, offset), dims
    )
    named = None if buffer == NO_BUFFER else buffer
    operand = Operand(SPACES[space], dtype_by_code(dtype).name, pattern, named)
    check_operand(operand, role)
    return operand


def _decode_affine(register: int, value: int) -> Affine:
    return Affine(value) if register == NO_REGISTER else Affine(value, ((register, 1),))


def _decode_field(definition: FieldDef, cursor: _Cursor) -> Any:
    match definition.kind:
        case "f32":
            return cursor.take(F32)[0]
        case "i32":
            return cursor.take(I32)[0]
        case "bool":
            return _member((False, True), cursor.take(BYTE)[0], definition.name)
        case "affine":
            return _decode_affine(*cursor.take(AFFINE.codec))
        case enumeration:
            return _member(ENUMS[enumeration], cursor.take(BYTE)[0], definition.name)


def _member(members: Sequence[Any], code: int, name: str) -> Any:
    if code >= len(members):
        raise ValueError(f"field {name}: code {code}, there are {len(members)}")
    return members[code]
