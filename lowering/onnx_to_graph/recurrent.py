"""Converters of LSTM, GRU and RNN.

A layer becomes a matmul of all time steps and directions at once, for what does not depend on the state, and a
`graph.recurrent` for what does. The weight is the left operand, so that hidden units come first, as the recurrence
wants them; transposes before and behind are windows on memory in most programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Constant, Value
from neuron_dialects.dtypes import BF16, F16, F32, I1, I32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    CellKind,
    CompareKind,
    CompareOp,
    ConcatOp,
    GateFunction,
    GateFunctionAttr,
    MatMulOp,
    RecurrentOp,
    ReshapeOp,
    SelectOp,
    Shape,
    SliceOp,
    TransposeOp,
    spec_of,
)
from neuron_dialects.graph.shapes import ShapeError

_NAMES = {member.value.replace("_", ""): member for member in GateFunction}
"""Functions by their ONNX names in lower case."""

_DEFAULTS: dict[CellKind, tuple[str, ...]] = {
    CellKind.LSTM: ("sigmoid", "tanh", "tanh"),
    CellKind.GRU: ("sigmoid", "tanh"),
    CellKind.RNN: ("tanh",),
}

_DEFAULT_ALPHA = {GateFunction.LEAKY_RELU: 0.01, GateFunction.HARD_SIGMOID: 0.2, GateFunction.ELU: 1.0}
_DEFAULT_BETA = {GateFunction.HARD_SIGMOID: 0.5}
"""Parameters that a node leaves out, as onnxruntime has them; all others are 0."""

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}

_X, _W, _R, _BIAS, _LENGTHS, _INITIAL_H, _INITIAL_C, _PEEPHOLES = range(8)
"""Inputs by position."""


@dataclass
class _Layer:
    """One node; sizes are those of RecurrentOp, `inputs` is the size of an input vector."""

    node: Node
    cell: CellKind
    reversed: tuple[bool, ...]
    steps: int
    batch: int
    inputs: int
    hidden: int

    @property
    def batch_first(self) -> bool:
        """Whether the batch comes first in ONNX's tensors."""
        return bool(self.node.int_attr("layout", 0))

    @property
    def rows(self) -> int:
        """Gates times hidden units."""
        return self.cell.gates * self.hidden

    def operand(self, index: int, shape: Shape) -> SSAValue:
        """An input that must have this shape."""
        have = self.node.shape(index)
        if have != shape:
            raise ShapeError(f"input {index} of {self.node.proto.op_type} has shape {have}, not {shape}")
        return self.node.operand(index)


def _layer(node: Node, cell: CellKind) -> _Layer:
    """The node's sizes; Unsupported where the graph operator does not cover it."""
    dtype, x = node.spec(_X)
    if dtype not in (F32, F16, BF16):
        raise Unsupported(f"recurrent layers of element type {dtype}")
    direction = node.string_attr("direction", "forward")
    if direction not in _DIRECTIONS:
        raise Unsupported(f"direction {direction}")
    recurrence = node.shape(_R)
    if len(x) != 3 or len(recurrence) != 3:
        raise ShapeError(f"X and R of {node.proto.op_type} must have rank 3")
    if 0 in (*x, *recurrence):
        raise Unsupported("a recurrent layer without elements")
    steps, batch = (x[1], x[0]) if node.int_attr("layout", 0) else (x[0], x[1])
    layer = _Layer(node, cell, _DIRECTIONS[direction], steps, batch, x[2], recurrence[2])
    if node.int_attr("hidden_size", layer.hidden) != layer.hidden:
        raise ShapeError(f"hidden_size {node.int_attr('hidden_size')} differs from R's {layer.hidden}")
    return layer


def _recurrent(node: Node, cell: CellKind) -> Sequence[Value]:
    layer = _layer(node, cell)
    directions, hidden = len(layer.reversed), layer.hidden
    clip = node.float_attr("clip", 0.0)
    if cell is CellKind.LSTM and node.has(_PEEPHOLES):
        peepholes = layer.operand(_PEEPHOLES, (directions, 3 * hidden))
    else:
        peepholes = None
    linear = cell is CellKind.GRU and bool(node.int_attr("linear_before_reset", 0))
    bias, recurrent_bias = _biases(layer, linear)
    mask = _mask(layer)
    op = RecurrentOp(
        cell,
        _gates(layer, bias),
        layer.operand(_R, (directions, layer.rows, hidden)),
        functions=_functions(layer),
        initial_h=_initial(layer, _INITIAL_H, mask),
        initial_c=_initial(layer, _INITIAL_C, mask) if cell is CellKind.LSTM else None,
        peepholes=peepholes,
        recurrent_bias=recurrent_bias,
        mask=mask,
        reversed=layer.reversed,
        clip=clip if clip > 0 else None,
        input_forget=cell is CellKind.LSTM and bool(node.int_attr("input_forget", 0)),
        linear_before_reset=linear,
    )
    node.emit(op)
    # From hidden units first to ONNX's order.
    y = node.emit(TransposeOp(op.y, (3, 2, 0, 1) if layer.batch_first else (2, 0, 3, 1)))
    finals = [final for final in (op.final_h, op.final_c) if final is not None]
    order = (2, 0, 1) if layer.batch_first else (0, 2, 1)
    return [y, *(node.emit(TransposeOp(final, order)) for final in finals)]


def _functions(layer: _Layer) -> list[GateFunctionAttr]:
    """The functions of all directions; each takes its parameters from ONNX's lists, in order, or has its defaults."""
    node, count = layer.node, len(layer.reversed) * layer.cell.functions
    given = node.attributes.get("activations")
    names = [name.decode("utf-8", "replace") for name in given] if given else []
    names = names or list(_DEFAULTS[layer.cell]) * len(layer.reversed)
    if len(names) != count:
        raise ShapeError(f"{len(names)} activations, {count} needed")
    alphas = iter([float(value) for value in node.attributes.get("activation_alpha", ())])
    betas = iter([float(value) for value in node.attributes.get("activation_beta", ())])
    return [_function(name, alphas, betas) for name in names]


def _function(name: str, alphas: Iterator[float], betas: Iterator[float]) -> GateFunctionAttr:
    function = _NAMES.get(name.lower())
    if function is None:
        raise Unsupported(f"activation {name}")
    alpha = next(alphas, _DEFAULT_ALPHA.get(function, 0.0)) if function.parameters else 0.0
    beta = next(betas, _DEFAULT_BETA.get(function, 0.0)) if function.parameters == 2 else 0.0
    return GateFunctionAttr.of(function, alpha, beta)


def _biases(layer: _Layer, linear: bool) -> tuple[SSAValue | None, SSAValue | None]:
    """The bias [D*G*H, 1] of the gates, and the one [D, H] that a reset gate scales; None where there is none."""
    node, directions, rows, hidden = layer.node, len(layer.reversed), layer.rows, layer.hidden
    if not node.has(_BIAS):
        return None, None
    both = layer.operand(_BIAS, (directions, 2 * rows))

    def part(start: int, size: int) -> SSAValue:
        return node.emit(SliceOp(both, (0, start), (directions, size), (1, 1)))

    shared = rows - hidden if linear else rows
    total = node.emit(BinaryOp(BinaryKind.ADD, part(0, shared), part(rows, shared)))
    recurrent_bias = None
    if linear:
        total = node.emit(ConcatOp([total, part(shared, hidden)], 1))
        recurrent_bias = part(rows + shared, hidden)
    return node.emit(ReshapeOp(total, (directions * rows, 1))), recurrent_bias


def _gates(layer: _Layer, bias: SSAValue | None) -> SSAValue:
    """The part of all gates that does not depend on the state: [D, G*H, T, B]."""
    node, directions, rows = layer.node, len(layer.reversed), layer.rows
    x = node.operand(_X)
    if layer.batch_first:
        x = node.emit(TransposeOp(x, (1, 0, 2)))
    x = node.emit(ReshapeOp(x, (layer.steps * layer.batch, layer.inputs)))
    w = layer.operand(_W, (directions, rows, layer.inputs))
    w = node.emit(ReshapeOp(w, (directions * rows, layer.inputs)))
    gates = node.emit(MatMulOp(w, x, transpose_b=True))
    if bias is not None:
        gates = node.emit(BinaryOp(BinaryKind.ADD, gates, bias))
    return node.emit(ReshapeOp(gates, (directions, rows, layer.steps, layer.batch)))


def _initial(layer: _Layer, index: int, mask: SSAValue | None) -> SSAValue | None:
    """An initial state as [D, H, B]; it is 0, and so is the final one, for sequences without steps."""
    if not layer.node.has(index):
        return None
    directions = len(layer.reversed)
    if layer.batch_first:
        state, order = layer.operand(index, (layer.batch, directions, layer.hidden)), (1, 2, 0)
    else:
        state, order = layer.operand(index, (directions, layer.batch, layer.hidden)), (0, 2, 1)
    state = layer.node.emit(TransposeOp(state, order))
    if mask is None:
        return state
    zero = layer.node.constant_value("zero", 0, spec_of(state)[0])
    return layer.node.emit(SelectOp(layer.node.emit(SliceOp(mask, (0, 0), (1, layer.batch), (1, 1))), state, zero))


def _mask(layer: _Layer) -> SSAValue | None:
    """Which steps [T, B] lie inside their sequence; None where all do."""
    node = layer.node
    if not node.has(_LENGTHS):
        return None
    positions = np.arange(layer.steps, dtype=np.int32)[:, None]
    if isinstance(node.value(_LENGTHS), Constant):
        inside = positions < node.constant(_LENGTHS).reshape(1, -1)
        if inside.shape != (layer.steps, layer.batch):
            raise ShapeError(f"{inside.shape[1]} sequence lengths for a batch of {layer.batch}")
        return None if inside.all() else node.constant_value("mask", inside, I1)
    lengths = layer.operand(_LENGTHS, (layer.batch,))
    if spec_of(lengths)[0] is not I32:
        lengths = node.emit(CastOp(lengths, I32))
    return node.emit(CompareOp(CompareKind.LT, node.constant_value("positions", positions, I32), lengths))


CONVERTERS: dict[str, Row] = {
    "LSTM": Row(lambda node: _recurrent(node, CellKind.LSTM)),
    "GRU": Row(lambda node: _recurrent(node, CellKind.GRU)),
    "RNN": Row(lambda node: _recurrent(node, CellKind.RNN)),
}
