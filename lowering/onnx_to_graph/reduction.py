"""Converters of ONNX reductions and of softmax."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lowering.onnx_to_graph.node import Node
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.graph import ReduceKind, ReduceOp, ReshapeOp, SoftmaxOp, shape_of
from neuron_dialects.graph.shapes import element_count


def _reduce(node: Node, kind: ReduceKind, axes_input_since: int) -> Sequence[Value]:
    x = node.operand(0)
    rank = len(shape_of(x))
    axes = node.axes(axes_input_since, rank)
    if not axes:
        axes = () if node.int_attr("noop_with_empty_axes", 0) else tuple(range(rank))
        if not axes and rank:
            return [node.value(0)]
    return [node.emit(ReduceOp(kind, x, axes, keep_dims=bool(node.int_attr("keepdims", 1))))]


def _softmax(node: Node, log: bool) -> Sequence[Value]:
    """Before opset 13 all dimensions from `axis` on are one; a reshape makes them one."""
    x = node.operand(0)
    shape = shape_of(x)
    axis = node.axis(1 if node.opset < 13 else -1, len(shape))
    if node.opset >= 13 or axis == len(shape) - 1:
        return [node.emit(SoftmaxOp(x, axis, log=log))]
    rows = node.emit(ReshapeOp(x, (element_count(shape[:axis]), element_count(shape[axis:]))))
    result = node.emit(SoftmaxOp(rows, 1, log=log))
    return [node.emit(ReshapeOp(result, shape))]


_AXES_INPUT_SINCE = 18
_KINDS = {
    "ReduceMean": ReduceKind.MEAN,
    "ReduceMax": ReduceKind.MAX,
    "ReduceMin": ReduceKind.MIN,
    "ReduceProd": ReduceKind.PROD,
    "ReduceL1": ReduceKind.L1,
    "ReduceL2": ReduceKind.L2,
    "ReduceSumSquare": ReduceKind.SUM_SQUARE,
    "ReduceLogSum": ReduceKind.LOG_SUM,
    "ReduceLogSumExp": ReduceKind.LOG_SUM_EXP,
}

CONVERTERS: dict[str, Row] = {
    "ReduceSum": Row(partial(_reduce, kind=ReduceKind.SUM, axes_input_since=13), since=1),
    **{
        op_type: Row(partial(_reduce, kind=kind, axes_input_since=_AXES_INPUT_SINCE), since=1)
        for op_type, kind in _KINDS.items()
    },
    "Softmax": Row(partial(_softmax, log=False), since=1),
    "LogSoftmax": Row(partial(_softmax, log=True), since=1),
}
