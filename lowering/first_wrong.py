"""The first tensor of a model that the machine computes wrongly: bisection over the tensors, each compiled on its own.

Where an output of a compiled model is far from onnxruntime's, `first_wrong` looks for the operator where that begins.
For a tensor in the middle of the program, the model that ends with it is compiled through all levels, run on the
machine and compared with onnxruntime; from there the search goes on among the tensors in front of it, or behind. It
takes about log2(n) compilations for n operators, each of a part of the model, and assumes that what is wrong stays
wrong on the way to the output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.dtypes import dtype_of_onnx
from neuron_dialects.errors import NeuronError
from runtime.reference import errors, run_intermediates
from runtime.session import Session

if TYPE_CHECKING:
    from onnx import ModelProto

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class WrongTensor:
    """The first tensor beyond the tolerance."""

    tensor: str
    node: str
    """Node that computes it, by the name that the ONNX file gives it."""
    op: str
    rel_l2_error: float
    max_abs_error: float
    compilations: int

    def data(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)

    def line(self) -> str:
        """What a person reads."""
        node = f" of node '{self.node}'" if self.node else ""
        return (
            f"first wrong on the machine: {self.tensor} ({self.op}{node}), rel_l2_error {self.rel_l2_error:.3g},"
            f" found with {self.compilations} compilations"
        )


@dataclass(frozen=True)
class _Candidate:
    tensor: str
    node: str
    op: str


def first_wrong(
    path: Path, inputs: Mapping[str, Array], options: CompileOptions, tolerance: float, output: str
) -> WrongTensor | None:
    """Search among the float tensors that an output is computed from, in the order of the model's nodes.

    Args:
        path: the ONNX file.
        inputs: its inputs by name; their shapes are compiled for.
        options: target and casts.
        tolerance: rel_l2_error beyond which a tensor counts as wrong.
        output: the output that is wrong.

    Returns:
        None when the output is within the tolerance if the model ends with it. NeuronError as from compiling.
    """
    import onnx

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's exception classes differ between its implementations
        raise NeuronError("NX-RUN-020", f"{path} is not an ONNX model") from error
    candidates = _candidates(model, output)
    probe = _Probe(path, model, inputs, replace(options, emit="neff"))
    high = len(candidates) - 1
    found = probe.errors(candidates[high]) if candidates else None
    if found is None or found["rel_l2_error"] <= tolerance:
        return None
    low = 0
    # candidates[high] is wrong; everything in front of low is right, or cannot be looked at.
    while low < high:
        middle = (low + high) // 2
        there = probe.errors(candidates[middle])
        if there is not None and not there["rel_l2_error"] <= tolerance:
            high, found = middle, there
        else:
            low = middle + 1
    wrong = candidates[high]
    return WrongTensor(
        wrong.tensor, wrong.node, wrong.op, found["rel_l2_error"], found["max_abs_error"], probe.compilations
    )


class _Probe:
    """Compiles and runs the model up to one tensor."""

    def __init__(self, path: Path, model: ModelProto, inputs: Mapping[str, Array], options: CompileOptions) -> None:
        self._path = path
        self._model = model
        self._inputs = inputs
        self._options = options
        self.compilations = 0

    def errors(self, candidate: _Candidate) -> dict[str, float] | None:
        """The tensor's distance from onnxruntime's; None where the model cannot end there."""
        import onnx

        expected = run_intermediates(self._path, self._inputs, [candidate.tensor]).get(candidate.tensor)
        if expected is None or expected.dtype.kind == "O":
            return None
        data_type = onnx.helper.np_dtype_to_tensor_dtype(expected.dtype)
        shape = list(expected.shape)
        cut = onnx.ModelProto()
        cut.CopyFrom(self._model)
        del cut.graph.output[:]
        cut.graph.output.append(onnx.helper.make_tensor_value_info(candidate.tensor, data_type, shape))
        _drop_unread(cut)
        left = {value.name for value in cut.graph.input}
        given = {name: value for name, value in self._inputs.items() if name in left}
        shapes = {name: tuple(value.shape) for name, value in given.items()}
        self.compilations += 1
        try:
            neff = compile_model(cut, replace(self._options, input_shapes=shapes)).neff
        except NeuronError:
            return None
        assert neff is not None
        value = Session(neff).run(given).outputs[candidate.tensor]
        return errors(value.reshape(expected.shape), expected)


def _candidates(model: ModelProto, output: str) -> list[_Candidate]:
    """The float tensors that an output is computed from, itself the last, in the order of the nodes."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    needed = _needed(model, output)
    found: list[_Candidate] = []
    for node in model.graph.node:
        for tensor in node.output:
            dtype = dtype_of_onnx(types.get(tensor, 0))
            if tensor in needed and node.op_type != "Constant" and (tensor == output or (dtype and dtype.is_float)):
                found.append(_Candidate(tensor, node.name, node.op_type))
    return found


def _needed(model: ModelProto, output: str) -> set[str]:
    """The tensors that `output` is computed from, itself included."""
    from lowering.onnx_to_graph.host import captured_names

    needed = {output}
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update([*node.input, *captured_names(node)])
    return needed


def _drop_unread(model: ModelProto) -> None:
    """Remove the nodes, inputs and initializers that no output needs."""
    needed: set[str] = set()
    for value in model.graph.output:
        needed |= _needed(model, value.name)
    nodes = [node for node in model.graph.node if needed.intersection(node.output)]
    parts: list[tuple[Any, Sequence[Any]]] = [
        (model.graph.node, nodes),
        (model.graph.input, [value for value in model.graph.input if value.name in needed]),
        (model.graph.initializer, [tensor for tensor in model.graph.initializer if tensor.name in needed]),
    ]
    for field, left in parts:
        del field[:]
        field.extend(left)
