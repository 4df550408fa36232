"""ONNX nodes inside a model whose operator set may be newer than theirs.

All nodes of a model are of one version of ONNX's operator set. `model_opset` finds a version in which every node of a
function can be written; `emit_onnx_node` writes one: as it is where its operators have not changed since its own
version, else converted by ONNX's version converter. What has subgraphs or was converted goes into a function of the
model, so that its inner names stay its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx.defs
import onnx.version_converter
from onnx import FunctionProto, NodeProto, ValueInfoProto, helper
from xdsl.ir import Attribute

from lowering.nisa_to_neff.host_model.writer import ModelWriter
from lowering.onnx_to_graph.host import subgraphs
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import OnnxNodeOp
from neuron_dialects.neuron import location_name
from runtime.graph_interpreter.host import onnx_type, operand_names, opset_versions, parsed_node

BASE_OPSET = 21
"""The oldest version of ONNX's operator set that models are written in; it has all the operators we write."""
_ASYMMETRIC_BEFORE = 11
"""Until this version Resize, then without a choice, mapped coordinates asymmetrically and rounded them down."""
_CHANGED_IN_MEANING = {"Scan": 9, "Hardmax": 13, "GroupNormalization": 21}
"""Operators that the converter passes unchanged although the same node means something else from this version on."""


def model_opset(ops: Iterable[OnnxNodeOp]) -> int:
    """The lowest version, at least `BASE_OPSET`, that has the operators of all nodes in their own version or later."""
    versions = [BASE_OPSET]
    for op in ops:
        node = parsed_node(op)
        own = opset_versions(op, node).get("", 0)
        versions += (_since(inner.op_type, own) for inner in _default_nodes(node))
    return max(versions)


def _since(op_type: str, opset: int) -> int:
    """The version in which an operator became what it is in `opset`; 0 for one that ONNX does not have."""
    try:
        return int(onnx.defs.get_schema(op_type, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def _default_nodes(node: NodeProto) -> Iterator[NodeProto]:
    """The node and those inside it that are of ONNX's own domain."""
    if node.domain in ("", "ai.onnx"):
        yield node
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from _default_nodes(inner)


def emit_onnx_node(writer: ModelWriter, op: OnnxNodeOp, operands: Sequence[str]) -> list[str]:
    """Write a node; returns one name per result. Operands and results have the element types that the operator states.

    NeuronError NX-IR-001 when the operator holds no such node, NX-OP-001 when it cannot be written in this version.
    """
    node = parsed_node(op)
    versions = opset_versions(op, node)
    names = operand_names(node, op)
    by_name = dict(zip(names, operands, strict=True))
    own = versions.get("", writer.opset)
    changed = any(_since(inner.op_type, own) != _since(inner.op_type, writer.opset) for inner in _default_nodes(node))
    if not changed and not any(subgraphs(node)):
        results = writer.add(node, [by_name.get(name, "") for name in node.input], versions)
        return [name for name in results if name]
    nodes = _converted(op, node, versions, writer.opset) if changed else [node]
    imports = {**versions, "": writer.opset}
    function = FunctionProto(
        input=by_name,
        output=[name for name in node.output if name],
        node=nodes,
        opset_import=[helper.make_opsetid(domain, version) for domain, version in imports.items()],
    )
    return writer.call(function, list(by_name.values()))


def _converted(op: OnnxNodeOp, node: NodeProto, versions: dict[str, int], opset: int) -> list[NodeProto]:
    """The node in another version of ONNX's operator set."""
    own = versions[""]
    for inner in _default_nodes(node):
        if own < _CHANGED_IN_MEANING.get(inner.op_type, 0) <= opset:
            raise _inconvertible(op, inner.op_type, own, opset, "its meaning has changed")
    operands = dict(zip(operand_names(node, op), op.inputs, strict=True))
    graph = helper.make_graph(
        [node],
        "node",
        [_value_info(name, value.type) for name, value in operands.items()],
        [ValueInfoProto(name=name) for name in node.output if name],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    model = helper.make_model(graph, opset_imports=imports)
    try:
        converted = onnx.version_converter.convert_version(model, opset).graph
    except Exception as error:  # the converter raises RuntimeError, ValidationError, InferenceError and others
        reason = str(error).strip().partition("\n")[0]
        raise _inconvertible(op, op.op_type.data, own, opset, reason) from error
    if own < _ASYMMETRIC_BEFORE:
        for inner in converted.node:
            _make_asymmetric(inner)
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in converted.initializer]
    return [*constants, *converted.node]


def _inconvertible(op: OnnxNodeOp, op_type: str, own: int, opset: int, reason: str) -> NeuronError:
    return NeuronError(
        "NX-OP-001",
        f"the host cannot run {op_type} of opset {own}: it cannot be converted to opset {opset}: {reason}",
        node=location_name(op.location),
        help=f"export the model with opset {opset}",
    )


def _value_info(name: str, type_: Attribute) -> ValueInfoProto:
    """What the converter is told of an operand; of some it gets to know nothing."""
    try:
        return helper.make_value_info(name, onnx_type(type_))
    except NeuronError:
        return ValueInfoProto(name=name)


def _make_asymmetric(node: NodeProto) -> None:
    """Give every Resize, all of which had no such attributes before, the meaning that they had."""
    if node.op_type == "Resize" and node.domain == "":
        node.attribute.extend(
            [
                helper.make_attribute("coordinate_transformation_mode", "asymmetric"),
                helper.make_attribute("nearest_mode", "floor"),
            ]
        )
    for graph in subgraphs(node):
        for inner in graph.node:
            _make_asymmetric(inner)
