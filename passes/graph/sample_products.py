"""Products of little matrices, two for each of many samples: which operators make them, as plain recognition.

`is_sample_products` tells which products are. Where the entries of all products of a sample are features of a layer, as
in the interactions of recommenders, `graph-sample-features` writes them as `sample_features` finds them: filled up with
zeros so that they fill lanes, in front of the layer's other features. `graph-fuse` makes one kernel of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import ConcatOp, FusedOp, MatMulOp, PadMode, PadOp, ReshapeOp, ints, shape_of, spec_of
from passes.graph.conv_groups import LANES, QUADRANT
from passes.graph.gathered_sums import JoinedSums, joined_sums

SAMPLE_SIDE = 64
"""Largest side of the little matrices of samples: no tensor engine's array has fewer columns."""

SAMPLE_BYTES = 16 * 1024
"""Bytes of a lane that the little matrices of a sample may take, twice."""

FEATURES = 1
"""Dimension of the features in a matrix [samples, features]."""


def is_sample_products(op: Operation) -> bool:
    """Whether a product is of two little matrices for each of many samples, [samples, m, k] by [samples, k, n].

    Its kernel reads both with samples on partitions, and turns them for 128 samples at a time.
    """
    if not isinstance(op, MatMulOp) or len(shape_of(op.a)) != 3 or len(shape_of(op.b)) != 3:
        return False
    (samples, *a), (others, *b), (dtype, (_, m, n)) = shape_of(op.a), shape_of(op.b), spec_of(op.result)
    depth = a[0] if op.transpose_a else a[1]
    fits = (prod(a) + prod(b)) * spec_of(op.a)[0].size_bytes <= SAMPLE_BYTES
    return samples == others >= LANES and max(m, n, depth) <= SAMPLE_SIDE and dtype.is_float and fits


def whole_sides(rows: int, columns: int) -> tuple[int, int]:
    """The sides of a little product that is filled up: rows of one or two quadrants each, as many as fill all lanes."""
    wide = QUADRANT if columns <= QUADRANT else SAMPLE_SIDE
    together = LANES // wide
    return -(-rows // together) * together, wide


@dataclass(frozen=True)
class SampleFeatures:
    """Features of samples: `result` [samples, features] are the entries of `product`, row after row, filled up to
    `rows` times `columns` with zeros, and behind them those of `other` [samples, features], if any.

    `sums`: what makes the one operand of the product, where it is gathered and nothing else reads it. `ops`: what
    computes all of it, in program order.
    """

    product: MatMulOp
    rows: int
    columns: int
    other: SSAValue | None
    result: SSAValue
    ops: tuple[Operation, ...]
    sums: JoinedSums | None = None


def sample_features(op: Operation) -> SampleFeatures | None:
    """The features that `op`, the last operator of a group, makes; None for anything else."""
    if isinstance(op, ConcatOp):
        if op.axis.value.data != FEATURES or len(op.xs) != 2 or not op.xs[0].has_one_use() or op.xs[0] is op.xs[1]:
            return None
        alone = _alone(op.xs[0].owner)
        if alone is None:
            return None
        return replace(alone, other=op.xs[1], result=op.result, ops=(*alone.ops, op))
    return _alone(op)


def _alone(op: object) -> SampleFeatures | None:
    """Features of samples without others."""
    if not isinstance(op, ReshapeOp) or not op.x.has_one_use() or len(shape_of(op.result)) != 2:
        return None
    ops: list[Operation] = [op]
    entries = op.x
    if isinstance(pad := entries.owner, PadOp):
        if pad.mode.data is not PadMode.CONSTANT or any(ints(pad.low)) or pad.value.value.data:
            return None
        ops.append(pad)
        entries = pad.x
    product = entries.owner
    if not isinstance(product, MatMulOp) or not entries.has_one_use() or not is_sample_products(product):
        return None
    samples, rows, columns = shape_of(op.x)
    _, m, n = shape_of(entries)
    if (samples, rows, columns) != (shape_of(entries)[0], *whole_sides(m, n)):
        return None
    if shape_of(op.result) != (samples, rows * columns):
        return None
    sums = _gathered(product)
    made = (product, *reversed(ops))
    return SampleFeatures(product, rows, columns, None, op.result, (*sums.ops, *made) if sums else made, sums)


def _gathered(product: MatMulOp) -> JoinedSums | None:
    """The joined sums that a product multiplies with themselves, where nothing else reads them."""
    joined = product.a.owner
    if product.a is not product.b or not isinstance(joined, ConcatOp):
        return None
    return joined_sums(joined) if all(use.operation is product for use in product.a.uses) else None


def features_of_group(op: Operation) -> SampleFeatures | None:
    """What a fused group of features of samples makes; None for other groups."""
    if not isinstance(op, FusedOp) or (terminator := op.body.block.last_op) is None:
        return None
    last = terminator.prev_op
    return None if last is None else sample_features(last)
