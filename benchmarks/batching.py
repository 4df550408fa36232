"""Batches of exported models: a file of one sample becomes a file of many, and is compared with the single one.

Exporters write a batch of one into constants as well as into the inputs. `set_batch` finds them by what they are used
for: the leading 1 of a shape, a constant that is joined to a sample, the index of the sample in a gather. Other uses of
the same constant keep it. `compare_batch` then runs both files, so that a model whose batch is written anywhere else is
refused instead of measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neuron_dialects.errors import NeuronError
from runtime.reference import errors, run_onnxruntime

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, np.dtype[Any]]
TOLERANCE = 1e-4
"""rel_l2_error between a sample of a batch and the sample alone: float32 sums in another order."""
_SHAPE_STEPS: Mapping[str, tuple[int, ...]] = {
    "Where": (0, 1, 2), "Equal": (0, 1), "Concat": (0,), "Cast": (0,), "Identity": (0,),
}  # fmt: skip
"""Operator -> its inputs in which the first element of a shape is the first element of the output's."""
_INDEX_STEPS: Mapping[str, tuple[int, ...]] = {
    "Add": (0, 1), "Mul": (0, 1), "Cast": (0,), "Identity": (0,), "Expand": (0,), "Unsqueeze": (0,), "Concat": (0,),
}  # fmt: skip
"""Operator -> its inputs in which the index of the sample may be on the way to a gather's indices."""


class Unbatched(Exception):
    """A model that cannot be given a batch; the message says why."""


def samples(value: Array, batch: int, axis: int = 0) -> Array:
    """`batch` different samples from one, along `axis`: its values, shifted along the last axis, or the first."""
    along = 0 if axis == value.ndim - 1 else value.ndim - 1
    return np.concatenate([np.roll(value, index, axis=along) for index in range(batch)], axis)


def set_batch(source: Path, path: Path, batch: int, axis: int = 0) -> None:
    """Write a model whose inputs have a dimension of 1 along `axis` with one of `batch`.

    External weights stay where they are. `Unbatched` when the shapes do not fit afterwards.
    """
    import onnx
    from onnx import shape_inference

    model = onnx.load(str(source), load_external_data=False)
    if axis == 0:
        _Constants(model.graph, batch).rewrite()
    given = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in given:
            value.type.tensor_type.shape.dim[axis].dim_value = batch
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[0]
        raise Unbatched(f"{source.stem} has its batch written into it: {reason}") from error
    path.write_bytes(model.SerializeToString())


def compare_batch(source: Path, path: Path, inputs: Mapping[str, Array], axis: int = 0) -> None:
    """Run the batched file, and the single one on the first and the last sample.

    `Unbatched` where the batched file cannot run, or outputs differ.
    """
    try:
        together = run_onnxruntime(path, inputs)
    except NeuronError as error:
        raise Unbatched(f"{source.stem} has its batch written into it: {error.message.splitlines()[0]}") from error
    batch = next(iter(inputs.values())).shape[axis]
    for index in (0, batch - 1):
        alone = run_onnxruntime(source, {name: value.take([index], axis) for name, value in inputs.items()})
        for name, expected in alone.items():
            whole = together[name]
            if whole.shape != (*expected.shape[:axis], batch, *expected.shape[axis + 1 :]):
                shapes = f"{list(whole.shape)} for {batch} times {list(expected.shape)}"
                raise Unbatched(f"{source.stem} has its batch written into it: {name} is {shapes}")
            error = errors(whole.take([index], axis), expected)["rel_l2_error"]
            if not error <= TOLERANCE:
                reason = f"sample {index} of {name} differs by {error:.2g} from the sample alone"
                raise Unbatched(f"{source.stem} has its batch written into it: {reason}")


class _Constants:
    """The constants of a graph of one sample, replaced use by use."""

    def __init__(self, graph: onnx.GraphProto, batch: int) -> None:
        import onnx

        self.graph, self.batch = graph, batch
        self.producers = {name: node for node in graph.node for name in node.output}
        self.tensors = {t.name: t for t in graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.tensors[node.output[0]] = node.attribute[0].t
        weights = {tensor.name for tensor in graph.initializer}
        self.varying = {value.name for value in graph.input if value.name not in weights}
        for node in graph.node:
            if self.varying.intersection(node.input):
                self.varying.update(node.output)

    def rewrite(self) -> None:
        """Replace every constant that holds the batch."""
        for node in list(self.graph.node):
            attributes = {a.name: a.i for a in node.attribute}
            varies = node.input and node.input[0] in self.varying
            if node.op_type == "Expand" or (node.op_type == "Reshape" and varies):
                self._set_shape(node, 1)
            elif node.op_type == "Concat" and attributes["axis"] != 0 and self.varying.intersection(node.input):
                self._repeat(node)
            elif varies and (
                (node.op_type == "Gather" and attributes.get("axis", 0) == 0)
                or (node.op_type == "GatherND" and attributes.get("batch_dims", 0) == 0)
            ):
                self._set_index(node, 1)

    def _value(self, name: str) -> Array | None:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.tensors[name]) if name in self.tensors else None

    def _replace(self, node: onnx.NodeProto, position: int, value: Array) -> None:
        from onnx import numpy_helper

        name = f"{node.input[position]}.batch.{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        node.input[position] = name

    def _set_shape(self, node: onnx.NodeProto, position: int, *, piece: bool = False) -> None:
        """Let a shape begin with the batch where it begins with 1, or with as many times the rows of a sample where
        every dimension that a Reshape makes is written down; a `piece` of a shape may be one element.
        """
        name = node.input[position]
        value, producer = self._value(name), self.producers.get(name)
        if value is not None:
            whole = not piece and node.op_type == "Reshape" and bool((value > 0).all())
            if value.ndim == 1 and value.size > (0 if piece else 1) and (whole or value[0] == 1):
                self._replace(node, position, np.concatenate([value[:1] * self.batch, value[1:]]))
        elif producer is not None:
            for step in _SHAPE_STEPS.get(producer.op_type, ()):
                self._set_shape(producer, step, piece=piece or producer.op_type == "Concat")

    def _set_index(self, node: onnx.NodeProto, position: int) -> None:
        """Let a lone index 0 with a leading dimension of its own count the samples."""
        name = node.input[position]
        value, producer = self._value(name), self.producers.get(name)
        if value is not None:
            if value.ndim > 1 and value.size == 1 and value.dtype.kind == "i" and not value.any():
                self._replace(node, position, np.arange(self.batch, dtype=value.dtype).reshape(-1, *value.shape[1:]))
        elif producer is not None:
            for step in _INDEX_STEPS.get(producer.op_type, ()):
                self._set_index(producer, step)

    def _repeat(self, node: onnx.NodeProto) -> None:
        """Join a constant to every sample, not to the first alone."""
        for position, name in enumerate(node.input):
            value = self._value(name)
            if value is not None and value.ndim > 1 and len(value) == 1:
                self._replace(node, position, np.repeat(value, self.batch, axis=0))
