"""One execution of an instruction, and one step of a run: what the modules that compute data share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.machine.decode import MemoryKey
from runtime.machine.plan import Work
from runtime.machine.products import Box
from runtime.semantics.registry import Array

DST = "dst"
"""The operand that most instructions write."""

Operands = tuple[dict[str, Array], dict[str, int]]
"""Views and loop-dependent fields of one execution."""
Step = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its arguments."""


@dataclass(slots=True, eq=False)
class Execution:
    """One execution of an instruction. `shifts`: bytes by which registers move each of its accesses; `names`: what the
    memories of its program are called among those of several cores.
    """

    work: Work
    operands: Operands
    shifts: tuple[int, ...]
    names: Mapping[MemoryKey, Hashable] | None = None

    def box(self, number: int) -> Box:
        """What access `number` touches."""
        access, shift = self.work.entry.accesses[number], self.shifts[number]
        memory = access.memory if self.names is None else self.names[access.memory]
        return memory, access.first_partition, access.last_partition, access.low + shift, access.high + shift

    @property
    def sources(self) -> list[str]:
        """The operands on chip that are read, in the order of the accesses."""
        return [a.role for a in self.work.entry.accesses if a.reads and isinstance(a.memory, str)]

    def view(self, role: str) -> Array:
        """The view of an operand."""
        return self.operands[0][role]

    def dtype(self, role: str) -> str:
        """The element type of an operand."""
        instruction = self.work.entry.instruction
        assert instruction is not None
        return instruction.operands[role].dtype
