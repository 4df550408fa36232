import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_dialects.errors import NeuronError
from runtime.semantics import SEMANTICS, Case
from runtime.semantics.rows import match8
from tests.runtime.meanings import empty, run, typed

RNG = np.random.default_rng(11)
REDUCE = {"add": np.sum, "maximum": np.max, "minimum": np.min, "multiply": np.prod}


@pytest.mark.parametrize("op", REDUCE)
@pytest.mark.parametrize("axes", [1, 2])
def test_tensor_reduce(op: str, axes: int):
    data = typed("f32", RNG.normal(size=(3, 4, 5)))
    shape = (3, 4) if axes == 1 else (3, 1)
    out = run("tensor_reduce", empty("f32", *shape), "dve", {"op": op, "axes": axes, "negate": True}, data=data)
    expected = -REDUCE[op](data[1], axis=tuple(range(3 - axes, 3)))
    np.testing.assert_allclose(out.reshape(expected.shape), expected, rtol=1e-5)


def test_reducing_too_many_dimensions_is_refused():
    with pytest.raises(NeuronError, match="reduces 2 of 1 free dimensions"):
        SEMANTICS["tensor_reduce"](
            Case("tensor_reduce", "dve", {"dst": "f32", "data": "f32"}, {"data": (4, 8), "dst": (4, 1)}, {"axes": 2})
        )


# Sums are taken in float32 even where the result is bf16: 256 ones and a half would stick at 256 in bf16.
def test_sums_are_float32():
    data = typed("bf16", np.full((1, 512), 0.75))
    assert run("tensor_reduce", empty("bf16", 1, 1), "dve", data=data)[0, 0] == 384


def test_tensor_scalar_reduce():
    data, result = typed("f32", [[1.0, -2.0, 3.0]]), empty("f32", 1, 1)
    fields = {"op0": "multiply", "scalar0": 2.0, "reduce": "maximum"}
    out = run("tensor_scalar_reduce", empty("bf16", 1, 3), "dve", fields, data=data, result=result)
    assert out.astype(float).tolist() == [[2.0, -4.0, 6.0]]
    assert result[1].tolist() == [[6.0]]


# A running recurrence h = a * h + b, from an initial value per partition; and a running maximum from an immediate.
def test_scan():
    a, b, initial = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 7), (2, 7), (2, 1)))
    out = run(
        "tensor_tensor_scan", empty("f32", 2, 7), "dve", {}, data=("f32", a), other=("f32", b), initial=("f32", initial)
    )
    state = initial[:, 0]
    for position in range(7):
        state = a[:, position] * state + b[:, position]
        np.testing.assert_allclose(out[:, position], state, rtol=1e-5)
    fields = {"op0": "maximum", "op1": "bypass", "initial_value": -1e30}
    running = run("tensor_tensor_scan", empty("f32", 2, 7), "dve", fields, data=("f32", a), other=("f32", b))
    assert np.array_equal(running, np.maximum.accumulate(a, axis=1))
    compared = {"op0": "greater", "op1": "add", "initial_value": 0.0}
    assert run("tensor_tensor_scan", empty("f32", 2, 7), "dve", compared, data=("f32", a), other=("f32", b)).shape == (
        2,
        7,
    )


# Statistics of even and odd positions, aggregated: mean and variance of the whole row; also for a row of one.
@pytest.mark.parametrize("elements", [1, 7, 512])
def test_batch_statistics(elements: int):
    data = typed("f32", RNG.normal(loc=5, size=(4, elements)))
    stats = run("bn_stats", empty("f32", 4, 6), "dve", data=data)
    np.testing.assert_array_equal(stats[:, 0], (elements + 1) // 2)
    np.testing.assert_array_equal(stats[:, 3], elements // 2)
    result = run("bn_aggr", empty("f32", 4, 2), "dve", data=("f32", stats))
    np.testing.assert_allclose(result[:, 0], data[1].mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(result[:, 1], data[1].var(axis=1), rtol=1e-4, atol=1e-6)


def test_statistics_come_in_triples():
    with pytest.raises(NeuronError, match="has 8 elements per partition, must be a multiple of 3"):
        SEMANTICS["bn_aggr"](Case("bn_aggr", "dve", {"dst": "f32", "data": "f32"}, {"data": (4, 8), "dst": (4, 2)}))


@given(st.lists(st.integers(0, 9), min_size=8, max_size=20))
def test_top_eight(row: list[int]):
    data = typed("f32", [row])
    top = run("max8", empty("f32", 1, 8), "dve", data=data)
    assert top[0].tolist() == sorted(row, reverse=True)[:8]
    # Equal elements are eight different positions, so that index and replacement agree with the values.
    found = run("nc_find_index8", empty("ui32", 1, 8), "dve", data=data, values=("f32", top))[0]
    assert len(set(found.tolist())) == 8
    assert [row[i] for i in found] == top[0].tolist()
    left = run("nc_match_replace8", empty("f32", 1, len(row)), "dve", {"value": -1.0}, data=data, values=("f32", top))
    assert sorted(left[0].tolist()) == sorted([-1.0] * 8 + sorted(row)[:-8])


# Duplicates take successive positions from left to right; what is absent is all ones.
def test_matches():
    data = np.array([[1, 2, 3, 4, 8, 8, 8]], np.float32)
    values = np.array([[3, 8, 8, 9, 8, 8, 1, 1]], np.float32)
    assert match8(data, values).tolist() == [[2, 4, 5, -1, 6, -1, 0, -1]]
    out = run("nc_find_index8", empty("ui16", 1, 8), data=("f32", data), values=("f32", values))
    assert out.tolist() == [[2, 4, 5, 65535, 6, 65535, 0, 65535]]


def test_range_select():
    data, lower, upper = typed("f32", [[1, 2, 3, 4]] * 2), typed("f32", [[1], [0]]), typed("f32", [[3], [2]])
    out = run("range_select", empty("f32", 2, 4), "dve", {"fill": -9.0}, data=data, lower=lower, upper=upper)
    assert out.tolist() == [[-9, 2, 3, -9], [1, 2, -9, -9]]
    assert run("range_select", empty("f32", 2, 4), "dve", data=data, upper=upper)[0, 3] < -3e38
