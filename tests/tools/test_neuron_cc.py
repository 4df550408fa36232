"""`neuron-cc compile`: files, report, levels, and one coded line for each mistake."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import weights_path
from runtime.neff import read_neff
from tests.numerics.models import SHIPPED
from tools.in_process import Completed, run_in_process
from tools.module_file import read_module
from tools.neuron_cc import main, parse_input_shape, summary_line

LENET, MLP = SHIPPED / "lenet5.onnx", SHIPPED / "mnist_mlp.onnx"
DIGITS = SHIPPED.parents[1] / "examples" / "digits" / "digits_cnn.onnx"


def compile_(*arguments: str | Path) -> Completed:
    return run_in_process(main, ["compile", *map(str, arguments)])


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        ("image=1,3,224,224", "image", (1, 3, 224, 224)),
        ("image=1x3x224x224", "image", (1, 3, 224, 224)),
        ("a=b=4", "a=b", (4,)),
        ("scalar=", "scalar", ()),
        ("empty=0,4", "empty", (0, 4)),
    ],
)
def test_shapes_of_inputs(text: str, name: str, shape: tuple[int, ...]) -> None:
    assert parse_input_shape(text) == (name, shape)


@pytest.mark.parametrize("text", ["", "image", "image=a,b", "image=1,,2", "image=-1,3", "image=1.5", "3,4"])
def test_bad_shapes_of_inputs(text: str) -> None:
    with pytest.raises(NeuronError, match=r"expected NAME=1,3,224,224") as caught:
        parse_input_shape(text)
    assert caught.value.code == "NX-ARG-002"


def test_a_neff_and_its_report(tmp_path: Path) -> None:
    neff, report = tmp_path / "m.neff", tmp_path / "r.json"
    done = compile_(LENET, "-o", neff, "--target", "trn1", "--report", report)
    assert (done.exit_code, done.stderr) == (0, "")
    fields = json.loads(report.read_text())
    # The names that other checks are built on.
    assert {
        "compile_seconds", "partition", "casts", "spills", "peak_sbuf_bytes", "instruction_bytes",
    } <= set(fields)  # fmt: skip
    assert all({"node", "op", "where", "segment", "why"} == set(row) for row in fields["partition"])
    assert fields["compile_seconds"]["total"] > fields["compile_seconds"]["convert-graph-to-tile"] > 0
    assert read_neff(neff).target == fields["target"] == "trn1"
    assert done.stdout == summary_line(fields, neff) + "\n"
    assert "16 of 16 ops on the core" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"m.neff", "r.json"}


# MLIR goes with its weights, found beside it wherever the two are moved together.
@pytest.mark.parametrize("level", ["import", "graph", "tile", "nisa"])
def test_a_level_and_its_weights(level: str, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    assert compile_(MLP, "-o", made / "m.mlir", "--emit", level).exit_code == 0
    moved = made.rename(tmp_path / "moved")
    module = read_module(moved / "m.mlir")
    assert weights_path(module) == moved / "m.safetensors"
    assert (moved / "m.safetensors").is_file()


# Without -o the result lies in the working folder, whatever folder the model lies in.
@pytest.mark.parametrize(("emit", "suffix"), [("neff", ".neff"), ("tile", ".mlir")])
def test_default_output(emit: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert compile_(MLP, "--emit", emit).exit_code == 0
    assert (tmp_path / f"mnist_mlp{suffix}").is_file()


def test_an_input_shape_is_bound(tmp_path: Path) -> None:
    assert compile_(DIGITS, "-o", tmp_path / "m.neff", "--input-shape", "image=5,1,8,8").exit_code == 0
    (spec,) = read_neff(tmp_path / "m.neff").inputs
    assert spec.shape == (5, 1, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([MLP, "--target", "trn9"], "NX-TARGET-001", "choose one of"),
        ([MLP, "--auto-cast", "some"], "NX-ARG-001", "choose one of none, matmult, all"),
        ([MLP, "--auto-cast-type", "fp64"], "NX-ARG-001", "choose one of bf16, fp16, tf32"),
        ([MLP, "--emit", "elf"], "NX-ARG-001", "choose one of"),
        ([MLP, "--input-shape", "x"], "NX-ARG-002", "expected NAME=1,3,224,224"),
        ([MLP, "--input-shape", "nothing=3"], "NX-ONNX-005", "nothing"),
        ([MLP, "--input-shape", "input=5,1,28,28"], "NX-ONNX-005", "fixed to 1"),
        (["none.onnx"], "NX-ONNX-001", "none.onnx"),
        ([MLP, "-o", "no/such/folder/m.neff"], "NX-FILE-001", "no/such/folder/m.neff"),
        ([MLP, "--report", "no/such/folder/r.json"], "NX-FILE-001", "no/such/folder"),
    ],
)
def test_a_mistake_is_one_coded_line(
    arguments: list[str | Path], code: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = compile_(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error[{code}]: ")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


# Nothing is left behind by a compilation that failed, and a result that was there stays.
def test_a_failed_compilation_leaves_the_old_result(tmp_path: Path) -> None:
    (tmp_path / "m.neff").write_bytes(b"the old one")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert compile_(tmp_path / "bad.onnx", "-o", tmp_path / "m.neff").exit_code == 1
    assert (tmp_path / "m.neff").read_bytes() == b"the old one"
    assert len(list(tmp_path.iterdir())) == 2


# The model's own node is named when an operator of it cannot be what it says.
def test_the_node_is_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3])
    weight = numpy_helper.from_array(np.zeros((4, 5), np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="the product")
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 5])
    graph = helper.make_graph([node], "g", [value], [result], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    done = compile_(tmp_path / "m.onnx")
    assert done.exit_code == 1
    assert "the product" in done.stderr
    assert "Traceback" not in done.stderr


# Errors of a compilation as machines want them: with the model's file and the node.
def test_errors_as_json(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    graph = "net (float[2,4] x, float[3,5] w) => (float[2,5] y) { y = MatMul(x, w) }"
    text = f'<ir_version: 9, opset_import: ["" : 18]> {graph}'
    model.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    plain = run_in_process(main, ["compile", str(model)])
    assert plain.stderr.startswith(f"{model}: error[NX-ONNX-007]: node '")
    done = run_in_process(main, ["compile", str(model), "--diagnostics-format=json"])
    found = json.loads(done.stderr)
    assert (done.exit_code, found["code"], found["file"], found["severity"]) == (1, "NX-ONNX-007", str(model), "error")
    assert found["node"] and "error[" not in found["message"]
