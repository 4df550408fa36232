"""Whether element types fit together, where onnx's checker and shape inference do not look.

The converters check the operands of operators that they know. This module checks the rest: operands of a node that
stays an ONNX node, and the declared types of a model's outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx.defs
from onnx import NodeProto, TensorProto, TypeProto

from neuron_dialects.errors import NeuronError


def check_operands(node: NodeProto, opset: int, types: Mapping[str, TypeProto], name: str) -> None:
    """NeuronError NX-ONNX-007 when operands that the operator wants of one element type have several.

    `types` has the types of the node's inputs by name, `name` is for the message. Unknown types fit everything, and an
    operator without a definition takes anything.
    """
    try:
        # The type stubs of onnx lack the members that tell of formal parameters.
        schema: Any = onnx.defs.get_schema(node.op_type, opset, "" if node.domain == "ai.onnx" else node.domain)
    except onnx.defs.SchemaError:
        return
    parameters = {constraint.type_param_str for constraint in schema.type_constraints}
    bound: dict[str, int] = {}
    for index, operand in enumerate(node.input):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)] if schema.inputs else None
        given = types.get(operand)
        if formal is None or given is None or formal.type_str not in parameters or not formal.is_homogeneous:
            continue
        element = given.tensor_type.elem_type
        if element and bound.setdefault(formal.type_str, element) != element:
            have, want = element_name(element), element_name(bound[formal.type_str])
            raise NeuronError(
                "NX-ONNX-007", f"input {index} of {node.op_type} is {have}, another one {want}", node=name
            )


def check_output(name: str, declared: TypeProto, computed: TypeProto) -> None:
    """NeuronError NX-ONNX-002 when an output of the model is declared with another element type than it has."""
    want, have = declared.tensor_type.elem_type, computed.tensor_type.elem_type
    if want and have and want != have:
        raise NeuronError(
            "NX-ONNX-002",
            f"output '{name}' is declared as {element_name(want)}, but is {element_name(have)}",
            help="check how the model was exported",
        )


def element_name(element_type: int) -> str:
    """ONNX's name of an element type, in lower case."""
    known = TensorProto.DataType.items()
    return next((name.lower() for name, number in known if number == element_type), "unknown")
