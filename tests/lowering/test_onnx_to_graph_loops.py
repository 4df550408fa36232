"""Loops run on the host; what is known of their results decides what can run on the core after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from lowering.compiler import CompileOptions, compile_model
from runtime.reference import run_onnxruntime
from runtime.session import Session
from tests.graph_level import Array

TRUE = numpy_helper.from_array(np.array(True), "true")


def looped(condition: NodeProto, trips: Array | None = None, start: str = "") -> ModelProto:
    """Rows of x, one for each trip, times a weight; `condition` makes the body's condition "go on" from "given"."""
    body = helper.make_graph(
        [condition, helper.make_node("Gather", ["x", "i"], ["row"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("given", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("go on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("row", TensorProto.FLOAT, [4]),
        ],
        [TRUE],
    )
    count = np.array(3) if trips is None else trips
    constants = {"trips": count, "start": np.array(True), "w": np.arange(20, dtype=np.float32).reshape(4, 5)}
    graph = helper.make_graph(
        [
            helper.make_node("Loop", ["trips", start], ["rows"], body=body, name="loop"),
            helper.make_node("MatMul", ["rows", "w"], ["y"]),
        ],
        "looped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def on_core(model: ModelProto) -> list[str]:
    """Names of the operators on the core, having checked the numbers."""
    x: dict[str, Any] = {"x": np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)}
    result = compile_model(model, CompileOptions("trn1", "none"))
    assert result.neff is not None
    found, wanted = Session(result.neff).run(x).outputs["y"], run_onnxruntime(model.SerializeToString(), x)["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    return [row["op"] for row in result.report["partition"] if row["where"] == "core"]


def same(name: str) -> NodeProto:
    return helper.make_node("Identity", [name], ["go on"])


# The trips are a constant, and the condition stays true in one of the ways in which exporters write that.
@pytest.mark.parametrize("start", ["", "start"])
@pytest.mark.parametrize(
    "condition",
    [
        same("given"),
        same("true"),
        same("start"),
        helper.make_node("Cast", ["given"], ["go on"], to=TensorProto.BOOL),
        helper.make_node("Constant", [], ["go on"], value=TRUE),
    ],
)
def test_known_number_of_trips(condition: NodeProto, start: str) -> None:
    assert "graph.matmul" in on_core(looped(condition, start=start))


# The condition is computed: the loop may end early, and nothing is known of the number of rows.
def test_loop_that_may_end_early() -> None:
    assert on_core(looped(helper.make_node("Not", ["given"], ["go on"]))) == []
