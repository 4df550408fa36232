"""What each operator of a core function costs on a core that holds its weights: measured, not guessed.

Given a module before layouts are chosen, `profile` lowers a copy of one of its functions with all weights pinned, for a
core with as much SBUF as that takes, runs it in simulated time and divides what was seen between the operators: time by
when each is done, weights and buffers by who allocates them. The module stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from xdsl.context import Context
from xdsl.dialects.builtin import UNKNOWN_LOC, ModuleOp, NameLoc, StringAttr, UnitAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from lowering.nisa_to_neff.program import core_program
from lowering.pipeline import run_passes
from neuron_dialects.graph import DerivedWeightOp
from neuron_dialects.neuron import PIN_ATTRIBUTE, location_name, target_of
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


@dataclass(frozen=True)
class OperatorProfile:
    """One operator: nanoseconds until it is done once those before it are, and bytes per SBUF partition."""

    time_ns: float
    pinned_bytes: int
    working_bytes: int


def profile(module: ModuleOp, function: FuncOp) -> list[OperatorProfile]:
    """The profiles of the operators of a core function, in program order, weights and constants left out."""
    target = _endless(target_of(module))
    name = function.sym_name.data
    copy = _alone(module, name)
    own = _function(copy, name)
    count = _mark(own)
    own.attributes[PIN_ATTRIBUTE] = UnitAttr()
    run_passes(Context(), copy, LOWERING)
    own = _function(copy, name)
    pin_weights([own], target, repeated=False)
    pinned = _pinned_bytes(own, count)
    working = _working_bytes(own, count)
    run_passes(Context(), copy, ("nisa-schedule",))
    allocate_function(own, target)
    synchronize_function(own, target)
    split_function(own, target)
    allocate_registers(own, target)
    program = core_program(own, target)
    result = Machine(program, target).run({}, {}, "timing", trace=True)
    assert result.trace is not None
    times = _times(result.trace, [_number(origin) for origin in program.origins], count)
    return [OperatorProfile(*figures) for figures in zip(times, pinned, working, strict=True)]


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


def _working_bytes(function: FuncOp, count: int) -> list[int]:
    """The most that is live at once while each operator runs, with one copy of each buffer."""
    statements = top_level_statements(function)
    profile = [0] * (len(statements) + 1)
    for buffer in on_chip_buffers(function, statements):
        if buffer.space == "sbuf" and buffer.uses:
            profile[buffer.uses[0]] += buffer.row_bytes
            profile[buffer.uses[-1] + 1] -= buffer.row_bytes
    found = [0] * count
    live = 0
    for statement, change in zip(statements, profile, strict=False):
        live += change
        number = _number(_name_inside(statement))
        found[number] = max(found[number], live)
    return found


def _name_inside(statement: Operation) -> str | None:
    return next((name for op in statement.walk() if (name := location_name(op.location))), None)


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
