"""Writing ONNX nodes: fresh names, constants, and the parameters that are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lowering.frontends.mxnet.params_file import Array
from lowering.frontends.mxnet.symbol_file import SymbolNode


@dataclass(slots=True)
class Builder:
    """The ONNX graph being written. `node_name` is the node of MXNet's that the next nodes come from."""

    parameters: Mapping[str, Array]
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    node_name: str = ""
    _constants: dict[str, Array] = field(default_factory=dict[str, Array])
    _used: dict[str, None] = field(default_factory=dict[str, None])
    _names: set[str] = field(default_factory=set[str])

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node with one result; gives the result's name."""
        return self.add_many(op, inputs, 1, output=output, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], results: int, output: str = "", **attributes: Any) -> list[str]:
        """Append a node with several results."""
        self._used |= dict.fromkeys(name for name in inputs if name in self.parameters)
        name = self._fresh(self.node_name or f"{op}_{output}")
        outputs = [output] if output else [self._fresh(f"{name}:{number}") for number in range(results)]
        self.nodes.append(helper.make_node(op, [*inputs], outputs, name=name, **attributes))
        return outputs

    def constant(self, value: Array) -> str:
        """The name of a constant."""
        name = self._fresh(f"{self.node_name}:constant")
        self._constants[name] = value
        return name

    def integers(self, *values: int) -> str:
        """A list of int64 as a constant."""
        return self.constant(np.array(values, np.int64))

    def initializers(self) -> list[TensorProto]:
        """Constants, and the parameters that some node reads."""
        arrays = {**{name: self.parameters[name] for name in self._used}, **self._constants}
        return [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]

    def _fresh(self, name: str) -> str:
        candidate, number = name, 0
        while candidate in self._names or candidate in self.parameters:
            number += 1
            candidate = f"{name}.{number}"
        self._names.add(candidate)
        return candidate


@dataclass(frozen=True, slots=True)
class Call:
    """A node of MXNet's being translated, with the names of its arguments."""

    builder: Builder
    node: SymbolNode
    arguments: Sequence[str]

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append an ONNX node named after this one."""
        self.builder.node_name = self.node.name
        return self.builder.add(op, *inputs, **attributes)

    def add_many(self, op: str, inputs: Sequence[str], results: int, **attributes: Any) -> list[str]:
        """Append an ONNX node with several results."""
        self.builder.node_name = self.node.name
        return self.builder.add_many(op, inputs, results, **attributes)

    def integers(self, *values: int) -> str:
        """A list of int64 as a constant."""
        self.builder.node_name = self.node.name
        return self.builder.integers(*values)

    def scalar(self, value: float) -> str:
        """A constant of the model's floating-point type."""
        self.builder.node_name = self.node.name
        return self.builder.constant(np.array(value, self.float_type))

    @property
    def float_type(self) -> Any:
        """float16 in a model whose floating-point parameters are, else float32."""
        floats = {array.dtype for array in self.builder.parameters.values() if array.dtype.kind == "f"}
        return np.float16 if floats == {np.dtype(np.float16)} else np.float32

    def parameter(self, position: int) -> Array:
        """The value of an argument that must be a parameter."""
        name = self.argument(position)
        if name not in self.builder.parameters:
            raise self.node.error(f"its input {position} ('{name}') must be a parameter")
        return self.builder.parameters[name]

    def argument(self, position: int) -> str:
        """An argument; NeuronError NX-FRAME-004 when it is missing."""
        if position >= len(self.arguments):
            raise self.node.error(f"it has {len(self.arguments)} inputs, input {position} is missing")
        return self.arguments[position]

    @property
    def x(self) -> str:
        """The first argument."""
        return self.argument(0)
