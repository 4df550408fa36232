"""What number formats cost, tensor by tensor: a compiled model's values against onnxruntime's f32 on the user's inputs.

Given the ONNX file, inputs and the options of a compilation, `cast_report` runs the compiled graph (partitioned, cast,
fused) in the interpreter, which rounds after every operator (the core keeps f32 inside of a group), and compares each
tensor that the ONNX model names and the compiled program still has with onnxruntime's. Passes change what operators
compute (a folded batch normalisation, a scale that moves behind its layer); a tensor is therefore compared only where
the same program without casts gives what onnxruntime gives. Tensors are compared in portions, so that memory is bounded
by a portion and not by the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation

from lowering.compiler import CompileOptions, CompileResult, compile_model
from lowering.execute import input_names, main_function
from neuron_dialects.dtypes import dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import FusedOp
from neuron_dialects.neuron import LaunchOp, location_name
from passes.graph.auto_cast import LAYERS
from passes.graph.roll_layers import GraphRollLayersPass
from runtime.graph_interpreter import WeightResolver, run_graph
from runtime.reference import errors, run_intermediates

Array = np.ndarray[Any, np.dtype[Any]]

PORTION_BYTES = 256 << 20
"""Most bytes of onnxruntime's tensors that are held at a time (a single larger one is a portion of its own)."""
SAME_VALUE = 2e-3
"""rel_l2_error up to which a tensor of the program without casts is the one of that name in the model."""
TOLERANCES = {"none": 1e-4, "matmult": 3e-2, "all": 3e-2}
"""Cast mode -> rel_l2_error that counts as kept where the user gives none."""


@dataclass(frozen=True)
class TensorLoss:
    """How far a tensor of the compiled model is from onnxruntime's."""

    tensor: str
    """Name in the ONNX model."""
    op: str
    """Operator that computes it."""
    node: str
    segment: str
    """Function of the compiled program: neuron_K on a core, host_K on the host."""
    cast: str
    """Element type in which the layer multiplies, or in which the tensor is computed."""
    rel_l2_error: float
    max_abs_error: float
    non_finite_share: float
    """Share of the elements that are infinite or NaN here and not in the reference."""
    order: int
    """Position in the compiled program."""

    def data(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class CastReport:
    """Losses, worst first; the first tensor of the program beyond the tolerance; what could not be compared."""

    tolerance: float
    losses: list[TensorLoss]
    not_compared: list[str]
    """Tensors of the model that the compiled program does not compute as such."""

    @property
    def first(self) -> TensorLoss | None:
        """The first tensor, in the order of the program, whose error exceeds the tolerance."""
        beyond = [loss for loss in self.losses if not loss.rel_l2_error <= self.tolerance]
        return min(beyond, key=lambda loss: loss.order, default=None)

    def data(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {
            "tolerance": self.tolerance,
            "values": "compiled graph, interpreted",
            "first_beyond_tolerance": None if self.first is None else self.first.tensor,
            "tensors": [loss.data() for loss in self.losses],
            "not_compared": self.not_compared,
        }


def cast_report(
    model: Path, inputs: Mapping[str, Array], options: CompileOptions, tolerance: float | None = None
) -> CastReport:
    """Compare every tensor of a model.

    Args:
        model: the ONNX file.
        inputs: its inputs by name; their shapes are compiled for.
        options: target and casts.
        tolerance: rel_l2_error that counts as kept; by default 1e-4 without casts and 3e-2 with.

    NeuronError as from compiling, and NX-RUN-020 when onnxruntime cannot run the model.
    """
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    # Every node has an operator of its own: layers are not rolled.
    options = replace(options, input_shapes=shapes, emit="graph", without=(*options.without, GraphRollLayersPass.name))
    compiled = compile_model(model, options)
    plain = compile_model(model, replace(options, without=(*options.without, "graph-auto-cast")))
    nodes = _node_outputs(model)
    ours, theirs = _computed_by(compiled, nodes), _computed_by(plain, nodes)
    common = [tensor for tensor in ours if tensor in theirs]
    sizes = {tensor: _reference_bytes(theirs[tensor]) for tensor in common}
    losses: list[TensorLoss] = []
    for portion in _portions(sizes):
        expected = run_intermediates(model, inputs, portion)
        losses += _portion_losses(expected, (plain, theirs), (compiled, ours), inputs, nodes)
    losses.sort(key=lambda loss: (-loss.rel_l2_error, loss.order))
    named = {loss.tensor for loss in losses}
    missing = [tensor for tensor, _ in nodes.values() if tensor not in named]
    limit = TOLERANCES[options.auto_cast] if tolerance is None else tolerance
    return CastReport(limit, losses, missing)


def _node_outputs(model: Path) -> dict[str, tuple[str, str]]:
    """Name of each node, as the import gives it -> its first output and its operator."""
    import onnx

    try:
        graph = onnx.load(str(model), load_external_data=False).graph
    except Exception as error:  # protobuf's exception classes differ between its implementations
        raise NeuronError("NX-RUN-020", f"{model} is not an ONNX model") from error
    return {
        node.name or f"{node.op_type}_{index}": (node.output[0], node.op_type)
        for index, node in enumerate(graph.node)
        if node.output and node.op_type != "Constant"
    }


@dataclass(frozen=True)
class _Place:
    """Where a tensor is computed: the operator, its function, its position in the program."""

    op: Operation
    segment: str
    order: int


def _computed_by(result: CompileResult, nodes: Mapping[str, tuple[str, str]]) -> dict[str, _Place]:
    """ONNX tensor -> the last operator that was made of its node."""
    places: dict[str, _Place] = {}
    order = 0
    for function in result.module.body.block.ops:
        if not isinstance(function, FuncOp) or function.sym_name.data == "main":
            continue
        for op in function.body.walk():
            node = location_name(op.location)
            if node is not None and node in nodes and op.results and not isinstance(op, FusedOp | LaunchOp):
                tensor = nodes[node][0]
                # The tensor is complete with the last operator, and has its place in the program with the first.
                begun = places[tensor].order if tensor in places else order
                places[tensor] = _Place(op, function.sym_name.data, begun)
                order += 1
    return places


def _reference_bytes(place: _Place) -> int:
    dtype = dtype_of_or_none(place.op.results[0].type)
    shape = getattr(place.op.results[0].type, "get_shape", tuple)()
    return int(np.prod([max(size, 1) for size in shape], dtype=np.int64)) * (8 if dtype is None else dtype.size_bytes)


def _portions(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Tensors in runs that do not exceed `PORTION_BYTES` together."""
    portion: list[str] = []
    total = 0
    for tensor, size in sizes.items():
        if portion and total + size > PORTION_BYTES:
            yield portion
            portion, total = [], 0
        portion.append(tensor)
        total += size
    if portion:
        yield portion


def _portion_losses(
    expected: Mapping[str, Array],
    plain: tuple[CompileResult, Mapping[str, _Place]],
    compiled: tuple[CompileResult, Mapping[str, _Place]],
    inputs: Mapping[str, Array],
    nodes: Mapping[str, tuple[str, str]],
) -> list[TensorLoss]:
    """The losses of the tensors of one portion; programs come with the places of tensors in them."""
    same: set[str] = set()
    losses: list[TensorLoss] = []

    def compare_plain(tensor: str, value: Array) -> None:
        if _matches(value, expected[tensor]):
            same.add(tensor)

    def compare(tensor: str, value: Array) -> None:
        reference = expected[tensor]
        losses.append(_loss(tensor, nodes, compiled[1][tensor], value.reshape(reference.shape), reference))

    _watch(plain[0], inputs, {plain[1][tensor].op: tensor for tensor in expected}, compare_plain)
    _watch(compiled[0], inputs, {compiled[1][tensor].op: tensor for tensor in expected if tensor in same}, compare)
    return losses


def _watch(
    result: CompileResult,
    inputs: Mapping[str, Array],
    wanted: Mapping[Operation, str],
    seen: Callable[[str, Array], None],
) -> None:
    """Run the program, and show what some of its operators compute; none of that is kept here."""

    def observe(op: Operation, value: Array) -> None:
        if op in wanted:
            seen(wanted[op], value)

    main = main_function(result.module)
    weights = WeightResolver(result.module, result.weights)
    run_graph(main, [inputs[name] for name in input_names(main)], weights, observe=observe)


def _matches(value: Array, reference: Array) -> bool:
    """Whether a tensor of the program without casts is the reference's."""
    if value.size != reference.size or "O" in (value.dtype.kind, reference.dtype.kind):
        return False
    return errors(value.reshape(reference.shape), reference)["rel_l2_error"] <= SAME_VALUE


def _loss(
    tensor: str, nodes: Mapping[str, tuple[str, str]], place: _Place, value: Array, reference: Array
) -> TensorLoss:
    node = location_name(place.op.location) or ""
    wide, expected = value.astype(np.float32), reference.astype(np.float32)
    lost = ~np.isfinite(wide) & np.isfinite(expected)
    found = errors(value, reference)
    return TensorLoss(
        tensor,
        nodes[node][1],
        node,
        place.segment,
        _cast_of(place.op),
        found["rel_l2_error"],
        found["max_abs_error"],
        float(lost.mean()) if lost.size else 0.0,
        place.order,
    )


def _cast_of(op: Operation) -> str:
    """The type of what a layer multiplies, or of a result."""
    value = op.operands[0] if type(op) in LAYERS else op.results[0]
    return str(dtype_of_or_none(value.type) or value.type)


def report_lines(report: CastReport, most: int = 20) -> Sequence[str]:
    """The report as a table of its worst tensors."""
    losses = report.losses[:most]
    rows = [("rel_l2", "max_abs", "non-finite", "type", "segment", "op", "tensor")]
    rows += [
        (
            f"{loss.rel_l2_error:.2e}",
            f"{loss.max_abs_error:.2e}",
            f"{loss.non_finite_share:.1%}",
            loss.cast,
            loss.segment,
            loss.op,
            loss.tensor,
        )
        for loss in losses
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    if len(report.losses) > most:
        lines.append(f"... and {len(report.losses) - most} more")
    first = report.first
    kept = f"every tensor compared is within {report.tolerance:g}"
    lines.append(kept if first is None else f"first beyond {report.tolerance:g}: {first.tensor} ({first.op})")
    lines.append(
        f"values: compiled graph, interpreted; {len(report.losses)} tensors compared, "
        f"{len(report.not_compared)} are not computed as such"
    )
    return lines
