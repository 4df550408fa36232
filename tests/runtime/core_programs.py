"""Core programs built by hand, for the tests of the machine and of the race check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.isa.program import CoreProgram, DramVariable, QueueEntry

Dim = int | tuple[int, int]
Waits = dict[str, int | Affine]


def reg(register: int, constant: int = 0) -> Affine:
    """`constant + r<register>`."""
    return Affine.of(constant, {register: 1})


def _dims(dims: Sequence[Dim]) -> tuple[tuple[int, int], ...]:
    return tuple((1, d) if isinstance(d, int) else d for d in dims)


def _affine(value: int | Affine) -> Affine:
    return value if isinstance(value, Affine) else Affine(value)


def on_chip(space: str, rows: tuple[int, int], offset: int | Affine, *dims: Dim, dtype: str = "f32") -> Operand:
    """`rows`: (first partition, partitions); a dim is a size of stride 1 or (stride, size)."""
    return Operand(space, dtype, AccessPattern(Affine(rows[0]), rows[1], _affine(offset), _dims(dims)))


def sbuf(rows: tuple[int, int], offset: int | Affine, *dims: Dim, dtype: str = "f32") -> Operand:
    """An operand in SBUF; `offset` counts elements of `dtype`."""
    return on_chip("sbuf", rows, offset, *dims, dtype=dtype)


def psum(rows: tuple[int, int], offset: int | Affine, *dims: Dim, dtype: str = "f32") -> Operand:
    """An operand in PSUM."""
    return on_chip("psum", rows, offset, *dims, dtype=dtype)


def dram(variable: DramVariable, offset: int | Affine, *dims: Dim) -> Operand:
    """An operand in a DRAM variable."""
    pattern = AccessPattern(Affine(), 0, _affine(offset), _dims(dims))
    return Operand("dram", variable.dtype, pattern, variable.id)


class ProgramBuilder:
    """Collects queues; semaphores are made as they are named."""

    def __init__(self, target: str = "trn1") -> None:
        self.target = target
        self.queues: dict[str, list[QueueEntry]] = {}
        self.variables: list[DramVariable] = []
        self.semaphores: list[str] = []
        self.origins: list[str] = [""]

    def variable(self, name: str, kind: str, shape: tuple[int, ...], dtype: str = "f32") -> DramVariable:
        """A DRAM variable."""
        made = DramVariable(len(self.variables), name, kind, dtype, shape)
        self.variables.append(made)
        return made

    def semaphore(self, name: str) -> int:
        """Number of a semaphore."""
        if name not in self.semaphores:
            self.semaphores.append(name)
        return self.semaphores.index(name)

    def _entry(self, engine: str, waits: Waits | None, signal: str | None, **rest: Any) -> int:
        numbered = tuple((self.semaphore(name), _affine(value)) for name, value in (waits or {}).items())
        own = None if signal is None else self.semaphore(signal)
        queue = self.queues.setdefault(engine, [])
        queue.append(QueueEntry(waits=numbered, signal=own, **rest))
        return len(queue) - 1

    def add(
        self,
        engine: str,
        name: str,
        waits: Waits | None = None,
        signal: str | None = None,
        ring: str | None = None,
        origin: str = "",
        fields: dict[str, Any] | None = None,
        **operands: Operand,
    ) -> int:
        """An instruction; returns its position in its queue."""
        if origin not in self.origins:
            self.origins.append(origin)
        instruction = Instruction(name, "dma" if ring else engine, operands, fields or {})
        number = self.origins.index(origin)
        return self._entry(engine, waits, signal, instruction=instruction, ring=ring, origin=number)

    def control(
        self, engine: str, kind: str, *numbers: int, waits: Waits | None = None, signal: str | None = None
    ) -> int:
        """A control instruction; returns its position in its queue."""
        return self._entry(engine, waits, signal, control=kind, numbers=numbers)

    def here(self, engine: str) -> int:
        """Position of the next entry of a queue, as a label."""
        return len(self.queues.setdefault(engine, []))

    def program(self) -> CoreProgram:
        """The program so far."""
        return CoreProgram(
            self.target, {e: list(q) for e, q in self.queues.items()}, list(self.variables), tuple(self.semaphores),
            tuple(self.origins),
        )  # fmt: skip
