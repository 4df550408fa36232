"""Running one ONNX node on the host.

A `graph.onnx_node` becomes a model of that one node, which onnxruntime runs without graph optimisation, as the node
says. Where onnxruntime has no kernel, the reference implementation of the onnx package runs it. Both libraries are
imported when the first node is run. Elements that numpy has no type for (bf16, 8-bit floats) enter and leave the model
as f32, with Cast nodes that are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.dialects.builtin import TensorType, UnrankedTensorType
from xdsl.ir import Attribute

from neuron_dialects.dtypes import DType, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import OnnxNodeOp, OpaqueType
from neuron_dialects.neuron import location_name

if TYPE_CHECKING:
    import onnx

_SESSIONS_KEPT = 64
"""Prepared nodes that are kept for the next run of the same node."""


def run_onnx_node(op: OnnxNodeOp, operands: Sequence[Any]) -> list[Any]:
    """The results of a node for the values of its operands.

    Tensors are numpy arrays, sequences are lists, an absent optional is None. NeuronError NX-OP-001 when neither
    library can run the node, NX-OP-002 when it refuses these values.
    """
    model = one_node_model(op)
    by_name = dict(zip(operand_names(parsed_node(op), op), operands, strict=True))
    feeds = {value.name: _fed(operand) for value, operand in zip(model.graph.input, by_name.values(), strict=True)}
    try:
        runner = _prepared(model.SerializeToString())
    except Exception as error:
        raise NeuronError(
            "NX-OP-001",
            f"the host cannot run operator {op.op_type.data}: {_first_line(error)}",
            node=location_name(op.location),
        ) from error
    try:
        results = runner.run([value.name for value in model.graph.output], feeds)
    except Exception as error:
        raise NeuronError(
            "NX-OP-002",
            f"operator {op.op_type.data} failed on the host: {_first_line(error)}",
            node=location_name(op.location),
        ) from error
    return [_fetched(value, type_) for value, type_ in zip(results, op.result_types, strict=True)]


class _Runner:
    """A prepared model of one node."""

    def __init__(self, model: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        # A node is too small to be worth a pool of threads of its own.
        options.intra_op_num_threads = 1
        self._session: Any
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as refused:
            from onnx.reference import ReferenceEvaluator

            try:
                self._session = ReferenceEvaluator(_parsed_model(model))
            except Exception as error:
                raise error from refused

    def run(self, outputs: list[str], feeds: dict[str, Any]) -> Sequence[Any]:
        """Values of `outputs` for the given inputs."""
        return self._session.run(outputs, feeds)


@lru_cache(_SESSIONS_KEPT)
def _prepared(model: bytes) -> _Runner:
    return _Runner(model)


def _parsed_model(data: bytes) -> onnx.ModelProto:
    import onnx

    model = onnx.ModelProto()
    model.ParseFromString(data)
    return model


def one_node_model(op: OnnxNodeOp) -> onnx.ModelProto:
    """The model whose graph is this node, between Cast nodes where numpy lacks an element type.

    NeuronError NX-IR-001 when the operator's text is not that of an ONNX node with as many inputs and outputs.
    """
    from onnx import TensorProto, ValueInfoProto, helper

    node = parsed_node(op)
    casts_in: list[onnx.NodeProto] = []
    casts_out: list[onnx.NodeProto] = []
    inputs: dict[str, onnx.ValueInfoProto] = {}
    taken = {*node.input, *node.output, *op.capture_names}
    for name, value in zip(operand_names(node, op), op.inputs, strict=True):
        dtype = _carried(value.type)
        if name in inputs:
            continue
        if dtype is None:
            inputs[name] = helper.make_value_info(name, onnx_type(value.type))
            continue
        # The node reads its operand under the operand's name: the model's input is called differently.
        carrier = _fresh(name, taken)
        casts_in.append(helper.make_node("Cast", [carrier], [name], to=dtype.onnx))
        inputs[name] = helper.make_tensor_value_info(carrier, TensorProto.FLOAT, None)
    outputs: list[onnx.ValueInfoProto] = []
    for name, type_ in zip([name for name in node.output if name], op.result_types, strict=True):
        dtype = _carried(type_)
        if dtype is None:
            outputs.append(ValueInfoProto(name=name))
            continue
        carrier = _fresh(name, taken)
        casts_out.append(helper.make_node("Cast", [name], [carrier], to=TensorProto.FLOAT))
        outputs.append(helper.make_tensor_value_info(carrier, TensorProto.FLOAT, None))
    graph = helper.make_graph([*casts_in, node, *casts_out], "node", list(inputs.values()), outputs)
    imports = [helper.make_opsetid(domain, version) for domain, version in opset_versions(op, node).items()]
    model = helper.make_model(graph, opset_imports=imports)
    model.ir_version = helper.find_min_ir_version_for(imports, ignore_unknown=True)
    return model


def parsed_node(op: OnnxNodeOp) -> onnx.NodeProto:
    """The node that the operator carries.

    NeuronError NX-IR-001 when its text is not that of an ONNX node with as many inputs and outputs as the operator.
    """
    import onnx
    from google.protobuf.message import DecodeError

    node = onnx.NodeProto()
    try:
        node.ParseFromString(op.node_bytes)
    except DecodeError as error:
        raise _malformed(op, "its text is not that of an ONNX node") from error
    inputs = sum(1 for name in node.input if name) + len(op.capture_names)
    outputs = sum(1 for name in node.output if name)
    if inputs != len(op.inputs) or outputs != len(op.results):
        raise _malformed(
            op,
            f"the ONNX node has {inputs} inputs and {outputs} outputs,"
            f" the operator {len(op.inputs)} operands and {len(op.results)} results",
        )
    return node


def _malformed(op: OnnxNodeOp, problem: str) -> NeuronError:
    return NeuronError("NX-IR-001", f"{op.op_type.data}: {problem}", node=location_name(op.location))


def operand_names(node: onnx.NodeProto, op: OnnxNodeOp) -> list[str]:
    """The name under which the node reads each operand."""
    return [*(name for name in node.input if name), *op.capture_names]


def opset_versions(op: OnnxNodeOp, node: onnx.NodeProto) -> dict[str, int]:
    """Domain -> version: the operator's own, and whatever else the nodes of its subgraphs are from."""
    from onnx.defs import onnx_opset_version

    versions = {op.domain.data: op.opset.value.data}
    for domain in sorted(_domains(node)):
        versions.setdefault(domain, 1 if domain else onnx_opset_version())
    return versions


def _domains(node: onnx.NodeProto) -> Iterator[str]:
    yield "" if node.domain == "ai.onnx" else node.domain
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _domains(inner)


def _carried(type_: Attribute) -> DType | None:
    """The element type of tensors that numpy has no type for, so that they enter and leave as f32; else None."""
    dtype = dtype_of_or_none(type_) if isinstance(type_, TensorType) else None
    if dtype is None or not dtype.is_float or dtype.onnx is None or dtype.numpy.isbuiltin == 1:
        return None
    return dtype


def _fresh(name: str, taken: set[str]) -> str:
    """A name that nothing in the model has, made from `name`."""
    while name in taken:
        name += "_f32"
    taken.add(name)
    return name


def onnx_type(type_: Attribute) -> onnx.TypeProto:
    """The ONNX type of a value; shapes only where they are static. NeuronError NX-OP-002 when ONNX has no such type."""
    from onnx import helper

    if isinstance(type_, OpaqueType):
        return _spelled_type(type_.spelling.data)
    assert isinstance(type_, TensorType | UnrankedTensorType)
    dtype = dtype_of_or_none(type_.element_type)
    if dtype is None or dtype.onnx is None:
        element = type_.element_type
        return _spelled_type(element.spelling.data if isinstance(element, OpaqueType) else str(element))
    shape = type_.get_shape() if isinstance(type_, TensorType) else (-1,)
    return helper.make_tensor_type_proto(dtype.onnx, None if -1 in shape else shape)


def _spelled_type(spelling: str) -> onnx.TypeProto:
    """The type that ONNX spells `tensor(string)`, `seq(tensor(float))`, `optional(...)`; a bare element is a tensor."""
    from onnx import TensorProto, helper

    constructor, parenthesis, rest = spelling.partition("(")
    inner = rest.removesuffix(")")
    if parenthesis and constructor == "seq":
        return helper.make_sequence_type_proto(_spelled_type(inner))
    if parenthesis and constructor == "optional":
        return helper.make_optional_type_proto(_spelled_type(inner))
    element = inner if parenthesis and constructor == "tensor" else spelling
    codes = {name.lower(): code for name, code in TensorProto.DataType.items()}
    if element not in codes:
        raise NeuronError("NX-OP-002", f"the host has no ONNX type '{spelling}'")
    return helper.make_tensor_type_proto(codes[element], None)


def _fed(value: Any) -> Any:
    """A value as the libraries take it: float32 for elements that numpy lacks, contiguous."""
    if isinstance(value, np.ndarray) and value.dtype.isbuiltin != 1:
        return value.astype(np.float32)
    return np.ascontiguousarray(value).reshape(value.shape) if isinstance(value, np.ndarray) else value


def _fetched(value: Any, type_: Attribute) -> Any:
    """A result as an array of the element type that the operator states."""
    dtype = _carried(type_)
    if dtype is not None:
        return np.asarray(value).astype(dtype.numpy)
    return np.asarray(value) if isinstance(type_, TensorType) else value


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
