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
from passes.graph.pipeline_cut import INFINITE
from passes.graph.pipeline_fold import Cut, Cuts
from passes.graph.pipeline_graph import PipelineGraph

AUTO = 0
"""Cores that are asked for when the compiler is to find out."""

WEIGHTS_PER_RULE_STEP = 2e7
"""The documented rule of thumb takes four cores for so many weights."""


@dataclass(frozen=True)
class StageTrial:
    """One stage as it was lowered: nanoseconds of a run, and bytes of a partition: of its pinned weights, and of all
    that lies on its core while it runs.
    """

    time_ns: float
    pinned_bytes: int
    peak_bytes: int


def rule_of_thumb(weights: int) -> int:
    """Cores that the documentation of Inferentia suggests for a model of so many weights: 4 * round(weights / 2e7).

    The formula gives 0 below ten million weights, where one core is meant.
    """
    return max(1, 4 * round(weights / WEIGHTS_PER_RULE_STEP))


def core_times(cut: Cut, trials: Sequence[StageTrial]) -> list[float]:
    """Nanoseconds that each core works on one request: those of its stages together."""
    times = [0.0] * cut.cores
    for core, trial in zip(cut.core_of, trials, strict=True):
        times[core] += trial.time_ns
    return times


def pipeline_report(
    graph: PipelineGraph, cuts: Cuts, cut: Cut, trials: Sequence[StageTrial], requested: int
) -> dict[str, Any]:
    """The report of a function that was cut so; `cuts` knows what other numbers of cores would cost."""
    weights = {op.weight_name: op for op in graph.function.body.block.ops if isinstance(op, WeightOp)}
    count = sum(element_count(shape_of(op.result)) for op in weights.values())
    times = core_times(cut, trials)
    return {
        "cores": cut.cores,
        "requested": "auto" if requested == AUTO else requested,
        "fewest": cuts.fewest,
        "best_per_core": cuts.best_per_core,
        "rule_of_thumb": rule_of_thumb(count),
        "weights": count,
        "capacity_bytes": graph.costs.capacity_bytes * int(graph.target.partitions),
        "per_core": [_core_row(graph, cut, trials, core) for core in range(cut.cores)],
        "stages": [_stage_row(graph, cut, trials, number) for number in range(len(cut.stages))],
        "bottleneck": times.index(max(times)),
        "throughput_per_second": round(1e9 / max(times), 1),
        "latency_us": round(sum(times) / 1000, 3),
        "imbalance": round(max(times) * len(times) / sum(times), 4),
        "bubble": round(1 - sum(times) / (max(times) * len(times)), 4),
        "others": [_other(graph, cuts, cores) for cores in (cut.cores - 1, cut.cores + 1) if cores],
    }


def _core_row(graph: PipelineGraph, cut: Cut, trials: Sequence[StageTrial], core: int) -> dict[str, Any]:
    """What a core holds and how long it works. Its stages use the same room for buffers, one after the other."""
    stages = [number for number, own in enumerate(cut.core_of) if own == core]
    lanes, capacity = int(graph.target.partitions), graph.costs.capacity_bytes
    pinned = sum(trials[number].pinned_bytes for number in stages)
    peak = max(trials[number].peak_bytes for number in stages)
    return {
        "core": core,
        "stages": stages,
        "weight_bytes": pinned * lanes,
        "activation_bytes": (peak - pinned) * lanes,
        "free_bytes": (capacity - peak) * lanes,
        "received_bytes": sum(cut.stages[number].bytes_in for number in stages),
        "sent_bytes": sum(cut.stages[number].bytes_out for number in stages),
        "time_us": round(sum(trials[number].time_ns for number in stages) / 1000, 3),
    }


def _stage_row(graph: PipelineGraph, cut: Cut, trials: Sequence[StageTrial], number: int) -> dict[str, Any]:
    """Where a stage begins and ends, what it passes on, and its time."""
    stage, trial = cut.stages[number], trials[number]
    return {
        "stage": number,
        "core": cut.core_of[number],
        "from": graph.name(graph.chain.atoms[stage.first].node),
        "to": graph.name(graph.chain.atoms[stage.last - 1].node),
        "weight_bytes": trial.pinned_bytes * int(graph.target.partitions),
        "received_bytes": stage.bytes_in,
        "sent_bytes": stage.bytes_out,
        "time_us": round(trial.time_ns / 1000, 3),
    }


def _other(graph: PipelineGraph, cuts: Cuts, cores: int) -> dict[str, Any]:
    """What another number of cores would give, estimated."""
    if cores > len(graph.chain.atoms):
        return {"cores": cores, "fits": False, "missing_bytes": 0, "node": ""}
    if cores > cuts.most:
        cuts = Cuts(graph.chain, graph.costs, cores)
    slowest = cuts.slowest_ns(cores)
    if slowest < INFINITE:
        return {"cores": cores, "fits": True, "estimated_throughput_per_second": round(1e9 / slowest, 1)}
    problem = cuts.misfit(cores)
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
    begins = [row["from"] for row in report["stages"]]
    for row in report["per_core"]:
        sizes = (row[f"{kind}_bytes"] for kind in ("weight", "activation", "free", "received", "sent"))
        columns = " ".join(f"{size:>10,}" for size in sizes)
        mark = "  <- bottleneck" if row["core"] == report["bottleneck"] else ""
        held = ", ".join(begins[number] for number in row["stages"])
        lines.append(f"  {row['core']:>4} {columns} {row['time_us']:>9.1f}  {held}{mark}")
    lines.append(
        f"  of {report['capacity_bytes']:,} bytes a core; {report['throughput_per_second']:,.0f} requests/s,"
        f" latency {report['latency_us']:,.0f} us, slowest core {report['imbalance']:.2f} x the mean,"
        f" bubble {report['bubble']:.0%}"
    )
    for other in report["others"]:
        if other["fits"]:
            what = f"about {other['estimated_throughput_per_second']:,.0f} requests/s"
        elif other["node"]:
            what = f"does not fit: {other['missing_bytes']:,} bytes too many on some core, full at {other['node']}"
        else:
            what = "more cores than the model can be cut into"
        lines.append(f"  with {other['cores']}: {what}")
    return lines
