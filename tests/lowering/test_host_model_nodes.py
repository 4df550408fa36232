"""ONNX nodes, weights and boundaries of host functions as ONNX models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto, helper
from xdsl.dialects.builtin import DYNAMIC_INDEX, NameLoc, NoneAttr, StringAttr, TensorType
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute

from lowering.nisa_to_neff.host_model import host_model_bytes
from neuron_dialects.dtypes import BF16, F16, F32, F64, I1, I64, TF32, DType
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ConstantOp,
    OnnxNodeOp,
    OpaqueType,
    UnaryKind,
    UnaryOp,
    Value,
    WeightOp,
    tensor_type,
)
from neuron_dialects.weights import WeightStore
from runtime.graph_interpreter import WeightResolver
from tests.graph_level import build, main_of, no_weights, parse, random_inputs, random_store
from tests.lowering.host_models import check_same, run_model, values


def onnx_node(
    node: NodeProto,
    operands: Sequence[Value],
    results: Sequence[Attribute],
    *,
    opset: int = 18,
    captures: Sequence[str] = (),
) -> OnnxNodeOp:
    return OnnxNodeOp(
        operands,
        op_type=node.op_type,
        domain=node.domain,
        node=node.SerializeToString(),
        opset=opset,
        result_types=results,
        captures=captures,
    )


def unknown_sizes(dtype: DType, rank: int) -> TensorType[Any]:
    return TensorType(dtype.type, [DYNAMIC_INDEX] * rank)


def graph_of(nodes: Sequence[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> Any:
    return helper.make_graph(nodes, "body", inputs, outputs)


def tensor(name: str, code: int = TensorProto.FLOAT, shape: Sequence[int] | None = None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def branching(then: Sequence[NodeProto], other: Sequence[NodeProto]) -> NodeProto:
    """An If whose branches are nodes that end with one called r."""
    branches = [graph_of(nodes, [], [ValueInfoProto(name="r")]) for nodes in (then, other)]
    return helper.make_node("If", ["flag"], ["y"], then_branch=branches[0], else_branch=branches[1])


def model_of(function: FuncOp) -> onnx.ModelProto:
    return onnx.load_from_string(host_model_bytes(function, no_weights))


# Nodes between graph operators


def test_node_between_operators():
    def make(x: Any) -> list[Any]:
        positive = UnaryOp(UnaryKind.ABS, x)
        node = helper.make_node("TopK", ["a", "k"], ["values", "indices"], axis=1)
        k = ConstantOp(np.array([3]))
        top = onnx_node(node, [positive, k], [tensor_type(F32, (4, 3)), tensor_type(I64, (4, 3))])
        return [UnaryOp(UnaryKind.NEG, top.outputs[0]), top.outputs[1]]

    x = values(F32, 4, 9)
    check_same(build(make, [x]), [x])


# Absent inputs and outputs keep their places; a name may be read twice.
def test_absent_and_repeated_names():
    def make(x: Any) -> list[Any]:
        clip = helper.make_node("Clip", ["x", "", "high"], ["y"])
        unique = helper.make_node("Unique", ["x"], ["values", "", "inverse", ""])
        add = helper.make_node("Add", ["x", "x"], ["y"])
        return [
            onnx_node(clip, [x, ConstantOp(0.5, F32, ())], [tensor_type(F32, (6,))]),
            *onnx_node(unique, [x], [unknown_sizes(F32, 1), tensor_type(I64, (6,))]).outputs,
            onnx_node(add, [x, x], [tensor_type(F32, (6,))]),
        ]

    x = np.array([2.0, 1.0, 2.0, 0.0, -1.0, 2.0], np.float32)
    check_same(build(make, [x]), [x])


def test_sizes_known_at_run_time():
    def make(boxes: Any, scores: Any) -> Any:
        node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "iou"], ["selected"])
        most, iou = ConstantOp(4, I64, ()), ConstantOp(0.3, F32, ())
        return onnx_node(node, [boxes, scores, most, iou], [unknown_sizes(I64, 2)], opset=11)

    boxes = np.sort(np.random.default_rng(0).random((1, 20, 2, 2), np.float32), axis=2).reshape(1, 20, 4)
    scores = values(F32, 1, 2, 20)
    (selected,) = check_same(build(make, [boxes, scores]), [boxes, scores])
    assert 0 < len(selected) <= 8


def test_strings_and_sequences():
    strings = TensorType(OpaqueType(StringAttr("string")), [2])
    sequence = OpaqueType(StringAttr("seq(tensor(float))"))

    def make(x: Any) -> list[Any]:
        text = onnx_node(helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING), [x], [strings])
        joined = onnx_node(helper.make_node("StringConcat", ["a", "b"], ["y"]), [text, text], [strings], opset=20)
        parts = onnx_node(helper.make_node("SplitToSequence", ["x"], ["y"], axis=0), [x], [sequence])
        whole = helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)
        return [joined, onnx_node(whole, [parts], [tensor_type(F32, (2,))]), parts]

    x = np.array([1.5, 2.0], np.float32)
    joined, whole, parts = run_model(build(make, [x]), [x])
    assert joined.tolist() == ["1.51.5", "22"]
    assert whole.tolist() == [1.5, 2.0]
    assert [part.tolist() for part in parts] == [[1.5], [2.0]]


# Another operator domain has its own versions.
def test_other_domains():
    def make(x: Any) -> Any:
        node = helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=0.5)
        return onnx_node(node, [x], [tensor_type(F32, (7,))], opset=1)

    x = values(F32, 7)
    check_same(build(make, [x]), [x])


@pytest.mark.parametrize("dtype", [BF16, F16, F64], ids=str)
def test_node_on_other_floats(dtype: DType):
    def make(x: Any) -> Any:
        doubled = BinaryOp(BinaryKind.ADD, x, x)
        node = helper.make_node("Reshape", ["x", "shape"], ["y"])
        moved = onnx_node(node, [doubled, ConstantOp(np.array([4, 2]))], [tensor_type(dtype, (4, 2))])
        return BinaryOp(BinaryKind.MUL, moved, moved)

    x = values(dtype, 8)
    check_same(build(make, [x]), [x], tolerance=0)


# Subgraphs


# The branches read values of the function under the names they have in the node, which may be names of the model too.
@pytest.mark.parametrize("name", ["captured", "in0", "v0", "c0", "out0"])
@pytest.mark.parametrize("opset", [11, 18])
def test_captures(name: str, opset: int):
    then = [helper.make_node("Neg", [name], ["t"]), helper.make_node("Add", ["t", name], ["r"])]
    node = branching(then, [helper.make_node("Abs", [name], ["r"])])

    def make(flag: Any, x: Any) -> list[Any]:
        shifted = BinaryOp(BinaryKind.ADD, x, ConstantOp(1.0, F32, (3,)))
        chosen = onnx_node(node, [flag, shifted], [tensor_type(F32, (3,))], captures=[name], opset=opset)
        again = onnx_node(node, [flag, chosen], [tensor_type(F32, (3,))], captures=[name], opset=opset)
        return [BinaryOp(BinaryKind.MUL, chosen, x), again]

    for flag in (True, False):
        inputs = [np.array(flag), values(F32, 3)]
        check_same(build(make, inputs), inputs)


def test_loop():
    body = graph_of(
        [
            helper.make_node("ReduceSum", ["state", "axes"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "step"], ["next"]),
            helper.make_node("Identity", ["going"], ["go_on"]),
            helper.make_node("Identity", ["next"], ["trace"]),
        ],
        [tensor("number", TensorProto.INT64, []), tensor("going", TensorProto.BOOL, []), tensor("state", shape=[2, 3])],
        [tensor("go_on", TensorProto.BOOL, []), tensor("next"), tensor("trace")],
    )
    node = helper.make_node("Loop", ["count", "", "start"], ["end", "steps"], body=body)

    def make(start: Any, step: Any) -> list[Any]:
        operands = [ConstantOp(4, I64, ()), start, step, ConstantOp(np.array([0]))]
        types = [tensor_type(F32, (2, 3)), tensor_type(F32, (4, 2, 3))]
        return list(onnx_node(node, operands, types, captures=["step", "axes"]).outputs)

    inputs = [values(F32, 2, 3), values(F32, 2, 3, seed=1)]
    check_same(build(make, inputs), inputs, tolerance=1e-5)


def test_scan():
    body = graph_of(
        [helper.make_node("Add", ["sum", "row"], ["total"]), helper.make_node("Mul", ["total", "scale"], ["scaled"])],
        [tensor("sum", shape=[4]), tensor("row", shape=[4])],
        [tensor("total", shape=[4]), tensor("scaled", shape=[4])],
    )
    node = helper.make_node("Scan", ["start", "rows"], ["total", "sums"], body=body, num_scan_inputs=1)

    def make(start: Any, rows: Any) -> list[Any]:
        scale = ConstantOp(0.5, F32, (4,))
        types = [tensor_type(F32, (4,)), tensor_type(F32, (5, 4))]
        return list(onnx_node(node, [start, rows, scale], types, captures=["scale"]).outputs)

    inputs = [values(F32, 4), values(F32, 5, 4, seed=1)]
    check_same(build(make, inputs), inputs)


# Other versions of the operator set


def resized(x: Any, opset: int, mode: str) -> OnnxNodeOp:
    node = helper.make_node("Resize", ["x", "scales"], ["y"], mode=mode)
    scales = ConstantOp(np.array([1, 1, 1.5, 2], np.float32))
    return onnx_node(node, [x, scales], [tensor_type(F32, (1, 1, 6, 8))], opset=opset)


OLD_NODES: dict[str, Any] = {
    "TopK before k was an input": lambda x: onnx_node(
        helper.make_node("TopK", ["x"], ["v", "i"], k=2), [x], [unknown_sizes(F32, 4), unknown_sizes(I64, 4)], opset=7
    ),
    "Softmax over all later axes": lambda x: onnx_node(
        helper.make_node("Softmax", ["x"], ["y"], axis=2), [x], [tensor_type(F32, (1, 1, 4, 4))], opset=11
    ),
    "Unsqueeze before axes were an input": lambda x: onnx_node(
        helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0]), [x], [tensor_type(F32, (1, 1, 1, 4, 4))], opset=9
    ),
    "Dropout before its ratio was an input": lambda x: onnx_node(
        helper.make_node("Dropout", ["x"], ["y"], ratio=0.4), [x], [tensor_type(F32, (1, 1, 4, 4))], opset=7
    ),
    "Resize before coordinates could be chosen": lambda x: resized(x, 10, "linear"),
    "nearest Resize before rounding could be chosen": lambda x: resized(x, 10, "nearest"),
    "Upsample": lambda x: onnx_node(
        helper.make_node("Upsample", ["x"], ["y"], mode="linear", scales=[1.0, 1.0, 2.0, 2.0]),
        [x],
        [tensor_type(F32, (1, 1, 8, 8))],
        opset=7,
    ),
    "old operators inside a branch": lambda x: onnx_node(
        branching(
            [helper.make_node("ReduceSum", ["x"], ["r"], axes=[1])], [helper.make_node("Softmax", ["x"], ["r"], axis=1)]
        ),
        [ConstantOp(1, I1, ()), x],
        [unknown_sizes(F32, 4)],
        opset=11,
        captures=["x"],
    ),
}


# Nodes of an older version mean in the model what they meant in theirs.
@pytest.mark.parametrize("case", OLD_NODES)
def test_older_nodes(case: str):
    x = values(F32, 1, 1, 4, 4)
    function = build(lambda x: list(OLD_NODES[case](UnaryOp(UnaryKind.TANH, x)).outputs), [x])
    assert model_of(function).opset_import[0].version == 21
    check_same(function, [x], tolerance=1e-5)


# A newer version than the one that operators are written in is used only where a node needs it.
def test_newer_nodes():
    def make(x: Any, operator: str, opset: int) -> Any:
        return onnx_node(
            helper.make_node(operator, ["x"], ["y"]),
            [UnaryOp(UnaryKind.ABS, x)],
            [tensor_type(F32, (3, 5))],
            opset=opset,
        )

    x = values(F32, 3, 5)
    for operator, opset, expected in (("Swish", 24, 24), ("Relu", 24, 21)):
        function = build(lambda x, operator=operator, opset=opset: make(x, operator, opset), [x])
        assert model_of(function).opset_import[0].version == expected
        check_same(function, [x])


def group_normalization(x: Any) -> OnnxNodeOp:
    node = helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["y"], num_groups=2)
    factors = ConstantOp(1.0, F32, (2,))
    return onnx_node(node, [x, factors, factors], [tensor_type(F32, (1, 4, 3))], opset=18)


def old_scan(x: Any) -> OnnxNodeOp:
    body = graph_of([helper.make_node("Identity", ["a"], ["b"])], [tensor("a", shape=[3])], [tensor("b", shape=[3])])
    node = helper.make_node("Scan", ["lengths", "x"], ["y"], body=body, num_scan_inputs=1)
    return onnx_node(node, [ConstantOp(np.array([4])), x], [tensor_type(F32, (1, 4, 3))], opset=8)


@pytest.mark.parametrize(("make", "figure"), [(group_normalization, "opset 18"), (old_scan, "opset 8")])
def test_nodes_that_cannot_be_converted(make: Any, figure: str):
    function = build(make, [values(F32, 1, 4, 3)])
    with pytest.raises(NeuronError) as caught:
        host_model_bytes(function, no_weights)
    assert caught.value.code == "NX-OP-001"
    assert figure in caught.value.message


# Weights and constants


def test_weights():
    module = parse("""
        graph.derived_weight @folded : tensor<3xf32> {
          %w = graph.weight @raw : tensor<3xf32>
          %r = graph.unary square %w : (tensor<3xf32>) -> tensor<3xf32>
          graph.yield %r : tensor<3xf32>
        }
        func.func @main(%x: tensor<3xf32>) -> (tensor<3xf32>, tensor<3xbf16>) {
          %unused = graph.weight @unused : tensor<5xf32>
          %raw = graph.weight @raw : tensor<3xf32>
          %again = graph.weight @raw : tensor<3xf32>
          %folded = graph.weight @folded : tensor<3xf32>
          %narrow = graph.weight @narrow : tensor<3xbf16>
          %a = graph.binary mul %x, %raw : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
          %b = graph.binary add %a, %again : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
          %c = graph.binary add %b, %folded : (tensor<3xf32>, tensor<3xf32>) -> tensor<3xf32>
          %d = graph.binary add %narrow, %narrow : (tensor<3xbf16>, tensor<3xbf16>) -> tensor<3xbf16>
          func.return %c, %d : tensor<3xf32>, tensor<3xbf16>
        }
    """)
    weights = WeightResolver(module, random_store(module))
    check_same(main_of(module), random_inputs(main_of(module)), weights)
    model = onnx.load_from_string(host_model_bytes(main_of(module), weights))
    stored = {item.name: item.data_type for item in model.graph.initializer}
    assert stored == {
        "weight.raw": TensorProto.FLOAT,
        "weight.folded": TensorProto.FLOAT,
        "weight.narrow": TensorProto.BFLOAT16,
    }


def test_weight_that_differs():
    function = build(lambda x: BinaryOp(BinaryKind.ADD, x, WeightOp("w", tensor_type(F32, (2,)))), [values(F32, 2)])
    store = WeightStore()
    store.add("w", np.zeros(3, np.float32))
    with pytest.raises(NeuronError, match="weight 'w' is 3 of float32 instead of 2 of float32"):
        host_model_bytes(function, store.get)


# 1 MiB of one value is one node, in every element type.
@pytest.mark.parametrize("dtype", [F32, BF16, I64, I1], ids=str)
def test_repeated_values_are_not_spelled_out(dtype: DType):
    x = values(dtype, 1)
    kind = BinaryKind.OR if dtype is I1 else BinaryKind.ADD
    function = build(lambda x: BinaryOp(kind, x, ConstantOp(1, dtype, (1 << 18,))), [x])
    assert len(host_model_bytes(function, no_weights)) < 1000
    check_same(function, [x])


# Boundaries


# An argument, a constant and one value twice are results like any other.
@pytest.mark.parametrize("dtype", [F32, F16, BF16, I64, I1], ids=str)
def test_results_that_are_not_computed(dtype: DType):
    def make(x: Any, y: Any) -> list[Any]:
        return [y, ConstantOp(1, dtype, (2,)), x, x]

    inputs = [values(dtype, 3), values(dtype, 2, seed=1)]
    check_same(build(make, inputs), inputs, tolerance=0)


def test_boundary_types():
    def make(half: Any, brain: Any, double: Any) -> list[Any]:
        return [CastOp(half, BF16), CastOp(brain, F16), CastOp(double, I64)]

    model = model_of(build(make, [values(dtype, 2) for dtype in (F16, BF16, F64)]))
    floats = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE
    assert [value.type.tensor_type.elem_type for value in model.graph.input] == list(floats)
    results = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64
    assert [value.type.tensor_type.elem_type for value in model.graph.output] == list(results)
    onnx.checker.check_model(model, full_check=True)


def test_fused():
    module = parse("""
        func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
          %r = graph.fused (%a = %x) : (tensor<4xf32>) -> tensor<4xf32> {
            %w = graph.weight @w : tensor<4xf32>
            %s = graph.binary add %a, %w : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
            %e = graph.unary exp %s : (tensor<4xf32>) -> tensor<4xf32>
            graph.yield %e : tensor<4xf32>
          }
          func.return %r : tensor<4xf32>
        }
    """)
    check_same(main_of(module), random_inputs(main_of(module)), WeightResolver(module, random_store(module)))


# A profile of the host names the nodes of the framework; onnxruntime wants no name twice.
def test_nodes_are_named_after_the_framework():
    def make(x: Any) -> Any:
        ops: list[UnaryOp] = []
        for name in ("act", "act#1", "act"):
            ops.append(UnaryOp(UnaryKind.SILU, ops[-1] if ops else x))
            ops[-1].location = NameLoc(StringAttr(name), NoneAttr())
        return ops[-1]

    function = build(make, [values(F32, 2)])
    names = [node.name for node in model_of(function).graph.node]
    assert names == ["act", "act#1", "act#1#1", "act#1#2", "act#2", "act#3", ""]
    check_same(function, [values(F32, 2)])


def test_same_bytes():
    def make(flag: Any, x: Any) -> list[Any]:
        node = branching([helper.make_node("Neg", ["x"], ["r"])], [helper.make_node("Softmax", ["x"], ["r"], axis=1)])
        chosen = onnx_node(node, [flag, x], [tensor_type(F32, (3, 4))], captures=["x"], opset=11)
        label = helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml")
        return [onnx_node(label, [chosen], [tensor_type(F32, (3, 4))], opset=1), BinaryOp(BinaryKind.ADD, x, chosen)]

    inputs = [np.array(True), values(F32, 3, 4)]
    assert host_model_bytes(build(make, inputs), no_weights) == host_model_bytes(build(make, inputs), no_weights)


# What a host function cannot hold


def test_type_that_onnx_lacks():
    function = build(lambda x: CastOp(x, TF32), [values(F32, 2)])
    with pytest.raises(NeuronError, match="does not compute in tf32") as caught:
        host_model_bytes(function, no_weights)
    assert caught.value.code == "NX-OP-002"


def test_operator_of_another_level():
    module = parse("""
        func.func @inner(%x: tensor<4xf32>) -> tensor<4xf32> {
          func.return %x : tensor<4xf32>
        }
        func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
          %r = neuron.launch @inner(%x) on core : (tensor<4xf32>) -> tensor<4xf32>
          func.return %r : tensor<4xf32>
        }
    """)
    with pytest.raises(NeuronError, match=r"'neuron\.launch' cannot stand in a host function"):
        host_model_bytes(main_of(module), no_weights)


def test_more_than_a_model_can_hold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lowering.nisa_to_neff.host_model.writer.MAX_MODEL_BYTES", 100)
    function = build(lambda x: BinaryOp(BinaryKind.ADD, x, WeightOp("w", tensor_type(F32, (30,)))), [values(F32, 1)])
    with pytest.raises(NeuronError, match="more than 100 bytes"):
        host_model_bytes(function, lambda name: np.zeros(30, np.float32))
