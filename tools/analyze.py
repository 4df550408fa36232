"""`neuron-cc analyze`: what of a model would run where, and why.

Given a model, the analysis compiles it up to its instructions, because the back end may refuse what the partition gave
it, and leaves plain data: shares of operators and of floating-point operations on the core, every segment with its
operators and estimated time, the bytes over every boundary, and for every operator on the host the reason and what
would move it. `rendered` is the same for people.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lowering.compiler import CompileOptions, compile_model
from lowering.segment_report import INPUTS, OUTPUTS
from neuron_dialects.neuron import Executor

ADVICE: tuple[tuple[str, str], ...] = (
    (r"only moves data for the host", "it moves to the core together with the host operators next to it"),
    (r"too little work for a core", "--force-core with its name keeps it on the core"),
    (r"in a segment of fewer than", "lower --minimum-segment-size, or name it with --force-core"),
    (r"forced to the host", "leave it out of --force-host"),
    (r"the back end refused", "another --target or other shapes may fit; the refusal says what did not"),
    (r"^cores have no operator", "replace it in the model by operators that `neuron-cc list-operators` names"),
    (r"element type f64", "convert the model to float32"),
    (r"element type", "cast it to f32, f16, bf16 or an integer of at most 32 bits in the model"),
    (r"values of type", "only tensors move to the core: keep strings, sequences and optionals out of the network"),
    (r"not static", "give the inputs fixed shapes with --input-shape, or make the shape a constant in the model"),
    (r"no elements", "nothing is left to compute: remove the empty tensor from the model"),
    (r"does not multiply", "choose another --target, or cast the operands to f32 or bf16"),
    (r"does not fit the 32-bit integers", "use a constant that 32 bits hold"),
    (r"not exact on a core", "compute it in f32"),
)
"""Pattern found in the reason of an operator on the host -> what would move it to the core; the first one counts."""


@dataclass(frozen=True)
class Segment:
    """Consecutive work of one executor. Bytes are those of its operands and results that come from elsewhere."""

    name: str
    executor: str
    operators: dict[str, int]
    flops: int
    bytes_in: int
    bytes_out: int
    estimated_us: float
    """The partitioner's estimate, with the launch and without transfers."""


@dataclass(frozen=True)
class HostOperator:
    """An operator that stays on the host."""

    node: str
    op: str
    reason: str
    advice: str


@dataclass(frozen=True)
class Analysis:
    """What `neuron-cc analyze` knows of a model. Shares are from 0 to 1; 1 where there is nothing to share."""

    target: str
    operators: int
    operators_on_core: int
    flops: int
    flops_on_core: int
    boundary_bytes: int
    """Bytes between segments that run on different executors, once per transfer."""
    segments: list[Segment]
    transfers: list[dict[str, Any]]
    """`from`, `to`, `bytes`: between segments, `inputs` and `outputs` on different sides."""
    host_operators: list[HostOperator]

    @property
    def operator_share(self) -> float:
        return self.operators_on_core / self.operators if self.operators else 1.0

    @property
    def flop_share(self) -> float:
        return self.flops_on_core / self.flops if self.flops else 1.0

    def data(self) -> dict[str, Any]:
        """As JSON, with shares in percent."""
        shares = {
            "operators_on_core_percent": round(100 * self.operator_share, 2),
            "flops_on_core_percent": round(100 * self.flop_share, 2),
        }
        return {**asdict(self), **shares}


def analyze(model: str | Path, options: CompileOptions, lower: bool = True) -> Analysis:
    """Analyse an ONNX file for a target. Raises NeuronError as the compiler does.

    `lower`: whether to ask the back end too, which may refuse a segment and is most of a compilation's time.
    """
    report = compile_model(model, replace(options, emit="nisa" if lower else "graph")).report
    rows = report["partition"]
    segments = [Segment(**segment) for segment in report["segments"]]
    transfers = report["transfers"]
    return Analysis(
        options.target,
        len(rows),
        sum(row["where"] == "core" for row in rows),
        sum(segment.flops for segment in segments),
        sum(segment.flops for segment in segments if segment.executor == str(Executor.CORE)),
        sum(row["bytes"] for row in transfers if row["from"] != INPUTS and row["to"] != OUTPUTS),
        segments,
        transfers,
        [
            HostOperator(row["node"], row["op"], row["why"], advice(row["why"]))
            for row in rows
            if row["where"] == "host"
        ],
    )


def advice(reason: str) -> str:
    """What would move an operator that is on the host for this reason; empty if we do not know."""
    return next((text for pattern, text in ADVICE if re.search(pattern, reason)), "")


def rendered(analysis: Analysis) -> str:
    """The analysis as text."""
    lines = [
        f"{analysis.operator_share:.1%} of operators on the core "
        f"({analysis.operators_on_core} of {analysis.operators})",
        f"{analysis.flop_share:.1%} of FLOPs on the core ({analysis.flops_on_core} of {analysis.flops})",
        f"{len(analysis.segments)} segments, {analysis.boundary_bytes} bytes between core and host",
        "",
    ]
    for segment in analysis.segments:
        operators = ", ".join(f"{count} {name}" for name, count in segment.operators.items())
        lines.append(
            f"{segment.name} ({segment.executor}): {segment.flops} FLOPs, {segment.bytes_in} bytes in, "
            f"{segment.bytes_out} bytes out, about {segment.estimated_us:.1f} us: {operators or 'constants only'}"
        )
    lines += ["", *(f"{row['from']} -> {row['to']}: {row['bytes']} bytes" for row in analysis.transfers)]
    if analysis.host_operators:
        lines += ["", "on the host:"]
    for host in analysis.host_operators:
        lines.append(f"  {host.op} '{host.node}': {host.reason}")
        if host.advice:
            lines.append(f"    {host.advice}")
    return "\n".join(lines)
