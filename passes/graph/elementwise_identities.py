"""Identities of elementwise operators, as rewrite patterns. Each docstring is the identity.

They hold for all numbers; the sign of a zero may change (-0.0 + 0.0 is 0.0).
"""

from __future__ import annotations

import numpy as np
from xdsl.ir import SSAValue
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.dtypes import BF16, F16, F32, F64, I1, DType
from neuron_dialects.graph import (
    AttentionOp,
    BinaryKind,
    BinaryOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ReshapeOp,
    SelectOp,
    UnaryKind,
    UnaryOp,
    WeightOp,
    shape_of,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.shapes import broadcast_shapes, element_count
from passes.rewriting import Rewrite, rewrites

NEUTRAL: dict[BinaryKind, tuple[float, bool]] = {
    BinaryKind.ADD: (0, True),
    BinaryKind.SUB: (0, False),
    BinaryKind.MUL: (1, True),
    BinaryKind.DIV: (1, False),
    BinaryKind.POW: (1, False),
    BinaryKind.AND: (1, True),
    BinaryKind.OR: (0, True),
    BinaryKind.XOR: (0, True),
}
"""Kind -> the second operand that leaves the first as it is, and whether it does so as first operand too."""

_FLOAT_FORMATS: dict[str, tuple[int, int]] = {
    "f8e3m4": (5, 3),
    "f8e4m3": (4, 7),
    "f8e4m3fn": (4, 8),
    "f8e5m2": (3, 15),
    "bf16": (8, 127),
    "f16": (11, 15),
    "tf32": (11, 127),
    "f32": (24, 127),
    "f64": (53, 1023),
}
"""Float type -> significant bits and largest exponent; a type holds all values of one that exceeds it in neither."""

_CONSTANT_CASTS = (F64, F32, BF16, F16)
"""Types to which building a constant rounds as a cast does; casts to 8-bit floats saturate, tf32 is held as f32."""


def holds_all_values_of(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is one of `wide`, of the same family: floats, or integers; i1 fits all."""
    if narrow is I1 or narrow is wide:
        return True
    if narrow.is_float and wide.is_float:
        pairs = zip(_FLOAT_FORMATS[narrow.name], _FLOAT_FORMATS[wide.name], strict=True)
        return all(have <= room for have, room in pairs)
    if narrow.is_integer and wide.is_integer:
        return wide.size_bytes > narrow.size_bytes and (wide.is_signed or not narrow.is_signed)
    return False


def is_everywhere(value: SSAValue, number: float) -> bool:
    """Whether a value is a constant with this one number in every element."""
    owner = value.owner
    if not isinstance(owner, ConstantOp) or element_count(shape_of(value)) == 0:
        return False
    array = owner.array()
    return bool(array.flat[0] == number) if owner.is_splat else bool((array == number).all())


@rewrites(BinaryOp)
def neutral_operand(op: BinaryOp, rewriter: PatternRewriter) -> None:
    """x + 0, x - 0, x * 1, x / 1, x ** 1, x and true, x or false, x xor false -> x"""
    if (entry := NEUTRAL.get(op.kind.data)) is None:
        return
    number, commutes = entry
    if is_everywhere(op.b, number):
        kept = op.a
    elif commutes and is_everywhere(op.a, number):
        kept = op.b
    else:
        return
    if kept.type == op.result.type:
        rewriter.replace(op, [], [kept])
    else:
        rewriter.replace(op, BroadcastOp(kept, shape_of(op.result)))


@rewrites(CastOp)
def cast_to_same_type(op: CastOp, rewriter: PatternRewriter) -> None:
    """cast(x) to x's own element type -> x"""
    if op.x.type == op.result.type:
        rewriter.replace(op, [], [op.x])


@rewrites(CastOp)
def cast_of_widening_cast(op: CastOp, rewriter: PatternRewriter) -> None:
    """cast(cast(x)) where the inner cast keeps every value -> cast(x)"""
    if not isinstance(inner := op.x.owner, CastOp):
        return
    if holds_all_values_of(spec_of(inner.result)[0], spec_of(inner.x)[0]):
        rewriter.replace(op, CastOp(inner.x, spec_of(op.result)[0]))


@rewrites(CastOp)
def cast_of_splat(op: CastOp, rewriter: PatternRewriter) -> None:
    """cast of a float constant that is one value everywhere to another float type -> the constant in that type"""
    inner = op.x.owner
    dtype, shape = spec_of(op.result)
    if not isinstance(inner, ConstantOp) or not inner.is_splat or dtype not in _CONSTANT_CASTS:
        return
    if spec_of(op.x)[0].is_float and element_count(shape):
        with np.errstate(over="ignore"):
            rewriter.replace(op, ConstantOp(float(inner.array().flat[0]), dtype, shape))


@rewrites(CastOp)
def cast_of_f32_attention(op: CastOp, rewriter: PatternRewriter) -> None:
    """cast(attention(q, k, v)) of an f32 result that nobody else reads -> attention(q, k, v) in the type of q

    The result may be reshaped in between.
    """
    between = op.x.owner
    value = between.x if isinstance(between, ReshapeOp) and op.x.has_one_use() else op.x
    inner = value.owner
    if not isinstance(inner, AttentionOp) or not value.has_one_use() or spec_of(value)[0] is not F32:
        return
    if spec_of(inner.q)[0] is not spec_of(op.result)[0]:
        return
    narrow = AttentionOp(
        inner.q, inner.k, inner.v, inner.mask, heads=inner.heads.value.data, kv_heads=inner.kv_heads.value.data,
        scale=inner.scale.value.data, causal=bool(inner.causal),
    )  # fmt: skip
    made = [narrow, ReshapeOp(narrow.result, shape_of(op.result))] if value is not op.x else [narrow]
    rewriter.replace(op, made)


@rewrites(ClipOp)
def clip_without_bounds(op: ClipOp, rewriter: PatternRewriter) -> None:
    """clip(x) without minimum and maximum -> x"""
    if op.minimum is None and op.maximum is None:
        rewriter.replace(op, [], [op.x])


@rewrites(UnaryOp)
def not_of_not(op: UnaryOp, rewriter: PatternRewriter) -> None:
    """not(not(x)) -> x"""
    inner = op.x.owner
    if op.kind.data is UnaryKind.NOT and isinstance(inner, UnaryOp) and inner.kind.data is UnaryKind.NOT:
        rewriter.replace(op, [], [inner.x])


@rewrites(SelectOp)
def select_between_equals(op: SelectOp, rewriter: PatternRewriter) -> None:
    """select(condition, x, x) -> x"""
    if op.a is op.b:
        same = op.a.type == op.result.type
        rewriter.replace(op, [] if same else BroadcastOp(op.a, shape_of(op.result)), [op.a] if same else None)


@rewrites(UnaryOp, ClipOp, CastOp, BinaryOp, CompareOp, SelectOp)
def broadcast_of_operands(
    op: UnaryOp | ClipOp | CastOp | BinaryOp | CompareOp | SelectOp, rewriter: PatternRewriter
) -> None:
    """f(broadcast(x), y) -> broadcast(f(x, y)), and f(x, y) where y gives the result its shape anyway"""
    sources = [value.owner.x if isinstance(value.owner, BroadcastOp) else value for value in op.operands]
    if sources == list(op.operands):
        return
    dtype, shape = spec_of(op.result)
    smaller = broadcast_shapes(*(shape_of(source) for source in sources))
    if isinstance(op, BinaryOp) and op.kind.data is BinaryKind.PRELU and shape_of(sources[0]) != smaller:
        return
    made = type(op).create(
        operands=sources, properties=dict(op.properties), attributes=dict(op.attributes),
        result_types=[tensor_type(dtype, smaller)],
    )  # fmt: skip
    rewriter.replace(op, [made] if smaller == shape else [made, BroadcastOp(made.result, shape)])


@rewrites(BinaryOp)
def signs_of_parts(op: BinaryOp, rewriter: PatternRewriter) -> None:
    """concat(-x, y) * w -> concat(x, y) * (w * signs), where w is a weight: one of a rotary embedding, say"""
    if op.kind.data is not BinaryKind.MUL:
        return
    for parts, weight in ((op.a, op.b), (op.b, op.a)):
        joined = parts.owner
        if not isinstance(joined, ConcatOp) or not parts.has_one_use() or not _is_weight(weight):
            continue
        opposites = [_opposite(x) for x in joined.xs]
        (dtype, shape), axis = spec_of(parts), joined.axis.value.data
        behind = len(shape) - axis
        if not any(opposites) or not dtype.is_float or shape_of(op.result) != shape:
            continue
        if len(shape_of(weight)) < behind or shape_of(weight)[-behind] != shape[axis]:
            continue
        found = zip(opposites, joined.xs, strict=True)
        signs = [np.full(shape_of(x)[axis], 1 if opposite is None else -1) for opposite, x in found]
        factor = ConstantOp(np.concatenate(signs), dtype, (shape[axis], *(1,) * (behind - 1)))
        signed = BinaryOp(BinaryKind.MUL, weight, factor.result)
        values = [x if opposite is None else opposite for opposite, x in zip(opposites, joined.xs, strict=True)]
        whole = ConcatOp(values, axis)
        rewriter.replace(op, [factor, signed, whole, BinaryOp(BinaryKind.MUL, whole.result, signed.result)])
        return


def _opposite(value: SSAValue) -> SSAValue | None:
    """x where `value` is -x for nobody else."""
    owner = value.owner
    if isinstance(owner, UnaryOp) and owner.kind.data is UnaryKind.NEG and value.has_one_use():
        return owner.x
    return None


def _is_weight(value: SSAValue) -> bool:
    """Whether a value is a weight, in another type or shape perhaps."""
    owner = value.owner
    if isinstance(owner, CastOp | ReshapeOp):
        return _is_weight(owner.x)
    return isinstance(owner, WeightOp)


ELEMENTWISE_IDENTITIES: tuple[Rewrite, ...] = (
    neutral_operand,
    cast_to_same_type,
    cast_of_widening_cast,
    cast_of_splat,
    cast_of_f32_attention,
    clip_without_bounds,
    not_of_not,
    select_between_equals,
    broadcast_of_operands,
    signs_of_parts,
)
