"""The serving runtime: loads models on the cores of a simulated instance and runs their requests, many at a time.

A `Runtime` stands for a process that has initialised libnrt: it owns cores from its construction until `close`. `load`
gives a `LoadedModel`, whose instances stand side by side on the cores of a group. Requests come from any number of
threads (`run`), as futures (`submit`) or from asyncio (`run_async`). They are computed by the machine, each for itself,
on a few threads of this computer; which request runs on which instance is the `Scheduler`'s decision. How long they
would take on a device is not measured here: that is what the simulation of queues is for.

Whatever does not succeed is an `NrtError` with a status of libnrt's.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from neuron_dialects.errors import NeuronError
from neuron_dialects.target import load_target
from runtime.buckets import Assembly, Piece
from runtime.neff import Neff, read_neff
from runtime.serving.instance import SimulatedInstance
from runtime.serving.memory import Footprint, footprints, without_constants
from runtime.serving.placement import Group, LoadPlan, make_groups, plan_load
from runtime.serving.requests import CoreClock, Execution, Request, Statistics
from runtime.serving.scheduler import Dispatch, Scheduler
from runtime.serving.service import CoreUse, core_use, service_steps, switch_ns
from runtime.serving.settings import Settings, read_settings
from runtime.serving.simulation import Service
from runtime.serving.status import NrtError, Status, as_nrt_error, status_of
from runtime.session import Session

Array = np.ndarray[Any, np.dtype[Any]]
QUEUE_LIMIT = 1024
"""Requests of a model that may wait, unless the load says otherwise."""

MAX_HOST_THREADS = 32
DEFAULT_HOST_THREADS = min(MAX_HOST_THREADS, max(4, 2 * (os.cpu_count() or 1)))
"""Threads of this computer that compute requests."""


class LoadedModel:
    """A model on the cores of a runtime, made by `Runtime.load`. Thread-safe.

    `plan.placements` hold the cores of each instance, numbered as the runtime numbers them; `notes` what its load left
    to say; `statistics` what became of its requests.
    """

    def __init__(self, runtime: Runtime, key: int, name: str, neff: Neff, use: CoreUse, queue_limit: int) -> None:
        self.name, self.neff, self.core_use = name, neff, use
        self.statistics = Statistics()
        self.plan = LoadPlan(())
        self.queue_limit = queue_limit
        self.is_unloading = False
        self._runtime, self.key = runtime, key
        self._session = Session(neff)
        self._instances: list[Session] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What the caller of `load` should know about where the model went."""
        return self.plan.notes

    def release(self) -> None:
        """Drop the instances and the host memory that they hold."""
        self._instances.clear()

    def session(self, instance: int) -> Session:
        """The session of an instance."""
        return self._instances[instance]

    def prepare(self) -> None:
        """Do all that only has to be done once for any number of instances."""
        self._session.prepare()

    def place(self, plan: LoadPlan, clocks: list[CoreClock]) -> None:
        """Make the instances; a core that several programs run on runs one at a time."""
        self.plan = plan
        for place in plan.placements:
            own = [clocks[core] for core in place.cores]
            positions = self.core_use.core_of
            self._instances.append(self._session.sibling(partial(_hold, own, positions)))

    # -- requests -----------------------------------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Array], timeout: float | None = None) -> Execution:
        """One inference, waiting for its end.

        Raises NrtError: NRT_TIMEOUT when it is not done after `timeout` seconds (it no longer starts then),
        NRT_QUEUE_FULL, NRT_INVALID_HANDLE after `unload`, NRT_CLOSED, and what its execution raises.
        """
        request = Request(inputs, is_async=False)
        self._runtime.enqueue(self, request)
        try:
            return request.future.result(timeout)
        except TimeoutError:
            request.future.cancel()
            raise self._late(timeout) from None

    def submit(self, inputs: Mapping[str, Array]) -> Future[Execution]:
        """One inference as a future. What is full, unloaded or closed is raised at once, the rest by the future.

        Cancelling the future withdraws a request that has not started; one that runs cannot be cancelled.
        """
        request = Request(inputs, is_async=True)
        self._runtime.enqueue(self, request)
        return request.future

    async def run_async(self, inputs: Mapping[str, Array], timeout: float | None = None) -> Execution:
        """One inference, awaited. Cancelling the task withdraws the request if it has not started."""
        future = asyncio.wrap_future(self.submit(inputs))
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise self._late(timeout) from None

    def _late(self, timeout: float | None) -> NrtError:
        self._runtime.count(self, Status.NRT_TIMEOUT)
        return NrtError(Status.NRT_TIMEOUT, f"model {self.name}: a request was not done within {timeout} s")

    def bind(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `Session.bind`."""
        return self._session.bind(inputs)

    def split(self, inputs: Mapping[str, Array]) -> tuple[list[tuple[Piece, dict[str, Any]]], Assembly]:
        """See `Session.split`."""
        return self._session.split(inputs)

    # -- life ---------------------------------------------------------------------------------------------------------

    def unload(self, *, drain: bool = True) -> None:
        """Take the model off its cores and free its device memory; returns when that is done.

        New requests are NRT_INVALID_HANDLE from now on. Those that wait are served first, or with `drain=False` end
        with NRT_INVALID_HANDLE; those that run are finished. Unloading twice is NRT_INVALID_HANDLE.
        """
        self._runtime.unload(self, drain=drain)

    # -- serving in simulated time ------------------------------------------------------------------------------------

    def service(self) -> Service:
        """The model for the simulation of queues, on the cores as the instance numbers them; measures its core programs
        in timing mode.
        """
        target = load_target(self.neff.target)
        steps = service_steps(self.neff, target, self.core_use, lambda callee: self._session.core_time(callee) * 1e9)
        first = self._runtime.cores.start
        placements = tuple(place.shifted(first) for place in self.plan.placements)
        again = switch_ns(self.neff, target, self.core_use)
        return Service(self.name, steps, placements, self._runtime.depth(self.core_use), again)


def _hold(cores: list[CoreClock], positions: Mapping[int, int], callee: int) -> Any:
    return cores[positions[callee]].running()


class Runtime:
    """The cores of a simulated instance that belong to one process, and the models on them. Thread-safe.

    Args:
        instance: the instance, or the name of one that nobody else uses.
        environment: variables as in `VARIABLES`; those of this process by default.
        host_threads: threads that compute requests.

    Raises NrtError: NRT_INVALID for settings that cannot be read or name cores that do not exist, NRT_RESOURCE when the
    cores belong to other runtimes or do not suffice for the groups.
    """

    def __init__(
        self,
        instance: SimulatedInstance | str = "inf1.xlarge",
        environment: Mapping[str, str] | None = None,
        *,
        host_threads: int = DEFAULT_HOST_THREADS,
    ) -> None:
        self.settings: Settings = read_settings(os.environ if environment is None else environment)
        self.instance = SimulatedInstance(instance) if isinstance(instance, str) else instance
        self.cores: range = self.instance.claim(self.settings, self)
        """The cores of the instance that the runtime owns; it numbers them from 0."""
        self.groups: tuple[Group, ...] = make_groups(self.settings.groups)
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._scheduler: Scheduler[Request] = Scheduler(len(self.cores))
        self._models: dict[int, LoadedModel] = {}
        self._clocks = [CoreClock() for _ in self.cores]
        self._started = time.perf_counter()
        self._keys = 0
        self._is_closed = False
        self._pool = ThreadPoolExecutor(max(1, min(host_threads, MAX_HOST_THREADS)), thread_name_prefix="neuron")

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def depth(self, use: CoreUse) -> int:
        """Requests inside of one instance of a model at a time."""
        return self.settings.max_inferences or use.stages + 3

    # -- models -------------------------------------------------------------------------------------------------------

    def load(
        self, model: Neff | str | Path, *, name: str | None = None, group: int | None = None, start_core: int = -1,
        core_count: int = -1, queue_limit: int = QUEUE_LIMIT,
    ) -> LoadedModel:  # fmt: skip
        """Load a model; where, `plan_load` says. `queue_limit`: requests that may wait.

        Raises NrtError: NRT_UNSUPPORTED_NEFF_VERSION for a model of another NeuronCore generation or NEFF version,
        NRT_INVALID for a damaged file or for arguments that cannot be, NRT_LOAD_NOT_ENOUGH_NC, NRT_RESOURCE when the
        device memory does not suffice, NRT_CLOSED.
        """
        try:
            neff = model if isinstance(model, Neff) else read_neff(Path(model))
            target = load_target(neff.target)
            if target.generation != self.instance.target.generation:
                raise NrtError(
                    Status.NRT_UNSUPPORTED_NEFF_VERSION,
                    f"the model is for NeuronCore-v{target.generation} ({neff.target}), instance {self.instance.name}"
                    f" has NeuronCore-v{self.instance.target.generation}",
                    help="compile it with --target " + self.instance.shape.target,
                )
            use = core_use(neff)
            with self._lock:
                self._check_open()
                self._keys += 1
                loaded = LoadedModel(self, self._keys, name or neff.name, neff, use, queue_limit)
            loaded.prepare()
            per_core = footprints(neff, target, use.core_of, use.cores, self.depth(use))
            self._place(loaded, per_core, group, start_core, core_count)
        except (NeuronError, MemoryError) as error:
            raise as_nrt_error(error) from error
        return loaded

    def _place(
        self, loaded: LoadedModel, per_core: list[Footprint], group: int | None, start_core: int, core_count: int
    ) -> None:
        """Choose the cores, take their memory, and let requests come."""
        with self._lock:
            self._check_open()
            used = [core for model in self._models.values() for place in model.plan.placements for core in place.cores]
            counts = Counter(used)
            plan = plan_load(
                loaded.core_use.cores, len(self.cores), self.groups, [counts[core] for core in range(len(self.cores))],
                group=group, start=start_core, count=core_count,
            )  # fmt: skip
            self.instance.allocate((self, loaded.key), self._wanted(plan, per_core))
            loaded.place(plan, self._clocks)
            self._models[loaded.key] = loaded
            # One more than run at the same time: a host segment of one request beside the cores of the others.
            depth = min(self.depth(loaded.core_use), loaded.core_use.cores + 1)
            self._scheduler.add(loaded.key, plan.placements, depth)

    def _wanted(self, plan: LoadPlan, per_core: list[Footprint]) -> list[tuple[int, Footprint]]:
        """The memory of all instances by core of the instance."""
        wanted: list[tuple[int, Footprint]] = []
        holders: set[tuple[int, int]] = set()
        for place in plan.placements:
            for position, (core, footprint) in enumerate(zip(place.cores, per_core, strict=True)):
                device_core = self.cores[core]
                holder = device_core // self.instance.cores_per_chip, position
                is_copy = self.settings.shared_weights and holder in holders
                holders.add(holder)
                wanted.append((device_core, without_constants(footprint) if is_copy else footprint))
        return wanted

    def unload(self, model: LoadedModel, *, drain: bool) -> None:
        """See `LoadedModel.unload`."""
        with self._lock:
            if self._models.get(model.key) is not model or model.is_unloading:
                raise NrtError(Status.NRT_INVALID_HANDLE, f"model {model.name} is not loaded")
            model.is_unloading = True
            withdrawn = [] if drain else self._scheduler.clear(model.key)
        self._fail(model, withdrawn, NrtError(Status.NRT_INVALID_HANDLE, f"model {model.name} was unloaded"))
        with self._idle:
            self._idle.wait_for(lambda: not self._has_requests(model))
            # The runtime may have been closed meanwhile, which unloads all models.
            if self._models.pop(model.key, None) is not None:
                self._scheduler.remove(model.key)
                self.instance.free((self, model.key))
                model.release()
                self._pump()

    def _has_requests(self, model: LoadedModel) -> bool:
        return bool(self._scheduler.waiting(model.key) or self._scheduler.inside(model.key))

    def close(self) -> None:
        """End what runs, fail what waits with NRT_CLOSED, unload every model, give the cores back. May be repeated."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            models = list(self._models.values())
            withdrawn = [(model, self._scheduler.clear(model.key)) for model in models]
        for model, requests in withdrawn:
            self._fail(model, requests, NrtError(Status.NRT_CLOSED, "the runtime was closed"))
        with self._idle:
            self._idle.wait_for(lambda: not any(map(self._has_requests, self._models.values())))
            for model in self._models.values():
                self.instance.free((self, model.key))
                model.release()
            self._models.clear()
        self._pool.shutdown(wait=False)
        self.instance.release(self)

    def _check_open(self) -> None:
        if self._is_closed:
            raise NrtError(Status.NRT_CLOSED, "the runtime has been closed")

    # -- requests -----------------------------------------------------------------------------------------------------

    def count(self, model: LoadedModel, status: Status) -> None:
        """Count a request that ended with a status."""
        with self._lock:
            model.statistics.statuses[status] += 1

    def enqueue(self, model: LoadedModel, request: Request) -> None:
        """Take in a request; NRT_CLOSED, NRT_INVALID_HANDLE or NRT_QUEUE_FULL when it cannot be."""
        statistics, limit = model.statistics, self.settings.async_limit
        with self._lock:
            self._check_open()
            if model.is_unloading or model.key not in self._models:
                raise NrtError(Status.NRT_INVALID_HANDLE, f"model {model.name} is not loaded")
            if self._scheduler.waiting(model.key) >= model.queue_limit:
                statistics.statuses[Status.NRT_QUEUE_FULL] += 1
                raise NrtError(Status.NRT_QUEUE_FULL, f"model {model.name} has {model.queue_limit} requests waiting")
            if request.is_async and limit and statistics.outstanding_async >= limit:
                statistics.statuses[Status.NRT_QUEUE_FULL] += 1
                raise NrtError(
                    Status.NRT_QUEUE_FULL, f"model {model.name} has {limit} asynchronous requests outstanding"
                )
            statistics.outstanding_async += request.is_async
            self._scheduler.enqueue(model.key, request)
            request.future.add_done_callback(partial(self._ended, model, request))
            self._pump()

    def _ended(self, model: LoadedModel, request: Request, future: Future[Execution]) -> None:
        """A future is done: count it; a cancelled one no longer waits."""
        with self._idle:
            model.statistics.outstanding_async -= request.is_async
            if future.cancelled():
                model.statistics.cancelled += 1
                if self._scheduler.discard(model.key, request):
                    self._idle.notify_all()

    def _pump(self) -> None:
        """Start what can start. The lock is held."""
        is_done = False
        while not is_done:
            is_done = True
            for start in list(self._scheduler.dispatch()):
                if start.request.future.set_running_or_notify_cancel():
                    self._pool.submit(self._execute, self._models[start.model], start)
                else:
                    self._scheduler.finished(start.model, start.instance)
                    is_done = False

    def _execute(self, model: LoadedModel, start: Dispatch[Request]) -> None:
        """Compute one request, on a thread of the pool."""
        request, begun = start.request, time.perf_counter()
        result: Execution | None = None
        failure: Exception | None = None
        try:
            outputs = self._compute(model, start)
            queued, taken = begun - request.since, time.perf_counter() - begun
            result = Execution(outputs, start.instance, model.plan.placements[start.instance].cores, queued, taken)
        except (NeuronError, MemoryError) as error:
            failure = as_nrt_error(error)
        except Exception as error:  # A bug of ours: whoever waits must see it, and the core must go on.
            failure = error
        with self._idle:
            statistics = model.statistics
            statistics.statuses[Status.NRT_SUCCESS if failure is None else status_of(failure)] += 1
            if result is not None:
                statistics.queued_seconds += result.queued_seconds
                statistics.run_seconds += result.run_seconds
            self._scheduler.finished(start.model, start.instance)
            self._pump()
            self._idle.notify_all()
        if result is not None:
            request.future.set_result(result)
        else:
            request.future.set_exception(failure)

    def _compute(self, model: LoadedModel, start: Dispatch[Request]) -> dict[str, Array]:
        """The outputs of a request; the errors of its execution as they are."""
        limit = self.settings.exec_timeout_s
        result = model.session(start.instance).run(start.request.inputs, "functional" if limit is None else "both")
        simulated = sum(timing.total_time for timing in result.timings)
        if limit is not None and simulated > limit * result.pieces:
            raise NrtError(
                Status.NRT_TIMEOUT,
                f"an inference takes {simulated / result.pieces:.6g} simulated seconds, allowed are {limit}",
                help="raise NEURON_RT_EXEC_TIMEOUT",
            )
        if self.settings.fail_on_nan:
            for name, value in result.outputs.items():
                if value.dtype.kind == "f" and np.isnan(value).any():
                    raise NrtError(Status.NRT_EXEC_COMPLETED_WITH_NUM_ERR, f"output '{name}' holds NaN")
        return result.outputs

    def _fail(self, model: LoadedModel, requests: list[Request], error: NrtError) -> None:
        """End requests that were withdrawn. The lock is not held: callbacks of futures may do anything."""
        for request in requests:
            if request.future.set_running_or_notify_cancel():
                self.count(model, error.status)
                request.future.set_exception(error)

    # -- reports ------------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """What runs where right now, and what has happened so far, as plain JSON data.

        `cores`: index in the instance, the model that it works for, seconds of this computer's time in which it ran a
        program, device memory. `models`: waiting and running requests, and how many ended with each status.
        """
        memory = self.instance.memory_report()
        with self._lock:
            names = {key: model.name for key, model in self._models.items()}
            cores = [
                {
                    "core": core,
                    "model": names.get(self._scheduler.holder(number) or 0),
                    "busy_seconds": self._clocks[number].busy_seconds,
                    "memory": memory[core],
                }
                for number, core in enumerate(self.cores)
            ]
            models = [self._model_row(model) for model in self._models.values()]
        return {
            "instance": self.instance.name,
            "tag": self.settings.tag,
            "seconds": time.perf_counter() - self._started,
            "cores": cores,
            "models": models,
        }

    def _model_row(self, model: LoadedModel) -> dict[str, Any]:
        statistics = model.statistics
        return {
            "name": model.name,
            "instances": len(model.plan.placements),
            "cores_per_instance": model.core_use.cores,
            "first_core": self.cores[model.plan.placements[0].cores[0]],
            "waiting": self._scheduler.waiting(model.key),
            "running": self._scheduler.inside(model.key),
            "cancelled": statistics.cancelled,
            "statuses": {status.name: count for status, count in sorted(statistics.statuses.items())},
        }
