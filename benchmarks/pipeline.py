"""How a model's throughput grows with the cores of a NeuronCore Pipeline: a sweep, as a table, JSON and a plot.

    python -m benchmarks.pipeline bert_base.onnx --cores 1 16 20 24 --auto-cast all --plot sweep.svg

Each number of cores is compiled (1: without a pipeline) and served in simulated time by as many clients as fill it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowering.compiler import CompileOptions, compile_model
from lowering.pipeline_report import pipeline_text
from neuron_dialects.errors import NeuronError
from runtime.neff import Neff
from runtime.serving.figures import serving_figures
from runtime.serving.placement import Placement
from runtime.serving.service import core_use, service_steps
from runtime.serving.simulation import Hardware, Service, Workload, simulate
from runtime.session import Session

REQUESTS = 2000
WIDTH, HEIGHT, MARGIN = 640, 360, 64
COLOURS = {"throughput": "#1f5fbf", "per core": "#c0501f"}


def measure(path: Path, cores: int, target: str, auto_cast: str) -> dict[str, Any]:
    """One point of the sweep: figures of a stream of requests, or why there is none."""
    options = CompileOptions(target, auto_cast, neuroncore_pipeline_cores=cores)
    try:
        compiled = compile_model(path, options)
    except NeuronError as error:
        return {"cores": cores, "error": f"{error.code}: {error.message}"}
    assert compiled.neff is not None
    row = {"cores": cores, **stream(compiled.neff)}
    report = compiled.report.get("pipeline")
    if report:
        print("\n".join(pipeline_text(report)), flush=True)
        row |= {"imbalance": report["imbalance"], "fewest": report["fewest"], "best_per_core": report["best_per_core"]}
    return row


def stream(neff: Neff) -> dict[str, Any]:
    """Throughput per second, latencies in ms and bubble of one instance under as many clients as it takes inside."""
    session = Session(neff)
    use = core_use(neff)
    steps = service_steps(neff, session.target, use, lambda callee: session.core_time(callee) * 1e9)
    hardware = Hardware(use.cores, int(session.target.cores_per_chip), 8)
    depth = use.stages + 3
    service = Service(neff.name, steps, (Placement(range(use.cores), frozenset(range(use.cores))),), depth)
    figures = serving_figures(simulate([service], hardware, Workload([0] * REQUESTS, depth)), [service])
    latency = figures["latency_ms"]
    assert isinstance(latency, dict)
    return {
        "throughput": figures["steady_throughput"],
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "bubble": figures["bubble"],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sweep as a Markdown table."""
    lines = [
        "| cores | requests/s | a core | p50 ms | p99 ms | slowest / mean | bubble |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['cores']} | {row['error'].partition(':')[0]} | | | | | |")
            continue
        imbalance = f"{row['imbalance']:.2f}" if "imbalance" in row else ""
        lines.append(
            f"| {row['cores']} | {row['throughput']:,.0f} | {row['throughput'] / row['cores']:,.0f}"
            f" | {row['p50_ms']:.2f} | {row['p99_ms']:.2f} | {imbalance} | {row['bubble']:.0%} |"
        )
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """The sweep as an SVG image: requests a second, and a second and core, over the number of cores."""
    points = [(row["cores"], row["throughput"]) for row in rows if "error" not in row]
    series = {"throughput": points, "per core": [(cores, rate / cores) for cores, rate in points]}
    most_cores = max(cores for cores, _ in points)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="24" text-anchor="middle" font-size="14">{title}</text>',
        f'<path d="M{MARGIN} {MARGIN}V{HEIGHT - MARGIN}H{WIDTH - MARGIN}V{MARGIN}" fill="none" stroke="black"/>',
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 20}" text-anchor="middle">cores</text>',
    ]  # fmt: skip

    def x(cores: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * cores / most_cores

    for cores, _ in points:
        parts.append(f'<text x="{x(cores):.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{cores}</text>')
    for number, (name, values) in enumerate(series.items()):
        most = max(value for _, value in values)

        def y(value: float, most: float = most) -> float:
            return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * value / most

        colour = COLOURS[name]
        line = " ".join(f"{x(cores):.1f},{y(value):.1f}" for cores, value in values)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(c):.1f}" cy="{y(v):.1f}" r="3" fill="{colour}"/>' for c, v in values]
        side, anchor = (MARGIN - 6, "end") if number == 0 else (WIDTH - MARGIN + 6, "start")
        at = f'text-anchor="{anchor}" fill="{colour}"'
        ticks = [share * most for share in (0.0, 0.5, 1.0)]
        parts += [f'<text x="{side}" y="{y(tick):.1f}" {at}>{tick:,.0f}</text>' for tick in ticks]
        label = "requests/s" if number == 0 else "requests/s and core"
        at = f'x="4" fill="{colour}"' if number == 0 else f'x="{WIDTH - 4}" text-anchor="end" fill="{colour}"'
        parts.append(f'<text {at} y="{MARGIN - 14}">{label}</text>')
    return "\n".join([*parts, "</svg>", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.pipeline", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--cores", type=int, nargs="+", required=True)
    parser.add_argument("--target", default="inf1")
    parser.add_argument("--auto-cast", default="matmult")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args(arguments)
    rows = [measure(options.model, cores, options.target, options.auto_cast) for cores in options.cores]
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    if options.plot is not None and any("error" not in row for row in rows):
        options.plot.write_text(plot(rows, f"{options.model.stem} on {options.target}"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
