"""The elementwise graph operators but `graph.unary` in ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lowering.nisa_to_neff.host_model.arithmetic import Arithmetic
from lowering.nisa_to_neff.host_model.unary import leaky_relu
from lowering.nisa_to_neff.host_model.writer import ModelWriter, held_dtype, is_narrow
from neuron_dialects.dtypes import F32, I1, I64, dtype_by_name
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    ConstantOp,
    SelectOp,
    Value,
    spec_of,
)

UI64 = dtype_by_name("ui64")


def clip(writer: ModelWriter, op: ClipOp, names: Sequence[str]) -> str:
    """`graph.clip`."""
    math = Arithmetic(writer, held_dtype(spec_of(op.x)[0]))
    bounds = ["" if attr is None else math.within(attr.value.data) for attr in (op.minimum, op.maximum)]
    return math("Clip", names[0], *bounds) if bounds != ["", ""] else names[0]


# Binary

_BINARY: dict[BinaryKind, str] = {
    BinaryKind.ADD: "Add",
    BinaryKind.SUB: "Sub",
    BinaryKind.MUL: "Mul",
    BinaryKind.DIV: "Div",
    BinaryKind.POW: "Pow",
    BinaryKind.MAX: "Max",
    BinaryKind.MIN: "Min",
    BinaryKind.AND: "And",
    BinaryKind.OR: "Or",
    BinaryKind.XOR: "Xor",
    BinaryKind.BIT_AND: "BitwiseAnd",
    BinaryKind.BIT_OR: "BitwiseOr",
    BinaryKind.BIT_XOR: "BitwiseXor",
}


def binary(writer: ModelWriter, op: BinaryOp, names: Sequence[str]) -> str:
    """`graph.binary`."""
    kind, (a, b) = op.kind.data, names
    math = Arithmetic(writer, held_dtype(spec_of(op.a)[0]))
    if kind is BinaryKind.PRELU:
        return leaky_relu(math, a, b)
    if kind is BinaryKind.MOD and math.dtype.is_float:
        return _floored_remainder(math, a, b)
    if math.dtype.is_integer and kind in (BinaryKind.DIV, BinaryKind.MOD, BinaryKind.FMOD):
        return _integer_division(math, kind, a, b, may_fail=not _is_safe_divisor(op.b))
    if kind in (BinaryKind.SHIFT_LEFT, BinaryKind.SHIFT_RIGHT):
        return _shift(math, a, b, left=kind is BinaryKind.SHIFT_LEFT)
    if kind is BinaryKind.FMOD:
        return math("Mod", a, b, fmod=1)
    return math(_BINARY[kind], a, b)


def _floored_remainder(math: Arithmetic, a: str, b: str) -> str:
    """The remainder with the sign of b; ONNX has only that with the sign of a for floats."""
    remainder = math("Mod", a, b, fmod=1)
    signs_differ = math("Less", math("Mul", math("Sign", remainder), math("Sign", b)), 0)
    return math("Where", signs_differ, math("Add", remainder, b), remainder, untyped=(0,))


def _integer_division(math: Arithmetic, kind: BinaryKind, a: str, b: str, *, may_fail: bool) -> str:
    """Quotient towards zero or remainder; 0 for a division by zero.

    onnxruntime refuses a division by 0, and the machine traps on the most negative number divided by -1. Both divisors
    are replaced by 1: the remainder of that is 0, and the quotient is a * b, which is 0 and -a.
    """
    divisor = b
    special = ""
    if may_fail:
        special = math("Equal", b, 0)
        if math.dtype.is_signed:
            special = math.writer.node("Or", special, math("Equal", b, -1))
        divisor = math("Where", special, 1, b, untyped=(0,))
    if kind is not BinaryKind.DIV:
        return math("Mod", a, divisor, fmod=int(kind is BinaryKind.FMOD))
    quotient = math("Div", a, divisor)
    return math("Where", special, math("Mul", a, b), quotient, untyped=(0,)) if may_fail else quotient


def _shift(math: Arithmetic, a: str, count: str, *, left: bool) -> str:
    """A shift with the sign of a, in 64 bits without a sign: the type that onnxruntime shifts."""
    writer, bits = math.writer, 8 * math.dtype.size_bytes
    wide, unsigned = Arithmetic(writer, I64), Arithmetic(writer, UI64)
    x, distance = writer.cast(a, I64), writer.cast(count, I64)
    beyond = writer.node("Or", wide("Less", distance, 0), wide("GreaterOrEqual", distance, bits))
    if math.dtype is UI64:
        beyond = unsigned("GreaterOrEqual", count, bits)
    near = writer.cast(wide("Where", beyond, 0, distance, untyped=(0,)), UI64)
    if left:
        moved = unsigned("BitShift", writer.cast(x, UI64), near, direction="LEFT")
        return _low_bits(math, wide("Where", beyond, 0, writer.cast(moved, I64), untyped=(0,)))
    if not math.dtype.is_signed:
        moved = writer.cast(unsigned("BitShift", writer.cast(x, UI64), near, direction="RIGHT"), I64)
        return _low_bits(math, wide("Where", beyond, 0, moved, untyped=(0,)))
    # The complement -1 - x of a negative number is shifted like a positive one, and complemented again.
    negative = wide("Less", x, 0)
    positive = writer.cast(wide("Where", negative, wide("Sub", -1, x), x, untyped=(0,)), UI64)
    moved = writer.cast(unsigned("BitShift", positive, near, direction="RIGHT"), I64)
    moved = wide("Where", beyond, 0, moved, untyped=(0,))
    return _low_bits(math, wide("Where", negative, wide("Sub", -1, moved), moved, untyped=(0,)))


def _low_bits(math: Arithmetic, value: str) -> str:
    """A 64-bit integer in the type of `math`, its low bits."""
    return value if math.dtype is I64 else math.writer.cast(value, math.dtype)


def _is_safe_divisor(value: Value) -> bool:
    """Whether a divisor is known to be neither 0 nor -1."""
    owner = getattr(value, "owner", None)
    return isinstance(owner, ConstantOp) and not np.isin(owner.array().astype(np.int64), (0, -1)).any()


_COMPARE: dict[CompareKind, str] = {
    CompareKind.EQ: "Equal",
    CompareKind.LT: "Less",
    CompareKind.LE: "LessOrEqual",
    CompareKind.GT: "Greater",
    CompareKind.GE: "GreaterOrEqual",
}


def compare(writer: ModelWriter, op: CompareOp, names: Sequence[str]) -> str:
    """`graph.compare`."""
    kind = op.kind.data
    if kind is CompareKind.NE:
        return writer.node("Not", writer.node("Equal", *names))
    return writer.node(_COMPARE[kind], *names)


def select(writer: ModelWriter, op: SelectOp, names: Sequence[str]) -> str:
    """`graph.select`."""
    dtype = held_dtype(spec_of(op.a)[0])
    if dtype is not I1:
        return Arithmetic(writer, dtype)("Where", *names, untyped=(0,))
    condition, a, b = names
    # There is no kernel for truth values: (condition and a) or (not condition and b).
    return writer.node("Or", writer.node("And", condition, a), writer.node("And", writer.node("Not", condition), b))


def cast(writer: ModelWriter, op: CastOp, names: Sequence[str]) -> str:
    """`graph.cast`; the result is rounded to its own type already."""
    (x,) = names
    source, target = spec_of(op.x)[0], spec_of(op.result)[0]
    held = held_dtype(source)
    if source is target:
        return x
    if not is_narrow(target):
        return x if held is target else writer.cast(x, target)
    # One rounding from floats; integers that f32 cannot hold are rounded to f32 first.
    value = writer.cast(x, F32) if not source.is_float else x
    return writer.rounded(value, target)
