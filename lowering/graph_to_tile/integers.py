"""Exact arithmetic on 32-bit integers: recipes that give the bits that two's complement gives.

Only the pool engine adds and multiplies 32-bit integers exactly (it has no subtraction); the others go through f32,
exact up to 2^24. On a target with that engine the plain ops serve. On one without, numbers are cut into 16- or 11-bit
limbs whose sums and products f32 holds exactly; bitwise ops and shifts are exact everywhere. Comparisons and what is
built on them always take the limbs: the vector engine may execute them. Narrower integers are widened to i32 before and
wrapped to their width afterwards.
"""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeGuard

import numpy as np

from lowering.graph_to_tile.emitter import Emitter, Operand
from lowering.graph_to_tile.view import View
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import BinaryKind, UnaryKind

INTEGER_DTYPES = ("i32", "i16", "i8", "ui16", "ui8")
"""Integers that a core computes with."""

NARROW_DTYPES = INTEGER_DTYPES[1:]
"""Those whose every value f32 holds exactly."""

LIMB_BITS = 11
"""Bits of a multiplication's limb: two limbs multiply to 22 bits, and four such products add up exactly in f32."""

BITWISE = {
    BinaryKind.BIT_AND: "bitwise_and",
    BinaryKind.BIT_OR: "bitwise_or",
    BinaryKind.BIT_XOR: "bitwise_xor",
}
"""Kinds that are one ALU operator on the bits of integers of any width."""

_LIMBS = 3
_HALF = 0xFFFF


def wrapped(value: int) -> int:
    """The 32-bit two's complement number with the low bits of `value`."""
    return (value + 2**31) % 2**32 - 2**31


def is_immediate(operand: Operand) -> TypeGuard[float]:
    """Whether an operand is a number that an instruction, which holds it as f32, can hold."""
    return not isinstance(operand, View) and float(np.float32(operand)) == operand


P = ParamSpec("P")


def scoped(method: "Callable[Concatenate[Integers, P], None]") -> "Callable[Concatenate[Integers, P], None]":
    """A recipe that leaves nothing but its destination: its temporaries are free when it ends."""

    @wraps(method)
    def recipe(self: "Integers", /, *args: P.args, **kwargs: P.kwargs) -> None:
        with self.e.scope():
            method(self, *args, **kwargs)

    return recipe


class Integers:
    """Recipes on i32 views of one shape; numbers are Python floats that hold integers."""

    def __init__(self, e: Emitter):
        self.e = e

    # -- parts
    # ------------------------------------------------------------------------------------------------------------

    def bits(self, dst: View, src: View, op0: str, scalar0: int, op1: str = "bypass", scalar1: int = 0) -> None:
        """dst = bitwise ops with immediates, which f32 must hold exactly."""
        self.e.b.tensor_scalar(dst, src, op0, float(scalar0), op1, float(scalar1))

    def number(self, value: float, like: View) -> View:
        """An integer as a repeated i32 view; what f32 does not hold is put together from two halves."""
        integer = wrapped(int(value))
        if int(np.float32(integer)) == integer:
            return self.e.filled(like, float(integer), "i32")
        repeated = self.e.filled(like, float((integer >> 16) & _HALF), "i32")
        column = repeated.column
        self.bits(column, column, "left_shift", 16)
        self.bits(column, column, "bitwise_or", integer & _HALF)
        return repeated

    def tile(self, operand: Operand, like: View) -> View:
        """An operand as an i32 view in SBUF."""
        if not isinstance(operand, View):
            return self.number(operand, like)
        return self.e.converted(operand, "i32")

    def part(self, operand: Operand, shift: int, mask: int, like: View) -> Operand:
        """(operand >> shift) & mask, not negative."""
        if not isinstance(operand, View):
            return float((wrapped(int(operand)) >> shift) & mask)
        result = self.e.temp(like, "i32")
        if shift:
            self.bits(result, operand, "right_shift", shift, "bitwise_and", mask)
        else:
            self.bits(result, operand, "bitwise_and", mask)
        return result

    def halves(self, operand: Operand, like: View) -> tuple[Operand, Operand]:
        """(low, high) 16 bits, both not negative."""
        return self.part(operand, 0, _HALF, like), self.part(operand, 16, _HALF, like)

    @scoped
    def join(self, dst: View, low: View, high: View) -> None:
        """dst = low + high * 2^16 modulo 2^32, for 0 <= low < 2^24 and |high| < 2^23; overwrites both."""
        carry = self.e.temp(dst, "i32")
        self.bits(carry, low, "right_shift", 16)
        self.e.tensors(high, high, carry, "add")
        self.bits(high, high, "left_shift", 16)
        self.bits(low, low, "bitwise_and", _HALF)
        self.e.tensors(dst, high, low, "bitwise_or")

    # -- arithmetic
    # -------------------------------------------------------------------------------------------------------

    @scoped
    def add(self, dst: View, a: Operand, b: Operand) -> None:
        """dst = a + b."""
        if self._plain(dst, a, b, "add"):
            return
        (a_low, a_high), (b_low, b_high) = self.halves(a, dst), self.halves(b, dst)
        low, high = self.e.temp(dst, "i32"), self.e.temp(dst, "i32")
        self.e.alu(low, a_low, b_low, "add")
        self.e.alu(high, a_high, b_high, "add")
        self.join(dst, low, high)

    @scoped
    def subtract(self, dst: View, a: Operand, b: Operand) -> None:
        """dst = a - b."""
        if self._plain_difference(dst, a, b):
            return
        (a_low, a_high), (b_low, b_high) = self.halves(a, dst), self.halves(b, dst)
        low, high = self.e.temp(dst, "i32"), self.e.temp(dst, "i32")
        self.e.alu(low, a_low, b_low, "subtract")
        self.e.alu(high, a_high, b_high, "subtract")
        # One is borrowed from the high half, so that the low one is not negative.
        self.e.scalar(low, low, "add", float(_HALF + 1))
        self.e.scalar(high, high, "add", -1.0)
        self.join(dst, low, high)

    @scoped
    def multiply(self, dst: View, a: Operand, b: Operand) -> None:
        """dst = a * b, modulo 2^32."""
        if self._plain(dst, a, b, "multiply"):
            return
        mask = (1 << LIMB_BITS) - 1
        a_limbs, b_limbs = ([self.part(x, LIMB_BITS * i, mask, dst) for i in range(_LIMBS)] for x in (a, b))
        columns: list[View] = []
        for weight in range(_LIMBS):
            total = self.e.temp(dst, "i32")
            self.e.alu(total, a_limbs[0], b_limbs[weight], "multiply")
            for i in range(1, weight + 1):
                product = self.e.temp(dst, "i32")
                self.e.alu(product, a_limbs[i], b_limbs[weight - i], "multiply")
                self.e.tensors(total, total, product, "add")
            columns.append(total)
        self.weighted_sum(dst, columns)

    @scoped
    def weighted_sum(self, dst: View, limbs: list[View]) -> None:
        """dst = limbs[0] + limbs[1] * 2^11 + limbs[2] * 2^22 modulo 2^32, for limbs below 2^24; overwrites them."""
        for i, limb in enumerate(limbs):
            if i:
                self.bits(limb, limb, "left_shift", LIMB_BITS * i)
        self.add(limbs[0], limbs[0], limbs[1])
        self.add(dst, limbs[0], limbs[2])

    def _plain(self, dst: View, a: Operand, b: Operand, op: str) -> bool:
        """Emit one op, add or multiply, where an engine has them on integers; whether it did."""
        if not self.e.exact_integers:
            return False
        if not isinstance(a, View):
            a, b = b, a
        if isinstance(a, View) and is_immediate(b):
            self.e.b.tensor_scalar(dst, a, op, float(b))
        else:
            self.e.tensors(dst, self.tile(a, dst), self.tile(b, dst), op)
        return True

    def _plain_difference(self, dst: View, a: Operand, b: Operand) -> bool:
        """Emit a - b as -1 * b + a where an engine has exact integers (but no subtraction); whether it did."""
        if not self.e.exact_integers:
            return False
        if not isinstance(b, View):
            self.add(dst, a, float(wrapped(-int(b))))
        elif is_immediate(a):
            self.e.b.tensor_scalar(dst, b, "multiply", -1.0, "add", float(a))
        else:
            negated = self.e.temp(dst, "i32")
            self.e.b.tensor_scalar(negated, b, "multiply", -1.0)
            self.add(dst, a, negated)
        return True

    def negative(self, x: View) -> View:
        """1 where x < 0, else 0, as i32."""
        result = self.e.temp(x, "i32")
        self.bits(result, x, "right_shift", 31)
        return result

    # -- order
    # ------------------------------------------------------------------------------------------------------------

    def order(self, a: Operand, b: Operand, like: View) -> View:
        """An f32 view with the sign of a - b, which need not fit 32 bits.

        The difference of the high halves counts 2^16 times that of the low ones; f32 may round the sum, but never to
        another sign, because the low difference is smaller than one high step.
        """
        (a_low, a_high), (b_low, b_high) = self.halves(a, like), self.halves(b, like)
        low, high = self.e.temp(like), self.e.temp(like)
        self.e.alu(low, a_low, b_low, "subtract")
        self.e.alu(high, self._biased(a_high), self._biased(b_high), "subtract")
        self.e.scalar_tensor(high, high, "multiply", 65536.0, "add", low)
        return high

    def _biased(self, high: Operand) -> Operand:
        """A high half with its sign bit flipped, so that unsigned order is signed order."""
        if isinstance(high, View):
            self.bits(high, high, "bitwise_xor", 0x8000)
            return high
        return float(int(high) ^ 0x8000)

    @scoped
    def compare(self, dst: View, a: Operand, b: Operand, comparison: str) -> None:
        """dst = a comparison b, as 1 or 0."""
        if comparison in ("equal", "not_equal") and isinstance(a, View) and isinstance(b, View):
            difference = self.e.temp(dst, "i32")
            self.e.tensors(difference, a, b, "bitwise_xor")
        else:
            difference = self.order(a, b, dst)
        self.e.scalar(dst, difference, comparison, 0.0)

    @scoped
    def extreme(self, dst: View, a: Operand, b: Operand, comparison: str) -> None:
        """dst = a where `a comparison b`, else b."""
        chosen = self.e.temp(dst, "i1")
        self.e.scalar(chosen, self.order(a, b, dst), comparison, 0.0)
        result = self.e.temp(dst, "i32")
        self.e.assign(result, self.tile(b, dst))
        self.e.select(result, self.tile(a, dst), chosen)
        self.e.assign(dst, result)

    # -- division and powers
    # ----------------------------------------------------------------------------------------------

    def _nearest_division(self, a: Operand, b: Operand, like: View) -> tuple[View, View, View]:
        """(quotient rounded to some neighbour, remainder with |remainder| < |b|, b as a tile).

        An f32 estimate of the quotient is off by at most 2^-22 of it, so the remainder that it leaves fits 32 bits and
        gives the rest of the quotient to within one unit.
        """
        e = self.e
        dividend, divisor, inverted = self.tile(a, like), self.tile(b, like), e.temp(like)
        quotient, remainder = e.temp(like, "i32"), e.temp(like, "i32")
        step, product = e.temp(like, "i32"), e.temp(like, "i32")
        e.reciprocal(inverted, divisor)
        e.alu(quotient, dividend, inverted, "multiply")
        self.multiply(product, quotient, divisor)
        self.subtract(remainder, dividend, product)
        e.alu(step, remainder, inverted, "multiply")
        self.add(quotient, quotient, step)
        self.multiply(product, step, divisor)
        self.subtract(remainder, remainder, product)
        return quotient, remainder, divisor

    def _opposite(self, remainder: View, other: View) -> View:
        """1 where the remainder is not zero and its sign differs from that of `other`, else 0."""
        differs, nonzero = self.e.temp(remainder, "i32"), self.e.temp(remainder, "i32")
        self.e.tensors(differs, self.negative(remainder), self.negative(other), "bitwise_xor")
        self.e.scalar(nonzero, remainder, "not_equal", 0.0)
        self.e.tensors(differs, differs, nonzero, "bitwise_and")
        return differs

    def divide(self, a: Operand, b: Operand, like: View) -> tuple[View, View]:
        """(quotient towards zero, remainder with the sign of a)."""
        e = self.e
        quotient, remainder, divisor = self._nearest_division(a, b, like)
        wrong, step = self._opposite(remainder, self.tile(a, like)), e.temp(like, "i32")
        # The quotient moves by one towards the remainder's zero: up where remainder and b agree in sign, else down.
        e.scalar(step, self._opposite(remainder, divisor), "multiply", -2.0, "add", 1.0)
        e.tensors(step, step, wrong, "multiply")
        self.add(quotient, quotient, step)
        self.multiply(step, step, divisor)
        self.subtract(remainder, remainder, step)
        return quotient, remainder

    @scoped
    def modulo(self, dst: View, a: Operand, b: Operand) -> None:
        """dst = the remainder with the sign of b."""
        _, remainder, divisor = self._nearest_division(a, b, dst)
        correction = self._opposite(remainder, divisor)
        self.multiply(correction, correction, divisor)
        self.add(dst, remainder, correction)

    @scoped
    def power(self, dst: View, a: Operand, b: Operand) -> None:
        """dst = a ** b modulo 2^32; for b < 0 rounded towards zero: 0, 1 or -1."""
        e = self.e
        base, result = e.temp(dst, "i32"), e.temp(dst, "i32")
        e.assign(base, self.tile(a, dst))
        e.assign(result, 1.0)
        if not isinstance(b, View) and 0.0 <= b:
            bits = int(b)
            while bits:
                if bits & 1:
                    self.multiply(result, result, base)
                bits >>= 1
                if bits:
                    self.multiply(base, base, base)
        else:
            self._tile_power(result, base, self.tile(b, dst))
        e.assign(dst, result)

    def _tile_power(self, result: View, base: View, b: View) -> None:
        """result *= base ** b by 32 squarings; overwrites base."""
        e = self.e
        exponent = e.temp(result, "i32")
        e.assign(exponent, b)
        self._zero_fractions(base, b)
        with e.b.loop(32):
            odd, factor = e.temp(result, "i32"), e.temp(result, "i32")
            self.bits(odd, exponent, "bitwise_and", 1)
            # The factor is the base where the exponent is odd, else 1: (base - 1) * odd + 1.
            self.subtract(factor, base, 1.0)
            self.multiply(factor, factor, odd)
            self.add(factor, factor, 1.0)
            self.multiply(result, result, factor)
            self.multiply(base, base, base)
            self.bits(exponent, exponent, "right_shift", 1)

    @scoped
    def _zero_fractions(self, base: View, exponent: View) -> None:
        """base = 0 where base ** exponent is a fraction: a negative exponent on a base other than -1 and 1."""
        e = self.e
        unit, fraction = e.temp(base), e.temp(base, "i1")
        e.scalar(unit, base, "equal", 1.0)
        e.scalar_tensor(unit, base, "equal", -1.0, "add", unit)
        e.scalar(unit, unit, "equal", 0.0)
        e.alu(fraction, unit, self.negative(exponent), "logical_and")
        e.select(base, 0.0, fraction)

    # -- shifts
    # -----------------------------------------------------------------------------------------------------------

    def _beyond(self, count: View, bits: int) -> View:
        """1 where a count is not in [0, bits), else 0; `bits` is a power of two."""
        flag = self.e.temp(count, "i32")
        self.bits(flag, count, "bitwise_and", -bits)
        self.e.scalar(flag, flag, "not_equal", 0.0)
        return flag

    @scoped
    def shift_left(self, dst: View, x: View, count: View, bits: int) -> None:
        """dst = x << count, 0 where the count is not in [0, bits)."""
        kept, near = self._beyond(count, bits), self.e.temp(dst, "i32")
        self.e.scalar(kept, kept, "add", -1.0)
        self.bits(near, count, "bitwise_and", 31)
        self.e.tensors(near, x, near, "left_shift")
        self.e.tensors(dst, near, kept, "bitwise_and")

    @scoped
    def shift_right(self, dst: View, x: View, count: View) -> None:
        """dst = x >> count with the sign of x, which is all that is left where the count is not in [0, 32)."""
        far, near, sign = self._beyond(count, 32), self.e.temp(dst, "i32"), self.e.temp(dst, "i32")
        # The complement of a negative number is shifted like a positive one, and complemented again.
        self.e.scalar(sign, self.negative(x), "multiply", -1.0)
        self.e.scalar(far, far, "multiply", 31.0)
        self.bits(near, count, "bitwise_and", 31)
        self.e.tensors(near, near, far, "bitwise_or")
        self.e.tensors(far, x, sign, "bitwise_xor")
        self.e.tensors(near, far, near, "right_shift")
        self.e.tensors(dst, near, sign, "bitwise_xor")

    # -- operators
    # --------------------------------------------------------------------------------------------------------

    @scoped
    def narrow(self, dst: View, src: View) -> None:
        """dst = src wrapped to dst's width."""
        bits = 8 * dtype_by_name(dst.dtype).size_bytes
        if dst.dtype == "i32":
            self.e.assign(dst, src)
        elif not dtype_by_name(dst.dtype).is_signed:
            self.bits(dst, src, "bitwise_and", (1 << bits) - 1)
        else:
            # Flipping the sign bit and taking its weight off again extends the sign.
            low, sign = self.e.temp(dst, "i32"), 1 << (bits - 1)
            self.bits(low, src, "bitwise_and", (1 << bits) - 1, "bitwise_xor", sign)
            self.e.scalar(dst, low, "add", float(-sign))

    @scoped
    def unary(self, kind: UnaryKind, dst: View, x: View) -> None:
        """dst = kind(x) for i32 views."""
        e = self.e
        negative = self.negative(x)
        match kind:
            case UnaryKind.NEG:
                self.subtract(dst, 0.0, x)
            case UnaryKind.SQUARE:
                self.multiply(dst, x, x)
            case UnaryKind.ABS:
                # (x ^ m) + flag is -x where m is all ones, that is, where the flag is set.
                mask = e.temp(dst, "i32")
                e.scalar(mask, negative, "multiply", -1.0)
                e.tensors(mask, x, mask, "bitwise_xor")
                self.add(dst, mask, negative)
            case UnaryKind.RELU:
                mask = e.temp(dst, "i32")
                e.scalar(mask, negative, "add", -1.0)
                e.tensors(dst, x, mask, "bitwise_and")
            case _:
                assert kind is UnaryKind.SIGN
                nonzero = e.temp(dst, "i32")
                e.scalar(nonzero, x, "not_equal", 0.0)
                e.scalar_tensor(dst, negative, "multiply", -2.0, "add", nonzero)

    @scoped
    def binary(self, kind: BinaryKind, dst: View, a: Operand, b: Operand, bits: int = 32) -> None:
        """dst = a kind b for i32 views and numbers, which hold integers of a type of so many bits."""
        e = self.e
        match kind:
            case BinaryKind.ADD:
                self.add(dst, a, b)
            case BinaryKind.SUB:
                self.subtract(dst, a, b)
            case BinaryKind.MUL:
                self.multiply(dst, a, b)
            case BinaryKind.MAX | BinaryKind.MIN:
                self.extreme(dst, a, b, "greater" if kind is BinaryKind.MAX else "less")
            case BinaryKind.DIV | BinaryKind.FMOD:
                e.assign(dst, self.divide(a, b, dst)[kind is BinaryKind.FMOD])
            case BinaryKind.MOD:
                self.modulo(dst, a, b)
            case BinaryKind.POW:
                self.power(dst, a, b)
            case BinaryKind.BIT_AND | BinaryKind.BIT_OR | BinaryKind.BIT_XOR:
                e.tensors(dst, self.tile(a, dst), self.tile(b, dst), BITWISE[kind])
            case BinaryKind.SHIFT_LEFT:
                self.shift_left(dst, self.tile(a, dst), self.tile(b, dst), bits)
            case BinaryKind.SHIFT_RIGHT:
                self.shift_right(dst, self.tile(a, dst), self.tile(b, dst))
            case _:
                assert kind is BinaryKind.PRELU
                tile, product, below = self.tile(a, dst), e.temp(dst, "i32"), e.temp(dst, "i1")
                self.multiply(product, tile, b)
                e.assign(below, self.negative(tile))
                e.assign(dst, tile)
                e.select(dst, product, below)
