"""What can be wrong with a model file, and how the sizes of its inputs are bound."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, external_data_helper, helper, numpy_helper
from xdsl.dialects.builtin import TensorType

from lowering.onnx_to_graph import import_onnx
from lowering.onnx_to_graph.binding import DeclaredInput, bind_inputs
from neuron_dialects.errors import NeuronError
from tests.graph_level import main_of
from tests.onnx_models import check_import, model_of, operators

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
W = np.arange(20, dtype=np.float32).reshape(4, 5)


def product() -> ModelProto:
    """x [2, 3, 4] times a weight [4, 5], then relu."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], name="product"), helper.make_node("Relu", ["p"], ["y"])]
    return model_of(nodes, {"x": X}, ["y"], constants={"w": W})


def code_of(source: Any, **options: Any) -> str:
    """The code of the error that an import raises."""
    with pytest.raises(NeuronError) as raised:
        import_onnx(source, **options)
    assert raised.value.message
    return raised.value.code


# Files


def test_files_that_are_no_models(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert code_of(path) == "NX-ONNX-001"
    assert code_of(tmp_path) == "NX-ONNX-001"
    for content in (b"", b"not a model at all", bytes(100), b"\xff" * 100, b"PK\3\4" + bytes(50)):
        path.write_bytes(content)
        assert code_of(path) == "NX-ONNX-001"
    data = product().SerializeToString()
    for end in range(1, len(data), 7):
        path.write_bytes(data[:end])
        assert code_of(path).startswith("NX-")


def broken(change: Callable[[ModelProto], Any]) -> ModelProto:
    model = product()
    change(model)
    return model


def cyclic(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (cyclic, "NX-ONNX-002"),
        (lambda m: m.graph.node.reverse(), "NX-ONNX-002"),
        (lambda m: m.graph.node.append(m.graph.node[0]), "NX-ONNX-002"),
        (lambda m: m.graph.node.pop(1), "NX-ONNX-002"),
        (lambda m: m.graph.node[0].input.pop(), "NX-ONNX-002"),
        (lambda m: setattr(m.graph.node[0], "op_type", "NoSuchOperator"), "NX-ONNX-002"),
        (lambda m: m.graph.node[1].attribute.append(helper.make_attribute("what", 1)), "NX-ONNX-002"),
        (lambda m: m.ClearField("ir_version"), "NX-ONNX-002"),
        (lambda m: setattr(m, "ir_version", 99), "NX-ONNX-003"),
        (lambda m: setattr(m.opset_import[0], "version", 999), "NX-ONNX-003"),
        (lambda m: m.graph.initializer[0].dims.append(2**40), "NX-ONNX-002"),
        (lambda m: setattr(m.graph.initializer[0], "raw_data", b"123"), "NX-ONNX-002"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", TensorProto.DOUBLE), "NX-ONNX-002"),
        (lambda m: m.graph.initializer[0].ClearField("raw_data"), "NX-ONNX-002"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2**62), "NX-ONNX-005"),
        (lambda m: m.graph.input[0].ClearField("type"), "NX-ONNX-002"),
    ],
)
def test_malformed_models(change: Callable[[ModelProto], Any], code: str) -> None:
    assert code_of(broken(change)) == code


# Inputs that a program cannot be given.
def test_unusual_input_types() -> None:
    node = helper.make_node("DictVectorizer", ["x"], ["y"], domain="ai.onnx.ml", int64_vocabulary=[1, 2])
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    mapping = helper.make_map_type_proto(TensorProto.INT64, tensor)
    model = model_of([node], {"x": mapping}, ["y"], other_domains=["ai.onnx.ml"])
    assert code_of(model) == "NX-ONNX-006"


# A result that nobody could hold is named with its node.
def test_huge_results() -> None:
    nodes = [helper.make_node("Expand", ["x", "shape"], ["y"], name="expand")]
    model = model_of(nodes, {"x": X}, ["y"], constants={"shape": np.array([2**20, 2**20, 1, 1, 1])})
    with pytest.raises(NeuronError, match=r"NX-ONNX-007.*node 'expand': a result of \d+ elements"):
        import_onnx(model)


# Whatever is changed in a file: a module that verifies, or an error for the user.
@given(seed=st.integers(0, 2**32))
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    generator = random.Random(seed)
    data = bytearray(product().SerializeToString())
    for _ in range(generator.choice([1, 2, 8])):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(data)
    with contextlib.suppress(NeuronError):
        import_onnx(path).module.verify()


# External data


def saved_externally(folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save_model(
        product(), path, save_as_external_data=True, location="m.weights", size_threshold=0, convert_attribute=False
    )
    return path


def test_external_data(tmp_path: Path) -> None:
    path = saved_externally(tmp_path)
    result = import_onnx(path)
    np.testing.assert_array_equal(result.weights.get("w"), W)
    assert operators(result) == operators(import_onnx(product()))
    # The data are mapped: nothing but the file holds them.
    array: Any = result.weights.get("w")
    while array.base is not None and not isinstance(array, np.memmap):
        array = array.base
    assert type(array).__name__ in ("memmap", "mmap")


def edited(path: Path, **entries: str) -> Path:
    """The file with entries of its external data replaced."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ({"location": "../m.weights"}, "NX-WEIGHT-001"),
        ({"location": "/etc/passwd"}, "NX-WEIGHT-001"),
        ({"location": "none"}, "NX-WEIGHT-001"),
        ({"offset": "8"}, "NX-WEIGHT-001"),
        ({"offset": "-8"}, "NX-WEIGHT-001"),
        ({"offset": "zero"}, "NX-WEIGHT-001"),
        ({"length": "8"}, "NX-WEIGHT-004"),
    ],
)
def test_external_data_that_lie(tmp_path: Path, entries: dict[str, str], code: str) -> None:
    assert code_of(edited(saved_externally(tmp_path), **entries)) == code


def test_external_data_without_a_file(tmp_path: Path) -> None:
    path = saved_externally(tmp_path)
    assert code_of(onnx.load(path, load_external_data=False)) == "NX-WEIGHT-001"
    (tmp_path / "m.weights").unlink()
    assert code_of(path) == "NX-WEIGHT-001"
    assert external_data_helper.uses_external_data(onnx.load(path, load_external_data=False).graph.initializer[0])


# Input shapes


def dynamic(*shapes: list[int | str | None]) -> ModelProto:
    """Inputs a, b, ... of these shapes, each through relu."""
    names = [chr(ord("a") + number) for number in range(len(shapes))]
    nodes = [helper.make_node("Relu", [name], [f"{name}_out"]) for name in names]
    inputs = {
        name: helper.make_tensor_type_proto(TensorProto.FLOAT, shape) for name, shape in zip(names, shapes, strict=True)
    }
    return model_of(nodes, inputs, [f"{name}_out" for name in names])


def input_shapes(result: Any) -> list[tuple[int, ...]]:
    types = [argument.type for argument in main_of(result.module).body.block.args]
    return [type_.get_shape() for type_ in types if isinstance(type_, TensorType)]


# A batch that nobody gives is one; a symbol given for one input counts for all.
def test_symbolic_dimensions() -> None:
    result = import_onnx(dynamic(["batch", 3], ["batch", 4]))
    assert input_shapes(result) == [(1, 3), (1, 4)]
    assert result.info.bound_dimensions == {"batch": 1}
    assert result.info.notes == ["dimension 'batch' of input 'a' is taken as a batch of 1"]
    result = import_onnx(dynamic(["n", "length"], ["n", "length"], ["length"]), input_shapes={"a": (2, 7)})
    assert input_shapes(result) == [(2, 7), (2, 7), (7,)]
    assert result.info.bound_dimensions == {"n": 2, "length": 7}
    assert result.info.notes == []
    result = import_onnx(dynamic([None, 3]))
    assert result.info.bound_dimensions == {"a[0]": 1}


def error_of(model: ModelProto, **options: Any) -> NeuronError:
    with pytest.raises(NeuronError) as raised:
        import_onnx(model, **options)
    return raised.value


# An unknown length is asked for: with the input, the dimension, and the option to give.
def test_unknown_dimensions() -> None:
    error = error_of(dynamic(["batch", "sequence", 8]))
    assert error.code == "NX-ONNX-004"
    assert error.message == "dimension 1 ('sequence') of input 'a' is unknown"
    assert error.help is not None
    assert "--input-shape a=?,?,8" in error.help
    # A first dimension that is called a length, or that is a later dimension elsewhere, is no batch.
    assert error_of(dynamic(["seq_len", 8])).code == "NX-ONNX-004"
    assert error_of(dynamic(["n"], ["batch", "n"])).message == "dimension 0 ('n') of input 'a' is unknown"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1,)}, "the model has no input 'z'"),
        ({"a": (1, 2, 3)}, "input 'a' has 2 dimensions but 3 are given"),
        ({"a": (2, 9)}, "dimension 1 of input 'a' is fixed to 3 in the model, not 9"),
        ({"a": (-1, 3)}, "dimension 0 of input 'a' is given as -1"),
        ({"a": (2, 3), "b": (5, 4)}, "dimension 'batch' is given as 5 for input 'b' but as 2 for another"),
        ({"a": (2**40, 3)}, "input 'a' has 3298534883328 elements, more than 1099511627776"),
    ],
)
def test_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    error = error_of(dynamic(["batch", 3], ["batch", 4]), input_shapes=shapes)
    assert (error.code, error.message) == ("NX-ONNX-005", message)


# The rank may be unknown, too; a given shape supplies it.
def test_unknown_rank() -> None:
    with pytest.raises(NeuronError, match=r"NX-ONNX-004.*the shape of input 'a' is unknown\n  help: give it with"):
        bind_inputs([DeclaredInput("a", None)], None)
    assert bind_inputs([DeclaredInput("a", None)], {"a": (2, 3)}).shapes == {"a": (2, 3)}
    model = dynamic([2, 3])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    assert input_shapes(import_onnx(model, input_shapes={"a": (4,)})) == [(4,)]


# One file, two buckets: the shapes inside follow the shapes of the inputs.
def test_buckets() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Expand", ["one", "shape"], ["ones"]),
        helper.make_node("Add", ["x", "ones"], ["y"]),
    ]
    x = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", "length"])
    model = model_of(nodes, {"x": x}, ["y"], constants={"one": np.ones(1, np.float32)})
    for shape in ((1, 4), (3, 5)):
        text = str(import_onnx(model, input_shapes={"x": shape}).module)
        assert f"-> tensor<{shape[0]}x{shape[1]}xf32>" in text


# A file with symbolic inputs may hold sizes of the example it was traced with: those are not believed.
def test_declared_sizes_of_a_traced_example() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["y"])]
    x = helper.make_tensor_type_proto(TensorProto.FLOAT, ["batch", 4])
    model = model_of(nodes, {"x": x}, ["y"])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT64, [2, 8]))
    assert str(main_of(import_onnx(model, input_shapes={"x": (3, 4)}).module).function_type.outputs.data[0]) == (
        "tensor<2x?xi64>"
    )
    # With static inputs the declaration is believed: it may say more than can be inferred.
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    assert "tensor<2x8xi64>" in str(import_onnx(model).module)


def test_a_model_in_memory_is_not_changed() -> None:
    model = product()
    before = model.SerializeToString()
    check_import(model, {"x": X})
    assert model.SerializeToString() == before
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (4, 5)
