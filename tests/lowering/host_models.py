"""What the tests of host models share: running a model in onnxruntime, and comparing with the graph interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnxruntime
from xdsl.dialects.builtin import TensorType
from xdsl.dialects.func import FuncOp

from lowering.nisa_to_neff.host_model import host_model_bytes
from neuron_dialects.dtypes import DType, dtype_of_or_none
from runtime.graph_interpreter import run_graph
from tests.graph_level import Array, assert_close, build, no_weights, random_array

TOLERANCE = {"float32": 2e-6, "float64": 1e-12, "float16": 1e-3, "bfloat16": 8e-3}
"""By element type, relative to the largest magnitude: about one unit in the last place, for results rounded once."""


def values(dtype: DType, *shape: int, seed: int = 0) -> Array:
    """Random values of a friendly size."""
    return random_array(dtype, shape, np.random.default_rng(seed))


def run_model(function: FuncOp, inputs: Sequence[Any], weights: Callable[[str], Array] = no_weights) -> list[Any]:
    """The results of a host function's model: what numpy has no type for enters and leaves as f32."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    data = host_model_bytes(function, weights)
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    fed = [_fed(value) for value in inputs]
    assert [value.name for value in session.get_inputs()] == [f"in{position}" for position in range(len(inputs))]
    results = session.run(None, {f"in{position}": value for position, value in enumerate(fed)})
    types = function.function_type.outputs.data
    assert [value.name for value in session.get_outputs()] == [f"out{position}" for position in range(len(types))]
    dtypes = [dtype_of_or_none(type_) if isinstance(type_, TensorType) else None for type_ in types]
    return [
        np.asarray(value).astype(dtype.numpy) if dtype is not None and dtype.numpy.isbuiltin != 1 else value
        for value, dtype in zip(results, dtypes, strict=True)
    ]


def _fed(value: Any) -> Any:
    is_extension = isinstance(value, np.ndarray) and value.dtype.isbuiltin != 1
    return value.astype(np.float32) if is_extension else value


def check_same(
    function: FuncOp,
    inputs: Sequence[Any],
    weights: Callable[[str], Array] = no_weights,
    *,
    tolerance: float | None = None,
) -> list[Any]:
    """The model of a function gives what the graph interpreter gives; returns that."""
    expected = run_graph(function, inputs, weights)
    actual = run_model(function, inputs, weights)
    assert len(actual) == len(expected)
    for have, want in zip(actual, expected, strict=True):
        allowed = TOLERANCE.get(str(want.dtype), 0.0) if tolerance is None else tolerance
        assert_close(np.asarray(have), want, allowed)
    return actual


def check(make: Callable[..., Any], *inputs: Array, tolerance: float | None = None) -> None:
    """As `check_same`, for the function of the operators that `make` builds on arguments like `inputs`."""
    check_same(build(make, inputs), inputs, tolerance=tolerance)
