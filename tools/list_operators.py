"""`neuron-cc list-operators`: the ONNX operators that become operators of the graph dialect.

The list is made from the converter table, and from ONNX's function bodies: an operator whose body consists of listed
operators is one too. Being in the list is no promise for every element type and attribute: `neuron-cc analyze` tells
for a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lowering.onnx_to_graph.functions import function_body
from lowering.onnx_to_graph.registry import converters


@dataclass(frozen=True, order=True)
class Operator:
    """An ONNX operator that can run on a core; `until` is None for all later versions of the operator set."""

    name: str
    since: int
    until: int | None
    how: str
    """`direct`, or `function body` when it is expanded."""


def operators() -> list[Operator]:
    """The operators, by name."""
    table = converters()
    direct = {name: Operator(name, row.since, row.until, "direct") for name, row in table.items()}
    return sorted([*direct.values(), *_composite(set(direct))])


def _composite(known: set[str]) -> list[Operator]:
    """Operators of ONNX's own domain that are functions of known ones, or of such functions."""
    import onnx.defs

    schemas: Sequence[Any] = onnx.defs.get_all_schemas()
    functions = {
        schema.name: schema
        for schema in schemas
        if schema.domain == "" and not schema.deprecated and schema.name not in known
    }
    bodies = {name: body for name, schema in functions.items() if (body := _body(schema))}
    found: set[str] = set()
    while new := {name for name, body in bodies.items() if name not in found and body <= known | found}:
        found |= new
    return [Operator(name, functions[name].since_version, None, "function body") for name in found]


def _body(schema: Any) -> set[str]:
    """Operators in the function body of an operator, for operands of f32 where the body depends on them; none without.

    Constants are left out: they are folded.
    """
    import onnx.defs
    import onnx.helper
    from onnx import TensorProto

    if any(attribute.type == onnx.defs.OpSchema.AttrType.GRAPH for attribute in schema.attributes.values()):
        return set()
    inputs = [parameter.name for parameter in schema.inputs[: schema.min_input]]
    outputs = [parameter.name for parameter in schema.outputs[: schema.min_output]]
    node = onnx.helper.make_node(schema.name, inputs, outputs)
    type_ = onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, ["n", "c", "h", "w"])
    body = function_body(node, onnx.defs.onnx_opset_version(), [type_] * len(inputs))
    return {inner.op_type for inner in body.nodes} - {"Constant"} if body is not None else set()


def listed(verbose: bool = False) -> str:
    """One name on a line; with `verbose` also the versions of the operator set and how it is converted."""
    rows = operators()
    if not verbose:
        return "\n".join(row.name for row in rows)
    width = max(len(row.name) for row in rows)
    versions = [f"{row.since}-{row.until or ''}" for row in rows]
    return "\n".join(f"{row.name:{width}}  {span:6} {row.how}" for row, span in zip(rows, versions, strict=True))
