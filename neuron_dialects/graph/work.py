"""How much an operator of the graph level computes and moves, read off its shapes: plain numbers, no machine.

Given one operator, these functions count multiply-adds, floating-point operations and bytes. The partitioner weighs a
core against the host with them, reports show them, and `neuron_dialects.cost` turns them into time.
"""

from __future__ import annotations

from math import prod

from xdsl.dialects.builtin import IntegerAttr, TensorType
from xdsl.ir import Attribute, Operation, SSAValue

from neuron_dialects.dtypes import dtype_of_or_none
from neuron_dialects.graph.attention import AttentionOp
from neuron_dialects.graph.base import shape_of
from neuron_dialects.graph.elementwise import CastOp
from neuron_dialects.graph.linear import ConvOp, ConvTransposeOp, MatMulOp
from neuron_dialects.graph.movement import BroadcastOp, ConcatOp, GatherOp, PadOp, ReshapeOp, SliceOp, TransposeOp
from neuron_dialects.graph.recurrent import RecurrentOp
from neuron_dialects.graph.reduction import ReduceOp
from neuron_dialects.graph.reorder import ReorderRowsOp
from neuron_dialects.graph.source import WeightOp
from neuron_dialects.graph.structure import FusedOp, OnnxNodeOp

MOVING = (ReshapeOp, TransposeOp, BroadcastOp, ConcatOp, SliceOp, PadOp, CastOp, ReorderRowsOp)
"""Operators that compute nothing: they may as well run on the host when only the host needs them."""

_MULTIPLIES = frozenset(("MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"))
_CONVOLVES = frozenset(("Conv", "ConvInteger", "QLinearConv"))


MODEL_MACS = "graph.model_macs"
"""Attribute: multiply-adds of the model, on an operator that a pass gave more to do."""

KEEPS_TYPE = "graph.keeps_type"
"""Attribute of a layer that only sums up what the model computes with: it multiplies in the type of its operands."""

MODEL_ELEMENTS = "graph.model_elements"
"""Attribute: elements of the model's weight, on a weight that a pass filled up with zeros."""


def model_elements(weight: SSAValue) -> int:
    """Elements of a weight, without those that a pass filled it up with."""
    known = owner.attributes.get(MODEL_ELEMENTS) if isinstance(owner := weight.owner, WeightOp) else None
    return known.value.data if isinstance(known, IntegerAttr) else prod(shape_of(weight))


def model_macs(op: Operation) -> int:
    """Multiply-adds of a matmul, convolution, attention or recurrence; 0 for other operators."""
    if isinstance(known := op.attributes.get(MODEL_MACS), IntegerAttr):
        return known.value.data
    if isinstance(op, AttentionOp):
        positions = shape_of(op.q)[0] * op.heads.value.data * shape_of(op.q)[1] * shape_of(op.k)[1]
        return positions * (op.head_size + op.value_size)
    if isinstance(op, MatMulOp):
        return prod(shape_of(op.result)) * shape_of(op.a)[-2 if op.transpose_a else -1]
    if isinstance(op, ConvOp):
        return prod(shape_of(op.result)) * prod(shape_of(op.w)[1:])
    if isinstance(op, ConvTransposeOp):
        return prod(shape_of(op.x)) * prod(shape_of(op.w)[1:])
    if isinstance(op, RecurrentOp):
        return prod(shape_of(op.r)) * prod(shape_of(op.gates)[2:])
    return 0


def flops_of(op: Operation) -> int:
    """Floating-point operations of an operator, estimated from shapes.

    Two for each multiply-add of a matmul, convolution or attention, one for each result element of other operators and
    for each operand element of a reduction; none for what only moves data or has an unknown shape. A fused group counts
    what is in it.
    """
    if isinstance(op, MOVING):
        return 0
    if isinstance(op, FusedOp):
        return sum(flops_of(inner) for inner in op.body.block.ops if inner.results)
    if isinstance(op, OnnxNodeOp):
        return _node_flops(op)
    if macs := model_macs(op):
        return 2 * macs
    return vector_elements(op)


def vector_elements(op: Operation) -> int:
    """Elements that pass an engine one by one: those that a reduction reads, those that other operators make."""
    return elements_of(op.operands[0]) if isinstance(op, ReduceOp) else sum(map(elements_of, op.results))


def _node_flops(op: OnnxNodeOp) -> int:
    """The estimate for a node that has no graph operator."""
    shapes = [value.type.get_shape() for value in op.operands if isinstance(value.type, TensorType)]
    made = elements_of(op.results[0]) if op.results else 0
    if op.op_type.data in _MULTIPLIES and shapes and shapes[0]:
        return 2 * made * max(shapes[0][-1], 0)
    if op.op_type.data in _CONVOLVES and len(shapes) > 1:
        return 2 * made * max(prod(shapes[1][1:]), 0)
    return made


def elements_of(value: SSAValue) -> int:
    """Elements of a tensor; 0 where they are not known."""
    if not isinstance(value.type, TensorType) or not value.type.has_static_shape():
        return 0
    return prod(value.type.get_shape())


def bytes_of(type_: Attribute) -> int:
    """Bytes of a tensor type; 0 where shape or element type are not known."""
    dtype = dtype_of_or_none(type_) if isinstance(type_, TensorType) else None
    if dtype is None or not isinstance(type_, TensorType) or not type_.has_static_shape():
        return 0
    return prod(type_.get_shape()) * dtype.size_bytes


def touched_bytes(op: Operation) -> int:
    """Bytes that an operator reads and writes, each operand once; of a table it only reads what it gathers."""
    read = list(dict.fromkeys(op.operands))
    if isinstance(op, GatherOp):
        read = [value for value in read if value is not op.data]
        return sum(bytes_of(value.type) for value in (*read, *op.results, *op.results))
    return sum(bytes_of(value.type) for value in (*read, *op.results))
