"""What the run would take if the machine were another: the same programs, timed again under changed figures.

A change is `FIGURE=VALUE`, where FIGURE is a figure of the target description or one of `KNOBS`, which stand for
several figures, and VALUE a number, a factor (`2x`, `0.5x`) or `inf`. The program stays as it was compiled: tiles that
were chosen for one machine may not suit another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import Figure, Target, load_target
from runtime.profile.model import Profile
from runtime.profile.record import record_programs

UNLIMITED = 1e15
"""Stands for an infinite rate: finite, so that it can be calculated with and written down."""


@dataclass(frozen=True)
class Knob:
    """Figures that change together: a factor multiplies `rates` and divides `times`."""

    rates: tuple[str, ...]
    times: tuple[str, ...]
    meaning: str


KNOBS: dict[str, Knob] = {
    "clock": Knob(
        ("pe_clock_ghz", "act_clock_ghz", "dve_clock_ghz", "pool_clock_ghz", "sp_clock_ghz"), (), "all engines' clocks"
    ),
    "bandwidth": Knob(("dram_bytes_per_ns", "dma_engine_bytes_per_ns"), (), "bytes per second of DRAM and DMA"),
    "dma": Knob(
        ("dram_bytes_per_ns", "dma_engine_bytes_per_ns"),
        ("dma_descriptor_ns", "dma_stagger_ns", "dma_start_ns", "dma_completion_ns"),
        "bandwidth and all latencies of transfers",
    ),
    "latency": Knob(
        (), ("pe_latency_ns", "act_latency_ns", "dve_latency_ns", "pool_latency_ns"), "pipelines of the engines"
    ),
    "sync": Knob((), ("semaphore_ns", "control_ns"), "semaphores and control instructions"),
    "weights": Knob((), ("pe_weight_load_ns",), "fixed part of the tensor engine's weight load"),
}
"""Names for groups of figures."""

DEFAULT_QUESTIONS = ("clock=2x", "bandwidth=2x", "dma=inf", "latency=inf", "sync=inf")
"""What is asked when nothing is."""


def changed(target: Target, changes: Sequence[str]) -> Target:
    """The target with other figures; NeuronError NX-PROF-002 for a change that cannot be read or applied."""
    figures = dict(target.figures)
    for change in changes:
        name, equals, value = (part.strip() for part in change.partition("="))
        if not equals:
            raise NeuronError("NX-PROF-002", f"what-if '{change}' is not FIGURE=VALUE", help=_choices(target))
        knob = KNOBS.get(name)
        if knob is None and name not in figures:
            raise NeuronError("NX-PROF-002", f"target {target.name} has no figure '{name}'", help=_choices(target))
        if knob is None:
            figures[name] = _figure(change, figures[name], value)
            continue
        factor = UNLIMITED if value == "inf" else _factor(value)
        if factor is None:
            raise NeuronError("NX-PROF-002", f"what-if '{change}': {name} takes a factor such as 2x, or inf")
        for figure in (*knob.rates, *knob.times):
            amount = factor if figure in knob.rates else 1.0 / factor
            figures[figure] = Figure(float(figures[figure].value) * amount, "assumed", f"what if {change}")
    return replace(target, figures=figures)


def _choices(target: Target) -> str:
    names = [name for name, figure in target.figures.items() if isinstance(figure.value, int | float)]
    return f"knobs: {', '.join(KNOBS)}; figures: {', '.join(names)}"


def _factor(text: str) -> float | None:
    """The factor that `2x` says; None for anything else."""
    number = _number(text[:-1]) if text.endswith("x") else None
    return number if number else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= UNLIMITED else None


def _figure(change: str, figure: Figure, text: str) -> Figure:
    """One figure's new value, of the same type."""
    old, note = figure.value, f"what if {change}"
    if isinstance(old, bool) and text in ("true", "false"):
        return Figure(text == "true", "assumed", note)
    factor = _factor(text)
    value = UNLIMITED if text == "inf" else old * factor if factor and isinstance(old, int | float) else _number(text)
    if value is None or isinstance(old, bool) or not isinstance(old, int | float):
        raise NeuronError("NX-PROF-002", f"what-if '{change}': give a number, a factor such as 2x, inf, true or false")
    return Figure(int(value) if isinstance(old, int) else float(value), "assumed", note)


def _whole(target: Target) -> Target:
    """The target as a profile has it; NX-PROF-001 where it lacks a figure that the machine needs, or has another kind.

    What is no number (lists of engines, of element types) must be what the target's own description says.
    """
    for name, figure in load_target(target.name).figures.items():
        own = target.figures.get(name)
        is_number = isinstance(figure.value, int | float)
        if own is None or type(own.value) is not type(figure.value) or not (is_number or own.value == figure.value):
            problem = f"the profile's target has no figure {name} like that of target {target.name}"
            raise NeuronError("NX-PROF-001", problem, help="profile the model again")
    return target


def retimed(profile: Profile, programs: Sequence[CoreProgram], changes: Sequence[str]) -> Profile:
    """The profile of the same programs under changed figures. Raises as `changed` and the machine do."""
    target = changed(_whole(profile.target), changes)
    named = list(zip((program.name for program in profile.programs), programs, strict=True))
    again = record_programs(profile.model, named, target, profile.launches)
    # The stored programs have no parameters, only scratch in their place.
    parts = zip(again.programs, profile.programs, strict=True)
    programs_again = tuple(replace(program, variables=before.variables) for program, before in parts)
    return replace(again, programs=programs_again, changes=(*profile.changes, *changes))
