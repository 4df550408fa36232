"""What only the host can run, between parts that the core runs: control flow, sequences, texts, sizes found in data.

Each model is compiled whole, run, and compared with onnxruntime; heavy operators before and behind stay on the core.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.errors import NeuronError
from runtime.neff import neff_bytes, read_neff
from runtime.reference import errors, run_onnxruntime
from runtime.session import Session
from tests.lowering.test_dynamic_shapes import Array, node, weight

FLOAT, INT64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING


def body(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[Any] | None]], outputs: list[str]
) -> GraphProto:
    given = [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()]
    return helper.make_graph(nodes, "body", given, [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs])


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[Any]]], outputs: list[str], **weights: Array
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def executors(proto: ModelProto, inputs: dict[str, Array], shapes: bool = False) -> list[tuple[str, str]]:
    """Compile, run and compare; the report's (operator, where)."""
    bound = {name: value.shape for name, value in inputs.items()} if shapes else {}
    result = compile_model(proto, CompileOptions(target="trn1", auto_cast="none", input_shapes=bound))
    assert result.neff is not None
    outputs = Session(read_neff(neff_bytes(result.neff))).run(inputs).outputs
    for name, value in run_onnxruntime(proto.SerializeToString(), inputs).items():
        assert outputs[name].shape == value.shape
        assert errors(outputs[name], value)["rel_l2_error"] <= 1e-4, name
    return [(row["op"], row["where"]) for row in result.report["partition"]]


IMAGE: dict[str, tuple[int, list[Any]]] = {"x": (FLOAT, [1, 3, 8, 8])}


def conv(x: str, w: str, y: str) -> onnx.NodeProto:
    return node("Conv", f"{x} {w}", y, pads=[1, 1, 1, 1])


def wheres(rows: list[tuple[str, str]], op: str) -> set[str]:
    return {where for name, where in rows if op in name}


# The two branches differ in their width; what comes out is padded to one shape again before the convolution.
@pytest.mark.parametrize("sign", [1, -1])
def test_branches_of_different_shapes(sign: int) -> None:
    narrow = body([node("Slice", "h from to axis", "n")], {}, ["n"])
    wide = body([node("Identity", "h", "w")], {}, ["w"])
    nodes = [
        conv("x", "w1", "h"), node("ReduceSum", "h", "total", keepdims=0), node("Greater", "total zero", "positive"),
        helper.make_node("If", ["positive"], ["branch"], name="branch", then_branch=narrow, else_branch=wide),
        node("Resize", "branch none none sizes", "sized"), conv("sized", "w2", "y"),
    ]  # fmt: skip
    proto = model(nodes, IMAGE, ["y"], w1=np.abs(weight(4, 3, 3, 3)), w2=weight(2, 4, 3, 3),
                  zero=np.zeros((), np.float32), to=np.array([4]), axis=np.array([3]),
                  none=np.empty(0, np.float32), sizes=np.array([1, 4, 8, 8]),
                  **{"from": np.array([0])})  # fmt: skip
    rows = executors(proto, {"x": sign * np.abs(weight(1, 3, 8, 8))})
    assert wheres(rows, "conv") == {"core"}
    assert wheres(rows, "If") == {"host"}


# The body of the loop could run on a core; the loop stays whole, on the host.
def test_a_loop_stays_whole() -> None:
    inner = body(
        [node("MatMul", "state w", "product"), node("Tanh", "product", "next"), node("Identity", "go", "again")],
        {"i": (INT64, []), "go": (BOOL, []), "state": (FLOAT, [4, 4])}, ["again", "next"],
    )  # fmt: skip
    inner.output[0].CopyFrom(helper.make_tensor_value_info("again", BOOL, []))
    nodes = [
        node("MatMul", "x w", "before"), node("Abs", "x", "a"), node("ReduceMax", "a", "top", keepdims=0),
        node("Cast", "top", "times", to=INT64),
        helper.make_node("Loop", ["times", "", "before"], ["looped"], name="loop", body=inner),
        node("MatMul", "looped w", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": (FLOAT, [4, 4])}, ["y"], w=weight(4, 4))
    rows = executors(proto, {"x": 3 * weight(4, 4)})
    assert wheres(rows, "matmul") == {"core"}
    assert wheres(rows, "Loop") == {"host"}


def test_a_sequence_between_segments() -> None:
    nodes = [
        node("MatMul", "x w", "h"), node("SplitToSequence", "h", "parts", axis=0, keepdims=1),
        node("SequenceAt", "parts two", "part"), node("SequenceInsert", "parts part", "longer"),
        node("ConcatFromSequence", "longer", "joined", axis=0), node("Reshape", "joined shape", "fixed"),
        node("MatMul", "fixed w", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": (FLOAT, [3, 4])}, ["y"], w=weight(4, 4), two=np.array(2), shape=np.array([4, 4]))
    rows = executors(proto, {"x": weight(3, 4)})
    assert wheres(rows, "matmul") == {"core"}
    assert wheres(rows, "Sequence") == {"host"}


# How many elements NonZero finds, only the run knows; TopK makes the size known again.
def test_sizes_found_in_data() -> None:
    nodes = [
        node("MatMul", "x w", "h"), node("Greater", "h zero", "mask"), node("NonZero", "mask", "found"),
        node("Slice", "found zero_at one_at axis0", "first"), node("Squeeze", "first axis0", "rows"),
        node("Gather", "h rows", "picked"), node("Unique", "rows", "different", sorted=1),
        node("Gather", "h different", "again"), node("ReduceSum", "picked axis0", "summed", keepdims=1),
        node("ReduceMax", "again axis0", "largest", keepdims=1), node("Add", "summed largest", "both"),
        node("Reshape", "both shape", "fixed"), node("MatMul", "fixed w", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": (FLOAT, [6, 4])}, ["y", "picked"], w=weight(4, 4), zero=np.zeros((), np.float32),
                  zero_at=np.array([0]), one_at=np.array([1]), axis0=np.array([0]), shape=np.array([1, 4]))  # fmt: skip
    rows = executors(proto, {"x": weight(6, 4)})
    assert wheres(rows, "matmul") == {"core"}
    assert wheres(rows, "NonZero") == {"host"}


def test_texts_stay_on_the_host() -> None:
    nodes = [
        node("MatMul", "x w", "h"), node("Equal", "text wanted", "same"), node("Cast", "same", "flag", to=FLOAT),
        node("Mul", "h flag", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": (FLOAT, [3, 4]), "text": (STRING, [4])}, ["y"], w=weight(4, 4),
                  wanted=np.array(["a"], object))  # fmt: skip
    rows = executors(proto, {"x": weight(3, 4), "text": np.array(["a", "b", "a", "c"], object)})
    assert wheres(rows, "matmul") == {"core"}


# The shape arithmetic of exporters: nothing of it is left after the import.
def test_shape_computations_fold_away() -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s i0", "n"), node("Gather", "s i1", "t"), node("Mul", "t i2", "t2"),
        node("Unsqueeze", "n axis", "n1"), node("Unsqueeze", "t2 axis", "t1"),
        node("Concat", "n1 t1 rest", "shape", axis=0), node("Reshape", "x shape", "r"),
        node("Range", "i0 t2 i1", "positions"), node("Cast", "positions", "p", to=FLOAT),
        node("Unsqueeze", "p axis1", "p1"), node("Add", "r p1", "added"), node("Shape", "added", "again"),
        node("Slice", "again axis1 axis2 axis", "mid"), node("ConstantOfShape", "mid", "zeros"),
        node("Where", "yes added added", "chosen"), node("Expand", "chosen again", "e"),
        node("ReduceSum", "zeros", "z"), node("Add", "e z", "a"), node("MatMul", "a w", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": (FLOAT, ["n", "t", 8])}, ["y"], w=weight(4, 3), i0=np.array(0), i1=np.array(1),
                  i2=np.array(2), axis=np.array([0]), axis1=np.array([1]), axis2=np.array([2]), rest=np.array([4]),
                  yes=np.array(True))  # fmt: skip
    for shape in ((2, 5, 8), (1, 3, 8)):
        rows = executors(proto, {"x": weight(*shape)}, shapes=True)
        assert {where for _, where in rows} == {"core"}
        assert not [name for name, _ in rows if not name.startswith("graph.")]


@pytest.mark.parametrize(
    ("shapes", "code"),
    [
        ({"a": (2, 3), "b": (4, 4)}, "NX-ONNX-005"),
        ({"a": (2, 3), "b": (3, 5)}, "NX-ONNX-005"),
        ({"a": (2,)}, "NX-ONNX-005"),
        ({}, "NX-ONNX-004"),
    ],
)
def test_bindings_that_contradict_each_other(shapes: dict[str, tuple[int, ...]], code: str) -> None:
    proto = model([node("MatMul", "a b", "y")], {"a": (FLOAT, ["m", "k"]), "b": (FLOAT, ["k", 4])}, ["y"])
    with pytest.raises(NeuronError) as caught:
        compile_model(proto, CompileOptions(input_shapes=shapes))
    assert caught.value.code == code
