"""What stays on the host when a model is imported, and control flow, known and unknown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, TypeProto, helper, numpy_helper

from lowering.onnx_to_graph import import_onnx
from neuron_dialects.graph import OnnxNodeOp, UnaryOp, WeightOp
from tests.graph_level import Array
from tests.onnx_models import check_import, model_of, operators, results_of

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)


# Host nodes


def nodes_of(result: Any, op_type: str) -> list[OnnxNodeOp]:
    return [op for op in result.module.walk() if isinstance(op, OnnxNodeOp) and op.op_type.data == op_type]


# A host node carries its NodeProto; its operands are the inputs that are present.
def test_host_nodes_carry_their_proto() -> None:
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "count", "", "least"], ["chosen"], name="nms")
    boxes, scores = RNG.random((1, 6, 4)).astype(np.float32), RNG.random((1, 1, 6)).astype(np.float32)
    constants = {"count": np.array([3], np.int64), "least": np.array([0.1], np.float32)}
    feeds = {"boxes": boxes, "scores": scores}
    result = check_import(model_of([node], feeds, ["chosen"], constants=constants), feeds, host=["NonMaxSuppression"])
    (op,) = nodes_of(result, "NonMaxSuppression")
    assert op.node_bytes == node.SerializeToString(deterministic=True)
    assert (op.domain.data, op.opset.value.data, op.capture_names) == ("", 18, ())
    assert [str(value.type) for value in op.inputs] == [
        "tensor<1x6x4xf32>",
        "tensor<1x1x6xf32>",
        "tensor<1xi64>",
        "tensor<1xf32>",
    ]
    assert [str(value.type) for value in op.outputs] == ["tensor<?x3xi64>"]


# Its results are the outputs that are present.
def test_host_nodes_without_some_outputs() -> None:
    node = helper.make_node("Unique", ["x"], ["y", "", "inverse"], name="unique")
    feeds = {"x": np.array([3, 1, 3, 2], np.float32)}
    result = check_import(model_of([node], feeds, ["y", "inverse"]), feeds, host=["Unique"])
    (op,) = nodes_of(result, "Unique")
    assert [str(value.type) for value in op.outputs] == ["tensor<?xf32>", "tensor<?xi64>"]


# A weight that a failed attempt has used already keeps its own name.
def test_weights_of_host_nodes_keep_their_names() -> None:
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["y"])
    scores = RNG.random((1, 2, 5)).astype(np.float32)
    boxes = RNG.random((1, 5, 4)).astype(np.float32)
    model = model_of([node], {"boxes": boxes}, ["y"], constants={"scores": scores, "most": np.array([3], np.int64)})
    result = import_onnx(model)
    assert [host.op_type for host in result.info.onnx_nodes] == ["NonMaxSuppression"]
    assert {"scores", "most"} >= set(result.weights.names()) >= {"scores"}


# Operators of other domains, and operators that nobody knows, are host nodes of unknown type.
def test_unknown_operators() -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="what", domain="org.example")
    model = model_of([node], {"x": X}, ["y"], other_domains=["org.example"])
    result = import_onnx(model)
    result.module.verify()
    (op,) = nodes_of(result, "Frobnicate")
    assert (op.domain.data, op.opset.value.data) == ("org.example", 1)
    assert str(op.outputs[0].type) == "tensor<*xf32>"  # the declared type of the output
    assert result.info.onnx_nodes[0].op_type == "org.example.Frobnicate"


# Strings live on the host: constants, operands and results.
def test_strings() -> None:
    nodes = [helper.make_node("Equal", ["s", "t"], ["y"], name="equal")]
    string = TypeProto()
    string.tensor_type.elem_type = TensorProto.STRING
    string.tensor_type.shape.dim.add().dim_value = 2
    model = model_of(nodes, {"s": string}, ["y"], constants={"t": np.array(["a", "b"], object)}, opset=19)
    result = import_onnx(model)
    result.module.verify()
    text = str(result.module)
    assert '%s: tensor<2x!graph.opaque<"string">>' in text
    assert [node.op_type for node in result.info.onnx_nodes] == ["Equal"]
    (constant,) = nodes_of(result, "Constant")
    assert str(constant.outputs[0].type) == 'tensor<2x!graph.opaque<"string">>'
    feeds = {"s": np.array(["a", "c"], object)}
    np.testing.assert_array_equal(results_of(result, feeds)[0], [True, False])


def test_sequences() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x"], ["parts"], axis=0, keepdims=0),
        helper.make_node("SequenceAt", ["parts", "one"], ["y"]),
    ]
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    model = model_of(nodes, {"x": x}, ["y"], constants={"one": np.array(1)})
    result = check_import(model, {"x": x}, host=["SplitToSequence", "SequenceAt"])
    assert '!graph.opaque<"seq(tensor(float))">' in str(result.module)


# A node that draws random numbers is not pure: two equal ones stay two.
def test_random_nodes() -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], [name]) for name in ("a", "b")]
    model = model_of(nodes, {"x": X}, ["a", "b"])
    assert [bool(op.random) for op in nodes_of(import_onnx(model), "RandomNormalLike")] == [True, True]


# Control flow


def branch(name: str, nodes: list[Any], constants: dict[str, Array] | None = None) -> Any:
    outputs = [helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(array, key) for key, array in (constants or {}).items()]
    return helper.make_graph(nodes, name, [], outputs, tensors)


def branches() -> dict[str, Any]:
    """Two branches that use a value and a weight of the enclosing graph; one has a constant of its own."""
    then = branch("then", [helper.make_node("Add", ["r", "w"], ["then_out"], name="plus")])
    other = branch(
        "else", [helper.make_node("Mul", ["r", "own"], ["else_out"])], {"own": np.full((8, 8), 2, np.float32)}
    )
    return {"then_branch": then, "else_branch": other}


# An If whose condition is known becomes the branch it takes.
@pytest.mark.parametrize(("rank", "taken"), [(4, "graph.binary add"), (3, "graph.binary mul")])
def test_branches_with_known_conditions(rank: int, taken: str) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Size", ["shape"], ["rank"]),
        helper.make_node("Equal", ["rank", "expected"], ["condition"]),
        helper.make_node("If", ["condition"], ["y"], name="if", **branches()),
    ]
    constants = {"expected": np.array(rank), "w": np.ones(8, np.float32)}
    result = check_import(model_of(nodes, {"x": X}, ["y"], constants=constants), {"x": X})
    assert taken in str(result.module)
    assert len(operators(result)) == 2
    # A weight of the branch carries the branch's node in its name: two branches may use one name.
    if taken.endswith("mul"):
        assert result.weights.names() == ("if/own",)


# An If whose condition is computed runs on the host; what its branches use from outside become operands.
@pytest.mark.parametrize("condition", [True, False])
def test_branches_on_the_host(condition: bool) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("If", ["c"], ["y"], name="if", **branches())]
    feeds = {"x": X, "c": np.array(condition)}
    result = check_import(model_of(nodes, feeds, ["y"], constants={"w": np.ones(8, np.float32)}), feeds, host=["If"])
    (op,) = nodes_of(result, "If")
    assert op.capture_names == ("r", "w")
    assert isinstance(op.inputs[1].owner, UnaryOp)
    assert isinstance(op.inputs[2].owner, WeightOp)


# A loop's body sees its own values, its inputs, and what it captures, at any depth.
def test_loops_on_the_host() -> None:
    inner = branch("then", [helper.make_node("Mul", ["state", "factor"], ["then_out"])])
    other = branch("else", [helper.make_node("Identity", ["state"], ["else_out"])])
    body = helper.make_graph(
        [
            helper.make_node("If", ["go on"], ["next"], then_branch=inner, else_branch=other),
            helper.make_node("Identity", ["go on"], ["still"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)]
    feeds = {"x": X, "factor": np.array(0.5, np.float32)}
    result = check_import(model_of(nodes, feeds, ["y"], constants={"trips": np.array(3)}), feeds, host=["Loop"])
    (op,) = nodes_of(result, "Loop")
    assert op.capture_names == ("factor",)


# Functions of the model itself are inlined.
def test_local_functions() -> None:
    function = helper.make_function(
        "org.example",
        "ScaledRelu",
        ["a"],
        ["b"],
        [
            helper.make_node("Relu", ["a"], ["r"]),
            helper.make_node("Constant", [], ["two"], value_float=2.0),
            helper.make_node("Mul", ["r", "two"], ["b"]),
        ],
        [helper.make_opsetid("", 18)],
    )
    nodes = [helper.make_node("ScaledRelu", ["x"], ["y"], domain="org.example")]
    model = model_of(nodes, {"x": X}, ["y"], other_domains=["org.example"])
    model.functions.append(function)
    assert operators(check_import(model, {"x": X})) == ["graph.unary", "graph.binary"]


# A function body of which one node would stay on the host is not used: the node stays whole.
def test_function_bodies_are_all_or_nothing() -> None:
    result = import_onnx(model_of([helper.make_node("Bernoulli", ["x"], ["y"])], {"x": X}, ["y"]))
    assert operators(result) == ["graph.onnx_node"]
    (left,) = result.info.onnx_nodes
    assert left.op_type == "Bernoulli"
    assert left.reason == "RandomUniformLike: there is no graph operator for RandomUniformLike"
