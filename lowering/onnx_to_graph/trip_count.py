"""How often a Loop runs, where the model says so: its stacked results then have a known number of rows.

onnx infers that number as unknown, because a condition may end a loop early. Exporters mostly write loops whose
condition stays true and whose number of trips is a constant once the shapes of the inputs are; what comes after such a
loop has static shapes and can run on the core.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx.numpy_helper
from onnx import GraphProto, NodeProto, TypeProto

from lowering.onnx_to_graph.values import Constant, Value

_SAME = ("Identity", "Cast")
"""Operators behind which a condition stays what it is."""


def with_trip_count(
    node: NodeProto, inputs: Mapping[str, Value], inferred: Mapping[str, TypeProto]
) -> Mapping[str, TypeProto]:
    """The inferred types of a node's outputs; those that a Loop stacks with their number of rows, where it is known.

    `inputs` holds what the node and its body read, by name.
    """
    trips = trip_count(node, inputs)
    if trips is None:
        return inferred
    result = dict(inferred)
    carried = len(node.input) - 2
    for name in node.output[carried:]:
        type_ = inferred.get(name)
        if type_ is not None and type_.tensor_type.HasField("shape") and type_.tensor_type.shape.dim:
            known = TypeProto()
            known.CopyFrom(type_)
            known.tensor_type.shape.dim[0].Clear()
            known.tensor_type.shape.dim[0].dim_value = trips
            result[name] = known
    return result


def trip_count(node: NodeProto, inputs: Mapping[str, Value]) -> int | None:
    """Trips of a Loop whose number of trips is a constant and whose condition is never false; else None."""
    if node.op_type != "Loop" or node.domain not in ("", "ai.onnx"):
        return None
    body = next((attribute.g for attribute in node.attribute if attribute.name == "body"), None)
    count = inputs.get(node.input[0])
    if body is None or not isinstance(count, Constant) or count.size != 1 or len(body.input) < 2 or not body.output:
        return None
    started = not node.input[1] or _is_true(inputs.get(node.input[1]))
    if not started or not _stays_true(body, inputs):
        return None
    return max(0, int(count.read().reshape(-1)[0]))


def _is_true(value: Value | None) -> bool:
    """Whether a value is known to be true."""
    return isinstance(value, Constant) and value.size == 1 and bool(value.read().all())


def _stays_true(body: GraphProto, outer: Mapping[str, Value]) -> bool:
    """Whether the condition that the body gives is the one that it is given, or a constant that is true."""
    makers = {name: node for node in body.node for name in node.output}
    constants = {tensor.name: tensor for tensor in body.initializer}
    name = body.output[0].name
    for _ in range(len(body.node) + 1):
        maker = makers.get(name)
        if maker is not None and maker.op_type in _SAME:
            name = maker.input[0]
            continue
        if maker is not None and maker.op_type == "Constant" and maker.attribute and maker.attribute[0].HasField("t"):
            return bool(onnx.numpy_helper.to_array(maker.attribute[0].t).all())
        if maker is not None:
            return False
        if name in constants:
            return bool(onnx.numpy_helper.to_array(constants[name]).all())
        return name == body.input[1].name or _is_true(outer.get(name))
    return False
