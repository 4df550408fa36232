"""ONNX operators on operands of one element type, in a type that onnxruntime has a kernel for.

ONNX defines its operators on more element types than onnxruntime has kernels for. Where a wider integer type gives the
same result, `Arithmetic` works in that one and converts back: integers wrap, so that the low bits of sums and products
do not depend on the width. What has no such way (f64 in erf, convolution and average pooling) is written as ONNX has
it, and runs where there is a kernel.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, TypeAlias

import numpy as np

from lowering.nisa_to_neff.host_model.writer import ModelWriter
from neuron_dialects.dtypes import I32, I64, DType

Operand: TypeAlias = str | float | int
"""A value by its name, or a number that stands for a scalar constant."""

_BYTES = ("i8", "ui8")
_SHORT = ("i16", "ui16")
_WIDE_UNSIGNED = ("ui32", "ui64")

MISSING_KERNELS: dict[str, tuple[str, ...]] = {
    "Neg": ("ui8", "ui16", *_WIDE_UNSIGNED),
    "Max": _SHORT,
    "Min": _SHORT,
    "Clip": _SHORT,
    "Pad": _SHORT,
    "Pow": (*_BYTES, *_SHORT, *_WIDE_UNSIGNED),
    "Where": (*_SHORT, "ui64"),
    "MatMul": (*_BYTES, *_SHORT),
    "ReduceSum": (*_BYTES, *_SHORT, *_WIDE_UNSIGNED),
    "ReduceProd": (*_BYTES, *_SHORT, *_WIDE_UNSIGNED),
    "ReduceMax": (*_SHORT, "ui32"),
    "ReduceMin": (*_SHORT, "ui32"),
}
"""Operator -> integer types that onnxruntime has no CPU kernel for although a wider type gives the same result."""


def carrier(op_type: str, dtype: DType) -> DType:
    """The element type in which an operator works on `dtype`."""
    if dtype.name not in MISSING_KERNELS.get(op_type, ()):
        return dtype
    # Powers are computed in floating point: only what fits the wider type comes out right, so that one is widest.
    return I32 if dtype.size_bytes < I32.size_bytes and op_type != "Pow" else I64


class Arithmetic:
    """`arithmetic("Add", x, 1.0)`: nodes whose operands and result have one element type."""

    def __init__(self, writer: ModelWriter, dtype: DType) -> None:
        self.writer = writer
        self.dtype = dtype

    def __call__(self, op_type: str, *operands: Operand, untyped: Collection[int] = (), **attributes: Any) -> str:
        """The result of an operator; operands at the positions `untyped` have types of their own."""
        working = carrier(op_type, self.dtype)
        names = [
            operand if position in untyped and isinstance(operand, str) else self._typed(operand, working)
            for position, operand in enumerate(operands)
        ]
        result = self.writer.node(op_type, *names, **attributes)
        return result if working is self.dtype else self.writer.cast(result, self.dtype)

    def _typed(self, operand: Operand, working: DType) -> str:
        if not isinstance(operand, str):
            return self.writer.scalar(operand, working)
        return operand if working is self.dtype or not operand else self.writer.cast(operand, working)

    def within(self, value: float) -> float | int:
        """A number as one of this type: integers truncate, and what is out of their range is their extreme value."""
        if self.dtype.is_float:
            return value
        limits = np.iinfo(self.dtype.numpy)
        return int(min(max(value, limits.min), limits.max))
