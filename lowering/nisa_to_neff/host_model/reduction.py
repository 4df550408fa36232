"""Reductions and normalisations in ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from lowering.nisa_to_neff.host_model.arithmetic import Arithmetic
from lowering.nisa_to_neff.host_model.writer import ModelWriter, held_dtype
from neuron_dialects.dtypes import F32, F64
from neuron_dialects.graph import BatchNormOp, LayerNormOp, ReduceKind, ReduceOp, SoftmaxOp, ints, shape_of, spec_of

_PLAIN: dict[ReduceKind, str] = {
    ReduceKind.SUM: "ReduceSum",
    ReduceKind.MEAN: "ReduceMean",
    ReduceKind.MAX: "ReduceMax",
    ReduceKind.MIN: "ReduceMin",
    ReduceKind.PROD: "ReduceProd",
    ReduceKind.LOG_SUM_EXP: "ReduceLogSumExp",
}


def reduce(writer: ModelWriter, op: ReduceOp, names: Sequence[str]) -> str:
    """`graph.reduce`: what is done to the elements, one of ONNX's plain reductions, what is done to their sum.

    ONNX's composite reductions differ from version to version in what they do where nothing is reduced.
    """
    kind, (x,) = op.kind.data, names
    math = Arithmetic(writer, held_dtype(spec_of(op.x)[0]))
    axes, keep_dims = ints(op.axes), bool(op.keep_dims)
    if kind is ReduceKind.L1:
        x = math("Abs", x)
    elif kind in (ReduceKind.L2, ReduceKind.SUM_SQUARE):
        x = math("Mul", x, x)
    is_integer_mean = kind is ReduceKind.MEAN and math.dtype.is_integer
    if axes:
        plain = "ReduceSum" if is_integer_mean else _PLAIN.get(kind, "ReduceSum")
        x = math(plain, x, writer.integers(axes), untyped=(1,), keepdims=int(keep_dims))
    if is_integer_mean:
        # The mean truncates; the number of elements is one of the type, as the sum is.
        count = np.array(prod(shape_of(op.x)[axis] for axis in axes)).astype(math.dtype.numpy)
        return math("Div", x, writer.constant(count))
    if kind is ReduceKind.LOG_SUM:
        return math("Log", x)
    if kind is ReduceKind.L2:
        return _root(writer, math, x)
    return x


def _root(writer: ModelWriter, math: Arithmetic, x: str) -> str:
    """The square root, truncated for integers."""
    if math.dtype.is_float:
        return math("Sqrt", x)
    return writer.cast(writer.node("Sqrt", writer.cast(x, F64)), math.dtype)


def softmax(writer: ModelWriter, op: SoftmaxOp, names: Sequence[str]) -> str:
    """`graph.softmax`."""
    return writer.node("LogSoftmax" if op.log else "Softmax", names[0], axis=op.axis.value.data)


def layer_norm(writer: ModelWriter, op: LayerNormOp, names: Sequence[str]) -> str:
    """`graph.layer_norm`; ONNX's needs a scale, and always subtracts the mean."""
    x, *parameters = names
    axis = op.axis.value.data
    dtype, shape = spec_of(op.x)
    if op.uncentred:
        return _uncentred_norm(writer, op, x, parameters)
    if op.scale is None:
        ones = np.broadcast_to(np.ones((), held_dtype(dtype).numpy), shape[axis:])
        parameters.insert(0, writer.constant(ones))
    return writer.node("LayerNormalization", x, *parameters, axis=axis, epsilon=op.epsilon.value.data)


def _uncentred_norm(writer: ModelWriter, op: LayerNormOp, x: str, parameters: Sequence[str]) -> str:
    """x / sqrt(mean(x * x) + epsilon) * scale + bias, in f32 or wider."""
    dtype, shape = spec_of(op.x)
    wider = F64 if dtype is F64 else F32
    wide = writer.cast(x, wider)
    axes = writer.integers(range(op.axis.value.data, len(shape)))
    mean = writer.node("ReduceMean", writer.node("Mul", wide, wide), axes)
    root = writer.node("Sqrt", writer.node("Add", mean, writer.scalar(op.epsilon.value.data, wider)))
    result, remaining = writer.node("Div", wide, root), iter(parameters)
    for parameter, combine in ((op.scale, "Mul"), (op.bias, "Add")):
        if parameter is not None:
            result = writer.node(combine, result, writer.cast(next(remaining), wider))
    return writer.cast(result, held_dtype(dtype))


def batch_norm(writer: ModelWriter, op: BatchNormOp, names: Sequence[str]) -> str:
    """`graph.batch_norm`."""
    return writer.node("BatchNormalization", *names, epsilon=op.epsilon.value.data)
