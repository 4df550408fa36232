"""Compiled models as the runtime sees them: their cores, the steps of a request, what they take of device memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from neuron_dialects.target import load_target
from runtime.neff import CORE, HOST, GraphNode, Neff, TensorSpec
from runtime.serving.memory import DeviceMemory, Footprint, footprints
from runtime.serving.placement import Placement
from runtime.serving.service import core_use, service_steps
from runtime.serving.simulation import CHIP_LINK, Hardware, Service, Step, Workload, simulate
from runtime.serving.status import NrtError, Status
from tests.runtime.serving.models import small_model

INF1 = load_target("inf1")


def chained(*executors: str) -> Neff:
    """A model of segments one after the other, each with a tensor of 1,000 floats; core programs are all the same."""
    base = small_model().neff
    cores = [number for number, executor in enumerate(executors) if executor == CORE]
    callees = [cores.index(number) if executor == CORE else 0 for number, executor in enumerate(executors)]
    nodes = [
        GraphNode(executor, callees[number], (f"t{number}",), (f"t{number + 1}",), f"n{number}")
        for number, executor in enumerate(executors)
    ]
    specs = [TensorSpec(f"t{number}", (10, 100), "f32", "f32") for number in range(len(nodes) + 1)]
    return Neff(
        "chain", "inf1", base.subgraphs * len(cores), [b""], nodes, specs[:1], specs[-1:], specs[1:-1],
        {"segments": [{"name": "n1", "estimated_us": 7.5}]},
    )  # fmt: skip


def steps_of(*executors: str) -> list[tuple[str, float, int]]:
    neff = chained(*executors)
    steps = service_steps(neff, INF1, core_use(neff), lambda callee: 100.0 * (callee + 1))
    return [(step.kind, step.time_ns, step.core) for step in steps]


LINK = 2000.0 + 4000 / 3.9
HOP = 1040.0 + 4000 / 34.359738


def test_one_segment():
    assert steps_of(CORE) == [("delay", 15_000, 0), ("link_in", LINK, 0), ("core", 100, 0), ("link_out", LINK, 0)]


# Segments with the host between them share a core; the host's time is the report's, or that of the bytes it touches.
def test_host_between_cores():
    assert core_use(chained(CORE, HOST, CORE)).core_of == {0: 0, 1: 0}
    launch, back = ("delay", 15_000, 0), ("link_out", LINK, 0)
    assert steps_of(CORE, HOST, CORE) == [
        launch, ("link_in", LINK, 0), ("core", 100, 0), back, ("host", 7500, 0),
        launch, ("link_in", LINK, 0), ("core", 200, 0), back,
    ]  # fmt: skip
    assert steps_of(HOST, CORE)[0] == ("host", 20_000 + 8000 / 10, 0)


# A pipeline: one launch, a core for each stage, a link from chip to chip where they are on two.
def test_stages_of_a_pipeline():
    use = core_use(chained(CORE, CORE, CORE))
    assert (use.cores, use.core_of) == (3, {0: 0, 1: 1, 2: 2})
    assert steps_of(CORE, CORE, CORE) == [
        ("delay", 15_000, 0), ("link_in", LINK, 0),
        ("core", 100, 0), ("chip_link", pytest.approx(HOP), 0),
        ("core", 200, 1), ("chip_link", pytest.approx(HOP), 1),
        ("core", 300, 2), ("link_out", LINK, 2),
    ]  # fmt: skip


# Reports are written by anybody: what is no estimate is not taken for one.
@pytest.mark.parametrize("segments", [None, 5, [3], [{"name": "n1"}], [{"name": "n1", "estimated_us": float("nan")}]])
def test_malformed_reports(segments: object):
    neff = chained(CORE, HOST)
    neff.report["segments"] = segments
    steps = service_steps(neff, INF1, core_use(neff), lambda callee: 1.0)
    assert steps[-1] == Step("host", 20_800.0)


# Two chips of two cores: only the way from core 1 to core 2 is a link, wherever the instance of the model begins.
@pytest.mark.parametrize(("first", "hops"), [(0, 1), (1, 2)])
def test_links_between_chips(first: int, hops: int):
    steps = [
        step for core in range(4) for step in (Step("core", 100.0, core, 2), Step(CHIP_LINK, 30.0, core, to=core + 1))
    ][:-1]
    cores = range(first, first + 4)
    service = Service("m", tuple(steps), (Placement(cores, frozenset(cores)),), 1)
    run = simulate([service], Hardware(6, 2, 1), Workload([0]))
    assert run.end_ns == 400.0 + hops * 30.0


def test_footprints():
    neff = small_model().neff
    (one,) = footprints(neff, INF1, {0: 0}, 1, depth=4)
    parameters = sum(np.asarray(values).nbytes for values in neff.subgraphs[0].parameters.values())
    # x and y of 16 floats for each request inside.
    assert (one.constants, one.tensors) == (parameters, 4 * 2 * 64)
    assert one.code > 0 and one.dma_rings % 16 == 0 and one.dma_rings > 0
    # Two programs of one core with parameters of their own, and on two cores.
    twice = dataclasses.replace(neff, subgraphs=neff.subgraphs * 2)
    (both,) = footprints(twice, INF1, {0: 0, 1: 0}, 1, depth=4)
    assert (both.code, both.constants, both.tensors) == (2 * one.code, 2 * one.constants, 2 * one.tensors)
    assert footprints(twice, INF1, {0: 0, 1: 1}, 2, depth=4) == [one, one]


def test_device_memory():
    memory = DeviceMemory(2, 100)
    memory.allocate("a", [(0, Footprint(code=10, constants=20, scratchpad=30)), (1, Footprint(tensors=5))])
    # The scratchpad is shared: b adds 20 to the 30 of a, not 50.
    memory.allocate("b", [(0, Footprint(code=5, scratchpad=50))])
    assert [memory.used_bytes(core) for core in range(2)] == [85, 5]
    with pytest.raises(NrtError) as raised:
        memory.allocate("c", [(1, Footprint(code=95)), (0, Footprint(dma_rings=16))])
    assert raised.value.status is Status.NRT_RESOURCE
    assert "core 0 would need 101 bytes of device memory, it has 100" in raised.value.message
    assert memory.report()[1] == {
        "core": 1, "code": 0, "constants": 0, "tensors": 5, "scratchpad": 0, "dma_rings": 0, "used": 5, "capacity": 100,
    }  # fmt: skip
    memory.free("b")
    memory.free("a")
    assert [row["used"] for row in memory.report()] == [0, 0]


# What a request takes alone is the sum of its steps, measured ones among them.
def test_times_of_a_compiled_model():
    model = small_model("host")
    use = core_use(model.neff)
    steps = service_steps(model.neff, INF1, use, lambda callee: 3000.0)
    launched = ["delay", "link_in", "core", "link_out"]
    assert [step.kind for step in steps] == [*launched, "host", *launched]
    service = Service("m", steps, (Placement(range(1), frozenset((0,))),), 4)
    run = simulate([service], Hardware(4, 4, 4), Workload([0]))
    assert np.isclose(run.end_ns, sum(step.time_ns for step in steps))
