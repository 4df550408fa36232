"""Sessions: a compiled model run by name, in each mode, with its segments on core and host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.errors import NeuronError
from runtime.neff import CORE, HOST, CoreImage, GraphNode, Neff, TensorSpec
from runtime.reference import run_onnxruntime
from runtime.session import Session, combined, parameters_of, to_device
from tests.core_kernels import Array
from tests.runtime.neff.samples import copy_program, sample_neff

FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
WEIGHTS = [
    numpy_helper.from_array(np.random.default_rng(0).standard_normal((50, 16), np.float32), "table"),
    numpy_helper.from_array(np.full(8, 16), "lengths"),
]


def model(folder: Path, nodes: list[onnx.NodeProto], outputs: dict[str, list[int]]) -> Path:
    """A model of input ids (8 integers) and the weights above."""
    values = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()]
    ids = helper.make_tensor_value_info("ids", INT64, [8])
    graph = helper.make_graph(nodes, "g", [ids], values, WEIGHTS)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Neff]:
    """table[ids] · 2 on the core, its rows turned round on the host, their product with the table on the core again."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Add", ["rows", "rows"], ["twice"]),
        helper.make_node("ReverseSequence", ["twice", "lengths"], ["turned"], batch_axis=0, time_axis=1),
        helper.make_node("Gemm", ["turned", "table"], ["y"], transB=1),
    ]
    path = model(tmp_path_factory.mktemp("session"), nodes, {"twice": [8, 16], "y": [8, 50]})
    result = compile_model(path, CompileOptions(target="trn1", auto_cast="none"))
    assert result.neff is not None
    return path, result.neff


IDS = {"ids": np.array([3, 0, 49, 7, 7, 1, 2, 48])}


def test_outputs_are_those_of_the_model(embedding: tuple[Path, Neff]) -> None:
    path, neff = embedding
    assert [node.executor for node in neff.graph] == [CORE, HOST, CORE]
    session = Session(neff)
    # A session is loaded once and runs often, with other inputs each time.
    for ids in (IDS["ids"], IDS["ids"][::-1], np.zeros(8, np.int64)):
        result = session.run({"ids": ids})
        expected = run_onnxruntime(path, {"ids": ids})
        assert list(result.outputs) == ["twice", "y"]
        for name, value in result.outputs.items():
            assert (value.shape, value.dtype) == (expected[name].shape, expected[name].dtype)
            np.testing.assert_allclose(value, expected[name], rtol=1e-5)


@pytest.mark.parametrize(("mode", "outputs", "timings"), [("functional", 2, 0), ("timing", 0, 2), ("both", 2, 2)])
def test_modes(embedding: tuple[Path, Neff], mode: str, outputs: int, timings: int) -> None:
    result = Session(embedding[1]).run(IDS, mode)  # pyright: ignore[reportArgumentType]
    assert (len(result.outputs), len(result.timings)) == (outputs, timings)


# Time does not depend on whether numbers are computed.
def test_timing_alone_takes_as_long_as_both(embedding: tuple[Path, Neff]) -> None:
    session = Session(embedding[1])
    alone, both = (session.summary(session.run(IDS, mode)) for mode in ("timing", "both"))
    assert alone == both
    assert alone["is_simulation"] is True
    assert alone["total_time"] > 0


# Segments run one after the other: their times, traffic and work add up.
def test_times_of_segments_add_up(embedding: tuple[Path, Neff]) -> None:
    session = Session(embedding[1])
    timings = session.run(IDS, "timing").timings
    total = combined(timings, session.target)
    assert total.total_time == pytest.approx(sum(t.total_time for t in timings))
    assert total.dma_bytes == sum(t.dma_bytes for t in timings)
    assert total.compulsory_bytes == sum(t.compulsory_bytes for t in timings)
    for engine, timing in total.engines.items():
        assert timing.instruction_count == sum(t.engines[engine].instruction_count for t in timings)
    assert combined(timings[:1], session.target) == timings[0]


# The core computes with int32: what does not fit is refused, not wrapped.
def test_integers_must_fit_the_core(embedding: tuple[Path, Neff]) -> None:
    (spec,) = embedding[1].inputs
    assert (spec.dtype, spec.device_dtype) == ("i64", "i32")
    with pytest.raises(NeuronError, match="'ids' holds 1099511627776, which does not fit i32") as caught:
        Session(embedding[1]).run({"ids": np.full(8, 2**40)})
    assert caught.value.code == "NX-RUN-010"
    np.testing.assert_array_equal(to_device(np.full(8, -5), spec), np.full(8, -5, np.int32))


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({}, "NX-RUN-011"),
        ({**IDS, "mask": np.zeros(8)}, "NX-RUN-011"),
        ({"ids": np.zeros((2, 4), np.int64)}, "NX-RUN-012"),
        ({"ids": np.zeros(8, np.float32)}, "NX-RUN-005"),
        ({"ids": np.full(8, 50)}, "NX-RUN-002"),
    ],
)
def test_bad_inputs_are_a_users_mistake(embedding: tuple[Path, Neff], inputs: dict[str, Array], code: str) -> None:
    with pytest.raises(NeuronError) as caught:
        Session(embedding[1]).run(inputs)
    assert caught.value.code == code


# Parameters lie in a NEFF as bytes and in memory as arrays; both are seen as the program's variables say.
def test_parameters_have_their_variables_shapes() -> None:
    image = sample_neff().subgraphs[1]
    arrays = parameters_of(image)
    shapes = {v.name: v.shape for v in image.program.variables if v.kind == "file"}
    assert {name: array.shape for name, array in arrays.items()} == shapes
    values = image.parameters["mask"]
    assert isinstance(values, np.ndarray)
    raw = {
        name: v if isinstance(v, bytes) else np.ascontiguousarray(v).tobytes() for name, v in image.parameters.items()
    }
    for name, array in parameters_of(CoreImage(copy_program("trn1"), raw)).items():
        np.testing.assert_array_equal(array, arrays[name])


def test_a_host_model_that_is_none_is_refused() -> None:
    with pytest.raises(NeuronError, match="it is not an ONNX model"):
        Session(sample_neff()).run({"tokens": np.zeros((128, 256), np.int64)})


# The host's part of a file is as hostile as the rest: it must give and take what the file says it does.
@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"x": (FLOAT, [8])}, {"y": (FLOAT, [8])}, None),
        ({"x": (FLOAT, [8])}, {"y": (FLOAT, [8]), "z": (FLOAT, [8])}, "gives 2 tensors, not 1"),
        ({"x": (FLOAT, [8]), "z": (FLOAT, [8])}, {"y": (FLOAT, [8])}, "is given 1 tensors, it takes 2"),
        ({"x": (FLOAT, [8])}, {"y": (FLOAT, [2, 4])}, "gives 'y' as float32[2, 4], not f32[8]"),
        ({"x": (FLOAT, [8])}, {"y": (INT64, [8])}, "gives 'y' as int64[8], not f32[8]"),
    ],
)
def test_a_host_model_must_keep_its_word(
    inputs: dict[str, tuple[int, list[int]]], outputs: dict[str, tuple[int, list[int]]], message: str | None
) -> None:
    nodes: list[onnx.NodeProto] = []
    for name, (dtype, shape) in outputs.items():
        nodes.append(helper.make_node("Constant", [], [f"{name}_shape"], value_ints=shape))
        nodes.append(helper.make_node("Reshape", ["x", f"{name}_shape"], [f"{name}_shaped"]))
        nodes.append(helper.make_node("Cast", [f"{name}_shaped"], [name], to=dtype))
    taken, made = ([helper.make_tensor_value_info(n, *v) for n, v in part.items()] for part in (inputs, outputs))
    graph = helper.make_graph(nodes, "host", taken, made)
    host = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    specs = [TensorSpec(name, (8,), "f32", "f32") for name in ("x", "y")]
    session = Session(Neff("host", "trn1", [], [host], [GraphNode(HOST, 0, ("x",), ("y",))], specs[:1], specs[1:], []))
    values = {"x": np.arange(8, dtype=np.float32)}
    if message is None:
        np.testing.assert_array_equal(session.run(values).outputs["y"], values["x"])
    else:
        with pytest.raises(NeuronError) as caught:
            session.run(values)
        assert (caught.value.code, message in caught.value.message) == ("NX-RUN-005", True)
