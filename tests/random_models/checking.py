"""What a random model is compiled for, and the comparison of its outputs with onnxruntime's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.target import load_target
from runtime.races import check_races
from runtime.reference import errors, run_onnxruntime
from runtime.session import Session
from tests.random_models.builder import Array

TOLERANCES = {"none": 1e-4, "matmult": 3e-2}
"""Largest rel_l2_error of an output for each way of casting."""
HALF_TOLERANCE = 5e-3
"""Where a model has f16 values: onnxruntime rounds between other operators than we do."""


@dataclass(frozen=True)
class Example:
    """A model with its inputs, and what it is compiled for."""

    model: ModelProto
    feeds: dict[str, Array]
    target: str
    auto_cast: str
    check_races: bool

    def __repr__(self) -> str:
        return f"Example({self.target}, {self.auto_cast}, races={self.check_races})\n{onnx.printer.to_text(self.model)}"


def check(example: Example) -> None:
    """The compiled model computes what onnxruntime computes; some are checked for races too."""
    options = CompileOptions(example.target, example.auto_cast)
    neff = compile_model(example.model, options).neff
    assert neff is not None
    outputs = Session(neff).run(example.feeds).outputs
    expected = run_onnxruntime(example.model.SerializeToString(), example.feeds)
    assert list(outputs) == list(expected)
    half = has_f16_values(example, *expected.values())
    tolerance = max(TOLERANCES[example.auto_cast], HALF_TOLERANCE if half else 0.0)
    for name, want in expected.items():
        have = outputs[name]
        assert (have.dtype, have.shape) == (want.dtype, want.shape), name
        if want.dtype.kind == "f":
            error = errors(have, want)["rel_l2_error"]
            assert error <= tolerance, f"{name}: rel_l2_error {error:.3g}"
        else:
            np.testing.assert_array_equal(have, want, name)
    if example.check_races:
        for image in neff.subgraphs:
            assert check_races(image.program, load_target(example.target)) == []


def has_f16_values(example: Example, *outputs: Array) -> bool:
    """Whether a model reads, computes or gives f16 values."""
    return "float16" in {array.dtype.name for array in (*example.feeds.values(), *outputs)} or any(
        type_.elem_type == onnx.TensorProto.FLOAT16 for type_ in _value_types(example.model)
    )


def _value_types(model: ModelProto) -> list[Any]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return [value.type.tensor_type for value in (*inferred.input, *inferred.value_info, *inferred.output)]
