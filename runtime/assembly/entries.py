"""One entry of a queue from its words, as the instruction table reads them: operands by role, fields by kind.

`EntryBuilder.entry` raises `Mistake` at the word that is wrong. What holds between the parts of an instruction (shapes,
memories, limits) is not looked at here: encoder and target check that for programs from anywhere.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from lark import Token

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.dtypes import DTYPES
from neuron_dialects.isa import ENUMS, INSTRUCTIONS, FieldDef, Instruction, InstructionDef, Operand
from neuron_dialects.isa.model import SPACES
from neuron_dialects.isa.program import CONTROL_KINDS, DramVariable, QueueEntry
from runtime.assembly.problem import Mistake, nearest, unquoted
from runtime.assembly.syntax import Bracket, Entry, OperandText
from runtime.neff.program_check import REGISTER_ROLES

_AFFINE = re.compile(r"(?:r(\d{1,5})(?:\s*([+-])\s*(\d{1,20}))?|(-?\d{1,20}))")
_F32_BITS = re.compile(r"0x([0-9a-fA-F]{8})")
_DTYPE_NAMES = tuple(row.name for row in DTYPES)


class Names:
    """What entries of one program refer to by name. Names of framework nodes are added as they are met."""

    def __init__(self, semaphores: Sequence[str], variables: Sequence[DramVariable], origins: Sequence[str]) -> None:
        self.semaphores = {name: number for number, name in enumerate(semaphores)}
        self.variables = {variable.name: variable.id for variable in variables}
        self.variable_ids = set(self.variables.values())
        self.origins = list(origins)
        self._origins = {name: number for number, name in reversed(list(enumerate(origins)))}

    def origin(self, name: str) -> int:
        """The number of a framework node: its first in the program's list."""
        if name not in self._origins:
            self._origins[name] = len(self.origins)
            self.origins.append(name)
        return self._origins[name]


class EntryBuilder:
    """Builds the entries of one queue.

    Args:
        engine: the queue's engine.
        names: semaphores, variables and framework nodes of the program.
        labels: label -> position of the entry that it stands before, of this queue.
    """

    def __init__(self, engine: str, names: Names, labels: Mapping[str, int]) -> None:
        self.engine = engine
        self.names = names
        self.labels = labels

    def entry(self, text: Entry) -> QueueEntry:
        """One entry. Raises Mistake."""
        waits = tuple((self._semaphore(name), value) for name, value in text.waits)
        signal = None if text.signal is None else self._semaphore(text.signal)
        origin = self._origin(text.origin)
        name = str(text.mnemonic)
        if name in CONTROL_KINDS:
            if text.ring is not None or text.operands or text.fields:
                raise Mistake(f"{name} takes registers and numbers, no operands", text.mnemonic)
            return QueueEntry(None, name, self._numbers(text), None, waits, signal, origin)
        definition = INSTRUCTIONS.get(name)
        if definition is None:
            raise Mistake(
                f"unknown instruction '{name}'", text.mnemonic, nearest(name, (*INSTRUCTIONS, *CONTROL_KINDS))
            )
        if text.numbers:
            raise Mistake(f"{name} takes operands, no numbers", text.numbers[0])
        ring = None if text.ring is None else str(text.ring)
        return QueueEntry(self._instruction(text, definition), None, (), ring, waits, signal, origin)

    def _semaphore(self, name: Token) -> int:
        if str(name) not in self.names.semaphores:
            help_ = nearest(name, self.names.semaphores) or f"declare it: .semaphore {name}"
            raise Mistake(f"no semaphore '{name}'", name, help_)
        return self.names.semaphores[str(name)]

    def _origin(self, name: Token | None) -> int:
        if name is None:
            return 0
        return int(name) if name.type == "INT" else self.names.origin(unquoted(name))

    def _numbers(self, text: Entry) -> tuple[int, ...]:
        roles = CONTROL_KINDS[str(text.mnemonic)]
        if len(roles) != len(text.numbers):
            takes = ", ".join(roles) or "nothing"
            raise Mistake(f"{text.mnemonic} takes {takes}; {len(text.numbers)} given", text.mnemonic)
        return tuple(self._number(role, word) for role, word in zip(roles, text.numbers, strict=True))

    def _number(self, role: str, word: Token) -> int:
        if role == "label":
            if str(word) not in self.labels:
                raise Mistake(f"no label '{word}' in this queue", word, nearest(word, self.labels))
            return self.labels[str(word)]
        if role in REGISTER_ROLES:
            if not re.fullmatch(r"r\d{1,5}", word):
                raise Mistake(f"{role} is a register like r0, not '{word}'", word)
            return int(word[1:])
        if word.type != "INT":
            raise Mistake(f"{role} is a number, not '{word}'", word)
        return int(word)

    def _instruction(self, text: Entry, definition: InstructionDef) -> Instruction:
        roles = [operand.name for operand in definition.operands]
        operands: dict[str, Operand] = {}
        for given in text.operands:
            if str(given.role) not in roles:
                help_ = f"its operands are {', '.join(roles)}"
                raise Mistake(f"{definition.name} has no operand '{given.role}'", given.role, help_)
            if str(given.role) in operands:
                raise Mistake(f"operand {given.role} is given twice", given.role)
            operands[str(given.role)] = self._operand(given)
        missing = [o.name for o in definition.operands if not o.optional and o.name not in operands]
        if missing:
            raise Mistake(f"{definition.name}: operand {missing[0]} is missing", text.mnemonic)
        if definition.is_dma and text.ring is None:
            raise Mistake(f"{definition.name} needs a ring: write {definition.name} ring NAME", text.mnemonic)
        engine = "dma" if definition.is_dma else self.engine
        if engine not in definition.engines:
            engines = " or ".join(definition.engines)
            raise Mistake(f"engine {engine} does not execute {definition.name}", text.mnemonic, f"{engines} does")
        return Instruction(definition.name, engine, operands, _fields(text, definition))

    def _operand(self, text: OperandText) -> Operand:
        if str(text.space) not in SPACES:
            raise Mistake(f"'{text.space}' is no memory", text.space, f"memories are {', '.join(SPACES)}")
        if str(text.dtype) not in _DTYPE_NAMES:
            raise Mistake(f"'{text.dtype}' is no element type", text.dtype, f"types are {', '.join(_DTYPE_NAMES)}")
        on_chip = str(text.space) != "dram"
        if len(text.brackets) != (2 if on_chip else 1):
            form = "[first partition:partitions][offset : sizes]" if on_chip else "@variable [offset : sizes]"
            raise Mistake(f"an operand in {text.space} is written {text.space} {text.dtype} {form}", text.space)
        if on_chip == (text.variable is not None):
            raise Mistake("exactly an operand in DRAM names a variable", text.variable or text.space)
        buffer = None if text.variable is None else self._variable(text.variable)
        return Operand(str(text.space), str(text.dtype), _pattern(text.brackets), buffer)

    def _variable(self, word: Token) -> int:
        if word.type == "INT":
            number = int(word)
            if number not in self.names.variable_ids:
                raise Mistake(f"no variable has number {number}", word)
            return number
        name = unquoted(word) if word.type == "STRING" else str(word)
        if name not in self.names.variables:
            raise Mistake(f"no variable '{name}'", word, nearest(name, self.names.variables))
        return self.names.variables[name]


def _pattern(brackets: tuple[Bracket, ...]) -> AccessPattern:
    *leading, free = brackets
    if not leading:
        return AccessPattern(Affine(), 0, free.start, free.dims)
    partitions = leading[0].dims
    if len(partitions) != 1 or partitions[0][0] != 1:
        raise Mistake("partitions are written [first:number]", leading[0].place)
    return AccessPattern(leading[0].start, partitions[0][1], free.start, free.dims)


def _fields(text: Entry, definition: InstructionDef) -> dict[str, Any]:
    known = {field.name: field for field in definition.fields}
    fields: dict[str, Any] = {}
    for name, value in text.fields:
        if str(name) not in known:
            help_ = f"its fields are {', '.join(known)}" if known else "it has no fields"
            raise Mistake(f"{definition.name} has no field '{name}'", name, help_)
        if str(name) in fields:
            raise Mistake(f"field {name} is given twice", name)
        fields[str(name)] = field_value(known[str(name)], value)
    return fields


def field_value(definition: FieldDef, word: Token) -> Any:
    """The value of a field from its text, by the kind that the instruction table gives it. Raises Mistake."""
    text = word.strip()
    match definition.kind:
        case "f32":
            if bits := _F32_BITS.fullmatch(text):
                return struct.unpack(">f", bytes.fromhex(bits[1]))[0]
            try:
                return float(text)
            except ValueError:
                raise Mistake(f"{definition.name} is a number, not '{text}'", word) from None
        case "i32":
            if not re.fullmatch(r"-?\d{1,20}", text):
                raise Mistake(f"{definition.name} is an integer, not '{text}'", word)
            return int(text)
        case "bool":
            if text not in ("true", "false"):
                raise Mistake(f"{definition.name} is true or false, not '{text}'", word)
            return text == "true"
        case "affine":
            return _affine(definition.name, text, word)
        case enumeration:
            if text not in ENUMS[enumeration]:
                members = ENUMS[enumeration]
                help_ = nearest(text, members) or f"choose one of {', '.join(members)}"
                raise Mistake(f"{definition.name} = {text}: no such value", word, help_)
            return text


def _affine(name: str, text: str, word: Token) -> Affine:
    found = _AFFINE.fullmatch(text)
    if found is None:
        raise Mistake(f"{name} is a number or a register plus a number, not '{text}'", word)
    register, sign, added, constant = found.groups()
    if register is None:
        return Affine(int(constant))
    return Affine(int(added or 0) * (-1 if sign == "-" else 1), ((int(register), 1),))
