import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import ACTIVATIONS, ALU_OPS, INSTRUCTIONS
from runtime.semantics import SEMANTICS, Case
from runtime.semantics.alu import OPERATORS
from runtime.semantics.functions import FUNCTIONS, TABLE_SET_OF
from runtime.semantics.numerics import reader, round_to_tf32, to_integer, widening, writer
from tests.runtime.meanings import empty, run, typed

RNG = np.random.default_rng(7)


def test_every_instruction_has_one_meaning():
    assert set(SEMANTICS) == set(INSTRUCTIONS)
    assert set(FUNCTIONS) | {"prelu"} == set(ACTIVATIONS)
    assert set(OPERATORS) == set(ALU_OPS)
    assert set(TABLE_SET_OF) < set(ACTIVATIONS)


# -- rounding ----------------------------------------------------------------------------------------------------------


@given(hnp.arrays(np.float32, 16, elements=st.floats(width=32)))
def test_tf32_keeps_ten_bits(values: np.ndarray):
    rounded = round_to_tf32(values)
    finite = np.isfinite(values)
    assert not (rounded[finite].view(np.uint32) & 0x1FFF).any()
    assert np.array_equal(np.isnan(rounded), np.isnan(values))
    small = finite & (np.abs(values) < 1e38) & (np.abs(values) > 1e-37)
    assert (np.abs(rounded[small] - values[small]) <= np.abs(values[small]) * 2.0**-11).all()


# Elements that do not lie side by side, infinities and NaN among them: what numpy gives one by one, bit by bit.
def test_bf16_apart_is_bf16():
    memory = RNG.standard_normal((4, 60)).astype(ml_dtypes.bfloat16)
    memory.view(np.uint16)[0, :12:3] = [0x7FC1, 0xFF80, 0x7F81, 0x8000]
    view, packed = memory[:, ::3], np.ascontiguousarray(memory[:, ::3])
    wide, target = packed.astype(np.float32).view(np.uint32), np.full(view.shape, np.nan, np.float32)
    function, arguments = widening(target, view)
    function(*arguments)
    np.testing.assert_array_equal(target.view(np.uint32), wide)
    np.testing.assert_array_equal(reader("bf16")(view).view(np.uint32), wide)
    values = RNG.standard_normal(view.shape).astype(np.float32)
    values[0, :4] = [np.nan, np.inf, 3.4e38, -0.0]
    before = memory.copy()
    with np.errstate(all="ignore"):
        writer("bf16")(view, values)
        np.testing.assert_array_equal(view.view(np.uint16), values.astype(ml_dtypes.bfloat16).view(np.uint16))
    np.testing.assert_array_equal(memory[:, 1::3].view(np.uint16), before[:, 1::3].view(np.uint16))


# A tie goes to the even neighbour: 1 + 2^-11 lies halfway between 1 and 1 + 2^-10.
def test_tf32_ties():
    assert round_to_tf32(np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11], np.float32)).tolist() == [1.0, 1 + 2.0**-9]


# To nearest even, saturated, NaN to zero.
def test_float_to_integer():
    values = np.array([0.5, 1.5, -0.5, 2.5, 300, -300, np.nan, np.inf, -np.inf], np.float32)
    assert to_integer(values, np.dtype(np.int8)).tolist() == [0, 2, 0, 2, 127, -128, 0, 127, -128]
    assert to_integer(np.array([3e9, -3e9], np.float32), np.dtype(np.int32)).tolist() == [2**31 - 1, -(2**31)]
    assert to_integer(np.array([-1, 1e20], np.float32), np.dtype(np.uint64)).tolist()[0] == 0


@pytest.mark.parametrize("engine", ["", "dve", "pool", "act"])
@pytest.mark.parametrize(("source", "target"), [("f32", "bf16"), ("bf16", "f32"), ("f32", "f16"), ("f32", "f8e4m3")])
def test_copy_casts(source: str, target: str, engine: str):
    data = typed(source, RNG.normal(size=(4, 9)) * 100)
    out = run("tensor_copy", empty(target, 4, 9), engine, data=data)
    assert np.array_equal(out, data[1].astype(np.float32).astype(out.dtype))


# Equal types keep every bit, payloads of NaN included.
def test_copy_is_bit_exact():
    bits = np.array([[0x7FC1, 0xFF81, 0x8000, 0x0001]], np.uint16)
    out = run("tensor_copy", empty("bf16", 1, 4), data=("bf16", bits.view(ml_dtypes.bfloat16)))
    assert out.view(np.uint16).tolist() == bits.tolist()


# Beyond 2^24 float32 would round; between integers nothing does, and what does not fit saturates.
def test_integer_copies_are_exact():
    data = typed("i32", [[2**24 + 1, -(2**24) - 1, 300, -5]])
    assert run("tensor_copy", empty("i64", 1, 4), data=data).tolist() == [[2**24 + 1, -(2**24) - 1, 300, -5]]
    assert run("dma_copy", empty("ui8", 4), src=("i32", data[1][0])).tolist() == [255, 0, 255, 0]
    assert run("tensor_copy", empty("f32", 1, 4), data=data)[0, 0] == 2**24


def test_booleans():
    data = typed("f32", [[0.0, -0.0, 0.5, np.nan]])
    assert run("tensor_copy", empty("i1", 1, 4), data=data).tolist() == [[False, False, True, True]]
    assert run("tensor_copy", empty("f32", 1, 2), data=typed("i1", [[True, False]])).tolist() == [[1.0, 0.0]]


# -- ALU ---------------------------------------------------------------------------------------------------------------

NUMPY = {
    "add": np.add, "subtract": np.subtract, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
    "equal": np.equal, "not_equal": np.not_equal, "greater": np.greater, "greater_equal": np.greater_equal,
    "less": np.less, "less_equal": np.less_equal, "power": np.power,
    "logical_and": lambda a, b: (a != 0) & (b != 0), "logical_or": lambda a, b: (a != 0) | (b != 0),
    "logical_xor": lambda a, b: (a != 0) ^ (b != 0), "bypass": lambda a, b: a,
    "rsqrt": lambda a, b: 1 / np.sqrt(a), "abs": lambda a, b: np.abs(a),
}  # fmt: skip


@pytest.mark.parametrize("op", NUMPY)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_tensor_tensor(op: str, dtype: str):
    data, other = (typed(dtype, np.round(RNG.uniform(0.5, 3, size=(4, 6)))) for _ in range(2))
    out = run("tensor_tensor", empty(dtype, 4, 6), "dve", {"op": op}, data=data, other=other)
    expected = NUMPY[op](data[1].astype(np.float32), other[1].astype(np.float32)).astype(np.float32)
    np.testing.assert_allclose(out.astype(np.float32), expected.astype(out.dtype).astype(np.float32), rtol=1e-6)


# The two operands list their elements in the same order with other dims: [2, 6] and [3, 4] of one row of 12.
def test_dims_may_differ():
    data, other = typed("f32", np.arange(24).reshape(2, 2, 6)), typed("f32", np.ones((2, 3, 4)))
    out = run("tensor_tensor", empty("f32", 2, 12), data=data, other=other)
    assert out.tolist() == (np.arange(24).reshape(2, 12) + 1).tolist()


# int32 sums beyond 2^24: exact on pool (and where no engine is chosen), through float32 on dve; they wrap.
def test_integer_addition():
    data, other = typed("i32", [[2**24 + 1, 2**31 - 1]]), typed("i32", [[2, 1]])
    assert run("tensor_tensor", empty("i32", 1, 2), "pool", data=data, other=other).tolist() == [[2**24 + 3, -(2**31)]]
    assert run("tensor_tensor", empty("i32", 1, 2), "", data=data, other=other)[0, 0] == 2**24 + 3
    assert run("tensor_tensor", empty("i32", 1, 2), "dve", data=data, other=other).tolist() == [[2**24 + 2, 2**31 - 1]]
    scaled = run("tensor_scalar", empty("i32", 1, 2), "pool", {"op0": "multiply", "scalar0": 3.0}, data=data)
    assert scaled[0, 0] == 3 * (2**24 + 1)


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("bitwise_and", [0xF0, 1]), ("bitwise_or", [0xF0F0F0FF, 0xFF]), ("bitwise_xor", [0xF0F0F00F, 0xFE]),
        ("left_shift", [0, 0]), ("right_shift", [0, 0]),
    ],
)  # fmt: skip
def test_bits(op: str, expected: list[int]):
    data, other = typed("ui32", [[0xF0F0F0F0, 1]]), typed("ui32", [[0xFF, 0xFF]])
    assert run("tensor_tensor", empty("ui32", 1, 2), "dve", {"op": op}, data=data, other=other).tolist() == [expected]


# Shifts drop bits at the width of the data, and to the right they are logical also for signed types.
def test_shifts():
    fields = {"op0": "left_shift", "scalar0": 8.0, "op1": "right_shift", "scalar1": 8.0}
    data = typed("i32", [[-1, 0x01020304]])
    assert run("tensor_scalar", empty("i32", 1, 2), "dve", fields, data=data).tolist() == [[0x00FFFFFF, 0x00020304]]


@pytest.mark.parametrize("op", ["bitwise_and", "left_shift"])
def test_bits_of_floats_are_refused(op: str):
    with pytest.raises(NeuronError, match="bitwise operators need integers"):
        SEMANTICS["tensor_tensor"](
            Case("tensor_tensor", "dve", {"dst": "f32", "data": "f32", "other": "f32"}, {}, {"op": op})
        )


# (data - column) * 0.5 in float32, rounded once; with exchanged operands column - data.
def test_tensor_scalar():
    data, column = typed("bf16", RNG.normal(size=(4, 2, 3))), typed("f32", RNG.normal(size=(4, 1)))
    fields = {"op0": "subtract", "op1": "multiply", "scalar1": 0.5}
    out = run("tensor_scalar", empty("bf16", 4, 6), "dve", fields, data=data, operand0=column)
    exact = (data[1].astype(np.float32).reshape(4, 6) - column[1]) * np.float32(0.5)
    assert np.array_equal(out, exact.astype(out.dtype))
    exchanged = run("tensor_scalar", empty("f32", 4, 6), "dve", fields | {"reverse0": True}, data=data, operand0=column)
    assert np.array_equal(exchanged, -exact)


# Chains of every kind of operator, over an operand that must not change.
def test_tensor_scalar_chain():
    data = typed("f32", [[1.0, 4.0, 16.0]])
    fields = {"op0": "add", "scalar0": 0.0, "op1": "rsqrt"}
    assert run("tensor_scalar", empty("f32", 1, 3), "pool", fields, data=data).tolist() == [[1.0, 0.5, 0.25]]
    compared = {"op0": "greater", "scalar0": 2.0, "op1": "multiply", "scalar1": 3.0}
    assert run("tensor_scalar", empty("f32", 1, 3), "dve", compared, data=data).tolist() == [[0.0, 3.0, 3.0]]
    constant = {"op0": "bypass", "scalar0": 7.0, "reverse0": True}
    assert run("tensor_scalar", empty("i32", 1, 3), "dve", constant, data=data).tolist() == [[7, 7, 7]]
    assert data[1].tolist() == [[1.0, 4.0, 16.0]]


def test_scalar_tensor_tensor():
    data, other = typed("f32", [[1.0, 2.0]]), typed("f32", [[10.0, 20.0]])
    fields = {"op0": "multiply", "scalar0": 3.0, "op1": "subtract", "reverse1": True}
    assert run("scalar_tensor_tensor", empty("f32", 1, 2), "dve", fields, data=data, other=other).tolist() == [[7, 14]]
    taken = {"op1": "bypass", "reverse1": True}
    assert run("scalar_tensor_tensor", empty("f32", 1, 2), "dve", taken, data=data, other=other).tolist() == [[10, 20]]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("predicate", ["ui8", "i32", "f32", "i1"])
def test_predicated_copy(predicate: str, reverse: bool):
    old, new = typed("bf16", [[1, 2, 3, 4]]), typed("f32", [[5, 6, 7, 8]])
    mask = typed(predicate, [[0, 1, 1, 0]])
    out = run("tensor_copy_predicated", old, "dve", {"reverse": reverse}, data=new, predicate=mask)
    assert out.astype(int).tolist() == ([[5, 2, 3, 8]] if reverse else [[1, 6, 7, 4]])


@pytest.mark.parametrize(
    ("dtype", "value", "stored"), [("bf16", 1.0, 1.0), ("i8", 300.0, 127), ("f32", -np.inf, -np.inf)]
)
def test_memset(dtype: str, value: float, stored: float):
    out = run("memset", empty(dtype, 2, 3), fields={"value": value})
    assert (out.astype(np.float64) == stored).all()


def test_reciprocal():
    out = run("reciprocal", empty("f32", 1, 3), data=typed("f32", [[2.0, -4.0, 0.0]]))
    assert out.tolist() == [[0.5, -0.25, np.inf]]
