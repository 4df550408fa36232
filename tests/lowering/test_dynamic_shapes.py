"""Shapes that are chosen when a model runs: buckets, padding, any number of rows, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from lowering.compiler import CompileOptions, CompileResult, compile_model
from neuron_dialects.errors import NeuronError
from runtime.neff import neff_bytes, open_neff, read_neff
from runtime.neff.model import is_shared
from runtime.reference import errors, run_onnxruntime
from runtime.session import Session
from tests.model_zoo import MODELS, NEEDS_MODELS
from tests.numerics.models import SHIPPED, Array, model_inputs

DIGITS = SHIPPED.parents[1] / "examples" / "digits" / "digits_cnn.onnx"
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def model(
    nodes: list[onnx.NodeProto], inputs: dict[str, tuple[int, list[Any]]], outputs: list[str], **weights: Array
) -> ModelProto:
    """A small model; `inputs`: element type and dimensions, of which texts are symbols."""
    given = [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()]
    made = [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", given, made, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=output, **attributes)


def weight(*shape: int) -> Array:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


ROWS = model(
    [node("MatMul", "x w", "h"), node("Relu", "h", "r"), node("Softmax", "r", "y", axis=-1)],
    {"x": (FLOAT, ["rows", 6])}, ["y"], w=weight(6, 5),
)  # fmt: skip
"""Independent rows."""

CENTRED = model(
    [node("ReduceMean", "x zero", "mean", keepdims=1), node("Sub", "x mean", "y")],
    {"x": (FLOAT, ["rows", 6])}, ["y"], zero=np.zeros(1, np.int64),
)  # fmt: skip
"""Rows minus the mean row."""

MASKED = model(
    [
        node("Gather", "table ids", "e"),
        node("Cast", "mask", "m", to=FLOAT),
        node("Unsqueeze", "m last", "m3"),
        node("Mul", "e m3", "masked"),
        node("ReduceSum", "masked one", "sum", keepdims=0),
        node("ReduceSum", "m one", "count", keepdims=1),
        node("Div", "sum count", "pooled"),
        node("MatMul", "e w", "each"),
    ],
    {"ids": (INT64, ["n", "length"]), "mask": (INT64, ["n", "length"])}, ["pooled", "each"],
    table=weight(40, 8), last=np.array([2]), one=np.array([1]), w=weight(8, 3),
)  # fmt: skip
"""The mean of masked embeddings, and a product of each embedding: [n, 8] and [n, length, 3]."""


def compiled(source: Any, **options: Any) -> CompileResult:
    return compile_model(source, CompileOptions(target="trn1", auto_cast="none", **options))


def session_of(result: CompileResult) -> Session:
    """A session on what would be written to a file."""
    assert result.neff is not None
    return Session(read_neff(neff_bytes(result.neff)))


def check(session: Session, source: Any, inputs: dict[str, Array], bucket: int, pieces: int = 1) -> None:
    """The run takes this bucket, so many times, and gives what onnxruntime gives on the inputs as they are."""
    result = session.run(inputs)
    assert (result.bucket, result.pieces) == (bucket, pieces)
    expected = run_onnxruntime(source if not isinstance(source, ModelProto) else source.SerializeToString(), inputs)
    for name, value in expected.items():
        assert result.outputs[name].shape == value.shape
        assert errors(result.outputs[name], value)["rel_l2_error"] <= 1e-4, name


# Real exports with symbolic axes: both stored shapes from one file, and one that no bucket has.
@NEEDS_MODELS
@pytest.mark.parametrize(
    ("name", "share"),
    [("bert_base_dynaxes", 0.02), ("llama_1b_dynaxes", 0.02), ("resnet50_dynbatch", 0.1), ("dlrm_dynbatch", 0.02)],
)
def test_both_shapes_of_a_model_run_from_one_file(name: str, share: float) -> None:
    path = MODELS / f"{name}.onnx"
    first = model_inputs(path)
    with np.load(MODELS / f"{name}.inputs.alt.npz") as data:
        second = {key: data[key] for key in data.files}
    shapes = [{key: value.shape for key, value in inputs.items()} for inputs in (first, second)]
    result = compiled(path, buckets=shapes)
    session = session_of(result)
    check(session, path, first, 0)
    check(session, path, second, 1)
    some = {key: value[:1] for key, value in (second if "dlrm" in name else first).items()}
    check(session, path, some, 1 if "dlrm" in name else 0)
    # More rows than any bucket has.
    many = {key: np.concatenate([value] * 3) for key, value in second.items()}
    outputs = session.run(many).outputs
    for key, value in run_onnxruntime(path, many).items():
        assert errors(outputs[key], value)["rel_l2_error"] <= 1e-4
    own = [v for image in session.neff.subgraphs[1:] for v in image.program.variables if v.kind == "file"]
    assert own
    # What depends on the shape is small: masks, positions; and in a residual network as thin as this one filters, whose
    # form follows the batch where rows, pixels or images lie beside each other.
    apart = sum(v.elements for v in own if not is_shared(v.file_name))
    assert apart < share * sum(v.elements for v in own)


def test_any_number_of_rows() -> None:
    result = compiled(DIGITS, input_shapes={"image": (4, 1, 8, 8)})
    session = session_of(result)
    images = np.random.default_rng(0).standard_normal((10, 1, 8, 8)).astype(np.float32)
    for rows, pieces in ((4, 1), (10, 3), (1, 1)):
        check(session, DIGITS, {"image": images[:rows]}, 0, pieces)
    (row,) = result.report["dimensions"]
    assert (row["sizes"], row["independent"]) == ("any", True)
    nothing = session.run({"image": images[:0]}).outputs["probabilities"]
    assert (nothing.shape, nothing.dtype) == ((0, 10), np.float32)


# Three pieces take three times as long as one.
def test_pieces_add_up_in_time() -> None:
    session = session_of(compiled(ROWS, input_shapes={"x": (4, 6)}))
    times = [session.summary(session.run({"x": weight(rows, 6)}, "timing"))["total_time"] for rows in (4, 11)]
    assert times[1] == pytest.approx(3 * times[0])


def test_rows_that_influence_each_other_are_not_cut() -> None:
    result = compiled(CENTRED, input_shapes={"x": (4, 6)})
    (row,) = result.report["dimensions"]
    assert (row["sizes"], row["why"], row["node"]) == ("fixed", "it reduces over the dimension", "mean")
    session = session_of(result)
    check(session, CENTRED, {"x": weight(4, 6)}, 0)
    with pytest.raises(NeuronError) as caught:
        session.run({"x": weight(8, 6)})
    assert caught.value.code == "NX-RUN-012"


@pytest.mark.parametrize(("mode", "open_"), [("auto", True), ("require", True), ("assume", True), ("off", False)])
def test_modes_for_independent_rows(mode: str, open_: bool) -> None:
    result = compiled(ROWS, input_shapes={"x": (4, 6)}, dynamic_batch=mode)
    assert result.neff is not None
    assert bool(result.neff.dimensions) == open_


def test_a_dynamic_batch_that_is_asked_for_is_proven_or_assumed() -> None:
    with pytest.raises(NeuronError) as caught:
        compiled(CENTRED, dynamic_batch="require")
    assert (caught.value.code, caught.value.node) == ("NX-SHAPE-001", "mean")
    session = session_of(compiled(CENTRED, input_shapes={"x": (4, 6)}, dynamic_batch="assume"))
    assert session.run({"x": weight(8, 6)}).outputs["y"].shape == (8, 6)


# Inputs of any length up to the largest bucket; the mask is padded with zeros, so the pooled sum does not change.
def test_a_masked_length_is_padded() -> None:
    shapes = [{"ids": (2, length)} for length in (4, 16, 8)]
    result = compiled(MASKED, buckets=shapes, padding={"ids": 39})
    session = session_of(result)
    generator = np.random.default_rng(1)
    for length, bucket in ((3, 0), (4, 0), (7, 2), (9, 1), (16, 1)):
        inputs = {"ids": generator.integers(0, 39, (2, length)), "mask": generator.integers(0, 2, (2, length))}
        inputs["mask"][:, 0] = 1
        check(session, MASKED, inputs, bucket)
    with pytest.raises(NeuronError) as caught:
        session.run({name: np.ones((2, 17), np.int64) for name in ("ids", "mask")})
    assert (caught.value.code, "'ids' [2, 17]" in caught.value.message) == ("NX-RUN-012", True)
    length = next(row for row in result.report["dimensions"] if row["name"] == "length")
    assert (length["sizes"], length["padding_leaks_at"]) == ("padded", "sum")
    assert length["outputs"] == ["each[1]"]
    assert [row["input_shapes"]["mask"] for row in result.report["buckets"]] == [[2, 4], [2, 16], [2, 8]]


# Embeddings of one position each: padding cannot reach another, which is proven.
def test_padding_that_cannot_leak() -> None:
    each = model([node("Gather", "t ids", "e"), node("Add", "e p", "y")], {"ids": (INT64, ["n", "length"])}, ["y"],
                 t=weight(9, 4), p=weight(1, 1, 4))  # fmt: skip
    result = compiled(each, buckets=[{"ids": (1, 8)}])
    assert [row["independent"] for row in result.report["dimensions"]] == [True, True]
    check(session_of(result), each, {"ids": np.arange(27).reshape(3, 9) % 9}, 0, 6)


# An output whose length is twice the input's cannot be cut: it keeps its padding, and the report says so.
def test_an_output_of_another_length_keeps_its_padding() -> None:
    twice = model([node("Concat", "x x", "y", axis=1)], {"x": (FLOAT, [1, "length"])}, ["y"])
    result = compiled(twice, buckets=[{"x": (1, 8)}])
    (row,) = result.report["dimensions"]
    assert (row["outputs"], row["padded_outputs"]) == ([], ["y"])
    assert session_of(result).run({"x": weight(1, 5)}).outputs["y"].shape == (1, 16)


# What is computed from a shape differs between sizes, so rows are not the same alone as together.
def test_a_result_that_depends_on_the_number_of_rows() -> None:
    sized = model(
        [node("Shape", "x", "s", start=0, end=1), node("Cast", "s", "f", to=FLOAT), node("Div", "x f", "y")],
        {"x": (FLOAT, ["rows", 6])}, ["y"],
    )  # fmt: skip
    (row,) = compiled(sized, input_shapes={"x": (4, 6)}).report["dimensions"]
    assert (row["independent"], row["why"]) == (False, "a constant depends on the size of the dimension")


def test_weights_are_stored_once() -> None:
    result = compiled(ROWS, buckets=[{"x": (size, 6)} for size in (1, 4, 8)])
    assert result.neff is not None
    members = [name for name in open_neff(neff_bytes(result.neff)).members if "/params/" in name]
    assert len(members) == len({v.name for v in result.neff.subgraphs[0].program.variables if v.kind == "file"})
    again = compiled(ROWS, buckets=[{"x": (size, 6)} for size in (1, 4, 8)]).neff
    assert again is not None
    assert neff_bytes(again) == neff_bytes(result.neff)


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        ({"buckets": [{"x": (1, 6)}, {"x": (1, 6)}]}, "NX-SHAPE-002", "two buckets have the shapes x=1,6"),
        ({"buckets": [{"x": (n, 6)} for n in range(1, 70)]}, "NX-SHAPE-002", "69 buckets, limit 64"),
        ({"buckets": [{"x": (1, 6)}, {"x": (2, 6)}], "emit": "tile"}, "NX-SHAPE-002", "--emit tile"),
        ({"buckets": [{"z": (1, 6)}]}, "NX-ONNX-005", "no input 'z'"),
        ({"buckets": [{"x": (1, 7)}]}, "NX-ONNX-005", "fixed to 6"),
        ({"padding": {"z": 0}}, "NX-ONNX-005", "no input 'z'"),
        ({"dynamic_batch": "maybe"}, "NX-ARG-001", "choose one of auto"),
    ],
)
def test_mistakes(options: dict[str, Any], code: str, text: str) -> None:
    with pytest.raises(NeuronError) as caught:
        compiled(ROWS, **options)
    assert (caught.value.code, text in caught.value.message) == (code, True)


def test_a_padding_that_is_none_of_the_type() -> None:
    with pytest.raises(NeuronError) as caught:
        compiled(MASKED, buckets=[{"ids": (1, 4)}], padding={"ids": 0.5})
    assert caught.value.code == "NX-ARG-002"
