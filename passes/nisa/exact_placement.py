"""Finds a placement that fits with the CP-SAT solver, or proves that there is none: the last rung before spilling.

Positions times units is a plane, an interval is a rectangle of which only the offset is free, and no two may overlap.
The solver runs on one thread, from a fixed seed, and for a bounded amount of deterministic work, so that the same
occupants get the same addresses. It is a package of its own (the extra `solve`), imported when it is first needed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from math import gcd
from typing import Any

from neuron_dialects.errors import NeuronError
from passes.nisa.allocation import Interval, load_profile
from passes.nisa.canonical_placement import SearchResult

SOLVER_PACKAGE = "ortools"

WORK_SECONDS = 8.0
"""Limit of the solver's deterministic time, which counts operations and is of the order of a second each."""


def has_solver() -> bool:
    """Whether the solver is installed, without importing it."""
    return importlib.util.find_spec(SOLVER_PACKAGE) is not None


def _cp_model() -> Any:
    """The solver's module; NeuronError NX-PASS-004 when it is not installed."""
    try:
        return importlib.import_module(f"{SOLVER_PACKAGE}.sat.python.cp_model")
    except ImportError as error:
        raise NeuronError(
            "NX-PASS-004",
            f"exact placement needs the package '{SOLVER_PACKAGE}', which cannot be imported",
            help="pip install 'neuron-toolkit[solve]', or ask for nisa-allocate{placement=search}",
        ) from error


def place_exactly(
    intervals: Sequence[Interval], capacity: int, hint: Sequence[int] = (), work_seconds: float = WORK_SECONDS
) -> SearchResult:
    """Offsets within `capacity` for all intervals; `hint`: offsets to start from, by index. Counts branches as steps.

    NeuronError NX-PASS-004 when the solver is not installed.
    """
    cp_model = _cp_model()
    if not intervals:
        return SearchResult([], False, 0)
    if max(load_profile(intervals)) > capacity:
        return SearchResult(None, True, 0)
    # Offsets can be multiples of what all sizes are multiples of: pushed down, each is a sum of sizes.
    unit = gcd(*(i.size for i in intervals))
    room = capacity // unit
    model = cp_model.CpModel()
    lows, lives, extents = [], [], []
    for number, interval in enumerate(intervals):
        size = interval.size // unit
        low = model.new_int_var(0, room - size, f"low{number}")
        lows.append(low)
        lives.append(model.new_fixed_size_interval_var(interval.start, interval.end + 1 - interval.start, ""))
        extents.append(model.new_fixed_size_interval_var(low, size, ""))
        if hint:
            model.add_hint(low, min(hint[number] // unit, room - size))
    model.add_no_overlap_2d(lives, extents)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_deterministic_time = work_seconds
    status = solver.solve(model)
    found = status in (cp_model.OPTIMAL, cp_model.FEASIBLE)
    offsets = [int(solver.value(low)) * unit for low in lows] if found else None
    return SearchResult(offsets, status == cp_model.INFEASIBLE, int(solver.num_branches))
