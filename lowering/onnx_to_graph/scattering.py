"""Converters of ONNX operators that write elements where indices name them: the Scatter family.

Without a reduction they are rows of the data replaced at computed positions (graph.scatter). With one, indices known at
import are cut into rounds of which each names a position once, and each round gathers, combines and scatters; indices
known only at run time are compared with every position, and what names a position is reduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.arithmetic import Arithmetic
from lowering.onnx_to_graph.limits import require_computable
from lowering.onnx_to_graph.linear import spatial_attr
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.positions import (
    Positions,
    along,
    element_positions,
    from_front,
    offsets,
    positions_value,
    tuple_positions,
)
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Array, Constant, Value
from neuron_dialects.dtypes import I1, I64
from neuron_dialects.graph import (
    BinaryKind,
    CompareKind,
    ConstantOp,
    GatherOp,
    PadOp,
    ReduceKind,
    ScatterOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import Shape, ShapeError, element_count, normalize_axis

_MOST_ROUNDS = 8
"""Constant indices that name one position more often than this are compared instead."""

_MOST_COMPARED = 2**24
"""Comparisons of run-time indices with positions, times elements of an update: beyond this the host is faster."""


@dataclass(frozen=True)
class _Reduction:
    """How an update is combined with what is there."""

    binary: BinaryKind
    reduce: ReduceKind
    identity: float | None
    """What changes nothing; None stands for the element that is there itself."""


_REDUCTIONS = {
    "add": _Reduction(BinaryKind.ADD, ReduceKind.SUM, 0.0),
    "mul": _Reduction(BinaryKind.MUL, ReduceKind.PROD, 1.0),
    "max": _Reduction(BinaryKind.MAX, ReduceKind.MAX, None),
    "min": _Reduction(BinaryKind.MIN, ReduceKind.MIN, None),
}


def _reduction(node: Node) -> _Reduction | None:
    """The attribute `reduction`; Unsupported where elements cannot be combined so."""
    name = node.string_attr("reduction", "none")
    if name == "none":
        return None
    if name not in _REDUCTIONS or node.dtype(0) is I1:
        raise Unsupported(f"reduction {name} of {node.dtype(0)}")
    return _REDUCTIONS[name]


# Rows at positions


def _scattered(node: Node, rows: Shape, positions: Positions, reduction: _Reduction | None) -> SSAValue:
    """The data, seen as `rows`, with the updates (input 2) at the positions, in the data's own shape."""
    ops = Arithmetic(node)
    shape = node.shape(0)
    count = element_count(np.shape(positions) if isinstance(positions, np.ndarray) else shape_of(positions))
    data = ops.reshape(node.operand(0), rows)
    if not count:
        return ops.reshape(data, shape)
    updates = ops.reshape(node.operand(2), (count, *rows[1:]))
    if isinstance(positions, np.ndarray):
        result = _at_constants(node, data, positions.reshape(-1), updates, reduction)
    elif reduction is None:
        flat = ops.reshape(positions_value(node, positions, rows[0]), (count,))
        result = node.emit(ScatterOp(data, flat, updates, 0))
    else:
        flat = ops.reshape(positions, (count, *[1] * len(rows[1:])))
        result = _compared(node, data, flat, updates, reduction, 0)
    return ops.reshape(result, shape)


def _at_constants(
    node: Node, data: SSAValue, positions: Array, updates: SSAValue, reduction: _Reduction | None
) -> SSAValue:
    """Rows replaced, or combined round by round, at positions known at import."""
    ops, rows, count = Arithmetic(node), shape_of(data)[0], len(positions)
    if reduction is None and np.array_equal(positions, np.arange(positions[0], positions[0] + count)):
        first = int(positions[0])
        around = ((0, first), (first + count, rows - first - count))
        before, after = ([ops.part(data, 0, start, size)] if size else [] for start, size in around)
        return ops.concat([*before, updates, *after], 0)
    if reduction is None:
        return node.emit(ScatterOp(data, positions_value(node, positions, rows), updates, 0))
    rounds = rounds_of(positions)
    if len(rounds) > _MOST_ROUNDS:
        column = node.constant_value("positions", positions.reshape(count, *[1] * (len(shape_of(data)) - 1)), I64)
        return _compared(node, data, column, updates, reduction, 0)
    for members in rounds:
        where = positions_value(node, positions[members], rows)
        taken = updates
        if len(members) != count:
            taken = node.emit(GatherOp(updates, node.constant_value("round", members, I64), 0))
        present = node.emit(GatherOp(data, where, 0))
        data = node.emit(ScatterOp(data, where, ops.binary(reduction.binary, present, taken), 0))
    return data


def rounds_of(positions: Array) -> list[Array]:
    """Numbers of the positions, in groups that have none twice: the k-th group has each position's k-th occurrence."""
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    occurrence = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return [np.sort(order[occurrence == k]) for k in range(int(occurrence.max()) + 1)]


# Positions compared


def _compared(
    node: Node, data: SSAValue, indices: SSAValue, updates: SSAValue, reduction: _Reduction, axis: int
) -> SSAValue:
    """Every element of the data combined with the updates whose index, along the axis, is its position.

    Indices count from the front and broadcast to updates, which may be smaller than the data elsewhere.
    """
    shape, wanted = shape_of(data), shape_of(updates)
    compared = element_count(wanted) * shape[axis]
    if compared > _MOST_COMPARED:
        raise Unsupported(f"{compared} comparisons of indices with positions, limit {_MOST_COMPARED}")
    ops, dtype = Arithmetic(node), spec_of(data)[0]
    covered = data
    for d, size in enumerate(wanted):
        covered = covered if d == axis else ops.part(covered, d, 0, size)
    places = node.constant_value("places", along(np.arange(shape[axis]), axis, len(shape) + 1), spec_of(indices)[0])
    index_shape = shape_of(indices)
    named = ops.compare(CompareKind.EQ, ops.reshape(indices, (*index_shape[:axis], 1, *index_shape[axis:])), places)
    apart = ops.reshape(updates, (*wanted[:axis], 1, *wanted[axis:]))
    neutral = (
        ops.number(reduction.identity, dtype)
        if reduction.identity is not None
        else ops.reshape(covered, (*shape_of(covered)[: axis + 1], 1, *shape_of(covered)[axis + 1 :]))
    )
    combined = ops.reduce(reduction.reduce, ops.where(named, apart, neutral), (axis + 1,))
    result = ops.binary(reduction.binary, covered, combined)
    return result if shape_of(covered) == shape else _placed(node, data, result)


def _placed(node: Node, data: SSAValue, corner: SSAValue) -> SSAValue:
    """The data with the elements from the first one on replaced by those of `corner`."""
    shape, covered = shape_of(data), shape_of(corner)
    gap = [have - got for have, got in zip(shape, covered, strict=True)]
    require_computable(element_count(shape))
    inside = np.zeros(shape, np.bool_)
    inside[tuple(slice(size) for size in covered)] = True
    wide = node.emit(PadOp(corner, [0] * len(shape), gap))
    return Arithmetic(node).where(node.constant_value("covered", inside, I1), wide, data)


# Operators


def _scatter_elements(node: Node) -> Sequence[Value]:
    """The element at the same coordinates, but along the axis at the index, becomes (or takes in) the update."""
    shape, wanted = node.shape(0), node.shape(1)
    axis = node.axis(0, len(shape))
    if node.shape(2) != wanted:
        raise ShapeError(f"updates of {list(node.shape(2))} for indices of {list(wanted)}")
    reduction = _reduction(node)
    if reduction is None or isinstance(node.value(1), Constant):
        return [_scattered(node, (element_count(shape),), element_positions(node, axis), reduction)]
    if any(want > have for d, (want, have) in enumerate(zip(wanted, shape, strict=True)) if d != axis):
        raise ShapeError(f"indices of {list(wanted)} do not fit data of {list(shape)}")
    front = from_front(node, node.operand(1), shape[axis])
    return [_compared(node, node.operand(0), front, node.operand(2), reduction, axis)]


def _scatter_nd(node: Node) -> Sequence[Value]:
    """The parts of the data that index tuples name become (or take in) the updates."""
    positions, rows = tuple_positions(node, 0)
    wanted = (*node.shape(1)[:-1], *rows[1:])
    if node.shape(2) != wanted:
        raise ShapeError(f"updates of {list(node.shape(2))} where the indices name {list(wanted)}")
    return [_scattered(node, rows, positions, _reduction(node))]


def _tensor_scatter(node: Node) -> Sequence[Value]:
    """Updates written into a cache along the axis, for each example from its own index on, which may wrap around."""
    cache, shape, wanted = node.operand(0), node.shape(0), node.shape(1)
    axis = normalize_axis(node.int_attr("axis", -2), len(shape))
    circular = node.string_attr("mode", "linear") == "circular"
    if axis == 0 or (*shape[:axis], *shape[axis + 1 :]) != (*wanted[:axis], *wanted[axis + 1 :]):
        raise ShapeError(f"updates of {list(wanted)} do not fit a cache of {list(shape)}")
    ops, outer, length = Arithmetic(node), element_count(shape[:axis]), shape[axis]
    per_example = outer // max(shape[0], 1)
    first = node.constant_value("first", 0, I64)
    if node.has(2):
        first = ops.reshape(ops.cast(node.operand(2), I64), (shape[0], 1, 1))
    along_axis = ops.add(first, node.constant_value("steps", np.arange(wanted[axis]), I64))
    if circular:
        along_axis = ops.binary(BinaryKind.MOD, along_axis, length)
    starts = offsets((shape[0], per_example, 1), (per_example * length, length, 0))
    positions = ops.add(along_axis, node.constant_value("starts", starts, I64))
    row = shape[axis + 1 :]
    updates = ops.reshape(node.operand(1), (outer * wanted[axis], *row))
    flat = ops.reshape(positions_value(node, positions, outer * length), (outer * wanted[axis],))
    return [ops.reshape(node.emit(ScatterOp(ops.reshape(cache, (outer * length, *row)), flat, updates, 0)), shape)]


def _max_unpool(node: Node) -> Sequence[Value]:
    """Every element back where a MaxPool found it, in the flattened result; zeros elsewhere."""
    ops, x = Arithmetic(node), node.operand(0)
    dtype, shape = spec_of(x)
    rank = len(shape) - 2
    kernel, steps = spatial_attr(node, "kernel_shape", rank, 1), spatial_attr(node, "strides", rank, 1)
    pads = spatial_attr(node, "pads", 2 * rank, 0)
    if node.shape(1) != shape or rank < 1:
        raise ShapeError(f"positions of {list(node.shape(1))} for elements of {list(shape)}")
    spatial = [
        (size - 1) * stride + extent - pads[d] - pads[rank + d]
        for d, (size, stride, extent) in enumerate(zip(shape[2:], steps, kernel, strict=True))
    ]
    result = (*shape[:2], *spatial)
    if node.has(2) and tuple(node.constant_ints(2)) != result:
        raise Unsupported("a result of another shape than the pool's input")
    count, rows = element_count(shape), element_count(result)
    if not count or min(spatial) < 1:
        raise Unsupported(f"a result of {list(result)}")
    zeros = node.emit(ConstantOp(0, dtype, (rows,)))
    positions = positions_value(node, ops.reshape(node.operand(1), (count,)), rows)
    return [ops.reshape(node.emit(ScatterOp(zeros, positions, ops.reshape(x, (count,)), 0)), result)]


CONVERTERS: dict[str, Row] = {
    "Scatter": Row(_scatter_elements, since=9, until=10),
    "ScatterElements": Row(_scatter_elements, since=11),
    "MaxUnpool": Row(_max_unpool, since=9),
    "ScatterND": Row(_scatter_nd, since=11),
    "TensorScatter": Row(_tensor_scatter, since=24),
}
"""ONNX operator type -> row."""
