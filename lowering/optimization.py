"""Optimisation levels: what `-O1` leaves out of the default pipeline, and what `-O3` tries besides.

A setting is written `PASS.OPTION=VALUE`, or `PASS=off` for a pass that may be left out. `-O3` compiles the model again
with other settings, times each program on the machine, and keeps the fastest (`lowering.search` says in which order).
Whatever it finds can be asked for by name, so that the same program can be compiled again without a search.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.arg_spec import parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError

from lowering.pipeline import LEVELS, make_pass, pass_name, pass_specs
from lowering.search import Choice, Found, Knob, descend
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import core_functions, target_of
from passes.nisa.exact_placement import SOLVER_PACKAGE, has_solver

OPTIMIZATION_LEVELS = (1, 2, 3)

DEFAULT_SEARCH_SECONDS = 60.0

SPEED_ONLY = (
    "graph-raise-composites",
    "graph-fold-mean-pool",
    "graph-lift-scales",
    "graph-fold-layer-norm",
    "graph-channels-first",
    "graph-part-sums",
    "graph-join-sequences",
    "graph-bound-scores",
    "graph-flatten-rows",
    "graph-reorder-rows",
    "graph-split-hidden",
    "graph-absorb-gathers",
    "graph-sample-features",
    "graph-pixel-rows",
    "graph-block-pixels",
    "graph-chain-pixels",
    "graph-split-batch",
    "graph-depth-first",
    "graph-pair-rows",
    "graph-fold-images",
    "graph-band-filters",
    "graph-stagger-images",
    "graph-advance-readers",
    "tile-advance-sweeps",
    "tile-fuse-loops",
    "tile-interleave-parts",
    "nisa-schedule",
)
"""Passes that only make programs faster and that no later pass needs; `-O1` leaves them out."""

OFF = "off"

KNOBS = (
    Knob("graph-layout.budget-share", ("0.8", "0.6", "0.9", "0.5")),
    Knob("graph-split-batch.budget-share", ("0.85", "0.5")),
    *(Knob(name, (OFF,)) for name in SPEED_ONLY),
)
"""What `-O3` varies, in this order. The defaults stand in the passes."""

SOLVER_KNOB = Knob("nisa-allocate.placement", ("exact",))
"""What `-O3` tries besides where the solver is installed, which takes long."""


class Candidate(Protocol):
    """What compiling gives: at least a module that is finished for emission."""

    @property
    def module(self) -> ModuleOp | None: ...


C = TypeVar("C", bound=Candidate)


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
    """`PASS.OPTION=VALUE` or `PASS=off`, each; NeuronError NX-ARG-002 for another form."""
    settings: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name or not value or ("." not in name and value != OFF):
            raise NeuronError("NX-ARG-002", f"--pass-option {text}: expected PASS.OPTION=VALUE or PASS=off")
        settings[name] = value
    return settings


def with_settings(specs: Sequence[str], settings: Choice) -> list[str]:
    """The pass specs with options set and passes left out; a setting for a pass that is not there is ignored."""
    result: list[str] = []
    for spec in specs:
        (parsed,) = parse_pipeline(spec)
        if settings.get(parsed.name) == OFF:
            continue
        for name, value in settings.items():
            owner, _, option = name.partition(".")
            if owner == parsed.name and option:
                (given,) = parse_pipeline(f"{owner}{{{option}={value}}}")
                parsed = replace(parsed, parameters={**parsed.parameters, **given.parameters})
        result.append(str(parsed))
    return result


def check_settings(settings: Choice) -> None:
    """NeuronError NX-ARG-001 for a pass or an option that the default pipeline does not have, or a wrong value."""
    specs = pass_specs()
    known = {pass_name(spec): spec for spec in specs}
    for name, value in settings.items():
        owner, _, option = name.partition(".")
        if owner not in known or (not option and owner not in SPEED_ONLY):
            allowed = known if option else SPEED_ONLY
            raise NeuronError("NX-ARG-001", f"--pass-option {name}: the pass is none of {', '.join(allowed)}")
        try:
            for spec in with_settings([known[owner]], {name: value}):
                make_pass(spec)
        except (ArgSpecParseError, ValueError, TypeError, KeyError) as error:
            raise NeuronError("NX-ARG-001", f"--pass-option {name}={value}: {error}") from None


def after_graph(settings: Choice) -> dict[str, str]:
    """The settings of passes behind the graph level, in one order: what the module there does not show of them."""
    early = set(map(pass_name, pass_specs(until=LEVELS[0])))
    return {name: settings[name] for name in sorted(settings) if name.partition(".")[0] not in early}


def leave_out(level: int, settings: Choice) -> dict[str, str]:
    """`settings` with what optimisation level `level` leaves out besides."""
    return {**(dict.fromkeys(SPEED_ONLY, OFF) if level == 1 else {}), **settings}


def simulated_seconds(module: ModuleOp) -> float:
    """Simulated time of all core segments of a module that is finished for emission, one after the other."""
    from lowering.nisa_to_neff import core_program
    from runtime.machine import Machine

    target = target_of(module)
    total = 0.0
    for function in core_functions(module):
        timing = Machine(core_program(function, target), target).run({}, {}, "timing").timing
        assert timing is not None
        total += timing.total_time
    return total


def search(
    fingerprint: Callable[[Choice], str],
    compile_with: Callable[[Choice], C],
    default: C,
    settings: Choice,
    seconds: float,
    tell: Callable[[str], None],
) -> tuple[Found, C]:
    """The fastest choice of settings beside the ones that the user fixed (`settings`), and the program compiled so.

    `default`: what `settings` alone give. `fingerprint`: equal for settings that give equal programs, and quicker to
    get than these. The choice that is returned does not repeat `settings`.
    """
    deadline = time.monotonic() + seconds
    knobs = [knob for knob in (*KNOBS, *_solver_knobs(tell)) if knob.name not in settings]
    best = last = default
    default_cost = _cost(default)
    known = {fingerprint(settings): default_cost}

    def cost(choice: Choice) -> float | None:
        nonlocal last
        try:
            mark = fingerprint({**settings, **choice})
            if mark not in known:
                last = compile_with({**settings, **choice})
                known[mark] = _cost(last)
        except NeuronError:
            return None
        return known[mark]

    def report(found: Found) -> None:
        nonlocal best
        choice, price = found.tried[-1]
        if choice is found.choice:
            best = last
        took = "does not compile" if price is None else f"{price * 1e6:,.1f} us"
        tell(f"trial {len(found.tried)}: {written(choice)}: {took}; best {found.cost * 1e6:,.1f} us")

    found = descend(knobs, cost, default_cost, lambda: time.monotonic() >= deadline, report)
    return found, best


def _solver_knobs(tell: Callable[[str], None]) -> tuple[Knob, ...]:
    """What the solver can decide; says so where it is not installed."""
    if has_solver():
        return (SOLVER_KNOB,)
    tell(f"exact placement is not tried: '{SOLVER_PACKAGE}' is not installed (pip install 'neuron-toolkit[solve]')")
    return ()


def _cost(candidate: Candidate) -> float:
    assert candidate.module is not None
    return simulated_seconds(candidate.module)


def written(choice: Choice) -> str:
    """A choice as one would give it on the command line."""
    return " ".join(f"{name}={value}" for name, value in choice.items()) or "defaults"


def found_report(found: Found) -> dict[str, Any]:
    """The `search` entry of the compile report."""
    return {
        "choice": dict(found.choice),
        "seconds": found.cost,
        "default_seconds": found.default_cost,
        "complete": found.complete,
        "tried": [{"choice": dict(choice), "seconds": price} for choice, price in found.tried],
    }
