"""Serving in simulated time: a discrete-event simulation of clients, queues, links, hosts and cores, on plain data.

Given models as lists of `Step`s with times and placements, and a `Workload`, `simulate` leaves when each request came,
started and ended, and how long each core was busy. It knows nothing of programs or machines: the times are given.

A request waits in its model's queue until the `Scheduler` gives it to an instance. Then it takes the steps of its model
one after the other. A step holds what it names for its time, or waits for it in order of arrival:

- `core`: one core of the instance, by its position there;
- `host`: one of the host's servers;
- `link_in`, `link_out`: one direction of the link between the host and the chip of that core;
- `chip_link`: the link of that core's chip to other chips, on the way to core `to` of the instance; nothing, and for
  no time, when both are on one chip;
- `delay`: nothing; any number of requests may be in it.

A core step may have `slots`, the buffers between it and the next core step: it starts only when one of them is free,
and the buffer is free again when the next core step is done. Two slots are a double buffer. Of the requests that wait
for a core, one at a later step of the same instance goes first: it makes room for those behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise

from runtime.serving.placement import Placement
from runtime.serving.scheduler import DEFAULT_TURN, Dispatch, Scheduler

CORE, HOST, LINK_IN, LINK_OUT, CHIP_LINK, DELAY = "core", "host", "link_in", "link_out", "chip_link", "delay"


@dataclass(frozen=True)
class Step:
    """One stay of a request; `core` is the position of a core in its instance, for links too, and `to` the one that a
    way between chips leads to.
    """

    kind: str
    time_ns: float
    core: int = 0
    slots: int = 0
    to: int = 0


@dataclass(frozen=True)
class Service:
    """A model as the simulation sees it.

    `steps` of one request, `placements` of the instances, `depth`: requests inside of one instance at a time,
    `switch_ns`: what a request's first core step takes longer when another model had the cores before.
    """

    name: str
    steps: tuple[Step, ...]
    placements: tuple[Placement, ...]
    depth: int
    switch_ns: float = 0.0


@dataclass(frozen=True)
class Hardware:
    """`cores` of an instance, `cores_per_chip` of them behind each link, `host_servers` for host steps."""

    cores: int
    cores_per_chip: int
    host_servers: int


@dataclass(frozen=True)
class Workload:
    """What clients ask: request k is for `models[k]`.

    With `arrivals_ns`, request k comes at that time (an open loop). Else `concurrency` clients each send the next
    request when their last one is done (a closed loop).
    """

    models: Sequence[int]
    concurrency: int = 1
    arrivals_ns: Sequence[float] | None = None


@dataclass(eq=False)
class Served:
    """One request. Times in ns, -1 for what has not happened: it came, an instance took it, its first core step began,
    it was done; `served_ns` is the time that its steps took, without waiting.
    """

    number: int
    model: int
    arrived_ns: float = -1.0
    admitted_ns: float = -1.0
    started_ns: float = -1.0
    finished_ns: float = -1.0
    served_ns: float = 0.0
    instance: int = -1
    switched: bool = False
    step: int = 0


@dataclass
class InstanceUse:
    """One instance of a model. `occupied_ns`: time with at least one request inside; `busy_ns`: sum over its cores."""

    model: int
    cores: range
    occupied_ns: float = 0.0
    busy_ns: float = 0.0
    inside: int = 0
    since_ns: float = 0.0

    @property
    def bubble(self) -> float:
        """Share of core-time without work while the instance had requests."""
        whole = self.occupied_ns * len(self.cores)
        return 1.0 - self.busy_ns / whole if whole else 0.0


@dataclass
class Simulation:
    """What `simulate` leaves: requests in order of their numbers, uses, and the time of the last end."""

    requests: list[Served]
    core_busy_ns: list[float]
    instances: list[InstanceUse]
    end_ns: float = 0.0


@dataclass
class _Resource:
    """Something with a number of servers, and the requests that wait for one, in order."""

    free: int
    waiting: deque[Served] = field(default_factory=deque[Served])


Observer = Callable[[float, Simulation], None]
"""Called after each completed request with the simulated time and what happened up to it."""


def simulate(
    services: Sequence[Service],
    hardware: Hardware,
    workload: Workload,
    turn: int = DEFAULT_TURN,
    observer: Observer | None = None,
) -> Simulation:
    """Serve the workload; see the module."""
    return _Simulator(services, hardware, workload, turn, observer).run()


class _Simulator:
    """State of a simulation. Its only events are arrivals of requests and ends of their steps."""

    def __init__(
        self,
        services: Sequence[Service],
        hardware: Hardware,
        workload: Workload,
        turn: int,
        observer: Observer | None,
    ) -> None:
        self._services, self._hardware, self._workload, self._observer = services, hardware, workload, observer
        self._scheduler: Scheduler[Served] = Scheduler(hardware.cores, turn)
        self._uses: list[list[InstanceUse]] = []
        for number, service in enumerate(services):
            self._scheduler.add(number, service.placements, service.depth)
            self._uses.append([InstanceUse(number, place.cores) for place in service.placements])
        requests = [Served(number, model) for number, model in enumerate(workload.models)]
        self._result = Simulation(requests, [0.0] * hardware.cores, [use for model in self._uses for use in model])
        self._resources: dict[tuple[str, int], _Resource] = {(HOST, 0): _Resource(hardware.host_servers)}
        self._filled: dict[tuple[int, int, int], int] = {}
        self._core_before = [_core_step_before(service.steps) for service in services]
        self._buffered = [frozenset(before.values()) for before in self._core_before]
        self._events: list[tuple[float, int, Served]] = []
        self._sequence = 0
        self._issued = 0

    def run(self) -> Simulation:
        """Simulate until every request is done."""
        requests, arrivals = self._result.requests, self._workload.arrivals_ns
        if arrivals is None:
            arrivals = [0.0] * self._workload.concurrency
        self._issued = min(len(arrivals), len(requests))
        for request, time in zip(requests, arrivals, strict=False):
            self._push(time, request)
        while self._events:
            now = self._events[0][0]
            # All that happens at one instant is known before the scheduler decides.
            while self._events and self._events[0][0] == now:
                self._event(now, heappop(self._events)[2])
            # A request without steps is done at once, and may let others start.
            while starts := list(self._scheduler.dispatch()):
                for start in starts:
                    self._admit(now, start)
        return self._result

    def _admit(self, now: float, start: Dispatch[Served]) -> None:
        """An instance takes a request."""
        request = start.request
        request.admitted_ns, request.instance, request.switched = now, start.instance, start.switched
        use = self._uses[start.model][start.instance]
        if use.inside == 0:
            use.since_ns = now
        use.inside += 1
        self._enter(now, request)

    def _push(self, time: float, request: Served) -> None:
        self._sequence += 1
        heappush(self._events, (time, self._sequence, request))

    def _arrive(self, now: float, request: Served) -> None:
        request.arrived_ns = now
        self._scheduler.enqueue(request.model, request)

    def _event(self, now: float, request: Served) -> None:
        """A request arrives, or is done with its step."""
        if request.instance < 0:
            self._arrive(now, request)
            return
        self._leave(now, request)
        request.step += 1
        self._enter(now, request)

    def _finish(self, now: float, request: Served) -> None:
        """A request is done; in a closed loop its client sends the next one."""
        request.finished_ns = self._result.end_ns = now
        use = self._uses[request.model][request.instance]
        use.inside -= 1
        if use.inside == 0:
            use.occupied_ns += now - use.since_ns
        self._scheduler.finished(request.model, request.instance)
        if self._workload.arrivals_ns is None and self._issued < len(self._result.requests):
            self._issued += 1
            self._arrive(now, self._result.requests[self._issued - 1])
        if self._observer is not None:
            self._observer(now, self._result)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _enter(self, now: float, request: Served) -> None:
        """A request comes to its next step, or to its end."""
        steps = self._services[request.model].steps
        while request.step < len(steps) and self._stays_on_chip(request, steps[request.step]):
            request.step += 1
        if request.step == len(steps):
            self._finish(now, request)
        elif steps[request.step].kind == DELAY:
            request.served_ns += steps[request.step].time_ns
            self._push(now + steps[request.step].time_ns, request)
        else:
            key = self._key(request, request.step)
            self._resources.setdefault(key, _Resource(1)).waiting.append(request)
            self._serve(now, key)

    def _leave(self, now: float, request: Served) -> None:
        """A request is done with a step: what it held is free."""
        step = self._services[request.model].steps[request.step]
        if step.kind == DELAY:
            return
        key = self._key(request, request.step)
        self._resources[key].free += 1
        self._serve(now, key)
        before = self._core_before[request.model].get(request.step)
        if before is not None:
            self._filled[request.model, request.instance, before] -= 1
            self._serve(now, self._key(request, before))

    def _stays_on_chip(self, request: Served, step: Step) -> bool:
        """Whether a step is a way from one core to the next one on the same chip."""
        if step.kind != CHIP_LINK:
            return False
        cores = self._services[request.model].placements[request.instance].cores
        first, second = (cores[position] // self._hardware.cores_per_chip for position in (step.core, step.to))
        return first == second

    def _key(self, request: Served, step: int) -> tuple[str, int]:
        """What a step holds."""
        row = self._services[request.model].steps[step]
        if row.kind == HOST:
            return (HOST, 0)
        core = self._services[request.model].placements[request.instance].cores[row.core]
        return (row.kind, core if row.kind == CORE else core // self._hardware.cores_per_chip)

    def _serve(self, now: float, key: tuple[str, int]) -> None:
        """Start as many of the waiting requests as can."""
        resource = self._resources[key]
        while resource.free and resource.waiting:
            request = next((waiting for waiting in resource.waiting if self._has_slot(waiting)), None)
            if request is None:
                return
            if key[0] == CORE:
                request = self._furthest(resource, request)
            resource.waiting.remove(request)
            resource.free -= 1
            time_ns = self._hold(now, key, request)
            request.served_ns += time_ns
            self._push(now + time_ns, request)

    def _furthest(self, resource: _Resource, first: Served) -> Served:
        """Of the requests that could start beside `first`, in the same instance, the one that has come furthest."""
        owner = first.model, first.instance
        own = [other for other in resource.waiting if (other.model, other.instance) == owner and self._has_slot(other)]
        return max(own, key=lambda other: other.step)

    def _has_slot(self, request: Served) -> bool:
        if request.step not in self._buffered[request.model]:
            return True
        slots = self._services[request.model].steps[request.step].slots
        return self._filled.get((request.model, request.instance, request.step), 0) < slots

    def _hold(self, now: float, key: tuple[str, int], request: Served) -> float:
        """How long a request that starts its step holds it."""
        service = self._services[request.model]
        step = service.steps[request.step]
        if step.kind != CORE:
            return step.time_ns
        time_ns = step.time_ns
        if request.started_ns < 0:
            request.started_ns = now
            time_ns += service.switch_ns if request.switched else 0.0
        if request.step in self._buffered[request.model]:
            filled = request.model, request.instance, request.step
            self._filled[filled] = self._filled.get(filled, 0) + 1
        self._result.core_busy_ns[key[1]] += time_ns
        self._uses[request.model][request.instance].busy_ns += time_ns
        return time_ns


def _core_step_before(steps: Sequence[Step]) -> dict[int, int]:
    """Core step -> the core step in front of it, where buffers lie between the two."""
    cores = [number for number, step in enumerate(steps) if step.kind == CORE]
    return {after: before for before, after in pairwise(cores) if steps[before].slots}
