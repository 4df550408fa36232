"""Pointwise operators and groups of them, on numbers: every kind, element type and way to broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import SSAValue

import runtime.program_interpreter
from neuron_dialects.dtypes import BF16, F16, F32, F64, I1, I8, I32, UI8, DType, dtype_of_numpy
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    UNARY_PARAMETERS,
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    ConstantOp,
    SelectOp,
    UnaryKind,
    UnaryOp,
    spec_of,
)
from runtime.semantics import Case
from tests.lowering.graph_to_tile.core_kernel import (
    NODE,
    Array,
    Make,
    check,
    compute_ops,
    core_module,
    lowered,
    number,
    random,
    resident,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PARAMETERS = {"alpha": 0.7, "beta": 1.3}
ON_INTEGERS = (UnaryKind.ABS, UnaryKind.NEG, UnaryKind.SIGN, UnaryKind.RELU, UnaryKind.SQUARE)
LOGICAL = (BinaryKind.AND, BinaryKind.OR, BinaryKind.XOR)
SHIFTS = (BinaryKind.SHIFT_LEFT, BinaryKind.SHIFT_RIGHT)
BITWISE = (BinaryKind.BIT_AND, BinaryKind.BIT_OR, BinaryKind.BIT_XOR, *SHIFTS)
ARITHMETIC = tuple(kind for kind in BinaryKind if kind not in (*LOGICAL, *BITWISE))
TARGETS = ("inf1", "trn1")


def unary(kind: UnaryKind) -> Make:
    """The operator with parameters as it needs them."""
    return lambda x: UnaryOp(kind, x, **{name: PARAMETERS[name] for name in UNARY_PARAMETERS.get(kind, ())})


def binary(kind: BinaryKind) -> Make:
    return lambda a, b: BinaryOp(kind, a, b)


def by_number(kind: BinaryKind, value: float, dtype: DType = F32) -> Make:
    """x kind value."""
    return lambda x: BinaryOp(kind, x, number(value, dtype))


def from_number(kind: BinaryKind, value: float, shape: Sequence[int]) -> Make:
    """value kind x, the number repeated to a shape."""
    return lambda x: BinaryOp(kind, number(value, F32, shape), x)


def clip(low: float | None, high: float | None) -> Make:
    return lambda x: ClipOp(x, minimum=low, maximum=high)


def compare(kind: CompareKind) -> Make:
    return lambda a, b: CompareOp(kind, a, b)


def compare_number(kind: CompareKind, value: float, dtype: DType, first: bool = False) -> Make:
    """x against a number, or the number against x."""
    if first:
        return lambda x: CompareOp(kind, number(value, dtype), x)
    return lambda x: CompareOp(kind, x, number(value, dtype))


# Kinds


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", UnaryKind)
def test_unary(kind: UnaryKind, target: str) -> None:
    x = random((130, 7, 5))
    if kind in (UnaryKind.LOG, UnaryKind.SQRT, UnaryKind.RSQRT):
        x = np.abs(x)
    if kind is UnaryKind.NOT:
        x = x > 0
    check(unary(kind), x, target=target, engines=True)
    if kind is not UnaryKind.NOT:
        check(unary(kind), x.astype(BFLOAT16), target=target)


@pytest.mark.parametrize("dtype", [np.int32, np.int16, np.int8, np.uint8])
@pytest.mark.parametrize("kind", ON_INTEGERS)
def test_unary_on_integers(kind: UnaryKind, dtype: Any) -> None:
    for target in TARGETS:
        check(unary(kind), random((17, 9), dtype), target=target, engines=True)


@pytest.mark.parametrize("kind", [UnaryKind.FLOOR, UnaryKind.CEIL, UnaryKind.ROUND])
def test_rounding_at_halves_and_beyond_the_range_of_integers(kind: UnaryKind) -> None:
    x = [2.5, 3.5, -0.5, -2.5, 8388607.5, 1e10, -3e38, np.inf, -np.inf, np.nan, 0.49999997, -1e-30]
    check(unary(kind), np.array([x], np.float32))


@pytest.mark.parametrize("kind", [UnaryKind.SIN, UnaryKind.COS])
def test_angles_of_thousands_of_turns_are_reduced_exactly(kind: UnaryKind) -> None:
    check(unary(kind), np.linspace(-4e4, 4e4, 4000, dtype=np.float32))


def test_not_a_number_is_found_and_kept() -> None:
    x = np.array([[1.0, np.nan, np.inf, -np.nan, 0.0]], np.float32)
    check(unary(UnaryKind.IS_NAN), x)
    check(unary(UnaryKind.RELU), x)
    check(clip(-1.0, 1.0), x)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ARITHMETIC)
def test_binary(kind: BinaryKind, target: str) -> None:
    a, b = random((130, 65)), random((130, 65), seed=1)
    if kind is BinaryKind.POW:
        a = np.abs(a) + np.float32(0.01)
    if kind in (BinaryKind.MOD, BinaryKind.FMOD):
        b += np.sign(b)
    check(binary(kind), a, b, target=target, tolerance=4e-6, engines=True)
    for value in (2.0, -0.3):
        check(by_number(kind, value), a, target=target)
    check(from_number(kind, 2.0, b.shape), b, target=target, tolerance=4e-6)


@pytest.mark.parametrize("kind", [BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MUL, BinaryKind.DIV, BinaryKind.PRELU])
def test_binary_in_sixteen_bits(kind: BinaryKind) -> None:
    check(binary(kind), random((130, 65), BFLOAT16), random((65,), BFLOAT16, 1))
    check(binary(kind), random((130, 65), np.float16), random((130, 1), np.float16, 1))


@pytest.mark.parametrize("kind", LOGICAL)
def test_logical(kind: BinaryKind) -> None:
    check(binary(kind), random((9, 130), np.bool_), random((9, 1), np.bool_, 1))
    check(lambda x: BinaryOp(kind, x, number(1, I1)), random((9, 130), np.bool_))


def integer_operands(kind: BinaryKind, dtype: Any) -> tuple[Array, Array]:
    """Operands over the whole range, some small; divisors are not 0, and no quotient overflows."""
    a, b = random((12, 9), dtype), random((12, 9), dtype, 1)
    rng = np.random.default_rng(2)
    b[4:8] = rng.integers(1, 9, (4, 9))
    if kind is BinaryKind.POW:
        b = rng.integers(0 if dtype is np.uint8 else -3, 40, b.shape).astype(dtype)
        a[3:] = rng.integers(0 if dtype is np.uint8 else -4, 5, (9, 9))
        # Zero has no negative power.
        a[(a == 0) & (b.astype(np.int64) < 0)] = 2
    if kind in SHIFTS:
        # Counts around both ends of the width, and anything.
        b[:8] = rng.integers(0 if dtype is np.uint8 else -2, 8 * np.dtype(dtype).itemsize + 2, (8, 9))
    if kind in (BinaryKind.DIV, BinaryKind.MOD, BinaryKind.FMOD):
        b[b == 0] = 3
        if dtype is not np.uint8:
            a[(a == np.iinfo(dtype).min) & (b == -1)] = 5
    return a, b


@pytest.mark.parametrize("dtype", [np.int32, np.int8, np.uint8])
@pytest.mark.parametrize("kind", [*ARITHMETIC, *BITWISE])
def test_integers_are_exact(kind: BinaryKind, dtype: Any) -> None:
    a, b = integer_operands(kind, dtype)
    for target in TARGETS:
        check(binary(kind), a, b, target=target, engines=True)


# Without a pool engine, integers go through f32: the recipes must be exact in that arithmetic too.
@pytest.mark.parametrize("kind", [*ARITHMETIC, *BITWISE])
def test_integers_are_exact_on_engines_that_compute_in_f32(kind: BinaryKind, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_vector_engine(name: str, engine: str, *rest: Any) -> Case:
        return Case(name, "dve", *rest)

    monkeypatch.setattr(runtime.program_interpreter, "Case", on_vector_engine)
    a, b = integer_operands(kind, np.int32)
    check(binary(kind), a, b, target="inf1")
    for value in (7, -1000003, 2**30 + 12345):
        if kind is not BinaryKind.POW or value == 7:
            check(by_number(kind, value, I32), a[1:], target="inf1")
    check(clip(-16777216.0, 1e9), a, target="inf1")
    for order in CompareKind:
        check(compare(order), a, a ^ (b & 1), target="inf1")


POWERS = (0.0, 1.0, 2.0, 3.0, 7.0, 16.0, 20.0, -1.0, -2.0, -3.0, 0.5, -0.5, 1.5, -1.5, 0.3)


@pytest.mark.parametrize("exponent", POWERS)
def test_power_by_a_number(exponent: float) -> None:
    x = random((130, 9)) / 2
    if not exponent.is_integer():
        x = np.abs(x)
    check(by_number(BinaryKind.POW, exponent), x, tolerance=5e-6)


def test_powers_of_special_bases() -> None:
    base = np.array([[-2, -2, -2, 0, 0, 0, 3, -1.5, 1, np.nan, 2]], np.float32)
    exponent = np.array([[3, 2, 0.5, 0, 2, -1, 0, -3, 7.7, 0, np.inf]], np.float32)
    check(binary(BinaryKind.POW), base, exponent)


# A remainder is exact while the quotient has 16 bits, even where its product with the divisor has more than f32 holds.
@pytest.mark.parametrize("kind", [BinaryKind.MOD, BinaryKind.FMOD])
def test_remainders_of_large_quotients(kind: BinaryKind) -> None:
    a = 1000 * random((40, 40))
    b = np.float32(0.1) + np.abs(random((40, 40), seed=1))
    check(binary(kind), a, b)
    for value in (0.1, 7.0, -3.3):
        check(by_number(kind, value), a)


# Nothing is taken from a number by an infinite divisor; mod goes over to the divisor where the signs differ.
@pytest.mark.parametrize("kind", [BinaryKind.MOD, BinaryKind.FMOD])
def test_remainders_at_infinity(kind: BinaryKind) -> None:
    a = np.array([[-3, 3, -1, 1, np.inf, -np.inf, 1, np.nan, 0, np.inf]], np.float32)
    b = np.array([[np.inf, np.inf, -np.inf, -np.inf, 2, 2, 0, 2, np.inf, np.inf]], np.float32)
    check(binary(kind), a, b)
    check(by_number(kind, np.inf), a)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
@pytest.mark.parametrize("kind", CompareKind)
def test_compare(kind: CompareKind, dtype: Any) -> None:
    a = random((6, 130), dtype)
    b = np.where(random((6, 130), np.bool_), a, random((6, 130), dtype, 1))
    for target in TARGETS:
        check(compare(kind), a, b, target=target, engines=True)
        value = a[2, 7].item()
        check(compare_number(kind, value, dtype_of_numpy(a.dtype)), a, target=target)
        check(compare_number(kind, value, dtype_of_numpy(a.dtype), first=True), a, target=target)


def one_or_large(x: SSAValue) -> ConstantOp:
    """1, or an integer that f32 does not hold, of the type of x."""
    dtype, _ = spec_of(x)
    return number(123456789 if dtype is I32 else 1, dtype)


@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16, np.int32, np.bool_])
def test_select(dtype: Any) -> None:
    a, b = random((6, 130), dtype), random((6, 130), dtype, 1)
    for shape in ((6, 130), (6, 1), (130,)):
        condition = random(shape, np.bool_, 2)
        check(lambda c, x, y: SelectOp(c, x, y), condition, a, b)
        check(lambda c, x: SelectOp(c, x, one_or_large(x)), condition, a)
        check(lambda c, x: SelectOp(c, one_or_large(x), x), condition, a)
    check(lambda x, y: SelectOp(number(1, I1), x, y), a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int8, np.uint8])
def test_clip(dtype: Any) -> None:
    x = random((6, 130), dtype)
    for low, high in ((None, 1.0), (-2.0, None), (0.0, 6.0), (None, None), (5.0, -5.0), (-3e9, 1e9)):
        for target in TARGETS:
            check(clip(low, high), x, target=target)


@pytest.mark.parametrize("to", [F32, BF16, F16, I32, I8, UI8, I1])
def test_cast(to: DType) -> None:
    for dtype in (np.float32, BFLOAT16, np.int32, np.int8, np.uint8, np.bool_):
        x = random((6, 130), dtype)
        if np.dtype(dtype).kind not in "iub" and to is UI8:
            x = np.abs(x)
        check(lambda v: CastOp(v, to), x)


def test_casts_to_integers_truncate() -> None:
    x = np.array([[0.5, 1.5, -0.5, -1.5, 2.9999998, -7.9, 16777215.0, 2147483520.0, -2147483648.0]], np.float32)
    (result,) = check(lambda v: CastOp(v, I32), x)
    assert result[0, :6].tolist() == [0, 1, 0, -1, 2, -7]


def test_an_element_type_without_arithmetic_is_an_error_with_the_node() -> None:
    module, _ = core_module(unary(UnaryKind.RELU), [np.zeros((2, 3))])
    with pytest.raises(NeuronError) as caught:
        lowered(module)
    assert (caught.value.code, caught.value.node) == ("NX-OP-002", NODE)
    assert str(F64) in caught.value.message


# Shapes

SHAPES = [
    ((130, 7, 5), (5,)),
    ((130, 7, 5), (7, 1)),
    ((130, 7, 5), (130, 1, 1)),
    ((1, 7, 5), (130, 1, 1)),
    ((4, 6, 33), (6, 1)),
    ((257,), (257,)),
    ((10007,), (1,)),
    ((), (3,)),
    ((), ()),
    ((64, 1), (1, 64)),
    ((2, 3, 50, 50), (1, 3, 1, 1)),
    ((3, 1, 5, 1, 7), (1, 4, 1, 6, 1)),
    ((2, 1, 3, 1, 2, 1, 5), (1, 3, 1, 2, 1, 4, 1)),
    ((700, 1100), (1100,)),
    ((300, 9000), (300, 1)),
    ((3, 0, 5), (5,)),
]


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_broadcasting(a: Sequence[int], b: Sequence[int]) -> None:
    for target in TARGETS:
        check(binary(BinaryKind.SUB), random(a), random(b, seed=1), target=target)
        check(binary(BinaryKind.SUB), random(b, seed=1), random(a), target=target)
    check(lambda x, y: SelectOp(CompareOp(CompareKind.GT, x, y), x, y), random(a), random(b, seed=1))


# What every instance of the channel needs is loaded before the loops, not once per piece.
def test_an_operand_that_does_not_change_is_loaded_before_the_loop() -> None:
    module, _ = core_module(binary(BinaryKind.ADD), [random((4096, 512)), random((512,))])
    block = lowered(module).body.block
    assert [op.name for op in block.ops if op.name.startswith("tile.load")] == ["tile.load"]
    assert [op.name for op in block.ops if op.name == "scf.for"] == ["scf.for"]


def test_code_does_not_grow_with_the_data() -> None:
    sizes = (2**20, 2**24)
    small, large = (len(compute_ops(binary(BinaryKind.ADD), *[np.zeros(n, np.float32)] * 2)) for n in sizes)
    assert small == large


# Residence


@pytest.mark.parametrize("halo", [(), ((0, 0), (1, 1), (1, 2))])
def test_resident_operands_and_results(halo: Sequence[tuple[int, int]]) -> None:
    def layer(x: SSAValue, column: SSAValue) -> Any:
        y = resident(UnaryOp(UnaryKind.RELU, x), 1, halo)
        z = resident(BinaryOp(BinaryKind.ADD, y, column), 1)
        return UnaryOp(UnaryKind.EXP, BinaryOp(BinaryKind.MUL, z, y)), BinaryOp(BinaryKind.SUB, x, y)

    x = random((2, 200, 9, 7)) / 3
    for target in TARGETS:
        check(layer, x, random((200, 1, 1), seed=1), target=target, engines=True)
        check(layer, x, random((9, 7), seed=1), target=target)


# Two resident tensors with different dimensions on the partitions cannot meet in one kernel: one leaves the chip.
def test_residents_that_disagree() -> None:
    def layer(x: SSAValue) -> Any:
        y = resident(UnaryOp(UnaryKind.RELU, x), 0)
        z = resident(UnaryOp(UnaryKind.EXP, x), 1)
        return BinaryOp(BinaryKind.ADD, y, z), resident(BinaryOp(BinaryKind.MUL, z, y), 0)

    check(layer, random((200, 140)))


def test_a_resident_operand_of_lower_rank() -> None:
    def layer(x: SSAValue, y: SSAValue) -> Any:
        return BinaryOp(BinaryKind.ADD, resident(UnaryOp(UnaryKind.RELU, x), 0), y)

    check(layer, random((140, 6)), random((3, 140, 6), seed=1))
    check(layer, random((140, 1)), random((3, 140, 6), seed=1))
    check(layer, random((1, 6)), random((3, 140, 6), seed=1))
