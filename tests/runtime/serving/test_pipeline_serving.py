"""A model in pipeline stages, served: right outputs, a stage on each core, and the throughput of the slowest one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.errors import NeuronError
from runtime.neff import neff_bytes, open_neff, read_neff
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


def test_layers_on_six_cores() -> None:
    """Three chips: stages double-buffered, links between chips, the outputs of one core within rounding."""
    compiled = compile_model(layers(), CompileOptions("trn1", "none", neuroncore_pipeline_cores=CORES))
    assert compiled.neff is not None
    data = neff_bytes(compiled.neff)
    assert open_neff(data).header.num_tpb == CORES
    neff = read_neff(data)
    assert sum(image.program.pinned_bytes for image in neff.subgraphs) >= LAYERS * 2 * WIDTH * 4
    inputs = {"x0": np.random.default_rng(1).standard_normal((64, WIDTH)).astype(np.float32)}
    alone = compile_model(layers(), CompileOptions("trn1", "none")).neff
    assert alone is not None
    session = Session(neff)
    for _ in range(2):
        # The second run finds the pinned weights that the first one left.
        have, want = session.run(inputs).outputs["x6"], Session(alone).run(inputs).outputs["x6"]
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
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


def test_options_that_do_not_go_together() -> None:
    """Several buckets in a pipeline, and a number of cores that no instance has."""
    buckets = [{"x0": (64, WIDTH)}, {"x0": (32, WIDTH)}]
    with pytest.raises(NeuronError) as caught:
        compile_model(layers(), CompileOptions(buckets=buckets, neuroncore_pipeline_cores=2))
    assert caught.value.code == "NX-PIPE-003"
    with pytest.raises(NeuronError) as caught:
        compile_model(layers(), CompileOptions(neuroncore_pipeline_cores=65))
    assert caught.value.code == "NX-ARG-001"
