"""Converters of ONNX's quantised operators, as float operators on the integers.

A quantised number q stands for (q - zero point) * scale. Integers of 8 bits less their zero point have a magnitude of
at most 255, which bf16 and everything wider hold exactly, so that products of them are exact in f32 and sums are exact
as long as they stay below 2**24. Where a bound from the weights cannot promise that, the sum is cut into pieces that
are exact, and these are added as 32-bit integers. Quantised weights stay as they are in the file: the operators that
widen them are folded later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np
import numpy.typing as npt
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.linear import convolution, matrix_product
from lowering.onnx_to_graph.movement import reshaped
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Constant, Value
from neuron_dialects.dtypes import F32, I32, UI8, DType, dtype_of_onnx
from neuron_dialects.graph import (
    BinaryKind,
    BroadcastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    ConstantOp,
    ReduceKind,
    ReduceOp,
    SelectOp,
    SliceOp,
    UnaryKind,
    UnaryOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import Shape, ShapeError, element_count

_QUANTIZED = ("i8", "ui8", "i16", "ui16")
"""Element types that QuantizeLinear makes here; f32 holds every one of their values."""
_EXACT_SUM = 2**24
"""f32 holds every integer up to this magnitude."""


# Pieces


def _zero_point(node: Node, index: int) -> SSAValue | None:
    """An optional zero point in f32; None where it is absent or known to be zero."""
    if not node.has(index):
        return None
    value = node.value(index)
    if isinstance(value, Constant) and not value.read().any():
        return None
    return node.cast(node.operand(index), F32)


def _centered(node: Node, x: SSAValue, zero_point: SSAValue | None) -> SSAValue:
    """x less its zero point, in f32."""
    wide = node.cast(x, F32)
    return wide if zero_point is None else node.binary(BinaryKind.SUB, wide, zero_point)


def _saturated(node: Node, x: SSAValue, zero_point: SSAValue | None, dtype: DType) -> SSAValue:
    """The f32 tensor x rounded half to even, moved by the zero point, clipped to the range of `dtype` and cast."""
    if dtype.name not in _QUANTIZED:
        raise Unsupported(f"quantised values of type {dtype}")
    rounded = node.emit(UnaryOp(UnaryKind.ROUND, x))
    moved = rounded if zero_point is None else node.binary(BinaryKind.ADD, rounded, zero_point)
    limits = np.iinfo(dtype.numpy)
    return node.cast(node.emit(ClipOp(moved, minimum=float(limits.min), maximum=float(limits.max))), dtype)


def _quotient(node: Node, x: SSAValue, scale: SSAValue, dtype: DType) -> SSAValue:
    """x / scale, rounded as a division also on cores, which multiply with a reciprocal, where that decides a value.

    Next to a tie an error in a quotient's last place decides between two 8-bit values. Seen from the tie t the quotient
    is t + (x - t * scale) / scale; that difference is exact, as t has 11 bits and scale is taken in two halves of 12.
    """
    first = node.binary(BinaryKind.DIV, x, scale)
    known = scale.owner.array() if isinstance(scale.owner, ConstantOp) else None
    power_of_two = known is not None and np.frexp(known.item())[0] == 0.5
    if dtype.size_bytes > 1 or power_of_two:
        return first
    factor = node.constant_value("half of the bits", 2**12 + 1, F32)
    wide = node.binary(BinaryKind.MUL, scale, factor)
    high = node.binary(BinaryKind.SUB, wide, node.binary(BinaryKind.SUB, wide, scale))
    low = node.binary(BinaryKind.SUB, scale, high)
    whole = node.emit(UnaryOp(UnaryKind.FLOOR, node.emit(ClipOp(first, minimum=-1024.0, maximum=1023.0))))
    tie = node.binary(BinaryKind.ADD, whole, node.constant_value("half", 0.5, F32))
    rest = node.binary(BinaryKind.SUB, x, node.binary(BinaryKind.MUL, tie, high))
    rest = node.binary(BinaryKind.SUB, rest, node.binary(BinaryKind.MUL, tie, low))
    return node.binary(BinaryKind.ADD, tie, node.binary(BinaryKind.DIV, rest, scale))


def _per_axis(node: Node, parameter: SSAValue, shape: Shape, axis: int) -> SSAValue:
    """A scale or zero point (one for the tensor, or one per index along `axis`) so that it broadcasts to `shape`."""
    given = shape_of(parameter)
    if element_count(given) == 1:
        return reshaped(node, parameter, ())
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis < len(shape) or given != (shape[axis],):
        raise ShapeError(f"{element_count(given)} scales or zero points do not fit axis {axis} of {list(shape)}")
    return reshaped(node, parameter, (*given, *[1] * (len(shape) - axis - 1)))


def _per_block(node: Node, parameter: SSAValue, shape: Shape, axis: int, block: int) -> SSAValue:
    """A scale or zero point with one value per `block` elements along `axis`, repeated to `shape`."""
    given = shape_of(parameter)
    axis = axis + len(shape) if axis < 0 else axis
    if not 0 <= axis < len(shape) or given != (*shape[:axis], ceil(shape[axis] / block), *shape[axis + 1 :]):
        raise ShapeError(f"scales or zero points of {list(given)} do not fit blocks of {block} in {list(shape)}")
    before, count, after = given[:axis], given[axis], given[axis + 1 :]
    apart = reshaped(node, parameter, (*before, count, 1, *after))
    repeated = node.emit(BroadcastOp(apart, (*before, count, block, *after)))
    joined = reshaped(node, repeated, (*before, count * block, *after))
    return (
        joined if shape_of(joined) == shape else node.emit(SliceOp(joined, [0] * len(shape), shape, [1] * len(shape)))
    )


def _parameters(node: Node) -> tuple[SSAValue, SSAValue | None]:
    """Scale and zero point of QuantizeLinear and DequantizeLinear in f32, broadcasting to input 0."""
    shape, axis, block = node.shape(0), node.int_attr("axis", 1), node.int_attr("block_size", 0)

    def fitted(parameter: SSAValue) -> SSAValue:
        if block:
            return _per_block(node, parameter, shape, axis, block)
        return _per_axis(node, parameter, shape, axis)

    zero_point = _zero_point(node, 2)
    scale = fitted(node.cast(node.operand(1), F32))
    return scale, None if zero_point is None else fitted(zero_point)


# Between floats and quantised numbers


def _quantize_linear(node: Node) -> Sequence[Value]:
    """round(x / scale) + zero point, saturated."""
    wanted = node.int_attr("output_dtype", 0)
    dtype = node.dtype(2) if node.has(2) else dtype_of_onnx(wanted) if wanted else UI8
    if dtype is None:
        raise Unsupported("quantised values of a type that only the host understands")
    scale, zero_point = _parameters(node)
    scaled = _quotient(node, node.cast(node.operand(0), F32), scale, dtype)
    return [_saturated(node, scaled, zero_point, dtype)]


def _dequantize_linear(node: Node) -> Sequence[Value]:
    """(x - zero point) * scale."""
    if not node.dtype(0).is_integer:
        raise Unsupported(f"quantised values of type {node.dtype(0)}")
    wanted = node.int_attr("output_dtype", 0)
    dtype = dtype_of_onnx(wanted) if wanted else node.dtype(1)
    if dtype is None:
        raise Unsupported("a result of a type that only the host understands")
    scale, zero_point = _parameters(node)
    product = node.binary(BinaryKind.MUL, _centered(node, node.operand(0), zero_point), scale)
    return [node.cast(product, dtype)]


def _dynamic_quantize_linear(node: Node) -> Sequence[Value]:
    """Scale and zero point from the range of x and zero; 255 steps. Where x is zero everywhere the scale is one."""
    x = node.operand(0)
    axes = tuple(range(len(shape_of(x))))

    def bound(kind: ReduceKind, with_zero: BinaryKind) -> SSAValue:
        extreme = node.emit(ReduceOp(kind, x, axes, keep_dims=False)) if axes else x
        return node.binary(with_zero, extreme, zero)

    zero = node.constant_value("zero", 0.0, F32)
    low, high = bound(ReduceKind.MIN, BinaryKind.MIN), bound(ReduceKind.MAX, BinaryKind.MAX)
    step = _per_step(node, node.binary(BinaryKind.SUB, high, low))
    empty = node.emit(CompareOp(CompareKind.EQ, step, zero))
    scale = node.emit(SelectOp(empty, node.constant_value("one", 1.0, F32), step))
    offset = _quotient(node, node.binary(BinaryKind.SUB, zero, low), scale, UI8)
    zero_point = _saturated(node, offset, None, UI8)
    scaled = _quotient(node, x, scale, UI8)
    return [_saturated(node, scaled, node.cast(zero_point, F32), UI8), scale, zero_point]


def _per_step(node: Node, span: SSAValue) -> SSAValue:
    """A 255th of a range, rounded as a division: an error in its last place moves the zero point where that is a tie.

    What a first quotient q leaves, span - 256 * q + q, is exact: in each sum the terms are within a factor of two.
    """
    steps = node.constant_value("steps", 255.0, F32)
    first = node.binary(BinaryKind.DIV, span, steps)
    wide = node.binary(BinaryKind.MUL, first, node.constant_value("wide", 256.0, F32))
    rest = node.binary(BinaryKind.ADD, node.binary(BinaryKind.SUB, span, wide), first)
    return node.binary(BinaryKind.ADD, first, node.binary(BinaryKind.DIV, rest, steps))


# Products of quantised numbers


def _require_bytes(node: Node, *indices: int) -> None:
    """Unsupported for the products that ONNX also defines on eight-bit floats."""
    for index in indices:
        if node.dtype(index).name not in ("i8", "ui8"):
            raise Unsupported(f"products of quantised values of type {node.dtype(index)}")


def _extent(node: Node, index: int, zero_index: int) -> tuple[int, int]:
    """Bounds, with zero between them, of an 8-bit input less its zero point, as its element type has them."""
    limits = np.iinfo(node.dtype(index).numpy)
    if not node.has(zero_index):
        return min(limits.min, 0), limits.max
    value = node.value(zero_index)
    if not isinstance(value, Constant):
        return limits.min - limits.max, limits.max - limits.min
    zero_points = value.read().astype(np.int64)
    low, high = limits.min - zero_points.max(initial=0), limits.max - zero_points.min(initial=0)
    return min(int(low), 0), max(int(high), 0)


@dataclass(frozen=True)
class _Sums:
    """What bounds the sums of products of x and w."""

    x: tuple[int, int]
    """Bounds of x less its zero point."""
    shape: tuple[int, int, int]
    """Of w, as outputs, what can be cut into pieces, and what is summed over too."""
    w: npt.NDArray[np.int16] | tuple[int, int]
    """w less its zero point in that shape, or its bounds where it is not known."""

    def largest(self, start: int, stop: int) -> int:
        """A bound on the magnitude of every partial sum over a piece."""
        low, high = self.x
        if isinstance(self.w, tuple):
            largest = max(abs(a * b) for a in self.x for b in self.w)
            return largest * (stop - start) * self.shape[2]
        piece = self.w[:, start:stop].astype(np.int64)
        positive, negative = (np.maximum(part, 0).sum(axis=(1, 2)) for part in (piece, -piece))
        sums = np.maximum(positive * high - negative * low, negative * high - positive * low)
        return int(sums.max(initial=0))

    def pieces(self) -> list[tuple[int, int]]:
        """Ranges whose sums f32 holds, as few as doubling finds; single indices where even two are too many."""
        length, count = self.shape[1], 1
        while True:
            step = ceil(length / count)
            ranges = [(start, min(start + step, length)) for start in range(0, length, max(step, 1))]
            if step <= 1 or all(self.largest(*ends) <= _EXACT_SUM for ends in ranges):
                return ranges
            count *= 2


def _matrix_sums(node: Node, a: tuple[int, int], b: tuple[int, int]) -> _Sums:
    """What bounds the sums of a matrix product; a and b are the positions of an input and of its zero point."""
    shape = node.shape(b[0])
    rows = shape[max(len(shape) - 2, 0)] if shape else 1
    outputs = element_count(shape) // max(rows, 1)
    known = _known_weights(node, *b, () if not node.has(b[1]) else node.shape(b[1]))
    if known is not None:
        known = (known if len(shape) > 1 else known.reshape(-1, 1)).swapaxes(-1, -2).reshape(outputs, rows, 1)
    return _Sums(_extent(node, *a), (outputs, rows, 1), _extent(node, *b) if known is None else known)


def _window_sums(node: Node, x: tuple[int, int], w: tuple[int, int]) -> _Sums:
    """The same of a convolution; channels are what can be cut."""
    outputs, channels, *window = node.shape(w[0])
    count = element_count(node.shape(w[1])) if node.has(w[1]) else 1
    known = _known_weights(node, *w, (count, *[1] * (len(window) + 1)) if count > 1 else ())
    shape = (outputs, channels, prod(window))
    return _Sums(_extent(node, *x), shape, _extent(node, *w) if known is None else known.reshape(shape))


def _known_weights(node: Node, index: int, zero_index: int, zero_shape: Shape) -> npt.NDArray[np.int16] | None:
    """Weights less their zero point, whose values take `zero_shape`; None unless both are known at import."""
    weights = node.value(index)
    zero = node.value(zero_index) if node.has(zero_index) else None
    if not isinstance(weights, Constant) or not (zero is None or isinstance(zero, Constant)):
        return None
    centered = weights.read().astype(np.int16)
    if zero is None:
        return centered
    values = zero.read().astype(np.int16)
    return np.asarray(centered - (values.reshape(()) if values.size == 1 else values.reshape(zero_shape)), np.int16)


def _summed(
    node: Node,
    sums: _Sums,
    operands: tuple[SSAValue, SSAValue],
    axes: tuple[int, int],
    multiply: Callable[[SSAValue, SSAValue], SSAValue],
) -> SSAValue:
    """The sums of products of two operands: in f32 if that is exact, else i32 sums of pieces that are.

    `axes`: of each operand, the axis that is cut.
    """
    pieces = sums.pieces()
    largest = max(sums.largest(*ends) for ends in pieces) if pieces else 0
    if largest > _EXACT_SUM:
        node.notes.append(
            f"{node.name}: integer sums may reach {largest}, beyond the {_EXACT_SUM} that f32 counts to;"
            " those that do are rounded"
        )
    if len(pieces) <= 1:
        return multiply(*operands)
    node.notes.append(f"{node.name}: summed in {len(pieces)} pieces, so that every sum is exact")
    total: SSAValue | None = None
    for start, stop in pieces:
        parts = [_piece(node, value, axis, start, stop) for value, axis in zip(operands, axes, strict=True)]
        part = node.cast(multiply(*parts), I32)
        total = part if total is None else node.binary(BinaryKind.ADD, total, part)
    assert total is not None
    return total


def _piece(node: Node, value: SSAValue, axis: int, start: int, stop: int) -> SSAValue:
    """The elements start..stop of an axis."""
    shape = shape_of(value)
    starts = [start if d == axis else 0 for d in range(len(shape))]
    sizes = [stop - start if d == axis else size for d, size in enumerate(shape)]
    return node.emit(SliceOp(value, starts, sizes, [1] * len(shape)))


def _matrix_parameter(shape: Shape, columns: bool) -> Shape:
    """The shape in which a parameter of a matrix (one value, one per row, or one per column) broadcasts to it."""
    if element_count(shape) == 1:
        return ()
    return shape if columns or len(shape) > 1 else (*shape, 1)


def _integer_product(node: Node, a: int, a_zero: int, b: int, b_zero: int) -> SSAValue:
    """The product of two 8-bit matrices less their zero points, in f32 or i32; arguments are input positions."""
    _require_bytes(node, a, b)
    operands: list[SSAValue] = []
    for index, zero_index, columns in ((a, a_zero, False), (b, b_zero, True)):
        x = node.operand(index)
        zero_point = _zero_point(node, zero_index)
        if zero_point is not None:
            zero_point = reshaped(node, zero_point, _matrix_parameter(shape_of(zero_point), columns))
        centered = _centered(node, x, zero_point)
        if shape_of(centered) != shape_of(x):
            raise ShapeError(f"a zero point of {list(node.shape(zero_index))} does not fit {list(shape_of(x))}")
        operands.append(centered)
    left, right = operands
    axes = (len(shape_of(left)) - 1, max(len(shape_of(right)) - 2, 0))
    sums = _matrix_sums(node, (a, a_zero), (b, b_zero))
    return _summed(node, sums, (left, right), axes, lambda x, y: matrix_product(node, x, y))


def _matmul_integer(node: Node) -> Sequence[Value]:
    return [node.cast(_integer_product(node, 0, 2, 1, 3), I32)]


def _integer_convolution(node: Node, x: int, x_zero: int, w: int, w_zero: int) -> SSAValue:
    """The convolution of 8-bit x and w less their zero points, in f32 or i32; padding counts as x's zero point."""
    _require_bytes(node, x, w)
    if element_count(node.shape(x_zero) if node.has(x_zero) else ()) != 1:
        raise Unsupported("a zero point per channel of the input")
    x_point, w_point = _zero_point(node, x_zero), _zero_point(node, w_zero)
    data = _centered(node, node.operand(x), None if x_point is None else reshaped(node, x_point, ()))
    shape = node.shape(w)
    weights = _centered(node, node.operand(w), None if w_point is None else _per_axis(node, w_point, shape, 0))
    sums = _window_sums(node, (x, x_zero), (w, w_zero))
    if node.int_attr("group", 1) > 1:
        # Each group has channels of its own: they cannot be cut all at once, and are few.
        sums = replace(sums, shape=(shape[0], 1, prod(shape[1:])), w=_in_one_piece(sums.w))
    return _summed(node, sums, (data, weights), (1, 1), lambda a, b: convolution(node, a, b))


def _in_one_piece(w: npt.NDArray[np.int16] | tuple[int, int]) -> npt.NDArray[np.int16] | tuple[int, int]:
    return w if isinstance(w, tuple) else w.reshape(len(w), 1, -1)


def _conv_integer(node: Node) -> Sequence[Value]:
    return [node.cast(_integer_convolution(node, 0, 2, 1, 3), I32)]


# Products that are quantised again


def _combined_scale(node: Node, scales: Sequence[tuple[int, Shape]]) -> SSAValue:
    """scale of a * scale of b / scale of y; `scales` has the position of each and the shape to use it in."""
    values = [(node.value(index), shape) for index, shape in scales]
    known = [value.read().astype(np.float32).reshape(shape) for value, shape in values if isinstance(value, Constant)]
    if len(known) == len(values):
        return node.constant_value("scale", known[0] * known[1] / known[2], F32)
    a, b, y = (reshaped(node, node.cast(node.operand(index), F32), shape) for index, shape in scales)
    return node.binary(BinaryKind.DIV, node.binary(BinaryKind.MUL, a, b), y)


def _scalar(node: Node, index: int) -> Shape:
    """The shape () of a parameter that has to be a single value."""
    if element_count(node.shape(index)) != 1:
        raise Unsupported(f"input {index} has more than one value")
    return ()


def _qlinear_matmul(node: Node) -> Sequence[Value]:
    """a, its scale, its zero point; the same of b; scale and zero point of y: sums scaled, rounded and saturated."""
    product = node.cast(_integer_product(node, 0, 2, 3, 5), F32)
    scale = _combined_scale(
        node, [(index, _matrix_parameter(node.shape(index), columns=index == 4)) for index in (1, 4, 6)]
    )
    zero_point = _zero_point(node, 7)
    if zero_point is not None:
        zero_point = reshaped(node, zero_point, _matrix_parameter(shape_of(zero_point), columns=False))
    result = _saturated(node, node.binary(BinaryKind.MUL, product, scale), zero_point, node.dtype(7))
    if shape_of(result) != shape_of(product):
        raise ShapeError("a scale or zero point does not fit the product")
    return [result]


def _qlinear_conv(node: Node) -> Sequence[Value]:
    """x, its scale, its zero point; the same of w; scale and zero point of y; a bias in steps of x's and w's scales."""
    sums = _integer_convolution(node, 0, 2, 3, 5)
    shape = shape_of(sums)
    per_channel = (shape[1], *[1] * (len(shape) - 2))
    if node.has(8):
        bias = reshaped(node, node.cast(node.operand(8), spec_of(sums)[0]), per_channel)
        sums = node.binary(BinaryKind.ADD, sums, bias)
    sums = node.cast(sums, F32)
    weight_scale = () if element_count(node.shape(4)) == 1 else per_channel
    scale = _combined_scale(node, [(1, _scalar(node, 1)), (4, weight_scale), (6, _scalar(node, 6))])
    zero_point = _zero_point(node, 7)
    if zero_point is not None:
        zero_point = reshaped(node, zero_point, _scalar(node, 7))
    return [_saturated(node, node.binary(BinaryKind.MUL, sums, scale), zero_point, node.dtype(7))]


CONVERTERS: dict[str, Row] = {
    "QuantizeLinear": Row(_quantize_linear, since=10),
    "DequantizeLinear": Row(_dequantize_linear, since=10),
    "DynamicQuantizeLinear": Row(_dynamic_quantize_linear, since=11),
    "MatMulInteger": Row(_matmul_integer, since=10),
    "ConvInteger": Row(_conv_integer, since=10),
    "QLinearMatMul": Row(_qlinear_matmul, since=10),
    "QLinearConv": Row(_qlinear_conv, since=10),
}
