"""Batches: large ones cut over the instances, small requests gathered."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime.serving import DataParallel, DynamicBatcher, LoadedModel, NrtError, Runtime, Status
from runtime.session import RunResult, Session
from tests.runtime.serving.models import Array, small_model


def rows_of(model: Any, count: int, seed: int = 0) -> tuple[Array, Array]:
    """Inputs with so many rows, and the outputs of a session that runs alone."""
    x = np.random.default_rng(seed).standard_normal((count, 16), np.float32)
    return x, Session(model.neff).run({"x": x}).outputs["y"]


# The model was compiled for four rows: 19 rows are five pieces, the last one padded, and all four instances work.
@pytest.mark.parametrize("count", [0, 1, 4, 19])
@pytest.mark.parametrize("workers", [None, 1])
def test_data_parallel(count: int, workers: int | None):
    model = small_model(rows=4)
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff, core_count=4)
        parallel = DataParallel(loaded, workers)
        x, expected = rows_of(model, count)
        np.testing.assert_array_equal(parallel.run({"x": x})["y"], expected)
        assert loaded.statistics.statuses == {Status.NRT_SUCCESS: max(1, -(-count // 4))}
        with pytest.raises(NrtError) as raised:
            parallel.run({"x": np.zeros((3, 5), np.float32)})
        assert raised.value.status is Status.NRT_EXEC_BAD_INPUT


# A piece that fails ends the batch; pieces that wait are withdrawn.
def test_data_parallel_fails_as_a_whole():
    model = small_model(rows=4)
    with Runtime("inf1.xlarge", {"NEURON_FAIL_ON_NAN": "1", "NEURON_MAX_NUM_INFERS": "1"}) as runtime:
        loaded = runtime.load(model.neff)
        x = np.zeros((40, 16), np.float32)
        x[0] = np.nan
        with pytest.raises(NrtError) as raised:
            DataParallel(loaded).run({"x": x})
        assert raised.value.status is Status.NRT_EXEC_COMPLETED_WITH_NUM_ERR
        assert loaded.statistics.statuses[Status.NRT_SUCCESS] <= 2


def batches(loaded: LoadedModel) -> int:
    return sum(loaded.statistics.statuses.values())


# Sixteen requests of a row each come at the same time: four full batches, and everybody gets the own row.
def test_gathering_full_batches():
    model = small_model(rows=4)
    x, expected = rows_of(model, 16)
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff, core_count=4)
        with DynamicBatcher(loaded, delay_seconds=20.0) as batcher:
            assert batcher.batch_rows == 4
            futures = [batcher.submit({"x": row[None]}) for row in x]
            for future, row in zip(futures, expected, strict=True):
                np.testing.assert_array_equal(future.result(10)["y"], row[None])
        assert batches(loaded) == 4


# Requests of several rows stay whole; what is left when the delay is over runs as it is.
def test_gathering_odd_sizes():
    model = small_model(rows=4)
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff)
        with DynamicBatcher(loaded, delay_seconds=0.05) as batcher:
            wanted = [rows_of(model, count, seed) for seed, count in enumerate((3, 2, 1, 9))]
            futures = [batcher.submit({"x": x}) for x, _ in wanted]
            for future, (_, expected) in zip(futures, wanted, strict=True):
                np.testing.assert_array_equal(future.result(10)["y"], expected)
            assert batches(loaded) == 3


def test_gathering_from_many_threads():
    model = small_model(rows=4)
    x, expected = rows_of(model, 64)
    right: list[bool] = []
    with Runtime("inf1.xlarge", {}) as runtime, DynamicBatcher(runtime.load(model.neff, core_count=4)) as batcher:

        def client(first: int) -> None:
            for number in range(first, 64, 8):
                right.append(np.array_equal(batcher.run({"x": x[number : number + 1]}, 20)["y"][0], expected[number]))

        threads = [threading.Thread(target=client, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert right == [True] * 64


# Bad inputs are refused before they get into a batch with others.
def test_bad_inputs_do_not_spoil_a_batch():
    model = small_model(rows=4)
    x, expected = rows_of(model, 1)
    with Runtime("inf1.xlarge", {}) as runtime, DynamicBatcher(runtime.load(model.neff), 0.05) as batcher:
        good = batcher.submit({"x": x})
        with pytest.raises(NrtError) as raised:
            batcher.submit({"x": np.zeros((1, 3), np.float32)})
        assert raised.value.status is Status.NRT_EXEC_BAD_INPUT
        np.testing.assert_array_equal(good.result(10)["y"], expected)


def test_errors_of_a_batch_reach_all_its_requests():
    model = small_model(rows=4)
    with Runtime("inf1.xlarge", {"NEURON_FAIL_ON_NAN": "1"}) as runtime:
        loaded = runtime.load(model.neff)
        with DynamicBatcher(loaded, 20.0) as batcher:
            futures = [batcher.submit({"x": np.full((2, 16), value, np.float32)}) for value in (0.0, np.nan)]
            for future in futures:
                error = future.exception(10)
                assert isinstance(error, NrtError) and error.status is Status.NRT_EXEC_COMPLETED_WITH_NUM_ERR
            loaded.unload()
            late = [batcher.submit({"x": np.zeros((2, 16), np.float32)}) for _ in range(2)]
            for future in late:
                error = future.exception(10)
                assert isinstance(error, NrtError) and error.status is Status.NRT_INVALID_HANDLE
        with pytest.raises(NrtError) as raised:
            batcher.submit({"x": np.zeros((1, 16), np.float32)})
        assert raised.value.status is Status.NRT_CLOSED


def test_time_outs(monkeypatch: pytest.MonkeyPatch):
    model = small_model(rows=4)
    x, expected = rows_of(model, 1)
    is_open = threading.Event()
    run = Session.run

    def held(session: Session, inputs: Mapping[str, Any], mode: Any = "functional") -> RunResult:
        assert is_open.wait(20)
        return run(session, inputs, mode)

    monkeypatch.setattr(Session, "run", held)
    with Runtime("inf1.xlarge", {}) as runtime, DynamicBatcher(runtime.load(model.neff), 0.0) as batcher:
        with pytest.raises(NrtError) as raised:
            batcher.run({"x": x}, timeout=0.05)
        assert raised.value.status is Status.NRT_TIMEOUT
        is_open.set()
        np.testing.assert_array_equal(batcher.run({"x": x}, 20)["y"], expected)


# Without independent rows there is nothing to gather.
def test_models_that_cannot_be_batched():
    neff = replace(small_model(rows=4).neff, dimensions=[])
    with Runtime("inf1.xlarge", {}) as runtime, pytest.raises(NrtError) as raised:
        DynamicBatcher(runtime.load(neff))
    assert raised.value.status is Status.NRT_INVALID
