"""What each operator of a core function costs on a core that holds its weights: measured, not guessed.

Given a module before layouts are chosen, `profile` lowers a copy of one of its functions with all weights pinned, for a
core with as much SBUF as that takes, runs it in simulated time and divides what was seen between the operators: time by
when each is done, weights and buffers by who allocates them. `profiles` does so for kernels that are told to have less
room for buffers, too. The module stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xdsl.context import Context
from xdsl.dialects.builtin import UNKNOWN_LOC, IntegerAttr, ModuleOp, NameLoc, StringAttr, UnitAttr, i64
from xdsl.dialects.func import FuncOp

from lowering.nisa_to_neff.program import core_program
from lowering.pipeline import run_passes
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import DerivedWeightOp
from neuron_dialects.neuron import PIN_ATTRIBUTE, WORKING_BYTES_ATTRIBUTE, location_name, name_inside, target_of
from neuron_dialects.target import Target
from passes.graph.pipeline_graph import operators_of
from passes.nisa.allocate import allocate_function
from passes.nisa.allocate_registers import allocate_registers
from passes.nisa.live_ranges import on_chip_buffers, pinned_buffers, row_bytes_of, top_level_statements
from passes.nisa.pin_weights import pin_weights
from passes.nisa.split_queues import split_function
from passes.nisa.synchronize import synchronize_function
from runtime.machine import Machine
from runtime.machine.machine import Trace

ENDLESS_BYTES = 1 << 24
"""SBUF of a partition of the core that is measured on: room for the weights of any model."""

LOWERING = ("graph-layout", "convert-graph-to-tile", "convert-tile-to-nisa")


MOST_COPIES = 1 << 16
"""More than any buffer has."""

ROOM_PARTS = (2, 3, 4, 6, 8, 12)
"""Operators are also measured with one of so many parts of SBUF for their buffers."""


@dataclass(frozen=True)
class OperatorProfile:
    """One operator: nanoseconds until it is done once those before it are, and bytes per SBUF partition.

    `working_bytes`: of its buffers with all of their copies, `least_bytes`: with one of each.
    """

    time_ns: float
    pinned_bytes: int
    working_bytes: int
    least_bytes: int


@dataclass(frozen=True)
class RoomProfile:
    """The operators of a function where kernels are told to have `room_bytes` for their buffers (0: no limit)."""

    room_bytes: int
    operators: Sequence[OperatorProfile]


def profiles(module: ModuleOp, function: FuncOp, endless: Sequence[OperatorProfile]) -> list[RoomProfile]:
    """The function with endless room, and with as much less as makes a difference, as long as it can be lowered so."""
    found = [RoomProfile(0, endless)]
    size = int(target_of(module).sbuf_bytes_per_partition)
    for part in ROOM_PARTS:
        room = size // part
        # What needs less than it would be given does the same as with more.
        if max(operator.working_bytes for operator in found[-1].operators) > room:
            try:
                found.append(RoomProfile(room, profile(module, function, room)))
            except NeuronError:
                break
    return found


def profile(module: ModuleOp, function: FuncOp, room_bytes: int = 0) -> list[OperatorProfile]:
    """The profiles of the operators of a core function, in program order, weights and constants left out.

    `room_bytes`: what kernels are told to have for their buffers; 0: endless.
    """
    target = _endless(target_of(module))
    name = function.sym_name.data
    copy = _alone(module, name)
    own = _function(copy, name)
    count = _mark(own)
    own.attributes[PIN_ATTRIBUTE] = UnitAttr()
    if room_bytes:
        own.attributes[WORKING_BYTES_ATTRIBUTE] = IntegerAttr(room_bytes, i64)
    run_passes(Context(), copy, LOWERING)
    own = _function(copy, name)
    pin_weights([own], target, repeated=False)
    pinned = _pinned_bytes(own, count)
    working, least = (_working_bytes(own, count, copies) for copies in (MOST_COPIES, 1))
    run_passes(Context(), copy, ("nisa-schedule",))
    allocate_function(own, target)
    synchronize_function(own, target)
    split_function(own, target)
    allocate_registers(own, target)
    program = core_program(own, target)
    result = Machine(program, target).run({}, {}, "timing", trace=True)
    assert result.trace is not None
    times = _times(result.trace, [_number(origin) for origin in program.origins], count)
    return [OperatorProfile(*figures) for figures in zip(times, pinned, working, least, strict=True)]


def _endless(target: Target) -> Target:
    """The target with more SBUF than anybody needs."""
    size = replace(target.figures["sbuf_bytes_per_partition"], value=ENDLESS_BYTES)
    return replace(target, figures={**target.figures, "sbuf_bytes_per_partition": size})


def _alone(module: ModuleOp, name: str) -> ModuleOp:
    """A copy of the module without other functions than this one."""
    copy = module.clone()
    for op in list(copy.body.block.ops):
        if not isinstance(op, DerivedWeightOp) and not (isinstance(op, FuncOp) and op.sym_name.data == name):
            op.detach()
            op.erase(safe_erase=False)
    return copy


def _function(module: ModuleOp, name: str) -> FuncOp:
    return next(op for op in module.ops if isinstance(op, FuncOp) and op.sym_name.data == name)


def _mark(function: FuncOp) -> int:
    """Let each operator, and all that comes from it, be located at its number; returns how many there are."""
    ops = operators_of(function)
    for number, op in enumerate(ops):
        for inner in op.walk():
            inner.location = NameLoc(StringAttr(str(number)), UNKNOWN_LOC)
    return len(ops)


def _number(name: str | None) -> int:
    """The operator that a location names; the first one where there is none."""
    return int(name) if name and name.isdecimal() else 0


def _pinned_bytes(function: FuncOp, count: int) -> list[int]:
    found = [0] * count
    for alloc in pinned_buffers(function):
        found[_number(location_name(alloc.location))] += row_bytes_of(alloc)
    return found


def _working_bytes(function: FuncOp, count: int, most_copies: int) -> list[int]:
    """The most that is live at once while each operator runs, with at most so many copies of each buffer."""
    statements = top_level_statements(function)
    profile = [0] * (len(statements) + 1)
    for buffer in on_chip_buffers(function, statements):
        if buffer.space == "sbuf" and buffer.uses:
            size = buffer.row_bytes * min(buffer.copies, most_copies)
            profile[buffer.uses[0]] += size
            profile[buffer.uses[-1] + 1] -= size
    found = [0] * count
    live = 0
    for statement, change in zip(statements, profile, strict=False):
        live += change
        number = _number(name_inside(statement))
        found[number] = max(found[number], live)
    return found


def _times(trace: Trace, owners: Sequence[int], count: int) -> list[float]:
    """By how much each operator moves the time at which all up to it are done."""
    ends = [0.0] * count
    for end, origin in zip(trace.end, trace.origin, strict=True):
        owner = owners[origin]
        ends[owner] = max(ends[owner], end)
    times: list[float] = []
    done = 0.0
    for end in ends:
        times.append(max(0.0, end - done))
        done = max(done, end)
    return times
