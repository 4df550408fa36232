"""What a profile holds, as plain data: for each core program its instructions, and one row for each time one ran.

Times are in nanoseconds from the start of the program, sizes in bytes. Every table but `Events` is about the program
text; `Events` and what hangs on it (`Shifts`, `Waits`, `Signals`) about one run of it. Runs do not differ, for time
does not depend on data.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from neuron_dialects.target import Target
from runtime.machine import Timing
from runtime.machine.timing import ENGINE_NAMES
from runtime.profile.columns import F64, I16, I32, I64, Array, Bool, Table

ENGINES = tuple(ENGINE_NAMES)
"""Engines in the order of their numbers in a profile; streams from `len(ENGINES)` on are DMA rings."""

SBUF, PSUM = -1, -2
"""Memories in `Accesses.memory`; 0 and above are DRAM variables, by position."""

SPILL_RING, RELOAD_RING = "spill", "reload"
"""The rings that spilled buffers leave and come back on."""


@dataclass(frozen=True)
class Instructions(Table):
    """The instructions of the queues that move or compute data, in the order of engines and queues.

    `stream`: engine or ring that executes it; `queue`: engine whose queue holds it, at `position`. `opcode` and
    `origin` index the program's `opcodes` and `origins`. `signal`: semaphore, -1 for none.

    `macs` of a matmul; `transpose_macs` of a transpose on the tensor engine, as the product with an identity that it
    is. `rows`: partitions that it fills (a matmul: of the array), `columns`: columns of the array that a matmul fills.
    `passes`: of a matmul over its data (fp32: 4). `descriptors` of a transfer, `bytes` that it moves, `run_bytes` of
    its longest run that is contiguous on both sides. The rest are bytes that one execution reads and writes in each
    memory, and its times as the machine plans them.
    """

    queue: I16
    position: I32
    stream: I16
    opcode: I16
    origin: I32
    signal: I32
    macs: I64
    transpose_macs: I64
    passes: F64
    rows: I32
    columns: I32
    descriptors: I32
    bytes: I64
    run_bytes: I64
    hbm_read_bytes: I64
    hbm_write_bytes: I64
    sbuf_read_bytes: I64
    sbuf_write_bytes: I64
    psum_read_bytes: I64
    psum_write_bytes: I64
    prepare_ns: F64
    busy_ns: F64
    latency_ns: F64


@dataclass(frozen=True)
class Accesses(Table):
    """What each instruction touches: partitions `first_partition` up to `last_partition` (exclusive) and the bytes
    `low` up to `high` (exclusive) of each, or of a DRAM variable. `slot`: which of the event's shifts is added to
    the bytes. `reads`, `writes`: whether it does; an access that does both accumulates.
    """

    instruction: I32
    memory: I32
    first_partition: I32
    last_partition: I32
    low: I64
    high: I64
    slot: I16
    reads: Bool
    writes: Bool


@dataclass(frozen=True)
class Events(Table):
    """One row for each execution, in the order of their start: `dispatched` by the sequencer, then `start` to `end`,
    and `done` when the result can be used. `shift`: first row of `Shifts` that belongs to the event.
    """

    instruction: I32
    dispatched: F64
    start: F64
    end: F64
    done: F64
    shift: I32


@dataclass(frozen=True)
class Shifts(Table):
    """By how many bytes the accesses of an event lie behind those of its instruction, event after event."""

    bytes: I64


@dataclass(frozen=True)
class Waits(Table):
    """Waits that held the sequencer of `queue` up, at entry `position`: for `semaphore` to reach `value`."""

    queue: I16
    position: I32
    semaphore: I32
    value: I64
    since: F64
    until: F64


@dataclass(frozen=True)
class Signals(Table):
    """Increments of a semaphore by control instructions."""

    semaphore: I32
    time: F64


@dataclass(frozen=True)
class Variable:
    """A DRAM variable: input, output, file (a parameter) or tmp."""

    name: str
    kind: str
    bytes: int


TABLES: dict[str, type[Table]] = {
    "instructions": Instructions,
    "accesses": Accesses,
    "events": Events,
    "shifts": Shifts,
    "waits": Waits,
    "signals": Signals,
}
"""The tables of a program's profile, by field."""


@dataclass(frozen=True)
class ProgramProfile:
    """One core program and one run of it. `texts`: the disassembly of each instruction."""

    name: str
    origins: tuple[str, ...]
    rings: tuple[str, ...]
    opcodes: tuple[str, ...]
    semaphores: tuple[str, ...]
    variables: tuple[Variable, ...]
    texts: tuple[str, ...]
    timing: Timing
    instructions: Instructions
    accesses: Accesses
    events: Events
    shifts: Shifts
    waits: Waits
    signals: Signals

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of engines (the profiler's) and rings, by stream number."""
        return (*(ENGINE_NAMES[engine] for engine in ENGINES), *self.rings)

    @property
    def total_ns(self) -> float:
        """Length of the run."""
        return self.timing.total_time * 1e9

    @cached_property
    def stream(self) -> Array:
        """Stream of each event."""
        return self.instructions.stream[self.events.instruction]

    @cached_property
    def origin(self) -> Array:
        """Origin of each event."""
        return self.instructions.origin[self.events.instruction]

    @cached_property
    def duration(self) -> Array:
        """Nanoseconds of each event."""
        return self.events.end - self.events.start

    def total(self, name: str) -> int:
        """Sum of a column of `Instructions` over all events."""
        return int(getattr(self.instructions, name)[self.events.instruction].sum())

    def is_transfer(self) -> Array:
        """Mask of the events that ran on a ring."""
        return np.asarray(self.stream >= len(ENGINES))


@dataclass(frozen=True)
class Profile:
    """One inference of a model: its core programs and `launches`, the programs that ran one after the other, by
    position. `target` has the figures that the run was timed with, `changes` those that differ from the target's own.
    """

    model: str
    target: Target
    changes: tuple[str, ...]
    programs: tuple[ProgramProfile, ...]
    launches: tuple[int, ...]
