"""A random ONNX model that grows node by node, each node run by onnxruntime as soon as it is made.

The builder is given choices by hypothesis and leaves a model, its inputs and the values that onnxruntime computed. A
node that onnxruntime refuses, that gives numbers too large to compare, or that would make rounding errors visible is
dropped: every value has a shadow, computed from shadows, to which each rounding operator adds noise; where value and
shadow part, a comparison with the compiled model would say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper, numpy_helper

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

ROUNDING_NOISE = 1e-3
"""Share of its norm that an operator which rounds adds to a shadow."""
MULTIPLYING_NOISE = 4e-3
"""The same for operators whose operands a compilation may round to bf16."""
MOST_NOISE = 1.5e-2
"""Where a shadow is further from its value than this share, the node is dropped."""
LARGEST_NUMBER = 1e4
"""Largest float in a model."""
LARGEST_INTEGER = 2**28
"""Largest integer in a model; cores hold 32 bits."""
MOST_ELEMENTS = 6000
"""Largest tensor in a model."""

EXACT = frozenset(
    (
        *("Abs", "Neg", "Relu", "Sign", "Floor", "Ceil", "Round", "Max", "Min", "Clip", "Where", "Identity", "Dropout"),
        *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
        *("Concat", "Split", "Slice", "Pad", "Gather", "GatherElements", "GatherND", "Trilu", "TopK", "ReduceMax"),
        *("ReduceMin", "MaxPool", "GlobalMaxPool", "Upsample", "OneHot", "Hardmax", "ThresholdedRelu", "EyeLike"),
        *("ScatterElements", "ScatterND", "ReverseSequence"),
    )
)
"""Operators whose floats are not rounded: their outputs get no noise."""
MULTIPLYING = frozenset(
    (
        *("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "CumSum", "Resize", "Attention", "LSTM", "GRU", "RNN"),
        *("RotaryEmbedding", "GridSample"),
    )
)
"""Operators that cores multiply for, perhaps in bf16."""


DISCONTINUOUS = frozenset(("Floor", "Ceil", "Round", "Sign", "Hardmax", "Mod", "ThresholdedRelu", "Shrink"))
"""Operators on floats whose result jumps, as all results that are not floats do: they take exact values only."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the model: its name, its elements, and those that it has when every operator before rounds badly."""

    name: str
    array: Array
    shadow: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def rank(self) -> int:
        return self.array.ndim

    @property
    def is_float(self) -> bool:
        return self.array.dtype.kind == "f"

    @property
    def is_exact(self) -> bool:
        """Whether no operator before has rounded."""
        return np.array_equal(self.array, self.shadow)


@dataclass
class ModelBuilder:
    """The model made so far. `draw` makes a choice; `seed` decides the numbers in tensors."""

    draw: Draw
    opset: int
    seed: int
    inputs: list[Value] = field(default_factory=list[Value])
    constants: list[Value] = field(default_factory=list[Value])
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    values: list[Value] = field(default_factory=list[Value])
    """What nodes can take: inputs, constants that are data, and results."""
    made: list[Value] = field(default_factory=list[Value])
    """Results of nodes."""

    # Choices

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def one_of(self, *choices: Any) -> Any:
        """One of the choices; the first is the simplest."""
        return self.draw(st.sampled_from(choices))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def real(self, low: float, high: float) -> float:
        """A number of few digits."""
        return round(low + (high - low) * self.integer(0, 20) / 20, 4)

    def shape(self, low: int, high: int, largest: int = 130) -> tuple[int, ...]:
        """A shape with a rank from `low` to `high`: small and odd sizes, ones, and now and then more than 128."""
        rank = self.integer(low, high)
        sizes = [size for size in (2, 3, 1, 4, 5, 7, 8, 13, 16, 33, 65, 129, 130) if size <= largest]
        shape: list[int] = []
        for _ in range(rank):
            room = MOST_ELEMENTS // max(1, int(np.prod(shape)))
            shape.append(self.one_of(*[size for size in sizes if size <= room] or [1]))
        return tuple(shape)

    def broadcast_partner(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts to `shape`: some sizes one, some leading dimensions away."""
        dropped = self.one_of(*range(len(shape) + 1))
        return tuple(1 if dim != 1 and self.one_of(False, False, True) else dim for dim in shape[dropped:])

    # Tensors

    def numbers(self, dtype: Any, shape: Sequence[int], flavour: str = "normal") -> Array:
        """Random elements: `normal`, `positive` (0.5 to 2), `unit` (-0.9 to 0.9) or `whole` (-8 to 8)."""
        rng = np.random.default_rng((self.seed, len(self.inputs) + len(self.constants), *shape))
        dtype = np.dtype(dtype)
        if dtype.kind == "b":
            return rng.integers(0, 2, shape).astype(dtype)
        if dtype.kind in "iu":
            low, high = (1, 8) if flavour == "positive" else (0 if dtype.kind == "u" else -8, 8)
            return rng.integers(low, high, shape, endpoint=True).astype(dtype)
        made = {
            "normal": lambda: rng.standard_normal(shape),
            "positive": lambda: rng.uniform(0.5, 2, shape),
            "unit": lambda: rng.uniform(-0.9, 0.9, shape),
            "whole": lambda: rng.integers(-8, 8, shape, endpoint=True),
        }
        return np.asarray(made[flavour]()).astype(dtype)

    def input(self, array: Array) -> Value:
        """A new input of the model."""
        value = Value(f"x{len(self.inputs)}", array, array)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def constant(self, array: Any) -> Value:
        """A new initializer, which only the caller uses."""
        value = Value(f"w{len(self.constants)}", np.asarray(array), np.asarray(array))
        self.constants.append(value)
        return value

    def ints(self, values: Sequence[int]) -> Value:
        """An initializer of int64, for shapes, axes and the like."""
        return self.constant(np.array(values, np.int64))

    def tensor(self, dtype: Any, shape: Sequence[int], flavour: str = "normal") -> Value:
        """A new tensor, as an input of the model or as an initializer."""
        array = self.numbers(dtype, shape, flavour)
        return self.input(array) if self.flag() else self.constant(array)

    def pick(
        self,
        fits: Callable[[Value], bool] = lambda value: True,
        *,
        low: int = 0,
        high: int = 5,
        dtypes: str = "f",
        flavour: str = "normal",
    ) -> Value:
        """A value with a rank from `low` to `high`, of one of the kinds in `dtypes` (numpy's letters), that fits.

        A new input of the flavour when there is none, or when the choice falls on it.
        """
        found = [
            value
            for value in self.values
            if value.array.dtype.kind in dtypes and low <= value.rank <= high and value.array.size and fits(value)
        ]
        if found and not self.one_of(False, False, True):
            return self.one_of(*reversed(found))
        return self.input(self.numbers(self.dtype(dtypes), self.shape(low, high), flavour))

    def dtype(self, kinds: str = "f") -> np.dtype[Any]:
        """An element type of one of the kinds."""
        types = {
            "f": ("float32", "float32", "float16"),
            "i": ("int32", "int64", "int8"),
            "u": ("uint8",),
            "b": ("bool",),
        }
        return np.dtype(self.one_of(*(name for kind in kinds for name in types[kind])))

    def like(self, value: Value, shape: Sequence[int] | None = None, flavour: str = "normal") -> Value:
        """A tensor of the value's element type: an existing one of that shape, or a new one."""
        shape = value.shape if shape is None else tuple(shape)
        found = [v for v in self.values if v.array.dtype == value.array.dtype and v.shape == shape]
        if found and self.flag():
            return self.one_of(*found)
        return self.tensor(value.array.dtype, shape, flavour)

    # Nodes

    def add(self, op_type: str, *inputs: Value | None, outputs: int = 1, **attributes: Any) -> list[Value]:
        """Add a node; its outputs, or none where it was dropped."""
        names = [f"v{len(self.made) + number}" for number in range(outputs)]
        node = helper.make_node(op_type, [value.name if value else "" for value in inputs], names, **attributes)
        present = list({value.name: value for value in inputs if value}.values())
        results = self._evaluated(node, [value.array for value in present], [value.shadow for value in present])
        if results is None:
            return []
        noise = 0.0 if op_type in EXACT else MULTIPLYING_NOISE if op_type in MULTIPLYING else ROUNDING_NOISE
        made = [
            Value(name, array, self._noisy(shadow, noise)) for name, (array, shadow) in zip(names, results, strict=True)
        ]
        jumps = op_type in DISCONTINUOUS or not all(value.is_float for value in made)
        if not all(_tame(value) for value in made) or (jumps and not all(value.is_exact for value in present)):
            return []
        self.nodes.append(node)
        self.made += made
        self.values += made
        return made

    def _noisy(self, shadow: Array, noise: float) -> Array:
        if shadow.dtype.kind != "f" or not noise or not shadow.size:
            return shadow
        rng = np.random.default_rng((self.seed, len(self.made), 1))
        with np.errstate(all="ignore"):
            scale = noise * float(np.sqrt(np.mean(np.square(shadow.astype(np.float64)))))
            return (shadow + scale * rng.standard_normal(shadow.shape)).astype(shadow.dtype)

    def _evaluated(
        self, node: NodeProto, arrays: Sequence[Array], shadows: Sequence[Array]
    ) -> list[tuple[Array, Array]] | None:
        """Each output with its shadow; None when onnxruntime cannot run the node."""
        names = list(dict.fromkeys(name for name in node.input if name))
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in zip(names, arrays, strict=True)
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output]
        model = self._model(helper.make_graph([node], "node", inputs, outputs))
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
            )
            results = [session.run(None, dict(zip(names, values, strict=True))) for values in (arrays, shadows)]
        except Exception:  # its exception classes are private to its extension module
            return None
        return [(np.asarray(array), np.asarray(shadow)) for array, shadow in zip(*results, strict=True)]

    def _model(self, graph: Any) -> ModelProto:
        imports = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=helper.find_min_ir_version_for(imports))

    # The whole

    def model(self) -> ModelProto:
        """The model; its outputs are what no node takes, and now and then something between."""
        taken = {name for node in self.nodes for name in node.input}
        outputs = [value for value in self.made if value.name not in taken or self.one_of(False, False, False, True)]
        used = taken | {value.name for value in outputs}
        graph = helper.make_graph(
            self.nodes,
            "random",
            [_info(value) for value in self.inputs if value.name in used],
            [_info(value) for value in outputs],
            [numpy_helper.from_array(value.array, value.name) for value in self.constants if value.name in used],
        )
        return self._model(graph)

    def feeds(self) -> dict[str, Array]:
        """The inputs of `model` by name."""
        taken = {name for node in self.nodes for name in node.input}
        return {value.name: value.array for value in self.inputs if value.name in taken}


def session_options() -> onnxruntime.SessionOptions:
    """onnxruntime as the graph is written, quietly."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return options


def _info(value: Value) -> Any:
    return helper.make_tensor_value_info(
        value.name, helper.np_dtype_to_tensor_dtype(value.array.dtype), list(value.shape)
    )


def _tame(value: Value) -> bool:
    """Whether a value can be compared: of some size, finite, not too large, and near its shadow."""
    array, shadow = value.array, value.shadow
    if array.size > MOST_ELEMENTS or array.size == 0 or array.shape != shadow.shape or array.dtype.kind not in "fiub":
        return False
    if array.dtype.kind != "f":
        within = array.dtype.kind == "b" or int(np.abs(array.astype(np.float64)).max()) <= LARGEST_INTEGER
        return within and np.array_equal(array, shadow)
    exact, near = array.astype(np.float64), shadow.astype(np.float64)
    if not np.isfinite(exact).all() or not np.isfinite(near).all() or np.abs(exact).max() > LARGEST_NUMBER:
        return False
    return bool(np.linalg.norm(near - exact) <= MOST_NOISE * np.linalg.norm(exact))
