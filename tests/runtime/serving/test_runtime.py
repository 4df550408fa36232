"""The serving runtime: loads, requests from threads, futures and asyncio, and a status for whatever cannot be."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.machine import Machine
from runtime.neff import write_neff
from runtime.serving import Runtime, SimulatedInstance, Status
from runtime.serving.runtime import LoadedModel
from runtime.serving.status import NrtError
from runtime.session import RunResult, Session
from tests.runtime.serving.models import small_model


@contextmanager
def raises(status: Status) -> Generator[None]:
    with pytest.raises(NrtError) as raised:
        yield
    assert raised.value.status is status


class Gate:
    """Holds every execution at its beginning until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), threading.Semaphore(0)
        run = Session.run

        def held(session: Session, inputs: Mapping[str, Any], mode: Any = "functional") -> RunResult:
            self.entered.release()
            assert self.open.wait(20)
            return run(session, inputs, mode)

        monkeypatch.setattr(Session, "run", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    small_model()
    return Gate(monkeypatch)


def used_bytes(instance: SimulatedInstance) -> int:
    return sum(row["used"] for row in instance.memory_report())


# -- requests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relu", "host"])
def test_three_ways_to_ask(kind: str):
    model = small_model(kind)
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff, core_count=4)
        assert len(loaded.plan.placements) == 4
        execution = loaded.run(model.inputs[0])
        assert model.is_right(0, execution.outputs) and execution.cores in [range(k, k + 1) for k in range(4)]
        futures = [loaded.submit(given) for given in model.inputs]
        assert all(model.is_right(number, future.result(20).outputs) for number, future in enumerate(futures))

        async def ask() -> list[bool]:
            executions = await asyncio.gather(*(loaded.run_async(given, 20) for given in model.inputs))
            return [model.is_right(number, execution.outputs) for number, execution in enumerate(executions)]

        assert all(asyncio.run(ask()))
        assert loaded.statistics.statuses == {Status.NRT_SUCCESS: 17}


# All instances work at the same time: four requests are inside before any is done.
def test_instances_run_in_parallel(gate: Gate):
    model = small_model()
    with Runtime("inf1.xlarge", {}, host_threads=4) as runtime:
        loaded = runtime.load(model.neff, core_count=4)
        futures = [loaded.submit(model.inputs[0]) for _ in range(4)]
        assert all(gate.entered.acquire(timeout=20) for _ in range(4))
        assert [row["model"] for row in runtime.snapshot()["cores"]] == [loaded.name] * 4
        gate.open.set()
        assert sorted(future.result(20).instance for future in futures) == [0, 1, 2, 3]


# While a host segment of one request runs, the core runs another request.
def test_host_segments_overlap_with_cores(monkeypatch: pytest.MonkeyPatch):
    model = small_model("host")
    meeting = threading.Barrier(2)
    run_host, run_core = Session.run_host, Session._run_core  # pyright: ignore[reportPrivateUsage]
    met: list[str] = []

    def meet(kind: str) -> None:
        # The first request's host segment waits for the second request's first core segment, and the other way round.
        if not met or (kind == "core" and met == ["host"]):
            met.append(kind)
            meeting.wait(20)

    def host(session: Session, *arguments: Any) -> None:
        meet("host")
        run_host(session, *arguments)

    def core(session: Session, *arguments: Any) -> Any:
        if met:
            meet("core")
        return run_core(session, *arguments)

    monkeypatch.setattr(Session, "run_host", host)
    monkeypatch.setattr(Session, "_run_core", core)
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff)
        assert len(loaded.plan.placements) == 1
        futures = [loaded.submit(model.inputs[number]) for number in range(2)]
        assert all(model.is_right(number, future.result(20).outputs) for number, future in enumerate(futures))
    assert met == ["host", "core"]


# While stage 1 of a pipeline works for the first request, stage 0 works for the second.
def test_stages_work_at_the_same_time(monkeypatch: pytest.MonkeyPatch):
    model = small_model("deep", cores=2)
    programs = [image.program for image in model.neff.subgraphs]
    meeting = threading.Barrier(2)
    runs: Counter[int] = Counter()
    run = Machine.run

    def meet(machine: Machine, *arguments: Any) -> Any:
        stage = next(number for number, program in enumerate(programs) if program is machine.program)
        runs[stage] += 1
        if (stage, runs[stage]) in ((1, 1), (0, 2)):
            meeting.wait(20)
        return run(machine, *arguments)

    monkeypatch.setattr(Machine, "run", meet)
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff)
        futures = [loaded.submit(model.inputs[number]) for number in range(2)]
        assert all(model.is_right(number, future.result(20).outputs) for number, future in enumerate(futures))
    assert runs == {0: 2, 1: 2} and not meeting.broken


# A pipeline gives what one core gives, in a group that it shares with another model.
def test_pipelines():
    model, alone = (small_model("deep", cores=cores) for cores in (2, 1))
    with Runtime("inf1.xlarge", {"NEURONCORE_GROUP_SIZES": "3"}) as runtime:
        loads = [runtime.load(neff) for neff in (model.neff, alone.neff)]
        assert [place.cores for place in loads[0].plan.placements] == [range(2)]
        assert loads[0].notes == ("1 of 3 cores stay idle: the model needs 2",)
        assert len(loads[1].plan.placements) == 3
        futures = [load.submit(given) for given in model.inputs for load in loads]
        for number in range(8):
            staged, whole = (future.result(20).outputs for future in futures[2 * number : 2 * number + 2])
            assert model.is_right(number, staged) and alone.is_right(number, whole)
            np.testing.assert_allclose(staged["y"], whole["y"], rtol=1e-5, atol=1e-5)
        assert futures[0].result().cores == range(2)
        service = loads[0].service()
        assert [step.core for step in service.steps if step.kind == "core"] == [0, 1]
        # The weights of a stage, 16 x 16 in bf16 and more, come on chip again when the other model had the cores.
        assert service.switch_ns > 16 * 16 * 2 / 13.5 and loads[1].service().switch_ns == 0


# Two models in one group: never both inside, and both get their turn.
def test_models_share_a_group_in_turn():
    models = [small_model("relu"), small_model("tanh")]
    with Runtime("inf1.xlarge", {"NEURONCORE_GROUP_SIZES": "2"}) as runtime:
        loads = [runtime.load(model.neff, name=str(number)) for number, model in enumerate(models)]
        assert all(load.plan.placements[0].domain == frozenset((0, 1)) for load in loads)
        futures = [(k % 2, k % 8, loads[k % 2].submit(models[k % 2].inputs[k % 8])) for k in range(200)]
        for _ in range(50):
            running = [row["running"] for row in runtime.snapshot()["models"]]
            assert min(running) == 0
        assert all(models[which].is_right(number, future.result(30).outputs) for which, number, future in futures)


def test_runtimes_own_disjoint_cores():
    instance = SimulatedInstance("inf1.6xlarge")
    model = small_model()
    with Runtime(instance, {"NEURON_RT_NUM_CORES": "4"}) as first:
        with Runtime(instance, {"NEURON_RT_VISIBLE_CORES": "4-7", "NEURON_PROCESS_TAG": "b"}) as second:
            assert (first.cores, second.cores) == (range(4), range(4, 8))
            loaded = second.load(model.neff)
            assert loaded.run(model.inputs[1]).cores == range(1)
            assert [row["core"] for row in instance.memory_report() if row["used"]] == [4]
            assert (second.snapshot()["tag"], second.snapshot()["models"][0]["first_core"]) == ("b", 4)
            with raises(Status.NRT_RESOURCE):
                Runtime(instance, {})
            with raises(Status.NRT_RESOURCE):
                Runtime(instance, {"NEURON_RT_VISIBLE_CORES": "7"})
        with Runtime(instance, {"NEURON_RT_NUM_CORES": "12"}) as third:
            assert third.cores == range(4, 16)
    assert used_bytes(instance) == 0


# -- statuses ----------------------------------------------------------------------------------------------------------


def test_full_queues(gate: Gate):
    model = small_model()
    with Runtime("inf1.xlarge", {"NEURON_MAX_NUM_INFERS": "1"}) as runtime:
        loaded = runtime.load(model.neff, queue_limit=2)
        futures = [loaded.submit(model.inputs[0]) for _ in range(3)]
        for ask in (loaded.submit, loaded.run):
            with raises(Status.NRT_QUEUE_FULL):
                ask(model.inputs[0])
        # A request that is withdrawn makes room.
        assert futures[2].cancel()
        futures[2] = loaded.submit(model.inputs[1])
        gate.open.set()
        assert model.is_right(1, futures[2].result(20).outputs)
        assert loaded.statistics.cancelled == 1
        assert loaded.statistics.statuses == {Status.NRT_SUCCESS: 3, Status.NRT_QUEUE_FULL: 2}


def test_limit_of_asynchronous_requests(gate: Gate):
    model = small_model()
    with Runtime("inf1.xlarge", {"NEURON_RT_ASYNC_EXEC_MAX_INFLIGHT_REQUESTS": "3"}) as runtime:
        loaded = runtime.load(model.neff)
        futures = [loaded.submit(model.inputs[0]) for _ in range(3)]
        with raises(Status.NRT_QUEUE_FULL):
            loaded.submit(model.inputs[0])
        gate.open.set()
        assert all(model.is_right(0, future.result(20).outputs) for future in futures)
        # Synchronous calls do not count.
        assert model.is_right(0, loaded.run(model.inputs[0]).outputs)
        assert model.is_right(0, loaded.submit(model.inputs[0]).result(20).outputs)


def test_time_outs_withdraw_what_waits(gate: Gate):
    model = small_model()
    with Runtime("inf1.xlarge", {"NEURON_MAX_NUM_INFERS": "1"}) as runtime:
        loaded = runtime.load(model.neff)
        running = loaded.submit(model.inputs[0])
        with raises(Status.NRT_TIMEOUT):
            loaded.run(model.inputs[0], timeout=0.01)
        with raises(Status.NRT_TIMEOUT):
            asyncio.run(loaded.run_async(model.inputs[0], timeout=0.01))
        assert runtime.snapshot()["models"][0]["waiting"] == 0
        gate.open.set()
        assert model.is_right(0, running.result(20).outputs)
        assert loaded.statistics.statuses == {Status.NRT_SUCCESS: 1, Status.NRT_TIMEOUT: 2}
        assert loaded.statistics.cancelled == 2


def test_cancelled_tasks_withdraw_their_requests(gate: Gate):
    model = small_model()
    with Runtime("inf1.xlarge", {"NEURON_MAX_NUM_INFERS": "1"}) as runtime:
        loaded = runtime.load(model.neff)
        running = loaded.submit(model.inputs[0])
        assert gate.entered.acquire(timeout=20) and not running.cancel()

        async def give_up() -> None:
            task = asyncio.create_task(loaded.run_async(model.inputs[0]))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(give_up())
        assert (loaded.statistics.cancelled, runtime.snapshot()["models"][0]["waiting"]) == (1, 0)
        gate.open.set()
        running.result(20)


@pytest.mark.parametrize(
    ("inputs", "cause"),
    [
        ({}, "NX-RUN-011"),
        ({"z": np.zeros((1, 16), np.float32)}, "NX-RUN-011"),
        ({"x": np.zeros((1, 17), np.float32)}, "NX-RUN-012"),
        ({"x": np.array([["text"] * 16])}, "NX-RUN-005"),
    ],
)
def test_bad_inputs(inputs: dict[str, Any], cause: str):
    model = small_model()
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff)
        with pytest.raises(NrtError) as raised:
            loaded.run(inputs)
        assert (raised.value.status, raised.value.cause_code) == (Status.NRT_EXEC_BAD_INPUT, cause)
        assert model.is_right(0, loaded.run(model.inputs[0]).outputs)
        assert loaded.statistics.statuses == {Status.NRT_SUCCESS: 1, Status.NRT_EXEC_BAD_INPUT: 1}


def test_not_a_number():
    model = small_model()
    broken = {"x": np.full((1, 16), np.nan, np.float32)}
    with Runtime("inf1.xlarge", {"NEURON_FAIL_ON_NAN": "1"}) as runtime:
        loaded = runtime.load(model.neff)
        with raises(Status.NRT_EXEC_COMPLETED_WITH_NUM_ERR):
            loaded.run(broken)
        assert model.is_right(0, loaded.run(model.inputs[0]).outputs)
    with Runtime("inf1.xlarge", {}) as runtime:
        assert np.isnan(runtime.load(model.neff).run(broken).outputs["y"]).any()


def test_execution_time_out_counts_simulated_seconds():
    model = small_model()
    with Runtime("inf1.xlarge", {"NEURON_RT_EXEC_TIMEOUT": "1e-6"}) as runtime, raises(Status.NRT_TIMEOUT):
        runtime.load(model.neff).run(model.inputs[0])
    with Runtime("inf1.xlarge", {"NEURON_RT_EXEC_TIMEOUT": "1e-3"}) as runtime:
        assert model.is_right(0, runtime.load(model.neff).run(model.inputs[0]).outputs)


def test_bugs_reach_the_caller(monkeypatch: pytest.MonkeyPatch):
    def broken(session: Session, inputs: Mapping[str, Any], mode: Any = "functional") -> RunResult:
        raise ZeroDivisionError

    model = small_model()
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff)
        with monkeypatch.context() as patched:
            patched.setattr(Session, "run", broken)
            with pytest.raises(ZeroDivisionError):
                loaded.run(model.inputs[0])
        assert model.is_right(0, loaded.run(model.inputs[0]).outputs)
        assert loaded.statistics.statuses == {Status.NRT_SUCCESS: 1, Status.NRT_FAILURE: 1}


# -- loads -------------------------------------------------------------------------------------------------------------


def test_loads_from_a_file(tmp_path: Path):
    model = small_model()
    path = tmp_path / "m.neff"
    write_neff(model.neff, path)
    with Runtime("inf1.xlarge", {}) as runtime:
        assert model.is_right(3, runtime.load(path).run(model.inputs[3]).outputs)
        path.write_bytes(path.read_bytes()[:2000])
        with raises(Status.NRT_INVALID):
            runtime.load(path)
        assert len(runtime.snapshot()["models"]) == 1


def test_models_of_another_generation():
    with Runtime("inf2.xlarge", {}) as runtime:
        with raises(Status.NRT_UNSUPPORTED_NEFF_VERSION):
            runtime.load(small_model().neff)
        # Trn1 and Inf2 have the same cores.
        model = small_model(target="trn1")
        assert model.is_right(0, runtime.load(model.neff).run(model.inputs[0]).outputs)


def test_loads_that_do_not_fit():
    model = small_model()
    with Runtime("inf1.xlarge", {"NEURONCORE_GROUP_SIZES": "1,2"}) as runtime:
        for group, start, count in ((2, -1, -1), (None, 3, -1), (None, 0, 0)):
            with raises(Status.NRT_INVALID):
                runtime.load(model.neff, group=group, start_core=start, core_count=count)
        with raises(Status.NRT_LOAD_NOT_ENOUGH_NC):
            runtime.load(model.neff, start_core=1, core_count=3)


# Device memory holds one such model, not two: the second load changes nothing, and works once the first is gone.
def test_device_memory_is_limited(monkeypatch: pytest.MonkeyPatch):
    instance = SimulatedInstance("inf1.xlarge")
    model = small_model()
    with Runtime(instance, {}) as runtime:
        first = runtime.load(model.neff, start_core=0, core_count=2)
        used = used_bytes(instance)
        assert used > 0
        memory = instance._memory  # pyright: ignore[reportPrivateUsage]
        monkeypatch.setattr(memory, "capacity_bytes", memory.used_bytes(0) + 1)
        with raises(Status.NRT_RESOURCE):
            runtime.load(model.neff, start_core=1, core_count=3)
        assert used_bytes(instance) == used and len(runtime.snapshot()["models"]) == 1
        first.unload()
        assert used_bytes(instance) == 0
        runtime.load(model.neff, start_core=1, core_count=3)
    assert used_bytes(instance) == 0


def test_instances_on_a_chip_may_share_weights():
    model = small_model()
    constants: list[int] = []
    for shared in ("0", "1"):
        with Runtime("inf1.6xlarge", {"NEURON_RT_MULTI_INSTANCE_SHARED_WEIGHTS": shared}) as runtime:
            runtime.load(model.neff, start_core=0, core_count=8)
            constants.append(sum(row["constants"] for row in runtime.instance.memory_report()))
    assert constants[0] == 4 * constants[1] > 0


# -- life --------------------------------------------------------------------------------------------------------------


def test_unload_serves_what_waits(gate: Gate):
    model = small_model()
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff)
        futures = [loaded.submit(model.inputs[0]) for _ in range(10)]
        done: list[int] = []
        thread = threading.Thread(target=lambda: (loaded.unload(), done.append(1)))
        thread.start()
        while not loaded.is_unloading:
            pass
        with raises(Status.NRT_INVALID_HANDLE):
            loaded.run(model.inputs[0])
        assert not done
        gate.open.set()
        thread.join(20)
        assert done and all(model.is_right(0, future.result(20).outputs) for future in futures)
        with raises(Status.NRT_INVALID_HANDLE):
            loaded.unload()


# Two threads take the same model away, one by unloading it, one by closing the runtime: whoever comes first.
def test_unload_and_close_at_the_same_time(gate: Gate):
    model = small_model()
    runtime = Runtime("inf1.xlarge", {})
    loaded = runtime.load(model.neff)
    future = loaded.submit(model.inputs[0])
    failures: list[BaseException] = []

    def guarded(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in (loaded.unload, runtime.close)]
    threads[0].start()
    while not loaded.is_unloading:
        pass
    threads[1].start()
    gate.open.set()
    for thread in threads:
        thread.join(20)
    assert failures == [] and not any(thread.is_alive() for thread in threads)
    assert model.is_right(0, future.result(20).outputs) and used_bytes(runtime.instance) == 0


@pytest.mark.parametrize("end", ["unload", "close"])
def test_requests_that_wait_are_failed(gate: Gate, end: str):
    model = small_model()
    runtime = Runtime("inf1.xlarge", {"NEURON_MAX_NUM_INFERS": "1"})
    loaded = runtime.load(model.neff)
    running = loaded.submit(model.inputs[0])
    assert gate.entered.acquire(timeout=20)
    waiting = loaded.submit(model.inputs[0])
    # The callback of a future may call the runtime.
    seen: list[Any] = []
    waiting.add_done_callback(lambda _: (gate.open.set(), seen.append(runtime.snapshot())))
    if end == "unload":
        loaded.unload(drain=False)
    else:
        runtime.close()
    assert len(seen) == 1
    with raises(Status.NRT_INVALID_HANDLE if end == "unload" else Status.NRT_CLOSED):
        waiting.result(20)
    assert model.is_right(0, running.result(20).outputs)
    assert used_bytes(runtime.instance) == 0
    runtime.close()


@pytest.mark.parametrize(
    "call", [lambda r, m: r.load(m.neff), lambda r, m: r.only.run({}), lambda r, m: r.only.submit({})]
)
def test_closed(call: Callable[[Any, Any], object]):
    model = small_model()
    runtime: Any = Runtime("inf1.xlarge", {})
    runtime.only = runtime.load(model.neff)
    runtime.close()
    with raises(Status.NRT_CLOSED):
        call(runtime, model)


# The end of a request may unload its own model, or close the runtime.
def test_callbacks_may_unload():
    model = small_model()
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded = runtime.load(model.neff)
        done = threading.Event()
        loaded.submit(model.inputs[0]).add_done_callback(lambda _: (loaded.unload(), runtime.close(), done.set()))
        assert done.wait(20)
        assert used_bytes(runtime.instance) == 0


# The host memory of a model goes with it, though its handle stays.
def test_unloaded_models_keep_no_machines():
    model = small_model()
    with Runtime("inf1.xlarge", {}) as runtime:
        loaded: LoadedModel = runtime.load(replace(model.neff, name="short-lived"))
        loaded.run(model.inputs[0])
        loaded.unload()
        gc.collect()
        kept = [s for s in gc.get_objects() if isinstance(s, Session) and s.neff.name == "short-lived" and s._machines]  # pyright: ignore[reportPrivateUsage]
        assert kept == []
