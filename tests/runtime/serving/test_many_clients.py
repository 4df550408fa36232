"""Many client threads against models that come and go: no wrong answer, no deadlock, no leak of device memory."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from runtime.serving import LoadedModel, NrtError, Runtime, SimulatedInstance, Status
from tests.runtime.serving.models import SmallModel, small_model

REQUESTS, CLIENTS = 5000, 64
EXPECTED = {Status.NRT_INVALID_HANDLE, Status.NRT_QUEUE_FULL}
"""What may happen to a client whose model is being reloaded, or whose fellows were quicker; it asks again."""


@dataclass
class Place:
    """A model that is served in a group, and the handle under which it can be had right now."""

    model: SmallModel
    group: int
    loaded: LoadedModel


@dataclass
class Tally:
    """What happened, over all threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter[str] = field(default_factory=Counter[str])
    failures: list[BaseException] = field(default_factory=list[BaseException])

    def add(self, what: str) -> int:
        with self.lock:
            self.counts[what] += 1
            return self.counts[what]

    def guarded(self, body: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                body()
            except BaseException as error:
                self.failures.append(error)

        return run


def ask(place: Place, number: int, way: int) -> bool:
    """One request in one of three ways; whether the answer is right."""
    given = place.model.inputs[number]
    if way == 0:
        execution = place.loaded.run(given, timeout=60)
    elif way == 1:
        execution = place.loaded.submit(given).result(60)
    else:
        execution = asyncio.run(place.loaded.run_async(given, timeout=60))
    return place.model.is_right(number, execution.outputs)


def client(places: list[Place], seed: int, tally: Tally) -> None:
    """Ask until all requests of all clients have been answered."""
    rng = random.Random(seed)
    while tally.add("asked") <= REQUESTS:
        place, number, way = rng.choice(places), rng.randrange(8), rng.choice((0,) * 8 + (1,) * 7 + (2,))
        while True:
            try:
                tally.add("right" if ask(place, number, way) else "wrong")
                break
            except NrtError as error:
                if error.status not in EXPECTED:
                    raise
                tally.add(error.status.name)
                time.sleep(rng.uniform(0.001, 0.01))


def reload_at_random(runtime: Runtime, places: list[Place], tally: Tally) -> None:
    """Take models off their cores and load them again, as long as clients ask."""
    rng = random.Random(7)
    while tally.counts["asked"] < REQUESTS:
        place = rng.choice(places)
        place.loaded.unload(drain=rng.random() < 0.5)
        place.loaded = runtime.load(place.model.neff, group=place.group, queue_limit=40)
        tally.add("reloads")
        time.sleep(0.05)


def test_many_clients_and_reloads():
    """A model in a group of its own, a pipeline that shares another group with a third model, and a fourth model ten
    times on the remaining cores.
    """
    instance = SimulatedInstance("inf1.6xlarge")
    runtime = Runtime(instance, {"NEURONCORE_GROUP_SIZES": "2,4,10"})
    kinds = (("tanh", 16, 1, 0), ("deep", 16, 2, 1), ("host", 16, 1, 1), ("relu", 24, 1, 2))
    chosen = [(small_model(kind, width, cores=cores), group) for kind, width, cores, group in kinds]
    places = [Place(model, group, runtime.load(model.neff, group=group, queue_limit=40)) for model, group in chosen]
    assert [len(place.loaded.plan.placements) for place in places] == [2, 2, 4, 10]
    full = instance.memory_report()
    tally = Tally()
    bodies: list[Callable[[], None]] = [lambda seed=seed: client(places, seed, tally) for seed in range(CLIENTS)]
    bodies.append(lambda: reload_at_random(runtime, places, tally))
    threads = [threading.Thread(target=tally.guarded(body), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "clients wait for ever"
    assert tally.failures == []
    assert (tally.counts["right"], tally.counts["wrong"]) == (REQUESTS, 0)
    assert tally.counts["reloads"] >= 5
    assert tally.counts["NRT_INVALID_HANDLE"] > 0
    # All that was loaded again takes what it took at first; nothing is left when the runtime is closed.
    assert instance.memory_report() == full
    assert all((row["waiting"], row["running"]) == (0, 0) for row in runtime.snapshot()["models"])
    runtime.close()
    assert all(row["used"] == 0 for row in instance.memory_report())
    with Runtime(instance, {}) as again:
        assert again.cores == range(16)
