"""Whole models for numeric tests: where they are, their inputs, and compiled results that tests share."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from lowering.compiler import CompileOptions, CompileResult, compile_model
from runtime.reference import errors, rounded, rounded_model, run_onnxruntime
from runtime.session import Session

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "models"
"""Test data beside the clone; tests that need it are skipped without it."""

SHIPPED = ROOT / "tests" / "models"
Array = np.ndarray[Any, np.dtype[Any]]

CAST_TOLERANCE = 3e-2
EXACT_TOLERANCE = 1e-4


def model_path(name: str) -> Path:
    """The model's file: shipped with the project, or beside it."""
    shipped = SHIPPED / f"{name}.onnx"
    return shipped if shipped.is_file() else SHARED / f"{name}.onnx"


def model_inputs(path: Path) -> dict[str, Array]:
    """The inputs stored beside a model."""
    with np.load(path.with_name(f"{path.stem}.inputs.npz"), allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def compile_for_inputs(path: Path, inputs: dict[str, Array], **options: Any) -> CompileResult:
    """Compile with every input's shape bound."""
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    return compile_model(path, CompileOptions(input_shapes=shapes, **options))


@functools.cache
def expected_outputs(path: Path) -> dict[str, Array]:
    """onnxruntime's outputs, without graph optimisation."""
    return run_onnxruntime(path, model_inputs(path))


@functools.cache
def floor_errors(path: Path, dtype: str) -> dict[str, float]:
    """onnxruntime's own error when weights and inputs are rounded to `dtype`."""
    inputs = {n: rounded(v, dtype) if v.dtype == np.float32 else v for n, v in model_inputs(path).items()}
    near = run_onnxruntime(rounded_model(path, dtype), inputs)
    return {name: errors(value, expected_outputs(path)[name])["rel_l2_error"] for name, value in near.items()}


def run_errors(path: Path, result: CompileResult) -> dict[str, float]:
    """rel_l2_error of each output of the compiled model on its stored inputs."""
    assert result.neff is not None
    outputs = Session(result.neff).run(model_inputs(path)).outputs
    return {name: errors(value, expected_outputs(path)[name])["rel_l2_error"] for name, value in outputs.items()}
