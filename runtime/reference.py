"""Expected outputs: onnxruntime on the original model, without graph optimisation, and how far rounding alone takes it.

onnxruntime's fusions change results, so they are off. The floor of a 16-bit compilation is onnxruntime's own error when
the model's weights and inputs are rounded to the cast type: no compiler that multiplies in that type can promise less.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from runtime.semantics.numerics import round_to_tf32

Array = np.ndarray[Any, np.dtype[Any]]
MAX_MODEL_BYTES = 2**31 - 1
"""Largest protobuf message."""


def run_onnxruntime(model: str | Path | bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the model by name; a model that onnxruntime has no kernels for runs on ONNX's reference evaluator.

    NeuronError NX-RUN-011 when an input is missing, NX-RUN-020 when neither can run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        source = model if isinstance(model, bytes) else str(model)
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        results = session.run(None, {i.name: inputs[i.name] for i in session.get_inputs()})
    except KeyError as error:
        raise NeuronError("NX-RUN-011", f"input {error} of the reference model is missing") from error
    except Exception as error:
        return _run_evaluator(model, inputs, _first_line(error))
    return {o.name: np.asarray(value) for o, value in zip(session.get_outputs(), results, strict=True)}


def run_intermediates(model: str | Path, inputs: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
    """Tensors inside of a model by name, from onnxruntime without graph optimisation; those that it does not have, or
    that are no arrays of numbers, are left out.

    NeuronError NX-RUN-011 when an input is missing, NX-RUN-020 when onnxruntime cannot run the model.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(Path(model).parent))
    try:
        loaded = onnx.load(str(model), load_external_data=False)
        made = {name for node in loaded.graph.node for name in node.output}
        asked = [name for name in dict.fromkeys(names) if name in made]
        del loaded.graph.output[:]
        loaded.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked)
        session = onnxruntime.InferenceSession(loaded.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(asked, {i.name: inputs[i.name] for i in session.get_inputs()})
    except KeyError as error:
        raise NeuronError("NX-RUN-011", f"input {error} of the reference model is missing") from error
    except Exception as error:
        raise NeuronError("NX-RUN-020", f"onnxruntime cannot run the reference model: {_first_line(error)}") from error
    return {n: value for n, value in zip(asked, results, strict=True) if isinstance(value, np.ndarray)}


def _run_evaluator(model: str | Path | bytes, inputs: Mapping[str, Array], refusal: str) -> dict[str, Array]:
    """The same on the reference evaluator; `refusal` is why onnxruntime did not."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    try:
        loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
        evaluator: Any = ReferenceEvaluator(loaded)
        results = evaluator.run(None, {name: inputs[name] for name in evaluator.input_names})
    except Exception as error:
        raise NeuronError("NX-RUN-020", f"onnxruntime cannot run the reference model: {refusal}") from error
    return {name: np.asarray(value) for name, value in zip(evaluator.output_names, results, strict=True)}


def rounded(array: Array, dtype: str) -> Array:
    """Values rounded to an element type and back; tf32 keeps 10 bits of mantissa."""
    if dtype == "tf32":
        return round_to_tf32(array)
    with np.errstate(over="ignore"):
        return array.astype(dtype_by_name(dtype).numpy).astype(array.dtype)


def rounded_model(path: str | Path, dtype: str) -> bytes:
    """The model with every float32 initializer rounded to `dtype`, as bytes that onnxruntime takes.

    NeuronError NX-RUN-020 for a file that is no model, or a model that is too large to be passed in memory (2 GB).
    """
    import onnx
    from onnx import numpy_helper

    try:
        model = onnx.load(str(path))
    except Exception as error:  # protobuf's exception classes differ between its implementations
        raise NeuronError("NX-RUN-020", f"{path} is not an ONNX model: {_first_line(error)}") from error
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(rounded(values, dtype), tensor.name))
    if model.ByteSize() > MAX_MODEL_BYTES:
        raise NeuronError(
            "NX-RUN-020",
            f"the rounded reference model has {model.ByteSize()} bytes, limit {MAX_MODEL_BYTES}",
            help="compare with expected outputs in an .npz file",
        )
    return model.SerializeToString()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def errors(actual: Array, expected: Array) -> dict[str, float]:
    """max_abs_error and rel_l2_error: norm of the difference over the norm of the finite expected values.

    Equal infinities agree; a NaN in the difference makes both errors infinite. Values that are not numbers (texts) are
    equal, or infinitely far apart.
    """
    if "O" in (actual.dtype.kind, expected.dtype.kind) or "U" in (actual.dtype.kind, expected.dtype.kind):
        distance = 0.0 if np.array_equal(actual, expected) else float("inf")
        return {"max_abs_error": distance, "rel_l2_error": distance}
    a, e = actual.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        difference = np.where(a == e, 0.0, np.abs(a - e))
    if np.isnan(difference).any():
        return {"max_abs_error": float("inf"), "rel_l2_error": float("inf")}
    norm = float(np.linalg.norm(e[np.isfinite(e)]))
    distance = float(np.linalg.norm(difference))
    relative = distance / norm if norm else (0.0 if distance == 0 else float("inf"))
    return {"max_abs_error": float(difference.max(initial=0.0)), "rel_l2_error": relative}
