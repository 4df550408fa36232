"""`--enable-saturate-infinity`: what a narrow type cannot hold becomes its largest finite number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from lowering.compiler import CompileOptions, compile_model
from runtime.neff import read_neff
from runtime.session import Session
from tests.onnx_models import model_of
from tools.in_process import run_in_process
from tools.neuron_cc import main

Array = np.ndarray[Any, np.dtype[Any]]
F32 = np.float32
X = np.array([[1.0, -2.0, 1e5, -1e5, np.inf, -np.inf, 6.0, 9.0]], F32)


def run(model: ModelProto, x: Array, **options: Any) -> dict[str, Array]:
    result = compile_model(model, CompileOptions("inf1", **options))
    assert result.report["saturate_infinity"] == options.get("saturate_infinity", False)
    assert result.neff is not None
    return Session(result.neff).run({"x": x}).outputs


def casts() -> ModelProto:
    """The model's own cast to f16, which goes out, and an exponential."""
    nodes = [helper.make_node("Cast", ["x"], ["half"], to=10), helper.make_node("Exp", ["x"], ["exp"])]
    return model_of(nodes, {"x": X}, ["half", "exp"])


# Off by default: infinities come out, as onnxruntime gives them.
def test_off_by_default() -> None:
    outputs = run(casts(), X, auto_cast="none")
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(outputs["half"], X.astype(np.float16))


# On: the largest f16 in their place, of casts in the model and of what mode all computes; finite numbers stay.
@pytest.mark.parametrize("mode", ["none", "matmult", "all"])
def test_casts_saturate(mode: str) -> None:
    outputs = run(casts(), X, auto_cast=mode, auto_cast_type="fp16", saturate_infinity=True)
    np.testing.assert_array_equal(outputs["half"], np.clip(X, -65504, 65504).astype(np.float16))
    expected = np.exp(X[0, [0, 1, 6, 7]])
    np.testing.assert_allclose(outputs["exp"][0, [0, 1, 6, 7]], expected, rtol=2e-3)
    largest = np.inf if mode in ("none", "matmult") else 65504
    assert outputs["exp"][0, 4] == largest


# A mask of -inf that covers a whole row: NaN in f16, as in f32; equal shares when saturated.
def test_a_mask_that_covers_everything() -> None:
    nodes = [helper.make_node("Add", ["x", "mask"], ["y"]), helper.make_node("Softmax", ["y"], ["s"])]
    x = np.arange(8, dtype=F32)[None]
    model = model_of(nodes, {"x": x}, ["s"], constants={"mask": np.full((1, 8), -np.inf, F32)})
    with np.errstate(invalid="ignore"):
        assert np.isnan(run(model, x, auto_cast="all", auto_cast_type="fp16")["s"]).all()
        outputs = run(model, x, auto_cast="all", auto_cast_type="fp16", saturate_infinity=True)
    np.testing.assert_allclose(outputs["s"], np.full((1, 8), 0.125), rtol=1e-3)


# Multiplied values too: an infinite operand would make NaN of the zeros it meets.
def test_products_of_saturated_values() -> None:
    w = np.array([[1.0, 0.0], [0.0, 1.0]], F32)
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": w}, ["y"], constants={"w": w})
    x = np.array([[np.inf, 2.0], [-1e30, 3.0]], F32)
    options = {"auto_cast": "matmult", "auto_cast_type": "fp16"}
    assert not np.isfinite(run(model, x, **options)["y"]).all()
    np.testing.assert_array_equal(run(model, x, **options, saturate_infinity=True)["y"], [[65504, 2], [-65504, 3]])


def test_command_line(tmp_path: Path) -> None:
    onnx.save(casts(), tmp_path / "m.onnx")
    neff = tmp_path / "m.neff"
    done = run_in_process(main, ["compile", str(tmp_path / "m.onnx"), "-o", str(neff), "--enable-saturate-infinity"])
    assert done.exit_code == 0, done.stderr
    assert read_neff(neff).report["saturate_infinity"] is True
    np.testing.assert_array_equal(Session(read_neff(neff)).run({"x": X}).outputs["half"][0, 4:6], [65504, -65504])
