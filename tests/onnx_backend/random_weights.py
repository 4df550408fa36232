"""The light models of ONNX's suite with seeded random weights in place of their constant ones.

All weights of a light model are one number, and its expected outputs hold one number too: swapped channels, turned
filters and wrong pads go unseen. `randomised` is given such a model and leaves one whose weights differ, scaled so that
values keep their size from layer to layer, and whose logits have a spread that softmax shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from runtime.reference import run_onnxruntime

Array = np.ndarray[Any, np.dtype[Any]]
LOGIT_SPREAD = 2.0
"""Standard deviation of what enters the final softmax."""


def light_model(name: str) -> ModelProto:
    """A light model by the suite's name for its case, `test_squeezenet`."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return onnx.load(str(folder / f"light_{name.removeprefix('test_')}.onnx"))


def image_for(model: ModelProto) -> dict[str, Array]:
    """A random input for the model."""
    constants = {tensor.name for tensor in model.graph.initializer}
    rng = np.random.default_rng(1)
    return {
        value.name: rng.standard_normal([d.dim_value for d in value.type.tensor_type.shape.dim]).astype(np.float32)
        for value in model.graph.input
        if value.name not in constants
    }


def randomised(model: ModelProto, inputs: Mapping[str, Array]) -> ModelProto:
    """The model with random weights, and its logits scaled for these inputs."""
    result = ModelProto()
    result.CopyFrom(model)
    result.ir_version = max(model.ir_version, 4)  # weights need not be inputs any more
    graph = result.graph
    shapes = _filled_shapes(result)
    uses = {name: (node, index) for node in graph.node for index, name in enumerate(node.input)}
    rng = np.random.default_rng(0)
    random = {name: _weight(rng, shape, *uses[name]) for name, shape in shapes.items() if name in uses}
    kept = [node for node in graph.node if not any(name in random for name in node.output)]
    others = [tensor for tensor in graph.initializer if tensor.name not in random]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(others)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in random.items())
    _scale_logits(result, inputs)
    return result


def _filled_shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights: floats among the initializers, and what ConstantOfShape makes."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = {
        name: tuple(tensor.dims) for name, tensor in tensors.items() if tensor.data_type == onnx.TensorProto.FLOAT
    }
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in tensors:
            shapes[node.output[0]] = tuple(numpy_helper.to_array(tensors[node.input[0]]).tolist())
    return shapes


def _weight(rng: np.random.Generator, shape: tuple[int, ...], node: NodeProto, index: int) -> Array:
    """A weight for its place: filters by the number of terms in a sum, variances positive, the rest near its middle."""
    normal: Callable[[float], Array] = lambda spread: spread * rng.standard_normal(shape)  # noqa: E731
    if node.op_type == "BatchNormalization":
        values = rng.uniform(0.5, 1.5, shape) if index in (1, 4) else normal(0.1)
    elif node.op_type in ("Conv", "Gemm", "MatMul") and index == 1:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        terms = prod(shape[1:]) if node.op_type == "Conv" or transposed else shape[0]
        values = normal(float(np.sqrt(2 / terms)))
    elif node.op_type == "Mul":
        values = rng.uniform(0.5, 1.5, shape)
    else:
        values = normal(0.1)
    return np.asarray(values, np.float32)


def _scale_logits(model: ModelProto, inputs: Mapping[str, Array]) -> None:
    """Multiply what enters the last Softmax, if there is one, so that it has the spread wanted."""
    graph = model.graph
    position = max((i for i, node in enumerate(graph.node) if node.op_type == "Softmax"), default=None)
    if position is None:
        return
    softmax = graph.node[position]
    logits = softmax.input[0]
    shown = ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.add(name=logits)
    spread = float(run_onnxruntime(shown.SerializeToString(), inputs)[logits].std())
    graph.initializer.append(numpy_helper.from_array(np.array([LOGIT_SPREAD / spread], np.float32), "logit_scale"))
    softmax.input[0] = "scaled_logits"
    graph.node.insert(position, helper.make_node("Mul", [logits, "logit_scale"], ["scaled_logits"], name="logit_scale"))
