"""How many cores `auto` takes for models of different kinds: as few as hold them, which is checked with one fewer.

    python -m benchmarks.fewest_cores [MODEL ...]

Each model is compiled for inf1 with `--neuroncore-pipeline-cores auto`, all of it cast to bf16, and then for one core
fewer, which must be refused; of a single core, which is no pipeline, the fit report must say that it lacks room. Prints
a Markdown table; the exit code is 1 where a model is not refused.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cases import Model
from benchmarks.models import Missing, cache_folder, prepare
from benchmarks.pipeline import stream
from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.errors import NeuronError

MODELS: Mapping[str, Model] = {
    "resnet50": Model("resnet50"),
    "mobilenet_v2": Model("mobilenet_v2"),
    "vgg16": Model("vgg16"),
    "bert_base": Model("bert_base"),
    "bert_large": Model("encoder24", "encoder"),
}
"""What a row is called -> the model; the large BERT is generated, with random weights."""

TARGET, AUTO_CAST = "inf1", "all"
NO_FIT = ("NX-PIPE-001", "NX-MEM-001")
"""Errors that say that something does not fit on chip."""


@dataclass(frozen=True)
class Row:
    """A model: the fit report of the fewest cores, figures of a stream, and what is said of one core fewer.

    `refusal`: empty where one core fewer was compiled; `seconds`: of compiling with `auto`.
    """

    name: str
    report: Mapping[str, Any]
    figures: Mapping[str, Any]
    refusal: str
    seconds: float


def measure(name: str, path: Path) -> Row:
    """Compile with `auto`, stream requests, and compile with one core fewer."""
    begun = time.perf_counter()
    compiled = compile_model(path, CompileOptions(TARGET, AUTO_CAST, neuroncore_pipeline_cores="auto"))
    seconds = time.perf_counter() - begun
    assert compiled.neff is not None
    report = compiled.report["pipeline"]
    return Row(name, report, stream(compiled.neff), refusal_of(path, report), seconds)


def refusal_of(path: Path, report: Mapping[str, Any]) -> str:
    """What the compiler says to one core fewer, empty when it compiles."""
    cores = report["cores"] - 1
    if cores == 0:
        return "no cores"
    if cores == 1:
        (alone,) = (other for other in report["others"] if other["cores"] == 1)
        return "" if alone["fits"] else f"{alone['missing_bytes']} bytes too many"
    try:
        compile_model(path, CompileOptions(TARGET, AUTO_CAST, neuroncore_pipeline_cores=cores))
    except NeuronError as error:
        if error.code not in NO_FIT:
            raise
        return f"{error.code}: {error.message}"
    return ""


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | weights | cores | rule of thumb | requests/s | a core | slowest / mean | one core fewer lacks |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        report, rate = row.report, row.figures["throughput"]
        lacks = [other["missing_bytes"] for other in report["others"] if other["cores"] < report["cores"]]
        missing = f"{lacks[0] / 1e6:.1f} MB" if lacks else ""
        lines.append(
            f"| {row.name} | {report['weights'] / 1e6:.1f} M | {report['cores']} | {report['rule_of_thumb']}"
            f" | {rate:,.0f} | {rate / report['cores']:,.0f} | {report['imbalance']:.2f} | {missing} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.fewest_cores", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], default=[])
    chosen = parser.parse_args(arguments).models or list(MODELS)
    rows: list[Row] = []
    for name in chosen:
        try:
            path, _ = prepare(MODELS[name], 1, cache_folder())
        except Missing as missing:
            print(f"{name}: {missing}", flush=True)
            continue
        rows.append(measure(name, path))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        said = rows[-1].refusal or "FITS, ALTHOUGH IT IS ONE CORE FEWER"
        print(f"{name}: {rows[-1].seconds:.0f} s, {most:.1f} GB at most so far; one core fewer: {said}", flush=True)
    print(table(rows))
    return int(any(not row.refusal for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
