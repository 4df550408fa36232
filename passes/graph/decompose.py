"""`graph-decompose`: reductions that a core does in several steps, as those steps.

A core sums, and finds maxima and minima; l1, l2, sum_square, log_sum and log_sum_exp are such a reduction between
elementwise functions. Given graph-level functions, leaves only reductions of the first kind, except for two that stay
as they are: l2 of integers, and log_sum_exp over nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    UnaryKind,
    UnaryOp,
    Value,
    ints,
    shape_of,
    spec_of,
)
from passes.rewriting import apply_rewrites, rewrites

_STEPS: dict[ReduceKind, tuple[UnaryKind | None, UnaryKind | None]] = {
    ReduceKind.L1: (UnaryKind.ABS, None),
    ReduceKind.SUM_SQUARE: (UnaryKind.SQUARE, None),
    ReduceKind.L2: (UnaryKind.SQUARE, UnaryKind.SQRT),
    ReduceKind.LOG_SUM: (None, UnaryKind.LOG),
}
"""Kind -> what is done to each element before the sum, and what to the sum."""


@dataclass(frozen=True)
class GraphDecomposePass(ModulePass):
    """Write reductions with an inner function as that function and a sum.

        %0 = graph.reduce l2 %x axes [1] : (tensor<4x8xf32>) -> tensor<4xf32>

    becomes

        %1 = graph.unary square %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
        %2 = graph.reduce sum %1 axes [1] : (tensor<4x8xf32>) -> tensor<4xf32>
        %0 = graph.unary sqrt %2 : (tensor<4xf32>) -> tensor<4xf32>

    Floats narrower than f32 are cast to f32 first and the result back, so that it is rounded only once.
    """

    name = "graph-decompose"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Decompose everywhere."""
        apply_rewrites(op, [decompose_reduction])


@rewrites(ReduceOp)
def decompose_reduction(op: ReduceOp, rewriter: PatternRewriter) -> None:
    """reduce kind x -> after(sum(before(x)))"""
    kind = op.kind.data
    dtype, _ = spec_of(op.result)
    narrow = dtype.is_float and dtype.size_bytes < F32.size_bytes
    made: list[Operation] = [CastOp(op.x, F32)] if narrow else []
    x: Value = made[-1] if made else op.x
    if kind in _STEPS and (dtype.is_float or kind is not ReduceKind.L2):
        made += _summed(op, x, *_STEPS[kind])
    elif kind is ReduceKind.LOG_SUM_EXP and 0 not in shape_of(op.x):
        made += _log_sum_exp(op, x)
    else:
        return
    if narrow:
        made.append(CastOp(made[-1], dtype))
    rewriter.replace(op, made)


def _summed(op: ReduceOp, x: Value, before: UnaryKind | None, after: UnaryKind | None) -> list[Operation]:
    made: list[Operation] = [UnaryOp(before, x)] if before is not None else []
    made.append(ReduceOp(ReduceKind.SUM, made[-1] if made else x, ints(op.axes), keep_dims=bool(op.keep_dims)))
    if after is not None:
        made.append(UnaryOp(after, made[-1]))
    return made


def _log_sum_exp(op: ReduceOp, x: Value) -> list[Operation]:
    """log(sum(exp(x - m))) + m, where m is the maximum, so that exp does not overflow; an infinite m is made finite."""
    axes = ints(op.axes)
    largest = float(np.finfo(np.float32).max)
    maximum = ReduceOp(ReduceKind.MAX, x, axes, keep_dims=True)
    shift = ClipOp(maximum, minimum=-largest, maximum=largest)
    centred = BinaryOp(BinaryKind.SUB, x, shift)
    exponential = UnaryOp(UnaryKind.EXP, centred)
    total = ReduceOp(ReduceKind.SUM, exponential, axes, keep_dims=True)
    logarithm = UnaryOp(UnaryKind.LOG, total)
    result = BinaryOp(BinaryKind.ADD, logarithm, shift)
    made: list[Operation] = [maximum, shift, centred, exponential, total, logarithm, result]
    if not op.keep_dims:
        made.append(ReshapeOp(result, shape_of(op.result)))
    return made
