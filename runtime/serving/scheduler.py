"""Who runs where next: queues of requests, instances of models, and cores that models share in turn.

A pure state machine on plain data, without threads or clocks: the runtime drives it with real events, the simulation of
queues with simulated ones, so both follow one policy. Given models with their placements, `enqueue` and `finished` tell
it what happens, and `dispatch` gives every request that may start now.

- A request goes to the instance of its model that works on the fewest requests, the first of equals; an instance takes
  at most its depth at a time. Requests of a model start in the order in which they came.
- The cores of an instance's domain hold one model at a time; domains of one model that overlap count as one. A model
  that waits for cores gets them when their model has no more requests, or has started `turn` requests since it got the
  core: from then on it starts no more there, and the core is free once those inside are done. The model that has waited
  longest comes first, and cores that it still lacks are kept free for it, so that a model that needs many cores is not
  starved by small ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from runtime.serving.placement import Placement

Request = TypeVar("Request")
DEFAULT_TURN = 16
"""Requests that a model starts on a core before another one that waits for the core gets it."""


@dataclass(frozen=True)
class Dispatch(Generic[Request]):
    """A request that starts: on which instance of which model. `switched`: another model had the cores before."""

    model: int
    instance: int
    request: Request
    switched: bool


@dataclass
class _Core:
    """State of a core: the model that holds it, its requests inside, how many it has started in its turn."""

    holder: int | None = None
    inside: int = 0
    started: int = 0
    last: int | None = None


@dataclass
class _Model(Generic[Request]):
    """State of a model. `domains`: one for each instance, two of which are equal or disjoint. `since`: ticket of the
    moment from which it waits for cores.
    """

    domains: tuple[frozenset[int], ...]
    depth: int
    inside: list[int]
    queue: deque[Request] = field(default_factory=deque[Request])
    since: int = 0


class Scheduler(Generic[Request]):
    """The state machine; see the module. Not thread-safe."""

    def __init__(self, cores: int, turn: int = DEFAULT_TURN) -> None:
        self._cores = [_Core() for _ in range(cores)]
        self._models: dict[int, _Model[Request]] = {}
        self._turn = turn
        self._ticket = 0

    # -- models -------------------------------------------------------------------------------------------------------

    def add(self, model: int, placements: Sequence[Placement], depth: int) -> None:
        """A model is loaded: one placement for each instance, each of which takes up to `depth` requests."""
        domains = merged_domains([place.domain for place in placements])
        self._models[model] = _Model(domains, depth, [0] * len(placements))

    def remove(self, model: int) -> None:
        """A model is unloaded. It must have no requests, waiting or inside."""
        state = self._models[model]
        if state.queue or any(state.inside):
            raise ValueError(f"model {model} still has requests")
        del self._models[model]
        for core in self._cores:
            core.last = None if core.last == model else core.last
            core.holder = None if core.holder == model else core.holder

    def waiting(self, model: int) -> int:
        """How many requests of a model wait."""
        return len(self._models[model].queue)

    def inside(self, model: int) -> int:
        """How many requests of a model run."""
        return sum(self._models[model].inside)

    def holder(self, core: int) -> int | None:
        """The model that a core works for, None for a core without requests."""
        return self._cores[core].holder if self._cores[core].inside else None

    # -- requests -----------------------------------------------------------------------------------------------------

    def enqueue(self, model: int, request: Request) -> None:
        """A request arrives."""
        state = self._models[model]
        if not state.queue:
            state.since = self._next_ticket()
        state.queue.append(request)

    def discard(self, model: int, request: Request) -> bool:
        """A waiting request is withdrawn; False when it does not wait (any more)."""
        state = self._models.get(model)
        if state is None or request not in state.queue:
            return False
        state.queue.remove(request)
        return True

    def clear(self, model: int) -> list[Request]:
        """Withdraw every waiting request of a model and give them."""
        state = self._models[model]
        withdrawn = list(state.queue)
        state.queue.clear()
        return withdrawn

    def finished(self, model: int, instance: int) -> None:
        """A request that `dispatch` gave is done."""
        state = self._models[model]
        state.inside[instance] -= 1
        for number in state.domains[instance]:
            self._cores[number].inside -= 1

    def dispatch(self) -> Iterator[Dispatch[Request]]:
        """Every request that may start now; each counts as started when it is given."""
        kept: set[int] = set()
        wanting = [(state.since, model) for model, state in self._models.items() if state.queue]
        for _, model in sorted(wanting):
            yield from self._start(model, kept)
            if self._models[model].queue:
                self._keep(model, kept)

    def _start(self, model: int, kept: set[int]) -> Iterator[Dispatch[Request]]:
        """Start waiting requests of one model on cores that are not kept for others."""
        state = self._models[model]
        able = [
            instance
            for instance, domain in enumerate(state.domains)
            if state.inside[instance] < state.depth
            and kept.isdisjoint(domain)
            and all(self._cores[core].holder == model or self._is_free(core) for core in domain)
        ]
        while state.queue and able:
            instance = min(able, key=lambda number: (state.inside[number], number))
            switched = self._occupy(model, state.domains[instance])
            state.inside[instance] += 1
            if state.inside[instance] == state.depth:
                able.remove(instance)
            yield Dispatch(model, instance, state.queue.popleft(), switched)

    def _occupy(self, model: int, domain: frozenset[int]) -> bool:
        """Count one more request on the cores; whether another model had one of them before."""
        if any(self._is_free(core) for core in domain):
            self._acquire(model, domain)
        cores = [self._cores[number] for number in domain]
        switched = any(core.last not in (None, model) for core in cores)
        for core in cores:
            core.last = model
            core.inside += 1
            core.started += 1
        if cores[0].started % self._turn == 0:
            # Whoever has waited through this turn now comes before the holder.
            self._models[model].since = self._next_ticket()
        return switched

    def _acquire(self, model: int, domain: frozenset[int]) -> None:
        """Begin a turn. Models that had one of the cores lose their whole domain: held is all of it, or nothing."""
        for number in domain:
            holder = self._cores[number].holder
            if holder is not None and holder != model:
                for lost in next(other for other in self._models[holder].domains if number in other):
                    self._cores[lost].holder = None
        for number in domain:
            self._cores[number].holder, self._cores[number].started = model, 0
        self._models[model].since = self._next_ticket()

    def _keep(self, model: int, kept: set[int]) -> None:
        """Keep cores that a waiting model lacks from younger ones: free ones, and those whose model had its turn."""
        for domain in self._models[model].domains:
            if all(self._cores[core].holder == model for core in domain):
                continue
            for number in domain:
                core = self._cores[number]
                if self._is_free(number) or (core.holder != model and core.started >= self._turn):
                    kept.add(number)

    def _is_free(self, number: int) -> bool:
        """Whether any model may take a core: nothing runs there, and its model's turn is over or it has no requests."""
        core = self._cores[number]
        if core.holder is None:
            return True
        return not core.inside and (core.started >= self._turn or not self._models[core.holder].queue)

    def _next_ticket(self) -> int:
        self._ticket += 1
        return self._ticket


def merged_domains(domains: Sequence[frozenset[int]]) -> tuple[frozenset[int], ...]:
    """The same sets, each grown to the union of all that hang together with it through common members."""
    merged: list[frozenset[int]] = []
    for domain in domains:
        touching = [other for other in merged if other & domain]
        merged = [other for other in merged if not other & domain]
        merged.append(domain.union(*touching))
    return tuple(next(whole for whole in merged if domain <= whole) for domain in domains)
