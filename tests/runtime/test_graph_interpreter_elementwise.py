"""Elementwise operators of the graph level against onnxruntime."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from neuron_dialects.dtypes import BF16, F16, F32, F64, I1, I8, I32, I64, TF32, UI8, DType, dtype_by_name
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
)
from runtime.graph_interpreter.special import erf
from tests.graph_level import Array, assert_close, interpret, random_array, run_node

# Kind -> ONNX operator, its attributes, and the parameters of ours.
UNARY: dict[UnaryKind, tuple[str, dict[str, Any], dict[str, float]]] = {
    UnaryKind.ABS: ("Abs", {}, {}),
    UnaryKind.NEG: ("Neg", {}, {}),
    UnaryKind.EXP: ("Exp", {}, {}),
    UnaryKind.LOG: ("Log", {}, {}),
    UnaryKind.SQRT: ("Sqrt", {}, {}),
    UnaryKind.RECIPROCAL: ("Reciprocal", {}, {}),
    UnaryKind.SIGMOID: ("Sigmoid", {}, {}),
    UnaryKind.TANH: ("Tanh", {}, {}),
    UnaryKind.RELU: ("Relu", {}, {}),
    UnaryKind.ERF: ("Erf", {}, {}),
    UnaryKind.GELU: ("Gelu", {}, {}),
    UnaryKind.GELU_TANH: ("Gelu", {"approximate": "tanh"}, {}),
    UnaryKind.SOFTPLUS: ("Softplus", {}, {}),
    UnaryKind.SOFTSIGN: ("Softsign", {}, {}),
    UnaryKind.MISH: ("Mish", {}, {}),
    UnaryKind.HARD_SWISH: ("HardSwish", {}, {}),
    UnaryKind.SIN: ("Sin", {}, {}),
    UnaryKind.COS: ("Cos", {}, {}),
    UnaryKind.ATAN: ("Atan", {}, {}),
    UnaryKind.SIGN: ("Sign", {}, {}),
    UnaryKind.FLOOR: ("Floor", {}, {}),
    UnaryKind.CEIL: ("Ceil", {}, {}),
    UnaryKind.ROUND: ("Round", {}, {}),
    UnaryKind.IS_NAN: ("IsNaN", {}, {}),
    UnaryKind.ELU: ("Elu", {"alpha": 0.7}, {"alpha": 0.7}),
    UnaryKind.CELU: ("Celu", {"alpha": 0.7}, {"alpha": 0.7}),
    UnaryKind.LEAKY_RELU: ("LeakyRelu", {"alpha": 0.1}, {"alpha": 0.1}),
    UnaryKind.THRESHOLDED_RELU: ("ThresholdedRelu", {"alpha": 0.4}, {"alpha": 0.4}),
    UnaryKind.SELU: ("Selu", {"alpha": 1.6, "gamma": 1.1}, {"alpha": 1.6, "beta": 1.1}),
    UnaryKind.HARD_SIGMOID: ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, {"alpha": 0.3, "beta": 0.4}),
}

# Kinds that ONNX writes as several operators: what they mean, in float64.
COMPOSED = {
    UnaryKind.RSQRT: lambda x: 1 / np.sqrt(x),
    UnaryKind.SQUARE: lambda x: x * x,
    UnaryKind.SILU: lambda x: x / (1 + np.exp(-x)),
}

BINARY = {
    BinaryKind.ADD: "Add",
    BinaryKind.SUB: "Sub",
    BinaryKind.MUL: "Mul",
    BinaryKind.DIV: "Div",
    BinaryKind.POW: "Pow",
    BinaryKind.MAX: "Max",
    BinaryKind.MIN: "Min",
    BinaryKind.PRELU: "PRelu",
}
BITWISE = {BinaryKind.BIT_AND: "BitwiseAnd", BinaryKind.BIT_OR: "BitwiseOr", BinaryKind.BIT_XOR: "BitwiseXor"}
SHIFTS = (BinaryKind.SHIFT_LEFT, BinaryKind.SHIFT_RIGHT)
LOGICAL = {BinaryKind.AND: "And", BinaryKind.OR: "Or", BinaryKind.XOR: "Xor"}
COMPARE = {
    CompareKind.EQ: "Equal",
    CompareKind.LT: "Less",
    CompareKind.LE: "LessOrEqual",
    CompareKind.GT: "Greater",
    CompareKind.GE: "GreaterOrEqual",
}
NOT_ON_HALF = (UnaryKind.CELU, UnaryKind.THRESHOLDED_RELU, UnaryKind.SELU)
"""Operators whose ONNX version has no 16-bit floats, or onnxruntime no kernel for them."""
POSITIVE = (UnaryKind.LOG, UnaryKind.SQRT, UnaryKind.RSQRT)


def values_for(kind: UnaryKind, dtype: DType) -> Array:
    """Both signs, halves (that round decides on), zero, and large ones; for some kinds their magnitudes only."""
    drawn = np.random.default_rng(3).standard_normal(40) * 3
    values = np.concatenate([drawn, [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 8.0, -8.0]]).reshape(6, 8)
    values[values == 0] += kind in (UnaryKind.RECIPROCAL, UnaryKind.LOG, UnaryKind.RSQRT)
    return (np.abs(values) if kind in POSITIVE else values).astype(dtype.numpy)


def test_every_kind_is_tested():
    assert {*UNARY, *COMPOSED, UnaryKind.NOT} == set(UnaryKind)
    assert {*BINARY, *BITWISE, *SHIFTS, *LOGICAL, BinaryKind.MOD, BinaryKind.FMOD} == set(BinaryKind)
    assert {*COMPARE, CompareKind.NE} == set(CompareKind)


@pytest.mark.parametrize("kind", UNARY, ids=str)
def test_unary(kind: UnaryKind):
    op_type, attributes, parameters = UNARY[kind]
    x = values_for(kind, F32)
    opset = 22 if op_type in ("Gelu", "HardSwish", "Mish") else 18
    assert_close(
        interpret(lambda x: UnaryOp(kind, x, **parameters), x), run_node(op_type, [x], attributes, opset), 2e-6
    )


@pytest.mark.parametrize("kind", [kind for kind in UNARY if kind not in NOT_ON_HALF], ids=str)
def test_unary_f16_rounds_once(kind: UnaryKind):
    _, _, parameters = UNARY[kind]
    x = values_for(kind, F16)
    wide = interpret(lambda x: UnaryOp(kind, x, **parameters), x.astype(np.float32))
    actual = interpret(lambda x: UnaryOp(kind, x, **parameters), x)
    np.testing.assert_array_equal(actual, wide if kind is UnaryKind.IS_NAN else wide.astype(np.float16))


@pytest.mark.parametrize("kind", [UnaryKind.RELU, UnaryKind.TANH, UnaryKind.SIGMOID, UnaryKind.EXP], ids=str)
def test_unary_f16_as_onnxruntime(kind: UnaryKind):
    x = values_for(kind, F16)
    # onnxruntime's own 16-bit kernels may be off by one unit in the last place, 2**-10.
    assert_close(interpret(lambda x: UnaryOp(kind, x), x), run_node(UNARY[kind][0], [x]), 2e-3)


@pytest.mark.parametrize("kind", COMPOSED, ids=str)
@pytest.mark.parametrize("dtype", [F32, BF16, F16, F64], ids=str)
def test_unary_that_onnx_composes(kind: UnaryKind, dtype: DType):
    x = values_for(kind, dtype)
    expected = COMPOSED[kind](x.astype(np.float64)).astype(dtype.numpy)
    tolerance = {"f64": 1e-15, "f32": 1e-6}.get(dtype.name, 0.0)
    assert_close(interpret(lambda x: UnaryOp(kind, x), x), expected, tolerance)


@pytest.mark.parametrize("dtype", [I8, I32, I64], ids=str)
@pytest.mark.parametrize("kind", [UnaryKind.ABS, UnaryKind.NEG, UnaryKind.SIGN, UnaryKind.RELU], ids=str)
def test_unary_on_integers(kind: UnaryKind, dtype: DType):
    limits = np.iinfo(dtype.numpy)
    x = np.array([-7, -1, 0, 1, 7, limits.min, limits.max], dtype.numpy)
    expected = {
        UnaryKind.ABS: np.abs(x),
        UnaryKind.NEG: np.negative(x),
        UnaryKind.SIGN: np.sign(x),
        UnaryKind.RELU: np.where(x > 0, x, 0).astype(x.dtype),
    }[kind]
    assert_close(interpret(lambda x: UnaryOp(kind, x), x), expected)


def test_not():
    x = np.array([True, False])
    assert_close(interpret(lambda x: UnaryOp(UnaryKind.NOT, x), x), run_node("Not", [x]))


# Each of the three approximations of erf, their seams, and what lies beyond them.
def test_erf_is_exact():
    x = np.concatenate([np.linspace(-7, 7, 20001), [-0.0, 1e-300, 0.46875, 4.0, 6.0, np.inf, -np.inf]])
    expected = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(erf(x), expected, rtol=1e-15, atol=0)
    assert np.isnan(erf(np.array([np.nan])))


# exp(-200) and 1/0 are infinite or zero: values, not warnings.
def test_overflow_is_a_value():
    x = np.array([-200.0, 200.0, 0.0, np.inf, -np.inf, np.nan], np.float32)
    assert_close(interpret(lambda x: UnaryOp(UnaryKind.EXP, x), x), run_node("Exp", [x]))
    assert_close(interpret(lambda x: UnaryOp(UnaryKind.SIGMOID, x), x), run_node("Sigmoid", [x]))
    assert_close(interpret(lambda x: UnaryOp(UnaryKind.SOFTPLUS, x), x), run_node("Softplus", [x]))
    assert_close(interpret(lambda x: UnaryOp(UnaryKind.RECIPROCAL, x), x), run_node("Reciprocal", [x]))


SHAPES = [((4, 3), (4, 3)), ((2, 4, 3), (4, 1)), ((3,), (2, 1, 3)), ((2, 3), ()), ((0, 3), (3,))]


@pytest.mark.parametrize(("left", "right"), SHAPES)
@pytest.mark.parametrize("kind", BINARY, ids=str)
def test_binary_broadcasts(kind: BinaryKind, left: tuple[int, ...], right: tuple[int, ...]):
    if kind is BinaryKind.PRELU and len(left) < len(right):
        left, right = right, left
    rng = np.random.default_rng(1)
    a, b = random_array(F32, left, rng), random_array(F32, right, rng)
    if kind is BinaryKind.POW:
        a = np.abs(a)
    assert_close(interpret(lambda a, b: BinaryOp(kind, a, b), a, b), run_node(BINARY[kind], [a, b]), 2e-6)


@pytest.mark.parametrize("dtype", [I32, I64], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in BINARY if kind is not BinaryKind.PRELU], ids=str)
def test_binary_on_integers(kind: BinaryKind, dtype: DType):
    a = np.array([7, -7, 7, -7, 6, -6, 0, 3, 1, -1], dtype.numpy)
    b = np.array([2, 2, -2, -2, 3, 3, 5, 4, 7, 6], dtype.numpy)
    if kind is BinaryKind.POW:
        b = np.abs(b)
    assert_close(interpret(lambda a, b: BinaryOp(kind, a, b), a, b), run_node(BINARY[kind], [a, b]))


@pytest.mark.parametrize("dtype", [I8, UI8, I32, I64], ids=str)
@pytest.mark.parametrize("kind", [BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MUL], ids=str)
def test_integers_wrap(kind: BinaryKind, dtype: DType):
    limits = np.iinfo(dtype.numpy)
    a = np.array([limits.max, limits.min, limits.max], dtype.numpy)
    b = np.array([1, 1, 3], dtype.numpy)
    exact = {BinaryKind.ADD: a.astype(object) + b, BinaryKind.SUB: a.astype(object) - b}.get(kind, a.astype(object) * b)
    bits = 8 * dtype.size_bytes
    wrapped = [(value - limits.min) % 2**bits + limits.min for value in exact]
    assert interpret(lambda a, b: BinaryOp(kind, a, b), a, b).tolist() == wrapped


# Division truncates for the extremes too, where a quotient computed in floats would be wrong.
def test_truncating_division_is_exact():
    a = np.array([2**62 + 1, -(2**62) - 1, -1, 1, 5, 2**63 - 1], np.int64)
    b = np.array([3, 3, 2, -2, -5, -1], np.int64)
    expected = [
        (abs(x) // abs(y)) * (1 if (x < 0) == (y < 0) else -1) for x, y in zip(a.tolist(), b.tolist(), strict=True)
    ]
    assert interpret(lambda a, b: BinaryOp(BinaryKind.DIV, a, b), a, b).tolist() == expected
    a, b = np.array([250, 7], np.uint8), np.array([2, 0], np.uint8)
    assert interpret(lambda a, b: BinaryOp(BinaryKind.DIV, a, b), a, b).tolist() == [125, 0]


def test_integer_power_of_negative_exponents():
    a = np.array([2, 1, -1, -1, -2], np.int32)
    b = np.array([-1, -3, -3, -2, 3], np.int32)
    assert interpret(lambda a, b: BinaryOp(BinaryKind.POW, a, b), a, b).tolist() == [0, 1, -1, 1, -8]


@pytest.mark.parametrize("dtype", [I32, I64], ids=str)
def test_mod_on_integers(dtype: DType):
    a, b = np.array([5, -5, 5, -5, 4], dtype.numpy), np.array([3, 3, -3, -3, 2], dtype.numpy)
    mod = interpret(lambda a, b: BinaryOp(BinaryKind.MOD, a, b), a, b)
    assert_close(mod, run_node("Mod", [a, b]))
    fmod = interpret(lambda a, b: BinaryOp(BinaryKind.FMOD, a, b), a, b)
    assert_close(fmod, run_node("Mod", [a, b], {"fmod": 1}))
    assert mod.tolist() != fmod.tolist()


def test_fmod_on_floats():
    a, b = np.array([5.5, -5.5, 5.5], np.float32), np.array([2.0, 2.0, -2.0], np.float32)
    assert_close(interpret(lambda a, b: BinaryOp(BinaryKind.FMOD, a, b), a, b), run_node("Mod", [a, b], {"fmod": 1}))


@pytest.mark.parametrize("kind", LOGICAL, ids=str)
def test_logical(kind: BinaryKind):
    a, b = np.array([[True], [False]]), np.array([True, False])
    assert_close(interpret(lambda a, b: BinaryOp(kind, a, b), a, b), run_node(LOGICAL[kind], [a, b]))


# A 16-bit sum is that of f32, rounded once: 1 + 2**-9 + 2**-9 in bf16 would differ if each step were rounded.
@pytest.mark.parametrize("dtype", [BF16, F16, TF32], ids=str)
def test_narrow_floats_are_computed_wide(dtype: DType):
    rng = np.random.default_rng(4)
    a, b = (random_array(dtype, (200,), rng) for _ in range(2))
    actual = interpret(lambda a, b: BinaryOp(BinaryKind.MUL, a, b), a, b)
    expected = (a.astype(np.float64) * b.astype(np.float64)).astype(np.float32).astype(dtype.numpy)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("dtype", [F32, I32, I64], ids=str)
@pytest.mark.parametrize("kind", COMPARE, ids=str)
def test_compare(kind: CompareKind, dtype: DType):
    a, b = np.array([[1, 2, 3], [3, 2, 1]], dtype.numpy), np.array([2], dtype.numpy)
    assert_close(interpret(lambda a, b: CompareOp(kind, a, b), a, b), run_node(COMPARE[kind], [a, b]))


def test_compare_with_nan():
    a, b = np.array([np.nan, 1.0, np.inf], np.float32), np.array([np.nan, np.nan, np.inf], np.float32)
    assert interpret(lambda a, b: CompareOp(CompareKind.EQ, a, b), a, b).tolist() == [False, False, True]
    assert interpret(lambda a, b: CompareOp(CompareKind.NE, a, b), a, b).tolist() == [True, True, False]


def test_select_broadcasts():
    condition = np.array([[True], [False]])
    a, b = np.array([1.0, 2.0, 3.0], np.float32), np.array(9.0, np.float32)
    assert_close(interpret(lambda c, a, b: SelectOp(c, a, b), condition, a, b), run_node("Where", [condition, a, b]))


@pytest.mark.parametrize(("minimum", "maximum"), [(-1.0, 2.0), (None, 0.5), (0.0, None), (None, None), (2.0, 1.0)])
def test_clip(minimum: float | None, maximum: float | None):
    # Not infinity: onnxruntime takes an absent bound as the largest finite number.
    x = np.array([-3.0, -1.0, 0.7, 5.0, np.nan, 1e30], np.float32)
    bounds = [np.array(bound, np.float32) if bound is not None else None for bound in (minimum, maximum)]
    actual = interpret(lambda x: ClipOp(x, minimum=minimum, maximum=maximum), x)
    assert_close(actual, run_node("Clip", [x, *bounds]))


def test_clip_on_integers():
    x = np.array([-100, 3, 100], np.int8)
    assert interpret(lambda x: ClipOp(x, minimum=-5, maximum=7), x).tolist() == [-5, 3, 7]
    # A bound that the element type cannot reach does not bind.
    assert interpret(lambda x: ClipOp(x, minimum=-1e9, maximum=float("inf")), x).tolist() == [-100, 3, 100]


CASTS = [("f32", "f16"), ("f16", "f32"), ("f32", "i32"), ("f32", "i64"), ("f32", "i1"), ("i64", "f32"), ("i64", "i32"),
         ("i32", "i8"), ("i1", "f32"), ("i1", "i64"), ("i64", "i1"), ("f64", "f32"), ("f32", "f64"), ("ui8", "f32"),
         ("f32", "ui8"), ("f32", "i8")]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), CASTS)
def test_cast(source: str, target: str):
    dtype, goal = dtype_by_name(source), dtype_by_name(target)
    x = np.array([0, 1, 2, 3, 100, 127], np.float64)
    if (dtype.is_signed and goal.is_signed) or (goal is I1 and dtype.is_signed):
        x = np.concatenate([x, -x, [-2.0]])
    if dtype.is_float:
        x = np.concatenate([x, [0.1, 0.5, 1.5, 2.5, 99.9]])
    x = x.astype(dtype.numpy)
    assert_close(interpret(lambda x: CastOp(x, goal), x), run_node("Cast", [x], {"to": goal.onnx}), 0.0)


def test_cast_wraps_integers():
    x = np.array([300, -300, 2**40 + 5], np.int64)
    assert interpret(lambda x: CastOp(x, UI8), x).tolist() == [44, 212, 5]
    assert interpret(lambda x: CastOp(x, I32), x).tolist() == [300, -300, 5]


def test_cast_rounds_to_nearest_even():
    # bf16 has 8 significant bits: 257 lies between 256 and 258, 259 between 258 and 260.
    x = np.array([257.0, 259.0, np.inf, np.nan, 3.4e38], np.float32)
    actual = interpret(lambda x: CastOp(x, BF16), x)
    assert actual.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(actual.astype(np.float32), [256.0, 260.0, np.inf, np.nan, np.inf])


def test_cast_to_tf32_keeps_ten_bits():
    x = np.array([1 + 2**-10, 1 + 2**-11, 1 + 3 * 2**-11, -1 - 2**-11 - 2**-20, np.inf, np.nan, 0.0], np.float32)
    expected = [1 + 2**-10, 1.0, 1 + 2**-9, -1 - 2**-10, np.inf, np.nan, 0.0]
    np.testing.assert_array_equal(interpret(lambda x: CastOp(x, TF32), x), np.array(expected, np.float32))


@pytest.mark.parametrize(("name", "largest"), [("f8e4m3fn", 448.0), ("f8e4m3", 240.0), ("f8e5m2", 57344.0)])
def test_cast_to_8_bit_floats_saturates(name: str, largest: float):
    x = np.array([1.0, 1e6, -1e6, np.inf, 0.0], np.float32)
    actual = interpret(lambda x: CastOp(x, dtype_by_name(name)), x)
    np.testing.assert_array_equal(actual.astype(np.float32), [1.0, largest, -largest, largest, 0.0])


@pytest.mark.parametrize("dtype", [I8, I32, UI8], ids=str)
@pytest.mark.parametrize("kind", BITWISE, ids=str)
def test_bitwise(kind: BinaryKind, dtype: DType):
    rng = np.random.default_rng(0)
    limits = np.iinfo(dtype.numpy)
    a, b = (rng.integers(limits.min, limits.max, (3, 40), endpoint=True).astype(dtype.numpy) for _ in range(2))
    assert_close(interpret(lambda a, b: BinaryOp(kind, a, b), a, b), run_node(BITWISE[kind], [a, b], {}))


# -9 = ...10111: arithmetic to the right, wrapped to the left; counts beyond the width leave nothing but the sign.
def test_shifts():
    a, count = np.array([-9, -9, 9, -9, 9, 100], np.int8), np.array([1, 8, 8, -1, -1, 2], np.int8)
    right = interpret(lambda a, b: BinaryOp(BinaryKind.SHIFT_RIGHT, a, b), a, count)
    left = interpret(lambda a, b: BinaryOp(BinaryKind.SHIFT_LEFT, a, b), a, count)
    assert right.tolist() == [-5, -1, 0, -1, 0, 25]
    assert left.tolist() == [-18, 0, 0, 0, 0, -112]
