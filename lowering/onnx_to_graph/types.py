"""ONNX types and xDSL types: the conversions between them."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import TensorProto, TypeProto
from xdsl.dialects.builtin import DYNAMIC_INDEX, StringAttr, TensorType, UnrankedTensorType
from xdsl.ir import Attribute

from lowering.onnx_to_graph.type_check import element_name
from neuron_dialects.dtypes import dtype_of_onnx, dtype_of_or_none
from neuron_dialects.graph import OpaqueType

UNKNOWN = OpaqueType(StringAttr("unknown"))
"""The type of a value about which nothing is known."""


def _spelling(type_: TypeProto) -> str:
    """ONNX's spelling of a type, as in `seq(tensor(float))`."""
    match type_.WhichOneof("value"):
        case "tensor_type":
            return f"tensor({element_name(type_.tensor_type.elem_type)})"
        case "sequence_type":
            return f"seq({_spelling(type_.sequence_type.elem_type)})"
        case "optional_type":
            return f"optional({_spelling(type_.optional_type.elem_type)})"
        case "map_type":
            return f"map({element_name(type_.map_type.key_type)},{_spelling(type_.map_type.value_type)})"
        case "sparse_tensor_type":
            return f"sparse_tensor({element_name(type_.sparse_tensor_type.elem_type)})"
        case _:
            return "unknown"


def to_xdsl(type_: TypeProto | None, symbols: Mapping[str, int]) -> Attribute:
    """The xDSL type of an ONNX type; symbolic dimensions are looked up in `symbols`, unknown ones are dynamic."""
    if type_ is None or type_.WhichOneof("value") is None:
        return UNKNOWN
    if not type_.HasField("tensor_type") or type_.tensor_type.elem_type == TensorProto.UNDEFINED:
        return OpaqueType(StringAttr(_spelling(type_)))
    tensor = type_.tensor_type
    dtype = dtype_of_onnx(tensor.elem_type)
    element = OpaqueType(StringAttr(element_name(tensor.elem_type))) if dtype is None else dtype.type
    if not tensor.HasField("shape"):
        return UnrankedTensorType(element)
    dims: list[int] = []
    for dim in tensor.shape.dim:
        size = dim.dim_value if dim.HasField("dim_value") else symbols.get(dim.dim_param, -1)
        dims.append(size if size >= 0 else DYNAMIC_INDEX)
    return TensorType(element, dims)


def to_onnx(type_: Attribute) -> TypeProto:
    """The ONNX type of an xDSL tensor type; an empty type for anything else."""
    result = TypeProto()
    dtype = dtype_of_or_none(type_.element_type) if isinstance(type_, TensorType | UnrankedTensorType) else None
    if dtype is None or dtype.onnx is None:
        return result
    result.tensor_type.elem_type = dtype.onnx
    if isinstance(type_, TensorType):
        result.tensor_type.shape.SetInParent()
        for size in type_.get_shape():
            dim = result.tensor_type.shape.dim.add()
            if size >= 0:
                dim.dim_value = size
    return result


def refine(type_: TypeProto | None, declared: TypeProto | None) -> TypeProto | None:
    """An inferred type with what a declared type adds to it: the whole type, the rank, or single dimensions."""
    if declared is None or type_ is None or type_.WhichOneof("value") is None:
        return type_ if declared is None else declared
    if not (type_.HasField("tensor_type") and declared.HasField("tensor_type")):
        return type_
    tensor, other = type_.tensor_type, declared.tensor_type
    if tensor.elem_type != other.elem_type or not other.HasField("shape"):
        return type_
    if not tensor.HasField("shape"):
        return declared
    if len(tensor.shape.dim) != len(other.shape.dim):
        return type_
    result = TypeProto()
    result.CopyFrom(type_)
    for dim, known in zip(result.tensor_type.shape.dim, other.shape.dim, strict=True):
        if not dim.HasField("dim_value"):
            dim.CopyFrom(known)
    return result
