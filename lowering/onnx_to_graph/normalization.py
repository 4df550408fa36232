"""Converters of ONNX normalisations.

BatchNormalization and LayerNormalization have graph operators. The others become a layer_norm over reshaped dimensions,
or reductions and elementwise operators, with the scale and bias of their own shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.dtypes import F32, dtype_of_onnx
from neuron_dialects.graph import (
    BatchNormOp,
    BinaryKind,
    BinaryOp,
    BroadcastOp,
    LayerNormOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    UnaryKind,
    UnaryOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import ShapeError, element_count


def _batch_norm(node: Node) -> Sequence[Value]:
    node.require_single_output()
    if node.int_attr("training_mode", 0) or (node.opset < 7 and not node.int_attr("is_test", 0)):
        raise Unsupported("training mode")
    if not node.int_attr("spatial", 1):
        raise Unsupported("statistics per activation (spatial = 0)")
    x = node.operand(0)
    dtype = spec_of(x)[0]
    parameters = [node.cast(node.operand(index), dtype) for index in range(1, 5)]
    return [node.emit(BatchNormOp(x, *parameters, epsilon=node.float_attr("epsilon", 1e-5)))]


def _layer_norm(node: Node) -> Sequence[Value]:
    """A scale or bias of another shape than the normalised dimensions is broadcast to them."""
    node.require_single_output()
    x = node.operand(0)
    dtype, shape = spec_of(x)
    axis = node.axis(-1, len(shape))

    def parameter(index: int) -> SSAValue | None:
        if not node.has(index):
            return None
        value = node.cast(node.operand(index), dtype)
        have = shape_of(value)
        while len(have) > len(shape) - axis and have[0] == 1:
            have = have[1:]
        if have != shape_of(value):
            value = node.emit(ReshapeOp(value, have))
        return value if have == shape[axis:] else node.emit(BroadcastOp(value, shape[axis:]))

    op = LayerNormOp(x, parameter(1), parameter(2), axis=axis, epsilon=node.float_attr("epsilon", 1e-5))
    return [node.emit(op)]


def _normalize_rows(node: Node, x: SSAValue, groups: int) -> SSAValue:
    """[N, groups * M, ...] with zero mean and unit variance over each group of M channels, as [N, groups, K]."""
    shape = shape_of(x)
    if len(shape) < 2:
        raise ShapeError(f"rank {len(shape)} is below 2: there is no channel dimension")
    if groups < 1 or shape[1] % groups:
        raise ShapeError(f"{shape[1]} channels do not divide into {groups} groups")
    per_group = shape[1] // groups * element_count(shape[2:])
    rows = node.emit(ReshapeOp(x, (shape[0], groups, per_group)))
    return node.emit(LayerNormOp(rows, axis=2, epsilon=node.float_attr("epsilon", 1e-5)))


def _scale_and_shift(node: Node, x: SSAValue, parameter_shape: Sequence[int]) -> SSAValue:
    """x * scale + bias, where inputs 1 and 2 are reshaped to broadcast against x."""
    dtype = spec_of(x)[0]
    for index, kind in ((1, BinaryKind.MUL), (2, BinaryKind.ADD)):
        parameter = node.emit(ReshapeOp(node.cast(node.operand(index), dtype), parameter_shape))
        x = node.emit(BinaryOp(kind, x, parameter))
    return x


def _instance_norm(node: Node) -> Sequence[Value]:
    """Normalisation of every channel of every example by itself."""
    x = node.operand(0)
    shape = shape_of(x)
    rows = _normalize_rows(node, x, groups=element_count(shape[1:2]))
    return [node.emit(ReshapeOp(_scale_and_shift(node, rows, (shape[1], 1)), shape))]


def _group_norm(node: Node) -> Sequence[Value]:
    """Normalisation of groups of channels, with a scale and bias per channel (the form per group is deprecated)."""
    x = node.operand(0)
    shape = shape_of(x)
    rows = _normalize_rows(node, x, node.int_attr("num_groups"))
    channels = node.emit(ReshapeOp(rows, (shape[0], shape[1], element_count(shape[2:]))))
    return [node.emit(ReshapeOp(_scale_and_shift(node, channels, (shape[1], 1)), shape))]


def _rms_norm(node: Node) -> Sequence[Value]:
    """x / sqrt(mean of x*x over the last dimensions + epsilon) * scale; the quotient in the stash type."""
    x, scale = node.operand(0), node.operand(1)
    shape = shape_of(x)
    axis = node.axis(-1, len(shape))
    stash = dtype_of_onnx(node.int_attr("stash_type", 1)) or F32
    wide = node.cast(x, stash)
    square = node.emit(UnaryOp(UnaryKind.SQUARE, wide))
    mean = node.emit(ReduceOp(ReduceKind.MEAN, square, tuple(range(axis, len(shape))), keep_dims=True))
    epsilon = node.constant_value("epsilon", node.float_attr("epsilon", 1e-5), stash)
    inverse = node.emit(UnaryOp(UnaryKind.RSQRT, node.emit(BinaryOp(BinaryKind.ADD, mean, epsilon))))
    normalized = node.cast(node.emit(BinaryOp(BinaryKind.MUL, wide, inverse)), spec_of(scale)[0])
    return [node.emit(BinaryOp(BinaryKind.MUL, normalized, scale))]


def _lp_norm(node: Node) -> Sequence[Value]:
    """x / norm along one axis; where the norm is zero the result is zero, as x is."""
    x = node.operand(0)
    dtype, shape = spec_of(x)
    order = node.int_attr("p", 2)
    if order not in (1, 2):
        raise Unsupported(f"a norm of order {order}")
    kind = ReduceKind.L1 if order == 1 else ReduceKind.L2
    norm = node.emit(ReduceOp(kind, x, (node.axis(-1, len(shape)),), keep_dims=True))
    smallest = node.constant_value("smallest", float(ml_dtypes.finfo(dtype.numpy).tiny), dtype)
    return [node.emit(BinaryOp(BinaryKind.DIV, x, node.emit(BinaryOp(BinaryKind.MAX, norm, smallest))))]


CONVERTERS: dict[str, Row] = {
    "BatchNormalization": Row(_batch_norm, since=1),
    "LayerNormalization": Row(_layer_norm),
    "InstanceNormalization": Row(_instance_norm, since=6),
    "GroupNormalization": Row(_group_norm, since=21),
    "RMSNormalization": Row(_rms_norm),
    "LpNormalization": Row(_lp_norm, since=1),
}
