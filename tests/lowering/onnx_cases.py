"""Models of one node: how tests of the import write them down, and compare them with onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from tests.graph_level import Array
from tests.onnx_models import check_import, model_of, operators


def floats(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def positive(*shape: int) -> Array:
    return np.abs(floats(*shape)) + np.float32(0.5)


def ints(*shape: int, low: int = -9, high: int = 9, dtype: Any = np.int64, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def bools(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random(shape) < 0.5


def listed(*values: int) -> Array:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Case:
    """One node: its inputs (arrays fed at run time), its constant inputs by position, its attributes."""

    op_type: str
    inputs: Sequence[Array | None]
    constants: dict[int, Array] = field(default_factory=dict[int, Array])
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    opset: int = 18
    outputs: int = 1

    def __str__(self) -> str:
        shapes = "_".join("x".join(map(str, array.shape)) for array in self.inputs if array is not None)
        attributes = ",".join(f"{name}={value}" for name, value in self.attributes.items())
        return f"{self.op_type}-{self.opset}({shapes};{attributes})"


def case(op_type: str, *inputs: Array | None, opset: int = 18, outputs: int = 1, **attributes: Any) -> Case:
    return Case(op_type, inputs, {}, attributes, opset, outputs)


def with_constants(made: Case, **constants: Array | np.generic) -> Case:
    """The case with further inputs that are constants: `at1=array` is input 1."""
    positions = {int(name.removeprefix("at")): np.asarray(array) for name, array in constants.items()}
    return Case(made.op_type, made.inputs, positions, made.attributes, made.opset, made.outputs)


def model_and_feeds(made: Case) -> tuple[ModelProto, dict[str, Array]]:
    """The one-node model of a case, and what to feed it."""
    count = max([len(made.inputs), *(position + 1 for position in made.constants)])
    names = [
        f"x{number}"
        if number in made.constants or (number < len(made.inputs) and made.inputs[number] is not None)
        else ""
        for number in range(count)
    ]
    feeds = {name: array for name, array in zip(names, made.inputs, strict=False) if name and array is not None}
    constants = {f"x{number}": array for number, array in made.constants.items()}
    outputs = [f"y{number}" for number in range(made.outputs)]
    node = helper.make_node(made.op_type, names, outputs, name="the node", **made.attributes)
    return model_of([node], feeds, outputs, constants=constants, opset=made.opset), feeds


def check(made: Case, tolerance: float = 1e-5) -> list[str]:
    """Import the model of a case, compare it with onnxruntime; returns the graph operators."""
    model, feeds = model_and_feeds(made)
    return operators(check_import(model, feeds, tolerance=tolerance))


X = floats(2, 3, 4)
IMAGE = floats(2, 4, 9, 8)
