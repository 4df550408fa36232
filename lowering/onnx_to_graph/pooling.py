"""Converters of ONNX pools: over windows, and over all spatial dimensions; and LRN, a pool over channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod

from lowering.onnx_to_graph.arithmetic import Arithmetic
from lowering.onnx_to_graph.linear import spatial_attr, window_pads
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.dtypes import F32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    PoolKind,
    PoolOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    UnaryKind,
    UnaryOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import ShapeError, element_count


def _pool(node: Node, kind: PoolKind) -> Sequence[Value]:
    node.require_single_output()
    x = node.operand(0)
    size = shape_of(x)[2:]
    kernel = spatial_attr(node, "kernel_shape", len(size), 1) if "kernel_shape" in node.attributes else []
    if not kernel:
        raise ShapeError("kernel_shape is absent")
    strides = spatial_attr(node, "strides", len(size), 1)
    dilations = spatial_attr(node, "dilations", len(size), 1)
    op = PoolOp(
        kind,
        x,
        kernel=kernel,
        strides=strides,
        pads=window_pads(node, size, kernel, strides, dilations),
        dilations=dilations,
        ceil_mode=bool(node.int_attr("ceil_mode", 0)),
        count_include_pad=bool(node.int_attr("count_include_pad", 0)),
    )
    return [node.emit(op)]


def _lp_pool(node: Node) -> Sequence[Value]:
    """The p-norm of each window: a mean of powers, times their number, with padding that counts as zeros."""
    ops, x, order = Arithmetic(node), node.operand(0), node.int_attr("p", 2)
    dtype, shape = spec_of(x)
    kernel = spatial_attr(node, "kernel_shape", len(shape) - 2, 1)
    if order < 1 or node.int_attr("ceil_mode", 0):
        raise Unsupported(f"a norm of order {order}" if order < 1 else "partial windows")
    size = shape[2:]
    strides, dilations = (spatial_attr(node, name, len(size), 1) for name in ("strides", "dilations"))
    magnitude = ops.unary(UnaryKind.ABS, ops.cast(x, F32))
    powers = magnitude if order == 1 else ops.binary(BinaryKind.POW, magnitude, order)
    pool = PoolOp(
        PoolKind.AVERAGE,
        powers,
        kernel=kernel,
        strides=strides,
        pads=window_pads(node, size, kernel, strides, dilations),
        dilations=dilations,
        count_include_pad=True,
    )
    total = ops.mul(node.emit(pool), prod(kernel))
    norm = total if order == 1 else ops.binary(BinaryKind.POW, total, 1 / order)
    return [ops.cast(norm, dtype)]


def _global_reduce(node: Node, kind: ReduceKind) -> Sequence[Value]:
    x = node.operand(0)
    axes = range(2, len(shape_of(x)))
    return [node.emit(ReduceOp(kind, x, tuple(axes), keep_dims=True))]


def _global_lp_pool(node: Node) -> Sequence[Value]:
    order = node.int_attr("p", 2)
    if order not in (1, 2):
        raise Unsupported(f"a norm of order {order}")
    return _global_reduce(node, ReduceKind.L1 if order == 1 else ReduceKind.L2)


def _lrn(node: Node) -> Sequence[Value]:
    """x / (bias + alpha * mean of x*x over `size` channels around) ^ beta, with zeros beyond the channels."""
    x = node.operand(0)
    dtype, shape = spec_of(x)
    size = node.int_attr("size")
    low = (size - 1) // 2
    square = node.emit(UnaryOp(UnaryKind.SQUARE, x))
    rows = node.emit(ReshapeOp(square, (shape[0], 1, shape[1], element_count(shape[2:]))))
    mean = node.emit(
        PoolOp(
            PoolKind.AVERAGE,
            rows,
            kernel=(size, 1),
            strides=(1, 1),
            pads=(low, 0, size - 1 - low, 0),
            dilations=(1, 1),
            count_include_pad=True,
        )
    )
    mean = node.emit(ReshapeOp(mean, shape))
    alpha = node.constant_value("alpha", node.float_attr("alpha", 1e-4), dtype)
    bias = node.constant_value("bias", node.float_attr("bias", 1.0), dtype)
    beta = node.constant_value("beta", node.float_attr("beta", 0.75), dtype)
    scaled = node.emit(BinaryOp(BinaryKind.MUL, mean, alpha))
    base = node.emit(BinaryOp(BinaryKind.ADD, scaled, bias))
    divisor = node.emit(BinaryOp(BinaryKind.POW, base, beta))
    return [node.emit(BinaryOp(BinaryKind.DIV, x, divisor))]


CONVERTERS: dict[str, Row] = {
    "MaxPool": Row(partial(_pool, kind=PoolKind.MAX), since=1),
    "AveragePool": Row(partial(_pool, kind=PoolKind.AVERAGE), since=1),
    "GlobalAveragePool": Row(partial(_global_reduce, kind=ReduceKind.MEAN), since=1),
    "GlobalMaxPool": Row(partial(_global_reduce, kind=ReduceKind.MAX), since=1),
    "GlobalLpPool": Row(_global_lp_pool, since=2),
    "LpPool": Row(_lp_pool, since=2),
    "LRN": Row(_lrn, since=1),
}
