"""Converters of ONNX operators that find, count or follow positions.

Positions along a dimension are a constant 0, 1, 2, ... that comparisons and selections work on; the position of an
extreme is the least or greatest position where it is reached. Positions are counted in f32, which is exact below 2**24.
Elements that an index tensor names are gathered from the flattened data, at positions computed from the indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.movement import reshaped
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.positions import (
    Positions,
    along,
    element_positions,
    from_front,
    positions_value,
    tuple_positions,
)
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value, constant_of, readonly
from neuron_dialects.dtypes import F32, I64, DType, dtype_of_onnx
from neuron_dialects.graph import (
    BinaryKind,
    CompareKind,
    CompareOp,
    ConcatOp,
    GatherOp,
    MatMulOp,
    PadOp,
    ReduceKind,
    ReduceOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import Shape, ShapeError, element_count, normalize_axis
from neuron_dialects.graph.support import EXACT_INTEGERS

_MOST_EXTREMES = 8
"""TopK finds its elements one after the other, each in several passes over the data; beyond this the host is faster."""
_LARGEST_TRIANGLE = 2048
"""Size of the triangular matrix that a running sum of floats is a product with."""


# Pieces


def _number(node: Node, index: int) -> int:
    """An input that is one whole number, known at import."""
    values = node.constant(index).reshape(-1)
    if len(values) != 1 or not np.isfinite(values[0]):
        raise ShapeError(f"input {index} is not one number")
    return int(values[0])


def _positions(node: Node, count: int, axis: int, rank: int, dtype: DType = F32) -> SSAValue:
    """0, 1, 2, ... below `count` along one of `rank` dimensions."""
    if not 1 <= count <= EXACT_INTEGERS:
        raise Unsupported(f"{count} positions, where cores count from 1 to {EXACT_INTEGERS}")
    return node.constant_value(f"positions{count}_{rank - axis}", along(np.arange(count), axis, rank), dtype)


# Positions of extremes


def _extreme_position(
    node: Node, x: SSAValue, positions: SSAValue, axis: int, *, largest: bool, last: bool = False
) -> tuple[SSAValue, SSAValue]:
    """The extreme of x along an axis and the first (or last) of the `positions` where x reaches it, as [.., 1, ..].

    What does not reach the extreme is moved out of the way; comparing so that NaN reaches it keeps positions in range.
    """
    extreme = node.emit(ReduceOp(ReduceKind.MAX if largest else ReduceKind.MIN, x, (axis,), keep_dims=True))
    short = node.emit(CompareOp(CompareKind.LT if largest else CompareKind.GT, x, extreme))
    away = node.constant_value("away", -1 if last else 2 * EXACT_INTEGERS, F32)
    reached = node.emit(SelectOp(short, away, positions))
    return extreme, node.emit(ReduceOp(ReduceKind.MAX if last else ReduceKind.MIN, reached, (axis,), keep_dims=True))


def _arg_extreme(node: Node, largest: bool) -> Sequence[Value]:
    """The index of the extreme along an axis; of several equal ones the first, or the last if asked for."""
    x = node.operand(0)
    shape = shape_of(x)
    axis = node.axis(0, len(shape))
    positions = _positions(node, shape[axis], axis, len(shape))
    last = bool(node.int_attr("select_last_index", 0))
    _, position = _extreme_position(node, x, positions, axis, largest=largest, last=last)
    result = node.cast(position, I64)
    return [result if node.int_attr("keepdims", 1) else reshaped(node, result, (*shape[:axis], *shape[axis + 1 :]))]


def _hardmax(node: Node) -> Sequence[Value]:
    """One at the first maximum along the axis, zero elsewhere; before opset 13, along all from `axis` on."""
    x = node.operand(0)
    dtype, shape = spec_of(x)
    axis = node.axis(1 if node.opset < 13 else -1, len(shape))
    if node.opset < 13:
        x = reshaped(node, x, (element_count(shape[:axis]), element_count(shape[axis:])))
        axis = 1
    work = shape_of(x)
    positions = _positions(node, work[axis], axis, len(work))
    _, first = _extreme_position(node, x, positions, axis, largest=True)
    hit = node.emit(CompareOp(CompareKind.EQ, positions, first))
    return [reshaped(node, node.cast(hit, dtype), shape)]


def _top_k(node: Node) -> Sequence[Value]:
    """The k extremes in order and their indices: each time the first one reached, which then leaves the contest."""
    x = node.operand(0)
    dtype, shape = spec_of(x)
    axis = node.axis(-1, len(shape))
    count = _number(node, 1) if node.opset >= 10 else node.int_attr("k")
    if not 0 <= count <= shape[axis]:
        raise ShapeError(f"{count} of {shape[axis]} elements are asked for")
    if not 1 <= count <= _MOST_EXTREMES:
        raise Unsupported(f"{count} elements are asked for; cores find 1 to {_MOST_EXTREMES}")
    if not dtype.is_float and not dtype.is_integer:
        raise Unsupported(f"an order of type {dtype}")
    largest = bool(node.int_attr("largest", 1))
    positions = contest = _positions(node, shape[axis], axis, len(shape))
    away = node.constant_value("away", 2 * EXACT_INTEGERS, F32)
    values: list[SSAValue] = []
    indices: list[SSAValue] = []
    for _ in range(count):
        extreme, position = _extreme_position(node, x, contest, axis, largest=largest)
        values.append(extreme)
        indices.append(position)
        if len(values) < count:
            # What was found counts as the worst there is; an element as bad still wins against it, by position.
            taken = node.emit(CompareOp(CompareKind.EQ, positions, position))
            worst = node.emit(ReduceOp(ReduceKind.MIN if largest else ReduceKind.MAX, x, (axis,), keep_dims=True))
            x = node.emit(SelectOp(taken, worst, x))
            contest = node.emit(SelectOp(taken, away, contest))
    joined = [parts[0] if count == 1 else node.emit(ConcatOp(parts, axis)) for parts in (values, indices)]
    return [joined[0], node.cast(joined[1], I64)]


# Positions compared


def _one_hot(node: Node) -> Sequence[Value]:
    """The second of two values where the new dimension's position is the index, else the first."""
    indices = node.operand(0)
    depth = _number(node, 1)
    shape = shape_of(indices)
    rank = len(shape) + 1
    axis = normalize_axis(node.int_attr("axis", -1), rank)
    if depth < 1:
        raise Unsupported(f"a depth of {depth}")
    if element_count(node.shape(2)) != 2:
        raise ShapeError(f"{element_count(node.shape(2))} values instead of two")
    apart = reshaped(node, node.cast(indices, I64), (*shape[:axis], 1, *shape[axis:]))
    front = from_front(node, apart, depth)
    hit = node.emit(CompareOp(CompareKind.EQ, front, _positions(node, depth, axis, rank, I64)))
    off, on = (reshaped(node, node.emit(SliceOp(node.operand(2), [i], [1], [1])), ()) for i in (0, 1))
    return [node.emit(SelectOp(hit, on, off))]


def _eye_like(node: Node) -> Sequence[Value]:
    """Ones on a diagonal, in the shape of the input; nothing of it depends on the input's elements."""
    dtype = dtype_of_onnx(node.int_attr("dtype")) if "dtype" in node.attributes else node.dtype(0)
    shape = node.shape(0)
    if dtype is None or len(shape) != 2 or element_count(shape) > EXACT_INTEGERS:
        raise Unsupported("a diagonal of this type or shape")
    ones = readonly(np.eye(*shape, node.int_attr("k", 0)).astype(dtype.numpy))
    return [constant_of(f"{node.scope.prefix}{node.proto.output[0]}", ones)]


# Running sums


def _cum_sum(node: Node) -> Sequence[Value]:
    """Sums of all elements up to each one along an axis; `exclusive` without itself, `reverse` from the end.

    A short sum of floats is a product with a triangle of ones; any other adds the tensor, moved by 1, 2, 4, ...
    """
    x = node.operand(0)
    dtype, shape = spec_of(x)
    axis = 0 if len(shape) == 1 else normalize_axis(_number(node, 1), len(shape))
    exclusive, reverse = bool(node.int_attr("exclusive", 0)), bool(node.int_attr("reverse", 0))
    if dtype.is_float and shape[axis] <= _LARGEST_TRIANGLE:
        ones = np.ones((shape[axis], shape[axis]))
        triangle = np.tril(ones, -int(exclusive)) if reverse else np.triu(ones, int(exclusive))
        order = [*(d for d in range(len(shape)) if d != axis), axis]
        moved = x if axis == len(shape) - 1 else node.emit(TransposeOp(x, order))
        rows = reshaped(node, moved, (element_count(shape) // max(shape[axis], 1), shape[axis]))
        sums = node.emit(MatMulOp(rows, node.constant_value("triangle", triangle, dtype)))
        result = reshaped(node, sums, shape_of(moved))
        back = [order.index(d) for d in range(len(shape))]
        return [result if moved is x else node.emit(TransposeOp(result, back))]
    total = _moved(node, x, axis, 1, reverse) if exclusive else x
    distance = 1
    while distance < shape[axis]:
        total = node.binary(BinaryKind.ADD, total, _moved(node, total, axis, distance, reverse))
        distance *= 2
    return [total]


def _moved(node: Node, x: SSAValue, axis: int, distance: int, reverse: bool) -> SSAValue:
    """x moved along the axis, towards the front if `reverse`; zeros follow."""
    sizes = list(shape_of(x))
    distance = min(distance, sizes[axis])
    sizes[axis] -= distance
    starts, gap, none = [0] * len(sizes), [0] * len(sizes), [0] * len(sizes)
    gap[axis] = distance
    kept = node.emit(SliceOp(x, gap if reverse else starts, sizes, [1] * len(sizes)))
    return node.emit(PadOp(kept, none, gap) if reverse else PadOp(kept, gap, none))


# Elements that indices name


def _gather_rows(node: Node, shape: Shape, positions: Positions) -> SSAValue:
    """The rows at `positions` of the data, reshaped to `shape`."""
    return node.emit(GatherOp(reshaped(node, node.operand(0), shape), positions_value(node, positions, shape[0]), 0))


def _gather_elements(node: Node) -> Sequence[Value]:
    """The element at the same coordinates, but along the axis at the index."""
    shape = node.shape(0)
    return [_gather_rows(node, (element_count(shape),), element_positions(node, node.axis(0, len(shape))))]


def _gather_nd(node: Node) -> Sequence[Value]:
    """The parts of the data that index tuples name, position by position of the batch."""
    positions, rows = tuple_positions(node, node.int_attr("batch_dims", 0))
    return [_gather_rows(node, rows, positions)]


def _compress(node: Node) -> Sequence[Value]:
    """The slices where a list of truth values, known at import, says so; without an axis, the elements."""
    x, kept = node.operand(0), np.flatnonzero(node.constant(1))
    if "axis" not in node.attributes:
        x = reshaped(node, x, (element_count(shape_of(x)),))
    axis = node.axis(0, len(shape_of(x)))
    if len(kept) == 0:
        raise Unsupported("nothing is kept")
    if kept[-1] >= shape_of(x)[axis]:
        raise ShapeError(f"element {kept[-1]} of {shape_of(x)[axis]} is to be kept")
    return [node.emit(GatherOp(x, node.constant_value("kept", kept, I64), axis))]


CONVERTERS: dict[str, Row] = {
    "ArgMax": Row(partial(_arg_extreme, largest=True), since=1),
    "ArgMin": Row(partial(_arg_extreme, largest=False), since=1),
    "Hardmax": Row(_hardmax, since=1),
    "TopK": Row(_top_k, since=1),
    "OneHot": Row(_one_hot, since=9),
    "EyeLike": Row(_eye_like, since=9),
    "CumSum": Row(_cum_sum, since=11),
    "GatherElements": Row(_gather_elements, since=11),
    "GatherND": Row(_gather_nd, since=11),
    "Compress": Row(_compress, since=9),
}
"""ONNX operator type -> row."""
