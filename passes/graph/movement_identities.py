"""Identities of operators that move elements, as rewrite patterns. Each docstring is the identity."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    BroadcastOp,
    ConcatOp,
    ConstantOp,
    MatMulOp,
    PadOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    ints,
    shape_of,
    spec_of,
)
from passes.rewriting import Rewrite, rewrites

_PLAIN_REDUCTIONS = (ReduceKind.SUM, ReduceKind.MEAN, ReduceKind.MAX, ReduceKind.MIN, ReduceKind.PROD)
"""Reductions of a single element that give that element."""


def is_identity(permutation: Sequence[int]) -> bool:
    """Whether a permutation leaves every dimension where it is."""
    return list(permutation) == list(range(len(permutation)))


def swaps_last_two(permutation: Sequence[int]) -> bool:
    """Whether a permutation exchanges the last two dimensions and nothing else."""
    rank = len(permutation)
    return rank >= 2 and list(permutation) == [*range(rank - 2), rank - 1, rank - 2]


@rewrites(ReshapeOp, BroadcastOp)
def same_shape(op: ReshapeOp | BroadcastOp, rewriter: PatternRewriter) -> None:
    """reshape(x) and broadcast(x) to x's own shape -> x"""
    if op.x.type == op.result.type:
        rewriter.replace(op, [], [op.x])


@rewrites(ReshapeOp)
def reshape_of_reshape(op: ReshapeOp, rewriter: PatternRewriter) -> None:
    """reshape(reshape(x)) -> reshape(x)"""
    if isinstance(inner := op.x.owner, ReshapeOp):
        rewriter.replace(op, ReshapeOp(inner.x, shape_of(op.result)))


@rewrites(BroadcastOp)
def broadcast_of_broadcast(op: BroadcastOp, rewriter: PatternRewriter) -> None:
    """broadcast(broadcast(x)) -> broadcast(x)"""
    if isinstance(inner := op.x.owner, BroadcastOp):
        rewriter.replace(op, BroadcastOp(inner.x, shape_of(op.result)))


@rewrites(TransposeOp)
def transpose_of_nothing(op: TransposeOp, rewriter: PatternRewriter) -> None:
    """transpose(x) by the identity -> x"""
    if is_identity(ints(op.permutation)):
        rewriter.replace(op, [], [op.x])


@rewrites(TransposeOp)
def transpose_of_transpose(op: TransposeOp, rewriter: PatternRewriter) -> None:
    """transpose(transpose(x)) -> transpose(x) by both permutations"""
    if isinstance(inner := op.x.owner, TransposeOp):
        first = ints(inner.permutation)
        rewriter.replace(op, TransposeOp(inner.x, [first[axis] for axis in ints(op.permutation)]))


@rewrites(TransposeOp)
def transpose_of_single_elements(op: TransposeOp, rewriter: PatternRewriter) -> None:
    """transpose(x) that only moves dimensions of one element -> reshape(x)"""
    shape = shape_of(op.x)
    moved = [axis for axis in ints(op.permutation) if shape[axis] != 1]
    if moved == sorted(moved) and not is_identity(ints(op.permutation)):
        rewriter.replace(op, ReshapeOp(op.x, shape_of(op.result)))


@rewrites(MatMulOp)
def matmul_of_transpose(op: MatMulOp, rewriter: PatternRewriter) -> None:
    """matmul(transpose(a), b) where the last two dimensions are exchanged -> matmul(a, b) with transpose_a; so for b"""
    operands = [op.a, op.b]
    flags = [bool(op.transpose_a), bool(op.transpose_b)]
    for position, operand in enumerate(operands):
        inner = operand.owner
        if isinstance(inner, TransposeOp) and swaps_last_two(ints(inner.permutation)):
            operands[position] = inner.x
            flags[position] = not flags[position]
    if operands == [op.a, op.b]:
        return
    accumulate_f32 = spec_of(op.result)[0] is F32
    a, b = operands
    rewriter.replace(op, MatMulOp(a, b, transpose_a=flags[0], transpose_b=flags[1], accumulate_f32=accumulate_f32))


@rewrites(SliceOp)
def slice_of_everything(op: SliceOp, rewriter: PatternRewriter) -> None:
    """slice(x) of all elements in their order -> x"""
    if op.x.type == op.result.type and not any(ints(op.starts)) and all(step == 1 for step in ints(op.steps)):
        rewriter.replace(op, [], [op.x])


@rewrites(SliceOp)
def slice_of_slice(op: SliceOp, rewriter: PatternRewriter) -> None:
    """slice(slice(x)) -> slice(x)"""
    if not isinstance(inner := op.x.owner, SliceOp):
        return
    pairs = list(zip(ints(inner.starts), ints(inner.steps), ints(op.starts), ints(op.steps), strict=True))
    starts = [first + start * step for first, step, start, _ in pairs]
    rewriter.replace(op, SliceOp(inner.x, starts, ints(op.sizes), [step * again for _, step, _, again in pairs]))


@rewrites(ConcatOp)
def concat_of_one(op: ConcatOp, rewriter: PatternRewriter) -> None:
    """concat(x) -> x; operands without elements do not count"""
    axis = op.axis.value.data
    kept = [x for x in op.xs if shape_of(x)[axis] != 0] or [op.xs[0]]
    if len(kept) == 1:
        rewriter.replace(op, [], kept)
    elif len(kept) < len(op.xs):
        rewriter.replace(op, ConcatOp(kept, axis))


@rewrites(PadOp)
def pad_by_nothing(op: PadOp, rewriter: PatternRewriter) -> None:
    """pad(x) by no elements -> x"""
    if op.x.type == op.result.type:
        rewriter.replace(op, [], [op.x])


@rewrites(ReduceOp)
def reduce_of_single_elements(op: ReduceOp, rewriter: PatternRewriter) -> None:
    """reduce(x) over dimensions of one element, by a kind that leaves one element as it is -> reshape(x)"""
    shape = shape_of(op.x)
    if op.kind.data in _PLAIN_REDUCTIONS and all(shape[axis] == 1 for axis in ints(op.axes)):
        rewriter.replace(op, ReshapeOp(op.x, shape_of(op.result)))


@rewrites(ReshapeOp, BroadcastOp, TransposeOp, SliceOp)
def movement_of_splat(op: ReshapeOp | BroadcastOp | TransposeOp | SliceOp, rewriter: PatternRewriter) -> None:
    """movement of a constant that is one value everywhere -> that constant in the result's shape"""
    if isinstance(inner := op.x.owner, ConstantOp) and inner.is_splat:
        rewriter.replace(op, ConstantOp.create(properties=dict(inner.properties), result_types=[op.result.type]))


MOVEMENT_IDENTITIES: tuple[Rewrite, ...] = (
    same_shape,
    reshape_of_reshape,
    broadcast_of_broadcast,
    transpose_of_nothing,
    transpose_of_transpose,
    transpose_of_single_elements,
    matmul_of_transpose,
    slice_of_everything,
    slice_of_slice,
    concat_of_one,
    pad_by_nothing,
    reduce_of_single_elements,
    movement_of_splat,
)
