"""Recurrent layers in ONNX operators: one LSTM, GRU or RNN per direction.

ONNX's operators multiply their inputs with a weight first. The gates of a `graph.recurrent` come multiplied, so that
weight is the identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from lowering.nisa_to_neff.host_model.writer import ModelWriter
from neuron_dialects.dtypes import F32, I32
from neuron_dialects.graph import CellKind, GateFunctionAttr, RecurrentOp, ints


def recurrent(writer: ModelWriter, op: RecurrentOp, names: Sequence[str]) -> Sequence[str]:
    """`graph.recurrent`."""
    gates, r, *optional = names
    given = dict(zip(op.optional, optional, strict=True))
    lengths = _lengths(writer, given["mask"]) if "mask" in given else ""
    layer = _Layer(writer, op, given, lengths, _identity(writer, op.cell.data.gates * op.sizes.hidden))
    parts = [
        layer.direction(number, bool(is_reversed), gates, r) for number, is_reversed in enumerate(ints(op.reversed))
    ]
    joined = zip(*parts, strict=True)
    return [outputs[0] if len(outputs) == 1 else writer.node("Concat", *outputs, axis=0) for outputs in joined]


def _lengths(writer: ModelWriter, mask: str) -> str:
    """Steps of each sequence: the mask holds for the first ones."""
    counted = writer.cast(mask, I32)
    return writer.node("ReduceSum", counted, writer.integers([0]), keepdims=0)


def _identity(writer: ModelWriter, size: int) -> str:
    """[1, size, size]; computed, because it is large."""
    value = helper.make_tensor("", TensorProto.FLOAT, [1], [0.0])
    zeros = writer.node("ConstantOfShape", writer.integers([size, size]), value=value)
    return writer.node("Unsqueeze", writer.node("EyeLike", zeros), writer.integers([0]))


@dataclass
class _Layer:
    """One layer being written; `given` are its optional operands, `lengths` is empty where all sequences are whole."""

    writer: ModelWriter
    op: RecurrentOp
    given: Mapping[str, str]
    lengths: str
    identity: str

    def direction(self, number: int, is_reversed: bool, gates: str, r: str) -> Sequence[str]:
        """y, the final h and maybe c of one direction, each with a first dimension of 1."""
        writer, op = self.writer, self.op
        x = writer.node("Squeeze", self._part(gates, number), writer.integers([0]))
        operands = [writer.node("Transpose", x, perm=[1, 2, 0]), self.identity, self._part(r, number)]
        operands += [self._bias(number), self.lengths, self._state("initial_h", number)]
        if op.cell.data is CellKind.LSTM:
            operands += [self._state("initial_c", number), self._part(self.given.get("peepholes", ""), number)]
        node = self._node(op.functions_of(number), is_reversed)
        y, *finals = writer.add(node, operands, {})
        squeezed = writer.node("Squeeze", y, writer.integers([1]))
        turned = writer.node("Unsqueeze", writer.node("Transpose", squeezed, perm=[2, 0, 1]), writer.integers([0]))
        return [turned, *(writer.node("Transpose", final, perm=[0, 2, 1]) for final in finals)]

    def _node(self, functions: Sequence[GateFunctionAttr], is_reversed: bool) -> NodeProto:
        op = self.op
        kind = op.cell.data
        attributes: dict[str, Any] = {
            "hidden_size": op.sizes.hidden,
            "direction": "reverse" if is_reversed else "forward",
            "activations": [function.function.value.title().replace("_", "") for function in functions],
            "activation_alpha": [f.numbers[0] for f in functions if f.function.parameters] or None,
            "activation_beta": [f.numbers[1] for f in functions if f.function.parameters == 2] or None,
            "clip": op.clip.value.data if op.clip is not None else None,
            "input_forget": 1 if op.input_forget else None,
            "linear_before_reset": 1 if op.linear_before_reset else None,
        }
        outputs = ["y", "h", "c"] if kind is CellKind.LSTM else ["y", "h"]
        present = {name: value for name, value in attributes.items() if value is not None}
        return helper.make_node(kind.value.upper(), [], outputs, **present)

    def _part(self, name: str, number: int) -> str:
        """One direction of an operand; an absent one stays so."""
        if not name or len(ints(self.op.reversed)) == 1:
            return name
        bounds = (self.writer.integers([position]) for position in (number, number + 1, 0))
        return self.writer.node("Slice", name, *bounds)

    def _state(self, name: str, number: int) -> str:
        part = self._part(self.given.get(name, ""), number)
        return self.writer.node("Transpose", part, perm=[0, 2, 1]) if part else ""

    def _bias(self, number: int) -> str:
        """A recurrent bias as the last part of ONNX's biases."""
        part = self._part(self.given.get("recurrent_bias", ""), number)
        if not part:
            return ""
        zeros = self.writer.constant(np.zeros((1, 5 * self.op.sizes.hidden), F32.numpy))
        return self.writer.node("Concat", zeros, part, axis=1)
