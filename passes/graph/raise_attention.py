"""Attention written as two products and a softmax, as a rewrite pattern.

The pattern looks at each product of probabilities with values, and follows the probabilities back through softmax,
masks and scale to the product of queries with keys. The heads of all operands are then packed side by side again, as
the projections left them; the transposes that exporters put between cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    AttentionOp,
    BinaryKind,
    BinaryOp,
    BroadcastOp,
    CastOp,
    ConstantOp,
    MatMulOp,
    ReshapeOp,
    SelectOp,
    SoftmaxOp,
    TransposeOp,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.attention import has_kernel
from neuron_dialects.graph.shapes import ShapeError, broadcast_shapes
from passes.graph.known_numbers import number_of
from passes.graph.movement_identities import swaps_last_two
from passes.rewriting import Rewrite, rewrites

FEWEST_QUERIES = 16
"""Fewer query positions are left as single products: there is little to keep on chip."""

HIDING_SCORE = -1e9
"""A score that is replaced by this or less counts as nothing, whatever is added to it."""


@dataclass
class _Scores:
    """Scores before the softmax: scale * q k^T + the sum of `masks`; `made` holds operators that masks need."""

    product: MatMulOp
    scale: float
    masks: list[SSAValue]
    made: list[Operation]


@dataclass
class _Heads:
    """Keys or values of `heads` heads: [B, heads, S, d], or [B, heads, d, S] where `turned`."""

    value: SSAValue
    heads: int
    turned: bool


@rewrites(MatMulOp)
def attention_formula(op: MatMulOp, rewriter: PatternRewriter) -> None:
    """softmax(scale * q k^T + mask) v, batched over heads -> attention(q, k, v, mask) over packed heads"""
    softmax = _through_casts(op.a).owner
    if not isinstance(softmax, SoftmaxOp) or not softmax.result.has_one_use() or softmax.log:
        return
    rank = len(shape_of(op.a))
    if rank != 4 or softmax.axis.value.data != rank - 1 or op.transpose_a:
        return
    scores = _scores_of(softmax.x)
    if scores is None or len(scores.masks) > 1:
        return
    made = _attention(op, scores)
    if made is not None:
        rewriter.replace(op, made)


def _attention(op: MatMulOp, scores: _Scores) -> list[Operation] | None:
    """The operators that replace the product `op`; None where the heads cannot be packed."""
    product = scores.product
    batch, heads, queries, _ = shape_of(product.result)
    if shape_of(op.result)[:3] != (batch, heads, queries) or queries < FEWEST_QUERIES:
        return None
    if shape_of(product.a)[:2] != (batch, heads):
        return None
    k = _heads_of(product.b, turned=not product.transpose_b)
    v = _heads_of(op.b, turned=bool(op.transpose_b))
    size, value_size = shape_of(product.a)[3], shape_of(op.result)[3]
    if k.heads != v.heads or heads % k.heads or not has_kernel(size) or not has_kernel(value_size):
        return None
    if any(shape_of(x.value)[0] != batch for x in (k, v)) or spec_of(product.a)[0] is not spec_of(op.b)[0]:
        return None
    made = list(scores.made)
    q = _packed(made, _Heads(product.a, heads, False))
    try:
        attention = AttentionOp(
            q, _packed(made, k), _packed(made, v), *scores.masks, heads=heads, kv_heads=k.heads, scale=scores.scale,
            accumulate_f32=spec_of(op.result)[0] is F32,
        )  # fmt: skip
    except ShapeError:
        return None
    apart = ReshapeOp(attention.result, (batch, queries, heads, value_size))
    return [*made, attention, apart, TransposeOp(apart.result, (0, 2, 1, 3))]


def _packed(made: list[Operation], x: _Heads) -> SSAValue:
    """[B, heads, S, d] (or [B, heads, d, S]) as [B, S, heads * d]."""
    turned = TransposeOp(x.value, (0, 3, 1, 2) if x.turned else (0, 2, 1, 3))
    batch, length, heads, size = shape_of(turned.result)
    packed = ReshapeOp(turned.result, (batch, length, heads * size))
    made += [turned, packed]
    return packed.result


def _heads_of(value: SSAValue, turned: bool) -> _Heads:
    """Keys or values without the repetition that shares a head between several query heads."""
    base, flipped = value, turned
    if isinstance(base.owner, TransposeOp) and swaps_last_two(ints(base.owner.permutation)):
        base, flipped = base.owner.x, not turned
    if isinstance(base.owner, ReshapeOp) and isinstance(repeated := base.owner.x.owner, BroadcastOp):
        source, result = shape_of(repeated.x), shape_of(repeated.result)
        grouped = len(source) == 5 and source[2] == 1 and (*result[:2], *result[3:]) == (*source[:2], *source[3:])
        if grouped and isinstance(repeated.x.owner, ReshapeOp):
            single = repeated.x.owner.x
            if shape_of(single) == (source[0], source[1], *source[3:]):
                return _Heads(single, source[1], flipped)
    return _Heads(value, shape_of(value)[1], turned)


def _through_casts(value: SSAValue) -> SSAValue:
    """A value before casts between float types; each has one use."""
    while isinstance(cast := value.owner, CastOp) and value.has_one_use():
        if not (spec_of(cast.x)[0].is_float and spec_of(value)[0].is_float):
            break
        value = cast.x
    return value


def _scores_of(value: SSAValue) -> _Scores | None:
    """The scores that `value` holds: masks outside, then the scale, then the product."""
    value = _through_casts(value)
    owner = value.owner
    if not value.has_one_use():
        return None
    if isinstance(owner, BinaryOp) and owner.kind.data is BinaryKind.ADD:
        for inner, mask in ((owner.a, owner.b), (owner.b, owner.a)):
            found = _scores_of(inner)
            if found is not None and shape_of(inner) == shape_of(value):
                return _masked(found, mask)
        return None
    if isinstance(owner, SelectOp):
        return _selected(owner)
    return _scaled(value)


def _selected(op: SelectOp) -> _Scores | None:
    """select(seen, scores, very small number) as an added mask."""
    hidden = number_of(op.b)
    found = _scores_of(op.a)
    if hidden is None or hidden > HIDING_SCORE or found is None or shape_of(op.a) != shape_of(op.result):
        return None
    dtype, _ = spec_of(op.b)
    nothing, low = ConstantOp(0.0, dtype, ()), ConstantOp(hidden, dtype, ())
    mask = SelectOp(op.condition, nothing.result, low.result)
    found.made += [nothing, low, mask]
    return _masked(found, mask.result)


def _masked(scores: _Scores, mask: SSAValue) -> _Scores | None:
    """`scores` with one more mask; two become one where that does not make a larger tensor of them."""
    dtype, shape = spec_of(mask)
    if dtype is not F32 and dtype is not spec_of(scores.product.a)[0]:
        return None
    if not scores.masks:
        return _Scores(scores.product, scores.scale, [mask], scores.made)
    other = scores.masks[0]
    if spec_of(other)[0] is not dtype:
        return None
    largest = max(prod(shape), prod(shape_of(other)))
    if prod(broadcast_shapes(shape, shape_of(other))) > largest:
        return None
    total = BinaryOp(BinaryKind.ADD, other, mask)
    return _Scores(scores.product, scores.scale, [total.result], [*scores.made, total])


def _scaled(value: SSAValue) -> _Scores | None:
    """scale * q k^T."""
    scale = 1.0
    while True:
        value = _through_casts(value)
        owner = value.owner
        if not value.has_one_use():
            return None
        if isinstance(owner, MatMulOp):
            plain = not owner.transpose_a and len(shape_of(value)) == 4
            return _Scores(owner, scale, [], []) if plain else None
        if not isinstance(owner, BinaryOp) or owner.kind.data not in (BinaryKind.MUL, BinaryKind.DIV):
            return None
        number, inner = number_of(owner.b), owner.a
        if number is None and owner.kind.data is BinaryKind.MUL:
            number, inner = number_of(owner.a), owner.b
        if not number or shape_of(inner) != shape_of(value):
            return None
        scale = scale / number if owner.kind.data is BinaryKind.DIV else scale * number
        value = inner


ATTENTION_FORMULAS: tuple[Rewrite, ...] = (attention_formula,)
