"""Reading and checking a model file, up to a ModelProto that the importer can walk.

Given a path or a ModelProto, this module leaves a checked model whose operator set is one that the converters know and
whose model-local functions are inlined; external data stays outside. Everything that can be wrong with the file is a
NeuronError.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.checker
import onnx.defs
import onnx.inliner
import onnx.version_converter
from google.protobuf.message import DecodeError
from onnx import FunctionProto, ModelProto, TensorProto, ValueInfoProto

from lowering.onnx_to_graph.limits import check_size
from lowering.onnx_to_graph.text_check import check_text
from neuron_dialects.dtypes import dtype_of_onnx
from neuron_dialects.errors import NeuronError
from neuron_dialects.weights import WeightStore

MAX_MODEL_BYTES = 2**31 - 1
"""Protobuf messages end here; larger models keep their tensors as external data."""
FIRST_DIRECT_OPSET = 7
"""From this version on elementwise operators broadcast as numpy does; older models are converted."""
CONVERTED_OPSET = 13
"""Version that older models are converted to."""
DEFAULT_DOMAINS = ("", "ai.onnx")
"""The two spellings of ONNX's own operator domain."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A checked model."""

    model: ModelProto
    folder: Path | None
    """Folder of the model file, for external data; None for a model that was given in memory."""
    original_opset: int


def load_model(source: str | os.PathLike[str] | ModelProto) -> LoadedModel:
    """Read, check and normalise a model.

    NeuronError: NX-ONNX-001 when the file is no ONNX model, 002 when it breaks a rule of ONNX, 003 when its versions
    are not supported, 008 when it is too large; NX-WEIGHT-001 or -004 when external data is missing or does not fit.
    """
    if isinstance(source, ModelProto):
        model, folder = source, None
    else:
        path = Path(source)
        model, folder = _read(path), path.parent
    opset = opset_versions(model).get("", 0)
    _check_versions(model, opset)
    check_size(model)
    check_text(model)
    _check(model, folder)
    if model.functions:
        model = _inlined(model)
    if 0 < opset < FIRST_DIRECT_OPSET:
        model = _converted(model)
    return LoadedModel(model, folder, opset)


def opset_versions(model: ModelProto | FunctionProto) -> dict[str, int]:
    """Domain -> version of its operator set; ONNX's own domain is ""."""
    return {
        "" if entry.domain in DEFAULT_DOMAINS else entry.domain: entry.version
        for entry in model.opset_import  # the last entry of a domain counts, as in onnx
    }


def _read(path: Path) -> ModelProto:
    """Parse a model file."""
    try:
        if not path.is_file():
            raise NeuronError("NX-ONNX-001", f"'{path}' is not a file")
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise NeuronError(
                "NX-ONNX-001",
                f"'{path.name}' has {size} bytes, more than the {MAX_MODEL_BYTES} that an ONNX file can have",
                help="save the model with its tensors as external data",
            )
        data = path.read_bytes()
    except OSError as error:
        raise NeuronError("NX-ONNX-001", f"'{path}' cannot be read: {error.strerror or error}") from error
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise NeuronError("NX-ONNX-001", f"'{path.name}' is not an ONNX model: it cannot be parsed") from error
    if not model.HasField("graph") or not model.opset_import:
        raise NeuronError("NX-ONNX-001", f"'{path.name}' is not an ONNX model: it has no graph or no operator set")
    return model


def _check_versions(model: ModelProto, opset: int) -> None:
    """Refuse what is newer than the onnx library that we parse and infer with."""
    newest_ir, newest_opset = int(onnx.IR_VERSION), onnx.defs.onnx_opset_version()
    if model.ir_version > newest_ir:
        raise NeuronError(
            "NX-ONNX-003",
            f"the model has IR version {model.ir_version}; the newest supported is {newest_ir}",
            help="export the model with an older version of onnx",
        )
    if opset > newest_opset:
        raise NeuronError(
            "NX-ONNX-003",
            f"the model uses version {opset} of the ONNX operators; the newest supported is {newest_opset}",
            help="export the model with an older opset_version",
        )


def is_external(tensor: TensorProto) -> bool:
    """Whether the tensor's data lie outside the model file."""
    return tensor.data_location == TensorProto.EXTERNAL


def _check(model: ModelProto, folder: Path | None) -> None:
    """Run onnx's checker, and check external data ourselves."""
    try:
        onnx.checker.check_model(_checkable(model, folder))
    except (onnx.checker.ValidationError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = lines[0] if lines else "the model is malformed"
        raise NeuronError("NX-ONNX-002", message, help="check how the model was exported") from error


def _checkable(model: ModelProto, folder: Path | None) -> ModelProto:
    """The model, or a copy without two things that onnx's checker is stricter about than the runtimes are.

    External initializers are emptied, after checking that their data exist and fit: the checker would look for the
    files by rules of its own. Inputs and outputs of unknown rank get a shape.
    """
    external = any(is_external(tensor) for tensor in model.graph.initializer)
    if not external and not any(_has_unknown_rank(value) for value in (*model.graph.input, *model.graph.output)):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    store = WeightStore()
    for tensor in copy.graph.initializer:
        if is_external(tensor):
            add_external_initializer(store, tensor, folder)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            tensor.dims[:] = [0]
            tensor.raw_data = b""
    for value in (*copy.graph.input, *copy.graph.output):
        if _has_unknown_rank(value):
            value.type.tensor_type.shape.SetInParent()
    return copy


def _has_unknown_rank(value: ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def add_external_initializer(store: WeightStore, tensor: TensorProto, folder: Path | None) -> None:
    """Add an initializer with external data to the store; NeuronError when the data are missing or do not fit."""
    if folder is None:
        raise NeuronError("NX-WEIGHT-001", f"weight '{tensor.name}' is external data, but the model is not in a file")
    dtype = dtype_of_onnx(tensor.data_type)
    if dtype is None:
        raise NeuronError(
            "NX-WEIGHT-004", f"weight '{tensor.name}' has element type {tensor.data_type} as external data"
        )
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries["length"]) if "length" in entries else None
    except ValueError as error:
        raise NeuronError(
            "NX-WEIGHT-001", f"weight '{tensor.name}' has an offset or length that is no number"
        ) from error
    store.add_external(
        tensor.name,
        dtype,
        tuple(tensor.dims),
        folder=folder,
        location=entries.get("location", ""),
        offset=offset,
        length=length,
    )


def _inlined(model: ModelProto) -> ModelProto:
    """The model with its local functions replaced by their bodies."""
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise NeuronError("NX-ONNX-002", f"the model's functions cannot be inlined: {error}") from error


def _converted(model: ModelProto) -> ModelProto:
    """The model in a newer opset; the model itself where onnx's converter cannot convert it.

    Not every old operator has an adapter. Then the converters and the host take the operators as they are.
    """
    try:
        return onnx.version_converter.convert_version(model, CONVERTED_OPSET)
    except Exception:  # the converter raises RuntimeError, ValidationError and others; it only improves what follows
        return model
