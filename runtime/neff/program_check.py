"""Whether a core program is whole: everything that it refers to exists, and its target can execute every instruction.

Runs before a NEFF is written and after one is read, so that neither the machine nor a tool meets a number that means
nothing. What depends on values at run time (bounds of accesses, waits that never end) is the machine's to find.
"""

import re
from collections.abc import Iterable, Sequence

from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import INSTRUCTIONS, Instruction, verify_instruction
from neuron_dialects.isa.hand_over import hand_over_problem
from neuron_dialects.isa.program import CONTROL_KINDS, CoreProgram, DramVariable, QueueEntry
from neuron_dialects.target import Target, load_target, target_names
from runtime.neff.archive import check_member_name
from runtime.neff.header import MAX_CORES
from runtime.neff.model import is_shared, parameter_member
from runtime.neff.records import NO_BUFFER, RING_NAME

VARIABLE_KINDS = ("input", "output", "file", "tmp")
_PARAMETER_MEMBER = re.compile(r"sg[0-9]{2,4}/params/.+")
MAX_RANK = 32
MAX_DIMENSION = (1 << 63) - 1
REGISTER_ROLES = ("dst", "src", "other")
"""Control operands that are scalar registers; `label` is an entry of the queue, the others are numbers."""


def known_target(name: str) -> Target:
    """The target called `name`; NX-NEFF-007 otherwise. `name` may come from a file and never becomes part of a path."""
    if name not in target_names():
        raise NeuronError("NX-NEFF-007", f"unknown target {name[:80]!a}; known are {', '.join(target_names())}")
    return load_target(name)


def used_rings(entries: Iterable[QueueEntry]) -> list[str]:
    """Names of the DMA rings of a queue's transfers, in order of first use."""
    return list(dict.fromkeys(entry.ring for entry in entries if entry.ring is not None))


def hand_over_rings(program: CoreProgram, variable: int) -> list[str]:
    """The DMA rings whose transfers read an input, or write an output, that is handed over."""
    role = "in" if any(v.id == variable and v.kind == "input" for v in program.variables) else "out"
    return used_rings(
        entry
        for entries in program.queues.values()
        for entry in entries
        if entry.instruction is not None and variable in _variables(entry.instruction, role)
    )


def _variables(instruction: Instruction, role: str) -> set[int | None]:
    """The DRAM variables that an instruction reads ("in") or writes ("out")."""
    definition = INSTRUCTIONS[instruction.name]
    return {
        operand.buffer
        for name, operand in instruction.operands.items()
        if (definition.operand(name).reads if role == "in" else definition.operand(name).writes)
    }


def check_program(program: CoreProgram, label: str) -> None:
    """Raise NX-NEFF-007 for the first thing that is missing or out of range.

    Args:
        program: entries must be such that they can be encoded (`runtime.neff.encoding` checks that).
        label: how messages call the program.
    """
    target = known_target(program.target)
    _check_variables(program.variables, target, label)
    _check_names(program.semaphores, int(target.semaphores), f"{label}: semaphores")
    unknown_engines = [engine for engine in program.queues if engine not in target.engines]
    if unknown_engines:
        raise _broken(f"{label}: target {target.name} has no engine {unknown_engines[0][:80]!a}")
    rings = {ring: None for entries in (*program.queues.values(), program.pinned) for ring in used_rings(entries)}
    _check_names(tuple(rings), int(target.dma_rings), f"{label}: DMA rings")
    if problem := hand_over_problem(program):
        raise _broken(f"{label}: {problem}")
    checker = EntryChecker(program, target)
    _check_pinned(program, checker, label)
    for engine, entries in program.queues.items():
        for position, entry in enumerate(entries):
            problem = checker.problem(entry, engine, len(entries))
            if problem is not None:
                node = program.origins[entry.origin] if 0 <= entry.origin < len(program.origins) else ""
                raise NeuronError("NX-NEFF-007", f"{label} {engine}: entry {position}: {problem}", node=node or None)


def _check_names(names: Sequence[str], limit: int, label: str) -> None:
    if len(names) > limit:
        raise _broken(f"{label}: {len(names)}, the target has {limit}")
    for name in names:
        if not RING_NAME.fullmatch(name):
            raise _broken(f"{label}: {name[:80]!a} is not a name")
    if len(set(names)) != len(names):
        raise _broken(f"{label}: a name is used twice")


def _check_variables(variables: Sequence[DramVariable], target: Target, label: str) -> None:
    ids: set[int] = set()
    names: set[str] = set()
    files: set[str] = set()
    total_bytes = 0
    for variable in variables:
        where = f"{label}: variable {variable.name[:80]!a}"
        if variable.id in ids or not 0 <= variable.id < NO_BUFFER:
            raise _broken(f"{where}: id {variable.id} is used twice or out of range")
        if not variable.name or variable.name in names:
            raise _broken(f"{where}: its name is empty or used twice")
        if variable.kind not in VARIABLE_KINDS:
            raise _broken(f"{where}: unknown kind {variable.kind[:80]!a}")
        _check_shape(variable, where)
        if (variable.kind == "file") != bool(variable.file_name) or variable.file_name in files:
            raise _broken(f"{where}: exactly a parameter has a file name, and each its own")
        if variable.file_name:
            _check_file_name(variable.file_name, where)
            if not is_shared(variable.file_name):
                files.add(variable.file_name)
        ids.add(variable.id)
        names.add(variable.name)
        total_bytes += variable.size_bytes
    if total_bytes > int(target.dram_bytes):
        raise _broken(f"{label}: its variables have {total_bytes} bytes, target {target.name} has {target.dram_bytes}")


def _check_shape(variable: DramVariable, where: str) -> None:
    try:
        dtype_by_name(variable.dtype)
    except ValueError as error:
        raise _broken(f"{where}: {error}") from None
    if len(variable.shape) > MAX_RANK or any(not 0 <= size <= MAX_DIMENSION for size in variable.shape):
        raise _broken(f"{where}: a shape has at most {MAX_RANK} dimensions of 0 to {MAX_DIMENSION}")


def _check_file_name(name: str, where: str) -> None:
    member = parameter_member("sg00", name)
    check_member_name(member)
    if not _PARAMETER_MEMBER.fullmatch(member):
        raise _broken(f"{where}: its file {name} is not in params/")


def _check_pinned(program: CoreProgram, checker: "EntryChecker", label: str) -> None:
    """The transfers at load go from parameters to fixed addresses in SBUF and meet no semaphores."""
    if program.core is not None and not 0 <= program.core < MAX_CORES:
        raise _broken(f"{label}: core {program.core}, at most {MAX_CORES}")
    limit = int(checker.target.sbuf_bytes_per_partition)
    if not 0 <= program.reserved_bytes <= limit:
        raise _broken(f"{label}: {program.reserved_bytes} bytes of a partition are reserved, limit {limit}")
    parameters = {variable.id for variable in program.variables if variable.kind == "file"}
    for position, entry in enumerate(program.pinned):
        problem = checker.problem(entry, "dma", len(program.pinned))
        instruction = entry.instruction
        if problem is None and (instruction is None or instruction.name != "dma_copy"):
            problem = "it is no dma_copy"
        if problem is None and (entry.waits or entry.signal is not None):
            problem = "it waits or signals"
        if problem is None and instruction is not None:
            dst, src = instruction.operands["dst"], instruction.operands["src"]
            fixed = all(o.pattern.offset.is_constant and o.pattern.partition.is_constant for o in (dst, src))
            if not fixed or dst.space != "sbuf" or src.buffer not in parameters:
                problem = "it does not go from a parameter to a fixed address in SBUF"
        if problem is not None:
            raise _broken(f"{label} pinned: entry {position}: {problem}")


class EntryChecker:
    """Checks the entries of one program; holds what they may refer to."""

    def __init__(self, program: CoreProgram, target: Target) -> None:
        self.target = target
        self.dtypes = {variable.id: variable.dtype for variable in program.variables}
        self.semaphores = len(program.semaphores)
        self.origins = len(program.origins)
        self.registers = int(target.scalar_registers)

    def problem(self, entry: QueueEntry, engine: str, entries: int) -> str | None:
        """What is wrong with an entry of `engine`'s queue of `entries`, or None."""
        if not 0 <= entry.origin < self.origins:
            return f"origin {entry.origin}, the program has {self.origins}"
        for semaphore, value in entry.waits:
            if not 0 <= semaphore < self.semaphores:
                return f"waits for semaphore {semaphore}, the program has {self.semaphores}"
            if problem := self._affine(value):
                return problem
        if entry.signal is not None and not 0 <= entry.signal < self.semaphores:
            return f"signals semaphore {entry.signal}, the program has {self.semaphores}"
        if entry.control is not None:
            return self._control(entry, entries)
        if entry.instruction is None:
            return "it is empty"
        return self._instruction(entry.instruction, entry.ring, engine)

    def _affine(self, value: Affine) -> str | None:
        if value.is_constant:
            return None
        register, coefficient = value.terms[0]
        if len(value.terms) > 1 or coefficient != 1 or not 0 <= register < self.registers:
            return f"{value} is not a constant plus one of {self.registers} registers"
        return None

    def _control(self, entry: QueueEntry, entries: int) -> str | None:
        roles = CONTROL_KINDS.get(entry.control or "")
        if roles is None or len(roles) != len(entry.numbers):
            return f"unknown control instruction {entry.control} with {len(entry.numbers)} numbers"
        for role, number in zip(roles, entry.numbers, strict=True):
            if role in REGISTER_ROLES and not 0 <= number < self.registers:
                return f"{entry.control}: register {number}, the target has {self.registers}"
            if role == "label" and not 0 <= number < entries:
                return f"{entry.control}: jumps to entry {number}, the queue has {entries}"
            if role == "limit" and number < 1:
                return f"{entry.control}: limit {number} is not positive"
        return None

    def _instruction(self, instruction: Instruction, ring: str | None, engine: str) -> str | None:
        if instruction.name not in INSTRUCTIONS:
            return f"unknown instruction {instruction.name}"
        if instruction.engine not in (engine, "dma"):
            return f"{instruction.name} of engine {instruction.engine} in the queue of {engine}"
        if (instruction.engine == "dma") != (ring is not None):
            return f"{instruction.name}: exactly a DMA has a ring"
        for role, operand in instruction.operands.items():
            pattern = operand.pattern
            if problem := self._affine(pattern.offset) or self._affine(pattern.partition):
                return f"operand {role}: {problem}"
            if operand.buffer is None:
                if operand.space == "dram":
                    return f"operand {role} in DRAM names no variable"
            elif operand.space != "dram":
                return f"operand {role} in {operand.space} names a variable"
            elif operand.buffer not in self.dtypes:
                return f"operand {role}: no variable {operand.buffer}"
            elif operand.dtype != self.dtypes[operand.buffer]:
                return f"operand {role} is {operand.dtype}, its variable {self.dtypes[operand.buffer]}"
        for value in instruction.fields.values():
            if isinstance(value, Affine) and (problem := self._affine(value)):
                return f"{instruction.name}: {problem}"
        problems = verify_instruction(instruction, self.target)
        return problems[0] if problems else None


def _broken(message: str) -> NeuronError:
    return NeuronError("NX-NEFF-007", message)
