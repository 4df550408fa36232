"""Encoder and decoder are inverse over the whole instruction table, and the decoder refuses everything else."""

import math
import struct
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.dtypes import DTYPES
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import ENUMS, INSTRUCTIONS, FieldDef, Instruction, InstructionDef, Operand, OperandDef
from neuron_dialects.isa.program import CONTROL_KINDS, QueueEntry
from runtime.neff.encoding import decode_queue, encode_queue, record_addresses
from runtime.neff.records import CONTROL_OPCODES, FINGERPRINT, QUEUE_HEADER
from tests.runtime.neff.samples import matmul_program, sbuf

I32 = st.integers(-(1 << 31), (1 << 31) - 1)
I64 = st.integers(-(1 << 63), (1 << 63) - 1)
REGISTERS = st.integers(0, 0xFFFE)
RINGS = st.sampled_from(("q0", "q_load", "q.store-7"))


def affines(constants: st.SearchStrategy[int] = I64) -> st.SearchStrategy[Affine]:
    terms = st.one_of(st.just(()), REGISTERS.map(lambda register: ((register, 1),)))
    return st.builds(Affine, constants, terms)


DIMS = st.lists(st.tuples(I32, st.integers(1, (1 << 32) - 1)), min_size=1, max_size=5).map(tuple)


@st.composite
def operands(draw: st.DrawFn, role: OperandDef) -> Operand:
    space = draw(st.sampled_from(role.spaces))
    partitions = 0 if space == "dram" else draw(st.integers(1, 65535))
    pattern = AccessPattern(draw(affines(I32)), partitions, draw(affines()), draw(DIMS))
    buffer = draw(st.integers(0, (1 << 32) - 2)) if space == "dram" else None
    return Operand(space, draw(st.sampled_from(DTYPES)).name, pattern, buffer)


def values(field: FieldDef) -> st.SearchStrategy[Any]:
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "f32": st.floats(width=32, allow_nan=False),
        "i32": I32,
        "bool": st.booleans(),
        "affine": affines(),
    }
    return kinds[field.kind] if field.kind in kinds else st.sampled_from(ENUMS[field.kind])


@st.composite
def instructions(draw: st.DrawFn, definition: InstructionDef) -> Instruction:
    present = {
        role.name: draw(operands(role)) for role in definition.operands if not role.optional or draw(st.booleans())
    }
    fields = {field.name: draw(values(field)) for field in definition.fields if draw(st.booleans())}
    return Instruction(definition.name, draw(st.sampled_from(definition.engines)), present, fields)


@st.composite
def entries(draw: st.DrawFn, definition: InstructionDef | None = None) -> QueueEntry:
    """An entry with an instruction of `definition`, or with any instruction or control instruction."""
    if definition is None and draw(st.booleans()):
        kind = draw(st.sampled_from(tuple(CONTROL_KINDS)))
        entry = QueueEntry(control=kind, numbers=tuple(draw(I64) for _ in CONTROL_KINDS[kind]))
    else:
        chosen = draw(st.sampled_from(tuple(INSTRUCTIONS.values()))) if definition is None else definition
        entry = QueueEntry(draw(instructions(chosen)), ring=draw(RINGS) if chosen.is_dma else None)
    waits = draw(st.lists(st.tuples(st.integers(0, 65535), affines()), max_size=3))
    signal = draw(st.one_of(st.none(), st.integers(0, 65534)))
    return replace(entry, waits=tuple(waits), signal=signal, origin=draw(st.integers(0, (1 << 32) - 1)))


def decoded_or_none(data: bytes) -> list[QueueEntry] | None:
    """The entries, or None where the decoder refuses; any other exception passes through."""
    try:
        return decode_queue(data)
    except NeuronError:
        return None


# Every instruction, with any operands, fields and optional parts, comes back exactly.
@pytest.mark.parametrize("name", INSTRUCTIONS)
@settings(max_examples=25)
@given(data=st.data())
def test_every_instruction_round_trips(name: str, data: st.DataObject) -> None:
    entry = data.draw(entries(INSTRUCTIONS[name]))
    assert decode_queue(encode_queue([entry])) == [entry]


# A queue of anything comes back exactly, encodes to the same bytes again, and its records are where they should be.
@settings(max_examples=60)
@given(st.lists(entries(), max_size=8))
def test_queues_round_trip(queue: list[QueueEntry]) -> None:
    data = encode_queue(queue)
    assert decode_queue(data) == queue
    assert encode_queue(decode_queue(data)) == data
    addresses = record_addresses(queue)
    assert all(address % 8 == 0 for address in addresses)
    for address, end in pairwise([*addresses, len(data)]):
        assert int.from_bytes(data[address : address + 2], "little") == end - address


# One bit is flipped anywhere: the decoder either refuses with its own error, or gives entries that encode again,
# and what they encode to is decoded and encoded to the same bytes.
@settings(max_examples=100)
@given(entries(), st.data())
def test_bit_flips_raise_only_neuron_errors(entry: QueueEntry, data: st.DataObject) -> None:
    encoded = encode_queue([entry])
    bit = data.draw(st.integers(0, len(encoded) * 8 - 1))
    decoded = decoded_or_none(flipped(encoded, bit))
    if decoded is not None:
        assert encode_queue(decode_queue(encode_queue(decoded))) == encode_queue(decoded)


# The same for every single bit of each instruction with all its operands and fields.
@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_bit_of_every_instruction(name: str) -> None:
    encoded = encode_queue([full_entry(INSTRUCTIONS[name])])
    for bit in range(len(encoded) * 8):
        decoded = decoded_or_none(flipped(encoded, bit))
        if decoded is not None:
            assert encode_queue(decode_queue(encode_queue(decoded))) == encode_queue(decoded)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def full_entry(definition: InstructionDef) -> QueueEntry:
    pattern = AccessPattern(Affine(32), 64, Affine(4, ((3, 1),)), ((28, 14), (1, 7)))
    operands: dict[str, Operand] = {}
    for role in definition.operands:
        in_dram = role.spaces[0] == "dram"
        where = replace(pattern, partition=Affine(), partitions=0) if in_dram else pattern
        operands[role.name] = Operand(role.spaces[0], "f32", where, 5 if in_dram else None)
    ring = "q0" if definition.is_dma else None
    values = {field.name: field.default for field in definition.fields}
    instruction = Instruction(definition.name, definition.engines[0], operands, values)
    return QueueEntry(instruction, ring=ring, waits=((1, Affine(2, ((0, 1),))),), signal=3, origin=4)


# A queue is cut off anywhere: refused, but for the empty queue at its full length.
def test_every_truncation_is_refused() -> None:
    data = encode_queue(matmul_program("trn1").queues["sp"])
    for length in range(len(data)):
        with pytest.raises(NeuronError, match="NX-NEFF-006"):
            decode_queue(data[:length])


# Arbitrary bytes are refused, alone or behind a header of no entries; behind a header of one they are never misread
# into an exception of another kind.
@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage: bytes) -> None:
    header = encode_queue([])
    count = QUEUE_HEADER.offsets["entries"]
    assert decoded_or_none(garbage) is None
    assert decoded_or_none(header + garbage) == (None if garbage else [])
    decoded_or_none(header[:count] + b"\1\0\0\0" + header[count + 4 :] + garbage)


# The header announces four thousand million records: refused at once by counting those that are there.
def test_huge_count() -> None:
    data = bytearray(encode_queue(matmul_program("trn1").queues["pe"]))
    offset = QUEUE_HEADER.offsets["entries"]
    data[offset : offset + 4] = b"\xff" * 4
    with pytest.raises(NeuronError, match=r"announces 4294967295 records, there are 7"):
        decode_queue(bytes(data), "pe.bin")


# A queue of a toolkit with another instruction table is named as such, with what to do.
def test_another_instruction_table() -> None:
    data = bytearray(encode_queue([]))
    struct.pack_into("<Q", data, QUEUE_HEADER.offsets["fingerprint"], FINGERPRINT ^ 1)
    with pytest.raises(NeuronError, match=r"NX-NEFF-002.*fingerprint[^$]*help: compile the model again"):
        decode_queue(bytes(data))


# f32 immediates are rounded to f32, beyond its range to infinity; NaN stays NaN.
@pytest.mark.parametrize(
    ("given_value", "encoded"),
    [(0.1, 0.10000000149011612), (1e300, math.inf), (-1e300, -math.inf), (2, 2.0), (-0.0, -0.0)],
)
def test_f32_immediates_are_rounded(given_value: float, encoded: float) -> None:
    def value_of(value: float) -> Any:
        entry = QueueEntry(Instruction("memset", "dve", {"dst": sbuf("f32", 1, 0, (1, 1))}, {"value": value}))
        (decoded,) = decode_queue(encode_queue([entry]))
        assert decoded.instruction is not None
        return decoded.instruction.fields["value"]

    assert value_of(given_value) == encoded
    assert math.copysign(1.0, value_of(given_value)) == math.copysign(1.0, encoded)
    assert math.isnan(value_of(math.nan))


MEMSET = Instruction("memset", "dve", {"dst": sbuf("f32", 1, 0, (1, 1))}, {})


# What is not in the form of a finished program is refused with the entry's position and the reason.
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (QueueEntry(), "either an instruction or a control instruction"),
        (QueueEntry(MEMSET, control="halt"), "either an instruction or a control instruction"),
        (QueueEntry(control="leap"), "unknown control instruction leap"),
        (QueueEntry(control="reg_move", numbers=(1,)), "reg_move has 2 numbers, not 1"),
        (QueueEntry(control="reg_move", numbers=(1, 1 << 63)), "entry 0"),
        (QueueEntry(control="halt", ring="q0"), "no ring"),
        (QueueEntry(MEMSET, ring="q0"), "no ring"),
        (QueueEntry(MEMSET, numbers=(1,)), "has control numbers"),
        (QueueEntry(MEMSET, signal=-1), "semaphore -1 is negative"),
        (QueueEntry(MEMSET, origin=-1), "entry 0"),
        (QueueEntry(MEMSET, waits=((0, Affine(0, ((1, 2),))),)), "not a constant plus one register"),
        (QueueEntry(MEMSET, waits=((0, Affine(0, ((1, 1), (2, 1)))),)), "not a constant plus one register"),
        (QueueEntry(replace(MEMSET, engine="pe")), "engine pe does not execute memset"),
        (QueueEntry(replace(MEMSET, name="nope")), "unknown instruction nope"),
        (QueueEntry(replace(MEMSET, operands={})), "operand dst is missing"),
        (QueueEntry(replace(MEMSET, fields={"color": 1})), "it has no color"),
        (QueueEntry(replace(MEMSET, fields={"value": "red"})), "entry 0"),
        (QueueEntry(replace(MEMSET, operands={"dst": sbuf("f32", 1, 0)})), "0 free dimensions"),
        (QueueEntry(replace(MEMSET, operands={"dst": sbuf("f32", 1, 0, (1, 0))})), "empty dimension"),
        (QueueEntry(replace(MEMSET, operands={"dst": sbuf("f32", 0, 0, (1, 1))})), "has 0 partitions"),
        (QueueEntry(replace(MEMSET, operands={"dst": sbuf("f99", 1, 0, (1, 1))})), "f99"),
        (QueueEntry(replace(MEMSET, operands={"dst": sbuf("f32", 1, 0, (1 << 31, 1))})), "entry 0"),
        (QueueEntry(replace(MEMSET, operands={"dst": replace(sbuf("f32", 1, 0, (1, 1)), buffer=3)})), "DRAM variable"),
        (QueueEntry(replace(MEMSET, operands={"dst": replace(sbuf("f32", 1, 0, (1, 1)), space="dram")})), "in dram"),
    ],
)  # fmt: skip
def test_what_cannot_be_encoded_is_refused(entry: QueueEntry, reason: str) -> None:
    with pytest.raises(NeuronError, match=reason) as caught:
        encode_queue([entry], "dve.bin")
    assert caught.value.code == "NX-NEFF-009"
    assert caught.value.message.startswith("dve.bin")


# The record header has 16 bits each for operands and fields, and opcodes below 0x80 for instructions.
def test_the_instruction_table_fits_the_record_header() -> None:
    for definition in INSTRUCTIONS.values():
        assert len(definition.operands) <= 16
        assert len(definition.fields) <= 16
        assert 0 < definition.opcode < min(CONTROL_OPCODES.values())
