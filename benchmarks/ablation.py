"""What each pass and each choice of a kernel is worth: the same cases with it left out.

A case is imported once; every variant begins with a copy of that module. A variant whose graph level has the same text
as an earlier one's, and whose kernels make the same choices, is the same program, and is not compiled again. Programs
are timed by the machine without data, so that results do not vary from run to run.

`python -m benchmarks --ablate --page` keeps the figures in `RESULTS` and writes the manual's page from them;
`python -m benchmarks.ablation` writes the page again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from benchmarks.cases import Case
from benchmarks.models import ROOT, Missing, prepare
from benchmarks.runner import Settings
from lowering.bounded_scores import with_weights
from lowering.compiler import CompileOptions, passes_for
from lowering.graph_to_tile.choices import CHOICES
from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from lowering.nisa_to_neff import core_program
from lowering.onnx_to_graph import import_onnx
from lowering.onnx_to_graph.result import ImportInfo
from lowering.optimization import SPEED_ONLY
from lowering.pipeline import PHASES, make_pass, pass_name, run_passes
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import TARGET_ATTRIBUTE, Executor, TargetAttr, core_functions, target_of
from neuron_dialects.weights import WeightStore
from passes.graph.partition import partition_report
from runtime.machine import Machine

Rows = list[dict[str, Any]]
RESULTS = ROOT / "benchmarks" / "results" / "ablation.json"
PAGE = ROOT / "docs" / "ablation.md"
WORTH = 0.001
"""Least difference of time, as a fraction, that counts: below it a pass neither pays nor costs anything."""


@dataclass(frozen=True)
class Variant:
    """One thing left out: a pass, or by `settings` (as in `lowering.optimization`) a choice of kernels; or nothing."""

    name: str
    passes: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


def variants() -> list[Variant]:
    """Nothing left out, then every pass that later ones may do without, then every choice.

    Those are the passes of the graph level, and others that only make programs faster.
    """
    names = [pass_name(spec) for spec in PHASES[0].passes]
    names += [pass_name(spec) for phase in PHASES[1:] for spec in phase.passes if pass_name(spec) in SPEED_ONLY]
    whole = [Variant("")]
    passes = [Variant(name, (name,)) for name in dict.fromkeys(names)]
    kernels = [Variant(f"{choice} (kernels)", (), {"convert-graph-to-tile.without": choice}) for choice in CHOICES]
    return [
        *whole, *passes, *kernels,
        Variant("tensors that stay on chip", (), {"graph-layout.budget-share": "0"}),
        Variant("balance of engines", (), {"convert-tile-to-nisa.balance": "false"}),
    ]  # fmt: skip


def ablate(cases: Sequence[Case], settings: Settings, console: Console) -> Rows:
    """One row for each case and each variant, the first with nothing left out; one row for a case that is missing."""
    rows: Rows = []
    for case in cases:
        try:
            path, inputs = prepare(case.model, case.batch, settings.cache)
        except Missing as missing:
            rows.append({"case": case.name, "without": "", "status": "missing", "message": str(missing)})
            continue
        with np.load(inputs, allow_pickle=False) as data:
            shapes = {name: data[name].shape for name in data.files}
        options = CompileOptions(case.target, auto_cast=case.model.auto_cast, input_shapes=shapes, emit="nisa")
        imported = import_onnx(path, input_shapes=shapes, target=case.target)
        imported.module.attributes[TARGET_ATTRIBUTE] = TargetAttr(case.target)
        measure = _Measure(imported.module, imported.info, imported.weights, options)
        for variant in variants():
            with console.status(f"{case.name} without {variant.name or 'nothing'}"):
                rows.append({"case": case.name, "without": variant.name} | measure.row(variant))
    return rows


@dataclass
class _Measure:
    """Programs of one model: `known` by what makes them what they are."""

    module: ModuleOp
    info: ImportInfo
    weights: WeightStore
    options: CompileOptions
    known: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def row(self, variant: Variant) -> dict[str, Any]:
        """`status` ("ok", or "failed" with a message) and figures of the program with something left out."""
        options = replace(self.options, without=variant.passes, settings=variant.settings)
        passes = with_weights(passes_for(options, self.info), self.weights)
        made = [make_pass(p) if isinstance(p, str) else p for p in passes]
        position = next(i for i, instance in enumerate(made) if isinstance(instance, ConvertGraphToTilePass))
        copy = self.module.clone()
        try:
            run_passes(Context(), copy, made[:position])
            mark = hashlib.sha256(str(copy).encode()).hexdigest(), repr(made[position:])
            if mark not in self.known:
                self.known[mark] = _figures(copy, made[position:])
        except NeuronError as error:
            return {"status": "failed", "message": f"{error.code}: {error.message}"}
        return {"status": "ok", "message": "", **self.known[mark]}


def _figures(module: ModuleOp, passes: Sequence[ModulePass]) -> dict[str, Any]:
    """Lower a module of the graph level, and time its core functions one after the other."""
    rows = partition_report(module)
    began = time.process_time()
    run_passes(Context(), module, passes)
    seconds = time.process_time() - began
    target, total, moved = target_of(module), 0.0, 0
    for function in core_functions(module):
        timing = Machine(core_program(function, target), target).run({}, {}, "timing").timing
        assert timing is not None
        figures = timing.summary()
        total += figures["total_time"]
        moved += figures["hbm_read_bytes"] + figures["hbm_write_bytes"]
    return {
        "total_time": total,
        "dram_bytes": moved,
        "backend_cpu_seconds": seconds,
        "host_operators": sum(row.executor is not Executor.CORE for row in rows),
    }


def relative(rows: Rows) -> Rows:
    """The rows with something left out, each with `slowdown`: its time over that of the whole program, less one.

    None where the program is not comparable: it does not compile, or does more on the host.
    """
    whole = {row["case"]: row for row in rows if not row["without"] and "total_time" in row}
    found: Rows = []
    for row in rows:
        base = whole.get(row["case"])
        if row["without"] and base is not None:
            same = row.get("total_time") and row.get("host_operators", 0) <= base.get("host_operators", 0)
            found.append(row | {"slowdown": row["total_time"] / base["total_time"] - 1 if same else None})
    return found


def gains(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """What was left out -> its rows of `relative`, one for each case."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in relative(rows):
        found.setdefault(row["without"], []).append(row)
    return found


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """What cases say of one thing: "needed", "pays", "costs" or "no difference"."""
    if any(row["slowdown"] is None for row in rows):
        return "needed"
    if any(row["slowdown"] > WORTH for row in rows):
        return "pays"
    return "costs" if any(row["slowdown"] < -WORTH for row in rows) else "no difference"


def _cell(row: Mapping[str, Any]) -> str:
    """The ratio of one row for people."""
    if not row.get("total_time"):
        return "fails"
    if row["slowdown"] is None:
        return "host"
    return f"{1 + row['slowdown']:.3f}" if abs(row["slowdown"]) > WORTH else "="


def show_ablation(rows: Rows, console: Console) -> None:
    """Print how many times longer each case takes without each thing."""
    cases = _cases(rows)
    table = Table("without", title="Left out: time over that of the whole program", title_justify="left")
    for case in (*cases, ""):
        table.add_column(case, justify="right")
    for name, found in gains(rows).items():
        by_case = {row["case"]: _cell(row) for row in found}
        table.add_row(name, *(by_case.get(case, "") for case in cases), verdict(found))
    console.print(table)
    for row in rows:
        if row["status"] == "missing":
            console.print(f"{row['case']}: missing: {row['message']}", highlight=False, markup=False)


def _cases(rows: Rows) -> list[str]:
    """Cases that have figures, in order."""
    return [row["case"] for row in rows if not row["without"] and "total_time" in row]


PREFACE = """<!-- Made by `python -m benchmarks.ablation` from benchmarks/results/ablation.json. -->

# What each optimisation is worth

Simulated time of the same model with one thing left out, over its time with everything (revision {revision}; all casts
to bf16; nothing varies from run to run). `=`: a difference below {worth:.1%}. `host`: operators move to the host, so
that the times are of different programs. `fails`: nothing runs on the core without it. Below 1: this model would be
faster without it.

`python -m benchmarks --ablate --page` measures again and writes this page; `--model`, `--target` and `--batch` choose
other cases. Passes are left out with the compiler's `without`, choices of kernels with `--pass-option`
(`convert-graph-to-tile.without`, `graph-layout.budget-share=0`, `convert-tile-to-nisa.balance=false`).

What makes no difference here is for other models: `graph-fold-batch-norm` for files with batch normalisation left in,
`graph-lift-scales` for quantised ones, `graph-decompose` for reductions with a function inside, `graph-canonicalize`
for what exporters leave behind, `graph-shard-pipeline` for models that are spread over several cores.
`graph-join-sequences`, `graph-reorder-rows`, short-sequences and value-products for attention in windows (swin_tiny),
`graph-bound-scores` for long attention (whisper_tiny_encoder), `graph-pair-rows` for large maps of 64 channels or less
(unet, vgg16, yolov5s), `graph-advance-readers` for branches of one map (yolov5s), `graph-band-filters`,
`graph-stagger-images` and `graph-chain-pixels` for wide depthwise filters and what follows them (convnext_tiny),
pixel-blocks for layers of few outputs and `graph-fold-mean-pool` for means behind them (densenet121), map-sums and
scaled-weights for squeeze-excite (efficientnet_b0).

"""


def page(stored: dict[str, Any]) -> str:
    """The manual's page of stored figures."""
    return PREFACE.format(revision=stored["revision"], worth=WORTH) + markdown(stored["ablation"])


def markdown(rows: Rows) -> str:
    """The figures as tables: what everything takes, then one row for each thing that was left out."""
    cases = _cases(rows)
    whole = {row["case"]: row for row in rows if not row["without"]}
    lines = [f"| | {' | '.join(cases)} | |", f"|---|{'---:|' * len(cases)}---|"]
    times = [f"{whole[case]['total_time'] * 1e6:,.1f} us" for case in cases]
    lines.append(f"| everything | {' | '.join(times)} | |")
    for name, found in gains(rows).items():
        by_case = {row["case"]: _cell(row) for row in found}
        title = name if " " in name else f"`{name}`"
        lines.append(f"| {title} | {' | '.join(by_case.get(c, '') for c in cases)} | {verdict(found)} |")
    return "\n".join([*lines, "", *_choices_listed()]) + "\n"


def _choices_listed() -> list[str]:
    """What the choices of kernels are."""
    return ["Choices of kernels:", "", *(f"- {name}: {about}" for name, about in CHOICES.items())]


def keep(stored: dict[str, Any]) -> None:
    """Keep the figures in the clone and write the page; those of other cases stay if they are of the same revision."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    measured = {row["case"] for row in stored["ablation"]}
    others: Rows = []
    if RESULTS.is_file():
        before = json.loads(RESULTS.read_text(encoding="utf-8"))
        if before["revision"] == stored["revision"]:
            others = [row for row in before["ablation"] if row["case"] not in measured]
    found = {"revision": stored["revision"], "ablation": [*others, *stored["ablation"]]}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page()


def write_page() -> None:
    """Write the manual's page from the figures that are kept."""
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    write_page()
