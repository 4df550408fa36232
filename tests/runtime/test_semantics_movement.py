import ml_dtypes
import numpy as np
import pytest

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from runtime.semantics import SEMANTICS, Case
from runtime.semantics.numerics import round_to_tf32
from tests.runtime.meanings import Typed, empty, run, typed

RNG = np.random.default_rng(5)


# Products of 16-bit values summed in float32; with `accumulate` they are added to what PSUM holds.
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32", "f8e4m3"])
@pytest.mark.parametrize("accumulate", [0, 1])
def test_matmul(dtype: str, accumulate: int):
    stationary, moving = typed(dtype, RNG.normal(size=(64, 16))), typed(dtype, RNG.normal(size=(64, 3, 8)))
    before = typed("f32", RNG.normal(size=(16, 24)))
    out = run("nc_matmul", before, "pe", {"accumulate": accumulate}, stationary=stationary, moving=moving)
    exact = stationary[1].astype(np.float64).T @ moving[1].astype(np.float64).reshape(64, 24)
    np.testing.assert_allclose(out, exact + accumulate * before[1], rtol=1e-4, atol=1e-4)


# Without `accumulate` poison in PSUM does not matter.
def test_matmul_overwrites_poison():
    ones = typed("bf16", np.ones((4, 4)))
    assert (run("nc_matmul", empty("f32", 4, 4), "pe", stationary=ones, moving=ones) == 4).all()


def test_matmul_rounds_tf32():
    stationary, moving = typed("tf32", RNG.normal(size=(8, 4))), typed("tf32", RNG.normal(size=(8, 4)))
    out = run("nc_matmul", empty("f32", 4, 4), "pe", stationary=stationary, moving=moving)
    np.testing.assert_array_equal(out, round_to_tf32(stationary[1]).T @ round_to_tf32(moving[1]))


@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32", "ui8"])
def test_transpose(dtype: str):
    data = typed(dtype, np.arange(24).reshape(4, 2, 3))
    out = run("nc_transpose", empty(dtype, 6, 4), "pe", data=data)
    assert np.array_equal(out, data[1].reshape(4, 6).T)


# SBUF [partitions, elements] and DRAM patterns list the same elements in the same order, and are cast on the way.
def test_dma_copy():
    source = typed("f32", RNG.normal(size=(2, 3, 4)))
    out = run("dma_copy", empty("bf16", 6, 4), src=source)
    assert np.array_equal(out, source[1].reshape(6, 4).astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_gather(dtype: str):
    table, indices = typed("f32", RNG.normal(size=(10, 2, 3))), typed("i32", [[9], [0], [9], [4]])
    out = run("dma_gather", empty(dtype, 4, 6), fields={"rows": 10}, table=table, indices=indices)
    assert np.array_equal(out, table[1].reshape(10, 6)[[9, 0, 9, 4]].astype(dtype_by_name(dtype).numpy))


def run_scatter(table: Typed, data: Typed, indices: Typed) -> np.ndarray:
    return run("dma_scatter", typed("f32", [0]), fields={}, table=table, data=data, indices=indices)


# Rows that are not named stay; where two partitions name one row the later one wins.
def test_scatter():
    table, data = typed("bf16", np.zeros((5, 2))), typed("f32", [[1, 2], [3, 4], [5, 6]])
    run_scatter(table, data, typed("i32", [[4], [1], [4]]))
    assert table[1].astype(int).tolist() == [[0, 0], [3, 4], [0, 0], [0, 0], [5, 6]]


@pytest.mark.parametrize("index", [-1, 10, 2**31 - 1])
def test_index_outside_of_the_table(index: int):
    table, indices = typed("f32", np.zeros((10, 4))), typed("i32", [[3], [index]])
    message = f"index {index} at position .1. of the indices, there are 10 rows in the table"
    with pytest.raises(NeuronError, match=message) as caught:
        run("dma_gather", empty("f32", 2, 4), table=table, indices=indices)
    assert caught.value.code == "NX-RUN-002"
    with pytest.raises(NeuronError, match=message):
        run_scatter(table, typed("f32", np.ones((2, 4))), indices)
    assert not table[1].any()


def test_rows_of_other_lengths_are_refused():
    dtypes = {"dst": "f32", "table": "f32", "indices": "i32"}
    with pytest.raises(NeuronError, match="rows of the table have 4 elements, those of dst 5"):
        SEMANTICS["dma_gather"](Case("dma_gather", "dma", dtypes, {"dst": (2, 5), "table": (9, 4), "indices": (2, 1)}))
    with pytest.raises(NeuronError, match="dst has 2 partitions, indices 3"):
        SEMANTICS["dma_gather"](Case("dma_gather", "dma", dtypes, {"dst": (2, 4), "table": (9, 4), "indices": (3, 1)}))


# Two cores of 16 partitions with indices of their own, 17 each: they lie partition by partition.
def test_local_gather():
    rng = np.random.default_rng(0)
    data, listed = rng.integers(-99, 99, (32, 8, 2)), rng.integers(0, 8, (2, 17))
    wanted = np.concatenate([data[:16, listed[0]], data[16:, listed[1]]])
    laid = np.zeros((2, 32), int)
    laid[:, :17] = 2 * listed
    indices = laid.reshape(2, 2, 16).transpose(0, 2, 1).reshape(32, 2)
    fields, typed_data = {"elements": 2}, typed("bf16", data.reshape(32, 16))
    out = run("local_gather", empty("bf16", 32, 34), "pool", fields, data=typed_data, indices=typed("ui16", indices))
    assert out.astype(int).reshape(32, 17, 2).tolist() == wanted.tolist()
    message = r"index 15 at position \[1, 16\] of the indices, there are 15 places for 2 elements in the row"
    indices[16, 1] = 15
    with pytest.raises(NeuronError, match=message):
        run("local_gather", empty("bf16", 32, 34), "pool", fields, data=typed_data, indices=typed("ui16", indices))


@pytest.mark.parametrize("dtype", ["i32", "f32", "ui8"])
def test_iota(dtype: str):
    out = run("iota", empty(dtype, 2, 2, 2), "pool", {"offset": 5, "step": 2, "channel_multiplier": 100})
    assert out.astype(int).tolist() == [[[5, 7], [9, 11]], [[105, 107], [109, 111]]]


# A causal mask: element i of row p stays where p - i >= 0.
def test_affine_select():
    data = typed("f32", np.ones((3, 3)))
    fields = {"step": -1, "channel_multiplier": 1, "op": "greater_equal", "fill": -1.0}
    out = run("affine_select", empty("f32", 3, 3), "pool", fields, data=data)
    assert np.array_equal(out, np.tril(np.ones((3, 3))) * 2 - 1)


@pytest.mark.parametrize(("op", "expected"), [("add", [5, 7]), ("maximum", [4, 5]), ("minimum", [1, 2])])
def test_partition_reduce(op: str, expected: list[int]):
    data = typed("i32", [[1, 2], [4, 5]])
    assert run("partition_reduce", empty("i32", 1, 2), "pool", {"op": op}, data=data).tolist() == [expected]
