"""The ONNX model that a host function is written into: nodes in order, constants, weights, functions.

Values are strings, the names of ONNX values. Floats narrower than f32 are held as f32 between nodes, as the graph level
computes with them; `rounded` rounds a result to such a type.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import (
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    ValueInfoProto,
    helper,
)

from neuron_dialects.dtypes import F32, I64, DType, dtype_of_numpy
from neuron_dialects.errors import NeuronError

Array = npt.NDArray[Any]

FUNCTION_DOMAIN = "neuron.host"
"""Operator domain of the model's own functions."""
MIN_IR_VERSION = 10
"""IR version that belongs to the lowest operator set that models are written in."""
MAX_MODEL_BYTES = 2**31 - 2**16
"""Bytes of constants and weights; a protobuf message of 2 GiB and more cannot be read."""
_INLINE_SPLAT_ELEMENTS = 256
"""Constants of one repeated value are spelled out up to this size."""


def onnx_code(dtype: DType) -> int:
    """ONNX's code of an element type that ONNX has."""
    assert dtype.onnx is not None, f"ONNX has no {dtype}"
    return dtype.onnx


def is_narrow(dtype: DType) -> bool:
    """Whether values of this type are held as f32."""
    return dtype.is_float and dtype.size_bytes < F32.size_bytes


def held_dtype(dtype: DType) -> DType:
    """The element type in which values of `dtype` pass from node to node, and in which they are computed."""
    return F32 if is_narrow(dtype) else dtype


class ModelWriter:
    """One model; methods that add a node return the name of its result."""

    def __init__(self, name: str, opset: int) -> None:
        self.location = ""
        """Name of the framework node that is being written; the nodes for it are NAME, NAME#1, NAME#2, ..."""
        self.opset = opset
        self._graph = GraphProto(name=name)
        self._functions: dict[bytes, FunctionProto] = {}
        self._versions = {"": opset}
        self._constants: dict[tuple[Any, ...], str] = {}
        self._weights: set[str] = set()
        self._names = 0
        self._labels: dict[str, int] = {}
        self._bytes = 0

    # Nodes

    def fresh(self) -> str:
        """A name that no other value has."""
        self._names += 1
        return f"v{self._names - 1}"

    def _label(self) -> str:
        """The name of the next node; onnxruntime refuses a model in which two nodes have one name."""
        label = self.location
        while label in self._labels:
            self._labels[self.location] += 1
            label = f"{self.location}#{self._labels[self.location]}"
        if label:
            self._labels[label] = 0
        return label

    def node(self, op_type: str, *operands: str, **attributes: Any) -> str:
        """A node of ONNX's own domain with one result; an empty operand name is an absent operand."""
        result = self.fresh()
        self._graph.node.append(helper.make_node(op_type, operands, [result], name=self._label(), **attributes))
        return result

    def named(self, op_type: str, operand: str, result: str, **attributes: Any) -> None:
        """A node of one operand whose result has a given name."""
        self._graph.node.append(helper.make_node(op_type, [operand], [result], name=self._label(), **attributes))

    def add(self, node: NodeProto, operands: Sequence[str], versions: dict[str, int]) -> list[str]:
        """A copy of `node` on other operands; returns a name per result, empty ones included.

        `versions`: the domains that the node uses, each with the version that it is written in.
        """
        copy = self._graph.node.add()
        copy.CopyFrom(node)
        del copy.input[:], copy.output[:]
        results = [self.fresh() if name else "" for name in node.output]
        copy.input.extend(operands)
        copy.output.extend(results)
        copy.name = self._label()
        for domain, version in versions.items():
            if domain:
                self._versions[domain] = max(version, self._versions.get(domain, 0))
        return results

    def call(self, function: FunctionProto, operands: Sequence[str]) -> list[str]:
        """A call of a function, which is kept once however often it is added; `function` need not have a name."""
        content = function.SerializeToString(deterministic=True)
        if content not in self._functions:
            function.domain, function.name = FUNCTION_DOMAIN, f"node{len(self._functions)}"
            self._functions[content] = function
        known = self._functions[content]
        node = NodeProto(op_type=known.name, domain=FUNCTION_DOMAIN, output=known.output)
        versions = {entry.domain: entry.version for entry in function.opset_import}
        return self.add(node, operands, {**versions, FUNCTION_DOMAIN: 1})

    # Element types

    def cast(self, value: str, dtype: DType) -> str:
        """`value` as elements of `dtype`."""
        return self.node("Cast", value, to=onnx_code(dtype))

    def rounded(self, value: str, dtype: DType) -> str:
        """An f32 `value` rounded to `dtype` where that is narrower, still held as f32."""
        return self.cast(self.cast(value, dtype), F32) if is_narrow(dtype) else value

    # Constants

    def constant(self, array: Array) -> str:
        """A constant; equal ones are kept once."""
        dtype = dtype_of_numpy(array.dtype)
        repeated = array.size > _INLINE_SPLAT_ELEMENTS and not any(array.strides)
        data = array.reshape(-1)[:1] if repeated else array
        key = (dtype.name, array.shape, data.tobytes())
        if key not in self._constants:
            name = f"c{len(self._constants)}"
            self._constants[key] = name
            if repeated:
                value = self._tensor("", dtype, data)
                node = helper.make_node("ConstantOfShape", [self.integers(array.shape)], [name], value=value)
                self._graph.node.append(node)
            else:
                self._graph.initializer.append(self._tensor(name, dtype, data))
        return self._constants[key]

    def scalar(self, value: float | int, dtype: DType) -> str:
        """A constant without dimensions; `value` is in the range of `dtype`."""
        return self.constant(np.array(value, dtype.numpy))

    def integers(self, values: Iterable[int]) -> str:
        """A list of integers as a constant: a shape, axes, positions."""
        return self.constant(np.array(list(values), I64.numpy))

    def weight(self, name: str, array: Array) -> str:
        """A weight in its own element type."""
        label = f"weight.{name}"
        if label not in self._weights:
            self._weights.add(label)
            self._graph.initializer.append(self._tensor(label, dtype_of_numpy(array.dtype), array))
        return label

    def _tensor(self, name: str, dtype: DType, array: Array) -> TensorProto:
        self._bytes += array.nbytes
        if self._bytes > MAX_MODEL_BYTES:
            raise NeuronError(
                "NX-NEFF-010",
                f"host function @{self._graph.name} needs more than {MAX_MODEL_BYTES} bytes of constants,"
                " which is what an ONNX model can hold",
            )
        return TensorProto(name=name, data_type=onnx_code(dtype), dims=array.shape, raw_data=array.tobytes())

    # The whole

    def model(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """The finished model."""
        self._graph.input.extend(inputs)
        self._graph.output.extend(outputs)
        imports = [OperatorSetIdProto(domain=domain, version=version) for domain, version in self._versions.items()]
        model = ModelProto(producer_name="neuron-toolkit", graph=self._graph, opset_import=imports)
        model.functions.extend(self._functions.values())
        model.ir_version = max(MIN_IR_VERSION, helper.find_min_ir_version_for(imports, ignore_unknown=True))
        return model
