"""Recipes for binary operators on floating point and boolean operands: which engine ops compute which `graph.binary`
kind.

Operands are tiles, per-partition columns or numbers. The engines have no division, no remainder and (but for one slow
engine) no power: division multiplies with the reciprocal, remainders subtract an exactly multiplied whole quotient,
powers go through multiplication and roots where the exponent allows, else through exp and log.
"""

from collections.abc import Callable
from math import inf, isinf, isnan, log, nan

import numpy as np

from lowering.graph_to_tile.emitter import Emitter, Operand
from lowering.graph_to_tile.pointwise_unary import rounded
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import BinaryKind

Recipe = Callable[[Emitter, View, Operand, Operand], None]
"""(emitter, dst, a, b)."""

ALU: dict[BinaryKind, str] = {
    BinaryKind.ADD: "add",
    BinaryKind.SUB: "subtract",
    BinaryKind.MUL: "multiply",
    BinaryKind.MAX: "maximum",
    BinaryKind.MIN: "minimum",
    BinaryKind.AND: "logical_and",
    BinaryKind.OR: "logical_or",
    BinaryKind.XOR: "logical_xor",
}
"""Kinds that are one ALU operator."""

LARGEST_MULTIPLIED_POWER = 16
"""Integer exponents up to here are multiplied out: at most six products, each correctly rounded."""

_LARGEST_PARITY = 2.0**24
"""Integers of f32 beyond this are all even."""


def inverse(number: float) -> float:
    """1 / number with the result that f32 arithmetic gives for zeros and infinities."""
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.float64(1.0) / np.float64(number))


def _reciprocal(e: Emitter, b: View, like: View) -> Operand:
    """1 / b as an operand; of a column, only the column is inverted."""
    if b.is_column:
        source = e.column(b)
        result = e.temp(source)
        e.reciprocal(result, source)
        return e.repeated(result, like)
    result = e.temp(like)
    e.reciprocal(result, b)
    return result


def _div(e: Emitter, dst: View, a: Operand, b: Operand) -> None:
    """a * (1 / b)."""
    if isinstance(b, View):
        e.alu(dst, a, _reciprocal(e, b, dst), "multiply")
    else:
        e.alu(dst, a, inverse(b), "multiply")


# Remainders


def _exact_parts(e: Emitter, b: Operand, like: View) -> list[Operand]:
    """b as a sum of three numbers of 8 bits each, whose products with a quotient up to 2^16 are exact in f32."""
    if not isinstance(b, View):
        rest = float(np.float32(b))
        parts: list[Operand] = []
        for _ in range(2):
            part = float((np.array([rest], np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)[0])
            parts.append(part)
            rest -= part
        return [*parts, rest]
    high, middle, low, tail = e.temp(like, "bf16"), e.temp(like, "bf16"), e.temp(like), e.temp(like)
    e.assign(high, b)
    e.alu(tail, b, high, "subtract")
    e.assign(middle, tail)
    e.alu(low, tail, middle, "subtract")
    return [high, middle, low]


def _change_where(
    e: Emitter, value: View, tested: View, comparison: str, bound: Operand, op: str, amount: Operand
) -> None:
    """value = value op amount where `tested comparison bound`."""
    with e.scope():
        change = e.temp(value)
        e.alu(change, tested, bound, comparison)
        e.alu(change, change, amount, "multiply")
        e.alu(value, value, change, op)


def _remainder(e: Emitter, a: Operand, b: Operand, like: View) -> View:
    """|a| - floor(|a| / |b|) * |b|, in [0, |b|); accurate while the quotient is below 2^16."""
    remainder, magnitude, smaller = e.temp(like), e.temp(like), e.temp(like, "i1")
    e.function(magnitude, e.tile(a, like), "abs")
    e.assign(remainder, magnitude)
    divisor: Operand
    inverted: Operand
    if isinstance(b, View):
        divisor, inverted = e.temp(like), e.temp(like)
        e.function(divisor, b, "abs")
        e.reciprocal(inverted, divisor)
    else:
        divisor, inverted = abs(b), inverse(abs(b))
    quotient, whole, product = e.temp(like), e.temp(like), e.temp(like)
    e.alu(quotient, remainder, inverted, "multiply")
    rounded(e, whole, quotient, "greater")
    for part in _exact_parts(e, divisor, like):
        e.alu(product, whole, part, "multiply")
        e.alu(remainder, remainder, product, "subtract")
    # The rounded quotient can be one off in either direction.
    _change_where(e, remainder, remainder, "less", 0.0, "add", divisor)
    _change_where(e, remainder, remainder, "greater_equal", divisor, "subtract", divisor)
    # Nothing is taken from what is smaller than the divisor, which may be infinite.
    e.alu(smaller, magnitude, divisor, "less")
    e.select(remainder, magnitude, smaller)
    return remainder


def _fmod(e: Emitter, dst: View, a: Operand, b: Operand) -> None:
    """The remainder with the sign of a."""
    remainder, sign = _remainder(e, a, b, dst), e.temp(dst)
    e.function(sign, e.tile(a, dst), "sign")
    e.alu(dst, remainder, sign, "multiply")


def _mod(e: Emitter, dst: View, a: Operand, b: Operand) -> None:
    """The remainder with the sign of b: b is added to fmod where the signs differ."""
    signed, product = e.temp(dst), e.temp(dst)
    _fmod(e, signed, a, b)
    e.function(product, e.tile(b, dst), "sign")
    e.alu(product, product, signed, "multiply")
    shifted, differs = e.temp(dst), e.temp(dst, "i1")
    e.alu(shifted, signed, b, "add")
    e.alu(differs, product, 0.0, "less")
    e.select(signed, shifted, differs)
    e.assign(dst, signed)


# Powers


def _integer_power(e: Emitter, dst: View, x: View, exponent: int) -> None:
    """x ** exponent for exponent >= 1 by repeated squaring."""
    result: View | None = None
    square = x
    while True:
        if exponent & 1:
            last = exponent == 1
            if result is None:
                if last:
                    e.assign(dst, square)
                result = square
            else:
                product = dst if last else e.temp(dst)
                e.alu(product, result, square, "multiply")
                result = product
        exponent >>= 1
        if not exponent:
            return
        # The last square is the result itself where no other factor waits for it.
        next_square = dst if exponent == 1 and result is None else e.temp(dst)
        e.function(next_square, square, "square")
        square = next_square
        if next_square is dst:
            return


def _number_power(e: Emitter, dst: View, x: View, exponent: float) -> None:
    """x ** exponent for a number: by multiplication and roots where it can be, else exp(exponent * log(x)).

    A negative base under a fractional exponent gives NaN, as the logarithm does.
    """
    magnitude = abs(exponent)
    inverted = exponent < 0
    target = e.temp(dst) if inverted else dst
    if exponent == 0.0:
        e.assign(dst, 1.0)
        return
    if exponent == -0.5:
        e.function(dst, x, "rsqrt")
        return
    if magnitude == 0.5:
        e.function(target, x, "sqrt")
    elif magnitude == 1.5:
        root = e.temp(dst)
        e.function(root, x, "sqrt")
        e.alu(target, root, x, "multiply")
    elif magnitude.is_integer() and magnitude <= LARGEST_MULTIPLIED_POWER:
        if magnitude == 1.0 and inverted:
            target = x
        else:
            _integer_power(e, target, x, int(magnitude))
    elif isinf(exponent) or isnan(exponent) or magnitude.is_integer():
        _general_power(e, dst, x, e.filled(dst, exponent))
        return
    else:
        logarithm = e.temp(dst)
        e.function(logarithm, x, "log")
        e.function(dst, logarithm, "exp", exponent)
        return
    if inverted:
        e.reciprocal(dst, target)


def _general_power(e: Emitter, dst: View, x: View, y: View) -> None:
    """|x| ** y by exp(y * log|x|), with the sign of x where y is odd.

    1 where y is 0 or x is 1; NaN where x < 0 and y is no integer.
    """
    power = e.temp(dst)
    e.function(power, x, "abs")
    e.function(power, power, "log")
    e.alu(power, power, y, "multiply")
    e.function(power, power, "exp")
    certain = e.temp(dst, "i1")
    e.alu(certain, y, 0.0, "equal")
    e.select(power, 1.0, certain)
    e.alu(certain, x, 1.0, "equal")
    e.select(power, 1.0, certain)
    # Parity of y: clamped, a cast to i32 is exact, and beyond 2^24 every f32 is even.
    bounded = e.temp(dst)
    e.scalar(bounded, y, "minimum", _LARGEST_PARITY, "maximum", -_LARGEST_PARITY)
    whole = e.temp(dst, "i32")
    e.assign(whole, bounded)
    fractional = e.temp(dst)
    e.alu(fractional, whole, bounded, "not_equal")
    e.b.tensor_scalar(whole, whole, "bitwise_and", 1.0)
    negative = e.temp(dst)
    e.scalar(negative, x, "less", 0.0)
    e.alu(fractional, fractional, negative, "multiply")
    e.alu(negative, negative, whole, "multiply")
    e.scalar(negative, negative, "multiply", -2.0, "add", 1.0)
    e.alu(power, power, negative, "multiply")
    undefined = e.temp(dst, "i1")
    e.scalar(undefined, fractional, "not_equal", 0.0)
    e.select(power, nan, undefined)
    e.assign(dst, power)


def _pow(e: Emitter, dst: View, a: Operand, b: Operand) -> None:
    """a ** b."""
    if isinstance(a, View) and not isinstance(b, View):
        _number_power(e, dst, a, b)
    elif isinstance(b, View) and not isinstance(a, View) and 0.0 < a < inf:
        e.function(dst, b, "exp", log(a))
    else:
        _general_power(e, dst, e.tile(a, dst), e.tile(b, dst))


def _prelu(e: Emitter, dst: View, a: Operand, b: Operand) -> None:
    """max(a, 0) + b * min(a, 0)."""
    a = e.tile(a, dst)
    if not isinstance(b, View):
        e.function(dst, a, "prelu", alpha=b)
        return
    slope = e.temp(dst)
    if b.is_column:
        e.scalar(slope, a, "minimum", 0.0, "multiply", b)
    else:
        e.scalar_tensor(slope, a, "minimum", 0.0, "multiply", b)
    e.scalar_tensor(dst, a, "maximum", 0.0, "add", slope)


RECIPES: dict[BinaryKind, Recipe] = {
    BinaryKind.DIV: _div,
    BinaryKind.MOD: _mod,
    BinaryKind.FMOD: _fmod,
    BinaryKind.POW: _pow,
    BinaryKind.PRELU: _prelu,
}
"""Kinds that take more than one ALU operator."""


def emit_binary(e: Emitter, kind: BinaryKind, dst: View, a: Operand, b: Operand) -> None:
    """dst = a kind b for floating point or boolean operands."""
    if kind is BinaryKind.MUL and isinstance(a, View) and a is b:
        # One stream on the scalar engine instead of two on the vector engine.
        e.function(dst, a, "square")
    elif kind in ALU:
        e.alu(dst, a, b, ALU[kind])
    else:
        RECIPES[kind](e, dst, a, b)
