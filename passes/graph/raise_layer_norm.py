"""Layer normalisation written as a formula, as rewrite patterns. Each docstring is the formula."""

from __future__ import annotations

from xdsl.ir import SSAValue
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    LayerNormOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    UnaryKind,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import element_count
from passes.graph.known_numbers import binary_of, is_number, number_of, unary_of
from passes.rewriting import Rewrite, rewrites


@rewrites(BinaryOp)
def layer_norm_formula(op: BinaryOp, rewriter: PatternRewriter) -> None:
    """d / sqrt(mean(d * d) + epsilon), where d = x - mean(x) over the last dimensions -> layer_norm(x)

    Any other d -> layer_norm(d) uncentred
    """
    centred, variance = _over_root(op)
    if centred is None or variance is None:
        return
    difference = binary_of(centred, BinaryKind.SUB)
    total = binary_of(variance, BinaryKind.ADD)
    if total is None:
        return
    for squares, epsilon in ((total.a, number_of(total.b)), (total.b, number_of(total.a))):
        axis = _mean_axis(squares)
        if epsilon is None or axis is None or epsilon < 0:
            continue
        owner = squares.owner
        assert isinstance(owner, ReduceOp)
        if not _is_square(owner.x, centred):
            continue
        x = centred
        if difference is not None and _is_mean(difference.b, difference.a, axis):
            x = difference.a
        if spec_of(x) == spec_of(op.result) and spec_of(x)[0].is_float:
            rewriter.replace(op, LayerNormOp(x, axis=axis, epsilon=epsilon, uncentred=x is centred))
            return


def _over_root(op: BinaryOp) -> tuple[SSAValue | None, SSAValue | None]:
    """(d, v) where op is d / sqrt(v), d * rsqrt(v) or d * (1 / sqrt(v))."""
    if op.kind.data is BinaryKind.DIV:
        root = _root(op.b)
        return (op.a, root) if root is not None else (None, None)
    if op.kind.data is BinaryKind.MUL:
        for d, factor in ((op.a, op.b), (op.b, op.a)):
            inverse = unary_of(factor, UnaryKind.RSQRT)
            if inverse is not None:
                return d, inverse.x
            reciprocal = unary_of(factor, UnaryKind.RECIPROCAL)
            quotient = binary_of(factor, BinaryKind.DIV)
            inner = reciprocal.x if reciprocal is not None else None
            if quotient is not None and is_number(quotient.a, 1.0):
                inner = quotient.b
            if inner is not None and (root := _root(inner)) is not None:
                return d, root
    return None, None


def _root(value: SSAValue) -> SSAValue | None:
    """v where `value` is sqrt(v) or v ** 0.5."""
    if (root := unary_of(value, UnaryKind.SQRT)) is not None:
        return root.x
    power = binary_of(value, BinaryKind.POW)
    return power.a if power is not None and is_number(power.b, 0.5) else None


def _mean_axis(value: SSAValue) -> int | None:
    """The first axis of a mean over the last dimensions that keeps them as ones."""
    owner = value.owner
    if not isinstance(owner, ReduceOp) or owner.kind.data is not ReduceKind.MEAN or not owner.keep_dims:
        return None
    axes, rank = sorted(ints(owner.axes)), len(shape_of(owner.x))
    return axes[0] if axes and axes == list(range(axes[0], rank)) else None


def _is_mean(value: SSAValue, x: SSAValue, axis: int) -> bool:
    owner = value.owner
    return _mean_axis(value) == axis and isinstance(owner, ReduceOp) and owner.x is x


def _is_square(value: SSAValue, x: SSAValue) -> bool:
    if (square := unary_of(value, UnaryKind.SQUARE)) is not None:
        return square.x is x
    power = binary_of(value, BinaryKind.POW)
    if power is not None:
        return power.a is x and is_number(power.b, 2.0)
    product = binary_of(value, BinaryKind.MUL)
    return product is not None and product.a is x and product.b is x


@rewrites(BinaryOp)
def layer_norm_parameters(op: BinaryOp, rewriter: PatternRewriter) -> None:
    """layer_norm(x) * scale, and layer_norm(x) + bias, where these vary along the normalised dimensions alone"""
    scaling = op.kind.data is BinaryKind.MUL
    if not scaling and op.kind.data is not BinaryKind.ADD:
        return
    for value, parameter in ((op.a, op.b), (op.b, op.a)):
        norm = value.owner
        if not isinstance(norm, LayerNormOp) or not norm.result.has_one_use() or norm.bias is not None:
            continue
        if scaling and norm.scale is not None:
            continue
        kept = _as_parameter(parameter, norm)
        if kept is None or spec_of(norm.result) != spec_of(op.result):
            continue
        made = [kept] if isinstance(kept, ReshapeOp) else []
        fitted = kept.result if isinstance(kept, ReshapeOp) else kept
        scale, bias = (fitted, None) if scaling else (norm.scale, fitted)
        axis, epsilon, uncentred = norm.axis.value.data, norm.epsilon.value.data, bool(norm.uncentred)
        merged = LayerNormOp(norm.x, scale, bias, axis=axis, epsilon=epsilon, uncentred=uncentred)
        rewriter.replace(op, [*made, merged])
        return


def _as_parameter(value: SSAValue, norm: LayerNormOp) -> SSAValue | ReshapeOp | None:
    """`value` in the shape of a parameter of `norm`, if it has one value per normalised element."""
    wanted = shape_of(norm.x)[norm.axis.value.data :]
    dtype, shape = spec_of(value)
    if dtype is not spec_of(norm.x)[0] or element_count(shape) != element_count(wanted):
        return None
    if shape == wanted:
        return value
    leading = len(shape) - len(wanted)
    return ReshapeOp(value, wanted) if leading > 0 and shape[leading:] == wanted else None


LAYER_NORM_FORMULAS: tuple[Rewrite, ...] = (layer_norm_formula, layer_norm_parameters)
