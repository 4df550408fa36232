"""What reductions and normalisations compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from neuron_dialects.graph import BatchNormOp, LayerNormOp, ReduceKind, ReduceOp, SoftmaxOp, ints, spec_of
from runtime.graph_interpreter.elementwise import truncating_division
from runtime.graph_interpreter.numerics import Array, rounded, widened

_Axes = tuple[int, ...]


def _sum(x: Array, axes: _Axes) -> Array:
    return np.sum(x, axis=axes, keepdims=True, dtype=x.dtype)


def _mean(x: Array, axes: _Axes) -> Array:
    count = np.array(np.prod([x.shape[axis] for axis in axes], dtype=np.int64), x.dtype)
    total = _sum(x, axes)
    return truncating_division(total, count) if x.dtype.kind in "iu" else total / count


def _l2(x: Array, axes: _Axes) -> Array:
    total = _sum(x * x, axes)
    return np.sqrt(total.astype(np.float64)) if x.dtype.kind in "iu" else np.sqrt(total)


def _log_sum_exp(x: Array, axes: _Axes) -> Array:
    if any(x.shape[axis] == 0 for axis in axes):
        return np.log(_sum(x, axes))
    # Subtracting the maximum keeps exp finite; an infinite maximum must not turn into inf - inf.
    limits = np.finfo(x.dtype)
    shift = np.clip(np.max(x, axis=axes, keepdims=True), limits.min, limits.max)
    return np.log(_sum(np.exp(x - shift), axes)) + shift


_REDUCTIONS: dict[ReduceKind, Callable[[Array, _Axes], Array]] = {
    ReduceKind.SUM: _sum,
    ReduceKind.MEAN: _mean,
    ReduceKind.MAX: lambda x, axes: np.max(x, axis=axes, keepdims=True),
    ReduceKind.MIN: lambda x, axes: np.min(x, axis=axes, keepdims=True),
    ReduceKind.PROD: lambda x, axes: np.prod(x, axis=axes, keepdims=True, dtype=x.dtype),
    ReduceKind.L1: lambda x, axes: _sum(np.abs(x), axes),
    ReduceKind.L2: _l2,
    ReduceKind.SUM_SQUARE: lambda x, axes: _sum(x * x, axes),
    ReduceKind.LOG_SUM: lambda x, axes: np.log(_sum(x, axes)),
    ReduceKind.LOG_SUM_EXP: _log_sum_exp,
}


def reduce(op: ReduceOp, x: Array) -> Array:
    """`graph.reduce`."""
    dtype, shape = spec_of(op.result)
    values = _REDUCTIONS[op.kind.data](widened(x), ints(op.axes))
    return rounded(values, dtype).reshape(shape)


def softmax(op: SoftmaxOp, x: Array) -> Array:
    """`graph.softmax`."""
    axis = op.axis.value.data
    x = widened(x)
    if x.size == 0:
        return rounded(x, spec_of(op.result)[0])
    shifted = x - np.max(x, axis=axis, keepdims=True)
    exponentials = np.exp(shifted)
    total = np.sum(exponentials, axis=axis, keepdims=True)
    return rounded(shifted - np.log(total) if op.log else exponentials / total, spec_of(op.result)[0])


def layer_norm(op: LayerNormOp, x: Array, *parameters: Array) -> Array:
    """`graph.layer_norm`; `parameters` are those of scale and bias that are present."""
    axes = tuple(range(op.axis.value.data, x.ndim))
    centred = widened(x)
    if not op.uncentred:
        centred = centred - np.mean(centred, axis=axes, keepdims=True)
    variance = np.mean(centred * centred, axis=axes, keepdims=True)
    values = centred / np.sqrt(variance + op.epsilon.value.data)
    remaining = iter(parameters)
    if op.scale is not None:
        values = values * widened(next(remaining))
    if op.bias is not None:
        values = values + widened(next(remaining))
    return rounded(values, spec_of(op.result)[0])


def batch_norm(op: BatchNormOp, x: Array, *parameters: Array) -> Array:
    """`graph.batch_norm`; `parameters` are scale, bias, mean and variance."""
    per_channel = (-1, *(1,) * (x.ndim - 2))
    scale, bias, mean, variance = (widened(parameter).reshape(per_channel) for parameter in parameters)
    values = (widened(x) - mean) / np.sqrt(variance + op.epsilon.value.data) * scale + bias
    return rounded(values, spec_of(op.result)[0])
