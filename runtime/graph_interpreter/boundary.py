"""Values at the edge of a function: whether they fit its types, and how they change between the host and a core.

The host computes in the types of the ONNX model. A core works on narrower integers, on f32 in place of f64 and on bytes
in place of truth values, so a launch converts; a value that would change is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, MemRefType, StringAttr, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from neuron_dialects.dtypes import dtype_of_numpy, dtype_of_or_none
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph.shapes import text
from runtime.graph_interpreter.numerics import converted


def check_inputs(function: FuncOp, inputs: Sequence[Any]) -> None:
    """NeuronError NX-ONNX-005 unless there is one array of the stated shape and element type for each argument."""
    types = function.function_type.inputs.data
    names = _input_names(function)
    if len(inputs) != len(types):
        raise NeuronError(
            "NX-ONNX-005", f"{len(inputs)} inputs are given, @{function.sym_name.data} takes {len(types)}"
        )
    for position, (value, type_) in enumerate(zip(inputs, types, strict=True)):
        if (problem := misfit(value, type_)) is not None:
            name = f"'{names[position]}'" if position < len(names) else str(position)
            raise NeuronError("NX-ONNX-005", f"input {name} is {problem}")


def misfit(value: Any, type_: Attribute) -> str | None:
    """How a value differs from the tensor type it should have, as `4x3 of f64 instead of 4x4 of f32`; None if it fits.

    Dynamic dimensions fit every size; types that only the host understands are not checked.
    """
    dtype = dtype_of_or_none(type_) if isinstance(type_, TensorType) else None
    if dtype is None or not isinstance(type_, TensorType):
        return None
    shape = type_.get_shape()
    sizes_fit = isinstance(value, np.ndarray) and len(shape) == value.ndim
    if sizes_fit and all(want in (-1, have) for want, have in zip(shape, value.shape, strict=True)):
        if value.dtype == dtype.numpy:
            return None
    given = f"{text(value.shape)} of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
    return f"{given} instead of {text(shape)} of {dtype.numpy}"


def convert_element_type(value: Any, type_: Attribute) -> Any:
    """A tensor with the element type of `type_` (a tensor or memref type), for a function that works in that type.

    NeuronError NX-OP-002 when an integer does not fit the narrower type.
    """
    dtype = dtype_of_or_none(type_.element_type) if isinstance(type_, TensorType | MemRefType) else None
    if dtype is None or not isinstance(value, np.ndarray) or value.dtype == dtype.numpy:
        return value
    if dtype.is_integer and value.dtype.kind in "iu" and value.size:
        limits = np.iinfo(dtype.numpy)
        low, high = int(value.min()), int(value.max())
        if low < limits.min or high > limits.max:
            wrong = low if low < limits.min else high
            raise NeuronError("NX-OP-002", f"the value {wrong} does not fit {dtype}, in which the core computes")
    return converted(value, dtype_of_numpy(value.dtype), dtype)


def is_lowered(function: FuncOp) -> bool:
    """Whether a function works on buffers, so that it is no longer at the graph level."""
    return any(isinstance(type_, MemRefType) for type_ in function.function_type.inputs.data)


def _input_names(function: FuncOp) -> list[str]:
    names = function.attributes.get("neuron.input_names")
    if not isinstance(names, ArrayAttr):
        return []
    return [name.data for name in names if isinstance(name, StringAttr)]
