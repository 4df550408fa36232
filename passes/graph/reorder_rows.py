"""`graph-reorder-rows`: what only changes the order of rows is one operator, in front of the layers over features.

Given core functions after `graph-flatten-rows`, leaves a `graph.reorder_rows` for reshapes, transposes, slices and
concatenations that together bring the rows of a matrix into another order, as windows of an image are cut, rolled and
put together. Behind a projection of what attention leaves, the order is changed in front of the projection: heads leave
attention with features on partitions, where rows are moved within each lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue
from xdsl.passes import ModulePass
from xdsl.transforms.dead_code_elimination import dce

from neuron_dialects.graph import (
    AttentionOp,
    BinaryOp,
    CastOp,
    ConcatOp,
    MatMulOp,
    ReorderRowsOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    ints,
    shape_of,
)
from neuron_dialects.graph.reorder import MOST_PERIOD
from neuron_dialects.neuron import core_functions
from passes.graph.row_moves import MOVEMENT, moves_rows
from passes.graph.row_pieces import Order, period_of, pieces_of

MOST_PIECES = 32
"""Orders of more pieces are left to what they are written with."""

MOST_MOVEMENTS = 64
"""Longer chains are left alone: each reshape to a matrix on the way is an end whose chain is walked."""


@dataclass(frozen=True)
class GraphReorderRowsPass(ModulePass):
    """Find orders of rows, and change them in front of projections.

        %1 = graph.reshape %0 : (tensor<8x4xbf16>) -> tensor<2x2x2x4xbf16>
        %2 = graph.transpose %1 permutation [1, 0, 2, 3] : (...) -> tensor<2x2x2x4xbf16>
        %3 = graph.reshape %2 : (tensor<2x2x2x4xbf16>) -> tensor<8x4xbf16>

    becomes

        %3 = graph.reorder_rows %0 period 8 pieces [0, 0, 3, 2, 4, 2, 2, 2, 4, 2, 1, 1] : ...
    """

    name = "graph-reorder-rows"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite every core function."""
        for function in core_functions(op):
            block = function.body.block
            number = {inner: i for i, inner in enumerate(block.ops)}
            for end in number:
                if isinstance(end, ReshapeOp) and len(shape_of(end.result)) == 2:
                    _reorder(end, block, number)
        dce(op)


def _reorder(end: ReshapeOp, block: Block, number: Mapping[Operation, int]) -> None:
    """Replace the chain of movements that ends here, if it is an order of rows."""
    chain = _chain(end, number)
    if chain is None:
        return
    base, ops = chain
    rows = shape_of(base)[0]
    order = _order(base, ops)[end.result].reshape(-1)
    if not np.array_equal(np.sort(order), np.arange(rows)) or np.array_equal(order, np.arange(rows)):
        return
    period = period_of(order, rows)
    pieces = pieces_of(order[:period]) if period <= MOST_PERIOD else []
    if not 0 < len(pieces) <= MOST_PIECES:
        return
    value, layers = _projection(base)
    new = ReorderRowsOp(value, period, pieces)
    new.location = end.location
    block.insert_op_before(new, end)
    result: SSAValue = new.result
    for layer in layers:
        clone = layer.clone({value: result})
        clone.location = layer.location
        block.insert_op_before(clone, end)
        value, result = layer.results[0], clone.results[0]
    result.name_hint = end.result.name_hint
    end.result.replace_all_uses_with(result)


def _chain(end: ReshapeOp, number: Mapping[Operation, int]) -> tuple[SSAValue, list[Operation]] | None:
    """(matrix, movements of its rows that lead from it to `end`, in order), where they change more than the shape."""
    features, bases = shape_of(end.result)[-1], set[SSAValue]()
    seen: dict[Operation, None] = {}
    pending: list[Operation] = [end]
    while pending:
        op = pending.pop()
        if op in seen:
            continue
        if len(seen) == MOST_MOVEMENTS:
            return None
        seen[op] = None
        for operand in op.operands:
            if shape_of(operand)[-1:] != (features,) or not moves_rows(op):
                return None
            if isinstance(operand.owner, MOVEMENT):
                pending.append(operand.owner)
            else:
                bases.add(operand)
    base = bases.pop() if len(bases) == 1 else None
    if base is None or all(isinstance(op, ReshapeOp) for op in seen) or shape_of(base)[-1:] != (features,):
        return None
    if len(shape_of(base)) != 2 or shape_of(base) != shape_of(end.result):
        return None
    return base, sorted(seen, key=lambda op: number[op])


def _order(base: SSAValue, ops: list[Operation]) -> dict[SSAValue, Order]:
    """The row of `base` at each position of what is made of it, without the features."""
    made: dict[SSAValue, Order] = {base: np.arange(shape_of(base)[0])}
    for op in ops:
        result = op.results[0]
        match op:
            case ReshapeOp():
                made[result] = made[op.x].reshape(shape_of(result)[:-1])
            case TransposeOp():
                made[result] = made[op.x].transpose(ints(op.permutation)[:-1])
            case SliceOp():
                starts, sizes, steps = (ints(part)[:-1] for part in (op.starts, op.sizes, op.steps))
                grid = [s + np.arange(n) * step for s, n, step in zip(starts, sizes, steps, strict=True)]
                made[result] = made[op.x][np.ix_(*grid)]
            case ConcatOp():
                made[result] = np.concatenate([made[x] for x in op.xs], axis=op.axis.value.data)
            case _:
                raise AssertionError(f"{op.name} does not move rows")
    return made


def _projection(base: SSAValue) -> tuple[SSAValue, list[Operation]]:
    """What a projection of attention's result, if that is what `base` is, multiplies; its layers in order.

    Else `base` itself, and no layers.
    """
    value, layers = base, list[Operation]()
    while value.has_one_use():
        owner = value.owner
        if isinstance(owner, MatMulOp):
            attended = isinstance(owner.a.owner, ReshapeOp) and isinstance(owner.a.owner.x.owner, AttentionOp)
            plain = len(shape_of(owner.b)) == 2 and not owner.transpose_a
            narrow = shape_of(owner.a)[-1] <= shape_of(owner.result)[-1]
            return (owner.a, [owner, *layers]) if attended and plain and narrow else (base, [])
        if isinstance(owner, CastOp):
            value, layers = owner.x, [owner, *layers]
        elif isinstance(owner, BinaryOp) and sorted(len(shape_of(x)) for x in owner.operands) == [1, 2]:
            value, layers = next(x for x in owner.operands if len(shape_of(x)) == 2), [owner, *layers]
        else:
            break
    return base, []
