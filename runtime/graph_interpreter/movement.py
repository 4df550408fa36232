"""What the operators that only move elements do. Where numpy allows, results are views."""

from __future__ import annotations

import numpy as np

from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    BroadcastOp,
    ConcatOp,
    GatherOp,
    PadMode,
    PadOp,
    RelayoutOp,
    ReorderRowsOp,
    ReshapeOp,
    ScatterOp,
    SliceOp,
    TransposeOp,
    ints,
    shape_of,
)
from neuron_dialects.neuron import location_name
from runtime.graph_interpreter.numerics import Array


def transpose(op: TransposeOp, x: Array) -> Array:
    """`graph.transpose`."""
    return x.transpose(ints(op.permutation))


def reshape(op: ReshapeOp | RelayoutOp, x: Array) -> Array:
    """`graph.reshape`."""
    return x.reshape(shape_of(op.result))


def reorder_rows(op: ReorderRowsOp, x: Array) -> Array:
    """`graph.reorder_rows`: a gather within each period."""
    (rows, features), period = x.shape, op.period.value.data
    apart = x.reshape(rows // period, period, features)
    return apart[:, op.order()].reshape(x.shape)


def broadcast(op: BroadcastOp, x: Array) -> Array:
    """`graph.broadcast`."""
    return np.broadcast_to(x, shape_of(op.result))


def concat(op: ConcatOp, *xs: Array) -> Array:
    """`graph.concat`."""
    return np.concatenate(xs, axis=op.axis.value.data)


def slice_(op: SliceOp, x: Array) -> Array:
    """`graph.slice`."""
    ranges = zip(ints(op.starts), ints(op.sizes), ints(op.steps), strict=True)
    return x[tuple(_range(start, size, step) for start, size, step in ranges)]


def _range(start: int, size: int, step: int) -> slice:
    """The Python slice for `size` elements from `start`; counting down to element 0 has no end."""
    if size == 0:
        return slice(0, 0)
    end = start + size * step
    return slice(start, end if end >= 0 else None, step)


def pad(op: PadOp, x: Array) -> Array:
    """`graph.pad`."""
    widths = list(zip(ints(op.low), ints(op.high), strict=True))
    if not widths:
        return x
    mode = op.mode.data
    if mode is PadMode.CONSTANT:
        value = op.value.value.data
        fill = np.array(int(value) if x.dtype.kind in "iu" else value).astype(x.dtype)
        return np.pad(x, widths, mode="constant", constant_values=fill)
    return np.pad(x, widths, mode=mode.value)


def gather(op: GatherOp, data: Array, indices: Array) -> Array:
    """`graph.gather`; NeuronError for an index outside of the dimension."""
    axis = op.axis.value.data
    _check_indices(op, data.shape[axis], indices)
    return np.take(data, indices, axis=axis)


def scatter(op: ScatterOp, data: Array, indices: Array, updates: Array) -> Array:
    """`graph.scatter`; NeuronError for an index outside of the dimension."""
    axis = op.axis.value.data
    _check_indices(op, data.shape[axis], indices)
    result = data.copy()
    rows = np.moveaxis(result, axis, 0)
    flat = updates.reshape(*data.shape[:axis], indices.size, *data.shape[axis + 1 :])
    # One by one: where two indices are equal, the later update stays.
    for index, row in zip(indices.reshape(-1), np.moveaxis(flat, axis, 0), strict=True):
        rows[index] = row
    return result


def _check_indices(op: GatherOp | ScatterOp, size: int, indices: Array) -> None:
    if indices.size and (indices.min() < -size or indices.max() >= size):
        wrong = indices[(indices < -size) | (indices >= size)].flat[0]
        kind = op.name.removeprefix("graph.")
        raise NeuronError(
            "NX-OP-002", f"{kind} index {wrong} is outside [{-size}, {size - 1}]", node=location_name(op.location)
        )
