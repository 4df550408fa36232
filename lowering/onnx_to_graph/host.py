"""Nodes that stay ONNX nodes and run on the host.

Such a node becomes a `graph.onnx_node` that carries its NodeProto and can run alone: values that its subgraphs take
from the enclosing graph become operands as well. Its result types are what onnx infers from the operand types,
refined by what the model declares; dimensions known only at run time stay dynamic.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import onnx.defs
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.node import Node
from lowering.onnx_to_graph.types import refine, to_onnx, to_xdsl
from lowering.onnx_to_graph.values import Constant, Emitter, HostConstant, Value
from neuron_dialects.graph import OnnxNodeOp

_SHOWN_ELEMENTS = 1024
"""Constants up to this size are shown to shape inference."""

RANDOM_OPERATORS = frozenset(
    ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout")
)
"""Operators that draw random numbers; Dropout gets here only in training mode."""


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among the attributes of a node."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def captured_names(node: NodeProto) -> list[str]:
    """Names that the subgraphs of a node take from outside, in the order of their first use."""
    names: dict[str, None] = {}
    for graph in subgraphs(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {tensor.values.name for tensor in graph.sparse_initializer}
        for inner in graph.node:
            read = [*inner.input, *captured_names(inner)]
            names.update(dict.fromkeys(name for name in read if name and name not in own))
            own.update(inner.output)
        names.update(dict.fromkeys(value.name for value in graph.output if value.name not in own))
    return list(names)


def is_random(node: NodeProto) -> bool:
    """Whether the node, or one inside it, draws random numbers."""
    return node.op_type in RANDOM_OPERATORS or any(
        is_random(inner) for graph in subgraphs(node) for inner in graph.node
    )


@dataclass(slots=True)
class HostTypes:
    """What is known about the types of values that only the host handles."""

    symbols: Mapping[str, int]
    """Sizes of the symbolic dimensions."""
    declared: Mapping[str, TypeProto]
    """Types that the model declares for values of its main graph."""
    opsets: Mapping[str, int]
    ir_version: int
    known: dict[SSAValue, TypeProto] = field(default_factory=dict[SSAValue, TypeProto])
    """ONNX types of results of earlier host nodes, which may say more than their xDSL types."""

    def of(self, value: Value) -> TypeProto:
        """The ONNX type of a value, as far as it is known."""
        if isinstance(value, Constant):
            return onnx.helper.make_tensor_type_proto(value.dtype.onnx or TensorProto.UNDEFINED, value.shape)
        if isinstance(value, HostConstant):
            return onnx.helper.make_tensor_type_proto(value.tensor.data_type, value.tensor.dims)
        return self.known.get(value) or to_onnx(value.type)


def infer_types(
    node: NodeProto, inputs: Mapping[str, Value], types: HostTypes, *, strict: bool
) -> dict[str, TypeProto]:
    """Types of the node's outputs as onnx infers them, by name, from the types and small constant values of its inputs.

    When `strict`, raises onnx.shape_inference.InferenceError where onnx finds the node contradictory. Otherwise values
    are not looked at, and what cannot be inferred is left open.
    """
    graph_inputs = [onnx.helper.make_value_info(name, types.of(value)) for name, value in inputs.items()]
    shown = [
        onnx.numpy_helper.from_array(value.read(), name)
        for name, value in inputs.items()
        if strict and isinstance(value, Constant) and value.size <= _SHOWN_ELEMENTS
    ]
    outputs = [onnx.helper.make_value_info(name, TypeProto()) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "node", graph_inputs, outputs, shown)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in types.opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=types.ir_version)
    # No data propagation: known values are shown as initializers, and onnx would hold elements of every integer tensor.
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=strict)
    return {value.name: value.type for value in inferred.graph.output}


def emit_host_node(node: Node, types: HostTypes, inferred: Mapping[str, TypeProto]) -> tuple[OnnxNodeOp, list[Value]]:
    """Emit the `graph.onnx_node` of a node; returns it and one value per output name, in order."""
    captures = captured_names(node.proto)
    names = [name for name in node.proto.input if name]
    operands = [_host_operand(node, name, types) for name in [*names, *captures]]
    outputs = [name for name in node.proto.output if name]
    full = [refine(inferred.get(name), types.declared.get(name) if not node.scope.prefix else None) for name in outputs]
    domain = "" if node.proto.domain == "ai.onnx" else node.proto.domain
    op = OnnxNodeOp(
        operands,
        op_type=node.proto.op_type,
        domain=domain,
        node=node.proto.SerializeToString(deterministic=True),
        opset=node.opset,
        result_types=[to_xdsl(type_, types.symbols) for type_ in full],
        captures=captures,
        random=is_random(node.proto),
    )
    results = list(node.emitter.emit(op, node.name))
    types.known.update({value: type_ for value, type_ in zip(results, full, strict=True) if type_ is not None})
    by_name = dict(zip(outputs, results, strict=True))
    return op, [by_name[name] for name in node.proto.output if name]


def _host_operand(node: Node, name: str, types: HostTypes) -> SSAValue:
    """An operand of a host node: of any type."""
    value = node.scope.find(name)
    if isinstance(value, Constant):
        return node.emitter.hold(value, node.name)
    if isinstance(value, HostConstant):
        return emit_host_constant(node.emitter, value, node.name, types)
    assert value is not None, f"{name} is defined, as the checker made sure"
    return value


def emit_host_constant(emitter: Emitter, constant: HostConstant, node_name: str, types: HostTypes) -> SSAValue:
    """A constant that only the host understands, as a Constant node of its own."""
    proto = onnx.helper.make_node("Constant", [], ["value"], value=constant.tensor)
    type_ = types.of(constant)
    op = OnnxNodeOp(
        [],
        op_type="Constant",
        domain="",
        node=proto.SerializeToString(deterministic=True),
        opset=types.opsets.get("", onnx.defs.onnx_opset_version()),
        result_types=[to_xdsl(type_, types.symbols)],
    )
    (result,) = emitter.emit(op, node_name)
    types.known[result] = type_
    return result
