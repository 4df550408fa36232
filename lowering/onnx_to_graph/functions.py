"""Bodies of composite ONNX operators.

ONNX defines many operators as functions of simpler ones. This module gives the body of a node's operator as plain
nodes: with attributes filled in, for the operand types at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx.defs
from onnx import AttributeProto, FunctionProto, NodeProto, TypeProto

from lowering.onnx_to_graph.model_file import opset_versions


@dataclass(frozen=True, slots=True)
class Body:
    """The nodes that a node stands for."""

    inputs: Sequence[str]
    """Names, in the body, of the node's inputs."""
    outputs: Sequence[str]
    """Names, in the body, of the node's outputs."""
    nodes: Sequence[NodeProto]
    opset: int
    """Version of ONNX's operator set that the body is written in."""


def function_body(node: NodeProto, opset: int, input_types: Sequence[TypeProto]) -> Body | None:
    """The body of a node of ONNX's own domain; None when its operator is not a function.

    `input_types` has one type per input name of the node, empty for an absent optional one.
    """
    try:
        # The type stubs of onnx lack the members that tell of function bodies.
        schema: Any = onnx.defs.get_schema(node.op_type, opset)
    except onnx.defs.SchemaError:
        return None
    # onnx builds a body from types without checking them: what is no tensor, or has a subgraph, must not get there.
    tensors = all(type_.HasField("tensor_type") for name, type_ in zip(node.input, input_types, strict=True) if name)
    if not tensors or any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute):
        return None
    dependent = bool(schema.has_context_dependent_function)
    versions = schema.context_dependent_function_opset_versions if dependent else schema.function_opset_versions
    version = max((version for version in versions if version <= opset), default=None)
    if version is None:
        return None
    if dependent:
        types = [type_.SerializeToString() for type_ in input_types]
        data = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)
    else:
        data = schema.get_function_with_opset_version(version)
    if not data:
        return None
    function = FunctionProto()
    function.ParseFromString(data)
    given = {attribute.name: attribute for attribute in node.attribute}
    given = _defaults(function, schema) | given
    nodes = [_instantiated(inner, given) for inner in function.node]
    return Body(function.input, function.output, nodes, opset_versions(function).get("", opset))


def _defaults(function: FunctionProto, schema: Any) -> dict[str, AttributeProto]:
    """Default values of a function's attributes."""
    result = {attribute.name: attribute for attribute in function.attribute_proto}
    for name, attribute in schema.attributes.items():
        if attribute.default_value.name:
            result.setdefault(name, attribute.default_value)
    return result


def _instantiated(node: NodeProto, given: dict[str, AttributeProto]) -> NodeProto:
    """A node of a body with references to the function's attributes replaced by their values."""
    result = NodeProto()
    result.CopyFrom(node)
    del result.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            result.attribute.add().CopyFrom(attribute)
        elif attribute.ref_attr_name in given:
            added = result.attribute.add()
            added.CopyFrom(given[attribute.ref_attr_name])
            added.name = attribute.name
    return result
