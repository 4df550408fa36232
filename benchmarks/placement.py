"""`python -m benchmarks.placement`: the rungs of the placement ladder alone, on the SBUF buffers of real models.

    python -m benchmarks.placement --model resnet50 --batch 8 --target trn1

For each core function, how tightly each rung places its buffers, with transfers that run ahead into several shares of
the memory: `bound` is what is live at once, all figures are 64-byte units of a partition. The solver is asked where it
is installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from xdsl.context import Context

from benchmarks.cases import Model
from benchmarks.models import cache_folder, prepare
from lowering.compiler import CompileOptions, compile_model
from lowering.pipeline import run_passes
from neuron_dialects.neuron import core_functions
from neuron_dialects.target import load_target
from passes.nisa.allocation import Interval, load_profile, place_tight
from passes.nisa.canonical_placement import search_placement
from passes.nisa.exact_placement import has_solver, place_exactly
from passes.nisa.live_ranges import on_chip_buffers, top_level_statements
from passes.nisa.memory_plan import PREFETCH_SHARES, LiveBuffer, prefetch_leads

UNIT_BYTES = 64
BEFORE_ALLOCATION = ("convert-tile-to-nisa", "nisa-verify", "nisa-pin-weights", "nisa-schedule")


def instances(model: str, batch: int, target: str) -> Iterator[tuple[str, list[Interval]]]:
    """(share of SBUF that running ahead may fill, what is to be placed) for each core function of a full-size model."""
    path, inputs = prepare(Model(model), batch, cache_folder())
    with np.load(inputs, allow_pickle=False) as data:
        shapes = {name: data[name].shape for name in data.files}
    options = CompileOptions(target=target, auto_cast="all", emit="tile", input_shapes=shapes)
    module = compile_model(path, options).module
    assert module is not None
    run_passes(Context(), module, BEFORE_ALLOCATION)
    capacity = _capacity(target)
    for function in core_functions(module):
        found = on_chip_buffers(function, top_level_statements(function))
        used = {key: b for key, b in enumerate(found) if b.space == "sbuf" and b.uses}
        live = [LiveBuffer(key, -(-b.row_bytes // UNIT_BYTES), b.copies, b.uses) for key, b in used.items()]
        sizes = {b.key: b.units * b.copies for b in live}
        base = [Interval(b.key, b.start, b.uses[-1], sizes[b.key]) for b in live]
        yield "none", base
        loaded = [b for b in live if used[b.key].is_loaded]
        for share in PREFETCH_SHARES[:3]:
            leads = prefetch_leads(loaded, sizes, load_profile(base), int(capacity * share))
            yield f"{share:.2f}", [Interval(i.key, i.start - leads.get(i.key, 0), i.end, i.size) for i in base]


def _capacity(target: str) -> int:
    return int(load_target(target).sbuf_bytes_per_partition) // UNIT_BYTES


def measured(intervals: Sequence[Interval], capacity: int) -> list[str]:
    """What each rung finds, with its seconds."""
    begun = time.perf_counter()
    cells = [f"{place_tight(intervals, capacity).needed}, {time.perf_counter() - begun:.2f} s"]
    rungs = [search_placement, *([place_exactly] if has_solver() else [])]
    for rung in rungs:
        begun = time.perf_counter()
        found = rung(intervals, capacity)
        verdict = "fits" if found.offsets is not None else "impossible" if found.proved else "gave up"
        cells.append(f"{verdict}, {found.steps} steps, {time.perf_counter() - begun:.2f} s")
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.placement", description="Measure the placement of buffers alone.")
    parser.add_argument("--model", default="resnet50", help="full-size model (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--target", default="trn1")
    options = parser.parse_args(argv)
    capacity = _capacity(options.target)
    solver = ["solver"] if has_solver() else []
    title = f"{options.model} batch {options.batch}, {options.target}: {capacity} units"
    table = Table("running ahead", "buffers", "bound", "greedy needs", "search", *solver, title=title)
    for share, intervals in instances(options.model, options.batch, options.target):
        bound = max(load_profile(intervals), default=0)
        table.add_row(share, str(len(intervals)), str(bound), *measured(intervals, capacity))
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
