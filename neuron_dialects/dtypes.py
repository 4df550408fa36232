"""The one table of element types.

A tensor element has several spellings: an MLIR-like name, an xDSL type, a numpy dtype, a code in ONNX files, a code in
the Neuron runtime's tensor descriptions, and a code in our own binary encodings. This module holds one row per element
type with all of them, and looks rows up by any spelling. Nothing else in the project converts between spellings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from xdsl.dialects.builtin import (
    BFloat16Type,
    Float8E3M4Type,
    Float8E4M3FNType,
    Float8E4M3Type,
    Float8E5M2Type,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatTF32Type,
    IntegerType,
    Signedness,
    TensorType,
)
from xdsl.ir import Attribute


@dataclass(frozen=True, slots=True)
class DType:
    """One element type, in all its spellings."""

    name: str
    """MLIR-like name: "f32", "bf16", "ui8", ..."""
    code: int
    """Stable code in our binary encodings: the Neuron runtime's code where there is one, else from 0x10 upwards."""
    numpy: np.dtype[Any]
    """How values are held in memory. tf32 values are held as float32, i1 as one byte per element."""
    type: Attribute
    """The xDSL element type."""
    is_float: bool
    onnx: int | None
    """`TensorProto.DataType` of ONNX, None where ONNX has no such type."""
    nrt: int | None
    """Code of the Neuron runtime (libnrt), None where it is not known."""

    @property
    def size_bytes(self) -> int:
        """Bytes of one stored element."""
        return self.numpy.itemsize

    @property
    def is_integer(self) -> bool:
        """Signed and unsigned integers, not i1."""
        return not self.is_float and self.name != "i1"

    @property
    def is_signed(self) -> bool:
        """Whether negative values are representable."""
        return self.is_float or (self.is_integer and not self.name.startswith("u"))

    def __str__(self) -> str:
        return self.name


def _unsigned(bits: int) -> IntegerType:
    return IntegerType(bits, Signedness.UNSIGNED)


def _row(
    name: str,
    code: int,
    numpy: np.dtype[Any],
    type: Attribute,
    onnx: int | None,
    nrt: int | None,
    is_float: bool = False,
) -> DType:
    return DType(name, code, numpy, type, is_float, onnx, nrt)


_dtype = np.dtype

DTYPES: tuple[DType, ...] = (
    #    name        code  held in memory as                   xDSL type            ONNX  libnrt
    _row("ui64", 0x01, _dtype(np.uint64), _unsigned(64), 13, 0x1),
    _row("i8", 0x02, _dtype(np.int8), IntegerType(8), 3, 0x2),
    _row("ui8", 0x03, _dtype(np.uint8), _unsigned(8), 2, 0x3),
    _row("i16", 0x04, _dtype(np.int16), IntegerType(16), 5, 0x4),
    _row("ui16", 0x05, _dtype(np.uint16), _unsigned(16), 4, 0x5),
    _row("bf16", 0x06, _dtype(ml_dtypes.bfloat16), BFloat16Type(), 16, 0x6, is_float=True),
    _row("f16", 0x07, _dtype(np.float16), Float16Type(), 10, 0x7, is_float=True),
    _row("i32", 0x08, _dtype(np.int32), IntegerType(32), 6, 0x8),
    _row("ui32", 0x09, _dtype(np.uint32), _unsigned(32), 12, 0x9),
    _row("f32", 0x0A, _dtype(np.float32), Float32Type(), 1, 0xA, is_float=True),
    _row("tf32", 0x0B, _dtype(np.float32), FloatTF32Type(), None, 0xB, is_float=True),
    _row("i64", 0x0C, _dtype(np.int64), IntegerType(64), 7, 0xC),
    _row("f8e3m4", 0x0D, _dtype(ml_dtypes.float8_e3m4), Float8E3M4Type(), None, 0xD, is_float=True),
    _row("f8e4m3", 0x0E, _dtype(ml_dtypes.float8_e4m3), Float8E4M3Type(), None, 0xE, is_float=True),
    _row("f8e5m2", 0x0F, _dtype(ml_dtypes.float8_e5m2), Float8E5M2Type(), 19, 0xF, is_float=True),
    _row("f64", 0x10, _dtype(np.float64), Float64Type(), 11, None, is_float=True),
    _row("i1", 0x11, _dtype(np.bool_), IntegerType(1), 9, None),
    _row("f8e4m3fn", 0x12, _dtype(ml_dtypes.float8_e4m3fn), Float8E4M3FNType(), 17, None, is_float=True),
)
"""Every element type. Two codes that look alike on purpose differ: f8e4m3 is the hardware's (with infinities, largest
value 240), f8e4m3fn is the one of ONNX files (no infinities, largest value 448)."""

_BY_NAME = {row.name: row for row in DTYPES}
_BY_CODE = {row.code: row for row in DTYPES}
_BY_TYPE = {row.type: row for row in DTYPES}
_BY_ONNX = {row.onnx: row for row in DTYPES if row.onnx is not None}
_BY_NUMPY = {row.numpy: row for row in DTYPES if row.name != "tf32"}  # plain float32 arrays are f32

F32 = _BY_NAME["f32"]
F16 = _BY_NAME["f16"]
BF16 = _BY_NAME["bf16"]
TF32 = _BY_NAME["tf32"]
F64 = _BY_NAME["f64"]
I1 = _BY_NAME["i1"]
I8 = _BY_NAME["i8"]
UI8 = _BY_NAME["ui8"]
I32 = _BY_NAME["i32"]
I64 = _BY_NAME["i64"]


def _known(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def dtype_by_name(name: str) -> DType:
    """The row called `name`; ValueError naming the known ones otherwise."""
    row = _BY_NAME.get(name)
    if row is None:
        raise ValueError(f"unknown element type '{name}'; known are {_known(_BY_NAME)}")
    return row


def dtype_by_code(code: int) -> DType:
    """The row with our encoding `code`; ValueError otherwise."""
    row = _BY_CODE.get(code)
    if row is None:
        raise ValueError(f"unknown element type code {code:#x}")
    return row


def dtype_of_numpy(dtype: np.dtype[Any] | type[np.generic]) -> DType:
    """The row whose values numpy holds as `dtype` (float32 is f32, never tf32); ValueError otherwise."""
    row = _BY_NUMPY.get(np.dtype(dtype).newbyteorder("="))
    if row is None:
        raise ValueError(f"numpy dtype {np.dtype(dtype)} is not an element type of the machine or of its host code")
    return row


def dtype_of_onnx(data_type: int) -> DType | None:
    """The row for an ONNX `TensorProto.DataType`, or None (strings, complex numbers, sub-byte types, unknown codes)."""
    return _BY_ONNX.get(data_type)


def dtype_of(attr: Attribute) -> DType:
    """The row of an xDSL element type, or of the element type of a tensor type; ValueError otherwise."""
    row = dtype_of_or_none(attr)
    if row is None:
        raise ValueError(f"{attr} is not an element type of the machine or of its host code")
    return row


def dtype_of_or_none(attr: Attribute) -> DType | None:
    """As `dtype_of`, but None for types outside the table."""
    # Nothing is derived from it, and `isinstance` would ask an abstract class.
    if type(attr) is TensorType:
        attr = attr.element_type
    return _BY_TYPE.get(attr)


def element_type(dtype: DType | str) -> Attribute:
    """The xDSL element type of a row or of the row's name."""
    return (dtype_by_name(dtype) if isinstance(dtype, str) else dtype).type
