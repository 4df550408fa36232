"""Every converter, in the forms that opsets gave its operator: no node is left to the host, and onnxruntime agrees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from lowering.onnx_to_graph import import_onnx
from lowering.onnx_to_graph.registry import converters
from tests.lowering.onnx_cases import (
    IMAGE,
    Case,
    X,
    bools,
    case,
    check,
    floats,
    ints,
    listed,
    model_and_feeds,
    positive,
    with_constants,
)
from tests.lowering.test_onnx_to_graph_movement import MOVEMENTS, RESIZES
from tests.onnx_models import check_import, model_of, onnxruntime_results, operators, results_of

ELEMENTWISE = [
    *(case(name, X) for name in ("Abs", "Neg", "Exp", "Sigmoid", "Tanh", "Relu", "Erf", "Softplus", "Softsign")),
    *(case(name, X) for name in ("Mish", "HardSwish", "Sin", "Cos", "Sign", "Floor", "Ceil", "Round", "IsNaN")),
    *(case(name, positive(5)) for name in ("Log", "Sqrt", "Reciprocal")),
    case("Round", np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)),
    case("IsNaN", np.array([0, np.nan, np.inf], np.float32)),
    case("Not", bools(4)),
    case("Abs", ints(5)),
    case("Relu", ints(5, dtype=np.int32)),
    case("Elu", X),
    case("Elu", X, alpha=0.3),
    case("Celu", X, alpha=0.7),
    case("LeakyRelu", X),
    case("LeakyRelu", X, alpha=0.2),
    case("ThresholdedRelu", X),
    case("Selu", X),
    case("Selu", X, alpha=2.0, gamma=3.0),
    case("HardSigmoid", X),
    case("HardSigmoid", X, alpha=1 / 6, beta=0.4),
    case("Gelu", X, opset=20),
    case("Gelu", X, opset=20, approximate="tanh"),
    case("IsInf", np.array([1, np.inf, -np.inf, np.nan], np.float32)),
    case("IsInf", np.array([1, np.inf, -np.inf, np.nan], np.float32), detect_positive=0),
    case("IsInf", np.array([1, np.inf, -np.inf, np.nan], np.float32), detect_negative=0),
    *(case(name, X, floats(3, 1, seed=1)) for name in ("Add", "Sub", "Mul", "Div")),
    case("Div", np.array([7, -7, 7, -7], np.int64), listed(2, 2, -2, -2)),
    case("Pow", positive(3, 4), floats(4, seed=1)),
    case("Pow", floats(3, 4), ints(4, low=0, high=3)),
    case("Pow", ints(3, low=1, high=4, dtype=np.int32), floats(3)),
    case("Mod", ints(8), np.where(ints(8, seed=1) == 0, 5, ints(8, seed=1))),
    case("Mod", floats(8), positive(8), fmod=1),
    case("Mod", ints(8), np.where(ints(8, seed=1) == 0, 5, ints(8, seed=1)), fmod=1),
    *(case(name, bools(3, 4), bools(4, seed=1)) for name in ("And", "Or", "Xor")),
    *(case(name, ints(3, 4), ints(4, seed=1)) for name in ("Equal", "Less", "Greater", "LessOrEqual")),
    case("GreaterOrEqual", floats(3, 4), floats(3, 1, seed=1)),
    case("Equal", bools(3), bools(3, seed=1)),
    case("PRelu", X, positive(4)),
    case("PRelu", X, positive(3, 1), opset=9),
    case("Max", X, floats(4, seed=1), floats(3, 1, seed=2)),
    case("Min", ints(3, dtype=np.int32), ints(3, dtype=np.int32, seed=1)),
    case("Max", X),
    case("Sum", X, X, floats(4, seed=1)),
    case("Mean", X, floats(4, seed=1), floats(3, 1, seed=2)),
    case("Mean", X),
    case("Where", bools(3, 1), X, floats(4, seed=1)),
    case("Cast", X, to=TensorProto.FLOAT16),
    case("Cast", floats(4) * 10, to=TensorProto.INT32),
    case("Cast", ints(4), to=TensorProto.BOOL),
    case("Cast", bools(4), to=TensorProto.FLOAT),
    case("Cast", X, to=TensorProto.FLOAT),
    case("CastLike", X, ints(1), opset=19),
    case("Clip", X, opset=6, min=-0.5, max=0.5),
    case("Clip", X, opset=10, max=0.5),
    case("Clip", X, opset=10),
    with_constants(case("Clip", X), at1=np.float32(-0.5), at2=np.float32(0.5)),
    with_constants(case("Clip", X, None), at2=np.float32(0.25)),
    with_constants(case("Clip", ints(9)), at1=np.int64(-3), at2=np.int64(3)),
    case("Clip", X, np.array(-0.5, np.float32), np.array(0.5, np.float32)),
]


@pytest.mark.parametrize("made", ELEMENTWISE, ids=str)
def test_elementwise(made: Case) -> None:
    check(made)


# Bounds that are not f32 numbers must not be rounded: 2**24 + 1 is the first integer that f32 lacks.
def test_clip_with_a_bound_that_f32_lacks() -> None:
    x = np.array([2**24, 2**24 + 1, 2**24 + 2], np.int64)
    assert check(with_constants(case("Clip", x), at1=np.int64(2**24 + 1))) == ["graph.binary"]
    assert check(with_constants(case("Clip", x), at1=np.int64(2**24))) == ["graph.clip"]


# A bound above the other wins, as in onnxruntime: min(max(x, low), high).
def test_clip_with_crossed_bounds() -> None:
    check(with_constants(case("Clip", X), at1=np.float32(0.5), at2=np.float32(-0.5)))


def test_swish() -> None:
    node = helper.make_node("Swish", ["x"], ["y"], alpha=1.5)
    result = import_onnx(model_of([node], {"x": X}, ["y"], opset=24))
    (y,) = results_of(result, {"x": X})
    np.testing.assert_allclose(y, X / (1 + np.exp(-1.5 * X)), rtol=1e-5)


WINDOWS = [
    case("Conv", IMAGE, floats(6, 4, 3, 3)),
    case("Conv", IMAGE, floats(6, 4, 3, 2), floats(6), strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
    case("Conv", IMAGE, floats(8, 2, 3, 3), group=2),
    case("Conv", IMAGE, floats(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", IMAGE, floats(6, 4, 4, 4), auto_pad="SAME_LOWER", strides=[2, 2]),
    case("Conv", IMAGE, floats(6, 4, 3, 3), auto_pad="VALID"),
    case("Conv", IMAGE, floats(6, 4, 3, 3), opset=1, pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
    case("Conv", floats(1, 3, 12), floats(5, 3, 3), strides=[2], pads=[1, 1]),
    case("Conv", floats(1, 2, 5, 6, 7), floats(3, 2, 2, 3, 2), pads=[1, 0, 0, 0, 1, 1]),
    case("ConvTranspose", IMAGE, floats(4, 3, 3, 3)),
    case("ConvTranspose", IMAGE, floats(4, 3, 4, 4), floats(3), strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", IMAGE, floats(4, 2, 3, 3), strides=[2, 2], output_padding=[1, 1], group=2),
    case("ConvTranspose", IMAGE, floats(4, 3, 3, 3), strides=[2, 2], dilations=[2, 1]),
    case("ConvTranspose", IMAGE, floats(4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", IMAGE, floats(4, 3, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", IMAGE, floats(4, 3, 4, 4), strides=[2, 2], output_shape=[18, 17]),
    case("ConvTranspose", floats(1, 3, 5), floats(3, 2, 4), strides=[3]),
    with_constants(case("Col2Im", floats(2, 12, 6), strides=[2, 2]), at1=listed(4, 6), at2=listed(2, 2)),
    with_constants(case("Col2Im", floats(1, 8, 12)), at1=listed(4, 5), at2=listed(2, 2)),
    with_constants(
        case("Col2Im", floats(2, 18, 9), strides=[2, 2], pads=[1, 0, 1, 1]), at1=listed(5, 6), at2=listed(3, 3)
    ),
    with_constants(case("Col2Im", floats(1, 8, 12), dilations=[1, 2]), at1=listed(4, 6), at2=listed(2, 2)),
    with_constants(case("Col2Im", floats(1, 6, 4), strides=[3]), at1=listed(12), at2=listed(3)),
    case("MatMul", floats(2, 3), floats(3, 4)),
    case("MatMul", floats(5, 2, 3), floats(3, 4)),
    case("MatMul", floats(5, 1, 2, 3), floats(6, 3, 4)),
    case("MatMul", floats(3), floats(5, 3, 4)),
    case("MatMul", floats(5, 2, 3), floats(3)),
    case("MatMul", floats(3), floats(3)),
    case("MatMul", ints(2, 3, dtype=np.int32), ints(3, 4, dtype=np.int32)),
    case("Gemm", floats(2, 3), floats(3, 4)),
    case("Gemm", floats(3, 2), floats(4, 3), floats(4), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", floats(2, 3), floats(3, 4), floats(2, 1), beta=0.5),
    case("Gemm", floats(2, 3), floats(3, 4), np.array(2.0, np.float32)),
    case("Gemm", floats(2, 3), floats(3, 4), floats(4), beta=0.0),
    case("Gemm", floats(2, 3), floats(3, 4), floats(1, 4), opset=7),
    case("MaxPool", IMAGE, kernel_shape=[3, 2]),
    case("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    case("MaxPool", ints(1, 2, 6, 6, low=0, dtype=np.uint8), kernel_shape=[2, 2]),
    case("MaxPool", floats(1, 2, 9), kernel_shape=[3], opset=8),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("AveragePool", floats(1, 1, 7, 7), kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1], ceil_mode=1),
    case("AveragePool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    case("AveragePool", floats(1, 2, 4, 5, 6), kernel_shape=[2, 2, 2]),
    case("GlobalAveragePool", IMAGE),
    case("GlobalMaxPool", IMAGE),
    case("GlobalLpPool", IMAGE),
    case("GlobalLpPool", IMAGE, p=1),
    case("LRN", IMAGE, size=3),
    case("LRN", IMAGE, size=5, alpha=0.01, beta=0.5, bias=2.0),
]


@pytest.mark.parametrize("made", WINDOWS, ids=str)
def test_linear_operators_and_pools(made: Case) -> None:
    check(made)


REDUCTIONS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
]


# Axes are an attribute first and an input later: of ReduceSum since opset 13, of the others since opset 18.
@pytest.mark.parametrize("op_type", REDUCTIONS)
def test_reductions(op_type: str) -> None:
    x = positive(2, 3, 4)
    assert check(case(op_type, x, opset=11, axes=[-1, 0], keepdims=0)) == ["graph.reduce"]
    assert check(case(op_type, x, opset=11)) == ["graph.reduce"]
    assert check(with_constants(case(op_type, x, opset=18), at1=listed(1))) == ["graph.reduce"]
    assert check(case(op_type, x, opset=18, keepdims=0)) == ["graph.reduce"]
    if op_type == "ReduceSum":
        assert check(with_constants(case(op_type, x, opset=13, keepdims=0), at1=listed(-2))) == ["graph.reduce"]
    else:
        assert check(case(op_type, x, opset=13, axes=[-2])) == ["graph.reduce"]


# Without axes, and told to do nothing then, a reduction is its input.
def test_reductions_over_nothing() -> None:
    assert check(case("ReduceSum", X, opset=13, noop_with_empty_axes=1)) == []
    assert check(case("ReduceMax", ints(4, dtype=np.int32))) == ["graph.reduce"]


# Before opset 13 the dimensions from the axis on are one: softmax over the last dimension alone needs no reshape.
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
def test_softmax(op_type: str) -> None:
    reshaped = ["graph.reshape", "graph.softmax", "graph.reshape"]
    assert check(case(op_type, X, opset=11)) == reshaped
    assert check(case(op_type, X, opset=11, axis=0)) == reshaped
    assert check(case(op_type, X, opset=11, axis=-1)) == ["graph.softmax"]
    assert check(case(op_type, X, opset=13)) == ["graph.softmax"]
    assert check(case(op_type, X, opset=13, axis=1)) == ["graph.softmax"]


NORMALIZATIONS = [
    case("BatchNormalization", IMAGE, *(floats(4, seed=s) for s in (1, 2, 3)), positive(4), opset=15),
    case(
        "BatchNormalization", floats(3, 4), *(floats(4, seed=s) for s in (1, 2, 3)), positive(4), opset=9, epsilon=0.1
    ),
    case("BatchNormalization", IMAGE, *(floats(4, seed=s) for s in (1, 2, 3)), positive(4), opset=7, momentum=0.5),
    case("LayerNormalization", X, floats(4), floats(4, seed=1)),
    case("LayerNormalization", X, floats(4), epsilon=0.1),
    case("LayerNormalization", X, floats(3, 4), floats(3, 4, seed=1), axis=1),
    case("LayerNormalization", X, floats(4), floats(1), axis=-1),
    case("InstanceNormalization", IMAGE, floats(4), floats(4, seed=1)),
    case("InstanceNormalization", floats(2, 3, 7), floats(3), floats(3, seed=1), epsilon=0.1),
    case("GroupNormalization", IMAGE, floats(4), floats(4, seed=1), opset=21, num_groups=2),
    case("LpNormalization", X),
    case("LpNormalization", X, axis=1, p=1),
]


@pytest.mark.parametrize("made", NORMALIZATIONS, ids=str)
def test_normalizations(made: Case) -> None:
    check(made)


# The stash type is wider than the data: the mean is computed in f32, the scaling in f16.
def test_rms_normalization() -> None:
    x, scale = floats(2, 8, dtype=np.float16), floats(8, seed=1, dtype=np.float16)
    node = helper.make_node("RMSNormalization", ["x", "s"], ["y"], epsilon=0.01)
    result = import_onnx(model_of([node], {"x": x}, ["y"], constants={"s": scale}, opset=23))
    wide = x.astype(np.float32)
    expected = (wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 0.01)).astype(np.float16) * scale
    (y,) = results_of(result, {"x": x})
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.astype(np.float32), expected.astype(np.float32), rtol=2e-3, atol=1e-3)
    assert operators(result).count("graph.cast") == 2


# Shapes are constants, whatever computes with them; a fill is one constant for all elements.
def test_shapes_are_constants() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=1),
        helper.make_node("Size", ["x"], ["size"]),
        helper.make_node(
            "ConstantOfShape", ["shape"], ["fill"], value=numpy_helper.from_array(np.array([7], np.int32))
        ),
    ]
    result = check_import(model_of(nodes, {"x": X}, ["shape", "size", "fill"]), {"x": X})
    assert operators(result) == []


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("value_float", 1.5, np.float32(1.5)),
        ("value_floats", [1.0, 2.0], np.array([1, 2], np.float32)),
        ("value_int", 3, np.int64(3)),
        ("value_ints", [3, 4], listed(3, 4)),
    ],
)
def test_constants(attribute: str, value: Any, expected: Any) -> None:
    model = model_of([helper.make_node("Constant", [], ["y"], **{attribute: value})], {}, ["y"])
    (y,) = results_of(import_onnx(model), {})
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(y, onnxruntime_results(model, {})[0])


# Operators without a row, but with a function body made of operators that have one.
@pytest.mark.parametrize(
    "made", [case("MeanVarianceNormalization", IMAGE), case("Shrink", X, lambd=0.5, bias=0.1)], ids=str
)
def test_function_bodies(made: Case) -> None:
    check(made, tolerance=1e-4)


def test_attention_is_expanded() -> None:
    q, k, v = floats(1, 4, 5, 8), floats(1, 2, 6, 8, seed=1), floats(1, 2, 6, 8, seed=2)
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], is_causal=1)
    result = check_import(model_of([node], {"q": q, "k": k, "v": v}, ["y"], opset=23), {"q": q, "k": k, "v": v})
    assert operators(result).count("graph.matmul") == 2
    assert operators(result).count("graph.softmax") == 1


def test_attention_to_a_window_is_not_attention_to_all() -> None:
    q, k, v = (floats(1, 2, 20, 8, seed=seed) for seed in range(3))
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"], left_window_size=1, right_window_size=2)
    model = model_of([node], {"q": q, "k": k, "v": v}, ["y"], opset=25)
    result = import_onnx(model)
    assert "graph.attention" not in operators(result)
    # onnxruntime does not know the windows yet.
    want: Any = ReferenceEvaluator(model).run(None, {"q": q, "k": k, "v": v})
    np.testing.assert_allclose(results_of(result, {"q": q, "k": k, "v": v})[0], want[0], rtol=1e-5, atol=1e-6)


# What the graph operators cannot express goes to the host with the reason, and computes the same there.
@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (case("MaxPool", IMAGE, kernel_shape=[2, 2], outputs=2), "outputs beyond the first are used"),
        (case("Reshape", X, listed(4, 6)), "input 1 is not known at compile time"),
        (
            with_constants(case("TopK", floats(2, 30), outputs=2), at1=listed(9)),
            "9 elements are asked for; cores find 1 to 8",
        ),
        (
            with_constants(case("Pad", ints(3), opset=13), at1=listed(1, 0), at2=np.int64(2**24 + 1)),
            "fill value 16777217 is not an f32 number",
        ),
        (case("NonZero", ints(3)), "there is no graph operator for NonZero"),
    ],
    ids=str,
)
def test_host_nodes(made: Case, reason: str) -> None:
    model, feeds = model_and_feeds(made)
    result = check_import(model, feeds, host=[made.op_type])
    (node,) = result.info.onnx_nodes
    assert (node.name, node.op_type, node.reason) == ("the node", made.op_type, reason)
    assert operators(result) == ["graph.onnx_node"]


# Every operator that the documentation promises has a row, and rows cover opsets that exist.
def test_the_table() -> None:
    table = converters()
    promised = {made.op_type for made in (*ELEMENTWISE, *WINDOWS, *NORMALIZATIONS, *MOVEMENTS, *RESIZES)}
    assert promised | set(REDUCTIONS) <= set(table)
    assert all(row.since >= 1 and (row.until is None or row.until >= row.since) for row in table.values())
    assert not table["Upsample"].covers(10)
