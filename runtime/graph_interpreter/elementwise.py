"""What the elementwise operators compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from xdsl.dialects.builtin import FloatAttr

from neuron_dialects.dtypes import DType
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    SelectOp,
    UnaryKind,
    UnaryOp,
    spec_of,
)
from runtime.graph_interpreter.numerics import Array, compute_dtype, converted, rounded, widened
from runtime.graph_interpreter.special import erf

_SQRT_HALF = math.sqrt(0.5)
_TANH_SCALE = math.sqrt(2 / math.pi)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(_TANH_SCALE * (x + 0.044715 * x * x * x)))


_PLAIN: dict[UnaryKind, Callable[[Array], Array]] = {
    UnaryKind.ABS: np.abs,
    UnaryKind.NEG: np.negative,
    UnaryKind.EXP: np.exp,
    UnaryKind.LOG: np.log,
    UnaryKind.SQRT: np.sqrt,
    UnaryKind.RSQRT: lambda x: 1 / np.sqrt(x),
    UnaryKind.RECIPROCAL: lambda x: 1 / x,
    UnaryKind.SQUARE: lambda x: x * x,
    UnaryKind.SIGMOID: sigmoid,
    UnaryKind.TANH: np.tanh,
    UnaryKind.RELU: lambda x: np.maximum(x, x.dtype.type(0)),
    UnaryKind.ERF: erf,
    UnaryKind.GELU: lambda x: 0.5 * x * (1 + erf(x * _SQRT_HALF)),
    UnaryKind.GELU_TANH: _gelu_tanh,
    UnaryKind.SILU: lambda x: x * sigmoid(x),
    UnaryKind.SOFTPLUS: softplus,
    UnaryKind.SOFTSIGN: lambda x: x / (1 + np.abs(x)),
    UnaryKind.MISH: lambda x: x * np.tanh(softplus(x)),
    UnaryKind.HARD_SWISH: lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    UnaryKind.SIN: np.sin,
    UnaryKind.COS: np.cos,
    UnaryKind.ATAN: np.arctan,
    UnaryKind.SIGN: np.sign,
    UnaryKind.FLOOR: np.floor,
    UnaryKind.CEIL: np.ceil,
    UnaryKind.ROUND: np.rint,
    UnaryKind.NOT: np.logical_not,
    UnaryKind.IS_NAN: np.isnan,
}

_PARAMETRIC: dict[UnaryKind, Callable[[Array, float, float], Array]] = {
    UnaryKind.ELU: lambda x, alpha, beta: np.where(x < 0, alpha * np.expm1(x), x),
    UnaryKind.CELU: lambda x, alpha, beta: np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0),
    UnaryKind.LEAKY_RELU: lambda x, alpha, beta: np.where(x < 0, alpha * x, x),
    UnaryKind.THRESHOLDED_RELU: lambda x, alpha, beta: np.where(x > alpha, x, 0),
    UnaryKind.SELU: lambda x, alpha, beta: beta * np.where(x < 0, alpha * np.expm1(x), x),
    UnaryKind.HARD_SIGMOID: lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
}

_BINARY: dict[BinaryKind, Callable[[Array, Array], Array]] = {
    BinaryKind.ADD: np.add,
    BinaryKind.SUB: np.subtract,
    BinaryKind.MUL: np.multiply,
    BinaryKind.MAX: np.maximum,
    BinaryKind.MIN: np.minimum,
    BinaryKind.MOD: np.mod,
    BinaryKind.FMOD: np.fmod,
    BinaryKind.AND: np.logical_and,
    BinaryKind.OR: np.logical_or,
    BinaryKind.XOR: np.logical_xor,
    BinaryKind.BIT_AND: np.bitwise_and,
    BinaryKind.BIT_OR: np.bitwise_or,
    BinaryKind.BIT_XOR: np.bitwise_xor,
    BinaryKind.PRELU: lambda a, b: np.where(a < 0, a * b, a),
}

_COMPARE: dict[CompareKind, Callable[[Array, Array], Array]] = {
    CompareKind.EQ: np.equal,
    CompareKind.NE: np.not_equal,
    CompareKind.LT: np.less,
    CompareKind.LE: np.less_equal,
    CompareKind.GT: np.greater,
    CompareKind.GE: np.greater_equal,
}


def _number(attr: FloatAttr | None) -> float:
    return 0.0 if attr is None else attr.value.data


def unary(op: UnaryOp, x: Array) -> Array:
    """`graph.unary`."""
    return rounded(unary_values(op.kind.data, widened(x), _number(op.alpha), _number(op.beta)), _result_dtype(op))


def unary_values(kind: UnaryKind, x: Array, alpha: float = 0.0, beta: float = 0.0) -> Array:
    """A unary function of an array in the type that it is computed in."""
    return _PLAIN[kind](x) if kind in _PLAIN else _PARAMETRIC[kind](x, alpha, beta)


def clip(op: ClipOp, x: Array) -> Array:
    """`graph.clip`."""
    dtype = _result_dtype(op)
    values = widened(x)
    if op.minimum is not None:
        values = np.maximum(values, _bound(op.minimum.value.data, dtype))
    if op.maximum is not None:
        values = np.minimum(values, _bound(op.maximum.value.data, dtype))
    return rounded(values, dtype)


def _bound(value: float, dtype: DType) -> Array:
    """A bound in the type that is computed in; a bound that an integer cannot reach is its extreme value."""
    number_type = compute_dtype(dtype)
    if dtype.is_float:
        return np.array(value, number_type)
    limits = np.iinfo(number_type)
    # Between two integers a lower bound rounds up and an upper bound down; ONNX truncates, and so does the importer.
    return np.array(int(min(max(value, limits.min), limits.max)), number_type)


def binary(op: BinaryOp, a: Array, b: Array) -> Array:
    """`graph.binary`."""
    kind = op.kind.data
    a, b = widened(a), widened(b)
    if kind is BinaryKind.DIV:
        values = truncating_division(a, b) if a.dtype.kind in "iu" else a / b
    elif kind is BinaryKind.POW:
        values = integer_power(a, b) if a.dtype.kind in "iu" else np.power(a, b)
    elif kind in (BinaryKind.SHIFT_LEFT, BinaryKind.SHIFT_RIGHT):
        values = shifted(a, b, left=kind is BinaryKind.SHIFT_LEFT)
    else:
        values = _BINARY[kind](a, b)
    return rounded(values, _result_dtype(op))


def truncating_division(a: Array, b: Array) -> Array:
    """The integer quotient rounded towards zero; 0 for a division by zero."""
    quotient = np.floor_divide(a, b)
    if a.dtype.kind == "u":
        return quotient
    inexact = (quotient * b != a) & (b != 0)
    return quotient + (inexact & ((a < 0) != (b < 0)))


def integer_power(base: Array, exponent: Array) -> Array:
    """base ** exponent with wraparound; towards zero (0, 1 or -1) for a negative exponent."""
    if base.dtype.kind == "u":
        return np.power(base, exponent)
    values = np.power(base, np.maximum(exponent, 0))
    inverse = np.where(base == 1, 1, np.where(base == -1, 1 - 2 * (exponent & 1), 0))
    return np.where(exponent < 0, inverse, values)


def shifted(a: Array, count: Array, *, left: bool) -> Array:
    """a shifted, with its sign; a count that the type's width does not include moves every bit out."""
    bits = 8 * a.dtype.itemsize
    beyond = (count < 0) | (count >= bits)
    if left:
        return np.where(beyond, np.zeros_like(a), np.left_shift(a, np.where(beyond, 0, count).astype(a.dtype)))
    kept = np.right_shift(a, np.where(beyond, bits - 1, count).astype(a.dtype))
    return np.where(beyond & (a >= 0), np.zeros_like(a), kept)


def compare(op: CompareOp, a: Array, b: Array) -> Array:
    """`graph.compare`."""
    return np.asarray(_COMPARE[op.kind.data](widened(a), widened(b)))


def select(_: SelectOp, condition: Array, a: Array, b: Array) -> Array:
    """`graph.select`."""
    return np.where(condition, a, b)


def cast(op: CastOp, x: Array) -> Array:
    """`graph.cast`."""
    return converted(x, spec_of(op.x)[0], _result_dtype(op))


def _result_dtype(op: UnaryOp | ClipOp | BinaryOp | CastOp) -> DType:
    return spec_of(op.result)[0]
