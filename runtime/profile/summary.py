"""The totals of a profile under the field names of Neuron Explorer's Summary table.

What the machine counts itself (`runtime.machine.timing`) is taken from it unchanged; the rest is added up over the
events. Times in seconds, sizes in bytes, fields that end in `_percent` are fractions from 0 to 1. `hardware_flops`
counts matmuls, `transpose_flops` the products with an identity that the tensor engine's transposes are.
"""

from __future__ import annotations

import numpy as np

from runtime.machine.timing import ENGINE_NAMES
from runtime.profile.analysis import union_ns
from runtime.profile.columns import Array
from runtime.profile.model import ENGINES, RELOAD_RING, SPILL_RING, Profile, ProgramProfile
from runtime.session import timing_figures

Figures = dict[str, float | int | bool]

_ADDED_UP = ("sbuf_read_bytes", "sbuf_write_bytes", "psum_read_bytes", "psum_write_bytes")


def summary_of(profile: Profile) -> Figures:
    """Every figure over all launches, in a fixed order."""
    launched = [profile.programs[launch] for launch in profile.launches]
    figures: Figures = dict(timing_figures([program.timing for program in launched], profile.target))
    derived = [_derived(program) for program in launched]
    for name in derived[0] if derived else ():
        figures[name] = sum(part[name] for part in derived)
    total = float(figures["total_time"])
    if total:
        figures["total_active_time_percent"] = figures["total_active_time"] / total
    figures["dma_queue_count"] = max((len(program.rings) for program in launched), default=0)
    figures["weight_size_bytes"] = _size(profile, "file")
    figures["inputs_and_weights_size_bytes"] = _size(profile, "file", "input")
    ratio, peak = float(figures["mm_arithmetic_intensity"]), float(figures["peak_flops_bandwidth_ratio"])
    figures["mfu_max_achievable_estimated_percent"] = min(1.0, ratio / peak) if peak else 0.0
    return figures


def _size(profile: Profile, *kinds: str) -> int:
    return sum(v.bytes for program in profile.programs for v in program.variables if v.kind in kinds)


def _derived(program: ProgramProfile) -> dict[str, float | int]:
    """What is added up over the events of one launch."""
    events, table = program.events, program.instructions
    ends = events.end
    figures: dict[str, float | int] = {
        "total_exec_time": float(ends.max() - events.start.min()) * 1e-9 if len(events) else 0.0,
        "total_active_time": union_ns(events.start, ends) * 1e-9,
    }
    for number, engine in enumerate(ENGINES):
        own = program.stream == number
        figures[f"{ENGINE_NAMES[engine]}_engine_instruction_time"] = float(program.duration[own].sum()) * 1e-9
    figures["dma_transfer_time"] = float(program.duration[program.is_transfer()].sum()) * 1e-9
    figures["transpose_flops"] = 2 * program.total("transpose_macs")
    figures["adjusted_hardware_flops"] = 2 * float((table.macs * table.passes)[events.instruction].sum())
    figures |= {name: program.total(name) for name in _ADDED_UP}
    evicts = (table.psum_read_bytes > 0) & (table.sbuf_write_bytes > 0)
    evicting = evicts[events.instruction]
    figures["psum_read_sbuf_write_count"] = int(evicting.sum())
    figures["psum_read_sbuf_write_bytes"] = int(table.sbuf_write_bytes[events.instruction][evicting].sum())
    figures["spill_save_bytes"] = int(transferred(program, ring_mask(program, SPILL_RING)))
    figures["spill_reload_bytes"] = int(transferred(program, ring_mask(program, RELOAD_RING)))
    figures["input_queue_bytes"] = int(transferred(program, touching(program, "input", reads=True)))
    figures["output_queue_bytes"] = int(transferred(program, touching(program, "output", reads=False)))
    figures["weight_queue_bytes"] = int(transferred(program, touching(program, "file", reads=True)))
    return figures


def transferred(program: ProgramProfile, instructions: Array) -> int:
    """Bytes that the executions of some instructions (a mask) moved."""
    chosen = instructions[program.events.instruction]
    return int(program.instructions.bytes[program.events.instruction][chosen].sum())


def ring_mask(program: ProgramProfile, name: str) -> Array:
    """The instructions on rings of this name, with or without a number behind it."""
    rings = [len(ENGINES) + i for i, ring in enumerate(program.rings) if ring.rstrip("0123456789") == name]
    return np.isin(program.instructions.stream, rings)


def touching(program: ProgramProfile, kind: str, *, reads: bool) -> Array:
    """The instructions that read, or write, a DRAM variable of a kind."""
    variables = [position for position, variable in enumerate(program.variables) if variable.kind == kind]
    accesses = program.accesses
    chosen = np.isin(accesses.memory, variables) & (accesses.reads if reads else accesses.writes)
    mask = np.zeros(len(program.instructions), dtype=bool)
    mask[accesses.instruction[chosen]] = True
    return mask
