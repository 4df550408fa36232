"""The import of whole models: text of the IR, names, weights, folding, composite and host nodes, control flow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from xdsl.dialects.builtin import NameLoc
from xdsl.parser import Parser
from xdsl.printer import Printer

from lowering.onnx_to_graph import INPUT_NAMES, OUTPUT_NAMES, import_onnx
from neuron_dialects.errors import NeuronError
from tests.graph_level import assert_close, check_valid, main_of, make_context
from tests.onnx_models import check_import, model_of, names_of, onnxruntime_results, operators, results_of

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)


def convolution_model() -> ModelProto:
    """A convolution, a batch norm, an activation and a classifier."""
    nodes = [
        helper.make_node("Conv", ["image", "conv/w:0", "conv.b"], ["c"], name="conv 1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Mul", ["f", "scale"], ["s"], name="scale"),
        helper.make_node("Gemm", ["s", "fc"], ["logits"], name="fc", transB=1),
    ]
    constants = {
        "conv/w:0": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "conv.b": RNG.standard_normal(4).astype(np.float32),
        "scale": np.array([0.5], np.float32),
        "fc": RNG.standard_normal((10, 4)).astype(np.float32),
        "unused": np.zeros(1000, np.float32),
    }
    return model_of(nodes, {"image": X}, ["logits"], constants=constants)


CONVOLUTION = """\
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%image: tensor<2x3x8x8xf32>) -> tensor<2x10xf32> attributes {neuron.input_names = ["image"], \
neuron.output_names = ["logits"]} {
    %0 = graph.weight @"conv/w:0" : tensor<4x3x3x3xf32>
    %1 = graph.weight @conv.b : tensor<4xf32>
    %2 = graph.conv %image, %0, %1 strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1 : \
(tensor<2x3x8x8xf32>, tensor<4x3x3x3xf32>, tensor<4xf32>) -> tensor<2x4x8x8xf32>
    %3 = graph.unary relu %2 : (tensor<2x4x8x8xf32>) -> tensor<2x4x8x8xf32>
    %4 = graph.reduce mean %3 axes [2, 3] keep_dims : (tensor<2x4x8x8xf32>) -> tensor<2x4x1x1xf32>
    %5 = graph.reshape %4 : (tensor<2x4x1x1xf32>) -> tensor<2x4xf32>
    %6 = graph.constant 0.5 : tensor<1xf32>
    %7 = graph.binary mul %5, %6 : (tensor<2x4xf32>, tensor<1xf32>) -> tensor<2x4xf32>
    %8 = graph.weight @fc : tensor<10x4xf32>
    %9 = graph.matmul %7, %8 transpose_b : (tensor<2x4xf32>, tensor<10x4xf32>) -> tensor<2x10xf32>
    func.return %9 : tensor<2x10xf32>
  }
}"""


# One operator per node; weights by their ONNX names, quoted where they must be; only single elements in the IR.
def test_text_of_a_module() -> None:
    result = import_onnx(convolution_model(), target="trn1")
    assert str(result.module) == CONVOLUTION
    check_valid(result.module)
    assert Parser(make_context(), CONVOLUTION).parse_module().is_structurally_equivalent(result.module)


def test_numbers_of_a_module() -> None:
    check_import(convolution_model(), {"image": X})


# The store holds what the module names, under those names, and nothing else; the arrays are those of the file.
def test_weights_are_beside_the_module() -> None:
    model = convolution_model()
    result = import_onnx(model)
    assert set(result.weights.names()) == {"conv/w:0", "conv.b", "fc"}
    for tensor in model.graph.initializer:
        if tensor.name in result.weights:
            np.testing.assert_array_equal(result.weights.get(tensor.name), numpy_helper.to_array(tensor))
            assert not result.weights.get(tensor.name).flags.writeable


# Every operator is located at its node: by name, or by operator and position where the node has none.
def test_locations_name_the_nodes() -> None:
    result = import_onnx(convolution_model())
    located: dict[str, set[str]] = {}
    for op in main_of(result.module).body.block.ops:
        if op.name != "func.return":
            assert isinstance(op.location, NameLoc), op
            located.setdefault(op.location.desc.data, set()).add(op.name)
    assert located["Relu_1"] == {"graph.unary"}
    assert located["conv 1"] == {"graph.weight", "graph.conv"}
    assert set(located) == {"conv 1", "Relu_1", "pool", "flatten", "scale", "fc"}


def test_the_report() -> None:
    model = convolution_model()
    model.producer_name, model.producer_version = "a tool", "1.2"
    info = import_onnx(model).info
    assert (info.producer, info.original_opset, info.opset, info.node_count) == ("a tool 1.2", 18, 18, 6)
    assert (info.bound_dimensions, info.notes, info.onnx_nodes) == ({}, [], [])


# The same file gives the same text and the same weights, byte by byte.
def test_imports_are_deterministic(tmp_path: Path) -> None:
    texts: list[str] = []
    for name in ("a", "b"):
        result = import_onnx(convolution_model().FromString(convolution_model_bytes()))
        stream = io.StringIO()
        Printer(stream, print_debuginfo=True).print_op(result.module)
        texts.append(stream.getvalue())
        result.weights.save_safetensors(tmp_path / name)
    assert texts[0] == texts[1]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def convolution_model_bytes(cache: list[bytes] = []) -> bytes:  # noqa: B006 - made once: the weights are random
    if not cache:
        cache.append(convolution_model().SerializeToString())
    return cache[0]


# Old files list their initializers among the inputs; newer ones may too, and then the default is taken and noted.
@pytest.mark.parametrize(("ir_version", "notes"), [(3, []), (8, ["inputs with a default value are constants: w"])])
def test_initializers_among_the_inputs(ir_version: int, notes: list[str]) -> None:
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"x": X, "w": X}, ["y"], constants={"w": X}, opset=9)
    model.ir_version = ir_version
    result = import_onnx(model)
    assert names_of(main_of(result.module), INPUT_NAMES) == ["x"]
    assert result.info.notes == notes


# An output may be an input, a constant, or one value twice; names of arguments survive whatever characters they have.
def test_unusual_outputs_and_names() -> None:
    nodes = [helper.make_node("Identity", ["0:in put"], ["same"]), helper.make_node("Constant", [], ["c"], value_int=3)]
    model = model_of(nodes, {"0:in put": X}, ["same", "c", "w"], constants={"w": np.arange(4)})
    result = check_import(model, {"0:in put": X})
    assert operators(result) == []
    assert names_of(main_of(result.module), INPUT_NAMES) == ["0:in put"]
    assert names_of(main_of(result.module), OUTPUT_NAMES) == ["same", "c", "w"]


def test_dead_nodes_leave_nothing() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["dead"]),
        helper.make_node("TopK", ["x", "k"], ["dead too", "and this"]),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    model = model_of(nodes, {"x": X}, ["y"], constants={"w": np.ones((8, 8), np.float32), "k": np.array([2])})
    result = check_import(model, {"x": X})
    assert operators(result) == ["graph.unary"]
    assert result.weights.names() == ()
    assert result.info.onnx_nodes == []


# Weights in every element type that ONNX and the machine share, given as raw bytes or as typed fields.
@pytest.mark.parametrize(
    "data_type", ["FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT64", "BOOL", "UINT64"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_weight_element_types(data_type: str, raw: bool) -> None:
    code = TensorProto.DataType.Value(data_type)
    values = np.array([0, 1, 2, 3]).astype(helper.tensor_dtype_to_np_dtype(code))
    data: Any = values.tobytes() if raw else values.astype(np.float64 if values.dtype.kind in "fV" else values.dtype)
    tensor = helper.make_tensor("w", code, [4], data, raw=raw)
    model = model_of([helper.make_node("Identity", ["w"], ["y"])], {}, ["y"])
    model.graph.initializer.append(tensor)
    model.graph.output[0].type.tensor_type.elem_type = code
    result = import_onnx(model)
    (returned,) = results_of(result, {})
    np.testing.assert_array_equal(returned, values)
    assert returned.dtype == values.dtype


def test_sparse_weights() -> None:
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [1.5, 2.5])
    for indices in (
        helper.make_tensor("i", TensorProto.INT64, [2], [1, 5]),
        numpy_helper.from_array(np.array([[0, 1], [1, 2]])),
    ):
        model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"x": np.zeros((2, 3), np.float32)}, ["y"])
        sparse = model.graph.sparse_initializer.add(dims=[2, 3])
        sparse.values.CopyFrom(values)
        sparse.indices.CopyFrom(indices)
        result = import_onnx(model)
        np.testing.assert_array_equal(result.weights.get("w"), [[0, 1.5, 0], [0, 0, 2.5]])


# Folding


# The chain by which exporters keep a batch dimension: Shape, Gather, Unsqueeze, Concat. Only the reshape stays.
def test_shape_computations_fold() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"]),
        helper.make_node("Mul", ["batch", "three"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "axes"], ["rows 1"]),
        helper.make_node("Cast", ["rows 1"], ["as float"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["as float"], ["as int"], to=TensorProto.INT64),
        helper.make_node("Concat", ["as int", "minus one"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"zero": np.array(0), "three": np.array(3), "axes": np.array([0]), "minus one": np.array([-1])}
    result = check_import(model_of(nodes, {"x": X}, ["y"], constants=constants), {"x": X})
    assert operators(result) == ["graph.reshape"]
    assert "-> tensor<6x64xf32>" in str(result.module)


# A causal mask made by Range, comparison and Where is a weight; its name is that of the ONNX value.
def test_masks_fold() -> None:
    nodes = [
        helper.make_node("Range", ["zero", "eight", "one"], ["positions"]),
        helper.make_node("Unsqueeze", ["positions", "one axis"], ["rows"]),
        helper.make_node("LessOrEqual", ["positions", "rows"], ["causal"]),
        helper.make_node("Where", ["causal", "nothing", "never"], ["mask"]),
        helper.make_node("Add", ["x", "mask"], ["y"]),
    ]
    constants = {
        "zero": np.array(0),
        "eight": np.array(8),
        "one": np.array(1),
        "one axis": np.array([1]),
        "nothing": np.array(0, np.float32),
        "never": np.array(-np.inf, np.float32),
    }
    result = check_import(model_of(nodes, {"x": X}, ["y"], constants=constants), {"x": X})
    assert operators(result) == ["graph.binary"]
    assert result.weights.names() == ("mask",)
    np.testing.assert_array_equal(result.weights.get("mask"), np.triu(np.full((8, 8), -np.inf, np.float32), 1))


# 2**17 elements are over the limit of 2**16: nothing of that size is computed, and small inputs cannot make it so.
def test_large_constants_do_not_fold() -> None:
    big = np.ones(2**17, np.float32)
    model = model_of([helper.make_node("Neg", ["w"], ["y"])], {}, ["y"], constants={"w": big})
    assert operators(check_import(model, {})) == ["graph.unary"]
    nodes = [helper.make_node("Expand", ["one", "shape"], ["huge"]), helper.make_node("ReduceSum", ["huge"], ["y"])]
    constants = {"one": np.ones(1, np.float32), "shape": np.array([2**20, 2**19])}
    result = import_onnx(model_of(nodes, {}, ["y"], constants=constants))
    assert operators(result) == ["graph.broadcast", "graph.reduce"]
    # A sum of 2**16 x 2**16 elements is what two small constants would give.
    wide = {"a": np.ones((2**16, 1), np.float32), "b": np.ones(2**16, np.float32)}
    result = import_onnx(model_of([helper.make_node("Add", ["a", "b"], ["y"])], {}, ["y"], constants=wide))
    assert operators(result) == ["graph.binary"]


# A range of data-dependent length stays on the host; what follows it has an unknown shape and stays there, too.
def test_shapes_known_at_run_time_only() -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["p"]),
        helper.make_node("NonZero", ["p"], ["n"], name="where"),
        helper.make_node("Cast", ["n"], ["f"], name="cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["f", "axis"], ["y"], name="sum", keepdims=0),
        helper.make_node("Relu", ["y"], ["z"], name="relu"),
    ]
    x = RNG.standard_normal((4, 5)).astype(np.float32)
    model = model_of(nodes, {"x": x}, ["z"], constants={"zero": np.array(0, np.float32), "axis": np.array([1])})
    result = check_import(model, {"x": x}, host=["NonZero", "Cast", "ReduceSum"])
    assert [node.reason for node in result.info.onnx_nodes] == [
        "there is no graph operator for NonZero",
        "input 0: tensor<2x?xi64> has a dynamic dimension",
        "input 0: tensor<2x?xf32> has a dynamic dimension",
    ]
    # The sum has a known shape again, and the next operator is a graph operator.
    assert operators(result) == ["graph.compare", *["graph.onnx_node"] * 3, "graph.unary"]


# Opsets


# Opset 6 and older are converted by onnx where it can. Dropout has a flag for testing there.
def test_old_opsets_are_converted() -> None:
    model = model_of([helper.make_node("Dropout", ["x"], ["y"], is_test=1)], {"x": X}, ["y"], opset=6)
    result = import_onnx(model)
    assert (result.info.original_opset, result.info.opset) == (6, 13)
    assert operators(result) == []


# Where onnx cannot, the converters understand the old forms: broadcasting by attribute, from a given axis on.
def test_old_opsets_that_onnx_does_not_convert() -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], broadcast=1, axis=1),
        helper.make_node("BatchNormalization", ["a", "b", "b", "b", "b"], ["n"], is_test=1),
        helper.make_node("Mul", ["n", "last"], ["m"], broadcast=1),
        helper.make_node("Reshape", ["m", "shape"], ["y"]),
    ]
    constants = {
        "b": np.array([1, 2, 3], np.float32),
        "last": np.arange(8, dtype=np.float32),
        "shape": np.array([2, -1]),
    }
    result = import_onnx(model_of(nodes, {"x": X}, ["y"], constants=constants, opset=6))
    assert (result.info.original_opset, result.info.opset, result.info.onnx_nodes) == (6, 6, [])
    b = constants["b"][:, None, None]
    expected = ((X + b - b) / np.sqrt(b + 1e-5) * b + b) * constants["last"]
    assert_close(results_of(result, {"x": X})[0], expected.reshape(2, -1))


# In training mode the statistics are those of the batch: that is left to the host.
def test_training_mode_in_old_opsets() -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], broadcast=1, axis=1),
        helper.make_node("BatchNormalization", ["a", "b", "b", "b", "b"], ["y"]),
    ]
    model = model_of(nodes, {"x": X}, ["y"], constants={"b": np.ones(3, np.float32)}, opset=6)
    assert [node.op_type for node in import_onnx(model).info.onnx_nodes] == ["BatchNormalization"]


def test_models_of_the_test_suite() -> None:
    for path in sorted((Path(__file__).parent.parent / "models").glob("*.onnx")):
        model = onnx.load(path)
        feeds = {name: array for name, array in np.load(path.with_suffix(".inputs.npz")).items()}
        result = import_onnx(path, input_shapes={name: array.shape for name, array in feeds.items()})
        check_valid(result.module)
        assert result.info.onnx_nodes == []
        for have, want in zip(results_of(result, feeds), onnxruntime_results(model, feeds), strict=True):
            assert_close(have, want)


# A node whose shapes contradict each other is the user's mistake: named, with the figures.
def test_contradictory_nodes() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    with pytest.raises(NeuronError) as raised:
        import_onnx(model_of([node], {"x": X}, ["y"], constants={"w": np.ones((7, 2), np.float32)}))
    assert (raised.value.code, raised.value.node) == ("NX-ONNX-007", "product")
    assert raised.value.message == "inner dimensions 8 and 7 differ"
