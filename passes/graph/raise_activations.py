"""Activation functions written as formulas, as rewrite patterns. Each docstring is the formula.

Exporters write gelu and silu in elementary operators; the activation engine computes each as one function.
"""

from __future__ import annotations

from math import isclose, pi, sqrt

from xdsl.ir import SSAValue
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.graph import BinaryKind, BinaryOp, UnaryKind, UnaryOp
from passes.graph.known_numbers import binary_of, factors_of, is_number, plus_number, precision_of, unary_of
from passes.rewriting import Rewrite, rewrites

CUBIC = 0.044715
"""Coefficient of x^3 in the tanh form of gelu."""


@rewrites(BinaryOp)
def gelu_formula(op: BinaryOp, rewriter: PatternRewriter) -> None:
    """x/2 * (1 + erf(x / sqrt 2)) -> gelu(x); x/2 * (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) -> gelu_tanh(x)"""
    if op.kind.data not in (BinaryKind.MUL, BinaryKind.DIV):
        return
    number, factors = factors_of(op.result)
    if len(factors) != 2 or not isclose(number, 0.5, rel_tol=precision_of(op.result)):
        return
    for x, other in (factors, factors[::-1]):
        inner = plus_number(other, 1.0)
        kind = None if inner is None else _gelu_kind(x, inner)
        if kind is not None and x.type == op.result.type:
            rewriter.replace(op, UnaryOp(kind, x))
            return


def _gelu_kind(x: SSAValue, inner: SSAValue) -> UnaryKind | None:
    if (erf := unary_of(inner, UnaryKind.ERF)) is not None:
        scale, rest = factors_of(erf.x)
        return UnaryKind.GELU if rest == [x] and isclose(scale, sqrt(0.5), rel_tol=precision_of(x)) else None
    if (tanh := unary_of(inner, UnaryKind.TANH)) is not None and _is_tanh_argument(tanh.x, x):
        return UnaryKind.GELU_TANH
    return None


def _is_tanh_argument(value: SSAValue, x: SSAValue) -> bool:
    """sqrt(2/pi) * (x + c x^3), or sqrt(2/pi) * x * (1 + c x^2)."""
    scale, rest = factors_of(value)
    if not isclose(scale, sqrt(2 / pi), rel_tol=precision_of(x)):
        return False
    if len(rest) == 1:
        total = binary_of(rest[0], BinaryKind.ADD)
        if total is None or x not in (total.a, total.b):
            return False
        return _is_power(total.b if total.a is x else total.a, x, 3)
    if len(rest) == 2 and x in rest:
        inner = plus_number(rest[1] if rest[0] is x else rest[0], 1.0)
        return inner is not None and _is_power(inner, x, 2)
    return False


def _is_power(value: SSAValue, x: SSAValue, exponent: int) -> bool:
    """Whether `value` is c * x ** exponent with gelu's c."""
    scale, rest = factors_of(value)
    return isclose(scale, CUBIC, rel_tol=precision_of(x)) and sum(_degree(factor, x) for factor in rest) == exponent


def _degree(value: SSAValue, x: SSAValue) -> int:
    """n where `value` is x ** n; a number that no sum of degrees reaches otherwise."""
    if value is x:
        return 1
    if (square := unary_of(value, UnaryKind.SQUARE)) is not None and square.x is x:
        return 2
    power = binary_of(value, BinaryKind.POW)
    if power is not None and power.a is x:
        return next((n for n in (2, 3) if is_number(power.b, n)), -9)
    return -9


@rewrites(BinaryOp)
def silu_formula(op: BinaryOp, rewriter: PatternRewriter) -> None:
    """x * sigmoid(x) -> silu(x)"""
    if op.kind.data is not BinaryKind.MUL or op.a.type != op.b.type:
        return
    for x, other in ((op.a, op.b), (op.b, op.a)):
        sigmoid = unary_of(other, UnaryKind.SIGMOID)
        if sigmoid is not None and sigmoid.x is x:
            rewriter.replace(op, UnaryOp(UnaryKind.SILU, x))
            return


ACTIVATION_FORMULAS: tuple[Rewrite, ...] = (gelu_formula, silu_formula)
