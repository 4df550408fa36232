"""`graph-bound-scores`: marks attentions whose scores the weights keep in the range of the exponential function.

Softmax subtracts the greatest score of each query, lest powers overflow or all vanish. Where queries, keys and values
are projections of normalised rows, as behind a layer normalisation, their weights bound the scores:

    score = scale * (A x + a) . (B y + b)         |x|, |y| <= sqrt(C), rows of C elements
         <= scale * (C |A^T B| + sqrt(C) (|B^T a| + |A^T b|) + |a . b|)

with the greatest singular value of each head for a norm, and something for rounding. Given core functions with such
attentions over many short sequences, and the weights, leaves the attribute `graph.bounded_scores` on those for which
neither the largest power times the largest value overflows, nor a query's greatest power vanishes. Without the weights
the pass leaves all as it is: a tool that has only the text cannot prove anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import (
    AttentionOp,
    BinaryKind,
    BinaryOp,
    CastOp,
    ConcatOp,
    ConstantOp,
    LayerNormOp,
    MatMulOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    WeightOp,
    shape_of,
)
from neuron_dialects.graph.attention import BOUNDED_SCORES
from neuron_dialects.neuron import core_functions
from neuron_dialects.weights import WeightStore
from passes.graph.conv_groups import LANES
from passes.graph.join_sequences import LEAST_SEQUENCES
from passes.graph.row_moves import moves_rows
from runtime.graph_interpreter import WeightResolver

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST_EXPONENT, LEAST_EXPONENT = 87.0, -80.0
"""Between these the exponential function and its sums are ordinary numbers of f32 and bf16."""

ROUNDING = 2.0**-6
"""What rounding rows, weights, queries and keys to 16 bits adds to a score, relative to |q| |k|."""


@dataclass(frozen=True)
class GraphBoundScoresPass(ModulePass):
    """Mark attentions with bounded scores.

        %0 = graph.layer_norm %x axis 2 ...
        %q = graph.matmul %0, %wq ...
        %k = graph.matmul %0, %wk ...
        %v = graph.matmul %0, %wv ...
        %1 = graph.attention %q, %k, %v, %mask heads 3 kv_heads 3 scale 0.177 : ...

    becomes, where the weights allow no score outside of the range,

        %1 = graph.attention %q, %k, %v, %mask heads 3 kv_heads 3 scale 0.177 {graph.bounded_scores} : ...
    """

    name = "graph-bound-scores"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Nothing: see `WeighedBoundScores`."""


@dataclass(frozen=True)
class WeighedBoundScores(GraphBoundScoresPass):
    """The pass with the weights of the model."""

    weights: WeightStore | None = None

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Mark in every core function."""
        found = [
            inner
            for function in core_functions(op)
            for inner in function.body.block.ops
            if isinstance(inner, AttentionOp) and _is_short(inner)
        ]
        if not found or self.weights is None:
            return
        values = _Values(WeightResolver(op, self.weights))
        for attention in found:
            if _is_bounded(attention, values):
                attention.attributes[BOUNDED_SCORES] = UnitAttr()


def with_weights(passes: Sequence[str | ModulePass], weights: WeightStore) -> list[str | ModulePass]:
    """The passes, with the one that wants weights given them."""
    return [WeighedBoundScores(weights) if given == GraphBoundScoresPass.name else given for given in passes]


def _is_short(op: AttentionOp) -> bool:
    """Whether the attention is over many sequences of a tile each: one of few is not worth a look at its weights."""
    sequences, queries, _ = shape_of(op.q)
    same_heads = op.heads.value.data == op.kv_heads.value.data
    return sequences >= LEAST_SEQUENCES and queries <= LANES and same_heads and not op.causal


@dataclass(frozen=True)
class Projection:
    """Rows times `weight` [C, features], and `bias` [features]."""

    weight: Array
    bias: Array

    def head(self, number: int, heads: int) -> Projection:
        """The features of one of the heads."""
        size = self.weight.shape[1] // heads
        part = slice(number * size, (number + 1) * size)
        return Projection(self.weight[:, part], self.bias[part])

    @property
    def most(self) -> float:
        """What no element of a projected row with a norm of sqrt(C) exceeds."""
        rows = sqrt(self.weight.shape[0]) * np.linalg.norm(self.weight, axis=0) + np.abs(self.bias)
        return float(rows.max()) * (1 + ROUNDING)


def score_bound(q: Projection, k: Projection) -> float:
    """What no product of a row of `q` and one of `k`, of one head, exceeds."""
    root_q, root_k = sqrt(q.weight.shape[0]), sqrt(k.weight.shape[0])
    gram_q, gram_k = q.weight.T @ q.weight, k.weight.T @ k.weight
    values, vectors = np.linalg.eigh(gram_q)
    half = vectors * np.sqrt(np.maximum(values, 0.0))
    joint = root_q * root_k * sqrt(max(0.0, float(np.linalg.eigvalsh(half.T @ gram_k @ half)[-1])))
    joint += root_k * float(np.linalg.norm(k.weight @ q.bias)) + root_q * float(np.linalg.norm(q.weight @ k.bias))
    joint += abs(float(q.bias @ k.bias))
    lengths = (
        root * sqrt(max(0.0, float(np.linalg.eigvalsh(gram)[-1]))) + float(np.linalg.norm(projection.bias))
        for root, gram, projection in ((root_q, gram_q, q), (root_k, gram_k, k))
    )
    return joint + ROUNDING * float(np.prod(list(lengths)))


def _is_bounded(op: AttentionOp, values: _Values) -> bool:
    q, k, v = (values.projection(x) for x in (op.q, op.k, op.v))
    mask = None if op.mask is None else values.of(op.mask)
    if q is None or k is None or v is None or (op.mask is not None and mask is None):
        return False
    if not all(np.isfinite(x).all() for p in (q, k, v) for x in (p.weight, p.bias)):
        return False
    heads, keys = op.heads.value.data, shape_of(op.k)[1]
    bound = op.scale.value.data * max(score_bound(q.head(h, heads), k.head(h, heads)) for h in range(heads))
    # Bounds of what is added: for all keys, and for the key of each query that it hides least.
    most, least = (0.0, 0.0) if mask is None else (float(mask.max()), float(mask.max(axis=-1).min()))
    room = log(keys) + log(max(1.0, v.most))
    return bool(bound + most + room <= LARGEST_EXPONENT and least - bound >= LEAST_EXPONENT)


@dataclass(frozen=True)
class _Values:
    """Numbers of values that are known when the model is compiled."""

    resolve: WeightResolver

    def of(self, value: SSAValue) -> Array | None:
        """The elements of a weight or constant in float64; None for anything else."""
        while isinstance(value.owner, CastOp):
            value = value.owner.x
        owner = value.owner
        if isinstance(owner, WeightOp):
            return self.resolve(owner.weight_name).astype(np.float64)
        return owner.array().astype(np.float64) if isinstance(owner, ConstantOp) else None

    def projection(self, value: SSAValue) -> Projection | None:
        """The projection of normalised rows that a value is, whatever the order of its rows; None if it is none."""
        features = shape_of(value)[-1]
        bias = np.zeros(features)
        while True:
            owner = value.owner
            if isinstance(owner, CastOp | ReshapeOp | TransposeOp | SliceOp) and _keeps_rows(owner):
                value = owner.x
            elif isinstance(owner, BinaryOp) and owner.kind.data is BinaryKind.ADD:
                added = next((x for x in owner.operands if shape_of(x) == (features,)), None)
                number = None if added is None else self.of(added)
                if number is None:
                    return None
                bias, value = bias + number, next(x for x in owner.operands if x is not added)
            elif isinstance(owner, MatMulOp):
                plain = len(shape_of(owner.b)) == 2 and not owner.transpose_a and not owner.transpose_b
                weight = self.of(owner.b) if plain and _is_normalised(owner.a) else None
                return None if weight is None else Projection(weight, bias)
            else:
                return None


def _keeps_rows(op: Operation) -> bool:
    return isinstance(op, CastOp) or moves_rows(op)


def _is_normalised(value: SSAValue) -> bool:
    """Whether all rows of a value, in any order, come out of layer normalisations without scale and bias."""
    pending, features = [value], shape_of(value)[-1]
    seen = set[SSAValue]()
    while pending:
        value = pending.pop()
        if value in seen:
            continue
        seen.add(value)
        owner = value.owner
        if isinstance(owner, LayerNormOp):
            last = owner.axis.value.data == len(shape_of(owner.x)) - 1
            if owner.scale is not None or owner.bias is not None or not last or shape_of(owner.x)[-1] != features:
                return False
        elif isinstance(owner, CastOp | ReshapeOp | TransposeOp | SliceOp | ConcatOp) and _keeps_rows(owner):
            pending.extend(owner.operands)
        else:
            return False
    return True
