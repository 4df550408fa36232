"""What `neuron-reduce` removes from an ONNX model: its nodes.

A tensor whose node is cut becomes an input of the type that it had; a small integer tensor (a shape, indices) becomes a
constant of the value that it had on random inputs, since nodes behind it may need to know it. A node that is bypassed
passes on an operand of its result's type. Results that nobody uses any more are the outputs, so that nothing that is
left is dead. Initializers and inputs that nobody reads go.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper, numpy_helper

from lowering.onnx_to_graph.host import captured_names
from neuron_dialects.errors import NeuronError
from tools.reduce.search import Choice, Fate

Array = np.ndarray[Any, np.dtype[Any]]

MAX_MODEL_BYTES = 2**31 - 1
"""Candidates are written as one protobuf message."""
MAX_CONSTANT_ELEMENTS = 1024
"""Largest integer tensor that becomes a constant."""


class OnnxParts:
    """The nodes of a model.

    Args:
        path: the model file.
        shapes: shapes of inputs, bound before anything else.

    NeuronError NX-ONNX-001 for a file that is no model, NX-ONNX-008 for one that does not fit one message.
    """

    suffix = ".onnx"

    def __init__(self, path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> None:
        try:
            self._model = onnx.load(str(path))
        except OSError:
            raise
        except Exception as error:  # protobuf's exception classes differ between its implementations
            raise NeuronError("NX-ONNX-001", f"{path} is not an ONNX model") from error
        if self._model.ByteSize() > MAX_MODEL_BYTES:
            raise NeuronError("NX-ONNX-008", f"{self._model.ByteSize()} bytes, limit {MAX_MODEL_BYTES}")
        for value in self._model.graph.input:
            if value.name in (shapes or {}):
                _set_shape(value, (shapes or {})[value.name])
        graph = self._model.graph
        self._nodes = list(graph.node)
        self._types = _inferred_types(self._model)
        self._constants: dict[str, Array] = {}
        self._measure()

    def __len__(self) -> int:
        return len(self._nodes)

    def write(self, choice: Choice, path: Path) -> bool:
        """Write the model of a choice; False when there is none, for want of a type."""
        model = self._built(choice)
        if model is None:
            return False
        path.write_bytes(model.SerializeToString(deterministic=True))
        return True

    def bypassable(self, part: int) -> bool:
        """Whether a node has an operand of its result's type."""
        return self._passed_on(self._nodes[part]) is not None

    def described(self, choice: Choice) -> list[str]:
        """The operators that are left."""
        kept = sorted(n for n, fate in choice.items() if fate is Fate.KEPT)
        return [self._nodes[n].op_type for n in kept]

    def _measure(self) -> None:
        """Values of integer tensors, and types that inference does not know, from a run on random inputs."""
        from runtime.reference import run_intermediates

        names = [name for node in self._nodes for name in node.output if name]
        wanted = [name for name in names if name not in self._types or _is_small_integer(self._types[name])]
        inputs = _random_inputs(self._model.graph)
        if not wanted or inputs is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            path.write_bytes(self._model.SerializeToString())
            try:
                values = run_intermediates(path, inputs, wanted)
            except NeuronError:
                # A model that does not run can be reduced all the same, with fewer places to cut.
                return
        for name, value in values.items():
            data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
            self._types.setdefault(name, helper.make_tensor_type_proto(data_type, value.shape))
            if value.dtype.kind in "iub" and value.size <= MAX_CONSTANT_ELEMENTS:
                self._constants[name] = value

    def _built(self, choice: Choice) -> ModelProto | None:
        aliases: dict[str, str] = {}
        nodes: list[NodeProto] = []
        for number in sorted(choice):
            node = NodeProto()
            node.CopyFrom(self._nodes[number])
            node.input[:] = [aliases.get(name, name) for name in node.input]
            operand = self._passed_on(node) if choice[number] is Fate.BYPASSED else None
            if operand is not None:
                aliases[node.output[0]] = operand
            else:
                nodes.append(node)
        return self._model_of(nodes)

    def _passed_on(self, node: NodeProto) -> str | None:
        """The operand of a node that has the type of its only result."""
        results = [name for name in node.output if name]
        if len(results) != 1 or results[0] != node.output[0] or results[0] not in self._types:
            return None
        wanted = self._types[results[0]]
        return next((name for name in node.input if self._types.get(name) == wanted), None)

    def _model_of(self, nodes: Sequence[NodeProto]) -> ModelProto | None:
        graph = self._model.graph
        read = dict.fromkeys(name for node in nodes for name in _names_read(node))
        made = {name for node in nodes for name in node.output if name}
        initializers = [tensor for tensor in graph.initializer if tensor.name in read]
        known = {tensor.name for tensor in initializers} | made
        own = {value.name: value for value in graph.input}
        inputs: list[ValueInfoProto] = []
        for name in read:
            if name in known:
                continue
            if name in own:
                inputs.append(own[name])
            elif name in self._constants:
                initializers.append(numpy_helper.from_array(self._constants[name], name))
            elif name in self._types:
                inputs.append(helper.make_value_info(name, self._types[name]))
            else:
                return None
        wanted = {value.name for value in graph.output}
        outputs = [name for node in nodes for name in node.output if name and (name in wanted or name not in read)]
        if not outputs or any(name not in self._types for name in outputs):
            return None
        values = [helper.make_value_info(name, self._types[name]) for name in outputs]
        model = ModelProto()
        model.CopyFrom(self._model)
        model.graph.CopyFrom(helper.make_graph(nodes, graph.name or "reduced", inputs, values, initializers))
        return model


def _names_read(node: NodeProto) -> Iterator[str]:
    """The tensors that a node reads, those that its subgraphs take from outside too."""
    yield from (name for name in node.input if name)
    yield from captured_names(node)


def _inferred_types(model: ModelProto) -> dict[str, TypeProto]:
    """Tensor -> type, where its element type and rank are known."""
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    types = {value.name: value.type for value in (*graph.value_info, *graph.input, *graph.output)}
    for tensor in model.graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    return {name: type_ for name, type_ in types.items() if _is_known(type_)}


def _is_known(type_: TypeProto) -> bool:
    tensor = type_.tensor_type
    sizes = all(dimension.HasField("dim_value") for dimension in tensor.shape.dim)
    return type_.HasField("tensor_type") and bool(tensor.elem_type) and tensor.HasField("shape") and sizes


def _is_small_integer(type_: TypeProto) -> bool:
    sizes = [dimension.dim_value for dimension in type_.tensor_type.shape.dim]
    kind = helper.tensor_dtype_to_np_dtype(type_.tensor_type.elem_type).kind
    return kind in "iub" and int(np.prod(sizes, dtype=np.int64)) <= MAX_CONSTANT_ELEMENTS


def _set_shape(value: ValueInfoProto, shape: Sequence[int]) -> None:
    value.type.tensor_type.ClearField("shape")
    for size in shape:
        value.type.tensor_type.shape.dim.add().dim_value = size


def _random_inputs(graph: GraphProto) -> dict[str, Array] | None:
    """Values for the inputs; None when one is not of a known shape."""
    stored = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for value in graph.input:
        if value.name in stored:
            continue
        if not _is_known(value.type):
            return None
        shape = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        drawn = rng.integers(0, 2, shape) if dtype.kind in "iub" else rng.standard_normal(shape)
        inputs[value.name] = np.asarray(drawn).astype(dtype)
    return inputs
