"""How random models use elementwise operators, reductions and norms: one function for each way of use.

A function is given the builder and the operator's name, chooses operands and attributes, and adds the node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from onnx import helper

from tests.random_models.builder import ModelBuilder, Value

Use: TypeAlias = Callable[[ModelBuilder, str], None]
"""Adds a node of the operator to the model."""


def _within(low: float, high: float) -> Callable[[Value], bool]:
    return lambda value: bool(value.array.min() >= low and value.array.max() <= high)


def _unary(
    b: ModelBuilder,
    op_type: str,
    *,
    dtypes: str = "f",
    flavour: str = "normal",
    low: float = -1e3,
    high: float = 1e3,
    attributes: Mapping[str, tuple[float, float]] | None = None,
) -> None:
    x = b.pick(_within(low, high), dtypes=dtypes, flavour=flavour)
    chosen: dict[str, Any] = {name: b.real(*bounds) for name, bounds in (attributes or {}).items() if b.flag()}
    b.add(op_type, x, **chosen)


def _gelu(b: ModelBuilder, op_type: str) -> None:
    b.add(op_type, b.pick(), approximate=b.one_of("none", "tanh"))


def pair(b: ModelBuilder, x: Value, flavour: str = "normal") -> tuple[Value, Value]:
    """Two operands that broadcast, either of which may be the larger one."""
    shape = b.broadcast_partner(x.shape) if b.flag() else x.shape
    if len(shape) == x.rank and 1 in x.shape and b.flag():
        # Both operands broadcast: where one has size 1 the other is wide.
        shape = tuple(b.one_of(1, 3, 5) if have == 1 else dim for dim, have in zip(shape, x.shape, strict=True))
    y = b.like(x, shape, flavour)
    return (x, y) if b.flag() or flavour != "normal" else (y, x)


def _binary(b: ModelBuilder, op_type: str, *, dtypes: str = "ffi", flavour: str = "normal") -> None:
    b.add(op_type, *pair(b, b.pick(dtypes=dtypes), flavour))


def _pow(b: ModelBuilder, op_type: str) -> None:
    if b.flag():
        x = b.pick(_within(-8, 8), dtypes="fi")
        b.add(op_type, x, b.constant(np.array(b.one_of(2, 3, 1, 0), x.array.dtype)))
    else:
        x = b.pick(_within(0.1, 20), flavour="positive")
        b.add(op_type, *pair(b, x, "unit"))


def _mod(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(dtypes="fi")
    b.add(op_type, *pair(b, x, "positive"), **({"fmod": 1} if x.is_float else {"fmod": int(b.flag())}))


def _variadic(b: ModelBuilder, op_type: str, *, dtypes: str = "f") -> None:
    x = b.pick(dtypes=dtypes)
    b.add(op_type, x, *(b.like(x, b.broadcast_partner(x.shape)) for _ in range(b.integer(0, 2))))


def _where(b: ModelBuilder, op_type: str) -> None:
    x, y = pair(b, b.pick(dtypes="ffib"))
    shape = np.broadcast_shapes(x.shape, y.shape)
    b.add(op_type, b.tensor(np.bool_, b.broadcast_partner(shape)), x, y)


def _clip(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(dtypes="ffi" if b.opset >= 12 else "f")
    low, high = b.one_of(-1, 0, None), b.one_of(1, 6, None)
    bounds = [None if limit is None else b.constant(np.array(limit, x.array.dtype)) for limit in (low, high)]
    b.add(op_type, x, *bounds)


def _cast(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(dtypes="fiub")
    targets = ("float32", "float16", "int32", "bool", "int64", "int8", "uint8", "float64")
    wanted = b.one_of(*(name for name in targets if name != x.array.dtype.name))
    if np.dtype(wanted).kind in "iu" and not _within(0 if wanted == "uint8" else -100, 100)(x):
        return
    if op_type == "CastLike":
        b.add(op_type, x, b.constant(np.zeros(1, wanted)))
    else:
        b.add(op_type, x, to=helper.np_dtype_to_tensor_dtype(np.dtype(wanted)))


def _prelu(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1)
    b.add(op_type, x, b.tensor(x.array.dtype, b.broadcast_partner(x.shape), "positive"))


def _is_inf(b: ModelBuilder, op_type: str) -> None:
    b.add(op_type, b.pick(lambda v: v.array.dtype == np.float32), detect_negative=int(b.flag()))


# Reductions


def axes_of(b: ModelBuilder, rank: int) -> list[int]:
    """Some axes of a tensor, counted from either end."""
    chosen = [axis for axis in range(rank) if b.flag()]
    return [axis - rank if b.flag() else axis for axis in chosen]


def _reduce(b: ModelBuilder, op_type: str, *, dtypes: str = "f", flavour: str = "normal", low: float = -1e3) -> None:
    x = b.pick(_within(low, 1e3), low=1, dtypes=dtypes, flavour=flavour)
    axes = axes_of(b, x.rank)
    attributes: dict[str, Any] = {"keepdims": int(b.flag())}
    by_input = b.opset >= (13 if op_type == "ReduceSum" else 18)
    if by_input and not axes and b.flag():
        attributes["noop_with_empty_axes"] = int(b.flag())
    if by_input:
        b.add(op_type, x, b.ints(axes) if axes else None, **attributes)
    else:
        if axes:
            attributes["axes"] = axes
        b.add(op_type, x, **attributes)


def axis_of(b: ModelBuilder, rank: int) -> int:
    """One axis, counted from either end."""
    axis = b.integer(0, rank - 1)
    return axis - rank if b.flag() else axis


def _along_axis(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1)
    b.add(op_type, x, axis=axis_of(b, x.rank))


def _arg(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes="ffi", flavour=b.one_of("normal", "whole"))
    b.add(
        op_type, x, axis=axis_of(b, x.rank), keepdims=int(b.flag()),
        **({"select_last_index": int(b.flag())} if b.opset >= 12 else {}),
    )  # fmt: skip


def _top_k(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes="ffi", flavour=b.one_of("normal", "whole"))
    axis = axis_of(b, x.rank)
    k = b.integer(1, min(10, x.shape[axis]))
    b.add(op_type, x, b.ints([k]), outputs=2, axis=axis, largest=int(b.flag()))


def _cum_sum(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(lambda v: v.array.dtype.itemsize > 2, low=1, dtypes="ffi")
    axis = b.constant(np.array(axis_of(b, x.rank), np.int64))
    b.add(op_type, x, axis, exclusive=int(b.flag()), reverse=int(b.flag()))


# Norms


def _batch_norm(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=2)
    flavours = ("normal", "normal", "normal", "positive")
    parameters = [b.constant(b.numbers(x.array.dtype, x.shape[1:2], flavour)) for flavour in flavours]
    b.add(op_type, x, *parameters, epsilon=b.one_of(1e-5, 1e-3))


def _layer_norm(b: ModelBuilder, op_type: str) -> None:
    """LayerNormalization and RMSNormalization."""
    x = b.pick(low=1)
    axis = axis_of(b, x.rank)
    shape = x.shape[axis:]
    parameters = [b.constant(b.numbers(x.array.dtype, shape))]
    if op_type == "LayerNormalization" and b.flag():
        parameters.append(b.constant(b.numbers(x.array.dtype, shape)))
    b.add(op_type, x, *parameters, axis=axis, epsilon=b.one_of(1e-5, 1e-3))


def _channel_norm(b: ModelBuilder, op_type: str) -> None:
    """InstanceNormalization and GroupNormalization."""
    x = b.pick(lambda v: v.array[0, 0].size > 1, low=3)
    channels = x.shape[1]
    parameters = [b.constant(b.numbers(x.array.dtype, (channels,))) for _ in range(2)]
    groups = b.one_of(*(size for size in range(1, channels + 1) if channels % size == 0))
    extra: dict[str, Any] = {"num_groups": groups} if op_type == "GroupNormalization" else {}
    b.add(op_type, x, *parameters, **extra)


def _lrn(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(lambda v: v.array.dtype == np.float32, low=4, high=4)
    b.add(op_type, x, size=b.one_of(3, 1, 5), alpha=b.real(0, 1), beta=b.one_of(0.75, 0.5), bias=b.one_of(1.0, 2.0))


def _lp_norm(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1)
    b.add(op_type, x, axis=axis_of(b, x.rank), p=b.one_of(2, 1))


_ANY: dict[str, Use] = {
    **{name: partial(_unary, dtypes="ffi") for name in ("Abs", "Neg", "Sign")},
    **{
        name: _unary
        for name in ("Sigmoid", "Tanh", "Erf", "Softplus", "Softsign", "Sin", "Cos", "Floor", "Ceil", "Round")
    },
    **{name: _unary for name in ("Mish", "HardSwish", "IsNaN")},
    "Relu": partial(_unary, dtypes="ffi"),
    "Not": partial(_unary, dtypes="b"),
    "Exp": partial(_unary, low=-10, high=4),
    "Log": partial(_unary, flavour="positive", low=0.05),
    "Sqrt": partial(_unary, flavour="positive", low=0.05),
    "Reciprocal": partial(_unary, flavour="positive", low=0.05),
    "Elu": partial(_unary, attributes={"alpha": (0.1, 2)}),
    "Celu": partial(_unary, attributes={"alpha": (0.1, 2)}),
    "LeakyRelu": partial(_unary, attributes={"alpha": (-0.5, 2)}),
    "ThresholdedRelu": partial(_unary, attributes={"alpha": (-1, 1)}),
    "Selu": partial(_unary, attributes={"alpha": (0.5, 2), "gamma": (0.5, 2)}),
    "HardSigmoid": partial(_unary, attributes={"alpha": (0.1, 1), "beta": (0, 1)}),
    "Swish": partial(_unary, attributes={"alpha": (0.5, 2)}),
    **{name: partial(_unary, flavour="unit", low=-0.95, high=0.95) for name in ("Asin", "Atanh")},
    "Acos": partial(_unary, flavour="unit", low=-0.95, high=0.95),
    "Tan": partial(_unary, flavour="unit", low=-1.2, high=1.2),
    **{name: _unary for name in ("Atan", "Asinh", "Sinh", "Cosh")},
    "Shrink": partial(_unary, attributes={"lambd": (0, 1), "bias": (-0.5, 0.5)}),
    "BitwiseNot": partial(_unary, dtypes="iu"),
}
"""Operators of one operand."""

USES: dict[str, Use] = {
    **_ANY,
    "Gelu": _gelu,
    "IsInf": _is_inf,
    **{name: _binary for name in ("Add", "Sub", "Mul", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")},
    "Div": partial(_binary, flavour="positive"),
    **{name: partial(_binary, dtypes="b") for name in ("And", "Or", "Xor")},
    **{name: partial(_binary, dtypes="iu") for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")},
    "Pow": _pow,
    "Mod": _mod,
    "Max": partial(_variadic, dtypes="ffi"),
    "Min": partial(_variadic, dtypes="ffi"),
    "Sum": _variadic,
    "Mean": _variadic,
    "Where": _where,
    "Clip": _clip,
    "Cast": _cast,
    "CastLike": _cast,
    "PRelu": _prelu,
    **{name: partial(_reduce, dtypes="ffi") for name in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1")},
    **{name: _reduce for name in ("ReduceMean", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")},
    "ReduceProd": partial(_reduce, dtypes="ffi", flavour="positive", low=0.3),
    "ReduceLogSum": partial(_reduce, flavour="positive", low=0.1),
    **{name: _along_axis for name in ("Softmax", "LogSoftmax", "Hardmax")},
    "ArgMax": _arg,
    "ArgMin": _arg,
    "TopK": _top_k,
    "CumSum": _cum_sum,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
    "InstanceNormalization": _channel_norm,
    "GroupNormalization": _channel_norm,
    "LRN": _lrn,
    "LpNormalization": _lp_norm,
}
"""ONNX operator -> how a random model uses it."""
