"""A core program decoded for execution: everything that does not depend on registers or data is worked out once per
entry.

Given a `CoreProgram` and its target, leaves one list of `Entry` per queue, ending with a halt. The simulator and the
race check both run on these. Whatever an entry refers to exists afterwards, and its target can execute it (NX-RUN-004
otherwise); bounds of accesses depend on registers and are checked at run time by `Access.interval`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import INSTRUCTIONS, Instruction, verify_instruction
from neuron_dialects.isa.hand_over import hand_over_problem
from neuron_dialects.isa.program import CONTROL_KINDS, CoreProgram, DramVariable, QueueEntry
from neuron_dialects.target import Target
from runtime.machine.control import Control, control_function, goes_on
from runtime.views import affine_function, widened

MemoryKey = str | int
"""A memory: "sbuf", "psum", or the id of a DRAM variable."""
NO_REGISTER = -1
MAX_ELEMENTS = 1 << 27
"""Elements that one operand may list. Repeating strides could otherwise ask for more than any computer holds."""


class Access:
    """What one operand of one static entry touches: a box of partitions x bytes whose bytes shift with a register.

    `memory`, partitions `first_partition` .. `last_partition` - 1 and bytes `low` .. `high` - 1 with the register at 0.
    DRAM counts as one partition. `floor`: first byte that it may touch; pinned buffers below are not for writing.
    """

    __slots__ = (
        "first_partition", "floor", "high", "item_bytes", "last_partition", "limit", "low", "memory", "node", "operand",
        "reads", "register", "role", "writes",
    )  # fmt: skip

    def __init__(
        self, memory: MemoryKey, partitions: tuple[int, int], extent: tuple[int, int], limit: int, *,
        reads: bool, writes: bool, register: int, item_bytes: int, role: str, operand: str, node: str | None,
        floor: int = 0,
    ) -> None:  # fmt: skip
        self.memory = memory
        self.first_partition, self.last_partition = partitions
        self.low, self.high = extent
        self.limit, self.floor = limit, floor
        self.reads, self.writes = reads, writes
        self.register, self.item_bytes = register, item_bytes
        self.role, self.operand, self.node = role, operand, node

    def interval(self, registers: Sequence[int]) -> tuple[int, int]:
        """Bytes low .. high - 1 for the registers' values; NX-RUN-001 when they leave the memory."""
        low, high = self.low, self.high
        if self.register >= 0:
            shift = registers[self.register] * self.item_bytes
            low, high = low + shift, high + shift
        if low < self.floor or high > self.limit:
            if low >= 0 and high <= self.limit:
                raise NeuronError(
                    "NX-RUN-001",
                    f"{self.operand} writes bytes {low} to {high - 1}; pinned buffers end at {self.floor}",
                    node=self.node,
                )
            raise NeuronError(
                "NX-RUN-001",
                f"{self.operand} touches bytes {low} to {high - 1}, its memory has {self.limit}",
                node=self.node,
            )
        return low, high


@dataclass(slots=True)
class Entry:
    """One entry of a queue, decoded.

    Exactly one of `control` and `instruction` is set. `waits`: (semaphore, constant, register or -1). `signal` is -1
    without a signal. `goes_on`: the next entry is always the one behind it. `ring` is set for a DMA. `numbers`:
    functions of the registers for the loop-dependent fields.
    """

    engine: str
    index: int
    origin: int
    node: str | None
    waits: tuple[tuple[int, int, int], ...]
    signal: int
    control: Control | None = None
    goes_on: bool = True
    instruction: Instruction | None = None
    ring: str | None = None
    accesses: tuple[Access, ...] = ()
    numbers: dict[str, Callable[[Sequence[int]], int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the instruction, or "control"."""
        return self.instruction.name if self.instruction is not None else "control"

    def error(self, code: str, message: str) -> NeuronError:
        """An error about this entry."""
        return NeuronError(code, f"queue {self.engine}, entry {self.index}: {message}", node=self.node)


@dataclass(frozen=True)
class DecodedProgram:
    """Entries of every queue (each ends with a halt), the DRAM variables by id, the names of the rings, and the
    transfers that fill the pinned buffers; those of the core end at byte `pinned_bytes` of each partition.
    """

    program: CoreProgram
    target: Target
    queues: dict[str, list[Entry]]
    variables: dict[int, DramVariable]
    rings: tuple[str, ...]
    pinned: tuple[Entry, ...] = ()
    pinned_bytes: int = 0

    def handing_over(self, variable: int) -> list[Entry]:
        """The transfers that take part in the hand-over of an input (they read it) or of an output (they write it)."""
        writes = self.variables[variable].kind == "output"
        return [
            entry
            for entries in self.queues.values()
            for entry in entries
            if any(a.memory == variable and (a.writes if writes else a.reads) for a in entry.accesses)
        ]


def memory_limits(target: Target) -> dict[str, int]:
    """Bytes of each partition of the on-chip memories."""
    return {
        "sbuf": int(target.sbuf_bytes_per_partition),
        "psum": int(target.psum_banks) * int(target.psum_bank_bytes),
    }


def decode_program(program: CoreProgram, target: Target) -> DecodedProgram:
    """Decode every queue; NX-RUN-004 for whatever refers to nothing or cannot be executed by the target."""
    variables = {variable.id: variable for variable in program.variables}
    unknown = [engine for engine in program.queues if engine not in target.engines]
    if unknown:
        raise NeuronError("NX-RUN-004", f"target {target.name} has no engine '{unknown[0]}'")
    if len(program.semaphores) > int(target.semaphores):
        raise NeuronError("NX-RUN-004", f"{len(program.semaphores)} semaphores, the target has {target.semaphores}")
    rings = tuple(dict.fromkeys(e.ring for queue in program.queues.values() for e in queue if e.ring is not None))
    if len(rings) > int(target.dma_rings):
        raise NeuronError("NX-RUN-004", f"{len(rings)} DMA rings, the target has {target.dma_rings}")
    if problem := hand_over_problem(program):
        raise NeuronError("NX-RUN-004", problem)
    queues: dict[str, list[Entry]] = {}
    loader = _QueueDecoder(program, target, variables, "load", len(program.pinned), 0)
    pinned = tuple(loader.entry(index, entry) for index, entry in enumerate(program.pinned))
    floor = max(_pinned_bytes(pinned), program.reserved_bytes)
    for engine, entries in program.queues.items():
        decoder = _QueueDecoder(program, target, variables, engine, len(entries), floor)
        decoded = [decoder.entry(index, entry) for index, entry in enumerate(entries)]
        decoded.append(Entry(engine, len(entries), 0, None, (), -1, control_function("halt", ())))
        queues[engine] = decoded
    return DecodedProgram(program, target, queues, variables, rings, pinned, floor)


def _pinned_bytes(entries: Sequence[Entry]) -> int:
    """Where the pinned buffers end; NX-RUN-004 for a transfer that does not go from a parameter to a fixed address."""
    end = 0
    for entry in entries:
        accesses = {access.role: access for access in entry.accesses}
        fixed = all(access.register == NO_REGISTER for access in entry.accesses)
        plain = entry.name == "dma_copy" and fixed and not entry.waits and entry.signal < 0
        if not plain or accesses["dst"].memory != "sbuf" or isinstance(accesses["src"].memory, str):
            raise entry.error("NX-RUN-004", "is no transfer from DRAM to a fixed address in SBUF")
        end = max(end, accesses["dst"].high)
    return end


def touched_boxes(decoded: DecodedProgram) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    """On-chip memory -> the smallest box (partitions, bytes of a partition) that all accesses to it lie in.

    An access whose address is in a register may be anywhere in its partitions.
    """
    boxes: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {}
    for access in (access for queue in decoded.queues.values() for entry in queue for access in entry.accesses):
        if isinstance(access.memory, str):
            low, high = (access.low, access.high) if access.register < 0 else (0, access.limit)
            first, last = access.first_partition, access.last_partition
            if access.memory in boxes:
                (own_first, own_last), (own_low, own_high) = boxes[access.memory]
                first, last = min(first, own_first), max(last, own_last)
                low, high = min(low, own_low), max(high, own_high)
            boxes[access.memory] = (first, last), (low, high)
    return boxes


class _QueueDecoder:
    """Decodes the entries of one queue."""

    def __init__(
        self, program: CoreProgram, target: Target, variables: dict[int, DramVariable], engine: str, entries: int,
        floor: int,
    ) -> None:  # fmt: skip
        self._floor = floor
        self._program, self._target, self._variables = program, target, variables
        self._engine, self._entries = engine, entries
        self._registers = int(target.scalar_registers)
        self._limits = memory_limits(target)

    def entry(self, index: int, source: QueueEntry) -> Entry:
        """The decoded form of entry `index`."""
        origins, semaphores = self._program.origins, len(self._program.semaphores)
        origin = source.origin if 0 <= source.origin < len(origins) else 0
        node = (origins[origin] if origins else "") or None
        entry = Entry(self._engine, index, origin, node, (), -1 if source.signal is None else source.signal)
        numbers = [semaphore for semaphore, _ in source.waits] + [max(0, entry.signal)] * (entry.signal != -1)
        if any(not 0 <= number < semaphores for number in numbers):
            raise entry.error("NX-RUN-004", f"names a semaphore outside of 0 to {semaphores - 1}")
        entry.waits = tuple((number, *self._simple(entry, value)) for number, value in source.waits)
        if source.control is not None:
            entry.control, entry.goes_on = self._control(entry, source), goes_on(source.control)
        elif source.instruction is not None:
            self._instruction(entry, source.instruction, source.ring)
        else:
            raise entry.error("NX-RUN-004", "is empty")
        return entry

    def _simple(self, entry: Entry, value: Affine) -> tuple[int, int]:
        """(constant, register) of a constant plus at most one register."""
        if not value.terms:
            return value.constant, NO_REGISTER
        register, coefficient = value.terms[0]
        if len(value.terms) > 1 or coefficient != 1 or not 0 <= register < self._registers:
            raise entry.error("NX-RUN-004", f"{value} is not a constant plus one of {self._registers} registers")
        return value.constant, register

    def _control(self, entry: Entry, source: QueueEntry) -> Control:
        roles = CONTROL_KINDS.get(source.control or "")
        if roles is None or len(roles) != len(source.numbers):
            raise entry.error("NX-RUN-004", f"no control instruction {source.control} of {len(source.numbers)} numbers")
        for role, number in zip(roles, source.numbers, strict=True):
            if role in ("dst", "src", "other") and not 0 <= number < self._registers:
                raise entry.error("NX-RUN-004", f"register {number}, the target has {self._registers}")
            if role == "label" and not 0 <= number <= self._entries:
                raise entry.error("NX-RUN-004", f"jumps to entry {number}, the queue has {self._entries}")
        return control_function(source.control or "", source.numbers)

    def _instruction(self, entry: Entry, instruction: Instruction, ring: str | None) -> None:
        definition = INSTRUCTIONS.get(instruction.name)
        if definition is None:
            raise entry.error("NX-RUN-004", f"no instruction {instruction.name}")
        if (ring is not None) != definition.is_dma or instruction.engine != (
            "dma" if definition.is_dma else entry.engine
        ):
            raise entry.error("NX-RUN-004", f"{instruction.name} on {instruction.engine}, ring {ring}")
        entry.instruction, entry.ring = instruction, ring
        problems = verify_instruction(instruction, self._target)
        if problems:
            raise entry.error("NX-RUN-004", problems[0])
        entry.accesses = tuple(self._access(entry, instruction, role) for role in instruction.operands)
        for part in definition.fields:
            if part.kind == "affine":
                value = instruction.field(part.name)
                self._simple(entry, value)
                entry.numbers[part.name] = affine_function(value)

    def _access(self, entry: Entry, instruction: Instruction, role: str) -> Access:
        operand, definition = instruction.operands[role], INSTRUCTIONS[instruction.name].operand(role)
        label = f"queue {entry.engine}, entry {entry.index}: operand {role} of {instruction.name}"
        item_bytes = dtype_by_name(operand.dtype).size_bytes
        if operand.pattern.elements > MAX_ELEMENTS:
            raise entry.error(
                "NX-RUN-004", f"operand {role} has {operand.pattern.elements} elements, limit {MAX_ELEMENTS}"
            )
        pattern = widened(instruction.name, role, operand.pattern, instruction.fields)
        constant, register = self._simple(entry, pattern.offset)
        low, high = pattern.extent
        extent = ((constant + low) * item_bytes, (constant + high + 1) * item_bytes)
        flags: dict[str, Any] = {"reads": definition.reads, "writes": definition.writes}
        names: dict[str, Any] = {"role": role, "operand": label, "node": entry.node}
        shift: dict[str, Any] = {"register": register, "item_bytes": item_bytes}
        if operand.space != "dram":
            first = pattern.partition.constant
            partitions, limit = (first, first + pattern.partitions), self._limits[operand.space]
            floor = self._floor if operand.space == "sbuf" and definition.writes else 0
            access = Access(operand.space, partitions, extent, limit, **flags, **shift, **names, floor=floor)
        else:
            variable = self._variables.get(-1 if operand.buffer is None else operand.buffer)
            if variable is None or variable.dtype != operand.dtype:
                raise entry.error("NX-RUN-004", f"operand {role}: no {operand.dtype} variable {operand.buffer}")
            if definition.writes and variable.kind in ("input", "file"):
                raise entry.error("NX-RUN-004", f"operand {role} writes {variable.name}, which is an {variable.kind}")
            access = Access(variable.id, (0, 1), extent, variable.size_bytes, **flags, **shift, **names)
        if register == NO_REGISTER:
            access.interval(())
        return access
