"""Small models for the tests of serving: compiled once for each process, with inputs and the outputs for them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lowering.compiler import CompileOptions, compile_model
from runtime.neff import Neff
from runtime.reference import errors, run_onnxruntime
from runtime.session import Session

Array = np.ndarray[Any, np.dtype[Any]]
FLOAT = onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class SmallModel:
    """A compiled model of one input x and one output y, some inputs, and its output for each: what a session gives
    that runs alone, which is also close to what onnxruntime gives.
    """

    neff: Neff
    inputs: list[dict[str, Array]]
    expected: list[Array]

    def is_right(self, number: int, outputs: dict[str, Array]) -> bool:
        """Whether outputs are those of input `number`, bit for bit."""
        return np.array_equal(outputs["y"], self.expected[number])


@functools.cache
def small_model(
    kind: str = "relu", width: int = 16, target: str = "inf1", rows: int = 1, count: int = 8, cores: int = 1
) -> SmallModel:
    """`relu` and `tanh`: a dense layer and that function. `host`: a dense layer on each side of a host segment;
    `deep`: on each side of a relu. `cores`: a pipeline of so many stages.
    """
    rng = np.random.default_rng(width)
    weights = [
        numpy_helper.from_array(rng.standard_normal((width, width), np.float32) / 4, "w"),
        numpy_helper.from_array(rng.standard_normal(width, np.float32), "b"),
    ]
    if kind == "host":
        weights.append(numpy_helper.from_array(np.full(rows, width), "lengths"))
        nodes = [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
            helper.make_node("ReverseSequence", ["h", "lengths"], ["r"], name="turn", batch_axis=0, time_axis=1),
            helper.make_node("Gemm", ["r", "w", "b"], ["y"]),
        ]
    elif kind == "deep":
        nodes = [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w", "b"], ["y"]),
        ]
    else:
        nodes = [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
            helper.make_node({"relu": "Relu", "tanh": "Tanh"}[kind], ["h"], ["y"]),
        ]
    values = [helper.make_tensor_value_info(name, FLOAT, ["batch", width]) for name in "xy"]
    graph = helper.make_graph(nodes, kind, values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    shapes = {"x": (rows, width)}
    options = CompileOptions(target, "none", input_shapes=shapes, neuroncore_pipeline_cores=cores)
    neff = compile_model(onnx.load_from_string(model), options).neff
    assert neff is not None
    inputs = [{"x": rng.standard_normal((rows, width), np.float32)} for _ in range(count)]
    expected = [Session(neff).run(given).outputs["y"] for given in inputs]
    for given, output in zip(inputs, expected, strict=True):
        assert errors(output, run_onnxruntime(model, given)["y"])["rel_l2_error"] < 0.02
    return SmallModel(neff, inputs, expected)
