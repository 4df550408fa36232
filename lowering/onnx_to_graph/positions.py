"""Positions of elements in flattened data: what converters of gathers, scatters and sampling have in common.

The element at some coordinates lies at the sum of coordinate times stride. Indices known at import give constant
positions; others give positions that the core computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.arithmetic import Arithmetic
from lowering.onnx_to_graph.limits import require_computable
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.values import Array, Constant
from neuron_dialects.dtypes import I64
from neuron_dialects.graph import CompareKind, ReduceKind, spec_of
from neuron_dialects.graph.shapes import Shape, ShapeError, element_count
from neuron_dialects.graph.support import EXACT_INTEGERS

Positions = SSAValue | Array
"""Positions from the front: an integer tensor, or an array where they are known at import."""


def along(array: Array, axis: int, rank: int) -> Array:
    """A list of numbers so that it broadcasts along one of `rank` dimensions."""
    return array.reshape(len(array), *[1] * (rank - axis - 1))


def strides(shape: Sequence[int]) -> list[int]:
    """Elements between neighbours along each dimension."""
    return [element_count(shape[d + 1 :]) for d in range(len(shape))]


def offsets(shape: Shape, steps: Sequence[int], skipped: int = -1) -> Array:
    """Position of every element of `shape` in data of these strides; dimension `skipped`, of size 1, adds nothing."""
    require_computable(element_count(shape))
    total: Array = np.zeros([1] * len(shape), np.int64)
    for d, (size, step) in enumerate(zip(shape, steps, strict=True)):
        if d != skipped:
            total = total + along(np.arange(size) * step, d, len(shape))
    return total


def from_front(node: Node, indices: SSAValue, size: SSAValue | int) -> SSAValue:
    """Indices that may count from the end, counted from the front."""
    ops = Arithmetic(node)
    return ops.where(ops.compare(CompareKind.LT, indices, 0), ops.add(indices, size), indices)


def checked(indices: Array, sizes: Array) -> Array:
    """Constant indices counted from the front; ShapeError for one that is outside its dimension."""
    front = np.where(indices < 0, indices + sizes, indices).astype(np.int64)
    if ((front < 0) | (front >= sizes)).any():
        raise ShapeError(f"an index is outside the dimensions {sizes.tolist()}")
    return front


def positions_value(node: Node, positions: Positions, rows: int) -> SSAValue:
    """Positions in `rows` rows as an operand; Unsupported where there are more rows than cores count."""
    if rows > EXACT_INTEGERS:
        raise Unsupported(f"{rows} positions exceed the {EXACT_INTEGERS} that cores count to")
    return positions if isinstance(positions, SSAValue) else node.constant_value("positions", positions, I64)


def element_positions(node: Node, axis: int) -> Positions:
    """Where the elements lie that GatherElements and ScatterElements mean, in the flattened input 0.

    Input 1 has indices along the axis; the other coordinates are those of the index.
    """
    shape, wanted = node.shape(0), node.shape(1)
    if len(wanted) != len(shape) or any(
        want > have for d, (want, have) in enumerate(zip(wanted, shape, strict=True)) if d != axis
    ):
        raise ShapeError(f"indices of {list(wanted)} do not fit data of {list(shape)}")
    steps = strides(shape)
    others = offsets(wanted, steps, axis)
    indices = node.value(1)
    if isinstance(indices, Constant):
        return checked(indices.read(), np.array(shape[axis])) * steps[axis] + others
    ops = Arithmetic(node)
    front = from_front(node, node.operand(1), shape[axis])
    return ops.add(ops.mul(front, steps[axis]), node.constant_value("offsets", others, spec_of(front)[0]))


def tuple_positions(node: Node, batch: int) -> tuple[Positions, Shape]:
    """Where the parts lie that GatherND and ScatterND mean, and the shape [rows, part...] of input 0 that they lie in.

    The last dimension of input 1 has index tuples; the first `batch` dimensions are common to both inputs.
    """
    shape, tuples = node.shape(0), node.shape(1)
    if not tuples or not 0 <= batch < len(tuples) or tuples[:batch] != shape[:batch]:
        raise ShapeError(f"indices of {list(tuples)} do not fit data of {list(shape)} with {batch} batch dimensions")
    depth = tuples[-1]
    if not 1 <= depth <= len(shape) - batch:
        raise ShapeError(f"index tuples of {depth} in {len(shape) - batch} dimensions")
    indexed = np.array(shape[batch : batch + depth], np.int64)
    steps = np.array(strides(shape[batch : batch + depth]), np.int64)
    padded = (*shape[:batch], *[1] * (len(tuples) - 1 - batch))
    batch_strides = [stride * element_count(indexed.tolist()) for stride in strides(shape[:batch])]
    others = offsets(padded, [*batch_strides, *[0] * (len(padded) - batch)])
    rows = (element_count(shape[: batch + depth]), *shape[batch + depth :])
    indices = node.value(1)
    if isinstance(indices, Constant):
        return (checked(indices.read(), indexed) * steps).sum(-1) + others, rows
    ops, dtype = Arithmetic(node), node.dtype(1)
    front = from_front(node, node.operand(1), node.constant_value("sizes", indexed, dtype))
    scaled = ops.mul(front, node.constant_value("strides", steps, dtype))
    positions = ops.reduce(ReduceKind.SUM, scaled, (len(tuples) - 1,))
    return (ops.add(positions, node.constant_value("offsets", others, dtype)) if batch else positions), rows
