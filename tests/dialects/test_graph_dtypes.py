"""The table of element types: one row for each, found again by every spelling."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx.helper
import pytest
from onnx import TensorProto
from xdsl.dialects.builtin import ComplexType, IntegerType, Signedness, TensorType, bf16, f32, i1

from neuron_dialects.dtypes import (
    BF16,
    DTYPES,
    F32,
    TF32,
    UI8,
    DType,
    dtype_by_code,
    dtype_by_name,
    dtype_of,
    dtype_of_numpy,
    dtype_of_onnx,
    dtype_of_or_none,
    element_type,
)
from neuron_dialects.errors import ERROR_CODES, NeuronError


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_found_by_every_spelling(dtype: DType) -> None:
    assert dtype_by_name(dtype.name) is dtype
    assert dtype_by_code(dtype.code) is dtype
    assert dtype_of(element_type(dtype)) is dtype
    assert dtype_of(TensorType(element_type(dtype.name), [2])) is dtype
    assert dtype_of_numpy(dtype.numpy) is (F32 if dtype is TF32 else dtype)
    if dtype.onnx is not None:
        assert dtype_of_onnx(dtype.onnx) is dtype


# Values are held as onnx itself holds them, so that no tensor is converted when it is read.
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype.onnx is not None], ids=str)
def test_numpy_types_are_those_of_onnx(dtype: DType) -> None:
    assert dtype.onnx is not None
    assert onnx.helper.tensor_dtype_to_np_dtype(dtype.onnx) == dtype.numpy


def test_codes_are_unique_and_those_of_the_runtime() -> None:
    assert len({dtype.code for dtype in DTYPES}) == len({dtype.name for dtype in DTYPES}) == len(DTYPES)
    for dtype in DTYPES:
        assert dtype.code == dtype.nrt if dtype.nrt is not None else dtype.code >= 0x10


def test_properties() -> None:
    assert (BF16.size_bytes, BF16.is_float, BF16.is_integer, BF16.is_signed) == (2, True, False, True)
    assert (UI8.size_bytes, UI8.is_float, UI8.is_integer, UI8.is_signed) == (1, False, True, False)
    one = dtype_of(i1)
    assert (one.size_bytes, one.is_float, one.is_integer, one.is_signed) == (1, False, False, False)
    assert dtype_of_numpy(np.dtype(">i4")).name == "i32"
    assert dtype_of(f32) is F32
    assert dtype_of(bf16) is BF16
    assert UI8.type == IntegerType(8, Signedness.UNSIGNED)


# The hardware's 8-bit float has infinities, the one of ONNX files does not: they are two rows.
def test_two_kinds_of_e4m3() -> None:
    assert np.isinf(ml_dtypes.finfo(dtype_by_name("f8e4m3").numpy).max * 2)
    assert float(ml_dtypes.finfo(dtype_by_name("f8e4m3").numpy).max) == 240
    assert float(ml_dtypes.finfo(dtype_by_name("f8e4m3fn").numpy).max) == 448
    assert dtype_of_onnx(TensorProto.FLOAT8E4M3FN) is dtype_by_name("f8e4m3fn")


def test_what_is_not_in_the_table() -> None:
    assert dtype_of_onnx(TensorProto.STRING) is None
    assert dtype_of_onnx(TensorProto.INT4) is None
    assert dtype_of_onnx(12345) is None
    assert dtype_of_or_none(ComplexType(f32)) is None
    with pytest.raises(ValueError, match="unknown element type 'f33'; known are bf16, "):
        dtype_by_name("f33")
    with pytest.raises(ValueError, match="unknown element type code 0x7f"):
        dtype_by_code(0x7F)
    with pytest.raises(ValueError, match="complex64 is not an element type"):
        dtype_of_numpy(np.complex64)
    with pytest.raises(ValueError, match="is not an element type"):
        dtype_of(ComplexType(f32))


# An error is one line with code and node, and one with help; unknown codes are bugs.
def test_errors() -> None:
    error = NeuronError("NX-ONNX-004", "dimension 1 is unknown", node="conv1", help="give it")
    assert str(error) == "error[NX-ONNX-004]: node 'conv1': dimension 1 is unknown\n  help: give it"
    assert NeuronError("NX-MEM-001", "too big").format() == "error[NX-MEM-001]: too big"
    with pytest.raises(ValueError, match="NX-FOO-001 is not in ERROR_CODES"):
        NeuronError("NX-FOO-001", "")
    assert all(meaning and not meaning.endswith(".") for meaning in ERROR_CODES.values())
