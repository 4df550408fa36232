"""The default pipeline as data: phases, passes, what each does; and the function that runs a list of passes.

`PHASES` is the one place where the order of passes is written down: the compiler, `neuron-opt -p default` and the
manual's table are made from it. A phase ends at a level at which the program can be executed and where `--emit` can
stop.
"""

import gc
import importlib
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.utils.arg_spec import parse_pipeline

from neuron_dialects.remarks import in_pass
from passes.registry import PASSES


@dataclass(frozen=True)
class Phase:
    """A run of passes that ends at `level`. Pass specs may hold `{auto_cast}`, `{auto_cast_type}`, `{saturate}`."""

    level: str
    passes: tuple[str, ...]
    summary: str


PHASES: tuple[Phase, ...] = (
    Phase(
        "graph",
        (
            "graph-canonicalize",
            "graph-raise-composites",
            "graph-fold-batch-norm",
            "graph-fold-mean-pool",
            "graph-decompose",
            "graph-lift-scales",
            "graph-fold-layer-norm",
            "graph-channels-first{{mode={auto_cast}}}",
            "graph-fold-weights",
            "graph-partition",
            "graph-narrow-integers",
            "graph-auto-cast{{mode={auto_cast} type={auto_cast_type} saturate={saturate}}}",
            "graph-canonicalize",
            "graph-part-sums",
            "graph-join-sequences",
            "graph-fold-weights",
            "graph-bound-scores",
            "graph-roll-layers",
            "graph-flatten-rows",
            "graph-reorder-rows",
            "graph-absorb-gathers",
            "graph-sample-features",
            "graph-split-hidden",
            "graph-pixel-rows",
            "graph-block-pixels",
            "graph-fuse",
            "graph-chain-pixels",
            "graph-split-batch",
            "graph-depth-first",
            "graph-pair-rows",
            "graph-fold-images",
            "graph-fold-weights",
            "graph-band-filters",
            "graph-stagger-images",
            "graph-shard-pipeline",
            "graph-advance-readers",
            "graph-layout",
        ),
        "clean up, split host from core, choose number formats, kernels and layouts",
    ),
    Phase(
        "tile",
        ("convert-graph-to-tile", "tile-fuse-loops", "tile-advance-sweeps", "tile-interleave-parts"),
        "one kernel per group of ops, over tiles of tensors; one loop where kernels go over the same tiles",
    ),
    Phase(
        "nisa",
        (
            "convert-tile-to-nisa",
            "nisa-verify",
            "nisa-pin-weights",
            "nisa-schedule",
            "nisa-allocate",
            "nisa-synchronize",
            "nisa-link-parts",
            "nisa-hand-over",
            "nisa-split-queues",
            "nisa-allocate-registers",
        ),
        "instructions, addresses, semaphores, one queue per engine, scalar registers",
    ),
)
"""The default pipeline, level by level."""

LEVELS = tuple(phase.level for phase in PHASES)


EXTENSIONS: dict[str, list[str]] = {}
"""Passes that plug-ins put into the default pipeline: spec of each by the name of the pass that it comes after."""


def add_to_pipeline(spec: str, after: str) -> None:
    """Put a pass into the default pipeline, behind the first pass called `after`, which must be in it."""
    EXTENSIONS.setdefault(after, []).append(spec)
    PIPELINES.update(_pipelines())


def pass_specs(
    auto_cast: str = "matmult", auto_cast_type: str = "bf16", until: str = "nisa", *, saturate: bool = False
) -> list[str]:
    """Pass specs of the default pipeline up to and including level `until`."""
    specs: list[str] = []
    for phase in PHASES:
        values = {"auto_cast": auto_cast, "auto_cast_type": auto_cast_type, "saturate": str(saturate).lower()}
        for spec in phase.passes:
            specs.append(spec.format(**values))
            specs += _extensions(pass_name(spec), specs[:-1])
        if phase.level == until:
            break
    return specs


def _extensions(name: str, before: Sequence[str]) -> list[str]:
    """What plug-ins put behind the pass `name`, where it is the first of this name."""
    if name not in EXTENSIONS or name in map(pass_name, before):
        return []
    found: list[str] = []
    for spec in EXTENSIONS[name]:
        found += [spec, *_extensions(pass_name(spec), [*before, *found])]
    return found


def pass_name(spec: str) -> str:
    """The name in a pass spec, without its options."""
    return spec.partition("{")[0]


def _pipelines() -> dict[str, str]:
    graph, tile, nisa = (pass_specs(until=phase.level) for phase in PHASES)
    named = {
        "default": nisa,
        "to-graph": graph,
        "to-tile": tile,
        "graph-to-tile": tile[len(graph) :],
        "tile-to-nisa": nisa[len(tile) :],
    }
    return {name: ",".join(specs) for name, specs in named.items()}


PIPELINES: dict[str, str] = _pipelines()
"""Pipelines that `-p` takes by name."""

PassDone = Callable[[str, float, ModuleOp], None]
"""Called after each pass with its name, its seconds and the module."""


def make_pass(spec: str) -> ModulePass:
    """A pass from its spec `name{option=value}`."""
    (parsed,) = parse_pipeline(spec)
    module_name, _, class_name = PASSES[parsed.name].partition(":")
    return getattr(importlib.import_module(module_name), class_name).from_pass_spec(parsed)


def run_passes(
    ctx: Context, module: ModuleOp, passes: Sequence[str | ModulePass], done: PassDone | None = None
) -> None:
    """Run passes, or what their specs say, in order.

    Without the garbage collector's stops (IR is cyclic garbage, see `no_collection`).
    """
    with no_collection():
        for given in passes:
            started = time.perf_counter()
            instance = make_pass(given) if isinstance(given, str) else given
            with in_pass(instance.name):
                instance.apply(ctx, module)
            if done is not None:
                done(instance.name, time.perf_counter() - started, module)


@contextmanager
def no_collection() -> Generator[None]:
    """No cyclic garbage collection inside; the collector would scan the whole IR again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
