"""What a converter sees of an ONNX node: operands, constants and attributes, and a place to emit graph operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.helper
from onnx import GraphProto, NodeProto, TensorProto
from xdsl.ir import Operation, SSAValue

from lowering.onnx_to_graph.values import Array, Constant, Emitter, HostConstant, Scope, Value, constant_of, readonly
from neuron_dialects.dtypes import DType
from neuron_dialects.graph import BinaryKind, BinaryOp, CastOp, Shape, TensorSpec, spec_of
from neuron_dialects.graph.shapes import ShapeError, normalize_axes, normalize_axis


class Unsupported(Exception):
    """The graph operators do not express this node; the message says why, and the node is left to the host."""


@dataclass
class Node:
    """One ONNX node being converted."""

    proto: NodeProto
    name: str
    """Unique name for reports and locations."""
    opset: int
    """Version of the operator set that the node's domain has in the model."""
    scope: Scope
    emitter: Emitter
    used_outputs: tuple[bool, ...]
    """For each output, whether anything reads it."""
    notes: list[str] = field(default_factory=list[str])
    """Where a converter tells the user of what it decided, one sentence each, once it cannot fail any more."""

    # Inputs

    def has(self, index: int) -> bool:
        """Whether the optional input is present."""
        name = self.proto.input[index] if index < len(self.proto.input) else ""
        return name != "" and self.scope.find(name) is not None

    def value(self, index: int) -> Value:
        """An input as it is; Unsupported when it is absent."""
        value = self.scope.find(self.proto.input[index]) if self.has(index) else None
        if value is None:
            raise Unsupported(f"input {index} is absent")
        return value

    def values(self) -> list[Value]:
        """All inputs that are present."""
        return [self.value(index) for index in range(len(self.proto.input)) if self.has(index)]

    def spec(self, index: int) -> TensorSpec:
        """Element type and static shape of an input; Unsupported where they are not known."""
        value = self.value(index)
        if isinstance(value, Constant):
            return value.spec
        if isinstance(value, HostConstant):
            raise Unsupported(f"input {index} has a type that only the host understands")
        try:
            return spec_of(value)
        except ShapeError as error:
            raise Unsupported(f"input {index}: {error}") from error

    def shape(self, index: int) -> Shape:
        """Static shape of an input."""
        return self.spec(index)[1]

    def dtype(self, index: int) -> DType:
        """Element type of an input."""
        return self.spec(index)[0]

    def operand(self, index: int) -> SSAValue:
        """An input as an operand of a graph operator: a static tensor of a known element type."""
        self.spec(index)
        value = self.value(index)
        assert not isinstance(value, HostConstant), "spec() has refused it"
        return self.ssa(value)

    def operands(self) -> list[SSAValue]:
        """All present inputs as operands."""
        return [self.operand(index) for index in range(len(self.proto.input)) if self.has(index)]

    def optional_operand(self, index: int) -> SSAValue | None:
        """An optional input as an operand."""
        return self.operand(index) if self.has(index) else None

    def ssa(self, value: SSAValue | Constant) -> SSAValue:
        """A value as an operand; constants are emitted at their first use."""
        return self.emitter.hold(value, self.name) if isinstance(value, Constant) else value

    def constant(self, index: int) -> Array:
        """The elements of an input; Unsupported unless they are known at import."""
        value = self.value(index)
        if not isinstance(value, Constant):
            raise Unsupported(f"input {index} is not known at compile time")
        return value.read()

    def constant_ints(self, index: int) -> list[int]:
        """The elements of an integer input, which is a scalar or a list."""
        return [int(item) for item in self.constant(index).reshape(-1)]

    # Attributes

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Attributes as Python values."""
        return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in self.proto.attribute}

    def int_attr(self, name: str, default: int | None = None) -> int:
        """An integer attribute; Unsupported when it is absent without a default."""
        return int(self._attribute(name, default))

    def float_attr(self, name: str, default: float | None = None) -> float:
        """A float attribute."""
        return float(self._attribute(name, default))

    def string_attr(self, name: str, default: str | None = None) -> str:
        """A string attribute."""
        value = self._attribute(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def ints_attr(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """An attribute that is a list of integers."""
        return [int(item) for item in self._attribute(name, default)]

    def tensor_attr(self, name: str) -> TensorProto:
        """A tensor attribute."""
        value = self._attribute(name, None)
        if not isinstance(value, TensorProto):
            raise Unsupported(f"attribute {name} is not a tensor")
        return value

    def graph_attr(self, name: str) -> GraphProto:
        """A subgraph attribute."""
        value = self._attribute(name, None)
        if not isinstance(value, GraphProto):
            raise Unsupported(f"attribute {name} is not a graph")
        return value

    def _attribute(self, name: str, default: Any) -> Any:
        value = self.attributes.get(name, default)
        if value is None:
            raise Unsupported(f"attribute {name} is absent")
        return value

    def axis(self, default: int, rank: int) -> int:
        """The attribute `axis`, counted from the front."""
        return normalize_axis(self.int_attr("axis", default), rank)

    def axes(self, input_since: int, rank: int) -> Shape | None:
        """Axes from the attribute `axes`, or from input 1 from opset `input_since` on; None when they are absent."""
        if self.opset >= input_since:
            if not self.has(1):
                return None
            return normalize_axes(self.constant_ints(1), rank)
        return normalize_axes(self.ints_attr("axes"), rank) if "axes" in self.attributes else None

    # Outputs

    def emit(self, op: Operation) -> SSAValue:
        """Emit a graph operator; returns its result."""
        return self.emitter.emit(op, self.name)[0]

    def cast(self, x: SSAValue, dtype: DType) -> SSAValue:
        """x in another element type."""
        return x if spec_of(x)[0] is dtype else self.emit(CastOp(x, dtype))

    def binary(self, kind: BinaryKind, a: SSAValue, b: SSAValue) -> SSAValue:
        """`kind` of two operands of one element type."""
        return self.emit(BinaryOp(kind, a, b))

    def constant_value(self, suffix: str, array: npt.ArrayLike, dtype: DType) -> SSAValue:
        """A constant made by the converter, as an operand; `suffix` tells it from the node's other constants."""
        values = readonly(np.asarray(array).astype(dtype.numpy))
        return self.ssa(constant_of(f"{self.scope.prefix}{self.name}/{suffix}", values))

    def uses(self, index: int) -> bool:
        """Whether anything reads the output."""
        return index < len(self.used_outputs) and self.used_outputs[index]

    def require_single_output(self) -> None:
        """Unsupported when anything reads an output beyond the first."""
        if any(self.used_outputs[1:]):
            raise Unsupported("outputs beyond the first are used")
