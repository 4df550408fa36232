"""How random models use operators that multiply and accumulate, pools, and quantised arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.random_models.builder import Array, ModelBuilder, Value
from tests.random_models.elementwise import Use, axis_of


def _matmul(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1)
    depth = x.shape[-1]
    columns = b.one_of(4, 1, 7, 33, 129, 520)
    shape: tuple[int, ...] = (depth, columns) if b.one_of(True, True, False) else (depth,)
    if x.rank > 2 and len(shape) == 2 and b.flag():
        shape = (*b.broadcast_partner(x.shape[:-2]), *shape)
    b.add(op_type, x, b.like(x, shape))


def _gemm(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=2, high=2)
    transposed, transpose_b = b.flag(), b.flag()
    rows, depth = reversed(x.shape) if transposed else x.shape
    columns = b.one_of(4, 1, 7, 33, 129)
    w = b.like(x, (columns, depth) if transpose_b else (depth, columns))
    bias = [b.like(x, b.broadcast_partner((rows, columns)))] if b.flag() else []
    factors = {name: b.one_of(1.0, 0.5, 2.0) for name in ("alpha", "beta") if b.flag()}
    b.add(op_type, x, w, *bias, transA=int(transposed), transB=int(transpose_b), **factors)


def _einsum(b: ModelBuilder, op_type: str) -> None:
    equation = b.one_of("ij,jk->ik", "bij,bjk->bik", "bhid,bhjd->bhij", "ij,ij->i", "ij->ji", "bij,kj->bik", "i,j->ij")
    terms = equation.partition("->")[0].split(",")
    sizes = {letter: b.one_of(3, 1, 5, 8, 16) for letter in "bhijkd" if letter in equation}
    operands = [b.tensor(np.float32, [sizes[letter] for letter in term]) for term in terms]
    b.add(op_type, *operands, equation=equation)


def _spatial(b: ModelBuilder, size: tuple[int, ...], kernel: list[int], dilated: bool) -> dict[str, Any]:
    """Strides, pads and dilations for windows over `size`."""
    attributes: dict[str, Any] = {"strides": [b.one_of(1, 2, 3) for _ in kernel]}
    if dilated and b.one_of(False, False, True):
        attributes["dilations"] = [b.one_of(1, 2) for _ in kernel]
    automatic = b.one_of("NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
    if automatic != "NOTSET":
        attributes["auto_pad"] = automatic
    elif b.flag():
        # A window must not lie in the padding alone.
        attributes["pads"] = [b.integer(0, min(2, length - 1)) for length in (*kernel, *kernel)]
    return attributes


def _image(b: ModelBuilder, channels: int) -> Value:
    """[N, C, ...] with one to three spatial dimensions."""
    rank = b.one_of(2, 1, 3)
    found = [v for v in b.values if v.array.dtype == np.float32 and v.rank == rank + 2 and v.shape[1] == channels]
    if found and b.flag():
        return b.one_of(*found)
    size = [b.one_of(5, 6, 7, 9, 12) for _ in range(rank)]
    return b.input(b.numbers(np.float32, (b.integer(1, 2), channels, *size)))


def _kernel(b: ModelBuilder, size: tuple[int, ...]) -> list[int]:
    return [min(b.one_of(3, 1, 2, 5), length) for length in size]


def _conv(b: ModelBuilder, op_type: str) -> None:
    groups = b.one_of(1, 1, 2, 4, 3)
    per_group, outputs = b.one_of(1, 2, 3, 40), groups * b.one_of(1, 2, 4)
    x = _image(b, groups * per_group)
    kernel = _kernel(b, x.shape[2:])
    attributes = _spatial(b, x.shape[2:], kernel, dilated=True)
    w = b.constant(b.numbers(np.float32, (outputs, per_group, *kernel)))
    bias = [b.constant(b.numbers(np.float32, (outputs,)))] if b.flag() else []
    b.add(op_type, x, w, *bias, group=groups, **({"kernel_shape": kernel} if b.flag() else {}), **attributes)


def _conv_transpose(b: ModelBuilder, op_type: str) -> None:
    groups = b.one_of(1, 1, 2)
    per_group, outputs = b.one_of(1, 2, 3), b.one_of(1, 2, 4)
    x = _image(b, groups * per_group)
    kernel = _kernel(b, x.shape[2:])
    attributes: dict[str, Any] = {"strides": [b.one_of(1, 2, 3) for _ in kernel]}
    if b.flag():
        attributes["pads"] = [b.integer(0, length - 1) for length in (*kernel, *kernel)]
    if b.flag():
        attributes["output_padding"] = [b.integer(0, stride - 1) for stride in attributes["strides"]]
    w = b.constant(b.numbers(np.float32, (groups * per_group, outputs, *kernel)))
    bias = [b.constant(b.numbers(np.float32, (groups * outputs,)))] if b.flag() else []
    b.add(op_type, x, w, *bias, group=groups, **attributes)


def _pool(b: ModelBuilder, op_type: str) -> None:
    x = _image(b, b.one_of(3, 1, 8, 130))
    kernel = _kernel(b, x.shape[2:])
    attributes = _spatial(b, x.shape[2:], kernel, dilated=op_type == "MaxPool")
    if b.one_of(False, False, True):
        attributes["ceil_mode"] = 1
    if op_type == "LpPool":
        attributes["p"] = b.one_of(2, 1)
    if op_type == "AveragePool":
        attributes["count_include_pad"] = int(b.flag())
    b.add(op_type, x, kernel_shape=kernel, **attributes)


def _global_pool(b: ModelBuilder, op_type: str) -> None:
    b.add(op_type, b.pick(low=3), **({"p": b.one_of(2, 1)} if op_type == "GlobalLpPool" else {}))


# Quantised


def _scale(b: ModelBuilder) -> Value:
    return b.constant(np.array(b.one_of(0.5, 0.1, 0.03), np.float32))


def _zero_point(b: ModelBuilder, dtype: Any) -> Value:
    return b.constant(np.array(b.one_of(0, 3, 10), dtype))


def _bytes(b: ModelBuilder, dtype: Any, shape: tuple[int, ...]) -> Array:
    rng = np.random.default_rng((b.seed, len(b.constants), len(b.inputs), *shape))
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


def _quantize(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(lambda v: v.array.dtype == np.float32)
    b.add(op_type, x, _scale(b), _zero_point(b, b.one_of(np.int8, np.uint8)))


def _dequantize(b: ModelBuilder, op_type: str) -> None:
    dtype = b.one_of(np.int8, np.uint8)
    found = [v for v in b.values if v.array.dtype == dtype]
    x = b.one_of(*found) if found and b.flag() else b.input(_bytes(b, dtype, b.shape(0, 4)))
    if x.rank and b.flag() and b.opset >= 13:
        axis = axis_of(b, x.rank)
        scale = b.constant(b.numbers(np.float32, (x.shape[axis],), "positive"))
        zero = b.constant(b.numbers(dtype, (x.shape[axis],), "positive"))
        b.add(op_type, x, scale, zero, axis=axis)
    else:
        b.add(op_type, x, _scale(b), _zero_point(b, dtype))


def _dynamic_quantize(b: ModelBuilder, op_type: str) -> None:
    b.add(op_type, b.pick(lambda v: v.array.dtype == np.float32), outputs=3)


def _matmul_integer(b: ModelBuilder, op_type: str) -> None:
    rows, depth, columns = b.integer(1, 9), b.one_of(4, 1, 16, 130), b.one_of(3, 1, 33)
    x = b.input(_bytes(b, np.uint8, (*b.shape(0, 1, 3), rows, depth)))
    w = b.constant(_bytes(b, b.one_of(np.int8, np.uint8), (depth, columns)))
    points = [_zero_point(b, v.array.dtype) for v in (x, w)] if b.flag() else []
    b.add(op_type, x, w, *points)


def _qlinear_matmul(b: ModelBuilder, op_type: str) -> None:
    rows, depth, columns = b.integer(1, 9), b.one_of(4, 1, 16, 33), b.one_of(3, 1, 33)
    dtype = b.one_of(np.uint8, np.int8)
    x, w = b.input(_bytes(b, dtype, (rows, depth))), b.constant(_bytes(b, dtype, (depth, columns)))
    scales = [b.constant(np.array(value, np.float32)) for value in (0.013, 0.02, 0.37)]
    x_zero, w_zero, y_zero = (_zero_point(b, dtype) for _ in range(3))
    b.add(op_type, x, scales[0], x_zero, w, scales[1], w_zero, scales[2], y_zero)


def _conv_integer(b: ModelBuilder, op_type: str) -> None:
    shape = (b.integer(1, 2), b.integer(1, 4), b.integer(3, 8), b.integer(3, 8))
    x = b.input(_bytes(b, np.uint8, shape))
    w = b.constant(_bytes(b, np.uint8, (b.integer(1, 5), shape[1], 3, b.one_of(1, 3))))
    attributes: dict[str, Any] = {"strides": [b.one_of(1, 2)] * 2}
    if op_type == "ConvInteger":
        b.add(op_type, x, w, *([_zero_point(b, np.uint8)] if b.flag() else []), **attributes)
        return
    scales = [b.constant(np.array(value, np.float32)) for value in (0.013, 0.02, 0.37)]
    zeros = [_zero_point(b, np.uint8) for _ in range(3)]
    bias = [b.constant(np.arange(w.shape[0], dtype=np.int32) * 100)] if b.flag() else []
    b.add(op_type, x, scales[0], zeros[0], w, scales[1], zeros[1], scales[2], zeros[2], *bias, **attributes)


USES: dict[str, Use] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "LpPool": _pool,
    **{name: _global_pool for name in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")},
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
    "QLinearMatMul": _qlinear_matmul,
    "ConvInteger": _conv_integer,
    "QLinearConv": _conv_integer,
}
"""ONNX operator -> how a random model uses it."""
