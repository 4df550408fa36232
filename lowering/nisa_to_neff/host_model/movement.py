"""The operators that only move elements, in ONNX operators. Nothing is rounded: elements stay what they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lowering.nisa_to_neff.host_model.arithmetic import Arithmetic
from lowering.nisa_to_neff.host_model.writer import ModelWriter, held_dtype
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
    spec_of,
)
from neuron_dialects.graph.shapes import element_count

_BEFORE_THE_FIRST = -(2**63)
"""Where an ONNX slice that counts down to element 0 ends: -1 would be the last element."""


def transpose(writer: ModelWriter, op: TransposeOp, names: Sequence[str]) -> str:
    """`graph.transpose`."""
    permutation = ints(op.permutation)
    return writer.node("Transpose", *names, perm=permutation) if permutation else names[0]


def reshape(writer: ModelWriter, op: ReshapeOp | RelayoutOp, names: Sequence[str]) -> str:
    """`graph.reshape`."""
    return writer.node("Reshape", names[0], writer.integers(shape_of(op.result)), allowzero=1)


def reorder_rows(writer: ModelWriter, op: ReorderRowsOp, names: Sequence[str]) -> str:
    """`graph.reorder_rows`: a gather within each period."""
    (rows, features), period = shape_of(op.result), op.period.value.data
    apart = writer.node("Reshape", names[0], writer.integers((rows // period, period, features)), allowzero=1)
    moved = writer.node("Gather", apart, writer.integers(op.order().tolist()), axis=1)
    return writer.node("Reshape", moved, writer.integers((rows, features)), allowzero=1)


def broadcast(writer: ModelWriter, op: BroadcastOp, names: Sequence[str]) -> str:
    """`graph.broadcast`."""
    return writer.node("Expand", names[0], writer.integers(shape_of(op.result)))


def concat(writer: ModelWriter, op: ConcatOp, names: Sequence[str]) -> str:
    """`graph.concat`."""
    return writer.node("Concat", *names, axis=op.axis.value.data)


def slice_(writer: ModelWriter, op: SliceOp, names: Sequence[str]) -> str:
    """`graph.slice`."""
    starts, sizes, steps = ints(op.starts), ints(op.sizes), ints(op.steps)
    if not starts:
        return names[0]
    starts = [start if size else 0 for start, size in zip(starts, sizes, strict=True)]
    ends = [_end(*triple) for triple in zip(starts, sizes, steps, strict=True)]
    axes = range(len(starts))
    return writer.node("Slice", names[0], *(writer.integers(values) for values in (starts, ends, axes, steps)))


def _end(start: int, size: int, step: int) -> int:
    """The first position that a slice of `size` elements does not reach."""
    end = start + size * step
    return end if end >= 0 else _BEFORE_THE_FIRST


def pad(writer: ModelWriter, op: PadOp, names: Sequence[str]) -> str:
    """`graph.pad`."""
    dtype, shape = spec_of(op.x)
    if not shape:
        return names[0]
    mode = op.mode.data
    operands = [names[0], writer.integers((*ints(op.low), *ints(op.high)))]
    held = held_dtype(dtype)
    if mode is PadMode.CONSTANT:
        value = op.value.value.data
        element = np.array(int(value) if dtype.is_integer else value).astype(dtype.numpy)
        operands.append(writer.constant(element.astype(held.numpy)))
    return Arithmetic(writer, held)("Pad", *operands, untyped=(1,), mode=mode.value)


def gather(writer: ModelWriter, op: GatherOp, names: Sequence[str]) -> str:
    """`graph.gather`."""
    return writer.node("Gather", *names, axis=op.axis.value.data)


def scatter(writer: ModelWriter, op: ScatterOp, names: Sequence[str]) -> str:
    """`graph.scatter`: indices repeated along the other dimensions name single elements."""
    data, updates = shape_of(op.data), shape_of(op.updates)
    axis, rank = op.axis.value.data, len(data)
    count = element_count(shape_of(op.indices))
    apart = (*data[:axis], count, *data[axis + 1 :])
    column = [count if d == axis else 1 for d in range(rank)]
    flat = writer.node("Reshape", names[1], writer.integers(column), allowzero=1)
    repeated = writer.node("Expand", flat, writer.integers(apart))
    rows = names[2] if updates == apart else writer.node("Reshape", names[2], writer.integers(apart), allowzero=1)
    return writer.node("ScatterElements", names[0], repeated, rows, axis=axis)
