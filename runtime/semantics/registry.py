"""Where the meanings of instructions are registered, and what a meaning is.

A meaning is given one static instruction without data (`Case`) and leaves behind a kernel, in which everything that
does not change from one execution to the next is decided: element types, operators, shapes. A kernel is given numpy
views of the operands and computes at once; what it returns performs the writes. The two halves are apart because the
machine reads at the start of an instruction and writes at its completion.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import INSTRUCTIONS

Array = NDArray[Any]
Views = Mapping[str, Array]
"""Role -> view: [partitions, *dims] on chip, [*dims] in DRAM; the table of a gather or scatter has its rows in front.
"""
Numbers = Mapping[str, int]
"""Loop-dependent fields of this execution, such as `accumulate`."""
Effect = Callable[[], None]
"""Performs the writes of one execution; independent of the memory that the operands were read from."""
Kernel = Callable[[Views, Numbers], Effect]


@dataclass(frozen=True)
class Case:
    """One static instruction as its meaning sees it.

    `engine` may be empty (tile level: not chosen yet). `dtypes` and `shapes` (of the views) have the operands that are
    present; `fields` are those that differ from their defaults. `constant` names operands whose memory nothing writes
    while the program runs: they need not be read before the write.
    """

    name: str
    engine: str
    dtypes: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    fields: Mapping[str, Any] = field(default_factory=dict)
    constant: frozenset[str] = frozenset()

    def field(self, name: str) -> Any:
        """Value of a field, or its default."""
        return self.fields[name] if name in self.fields else INSTRUCTIONS[self.name].field_default(name)

    def has(self, role: str) -> bool:
        """Whether the optional operand is there."""
        return role in self.dtypes

    def broken(self, message: str) -> NeuronError:
        """The error for a case that has no meaning."""
        return NeuronError("NX-RUN-004", f"{self.name}: {message}")


Meaning = Callable[[Case], Kernel]

SEMANTICS: dict[str, Meaning] = {}
"""Instruction name -> its meaning. Complete once `runtime.semantics` is imported."""


def meaning(name: str) -> Callable[[Meaning], Meaning]:
    """Register a meaning under an instruction's name."""

    def register(function: Meaning) -> Meaning:
        if name in SEMANTICS:
            raise ValueError(f"{name} has a meaning already")
        SEMANTICS[name] = function
        return function

    return register


def execute(case: Case, views: Views, numbers: Numbers | None = None) -> None:
    """Execute one instruction once: read, compute, write. Slow; runs of programs make their kernels once."""
    with np.errstate(all="ignore"):
        SEMANTICS[case.name](case)(views, numbers or {})()
