"""Reading numbers and products out of graph-level programs, for passes that recognise formulas.

A formula can be written in many orders. These helpers see through the order of factors, and compare the constants of a
formula with what they should be, as far as the model's element type can hold them.
"""

from __future__ import annotations

from math import isclose

from xdsl.ir import SSAValue

from neuron_dialects.dtypes import BF16, F16, DType
from neuron_dialects.graph import BinaryKind, BinaryOp, ConstantOp, UnaryKind, UnaryOp, shape_of, spec_of
from neuron_dialects.graph.shapes import element_count

_PRECISION: dict[DType, float] = {BF16: 2.0**-7, F16: 2.0**-10}
"""Relative error with which a model holds a constant of its formulas; 1e-5 in wider types."""


def number_of(value: SSAValue) -> float | None:
    """The number of a constant that is one number everywhere; None for anything else."""
    owner = value.owner
    if not isinstance(owner, ConstantOp) or element_count(shape_of(value)) == 0:
        return None
    if not owner.is_splat and element_count(shape_of(value)) > 1:
        return None
    return float(owner.array().flat[0])


def is_number(value: SSAValue, number: float) -> bool:
    """Whether a value is the constant `number`, as precisely as its type holds it."""
    found = number_of(value)
    return found is not None and isclose(found, number, rel_tol=_PRECISION.get(spec_of(value)[0], 1e-5))


def binary_of(value: SSAValue, *kinds: BinaryKind) -> BinaryOp | None:
    """The binary operator of one of `kinds` that makes `value`."""
    owner = value.owner
    return owner if isinstance(owner, BinaryOp) and owner.kind.data in kinds else None


def unary_of(value: SSAValue, *kinds: UnaryKind) -> UnaryOp | None:
    """The unary operator of one of `kinds` that makes `value`."""
    owner = value.owner
    return owner if isinstance(owner, UnaryOp) and owner.kind.data in kinds else None


def factors_of(value: SSAValue, depth: int = 4) -> tuple[float, list[SSAValue]]:
    """`value` as a number times other values: the product and quotient operators above it, at most `depth` deep.

    Quotients count when they divide by a number.
    """
    number = number_of(value)
    if number is not None:
        return number, []
    product = binary_of(value, BinaryKind.MUL)
    quotient = binary_of(value, BinaryKind.DIV)
    if depth and product is not None:
        left, lefts = factors_of(product.a, depth - 1)
        right, rights = factors_of(product.b, depth - 1)
        return left * right, [*lefts, *rights]
    if depth and quotient is not None:
        divisor = number_of(quotient.b)
        if divisor:
            left, lefts = factors_of(quotient.a, depth - 1)
            return left / divisor, lefts
    return 1.0, [value]


def plus_number(value: SSAValue, number: float) -> SSAValue | None:
    """x, where `value` is x + number or number + x."""
    total = binary_of(value, BinaryKind.ADD)
    if total is None:
        return None
    if is_number(total.b, number):
        return total.a
    return total.b if is_number(total.a, number) else None


def precision_of(value: SSAValue) -> float:
    """Relative error with which constants beside `value` are held."""
    return 4 * _PRECISION.get(spec_of(value)[0], 1e-5)
