"""`graph-bound-scores`: marks attentions whose scores the weights keep in the range of the exponential function.

Softmax subtracts the greatest score of each query, lest powers overflow or all vanish. Where queries, keys and values
are projections of normalised rows, as behind a layer normalisation, their weights bound the scores, for every input
there can be (`score_bounds`). Given core functions in which weights have the types that they are computed in, and these
weights, leaves `graph.score_shift` on attentions for which one number, subtracted from all scores, does what the
greatest of each query does, and `graph.sees_keys` on those whose mask shows each query a key. Where only that makes a
number possible, keys lose their bias: it adds the same to all scores of a query, which no softmax sees. Without
weights the pass leaves all as it is: the text alone cannot prove anything.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.dtypes import BF16, F32
from neuron_dialects.errors import NeuronError
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
    spec_of,
)
from neuron_dialects.graph.attention import LEAST_SEEN, SCORE_SHIFT, SEES_KEYS
from neuron_dialects.graph.attrs import f32_attr
from neuron_dialects.neuron import core_functions, weights_path
from neuron_dialects.weights import WeightStore
from passes.graph.conv_groups import LANES
from passes.graph.join_sequences import LEAST_TOGETHER
from passes.graph.row_moves import moves_rows
from passes.graph.score_bounds import Projection, greatest_value, head_range, shift_for
from runtime.graph_interpreter import WeightResolver
from runtime.graph_interpreter.boundary import misfit

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST_NUMBER = float(np.finfo(np.float32).max)
"""Weights beyond that are no numbers to the core, and their products none in float64."""

LEAST_EPSILON = float(np.finfo(np.float32).tiny)
"""With less added to it, a variance can lose its digits or be negative, and rows are longer than they should be."""


@dataclass(frozen=True)
class GraphBoundScoresPass(ModulePass):
    """Mark attentions with bounded scores.

        %0 = graph.layer_norm %x axis 2 ...
        %q = graph.matmul %0, %wq ...
        %k = graph.matmul %0, %wk ...
        %v = graph.matmul %0, %wv ...
        %1 = graph.attention %q, %k, %v, %mask heads 3 kv_heads 3 scale 0.177 : ...

    becomes, where the weights allow no score outside of the range,

        %1 = graph.attention %q, %k, %v, %mask heads 3 kv_heads 3 scale 0.177 {graph.score_shift = 0.0 : f32} : ...
    """

    name = "graph-bound-scores"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Mark in every core function."""
        found = [
            inner
            for function in core_functions(op)
            for inner in function.body.block.ops
            if isinstance(inner, AttentionOp) and _pays(inner)
        ]
        store = self.store(op) if found else None
        if store is None:
            return
        values = _Values(WeightResolver(op, store))
        for attention in found:
            try:
                _bound(attention, values)
            except NeuronError:
                # A weight that cannot be read: whoever needs its numbers says so.
                continue

    def store(self, module: ModuleOp) -> WeightStore | None:
        """The weights of the file that the module names, if there is one."""
        path = weights_path(module)
        # Unlike that of a path, this test refuses no name.
        return WeightStore.load_safetensors(path) if path is not None and os.path.isfile(path) else None


@dataclass(frozen=True)
class WeighedBoundScores(GraphBoundScoresPass):
    """The pass with the weights of the model."""

    weights: WeightStore | None = None

    def store(self, module: ModuleOp) -> WeightStore | None:
        """Those that were given."""
        return self.weights


def with_weights(passes: Sequence[str | ModulePass], weights: WeightStore) -> list[str | ModulePass]:
    """The passes, with the one that wants weights given them."""
    return [WeighedBoundScores(weights) if given == GraphBoundScoresPass.name else given for given in passes]


def _pays(op: AttentionOp) -> bool:
    """Whether a kernel could do without the maxima: one worth a look at weights.

    That is one over many sequences of a tile each, or one without a mask.
    """
    sequences, queries, _ = shape_of(op.q)
    if op.causal or op.scale.value.data <= 0 or any(spec_of(x)[0] is not BF16 for x in (op.q, op.k, op.v)):
        return False
    if any(prod(shape_of(x)) == 0 for x in (op.q, op.k, op.v)) or op.heads.value.data != op.kv_heads.value.data:
        return False
    return op.mask is None or (sequences >= LEAST_TOGETHER and queries <= LANES)


def _bound(op: AttentionOp, values: _Values) -> None:
    """Give an attention its shift, if one is known; without the bias of its keys, if there is none with it."""
    mask = None if op.mask is None else values.of(op.mask)
    if mask is not None and (np.atleast_1d(mask).max(axis=-1) >= LEAST_SEEN).all():
        op.attributes[SEES_KEYS] = UnitAttr()
    chains = [values.projection(x) for x in (op.q, op.k, op.v)]
    if any(chain is None for chain in chains) or (op.mask is not None and mask is None):
        return
    q, k, v = (chain for chain in chains if chain is not None)
    shift = _shift(op, q, k, v, mask)
    if shift is None and isinstance(op.k.owner, BinaryOp):
        rows = _without_bias(op.k.owner)
        bare = None if rows is None else values.projection(rows)
        shift = None if bare is None else _shift(op, q, bare, v, mask)
        if rows is not None and shift is not None:
            _drop_bias(op, op.k.owner, rows)
    if shift is not None:
        op.attributes[SCORE_SHIFT] = f32_attr(shift)


def _shift(op: AttentionOp, q: _Chain, k: _Chain, v: _Chain, mask: Array | None) -> float | None:
    """What may be subtracted from the scores of an attention; None if nothing is known."""
    (queries, size), keys = (shape_of(op.q)[1], op.head_size), shape_of(op.k)[1]
    heads, scale = range(op.heads.value.data), float(op.scale.value.data)
    ranges = [head_range(q.linear.head(head, size), k.linear.head(head, size), scale) for head in heads]
    most, own = max(r.most for r in ranges), min(r.own for r in ranges)
    # The greatest score of a query is no less than that of the key which is hidden least, nor than its own.
    highest, least = 0.0, -most
    itself = own if q.rows is not None and q.rows is k.rows and queries == keys else -inf
    if mask is not None:
        if np.isnan(mask).any():
            return None
        whole = np.broadcast_to(mask, (*mask.shape[:-2], queries, keys))
        highest, least = float(whole.max()), least + float(whole.max(axis=-1).min())
        itself += float(np.diagonal(whole, axis1=-2, axis2=-1).min()) if queries == keys else 0.0
    return shift_for(most + highest, max(least, itself), keys, greatest_value(v.linear))


def _without_bias(op: BinaryOp) -> SSAValue | None:
    """What a sum adds one row to; None where it adds none."""
    features = shape_of(op.result)[-1:]
    for added, rows in ((op.a, op.b), (op.b, op.a)):
        if op.kind.data is BinaryKind.ADD and shape_of(added) == features and shape_of(rows) == shape_of(op.result):
            return rows
    return None


def _drop_bias(op: AttentionOp, sum_: BinaryOp, rows: SSAValue) -> None:
    """Let an attention read its keys without their bias, which goes if nobody else reads it."""
    op.operands[1] = rows
    operands = list(sum_.operands)
    if list(sum_.result.uses):
        return
    sum_.detach()
    sum_.erase()
    for value in operands:
        if isinstance(value.owner, WeightOp) and not list(value.uses):
            value.owner.detach()
            value.owner.erase()


@dataclass(frozen=True)
class _Chain:
    """A projection of normalised rows; `rows`: those, where the projection keeps their order."""

    linear: Projection
    rows: SSAValue | None


@dataclass(frozen=True)
class _Values:
    """Numbers of values that are known when the model is compiled."""

    resolve: WeightResolver

    def of(self, value: SSAValue) -> Array | None:
        """The elements of a weight or constant in float64; None for anything else.

        NeuronError NX-WEIGHT-004 for a weight that has another shape or type than the program says.
        """
        owner = value.owner
        if isinstance(owner, WeightOp):
            found = self.resolve(owner.weight_name)
            if (problem := misfit(found, value.type)) is not None:
                raise NeuronError("NX-WEIGHT-004", f"weight '{owner.weight_name}' is {problem}")
            return found.astype(np.float64)
        return owner.array().astype(np.float64) if isinstance(owner, ConstantOp) else None

    def projection(self, value: SSAValue) -> _Chain | None:
        """The projection of normalised rows that a value is, whatever the order of its rows; None if it is none.

        Nothing is added to it more than once: two numbers may cancel, but not what rounding makes of each sum.
        """
        features, moved, added = shape_of(value)[-1], False, False
        factor, bias, roundings = np.ones(features), np.zeros(features), 1
        while True:
            owner = value.owner
            if isinstance(owner, CastOp | ReshapeOp | TransposeOp | SliceOp) and _keeps_rows(owner):
                value, roundings, moved = owner.x, roundings + 1, moved or not isinstance(owner, CastOp)
            elif isinstance(owner, BinaryOp) and owner.kind.data in (BinaryKind.ADD, BinaryKind.MUL):
                if (step := self._step(owner, features)) is None:
                    return None
                number, value = step
                if owner.kind.data is BinaryKind.ADD:
                    if added:
                        return None
                    bias, roundings, added = factor * number, roundings + 1, True
                else:
                    # A power of two leaves all digits.
                    factor = factor * number
                    roundings += int((np.abs(np.frexp(number)[0]) != 0.5).any())
                if not (_in_range(factor) and _in_range(bias)):
                    return None
            elif isinstance(owner, MatMulOp):
                plain = len(shape_of(owner.b)) == 2 and not owner.transpose_a and not owner.transpose_b
                weight = self.of(owner.b) if plain and _is_normalised(owner.a) else None
                if weight is None or not _in_range(weight):
                    return None
                return _Chain(Projection(weight * factor, bias, roundings), None if moved else owner.a)
            else:
                return None

    def _step(self, op: BinaryOp, features: int) -> tuple[Array, SSAValue] | None:
        """(Known numbers [features] that an operator adds to rows or multiplies them by, the rows)."""
        for known, rows in ((op.a, op.b), (op.b, op.a)):
            if shape_of(known) in ((features,), (), (1,)) and shape_of(rows) == shape_of(op.result):
                number = self.of(known)
                if number is not None and _in_range(number):
                    return np.broadcast_to(number, (features,)), rows
        return None


def _in_range(numbers: Array) -> bool:
    """Whether there are numbers, all of them finite in float32."""
    return numbers.size > 0 and bool((np.abs(numbers) <= LARGEST_NUMBER).all())


def _keeps_rows(op: Operation) -> bool:
    """Whether an operator leaves the elements of rows what they are, rounded to bf16 at most."""
    if isinstance(op, CastOp):
        return all(spec_of(value)[0] in (BF16, F32) for value in (op.x, op.result))
    return moves_rows(op)


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
            # Rows of more digits can be so nearly equal that their differences are noise, which would grow large.
            if spec_of(owner.x)[0] is not BF16 or not owner.epsilon.value.data >= LEAST_EPSILON:
                return False
            if owner.scale is not None or owner.bias is not None or not last or shape_of(owner.x)[-1] != features:
                return False
        elif isinstance(owner, CastOp | ReshapeOp | TransposeOp | SliceOp | ConcatOp) and _keeps_rows(owner):
            pending.extend(owner.operands)
        else:
            return False
    return True
