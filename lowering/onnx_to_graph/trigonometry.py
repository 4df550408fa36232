"""Converters of ONNX's trigonometric and hyperbolic operators.

The core has sine, cosine, arctangent, exponential and logarithm. The formulas below are chosen so that no digits cancel
out: where a textbook formula is a difference of nearly equal numbers, an equal quotient stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from xdsl.ir import SSAValue

from lowering.onnx_to_graph.arithmetic import Arithmetic
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.dtypes import F32, F64
from neuron_dialects.graph import CompareKind, UnaryKind, spec_of

Formula = Callable[[Arithmetic, SSAValue], SSAValue]


def _computed(node: Node, formula: Formula) -> Sequence[Value]:
    """The formula in f32, rounded once to a narrower type."""
    x = node.operand(0)
    dtype = spec_of(x)[0]
    if not dtype.is_float or dtype is F64:
        raise Unsupported(f"a function of {dtype}")
    ops = Arithmetic(node)
    return [ops.cast(formula(ops, ops.cast(x, F32)), dtype)]


def _sqrt(ops: Arithmetic, x: SSAValue) -> SSAValue:
    return ops.unary(UnaryKind.SQRT, x)


def log1p(ops: Arithmetic, x: SSAValue) -> SSAValue:
    """log(1 + x), also for x so small that 1 + x is rounded: log(w) * x / (w - 1) for the rounded w, x where w is 1."""
    w = ops.add(x, 1)
    near = ops.compare(CompareKind.EQ, w, 1)
    quotient = ops.div(ops.mul(ops.unary(UnaryKind.LOG, w), x), ops.where(near, 1, ops.sub(w, 1)))
    # At infinity the quotient is undefined, the logarithm is not.
    large = ops.compare(CompareKind.GT, w, 1e30)
    return ops.where(near, x, ops.where(large, ops.unary(UnaryKind.LOG, w), quotient))


def _tan(ops: Arithmetic, x: SSAValue) -> SSAValue:
    return ops.div(ops.unary(UnaryKind.SIN, x), ops.unary(UnaryKind.COS, x))


def _atan(ops: Arithmetic, x: SSAValue) -> SSAValue:
    return ops.unary(UnaryKind.ATAN, x)


def _asin(ops: Arithmetic, x: SSAValue) -> SSAValue:
    """2 atan(x / (1 + sqrt((1 - x) (1 + x))))"""
    root = _sqrt(ops, ops.mul(ops.sub(1, x), ops.add(x, 1)))
    return ops.mul(_atan(ops, ops.div(x, ops.add(root, 1))), 2)


def _acos(ops: Arithmetic, x: SSAValue) -> SSAValue:
    """2 atan(sqrt((1 - x) / (1 + x)))"""
    return ops.mul(_atan(ops, _sqrt(ops, ops.div(ops.sub(1, x), ops.add(x, 1)))), 2)


def _cosh(ops: Arithmetic, x: SSAValue) -> SSAValue:
    """exp(|x| - log 2) + exp(-|x| - log 2), which overflows only where the result does."""
    magnitude = ops.unary(UnaryKind.ABS, x)
    half = 0.6931471805599453
    grown = ops.unary(UnaryKind.EXP, ops.sub(magnitude, half))
    return ops.add(grown, ops.unary(UnaryKind.EXP, ops.sub(-half, magnitude)))


def _sinh(ops: Arithmetic, x: SSAValue) -> SSAValue:
    """tanh(x) cosh(x)"""
    return ops.mul(ops.unary(UnaryKind.TANH, x), _cosh(ops, x))


def _asinh(ops: Arithmetic, x: SSAValue) -> SSAValue:
    """sign(x) log1p(|x| + x^2 / (1 + sqrt(x^2 + 1)))"""
    magnitude, square = ops.unary(UnaryKind.ABS, x), ops.unary(UnaryKind.SQUARE, x)
    rest = ops.div(square, ops.add(_sqrt(ops, ops.add(square, 1)), 1))
    return ops.mul(ops.unary(UnaryKind.SIGN, x), log1p(ops, ops.add(magnitude, rest)))


def _acosh(ops: Arithmetic, x: SSAValue) -> SSAValue:
    """log1p(t + sqrt(t) sqrt(t + 2)) with t = x - 1"""
    t = ops.sub(x, 1)
    return log1p(ops, ops.add(t, ops.mul(_sqrt(ops, t), _sqrt(ops, ops.add(t, 2)))))


def _atanh(ops: Arithmetic, x: SSAValue) -> SSAValue:
    """sign(x) log1p(2 |x| / (1 - |x|)) / 2"""
    magnitude = ops.unary(UnaryKind.ABS, x)
    quotient = ops.div(ops.mul(magnitude, 2), ops.sub(1, magnitude))
    return ops.mul(ops.mul(ops.unary(UnaryKind.SIGN, x), log1p(ops, quotient)), 0.5)


def _shrink(node: Node) -> Sequence[Value]:
    """x drawn towards zero by the bias where it is beyond lambd on either side; zero between."""
    ops, x = Arithmetic(node), node.operand(0)
    bias, bound = node.float_attr("bias", 0.0), node.float_attr("lambd", 0.5)
    dtype = spec_of(x)[0]
    if not dtype.is_float and (bias != int(bias) or bound != int(bound) or bias < 0 or bound < 0):
        raise Unsupported(f"bounds {bound} and {bias} for {dtype}")
    above = ops.where(ops.compare(CompareKind.GT, x, bound), ops.sub(x, bias), 0)
    return [ops.where(ops.compare(CompareKind.LT, x, -bound), ops.add(x, bias), above)]


_FORMULAS: dict[str, Formula] = {
    "Tan": _tan,
    "Atan": _atan,
    "Asin": _asin,
    "Acos": _acos,
    "Cosh": _cosh,
    "Sinh": _sinh,
    "Asinh": _asinh,
    "Acosh": _acosh,
    "Atanh": _atanh,
}

CONVERTERS: dict[str, Row] = {
    **{op_type: Row(partial(_computed, formula=formula)) for op_type, formula in _FORMULAS.items()},
    "Shrink": Row(_shrink, since=9),
}
"""ONNX operator type -> row."""
