"""Folding of nodes whose inputs are all known: above all the shape computations that exporters leave in a model.

A node is evaluated by onnx's reference implementation, in numpy, when its operator is deterministic and of the kinds
below, and when inputs and outputs are small. Nothing large is ever computed: output shapes are inferred first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx.defs
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
from onnx import NodeProto, TensorProto, TypeProto

from lowering.onnx_to_graph.values import MAX_FOLDED_ELEMENTS, Array, Constant, constant_of, readonly
from neuron_dialects.dtypes import dtype_of_onnx

_DATA_ELEMENTS = 1024
"""Inputs up to this size are shown to shape inference, which needs them for shapes, axes, repeats and the like."""

FOLDED_OPERATORS = frozenset(
    (
        *("Abs", "Add", "And", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BitShift", "Cast", "CastLike"),
        *("Ceil", "Clip", "Compress", "Concat", "ConstantOfShape", "Cos", "CumSum", "Div", "Equal", "Erf", "Exp"),
        *("Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual"),
        *("IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "MatMul", "Max", "Min", "Mod", "Mul", "Neg"),
        *("NonZero", "Not", "OneHot", "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceMax"),
        *("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu", "Reshape", "ReverseSequence", "Round"),
        *("ScatterElements", "ScatterND", "Sigmoid", "Sign", "Sin", "Size", "Slice", "Split", "Sqrt", "Squeeze"),
        *("Sub", "Sum", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze", "Where", "Xor"),
    )
)
"""Operators that are folded. Quantisation is not among them: a quantised weight stays visible as one."""

_BOUNDED_BY_INPUT = frozenset(("NonZero", "Compress"))
"""Operators whose output shape depends on data but is bounded by their small inputs."""


def fold(
    node: NodeProto, inputs: Sequence[Constant | None], opset: int, prefix: str, most: int = MAX_FOLDED_ELEMENTS
) -> dict[str, Constant] | None:
    """The outputs of the node by name; None when it is not to be folded.

    `inputs` has one entry per input name of the node, None for an absent optional one. `prefix` stands in front of the
    names of the constants made. Neither an input nor an output has more than `most` elements.
    """
    if node.op_type not in FOLDED_OPERATORS or any(c is not None and c.size > most for c in inputs):
        return None
    arrays = [None if constant is None else constant.read() for constant in inputs]
    names = [name for name in node.output if name]
    try:
        if not _is_small(node, arrays, opset, most):
            return None
        results = [np.asarray(result) for result in _evaluate(node, arrays, opset)]
        known = all(dtype_of_onnx(_onnx_dtype(result)) is not None for result in results)
    except Exception:  # the reference implementation raises whatever numpy raises; the node is then converted
        return None
    if not known or any(result.size > most for result in results):
        return None
    return {name: constant_of(f"{prefix}{name}", readonly(result)) for name, result in zip(names, results, strict=True)}


def _onnx_dtype(array: Array) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(array.dtype)


def _is_small(node: NodeProto, arrays: Sequence[Array | None], opset: int, most: int) -> bool:
    """Whether every output is known, before it is computed, to have at most `most` elements."""
    if node.op_type in _BOUNDED_BY_INPUT:
        return True
    types: dict[str, TypeProto] = {}
    data: dict[str, TensorProto] = {}
    for name, array in zip(node.input, arrays, strict=True):
        if array is not None:
            types[name] = onnx.helper.make_tensor_type_proto(_onnx_dtype(array), array.shape)
            if array.size <= _DATA_ELEMENTS:
                data[name] = onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
    inferred = infer_outputs(node, types, data, opset)
    for name in node.output:
        if name:
            shape = static_shape(inferred.get(name))
            if shape is None or int(np.prod(shape, dtype=object)) > most:
                return False
    return True


def infer_outputs(
    node: NodeProto, types: Mapping[str, TypeProto], data: Mapping[str, TensorProto], opset: int
) -> dict[str, TypeProto]:
    """Types of the outputs of a node of ONNX's own domain, as onnx infers them; raises what onnx raises."""
    schema = onnx.defs.get_schema(node.op_type, opset)
    imports = [onnx.helper.make_opsetid("", opset)]
    return onnx.shape_inference.infer_node_outputs(schema, node, dict(types), dict(data), opset_imports=imports)


def static_shape(type_: TypeProto | None) -> tuple[int, ...] | None:
    """The shape of a tensor type, None when it is not entirely known."""
    if type_ is None or not type_.HasField("tensor_type") or not type_.tensor_type.HasField("shape"):
        return None
    dims = type_.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _evaluate(node: NodeProto, arrays: Sequence[Array | None], opset: int) -> Sequence[Any]:
    """Run one node on arrays."""
    from onnx.reference import ReferenceEvaluator

    names = [name for name, array in zip(node.input, arrays, strict=True) if array is not None]
    outputs = [name for name in node.output if name]
    graph = onnx.helper.make_graph(
        [node],
        "folded",
        [onnx.helper.make_value_info(name, TypeProto()) for name in dict.fromkeys(names)],
        [onnx.helper.make_value_info(name, TypeProto()) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    feeds = {name: array for name, array in zip(node.input, arrays, strict=True) if array is not None}
    with np.errstate(all="ignore"):
        results = ReferenceEvaluator(model).run(None, feeds)
    return list(results.values()) if isinstance(results, dict) else results
