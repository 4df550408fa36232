"""Constants of a graph: its initializers, inside the model file or outside it."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import onnx.numpy_helper
from onnx import GraphProto, SparseTensorProto, TensorProto

from lowering.onnx_to_graph.model_file import add_external_initializer, is_external
from lowering.onnx_to_graph.values import Array, Constant, HostConstant, Value, readonly
from neuron_dialects.dtypes import DType, dtype_of_onnx
from neuron_dialects.errors import NeuronError
from neuron_dialects.weights import WeightStore

MAX_DENSE_ELEMENTS = 2**31
"""Largest sparse weight that is made dense."""


def initializers(graph: GraphProto, folder: Path | None, prefix: str = "") -> dict[str, Value]:
    """The initializers of a graph by name; nothing is read yet, external data are memory-mapped.

    `folder` is that of the model file; `prefix` stands in front of the names of the weights. NeuronError when data are
    missing or do not fit their shape.
    """
    files = WeightStore()
    result: dict[str, Value] = {}
    for tensor in graph.initializer:
        dtype = dtype_of_onnx(tensor.data_type)
        if dtype is None:
            result[tensor.name] = HostConstant(tensor)
            continue
        if is_external(tensor):
            add_external_initializer(files, tensor, folder)
            read: Callable[[], Array] = _reader(files, tensor.name)
        else:
            _check_size(tensor, dtype)
            read = _decoder(tensor, dtype)
        result[tensor.name] = Constant(f"{prefix}{tensor.name}", dtype, tuple(tensor.dims), read)
    for sparse in graph.sparse_initializer:
        result[sparse.values.name] = _dense(sparse, prefix)
    return result


def _reader(files: WeightStore, name: str) -> Callable[[], Array]:
    return lambda: files.get(name)


def _decoder(tensor: TensorProto, dtype: DType) -> Callable[[], Array]:
    return lambda: readonly(onnx.numpy_helper.to_array(tensor).astype(dtype.numpy, copy=False))


def _check_size(tensor: TensorProto, dtype: DType) -> None:
    """NeuronError unless raw data have as many bytes as shape and element type need."""
    expected = prod(tensor.dims) * dtype.size_bytes
    if any(dim < 0 for dim in tensor.dims):
        raise NeuronError("NX-WEIGHT-004", f"weight '{tensor.name}' has the impossible shape {list(tensor.dims)}")
    if tensor.HasField("raw_data"):
        have = len(tensor.raw_data)
    else:
        values = max(map(len, (tensor.float_data, tensor.double_data, tensor.int32_data, tensor.int64_data)))
        have = max(values, len(tensor.uint64_data)) * dtype.size_bytes
    if have != expected:
        raise NeuronError(
            "NX-WEIGHT-004", f"weight '{tensor.name}' has {have} bytes of data but its shape needs {expected}"
        )


def _dense(sparse: SparseTensorProto, prefix: str) -> Constant:
    """A sparse initializer as a dense constant, filled in when it is read."""
    dtype = dtype_of_onnx(sparse.values.data_type)
    if dtype is None:
        raise NeuronError("NX-WEIGHT-004", f"sparse weight '{sparse.values.name}' has an unsupported element type")
    shape = tuple(sparse.dims)
    name = sparse.values.name
    if any(dim < 0 for dim in shape) or prod(shape) > MAX_DENSE_ELEMENTS:
        raise NeuronError("NX-WEIGHT-004", f"sparse weight '{name}' has the impossible shape {list(shape)}")

    def read() -> Array:
        dense = np.zeros(prod(shape), dtype.numpy)
        try:
            indices = onnx.numpy_helper.to_array(sparse.indices)
            flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
            dense[flat] = onnx.numpy_helper.to_array(sparse.values)
        except (IndexError, ValueError) as error:
            raise NeuronError("NX-WEIGHT-004", f"sparse weight '{name}' is malformed: {error}") from error
        return readonly(dense.reshape(shape))

    return Constant(f"{prefix}{name}", dtype, shape, read)
