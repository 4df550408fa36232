"""A model in pipeline stages, served: right outputs, a stage on each core, and the throughput of the slowest one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.errors import NeuronError
from passes.graph.pipeline_cut import Cutter
from passes.graph.pipeline_fold import Cut, Cuts
from runtime.neff import Neff, neff_bytes, open_neff, read_neff
from runtime.neff.neff_check import check_neff
from runtime.serving.figures import serving_figures
from runtime.serving.placement import Placement
from runtime.serving.service import core_use, service_steps
from runtime.serving.simulation import CHIP_LINK, CORE, DELAY, Hardware, Service, Workload, simulate
from runtime.session import Session

LAYERS, WIDTH, CORES = 6, 256, 6
DEPTH = 4 * CORES
"""Requests inside: launches take longer than these small stages."""


def layers() -> onnx.ModelProto:
    """Six dense layers with tanh."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH), np.float32) / 16, f"w{i}") for i in range(LAYERS)
    ]
    nodes: list[onnx.NodeProto] = []
    for i in range(LAYERS):
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"h{i}"]))
        nodes.append(helper.make_node("Tanh", [f"h{i}"], [f"x{i + 1}"]))
    shape = [64, WIDTH]
    ends = [helper.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, shape) for i in (0, LAYERS)]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def check_runs(session: Session) -> None:
    """Two runs give what one core gives: the second one finds the pinned weights of all stages where they were left."""
    inputs = {"x0": np.random.default_rng(1).standard_normal((64, WIDTH)).astype(np.float32)}
    alone = compile_model(layers(), CompileOptions("trn1", "none")).neff
    assert alone is not None
    want = Session(alone).run(inputs).outputs["x6"]
    for _ in range(2):
        np.testing.assert_allclose(session.run(inputs).outputs["x6"], want, rtol=1e-5, atol=1e-5)


def test_layers_on_six_cores() -> None:
    """Three chips: stages double-buffered, links between chips, the outputs of one core within rounding."""
    compiled = compile_model(layers(), CompileOptions("trn1", "none", neuroncore_pipeline_cores=CORES))
    assert compiled.neff is not None
    data = neff_bytes(compiled.neff)
    assert open_neff(data).header.num_tpb == CORES
    neff = read_neff(data)
    assert sum(image.program.pinned_bytes for image in neff.subgraphs) >= LAYERS * 2 * WIDTH * 4
    session = Session(neff)
    check_runs(session)
    use = core_use(neff)
    assert use.cores == CORES
    steps = service_steps(neff, session.target, use, lambda callee: session.core_time(callee) * 1e9)
    assert sum(step.kind == CHIP_LINK for step in steps) == CORES - 1
    hardware = Hardware(16, 2, 8)
    service = Service("layers", steps, (Placement(range(CORES), frozenset(range(CORES))),), DEPTH)
    figures = serving_figures(simulate([service], hardware, Workload([0] * 500, DEPTH)), [service])
    # A launch keeps nothing busy.
    slowest = max(step.time_ns for step in steps if step.kind != DELAY)
    rate = figures["steady_throughput"]
    assert isinstance(rate, float)
    # A little less than the slowest stage allows: a request on its way between chips holds a buffer too.
    assert 0.9 / slowest < rate / 1e9 < 1.001 / slowest
    report = compiled.report["pipeline"]
    stages = [step.time_ns for step in steps if step.kind == CORE]
    assert [row["time_us"] for row in report["stages"]] == pytest.approx([time / 1000 for time in stages], abs=1e-3)
    assert report["imbalance"] == pytest.approx(max(stages) * CORES / sum(stages), abs=1e-3)


def test_layers_on_shared_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five stages on three cores: outputs of one core, weights apart, and the throughput of the slowest core."""
    cores = 3

    def folded(cuts: Cuts, _: int) -> Cut:
        stages = Cutter(cuts.plain.chain, cuts.plain.costs, 5).stages(5)
        assert stages is not None
        return Cut(tuple(stages), (0, 1, 2, 1, 0))

    monkeypatch.setattr(Cuts, "cut", folded)
    monkeypatch.setattr(Cuts, "plain_cut", folded)
    compiled = compile_model(layers(), CompileOptions("trn1", "none", neuroncore_pipeline_cores=cores))
    assert compiled.neff is not None
    data = neff_bytes(compiled.neff)
    assert open_neff(data).header.num_tpb == cores
    neff = read_neff(data)
    session = Session(neff)
    check_runs(session)
    use = core_use(neff)
    assert (use.cores, use.stages, [use.core_of[n] for n in range(5)]) == (cores, 5, [0, 1, 2, 1, 0])
    steps = service_steps(neff, session.target, use, lambda callee: session.core_time(callee) * 1e9)
    assert [(step.core, step.to) for step in steps if step.kind == CHIP_LINK] == [(0, 1), (1, 2), (2, 1), (1, 0)]
    times = [0.0] * cores
    for step in steps:
        times[step.core] += step.time_ns if step.kind == CORE else 0.0
    service = Service("layers", steps, (Placement(range(cores), frozenset(range(cores))),), DEPTH)
    figures = serving_figures(simulate([service], Hardware(16, 16, 8), Workload([0] * 500, DEPTH)), [service])
    rate = figures["steady_throughput"]
    assert isinstance(rate, float)
    assert 0.97 / max(times) < rate / 1e9 < 1.01 / max(times)
    report = compiled.report["pipeline"]
    assert [row["time_us"] for row in report["per_core"]] == pytest.approx([t / 1000 for t in times], abs=1e-3)
    assert [row["stages"] for row in report["per_core"]] == [[0, 4], [1, 3], [2]]
    assert report["imbalance"] == pytest.approx(max(times) * cores / sum(times), abs=1e-3)
    assert all(row["free_bytes"] >= 0 for row in report["per_core"])
    check_refusals(neff)


def check_refusals(neff: Neff) -> None:
    """Programs on one core that would write each other's pinned weights are no NEFF."""
    first, *_, last = (image.program for image in neff.subgraphs)
    assert first.core == last.core
    short, moved = replace(last, reserved_bytes=64), replace(neff.subgraphs[1].program, core=last.core)
    for position, program, message in ((4, short, "reserves 64 bytes"), (1, moved, "share a core and byte 0")):
        images = list(neff.subgraphs)
        images[position] = replace(images[position], program=program)
        with pytest.raises(NeuronError, match=message) as caught:
            check_neff(replace(neff, subgraphs=images))
        assert caught.value.code == "NX-NEFF-005"


def test_options_that_do_not_go_together() -> None:
    """Several buckets in a pipeline, and a number of cores that no instance has."""
    buckets = [{"x0": (64, WIDTH)}, {"x0": (32, WIDTH)}]
    with pytest.raises(NeuronError) as caught:
        compile_model(layers(), CompileOptions(buckets=buckets, neuroncore_pipeline_cores=2))
    assert caught.value.code == "NX-PIPE-003"
    with pytest.raises(NeuronError) as caught:
        compile_model(layers(), CompileOptions(neuroncore_pipeline_cores=65))
    assert caught.value.code == "NX-ARG-001"
