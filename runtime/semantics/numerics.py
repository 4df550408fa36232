"""Element types in arithmetic: how values are read into float32 or integers and rounded when they are written.

Engines upcast what they read to float32, compute, and round once at the write: to nearest even between floating types
(overflow gives infinity where the type has one), to nearest even with saturation from floating to integer (NaN becomes
0). i1 is stored as a byte, 0 or 1. tf32 is stored as float32 with 13 low mantissa bits of zero.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_dialects.dtypes import dtype_by_name

Array = NDArray[Any]
Floats = NDArray[np.float32]
Read = Callable[[Array], Array]
Write = Callable[[Array, Array], None]
"""(dst view, values): round the values to the dst's type and store them; the same elements in the same order."""

_TF32_LOW = np.uint32(0x1FFF)
_BF16 = dtype_by_name("bf16").numpy
_RAW = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


def is_integer(dtype: str) -> bool:
    """Whether an element type is a signed or unsigned integer."""
    return dtype_by_name(dtype).is_integer


def round_to_tf32(values: Floats) -> Floats:
    """A new array: float32 values rounded to nearest even on a 10-bit mantissa; infinities and NaN stay."""
    bits = np.array(values, dtype=np.float32, order="C").view(np.uint32)
    rounded = bits + (np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1)))
    rounded &= ~_TF32_LOW
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    np.copyto(rounded, bits, where=special)
    return rounded.view(np.float32)


def _read_as_is(view: Array) -> Floats:
    return view


def _read_cast(view: Array) -> Floats:
    if not _is_apart(view):
        return view.astype(np.float32)
    values = np.empty(view.shape, np.float32)
    _put_upper_halves(values, _upper_halves(values), raw(view))
    return values


def _is_apart(view: Array) -> bool:
    """Whether these are bf16 elements that do not lie side by side, where a float32's upper half is known.

    Numpy converts them ten times slower than those side by side; a bf16 is the upper half of a float32.
    """
    return view.dtype == _BF16 and view.ndim > 0 and view.strides[-1] != view.itemsize and sys.byteorder == "little"


def _upper_halves(target: Floats) -> Array:
    return target.view(np.uint16)[..., 1::2]


def _put_upper_halves(target: Floats, halves: Array, bits: Array) -> None:
    target[...] = 0
    np.copyto(halves, bits)


def _read_i1(view: Array) -> Floats:
    return (view.view(np.uint8) != 0).astype(np.float32)


def reader(dtype: str) -> Read:
    """Values of a view as float32. For f32 and tf32 it is the view itself, which must not be written to."""
    if dtype == "i1":
        return _read_i1
    return _read_as_is if dtype in ("f32", "tf32") else _read_cast


def fresh_reader(dtype: str) -> Read:
    """As `reader`, but always a new array that may be overwritten."""
    if dtype in ("f32", "tf32"):
        return _read_cast
    return reader(dtype)


def widening(target: Floats, view: Array) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A call, function and arguments, that copies the values of a view into a float32 array of its shape whose last
    dimension is contiguous.
    """
    if _is_apart(view):
        return _put_upper_halves, (target, _upper_halves(target), raw(view))
    return np.copyto, (target, view, "unsafe")


def integer_reader(dtype: str) -> Read:
    """Values of a view of an integer type or i1 as a new int64 array (ui64 beyond 2^63 wraps)."""
    if dtype == "i1":
        return lambda view: (view.view(np.uint8) != 0).astype(np.int64)
    return lambda view: view.astype(np.int64)


def to_integer(values: Array, dtype: np.dtype[Any]) -> Array:
    """Floating values to nearest even with saturation; NaN becomes 0."""
    limits = np.iinfo(dtype)
    wide = np.rint(values, dtype=np.float64)
    # The largest double that a 64-bit type can hold lies below its own maximum.
    largest = float(limits.max) if dtype.itemsize < 8 else float(np.nextafter(np.float64(limits.max), 0.0))
    np.clip(wide, float(limits.min), largest, out=wide)
    np.copyto(wide, 0.0, where=np.isnan(wide))
    return wide.astype(dtype)


def writer(dtype: str) -> Write:
    """Store float32 (or float64) values with the rounding of the type."""
    row = dtype_by_name(dtype)
    kind = row.numpy

    def write_float(dst: Array, values: Array) -> None:
        shaped = values.reshape(dst.shape)
        if _is_apart(dst):
            np.copyto(raw(dst), raw(shaped.astype(kind)))
        else:
            np.copyto(dst, shaped, casting="unsafe")

    def write_tf32(dst: Array, values: Array) -> None:
        np.copyto(dst, round_to_tf32(values).reshape(dst.shape))

    def write_integer(dst: Array, values: Array) -> None:
        np.copyto(dst, to_integer(values, kind).reshape(dst.shape))

    def write_i1(dst: Array, values: Array) -> None:
        np.copyto(dst, (values != 0).reshape(dst.shape))

    if dtype == "tf32":
        return write_tf32
    if dtype == "i1":
        return write_i1
    return write_float if row.is_float else write_integer


def wrapping_writer(dtype: str) -> Write:
    """Store int64 values: modulo 2^bits in an integer type, through float32 in a floating one."""
    if not is_integer(dtype):
        store = writer(dtype)
        return lambda dst, values: store(dst, values.astype(np.float32) if dtype != "i1" else values)

    def write(dst: Array, values: Array) -> None:
        np.copyto(dst, values.reshape(dst.shape), casting="unsafe")

    return write


def _saturated(values: Array, dtype: np.dtype[Any]) -> Array:
    source, limits = np.iinfo(values.dtype), np.iinfo(dtype)
    low, high = max(int(source.min), int(limits.min)), min(int(source.max), int(limits.max))
    return np.clip(values, low, high).astype(dtype)


def raw(view: Array) -> Array:
    """The same memory as unsigned integers of the element's size: copies of bits that no arithmetic touches."""
    return view.view(_RAW[view.dtype.itemsize])


def converter(source: str, destination: str) -> tuple[Read, Write]:
    """(take, put): `take` reads a snapshot, `put` stores it; together they convert from one element type to another.

    Equal types are copied bit by bit, integers among each other exactly with saturation, everything else through
    float32.
    """
    if source == destination:
        return lambda view: raw(view).copy(), lambda dst, values: np.copyto(raw(dst), values.reshape(dst.shape))
    if is_integer(source) and is_integer(destination):
        kind = dtype_by_name(destination).numpy
        return lambda view: _saturated(view, kind), lambda dst, values: np.copyto(dst, values.reshape(dst.shape))
    return fresh_reader(source), writer(destination)


def non_zero(dtype: str) -> Read:
    """Where a view's values are not zero, as a new bool array; a NaN is not zero."""
    if dtype == "i1":
        return lambda view: view.view(np.uint8) != 0
    return lambda view: np.asarray(view != 0, dtype=np.bool_)
