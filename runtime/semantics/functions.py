"""The functions of the scalar engine's table on float32 arrays.

Each takes values and an output array or None (a new one is made) and returns the result; the output may be the input.
Results are accurate to float32 over the whole range, with one exception that is documented for the hardware: `sin` has
no range reduction and continues as a cubic beyond +-pi. `TABLE_SETS` says which functions share one loaded table.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Out = Floats | None
Function = Callable[[Floats, Out], Floats]

_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
_SQRT_HALF = np.float32(0.7071067811865476)
_SQRT_2_OVER_PI = np.float32(0.7978845608028654)
_PI = np.float32(np.pi)

# erf(x) = x P(x^2) / Q(x^2) on [-4, 4], beyond which float32 has reached +-1; highest power first; error < 9.5e-8.
_ERF_P = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05, -7.34990630326855e-04,
    -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_Q = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03, -1.42647390514189e-02,
)  # fmt: skip
_BLOCK = 8192
"""Elements per step of erf: its float64 temporaries then stay in the cache."""


def _polynomial(x: NDArray[np.float64], coefficients: tuple[float, ...]) -> NDArray[np.float64]:
    result = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        result += coefficient
        result *= x
    result += coefficients[-1]
    return result


def erf(x: Floats, out: Out = None) -> Floats:
    """Error function."""
    result = np.empty(x.shape, np.float32)
    source, flat = np.ascontiguousarray(x).reshape(-1), result.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = source[start : start + _BLOCK].astype(np.float64)
        np.clip(block, -4.0, 4.0, out=block)
        square = block * block
        block *= _polynomial(square, _ERF_P)
        block /= _polynomial(square, _ERF_Q)
        flat[start : start + _BLOCK] = block
    if out is None:
        return result
    np.copyto(out, result)
    return out


def sigmoid(x: Floats, out: Out = None) -> Floats:
    """1 / (1 + exp(-x))."""
    result = np.negative(x, out=out)
    np.exp(result, out=result)
    result += _ONE
    return np.reciprocal(result, out=result)


def _gelu(x: Floats, out: Out = None) -> Floats:
    factor = erf(x * _SQRT_HALF)
    factor += _ONE
    factor *= _HALF
    return np.multiply(x, factor, out=out)


def _gelu_tanh(x: Floats, out: Out = None) -> Floats:
    inner = x * x
    inner *= np.float32(0.044715)
    inner += _ONE
    inner *= x
    inner *= _SQRT_2_OVER_PI
    np.tanh(inner, out=inner)
    inner += _ONE
    inner *= _HALF
    return np.multiply(x, inner, out=out)


def _silu(x: Floats, out: Out = None) -> Floats:
    return np.multiply(x, sigmoid(x), out=out)


def _softplus(x: Floats, out: Out = None) -> Floats:
    tail = np.abs(x)
    np.negative(tail, out=tail)
    np.exp(tail, out=tail)
    np.log1p(tail, out=tail)
    return np.add(np.maximum(x, np.float32(0)), tail, out=out)


def _mish(x: Floats, out: Out = None) -> Floats:
    return np.multiply(x, np.tanh(_softplus(x)), out=out)


def _sin(x: Floats, out: Out = None) -> Floats:
    beyond = np.abs(x) - _PI
    result = np.sin(x, out=out)
    outside = beyond > 0
    if outside.any():
        # sin(pi + d) = -d + d^3/6 - ...: the table's last piece goes on.
        continued = (beyond * beyond / np.float32(6) - _ONE) * beyond
        np.copyto(result, np.copysign(_ONE, x) * continued, where=outside)
    return result


def rsqrt(x: Floats, out: Out = None) -> Floats:
    """1 / sqrt(x)."""
    result = np.sqrt(x, out=out)
    return np.reciprocal(result, out=result)


def _copy(x: Floats, out: Out = None) -> Floats:
    if out is x:
        return x
    if out is None:
        return x.copy()
    np.copyto(out, x)
    return out


def _relu(x: Floats, out: Out = None) -> Floats:
    return np.maximum(x, np.float32(0), out=out)


def _square(x: Floats, out: Out = None) -> Floats:
    return np.multiply(x, x, out=out)


FUNCTIONS: dict[str, Function] = {
    "copy": _copy,
    "square": _square,
    "sigmoid": sigmoid,
    "relu": _relu,
    "gelu": _gelu,
    "gelu_apprx_tanh": _gelu_tanh,
    "silu": _silu,
    "tanh": np.tanh,
    "softplus": _softplus,
    "mish": _mish,
    "erf": erf,
    "exp": np.exp,
    "sign": np.sign,
    "abs": np.abs,
    "log": np.log,
    "sin": _sin,
    "arctan": np.arctan,
    "sqrt": np.sqrt,
    "rsqrt": rsqrt,
    "reciprocal": np.reciprocal,
}
"""Function by its name in the instruction table; `prelu`, which has a slope, is made by `prelu`."""


def prelu(alpha: float) -> Function:
    """x where x > 0, else alpha * x."""
    slope = np.float32(alpha)

    def function(x: Floats, out: Out = None) -> Floats:
        negative = np.minimum(x, np.float32(0))
        negative *= slope
        result = np.maximum(x, np.float32(0), out=out)
        result += negative
        return result

    return function


TABLE_SETS: dict[str, tuple[str, ...]] = {
    "exponential": ("exp", "log", "softplus", "mish"),
    "logistic": ("sigmoid", "silu", "tanh", "gelu_apprx_tanh"),
    "error": ("gelu", "erf"),
    "root": ("sqrt", "rsqrt", "reciprocal"),
    "circular": ("sin", "arctan"),
}
"""Functions whose tables are loaded together. Functions in no set (copy, square, relu, prelu, sign, abs) are in every
one.
"""

TABLE_SET_OF: dict[str, str] = {function: name for name, members in TABLE_SETS.items() for function in members}
"""Function -> the set that must be loaded for it."""
