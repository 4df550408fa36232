"""Functions that numpy lacks, to full precision of float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.graph_interpreter.numerics import Array

# W. J. Cody, "Rational Chebyshev approximation for the error function", Math. Comp. 23 (1969): numerators and
# denominators, highest power first.
_SMALL = 0.46875
_LARGE = 4.0
_ONE_ABOVE = 6.0
"""From here on erf is 1 in float64."""
_SMALL_P = (1.85777706184603153e-1, 3.16112374387056560, 1.13864154151050156e2, 3.77485237685302021e2,
            3.20937758913846947e3)  # fmt: skip
_SMALL_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_MIDDLE_P = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
             2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
             1.23033935479799725e3)  # fmt: skip
_MIDDLE_Q = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
             3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
_TAIL_P = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
           1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_TAIL_Q = (1.0, 2.56852019228982242, 1.87295284992346725, 5.27905102951428412e-1, 6.05183413124413191e-2,
           2.33520497626869185e-3)  # fmt: skip


def erf(x: Array) -> Array:
    """The error function of every element of a float array, in its dtype."""
    values = x.astype(np.float64).reshape(-1)
    size = np.abs(values)
    result = np.sign(values)  # also keeps NaN
    small = size <= _SMALL
    result[small] = _near_zero(values[small])
    middle = (size > _SMALL) & (size <= _LARGE)
    result[middle] *= 1 - _complement(size[middle])
    tail = (size > _LARGE) & (size < _ONE_ABOVE)
    result[tail] *= 1 - _tail_complement(size[tail])
    return result.reshape(x.shape).astype(x.dtype)


def _near_zero(x: Array) -> Array:
    square = x * x
    return x * _ratio(_SMALL_P, _SMALL_Q, square)


def _complement(x: Array) -> Array:
    return np.exp(-x * x) * _ratio(_MIDDLE_P, _MIDDLE_Q, x)


def _tail_complement(x: Array) -> Array:
    inverse = 1 / (x * x)
    return np.exp(-x * x) / x * (1 / np.sqrt(np.pi) - inverse * _ratio(_TAIL_P, _TAIL_Q, inverse))


def _ratio(numerator: Sequence[float], denominator: Sequence[float], x: Array) -> Array:
    """The quotient of two polynomials at x."""
    return _polynomial(numerator, x) / _polynomial(denominator, x)


def _polynomial(coefficients: Sequence[float], x: Array) -> Array:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += coefficient
    return value
