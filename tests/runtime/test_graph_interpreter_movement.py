"""Operators of the graph level that move elements, against onnxruntime or numpy."""

from __future__ import annotations

import numpy as np
import pytest

from neuron_dialects.dtypes import BF16, F16, F32, I1, I32, I64, DType
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    BroadcastOp,
    ConcatOp,
    GatherOp,
    PadMode,
    PadOp,
    ReshapeOp,
    ScatterOp,
    SliceOp,
    TransposeOp,
)
from tests.graph_level import Array, assert_close, interpret, random_array, run_node

DTYPES = [F32, F16, BF16, I64, I1]


def array(dtype: DType, *shape: int) -> Array:
    return random_array(dtype, shape, np.random.default_rng(0))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_transpose(dtype: DType):
    x = array(dtype, 2, 3, 4)
    np.testing.assert_array_equal(interpret(lambda x: TransposeOp(x, [2, 0, 1]), x), np.transpose(x, (2, 0, 1)))


def test_transpose_matches_onnx():
    x = array(F32, 2, 3, 4, 5)
    assert_close(
        interpret(lambda x: TransposeOp(x, [3, 1, 0, 2]), x), run_node("Transpose", [x], {"perm": [3, 1, 0, 2]})
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reshape_of_a_transpose(dtype: DType):
    x = array(dtype, 4, 6)
    actual = interpret(lambda x: ReshapeOp(TransposeOp(x, [1, 0]), [2, 12]), x)
    np.testing.assert_array_equal(actual, x.T.reshape(2, 12))


def test_scalars_stay_arrays():
    x = np.array([[3.5]], np.float32)
    actual = interpret(lambda x: ReshapeOp(x, []), x)
    assert isinstance(actual, np.ndarray)
    assert actual.shape == ()


@pytest.mark.parametrize(("source", "target"), [((3, 1), (2, 3, 4)), ((), (2, 2)), ((1, 3), (1, 3)), ((1,), (0,))])
def test_broadcast(source: tuple[int, ...], target: tuple[int, ...]):
    x = array(F32, *source)
    expected = run_node("Expand", [x, np.array(target, np.int64)])
    assert_close(interpret(lambda x: BroadcastOp(x, target), x), expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat(axis: int):
    xs = [array(I64, *(2 + (extra if d == axis else 0) for d in range(3))) for extra in range(3)]
    assert_close(interpret(lambda *xs: ConcatOp(xs, axis), *xs), run_node("Concat", xs, {"axis": axis}))


SLICES = [
    # (starts, sizes, steps), and the same as ONNX writes it (starts, ends, steps)
    (([1, 0], [2, 6], [1, 1]), ([1, 0], [3, 6], [1, 1])),
    (([0, 1], [4, 3], [1, 2]), ([0, 1], [4, 6], [1, 2])),
    (([3, 5], [4, 6], [-1, -1]), ([3, 5], [-5, -7], [-1, -1])),
    (([3, 4], [2, 2], [-2, -3]), ([3, 4], [-5, -7], [-2, -3])),
    (([3, 4], [2, 1], [-2, -3]), ([3, 4], [0, 1], [-2, -3])),
    (([2, 0], [0, 6], [1, 1]), ([2, 0], [2, 6], [1, 1])),
]


@pytest.mark.parametrize(("ours", "theirs"), SLICES)
def test_slice(ours: tuple[list[int], ...], theirs: tuple[list[int], ...]):
    x = array(F32, 4, 6)
    starts, ends, steps = (np.array(values, np.int64) for values in theirs)
    expected = run_node("Slice", [x, starts, ends, np.array([0, 1], np.int64), steps])
    assert_close(interpret(lambda x: SliceOp(x, *ours), x), expected)


@pytest.mark.parametrize("mode", list(PadMode), ids=str)
@pytest.mark.parametrize("dtype", [F32, I32], ids=str)
def test_pad(mode: PadMode, dtype: DType):
    x = array(dtype, 3, 4)
    low, high = [1, 2], [2, 0]
    operands = [x, np.array([*low, *high], np.int64), np.array(3, x.dtype)]
    expected = run_node("Pad", operands, {"mode": mode.value}, opset=19)
    assert_close(interpret(lambda x: PadOp(x, low, high, mode=mode, value=3.0), x), expected)


def test_pad_by_a_whole_dimension():
    x = array(F32, 2, 3)
    assert_close(
        interpret(lambda x: PadOp(x, [0, 3], [2, 3], mode=PadMode.WRAP), x), np.pad(x, [(0, 2), (3, 3)], mode="wrap")
    )
    minus_infinity = interpret(lambda x: PadOp(x, [0, 1], [0, 0], value=-np.inf), x)
    assert minus_infinity[:, 0].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("dtype", [I32, I64], ids=str)
@pytest.mark.parametrize(("axis", "indices"), [(0, [[0, 2], [-1, 1]]), (1, [3, 0, -4]), (2, -1), (1, [])])
def test_gather(axis: int, indices: object, dtype: DType):
    data, wanted = array(F32, 3, 4, 5), np.array(indices, dtype.numpy)
    assert_close(
        interpret(lambda data, wanted: GatherOp(data, wanted, axis), data, wanted),
        run_node("Gather", [data, wanted], {"axis": axis}),
    )


@pytest.mark.parametrize("index", [3, -4])
def test_gather_refuses_an_index_outside(index: int):
    data, indices = array(F32, 3, 2), np.array([0, index], np.int64)
    with pytest.raises(NeuronError, match=rf"gather index {index} is outside \[-3, 2\]"):
        interpret(lambda data, indices: GatherOp(data, indices, 0), data, indices)


# Of equal indices the later update stays.
@pytest.mark.parametrize("axis", [0, 1])
def test_scatter(axis: int):
    data, indices = array(F32, 4, 4), np.array([[0, -1], [2, 0]], np.int64)
    updates = array(F32, *((2, 2, 4) if axis == 0 else (4, 2, 2)))
    expected = data.copy()
    if axis == 0:
        expected[[3, 2, 0]] = updates.reshape(4, 4)[1:]
    else:
        expected[:, [3, 2, 0]] = updates.reshape(4, 4)[:, 1:]
    actual = interpret(lambda d, i, u: ScatterOp(d, i, u, axis), data, indices, updates)
    np.testing.assert_array_equal(actual, expected)


def test_scatter_refuses_an_index_outside():
    with pytest.raises(NeuronError, match=r"scatter index 3 is outside \[-3, 2\]"):
        interpret(lambda d, i, u: ScatterOp(d, i, u, 0), array(F32, 3), np.array([3]), array(F32, 1))
