"""Real architectures from ONNX to numbers: every heavy op on the core, errors within the cast's budget."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.numerics.models import (
    CAST_TOLERANCE,
    EXACT_TOLERANCE,
    SHARED,
    compile_for_inputs,
    floor_errors,
    model_inputs,
    model_path,
    run_errors,
)

MODELS = (
    "digits_cnn", "mnist_mlp", "lenet5", "resnet50", "resnet50_bn", "vgg16", "squeezenet1_1", "mobilenet_v2",
    "densenet121", "unet", "bert_base", "distilbert", "vit_base_16", "gpt2_prefill",
)  # fmt: skip
HEAVY = ("matmul", "conv", "conv_transpose")


def _path(name: str) -> Path:
    path = model_path(name)
    if not path.is_file():
        pytest.skip(f"{name}.onnx is not beside the clone")
    return path


def _check_heavy_on_core(report: dict[str, Any]) -> None:
    heavy = [row for row in report["partition"] if row["op"].removeprefix("graph.") in HEAVY]
    assert heavy
    assert all(row["where"] == "core" for row in heavy), [row for row in heavy if row["where"] != "core"]


@pytest.mark.parametrize("name", MODELS)
def test_without_casts_on_trn1(name: str) -> None:
    path = _path(name)
    result = compile_for_inputs(path, model_inputs(path), target="trn1", auto_cast="none")
    _check_heavy_on_core(result.report)
    for output, error in run_errors(path, result).items():
        assert error <= EXACT_TOLERANCE, (output, error)


@pytest.mark.parametrize("target", ["inf1", "trn1"])
@pytest.mark.parametrize("name", MODELS)
def test_with_default_casts(name: str, target: str) -> None:
    path = _path(name)
    result = compile_for_inputs(path, model_inputs(path), target=target)
    _check_heavy_on_core(result.report)
    floors = floor_errors(path, "bf16")
    for output, error in run_errors(path, result).items():
        assert error <= max(CAST_TOLERANCE, 3 * floors[output]), (output, error, floors[output])


# The published size, its weights filled by the script beside it.
@pytest.mark.slow
def test_full_size_resnet50(tmp_path: Path) -> None:
    source = SHARED / "full" / "resnet50.onnx"
    if not source.is_file():
        pytest.skip("the full-size models are not beside the clone")
    script = SHARED / "full" / "fill_weights.py"
    subprocess.run([sys.executable, str(script), "resnet50", "--out", str(tmp_path)], check=True, capture_output=True)
    path = tmp_path / "resnet50.onnx"
    shutil.copy(source.with_name("resnet50.inputs.npz"), tmp_path)
    result = compile_for_inputs(path, model_inputs(path), target="trn1")
    _check_heavy_on_core(result.report)
    floors = floor_errors(path, "bf16")
    for output, error in run_errors(path, result).items():
        assert error <= max(CAST_TOLERANCE, 3 * floors[output]), (output, error, floors[output])
