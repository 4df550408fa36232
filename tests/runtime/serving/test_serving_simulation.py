"""The simulation of queues against closed forms, and the scheduler's policy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.serving.figures import percentile, serving_figures, steady_throughput
from runtime.serving.placement import Placement
from runtime.serving.scheduler import Scheduler, merged_domains
from runtime.serving.simulation import CORE, DELAY, HOST, LINK_IN, LINK_OUT, Hardware, Service, Step, Workload, simulate

ONE_CHIP = Hardware(cores=4, cores_per_chip=4, host_servers=4)


def alone(*cores: int) -> Placement:
    """An instance on these cores, which only it must have to itself."""
    return Placement(range(cores[0], cores[-1] + 1), frozenset(cores))


def served(service: Service, requests: int, concurrency: int, hardware: Hardware = ONE_CHIP) -> dict[str, object]:
    return serving_figures(simulate([service], hardware, Workload([0] * requests, concurrency)), [service])


# One client, one core: each request takes the sum of its steps, the core is idle during the others.
def test_one_client_sees_the_sum_of_the_steps():
    steps = (Step(LINK_IN, 100.0), Step(CORE, 700.0), Step(LINK_OUT, 200.0))
    figures = served(Service("m", steps, (alone(0),), 4), 10, 1)
    assert figures["simulated_seconds"] == pytest.approx(10_000e-9)
    assert figures["latency_ms"] == pytest.approx(dict.fromkeys(("mean", "p50", "p90", "p99", "max"), 1e-3))
    assert figures["utilisation"] == pytest.approx(0.7)
    assert figures["bubble"] == pytest.approx(0.3)


# Sums in another order differ in their last bits, which is no waiting.
def test_one_client_never_waits():
    steps = (Step(LINK_IN, 0.1), Step(CORE, 0.7), Step(LINK_OUT, 0.2))
    figures = served(Service("m", steps, (alone(0),), 4), 50, 1)
    assert figures["queueing_ms"] == dict.fromkeys(("mean", "p50", "p90", "p99", "max"), 0.0)
    assert figures["mean_waiting"] == 0.0


# Enough clients: links hide behind the core, whose time alone sets the throughput.
def test_transfers_overlap_with_other_requests():
    steps = (Step(LINK_IN, 100.0), Step(CORE, 700.0), Step(LINK_OUT, 200.0))
    figures = served(Service("m", steps, (alone(0),), 4), 1000, 4)
    assert figures["steady_throughput"] == pytest.approx(1e9 / 700.0)
    assert figures["utilisation"] == pytest.approx(1.0, abs=1e-3)


# A pipeline of n stages fills in n - 1 steps, then a request leaves with every step: (n - 1 + r) · t.
@given(st.integers(1, 4), st.integers(1, 30), st.floats(1.0, 1000.0))
def test_pipeline_fill(stages: int, requests: int, time_ns: float):
    steps = tuple(Step(CORE, time_ns, core, 2) for core in range(stages))
    service = Service("m", steps, (alone(*range(stages)),), stages + 3)
    run = simulate([service], ONE_CHIP, Workload([0] * requests, stages + 3))
    assert run.end_ns == pytest.approx((stages - 1 + requests) * time_ns)
    busy, whole = requests * stages * time_ns, run.end_ns * stages
    assert run.instances[0].bubble == pytest.approx(1.0 - busy / whole, abs=1e-9)


# Deterministic stages with any buffers: the recurrence of tandem queues with blocking gives every start.
@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 25), st.integers(1, 9)
)  # fmt: skip
def test_pipeline_recurrence(times: list[int], slots: int, requests: int, depth: int):
    steps = tuple(Step(CORE, float(time), core, slots) for core, time in enumerate(times))
    service = Service("m", steps, (alone(*range(len(times))),), depth)
    run = simulate([service], ONE_CHIP, Workload([0] * requests, requests))
    ends = [[0.0] * requests for _ in times]
    for request, stage in itertools.product(range(requests), range(len(times))):
        start = ends[stage - 1][request] if stage else 0.0
        if request:
            start = max(start, ends[stage][request - 1])
        if stage == 0 and request >= depth:
            start = max(start, ends[-1][request - depth])
        if stage + 1 < len(times) and request >= slots:
            start = max(start, ends[stage + 1][request - slots])
        ends[stage][request] = start + times[stage]
    assert [served.finished_ns for served in run.requests] == ends[-1]


# The slowest stage sets the throughput of a full pipeline, whatever the others take.
def test_bottleneck():
    steps = tuple(Step(CORE, time, core, 2) for core, time in enumerate((300.0, 900.0, 500.0)))
    figures = served(Service("m", steps, (alone(0, 1, 2),), 6), 2000, 6)
    assert figures["steady_throughput"] == pytest.approx(1e9 / 900.0)
    assert figures["bubble"] == pytest.approx(1.0 - (300 + 900 + 500) / (3 * 900), abs=2e-3)


# n instances serve n times as much.
def test_data_parallel():
    service = Service("m", (Step(CORE, 500.0),), tuple(alone(core) for core in range(4)), 4)
    figures = served(service, 4000, 16)
    assert figures["throughput"] == pytest.approx(4e9 / 500.0, rel=1e-3)
    assert figures["utilisation"] == pytest.approx(1.0, abs=1e-3)


# M/D/1: Poisson arrivals, a fixed time of service: the mean wait is rho · s / (2 (1 - rho)).
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_poisson_arrivals_wait_as_long_as_theory_says(load: float):
    count, time_ns = 20_000, 1000.0
    gaps = np.random.default_rng(1).exponential(time_ns / load, count)
    service = Service("m", (Step(CORE, time_ns),), (alone(0),), 1)
    run = simulate([service], ONE_CHIP, Workload([0] * count, arrivals_ns=np.cumsum(gaps).tolist()))
    waits = [request.started_ns - request.arrived_ns for request in run.requests]
    assert np.mean(waits) == pytest.approx(load * time_ns / (2 * (1 - load)), rel=0.1)
    assert run.core_busy_ns[0] / run.end_ns == pytest.approx(load, rel=0.03)


# Little's law: the mean number of requests in the system is throughput times mean latency; all clients always wait.
def test_littles_law():
    steps = (Step(HOST, 900.0), Step(CORE, 500.0), Step(HOST, 100.0))
    figures = served(Service("m", steps, (alone(0), alone(1)), 4), 5000, 12)
    assert isinstance(figures["throughput"], float) and isinstance(figures["latency_ms"], dict)
    assert figures["mean_in_system"] == pytest.approx(figures["throughput"] * figures["latency_ms"]["mean"] * 1e-3)
    assert figures["mean_in_system"] == pytest.approx(12.0, rel=1e-2)


# A host segment of one request runs while the core works for another: 900 + 500 ns, one finished every 900.
def test_host_overlaps_with_core():
    hardware = Hardware(4, 4, host_servers=1)
    service = Service("m", (Step(HOST, 900.0), Step(CORE, 500.0)), (alone(0),), 4)
    assert served(service, 500, 4, hardware)["steady_throughput"] == pytest.approx(1e9 / 900.0)
    assert served(service, 500, 1, hardware)["steady_throughput"] == pytest.approx(1e9 / 1400.0)


# Delays hold nothing: any number of requests is in them at once.
def test_delays_do_not_queue():
    service = Service("m", (Step(DELAY, 5000.0), Step(CORE, 10.0)), (alone(0),), 100)
    assert served(service, 1000, 100)["throughput"] == pytest.approx(100 / 6000e-9, rel=0.2)


# A model without steps (an input that is the output) is served at once, as often as it is asked.
def test_requests_without_steps():
    run = simulate([Service("m", (), (alone(0),), 1)], ONE_CHIP, Workload([0] * 50, 3))
    assert all(request.finished_ns == 0.0 for request in run.requests)
    figures = serving_figures(run, [Service("m", (), (alone(0),), 1)])
    assert (figures["requests"], figures["throughput"], figures["utilisation"]) == (50, 0.0, 0.0)


# Two models share a group: each runs for a turn, every change costs the switch, and each gets half of the requests.
def test_models_take_turns():
    group = Placement(range(1), frozenset((0, 1)))
    services = [Service(name, (Step(CORE, 100.0),), (group,), 1, 400.0) for name in "ab"]
    run = simulate(services, ONE_CHIP, Workload([0, 1] * 400, 80), turn=10)
    switches = sum(request.switched for request in run.requests)
    assert 75 <= switches <= 85
    assert run.end_ns == pytest.approx(800 * 100.0 + switches * 400.0)
    # At no time do both models run: the shared core 1 has nobody else's requests.
    spans = sorted((request.started_ns, request.finished_ns, request.model) for request in run.requests)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))


# A model that needs all cores waits for four that are never free together by themselves: it must not starve.
def test_large_models_are_not_starved_by_small_ones():
    large = Service("large", (Step(CORE, 1000.0),), (alone(0, 1, 2, 3),), 1)
    small = Service("small", (Step(CORE, 330.0),), tuple(alone(core) for core in range(4)), 2)
    run = simulate([large, small], ONE_CHIP, Workload([0, *[1] * 30] * 20, 40), turn=4)
    waits = [request.started_ns - request.arrived_ns for request in run.requests if request.model == 0]
    assert max(waits) < 20_000.0


@settings(max_examples=60)
@given(st.data())
def test_scheduler_keeps_its_promises(data: st.DataObject):
    """Random events: cores never serve two models, depths hold, each model's requests start in order, none is lost."""
    cores, turn = 6, data.draw(st.integers(1, 3))
    scheduler: Scheduler[int] = Scheduler(cores, turn)
    shapes = st.tuples(st.integers(0, 5), st.integers(1, 3)).filter(lambda s: s[0] + s[1] <= cores)
    placements: list[list[Placement]] = []
    for model in range(3):
        drawn = data.draw(st.lists(shapes, min_size=1, max_size=3))
        placements.append([alone(*range(start, start + size)) for start, size in drawn])
        scheduler.add(model, placements[model], 2)
    waiting: list[list[int]] = [[], [], []]
    running: list[tuple[int, int]] = []
    for number in range(40):
        if running and data.draw(st.booleans()):
            scheduler.finished(*running.pop(data.draw(st.integers(0, len(running) - 1))))
        else:
            model = data.draw(st.integers(0, 2))
            waiting[model].append(number)
            scheduler.enqueue(model, number)
        started = list(scheduler.dispatch())
        for start in started:
            assert start.request == waiting[start.model].pop(0)
            running.append((start.model, start.instance))
        for core in range(cores):
            assert len({m for m, i in running if core in placements[m][i].domain}) <= 1
        assert all(running.count(pair) <= 2 for pair in running)
    while running:
        scheduler.finished(*running.pop(0))
        running += [(start.model, start.instance) for start in scheduler.dispatch()]
    assert all(scheduler.waiting(model) == 0 for model in range(3))


def test_overlapping_domains_are_one():
    sets = [frozenset(numbers) for numbers in ((0, 1), (4,), (2, 3), (1, 2))]
    assert merged_domains(sets) == (frozenset(range(4)), frozenset((4,)), frozenset(range(4)), frozenset(range(4)))


def test_withdrawn_requests_do_not_start():
    scheduler: Scheduler[str] = Scheduler(1)
    scheduler.add(7, [alone(0)], 1)
    for request in "abc":
        scheduler.enqueue(7, request)
    assert scheduler.discard(7, "b") and not scheduler.discard(7, "b")
    assert [start.request for start in scheduler.dispatch()] == ["a"]
    assert (scheduler.waiting(7), scheduler.inside(7), scheduler.holder(0)) == (1, 1, 7)
    with pytest.raises(ValueError, match="still has requests"):
        scheduler.remove(7)
    assert scheduler.clear(7) == ["c"]
    scheduler.finished(7, 0)
    scheduler.remove(7)
    assert not scheduler.discard(7, "a") and scheduler.holder(0) is None


def test_percentiles():
    assert [percentile([1.0, 2.0, 3.0, 4.0], p) for p in (1, 25, 50, 75, 99)] == [1.0, 1.0, 2.0, 3.0, 4.0]
    assert percentile([], 50) == 0.0
    assert steady_throughput([1e9 * k for k in range(11)]) == pytest.approx(1.0)
    assert steady_throughput([5.0, 5.0, 5.0]) == 0.0
