"""What all computing operators of the graph dialect have in common.

A computing operator has tensor operands of static shape and known element type, and one tensor result (a recurrent
layer has several) that these and its properties determine. A class states the rule once, in `infer`; its constructor
uses it to build the result type and the base class to verify a parsed one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Operation, SSAValue
from xdsl.irdl import IRDLOperation, ParsePropInAttrDict
from xdsl.utils.exceptions import VerifyException

from neuron_dialects.dtypes import DType, dtype_of_or_none
from neuron_dialects.graph.shapes import Shape, ShapeError, text

Value: TypeAlias = SSAValue | Operation
"""A tensor given to a constructor: an SSA value, or an operation with one result."""

TensorSpec: TypeAlias = tuple[DType, Shape]
"""Element type and shape of a tensor."""

GRAPH_OPTIONS = (ParsePropInAttrDict(),)


def tensor_type(dtype: DType, shape: Sequence[int]) -> TensorType[Any]:
    """The builtin tensor type of this element type and static shape."""
    return TensorType(dtype.type, [int(dim) for dim in shape])


def spec_of(value: Value) -> TensorSpec:
    """Element type and shape of a tensor value; ShapeError unless it is a static tensor of a dtype of the table."""
    type_ = SSAValue.get(value).type
    if not isinstance(type_, TensorType):
        raise ShapeError(f"{type_} is not a ranked tensor")
    dtype = dtype_of_or_none(type_.element_type)
    if dtype is None:
        raise ShapeError(f"element type {type_.element_type} is not one of the machine or of its host code")
    shape = type_.get_shape()
    if any(dim < 0 for dim in shape):
        raise ShapeError(f"{type_} has a dynamic dimension")
    return dtype, shape


def shape_of(value: Value) -> Shape:
    """Static shape of a tensor value."""
    return spec_of(value)[1]


def require_dtype(condition: bool, what: str, dtype: DType) -> None:
    """ShapeError saying that `what` cannot be computed on `dtype`, unless the condition holds."""
    if not condition:
        raise ShapeError(f"{what} is not defined on {dtype}")


def require_same_dtype(*dtypes: DType) -> DType:
    """The one element type of all operands; ShapeError when they differ."""
    if len({dtype.name for dtype in dtypes}) != 1:
        raise ShapeError(f"element types {' and '.join(dtype.name for dtype in dtypes)} differ")
    return dtypes[0]


class ComputeOp(IRDLOperation, ABC):
    """A pure operator on static tensors whose operands determine the type of its one result, called `result`.

    A subclass has a static method `infer` that states the rule on element types, shapes and Python values; its
    constructor calls it to build the result type, its `inferred` to check a parsed one.
    """

    @abstractmethod
    def inferred(self) -> TensorSpec:
        """Element type and shape that the result must have.

        Raises ShapeError where operands and properties contradict each other.
        """

    def inferred_results(self) -> Sequence[TensorSpec]:
        """The same for every result, where an operator has several."""
        return (self.inferred(),)

    def verify_(self) -> None:
        try:
            wanted = self.inferred_results()
            specs = [spec_of(result) for result in self.results]
        except ShapeError as error:
            raise VerifyException(str(error)) from error
        if len(specs) != len(wanted):
            raise VerifyException(f"{len(specs)} results but the operands give {len(wanted)}")
        for (dtype, shape), (result_dtype, result_shape) in zip(wanted, specs, strict=True):
            if result_dtype is not dtype or result_shape != shape:
                raise VerifyException(
                    f"result is {text(result_shape)} of {result_dtype} but the operands give {text(shape)} of {dtype}"
                )
