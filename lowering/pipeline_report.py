"""The fit report of a NeuronCore Pipeline: what each core holds, how long it works, and what other counts would give.

`pipeline_report` makes plain data from a cut and its measurements, for the compile report; `pipeline_text` its lines
for people. Times are simulated; sizes on chip are those of all partitions of a core together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neuron_dialects.graph import WeightOp, shape_of
from neuron_dialects.graph.shapes import element_count
from passes.graph.pipeline_cut import INFINITE, Cutter, Stage, misfit
from passes.graph.pipeline_graph import PipelineGraph

AUTO = 0
"""Cores that are asked for when the compiler is to find out."""

WEIGHTS_PER_RULE_STEP = 2e7
"""The documented rule of thumb takes four cores for so many weights."""


@dataclass(frozen=True)
class StageTrial:
    """One stage as it was lowered: nanoseconds of a run, and bytes of a partition that its pinned weights and all of
    its buffers take.
    """

    time_ns: float
    pinned_bytes: int
    peak_bytes: int


def rule_of_thumb(weights: int) -> int:
    """Cores that the documentation of Inferentia suggests for a model of so many weights: 4 * round(weights / 2e7).

    The formula gives 0 below ten million weights, where one core is meant.
    """
    return max(1, 4 * round(weights / WEIGHTS_PER_RULE_STEP))


def pipeline_report(
    graph: PipelineGraph, cutter: Cutter, stages: Sequence[Stage], trials: Sequence[StageTrial], requested: int
) -> dict[str, Any]:
    """The report of a function that was cut into `stages`; `cutter` knows what other counts would cost."""
    weights = {op.weight_name: op for op in graph.function.body.block.ops if isinstance(op, WeightOp)}
    count = sum(element_count(shape_of(op.result)) for op in weights.values())
    times = [trial.time_ns for trial in trials]
    lanes = int(graph.target.partitions)
    capacity = graph.costs.capacity_bytes
    return {
        "cores": len(stages),
        "requested": "auto" if requested == AUTO else requested,
        "fewest": cutter.fewest,
        "best_per_core": cutter.best_per_core,
        "rule_of_thumb": rule_of_thumb(count),
        "weights": count,
        "capacity_bytes": capacity * lanes,
        "stages": [
            {
                "stage": number,
                "from": graph.name(graph.chain.atoms[stage.first].node),
                "to": graph.name(graph.chain.atoms[stage.last - 1].node),
                "weight_bytes": trial.pinned_bytes * lanes,
                "activation_bytes": (trial.peak_bytes - trial.pinned_bytes) * lanes,
                "free_bytes": (capacity - trial.peak_bytes) * lanes,
                "received_bytes": stage.bytes_in,
                "sent_bytes": stage.bytes_out,
                "time_us": round(trial.time_ns / 1000, 3),
            }
            for number, (stage, trial) in enumerate(zip(stages, trials, strict=True))
        ],
        "bottleneck": times.index(max(times)),
        "throughput_per_second": round(1e9 / max(times), 1),
        "latency_us": round(sum(times) / 1000, 3),
        "imbalance": round(max(times) * len(times) / sum(times), 4),
        "bubble": round(1 - sum(times) / (max(times) * len(times)), 4),
        "others": [
            _other(graph, cutter, cores) for cores in (len(stages) - 1, len(stages) + 1) if cores
        ],
    }  # fmt: skip


def _other(graph: PipelineGraph, cutter: Cutter, cores: int) -> dict[str, Any]:
    """What another number of cores would give, estimated."""
    slowest = cutter.slowest_ns[cores] if cores < len(cutter.slowest_ns) else INFINITE
    if slowest < INFINITE:
        return {"cores": cores, "fits": True, "estimated_throughput_per_second": round(1e9 / slowest, 1)}
    if cores > len(graph.chain.atoms):
        return {"cores": cores, "fits": False, "missing_bytes": 0, "node": ""}
    if cores >= len(cutter.slowest_ns):
        cutter = Cutter(graph.chain, graph.costs, cores)
        if cutter.slowest_ns[cores] < INFINITE:
            return _other(graph, cutter, cores)
    problem = misfit(graph.chain, graph.costs, cores)
    missing = (problem.needed_bytes - problem.capacity_bytes) * int(graph.target.partitions)
    return {"cores": cores, "fits": False, "missing_bytes": missing, "node": graph.name(problem.node)}


def pipeline_text(report: Mapping[str, Any]) -> list[str]:
    """The lines of a fit report."""
    lines = [
        f"NeuronCore Pipeline: {report['cores']} cores (asked for: {report['requested']})",
        f"  smallest that holds the model: {report['fewest']}, most throughput per core: {report['best_per_core']},"
        f" rule of thumb 4 * round(weights / 2e7): {report['rule_of_thumb']}",
        f"  {'core':>4} {'weights':>10} {'buffers':>10} {'free':>10} {'received':>10} {'sent':>10} {'us':>9}  from",
    ]  # fmt: skip
    for row in report["stages"]:
        sizes = (row[f"{kind}_bytes"] for kind in ("weight", "activation", "free", "received", "sent"))
        columns = " ".join(f"{size:>10,}" for size in sizes)
        mark = "  <- bottleneck" if row["stage"] == report["bottleneck"] else ""
        lines.append(f"  {row['stage']:>4} {columns} {row['time_us']:>9.1f}  {row['from']}{mark}")
    lines.append(
        f"  of {report['capacity_bytes']:,} bytes a core; {report['throughput_per_second']:,.0f} requests/s,"
        f" latency {report['latency_us']:,.0f} us, slowest stage {report['imbalance']:.2f} x the mean,"
        f" bubble {report['bubble']:.0%}"
    )
    for other in report["others"]:
        if other["fits"]:
            what = f"about {other['estimated_throughput_per_second']:,.0f} requests/s"
        elif other["node"]:
            what = f"does not fit: {other['missing_bytes']:,} bytes too many on some core, full at {other['node']}"
        else:
            what = "more stages than the model can be cut into"
        lines.append(f"  with {other['cores']}: {what}")
    return lines
