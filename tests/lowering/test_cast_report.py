"""The cast report: which tensors lost how much, against onnxruntime, on given inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import lowering.cast_report
from lowering.cast_report import cast_report, report_lines
from lowering.compiler import CompileOptions
from neuron_dialects.errors import NeuronError
from runtime.reference import rounded
from tests.onnx_models import model_of
from tools.in_process import run_in_process
from tools.neuron_cc import main as neuron_cc
from tools.neuron_run import main as neuron_run
from tools.neuron_run import write_npz

Array = np.ndarray[Any, np.dtype[Any]]
F32 = np.float32


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A product, a shift far beyond f16, a node for the host, and a convolution whose normalisation is folded."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"], name="matmul"),
        helper.make_node("Relu", ["product"], ["positive"], name="relu"),
        helper.make_node("Mul", ["positive", "large"], ["far"], name="shift"),
        helper.make_node("Det", ["product"], ["determinant"], name="det"),
        helper.make_node("Conv", ["image", "k"], ["windows"], name="conv"),
        helper.make_node("BatchNormalization", ["windows", "g", "b", "m", "v"], ["normal"], name="norm"),
    ]
    constants: dict[str, Array] = {
        "w": rng.standard_normal((6, 6)).astype(F32),
        "large": np.array(1e6, F32),
        "k": rng.standard_normal((4, 3, 3, 3)).astype(F32),
        **{name: rng.uniform(0.5, 3, 4).astype(F32) for name in "gbmv"},
    }
    made = model_of(nodes, feeds(), ["far", "determinant", "normal"], constants=constants)
    path = tmp_path / "model.onnx"
    onnx.save(made, path)
    return path


def feeds() -> dict[str, Array]:
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((6, 6)).astype(F32), "image": rng.standard_normal((1, 3, 5, 5)).astype(F32)}


# Rows tell what was computed where and in which type, and errors are those of the rounding.
def test_losses(model: Path) -> None:
    report = cast_report(model, feeds(), CompileOptions("inf1", "matmult", "bf16"))
    rows = {loss.tensor: loss for loss in report.losses}
    # What the folded convolution computes is the normalised tensor: under the name "windows" nothing can be compared.
    assert set(rows) == {"product", "positive", "far", "determinant"}
    assert set(report.not_compared) == {"windows", "normal"}
    product = rows["product"]
    assert (product.op, product.node, product.cast) == ("MatMul", "matmul", "bf16")
    assert rows["determinant"].segment.startswith("host_") and product.segment.startswith("neuron_")
    x, w = feeds()["x"], onnx.numpy_helper.to_array(onnx.load(model).graph.initializer[0])
    exact = x.astype(np.float64) @ w
    error = np.linalg.norm(rounded(x, "bf16").astype(np.float64) @ rounded(w, "bf16") - exact) / np.linalg.norm(exact)
    assert product.rel_l2_error == pytest.approx(error, rel=1e-3)
    assert [loss.rel_l2_error for loss in report.losses] == sorted(
        (r.rel_l2_error for r in report.losses), reverse=True
    )
    assert report.first is None or report.first.rel_l2_error > report.tolerance == 3e-2


# f16 holds no 1e6 (the constant is clamped) and no product above 65504: shares of infinities, and the first to go.
def test_the_first_tensor_beyond_the_tolerance(model: Path) -> None:
    report = cast_report(model, feeds(), CompileOptions("trn1", "all", "fp16"))
    assert report.first is not None
    assert report.first.tensor == "far"
    assert 0.1 < report.first.non_finite_share < 0.8
    assert report.losses[0] is report.first
    exact = cast_report(model, feeds(), CompileOptions("trn1", "none"))
    assert exact.first is None
    assert exact.tolerance == 1e-4
    assert report_lines(exact)[-2] == "every tensor compared is within 0.0001"
    # A tolerance of one's own: then the product is the first, because it comes first in the program.
    tight = cast_report(model, feeds(), CompileOptions("trn1", "all", "fp16"), tolerance=1e-7)
    assert tight.first is not None and tight.first.tensor == "product"


# Portions of one tensor each give the same report.
def test_portions(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = CompileOptions("inf1", "matmult", "bf16")
    whole = cast_report(model, feeds(), options)
    monkeypatch.setattr(lowering.cast_report, "PORTION_BYTES", 1)
    assert cast_report(model, feeds(), options).data() == whole.data()


def test_command_line(model: Path, tmp_path: Path) -> None:
    neff, inputs = tmp_path / "m.neff", tmp_path / "x.npz"
    write_npz(inputs, feeds())
    arguments = ["--target", "trn1", "--auto-cast", "all", "--auto-cast-type", "fp16"]
    assert run_in_process(neuron_cc, ["compile", str(model), "-o", str(neff), *arguments]).exit_code == 0
    common = [str(neff), "--inputs", str(inputs), "--check", str(model), "--per-op"]
    done = run_in_process(neuron_run, common)
    assert done.exit_code == 0, done.stderr
    assert "first beyond 0.03: far (Mul)" in done.stdout
    found = json.loads(run_in_process(neuron_run, [*common, "--json", "--tolerance", "1e-7"]).stdout)["per_op"]
    assert found["first_beyond_tolerance"] == "product"
    assert {"tensor", "op", "segment", "cast", "rel_l2_error", "max_abs_error", "non_finite_share"} <= set(
        found["tensors"][0]
    )
    # The outputs come from the machine, which keeps f32 inside of a group of operators: it loses no more.
    rows = {row["tensor"]: row for row in found["tensors"]}
    outputs = json.loads(run_in_process(neuron_run, [*common, "--json"]).stdout)["outputs"]
    determinant = next(row for row in outputs if row["name"] == "determinant")
    assert 0 < determinant["rel_l2_error"] < 2 * rows["determinant"]["rel_l2_error"]


@pytest.mark.parametrize("check", [[], ["--check", "expected.npz"]])
def test_needs_a_model(model: Path, tmp_path: Path, check: list[str]) -> None:
    neff = tmp_path / "m.neff"
    assert run_in_process(neuron_cc, ["compile", str(model), "-o", str(neff)]).exit_code == 0
    done = run_in_process(neuron_run, [str(neff), "--per-op", *check])
    assert done.exit_code == 1
    assert "error[NX-ARG-002]: --per-op compares a .neff with the model given by --check MODEL.onnx" in done.stderr


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(NeuronError):
        cast_report(path, {}, CompileOptions())
