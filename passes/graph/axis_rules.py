"""What each graph operator does to a dimension that one or more of its operands have (see `passes.graph.axis_flow`).

`RULES` is the table: it is given an operator and where its operands have the dimension, and leaves where the result has
it; a rule raises `Mixes` where positions do not stay apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Operation, SSAValue

from neuron_dialects import graph
from neuron_dialects.graph import ints
from passes.graph.tracked_axis import (
    Mixes,
    Tracked,
    agreed,
    broadcast,
    gathered,
    kept,
    multiplied,
    reduced,
    reshaped,
    scattered,
    transposed,
)

Operands = Sequence[Tracked | None]
Rule = Callable[[Operation, Operands, int], Tracked]
"""Operator, its operands' states of which one has the dimension, the dimension's size -> the result's state."""


def static_shape(value: SSAValue) -> tuple[int, ...]:
    """Shape of a value; `Mixes` where it is known only at run time."""
    if not isinstance(value.type, TensorType) or not value.type.has_static_shape():
        raise Mixes("a shape is known only at run time")
    return value.type.get_shape()


def _rank(value: SSAValue) -> int:
    return len(static_shape(value))


def _elementwise(op: Operation, operands: Operands, _: int) -> Tracked:
    rank = _rank(op.results[0])
    pairs = zip(op.operands, operands, strict=True)
    return agreed([broadcast(state, _rank(value), rank) for value, state in pairs if state is not None])


def _only_first(operands: Operands) -> Tracked:
    """The first operand's state; parameters beside it must not depend on the dimension."""
    first, *parameters = operands
    if first is None or any(parameters):
        raise Mixes("its parameters depend on the dimension")
    return first


def _reduce(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.ReduceOp)
    return reduced(_only_first(operands), ints(op.axes), bool(op.keep_dims.value.data))


def _softmax(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.SoftmaxOp)
    return kept(_only_first(operands), [op.axis.value.data], "normalises along")


def _layer_norm(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.LayerNormOp)
    return kept(_only_first(operands), range(op.axis.value.data, _rank(op.x)), "normalises along")


def _channelwise(op: Operation, operands: Operands, _: int) -> Tracked:
    return kept(_only_first(operands), [1], "has a parameter for each position of")


def _windows(op: Operation, operands: Operands, _: int) -> Tracked:
    """Convolution: only the batch axis stays as it is."""
    return kept(_only_first(operands), range(1, _rank(op.operands[0])), "sums windows along")


def _pool(op: Operation, operands: Operands, _: int) -> Tracked:
    return kept(_only_first(operands), range(2, _rank(op.operands[0])), "pools windows along")


def _matmul(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.MatMulOp)
    rank = _rank(op.result)
    sides = ((op.a, operands[0], True, op.transpose_a), (op.b, operands[1], False, op.transpose_b))
    return agreed(
        [
            multiplied(state, _rank(value), rank, left=left, transposed=bool(swapped.value.data))
            for value, state, left, swapped in sides
            if state is not None
        ]
    )


def _attention(op: Operation, operands: Operands, _: int) -> Tracked:
    """Only sequences of a batch stay apart: all of q, k and v have it first, a mask may."""
    assert isinstance(op, graph.AttentionOp)
    found = [kept(state, [1, 2], "attends along") for state in operands[:3] if state is not None]
    if len(found) != 3:
        raise Mixes("it combines what has the dimension with what has not")
    if op.mask is not None and operands[3] is not None:
        found.append(broadcast(operands[3], _rank(op.mask), 4))
    return agreed(found)


def _transpose(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.TransposeOp)
    return transposed(_only_first(operands), ints(op.permutation))


def _reorder_rows(op: Operation, operands: Operands, _: int) -> Tracked:
    return kept(_only_first(operands), [0], "moves positions along")


def _reshape(op: Operation, operands: Operands, size: int) -> Tracked:
    return reshaped(_only_first(operands), static_shape(op.operands[0]), static_shape(op.results[0]), size)


def _concat(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.ConcatOp)
    found = [kept(state, [op.axis.value.data], "concatenates along") for state in operands if state is not None]
    if len(found) != len(operands):
        raise Mixes("it concatenates what has the dimension with what has not")
    return agreed(found)


def _slice(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.SliceOp)
    state = _only_first(operands)
    taken = [ints(part)[state.axis] for part in (op.starts, op.sizes, op.steps)]
    if taken != [0, static_shape(op.x)[state.axis], 1]:
        raise Mixes("it takes a part of the dimension")
    return state


def _pad(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.PadOp)
    padded = [axis for axis, pair in enumerate(zip(ints(op.low), ints(op.high), strict=True)) if any(pair)]
    return kept(_only_first(operands), padded, "pads")


def _gather(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.GatherOp)
    return gathered(operands[0], operands[1], op.axis.value.data, _rank(op.indices))


def _scatter(op: Operation, operands: Operands, _: int) -> Tracked:
    assert isinstance(op, graph.ScatterOp)
    data, indices, updates = operands
    if indices is not None:
        raise Mixes("it writes elements across the dimension")
    return scattered(data, updates, op.axis.value.data, _rank(op.indices))


RULES: dict[type[Operation], Rule] = {
    **dict.fromkeys(
        (graph.UnaryOp, graph.ClipOp, graph.CastOp, graph.BinaryOp, graph.CompareOp, graph.SelectOp), _elementwise
    ),
    graph.BroadcastOp: _elementwise,
    graph.ReduceOp: _reduce,
    graph.SoftmaxOp: _softmax,
    graph.LayerNormOp: _layer_norm,
    graph.BatchNormOp: _channelwise,
    graph.ConvOp: _windows,
    graph.ConvTransposeOp: _windows,
    graph.PoolOp: _pool,
    graph.MatMulOp: _matmul,
    graph.AttentionOp: _attention,
    graph.TransposeOp: _transpose,
    graph.ReshapeOp: _reshape,
    graph.ReorderRowsOp: _reorder_rows,
    graph.ConcatOp: _concat,
    graph.SliceOp: _slice,
    graph.PadOp: _pad,
    graph.GatherOp: _gather,
    graph.ScatterOp: _scatter,
}
"""Operators that can keep positions apart; the table has no row for one that never does."""
