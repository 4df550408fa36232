"""Layers on rows of images: which of them keep the images of a batch apart, and the room that their results take.

Given operators whose values have the rows of one image behind those of another along their first dimension, as
matrices of positions do, and windows of them. What only changes the order of an image's positions keeps images apart as
well.
"""

from collections.abc import Sequence
from math import ceil, prod

from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import (
    AttentionOp,
    ConcatOp,
    FusedOp,
    LayerNormOp,
    MatMulOp,
    ReorderRowsOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    ints,
    shape_of,
    spec_of,
)
from passes.graph.conv_groups import LANES
from passes.graph.kernel_layouts import POINTWISE, holds_in_group
from passes.graph.residence import Interval, live_profile
from passes.graph.row_moves import MOVEMENT


def keeps_rows_apart(op: Operation, inside: set[SSAValue], batch: int) -> bool:
    """Whether the results of `op` have rows for each image, in order, which depend on that image alone.

    `inside`: the values that have.
    """
    if isinstance(op, FusedOp):
        return holds_in_group(op, inside, lambda inner, below: keeps_rows_apart(inner, below, batch))
    values = (*op.results, *(x for x in op.operands if x in inside))
    return all(_has_rows(value, batch) for value in values) and _keeps_order(op, inside, batch)


def _has_rows(value: SSAValue, batch: int) -> bool:
    shape = shape_of(value)
    return len(shape) > 1 and shape[0] > 0 and shape[0] % batch == 0


def _keeps_order(op: Operation, inside: set[SSAValue], batch: int) -> bool:
    """The same for an operator that is no group, and whose values have as many positions in front for each image."""
    match op:
        case ReshapeOp():
            return True
        case ReorderRowsOp():
            return shape_of(op.x)[0] // batch % op.period.value.data == 0
        case TransposeOp():
            return ints(op.permutation)[0] == 0
        case SliceOp():
            return (ints(op.starts)[0], ints(op.sizes)[0], ints(op.steps)[0]) == (0, shape_of(op.x)[0], 1)
        case ConcatOp():
            return op.axis.value.data > 0 and all(x in inside for x in op.xs)
        case LayerNormOp():
            return op.axis.value.data > 0 and all(x not in inside for x in op.operands[1:])
        case MatMulOp():
            return op.a in inside and op.b not in inside and not op.transpose_a and len(shape_of(op.b)) == 2
        case AttentionOp():
            own = all(x in inside for x in (op.q, op.k, op.v)) and (op.mask is None or op.mask not in inside)
            return own and shape_of(op.q)[0] // batch % op.mask_period == 0
        case _:
            return isinstance(op, POINTWISE) and _follows(op, inside)


def _follows(op: Operation, inside: set[SSAValue]) -> bool:
    """Whether each operand of a sweep has the rows of the result, or is the same for all rows."""
    shape = shape_of(op.results[0])
    return all(
        shape_of(x)[:1] == shape[:1] and len(shape_of(x)) == len(shape)
        if x in inside
        else len(shape_of(x)) < len(shape) or shape_of(x)[0] == 1
        for x in op.operands
    )


def live_row_bytes(layers: Sequence[Operation], parts: int) -> tuple[list[int], list[int]]:
    """Bytes of a partition that results of layers take at each layer for one of so many parts of the batch, if they
    stay on chip with features on partitions, and of those the bytes that later layers read.
    """
    number = {op: i for i, op in enumerate(layers)}
    intervals: list[Interval] = []
    for first, op in enumerate(layers):
        for value in () if isinstance(op, MOVEMENT) else op.results:
            kernels = [number.get(user, len(layers)) for user in _kernels(value)]
            if not kernels:
                continue
            dtype, shape = spec_of(value)
            rows = ceil(shape[0] / parts) * prod(shape[1:-1])
            intervals.append(Interval(first, max(kernels), ceil(shape[-1] / LANES) * rows * dtype.size_bytes))
    return live_profile(len(layers), intervals)


def _kernels(value: SSAValue) -> list[Operation]:
    """Who reads a value, through reshapes, but for what copies it in DRAM."""
    found: list[Operation] = []
    pending = [value]
    while pending:
        for user in {use.operation for use in pending.pop().uses}:
            if isinstance(user, ReshapeOp):
                pending.append(user.result)
            elif not isinstance(user, MOVEMENT):
                found.append(user)
    return found
