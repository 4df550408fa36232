"""All cores of a pipeline at once: right outputs for each request, times that the simulation of queues gives too."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import helper

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import load_target
from passes.graph.pipeline_cut import Cutter
from passes.graph.pipeline_fold import Cut, Cuts
from runtime.neff import Neff
from runtime.pipelined import run_pipeline
from runtime.races import check_pipeline_races
from runtime.serving.figures import serving_figures
from runtime.serving.placement import Placement
from runtime.serving.service import core_use, service_steps
from runtime.serving.simulation import CHIP_LINK, CORE, Hardware, Service, Workload, simulate
from runtime.session import Session
from tests.runtime.stages import layers, pipeline, requests

REQUESTS = 6
SHAPES = (("inf1", 2, 4, False), ("inf1", 3, 6, True), ("trn1", 4, 8, False))
"""Target, cores, layers, and whether the first layer's result goes to the last stage too. trn1: two cores a chip."""


def queues(neff: Neff, count: int, inside: int) -> tuple[float, float]:
    """Steady interval and median latency, in ns, by the simulation of queues, without host and launches."""
    session, use = Session(neff), core_use(neff)
    steps = service_steps(neff, session.target, use, lambda callee: session.core_time(callee) * 1e9)
    stages = tuple(step for step in steps if step.kind in (CORE, CHIP_LINK))
    place = Placement(range(use.cores), frozenset(range(use.cores)))
    service = Service("stages", stages, (place,), inside)
    hardware = Hardware(16, int(session.target.cores_per_chip), 1)
    run = simulate([service], hardware, Workload([0] * count, inside))
    rate = serving_figures(run, [service])["steady_throughput"]
    assert isinstance(rate, float)
    return 1e9 / rate, float(np.median([r.finished_ns - r.arrived_ns for r in run.requests]))


@pytest.mark.parametrize(("target", "cores", "count", "skip"), SHAPES)
def test_every_request_gets_its_own_outputs(target: str, cores: int, count: int, skip: bool) -> None:
    neff = pipeline(cores, count, target=target, skip=skip)
    given = requests(neff, REQUESTS)
    result = run_pipeline(neff, given)
    session = Session(neff)
    for inputs, outputs in zip(given, result.outputs, strict=True):
        for name, value in session.run(inputs).outputs.items():
            np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    # Stages overlap: the last one works on a request while the first one works on another.
    assert result.timing.finished_ns[0] > next(r for r in result.timing.runs if r.request == 1).start_ns
    # Data changes no time.
    assert run_pipeline(neff, REQUESTS).timing.runs == result.timing.runs


@pytest.mark.parametrize(
    ("target", "cores", "count", "within"), [("inf1", 2, 4, 0.01), ("inf1", 4, 8, 0.01), ("trn1", 4, 8, 0.03)]
)
def test_queues_and_cores_agree(target: str, cores: int, count: int, within: float) -> None:
    """Stages that are one transfer each way: whole programs in queues take the times of all cores at once."""
    neff = pipeline(cores, count, target=target)
    inside = cores + 3
    interval, latency = queues(neff, 40, inside)
    timing = run_pipeline(neff, 40, inside).timing
    assert timing.steady_interval_ns == pytest.approx(interval, rel=within)
    assert float(np.median(timing.latencies_ns)) == pytest.approx(latency, rel=within)


def test_one_request_at_a_time() -> None:
    """One client: no stage waits for another request, and the next request comes when the last one is done."""
    neff = pipeline(2)
    timing = run_pipeline(neff, 4, inside=1).timing
    assert timing.admitted_ns[1:] == timing.finished_ns[:-1]
    alone = sum(Session(neff).core_time(callee) * 1e9 for callee in range(2))
    assert timing.latencies_ns[0] == pytest.approx(alone, rel=0.01)
    assert timing.latencies_ns == pytest.approx([timing.latencies_ns[0]] * 4)


def without_waits(neff: Neff, number: int) -> Neff:
    """The model with a program that does not wait for other cores."""
    images = list(neff.subgraphs)
    program = images[number].program
    kept = {
        engine: [replace(e, waits=tuple(w for w in e.waits if w[0] not in program.hand_over_counts)) for e in entries]
        for engine, entries in program.queues.items()
    }
    images[number] = replace(images[number], program=replace(program, queues=kept))
    return replace(neff, subgraphs=images)


def test_a_missing_wait_shows_in_the_numbers() -> None:
    """The second stage reads before the first one has stored."""
    neff = pipeline(2)
    given = requests(neff, 4)
    right, wrong = (run_pipeline(model, given).outputs for model in (neff, without_waits(neff, 1)))
    assert not np.allclose(wrong[0]["x4"], right[0]["x4"], atol=0.1)


def stuck(program: CoreProgram) -> CoreProgram:
    """The program waits for a buffer more than there will ever be."""
    (semaphore,) = program.hand_over_counts
    changed = {
        engine: [replace(e, waits=tuple((s, v + 9) if s == semaphore else (s, v) for s, v in e.waits)) for e in entries]
        for engine, entries in program.queues.items()
    }
    return replace(program, queues=changed)


def test_stages_that_wait_for_ever() -> None:
    neff = pipeline(2)
    images = [replace(neff.subgraphs[0], program=stuck(neff.subgraphs[0].program)), neff.subgraphs[1]]
    with pytest.raises(NeuronError) as caught:
        run_pipeline(replace(neff, subgraphs=images), 3)
    assert caught.value.code == "NX-RUN-003"
    assert "core 0 in program 0: pool at entry 0 for free0 >= 10 (it is 2)" in caught.value.message
    assert "core 1 in program 1: sp at entry 0 for ready0 >= 1 (it is 0)" in caught.value.message


def test_one_core_is_a_pipeline_too() -> None:
    neff = pipeline(1)
    given = requests(neff, 3)
    result = run_pipeline(neff, given)
    session = Session(neff)
    for inputs, outputs in zip(given, result.outputs, strict=True):
        np.testing.assert_allclose(outputs["x4"], session.run(inputs).outputs["x4"], rtol=1e-5, atol=1e-6)
    assert result.timing.steady_interval_ns == pytest.approx(session.core_time(0) * 1e9)


def test_the_host_between_cores_cannot_stream() -> None:
    """Determinants are for the host, between two core segments."""
    nodes = [
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Det", ["e"], ["d"]),
        helper.make_node("Tanh", ["d"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 4, 4]),
        helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64]),
    ]
    graph = helper.make_graph(nodes, "between", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    neff = compile_model(model, CompileOptions("inf1", "none")).neff
    assert neff is not None
    if len(neff.subgraphs) < 2:
        pytest.skip("the partitioner keeps it in one core segment")
    with pytest.raises(NeuronError) as caught:
        run_pipeline(neff, 2)
    assert caught.value.code == "NX-RUN-013"


def test_cores_with_two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five stages on three cores, there and back: a core never holds one up that waits for its other stage."""

    def folded(cuts: Cuts, _: int) -> Cut:
        stages = Cutter(cuts.plain.chain, cuts.plain.costs, 5).stages(5)
        assert stages is not None
        return Cut(tuple(stages), (0, 1, 2, 1, 0))

    monkeypatch.setattr(Cuts, "cut", folded)
    monkeypatch.setattr(Cuts, "plain_cut", folded)
    neff = compile_model(layers(10, 128, skip=False), CompileOptions("inf1", "none", neuroncore_pipeline_cores=3)).neff
    assert neff is not None
    assert [image.program.core for image in neff.subgraphs] == [0, 1, 2, 1, 0]
    assert check_pipeline_races([image.program for image in neff.subgraphs], load_target("inf1")) == []
    given = requests(neff, 4)
    session = Session(neff)
    for inputs, outputs in zip(given, run_pipeline(neff, given).outputs, strict=True):
        np.testing.assert_allclose(outputs["x10"], session.run(inputs).outputs["x10"], rtol=1e-5, atol=1e-6)
    timing = run_pipeline(neff, 40, inside=8).timing
    interval, latency = queues(neff, 40, 8)
    assert timing.steady_interval_ns == pytest.approx(interval, rel=0.03)
    assert float(np.median(timing.latencies_ns)) == pytest.approx(latency, rel=0.03)
    # A core runs one program at a time.
    for core in range(3):
        runs = sorted((run.start_ns, run.end_ns) for run in timing.runs if run.core == core)
        assert all(end <= start for (_, end), (start, _) in pairwise(runs))
