"""What the columns of a stored profile must keep among each other, so that nothing that reads them can go astray."""

from __future__ import annotations

from typing import NoReturn

import numpy as np

from neuron_dialects.errors import NeuronError
from runtime.profile.columns import Array
from runtime.profile.model import ENGINES, PSUM, SBUF, Profile, ProgramProfile

MAX_TIME_NS = 1e15
"""A time in a profile: eleven days."""
MAX_BYTES = 1 << 48
FIGURES: dict[str, tuple[float, float]] = {
    "dma_start_ns": (0, MAX_TIME_NS),
    "semaphore_ns": (0, MAX_TIME_NS),
    "dispatch_depth": (1, 1 << 20),
    "scalar_registers": (1, 1 << 16),
    "partitions": (1, 1 << 12),
    "sbuf_bytes_per_partition": (1, 1 << 26),
    "psum_banks": (1, 1 << 10),
    "psum_bank_bytes": (1, 1 << 20),
    "pe_rows": (1, 1 << 20),
    "pe_columns": (1, 1 << 20),
    "pe_clock_ghz": (1e-6, 1e18),
    "dram_bytes_per_ns": (1e-6, 1e18),
}
"""Figures of a target that a profile is analysed with, and what they may be."""


def check_profile(profile: Profile) -> None:
    """NeuronError NX-PROF-001 where a row refers to nothing, or a number cannot be what it stands for."""
    for figure, (low, high) in FIGURES.items():
        value = profile.target.figures.get(figure)
        if value is None or not isinstance(value.value, int | float) or not low <= value.value <= high:
            _refuse(f"the target has no figure {figure} from {low} to {high}")
    if not isinstance(getattr(profile.target.figures.get("compute_engine_list"), "value", None), list):
        _refuse("the target has no list of engines")
    if any(launch >= len(profile.programs) for launch in profile.launches):
        _refuse("a launch names a program that is not there")
    for program in profile.programs:
        _check_program(program)


def _check_program(program: ProgramProfile) -> None:
    instructions, events = len(program.instructions), len(program.events)
    if len(program.texts) != instructions:
        _refuse(f"{len(program.texts)} texts for {instructions} instructions")
    table, accesses, waits = program.instructions, program.accesses, program.waits
    ranges = (
        ("instructions.queue", table.queue, 0, len(ENGINES)),
        ("instructions.stream", table.stream, 0, len(ENGINES) + len(program.rings)),
        ("instructions.opcode", table.opcode, 0, len(program.opcodes)),
        ("instructions.origin", table.origin, 0, len(program.origins)),
        ("instructions.signal", table.signal, -1, len(program.semaphores)),
        ("accesses.instruction", accesses.instruction, 0, instructions),
        ("accesses.slot", accesses.slot, 0, 1 << 8),
        ("accesses.memory", accesses.memory, min(SBUF, PSUM), len(program.variables)),
        ("events.instruction", program.events.instruction, 0, instructions),
        ("events.shift", program.events.shift, 0, len(program.shifts) + 1),
        ("waits.queue", waits.queue, 0, len(ENGINES)),
        ("waits.semaphore", waits.semaphore, 0, len(program.semaphores)),
        ("signals.semaphore", program.signals.semaphore, 0, len(program.semaphores)),
    )
    for name, array, low, high in ranges:
        if len(array) and not low <= int(array.min()) <= int(array.max()) < high:
            _refuse(f"column {name} holds numbers outside of {low} to {high - 1}")
    for name in ("dispatched", "start", "end", "done"):
        _check_times(name, getattr(program.events, name))
    for name, array in (("since", waits.since), ("until", waits.until), ("time", program.signals.time)):
        _check_times(name, array)
    for name in ("prepare_ns", "busy_ns", "latency_ns"):
        _check_times(name, getattr(table, name))
    if events and np.any(np.diff(program.events.start) < 0):
        _refuse("events are not in the order of their start")
    if np.any(program.events.end < program.events.start):
        _refuse("an event ends before it starts")
    _check_accesses(program)
    _check_waits(program)


def _check_times(name: str, array: Array) -> None:
    if len(array) and not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= MAX_TIME_NS):
        _refuse(f"column {name} holds times outside of 0 to {MAX_TIME_NS:.0f} ns")


def _check_accesses(program: ProgramProfile) -> None:
    """Every access lies in a memory of bounded size, with every shift."""
    accesses, shifts = program.accesses, program.shifts.bytes
    slots = np.zeros(len(program.instructions), dtype=np.int64)
    np.maximum.at(slots, accesses.instruction, accesses.slot + 1)
    events = program.events
    if len(events) and int((events.shift + slots[events.instruction]).max()) > len(shifts):
        _refuse("an event has fewer shifts than accesses")
    reach = int(np.abs(shifts).max(initial=0))
    ends = (accesses.low.min(initial=0) - reach, accesses.high.max(initial=0) + reach)
    if not -MAX_BYTES < ends[0] <= ends[1] < MAX_BYTES or np.any(accesses.low > accesses.high):
        _refuse("an access has no usable bytes")
    rows = (accesses.first_partition.min(initial=0), accesses.last_partition.max(initial=0))
    if rows[0] < 0 or rows[1] > 1 << 12 or np.any(accesses.first_partition >= accesses.last_partition):
        _refuse("an access has no usable partitions")


def _check_waits(program: ProgramProfile) -> None:
    """Every wait is for an increment that happened."""
    signals = program.instructions.signal[program.events.instruction]
    counts = np.bincount(np.concatenate([signals[signals >= 0], program.signals.semaphore]), minlength=1)
    counts = np.append(counts, np.zeros(len(program.semaphores), dtype=np.int64))
    waits = program.waits
    if len(waits) and (waits.value.min() < 1 or np.any(waits.value > counts[waits.semaphore])):
        _refuse("a wait is for an increment that never happened")


def _refuse(problem: str) -> NoReturn:
    raise NeuronError("NX-PROF-001", problem, help="the profile was changed or cut; profile the model again")
