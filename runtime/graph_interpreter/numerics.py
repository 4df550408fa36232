"""In which precision the interpreter computes, and how it rounds.

Floats narrower than f32 are computed in f32 and the result of an operator is rounded once; f32, f64 and integers are
computed in their own type. tf32 is held as float32 whose last 13 bits are zero.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from neuron_dialects.dtypes import F64, TF32, DType

Array: TypeAlias = npt.NDArray[Any]

_TF32_DROPPED_BITS = 13
_NUMPY_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
_SATURATING = ("f8e3m4", "f8e4m3", "f8e5m2", "f8e4m3fn")


def compute_dtype(dtype: DType) -> np.dtype[Any]:
    """The numpy dtype in which values of `dtype` are computed."""
    if not dtype.is_float:
        return dtype.numpy
    return np.dtype(np.float64 if dtype is F64 else np.float32)


def widened(array: Array) -> Array:
    """The same values in the type they are computed in; narrow floats become float32, all others stay as they are."""
    if array.dtype in _NUMPY_FLOATS or array.dtype.kind in "biu":
        return array
    return array.astype(np.float32)


def rounded(array: npt.ArrayLike, dtype: DType) -> Array:
    """Computed values as an array of `dtype`: floats to nearest even (tf32 too), integers with wraparound."""
    if dtype is TF32:
        return round_to_tf32(np.asarray(array, np.float32))
    return np.asarray(array).astype(dtype.numpy, copy=False)


def round_to_tf32(array: Array) -> Array:
    """float32 values rounded to nearest even at 10 mantissa bits."""
    bits = np.ascontiguousarray(array, np.float32).reshape(array.shape).view(np.uint32)
    half_less_one = np.uint32((1 << (_TF32_DROPPED_BITS - 1)) - 1)
    odd = (bits >> np.uint32(_TF32_DROPPED_BITS)) & np.uint32(1)
    mask = np.uint32(2**32 - (1 << _TF32_DROPPED_BITS))
    values = ((bits + half_less_one + odd) & mask).view(np.float32)
    return np.where(np.isnan(array), array, values)


def converted(array: Array, source: DType, target: DType) -> Array:
    """Every element of `source` as one of `target`, as ONNX's Cast does it.

    Float to float rounds to nearest even; 8-bit floats saturate. Float to integer truncates towards zero, and what does
    not fit wraps or is the most negative value, as the host's conversion instruction has it. Anything to i1 is x != 0.
    """
    if target.name == "i1":
        return np.asarray(widened(array) != 0)
    if source is target:
        return array
    if target.name in _SATURATING:
        largest = _largest(target)
        return rounded(np.clip(_as_float(array), -largest, largest), target)
    if target.is_float:
        # One rounding from floats; integers that f32 cannot hold are rounded to f32 first, as everywhere.
        return rounded(array if target is F64 else _as_float(array), target)
    if source.is_float and target.size_bytes < 8:
        return _as_float(array).astype(np.int64).astype(target.numpy)
    return _as_float(array).astype(target.numpy) if source.is_float else array.astype(target.numpy)


def _as_float(array: Array) -> Array:
    """Float values in the type they are computed in; integers and truth values as float32."""
    return array.astype(np.float32) if array.dtype.kind in "biu" else widened(array)


def _largest(dtype: DType) -> np.float32:
    """The largest finite value of an 8-bit float."""
    patterns = np.arange(256, dtype=np.uint8).view(dtype.numpy).astype(np.float32)
    return np.float32(patterns[np.isfinite(patterns)].max())
