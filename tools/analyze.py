"""`neuron-cc analyze`: what of a model would run where, and why, without compiling it to the end.

Given a model, the analysis runs the pipeline up to the graph level and leaves plain data: shares of operators and of
floating-point operations on the core, every segment with its operators and the bytes over its boundary, and for every
operator on the host the reason and what would move it. `rendered` is the same for people.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from xdsl.dialects.builtin import TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from lowering.compiler import CompileOptions, compile_model
from lowering.graph_to_tile.traffic import model_macs
from neuron_dialects.dtypes import dtype_of_or_none
from neuron_dialects.graph import ConstantOp, FusedOp, OnnxNodeOp, ReduceOp, WeightOp, YieldOp
from neuron_dialects.neuron import Executor, LaunchOp
from passes.graph.partition import MOVING

ADVICE: tuple[tuple[str, str], ...] = (
    (r"only moves data for the host", "it moves to the core together with the host operators next to it"),
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

_MULTIPLIES = frozenset(("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"))
_CONVOLVES = frozenset(("Conv", "ConvInteger", "QLinearConv"))


@dataclass(frozen=True)
class Segment:
    """Consecutive work of one executor. Bytes are those of its operands and results that come from elsewhere."""

    name: str
    executor: str
    operators: dict[str, int]
    flops: int
    bytes_in: int
    bytes_out: int


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


def analyze(model: str | Path, options: CompileOptions) -> Analysis:
    """Analyse an ONNX file for a target. Raises NeuronError as the compiler does."""
    result = compile_model(
        model,
        CompileOptions(options.target, options.auto_cast, options.auto_cast_type, options.input_shapes, emit="graph"),
    )
    rows = result.report["partition"]
    functions = {op.sym_name.data: op for op in result.module.ops if isinstance(op, FuncOp)}
    launches = [op for op in functions["main"].body.block.ops if isinstance(op, LaunchOp)]
    segments = [_segment(launch, functions[launch.callee.root_reference.data]) for launch in launches]
    return Analysis(
        options.target,
        len(rows),
        sum(row["where"] == "core" for row in rows),
        sum(segment.flops for segment in segments),
        sum(segment.flops for segment in segments if segment.executor == str(Executor.CORE)),
        _boundary_bytes(launches),
        segments,
        [
            HostOperator(row["node"], row["op"], row["why"], advice(row["why"]))
            for row in rows
            if row["where"] == "host"
        ],
    )


def advice(reason: str) -> str:
    """What would move an operator that is on the host for this reason; empty if we do not know."""
    return next((text for pattern, text in ADVICE if re.search(pattern, reason)), "")


def operators_of(block: Block) -> Iterator[Operation]:
    """The computing operators of a block, those inside fused groups too."""
    for op in block.ops:
        if isinstance(op, FusedOp):
            yield from operators_of(op.body.block)
        elif not isinstance(op, ConstantOp | WeightOp | YieldOp | ReturnOp):
            yield op


def flops_of(op: Operation) -> int:
    """Floating-point operations of an operator, estimated from shapes.

    Two for each multiply-add of a matmul or convolution, one for each result element of other operators and for each
    operand element of a reduction; none for what only moves data or has an unknown shape.
    """
    if isinstance(op, MOVING):
        return 0
    if isinstance(op, OnnxNodeOp):
        return _host_flops(op)
    if macs := model_macs(op):
        return 2 * macs
    return _elements(op.operands[0] if isinstance(op, ReduceOp) else op.results[0])


def _host_flops(op: OnnxNodeOp) -> int:
    """The estimate for a node that has no graph operator."""
    shapes = [value.type.get_shape() for value in op.operands if isinstance(value.type, TensorType)]
    made = _elements(op.results[0])
    if op.op_type.data in _MULTIPLIES and shapes and shapes[0]:
        return 2 * made * max(shapes[0][-1], 0)
    if op.op_type.data in _CONVOLVES and len(shapes) > 1:
        return 2 * made * max(prod(shapes[1][1:]), 0)
    return made


def _elements(value: SSAValue) -> int:
    """Elements of a tensor; 0 where they are not known."""
    if not isinstance(value.type, TensorType) or not value.type.has_static_shape():
        return 0
    return prod(value.type.get_shape())


def _bytes(value: SSAValue) -> int:
    """Bytes of a tensor; 0 where they are not known."""
    dtype = dtype_of_or_none(value.type) if isinstance(value.type, TensorType) else None
    return _elements(value) * dtype.size_bytes if dtype is not None else 0


def _segment(launch: LaunchOp, function: FuncOp) -> Segment:
    ops = list(operators_of(function.body.block))
    names = Counter(op.op_type.data if isinstance(op, OnnxNodeOp) else op.name for op in ops)
    return Segment(
        function.sym_name.data,
        str(launch.executor.data),
        dict(names.most_common()),
        sum(flops_of(op) for op in ops),
        sum(_bytes(value) for value in launch.arguments),
        sum(_bytes(value) for value in launch.results),
    )


def _boundary_bytes(launches: Sequence[LaunchOp]) -> int:
    """Bytes that one executor makes and another one takes."""
    total = 0
    for launch in launches:
        for value in launch.arguments:
            maker = value.owner
            if isinstance(maker, LaunchOp) and maker.executor != launch.executor:
                total += _bytes(value)
    return total


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
            f"{segment.bytes_out} bytes out: {operators or 'constants only'}"
        )
    if analysis.host_operators:
        lines += ["", "on the host:"]
    for host in analysis.host_operators:
        lines.append(f"  {host.op} '{host.node}': {host.reason}")
        if host.advice:
            lines.append(f"    {host.advice}")
    return "\n".join(lines)
