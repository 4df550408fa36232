"""Small pipelines: dense layers in stages, compiled once for all tests."""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lowering.compiler import CompileOptions, compile_model
from runtime.neff import Neff

ROWS = 64


def layers(count: int, width: int, skip: bool) -> onnx.ModelProto:
    """Dense layers with tanh; with `skip`, the result of the first one is added to that of the last one."""
    rng = np.random.default_rng(0)
    scale = np.float32(width**-0.5)
    weights = [
        numpy_helper.from_array(rng.standard_normal((width, width), np.float32) * scale, f"w{i}") for i in range(count)
    ]
    nodes: list[onnx.NodeProto] = []
    for i in range(count):
        nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"h{i}"]))
        nodes.append(helper.make_node("Tanh", [f"h{i}"], [f"x{i + 1}"]))
    if skip:
        nodes.append(helper.make_node("Add", ["x1", f"x{count}"], ["y"]))
    names = ("x0", "y" if skip else f"x{count}")
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [ROWS, width]) for name in names]
    graph = helper.make_graph(nodes, "layers", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@functools.cache
def pipeline(cores: int, count: int = 4, width: int = 128, target: str = "inf1", *, skip: bool = False) -> Neff:
    """The layers on so many cores."""
    options = CompileOptions(target, "none", neuroncore_pipeline_cores=cores)
    neff = compile_model(layers(count, width, skip), options).neff
    assert neff is not None
    return neff


def requests(neff: Neff, count: int) -> list[dict[str, np.ndarray]]:
    """Different inputs."""
    (spec,) = neff.inputs
    rng = np.random.default_rng(1)
    return [{spec.name: rng.standard_normal(spec.shape).astype(np.float32)} for _ in range(count)]
