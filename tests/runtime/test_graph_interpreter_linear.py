"""matmul, conv, conv_transpose and pool of the graph level against onnxruntime."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from neuron_dialects.dtypes import BF16, F16, F32, F64, I8, I32, I64, UI8, DType
from neuron_dialects.graph import ConvOp, ConvTransposeOp, MatMulOp, PoolKind, PoolOp
from runtime.graph_interpreter import linear
from tests.graph_level import Array, assert_close, interpret, random_array, run_node


def arrays(dtype: DType, *shapes: tuple[int, ...], seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [random_array(dtype, shape, rng) for shape in shapes]


MATMULS = [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 1, 3, 4), (6, 4, 5)), ((1, 4), (4, 1)), ((0, 4), (4, 2))]


@pytest.mark.parametrize(("left", "right"), MATMULS)
@pytest.mark.parametrize("dtype", [F32, F64, I32, I64], ids=str)
def test_matmul(left: tuple[int, ...], right: tuple[int, ...], dtype: DType):
    a, b = arrays(dtype, left, right)
    assert_close(interpret(lambda a, b: MatMulOp(a, b), a, b), run_node("MatMul", [a, b]), 1e-6)


@pytest.mark.parametrize(("transpose_a", "transpose_b"), list(product([False, True], repeat=2)))
def test_matmul_of_transposed_operands(transpose_a: bool, transpose_b: bool):
    a, b = arrays(F32, (2, 3, 4), (2, 4, 5))
    given_a = np.ascontiguousarray(a.swapaxes(1, 2)) if transpose_a else a
    given_b = np.ascontiguousarray(b.swapaxes(1, 2)) if transpose_b else b
    actual = interpret(lambda a, b: MatMulOp(a, b, transpose_a=transpose_a, transpose_b=transpose_b), given_a, given_b)
    assert_close(actual, run_node("MatMul", [a, b]), 1e-6)


# The sum of 4096 products of ones is exact in f32 and would stop at 256 or 2048 in the element type.
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_matmul_of_narrow_floats_accumulates_in_f32(dtype: DType):
    a, b = np.ones((1, 4097), dtype.numpy), np.ones((4097, 1), dtype.numpy)
    assert interpret(lambda a, b: MatMulOp(a, b), a, b).astype(np.float32) == np.float32(4097).astype(dtype.numpy)
    # Kept in f32, not even the last rounding takes place.
    exact = interpret(lambda a, b: MatMulOp(a, b, accumulate_f32=True), a, b)
    assert exact.dtype == np.float32
    assert exact == 4097


def test_matmul_of_bytes_wraps():
    a, b = np.full((1, 3), 100, np.int8), np.full((3, 1), 100, np.int8)
    assert interpret(lambda a, b: MatMulOp(a, b), a, b).item() == np.array(30000).astype(np.int8)


CONVOLUTIONS = [
    # (x, w, groups, strides, pads, dilations)
    ((1, 3, 8, 8), (4, 3, 3, 3), 1, (1, 1), (1, 1, 1, 1), (1, 1)),
    ((2, 4, 9, 7), (6, 4, 3, 2), 1, (2, 3), (0, 1, 2, 0), (1, 1)),
    ((1, 4, 9, 9), (6, 2, 3, 3), 2, (1, 2), (2, 2, 2, 2), (2, 2)),
    ((2, 5, 6, 6), (5, 1, 3, 3), 5, (1, 1), (1, 1, 1, 1), (1, 1)),
    ((1, 3, 7, 5), (6, 1, 3, 3), 3, (2, 1), (1, 0, 0, 1), (1, 2)),
    ((2, 3, 5, 5), (4, 3, 1, 1), 1, (1, 1), (0, 0, 0, 0), (1, 1)),
    ((2, 3, 5, 5), (4, 3, 1, 1), 1, (2, 2), (0, 0, 0, 0), (1, 1)),
    ((1, 3, 10), (4, 3, 3), 1, (2,), (1, 1), (1,)),
    ((1, 4, 10), (4, 1, 5), 4, (1,), (2, 2), (1,)),
    ((1, 2, 4, 5, 6), (3, 2, 3, 2, 3), 1, (1, 2, 1), (1, 0, 1, 1, 1, 1), (1, 1, 2)),
]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_conv(case: tuple[Any, ...], with_bias: bool):
    x_shape, w_shape, groups, strides, pads, dilations = case
    x, w, bias = arrays(F32, x_shape, w_shape, (w_shape[0],))
    operands = [x, w, bias] if with_bias else [x, w]
    expected = run_node("Conv", operands, {"strides": strides, "pads": pads, "dilations": dilations, "group": groups})
    actual = interpret(
        lambda *given: ConvOp(*given, strides=strides, pads=pads, dilations=dilations, groups=groups), *operands
    )
    assert_close(actual, expected, 2e-6)


# A large matrix of windows is made slab by slab, with the same result.
def test_conv_in_slabs(monkeypatch: pytest.MonkeyPatch):
    x, w = arrays(F32, (2, 4, 11, 6), (6, 2, 3, 3))

    def run() -> Array:
        return interpret(lambda x, w: ConvOp(x, w, strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), groups=2), x, w)

    whole = run()
    monkeypatch.setattr(linear, "_WINDOW_MATRIX_BYTES", 2 * 6 * 18 * 4)
    assert_close(run(), whole, 1e-6)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_conv_of_narrow_floats_rounds_once(dtype: DType):
    x, w = arrays(dtype, (1, 8, 6, 6), (4, 8, 3, 3))
    bias = arrays(F32, (4,))[0]
    window: dict[str, Any] = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    wide = interpret(lambda *given: ConvOp(*given, **window), x.astype(np.float32), w.astype(np.float32), bias)
    narrow = interpret(lambda *given: ConvOp(*given, **window), x, w, bias.astype(dtype.numpy))
    assert narrow.dtype == dtype.numpy
    kept = interpret(lambda *given: ConvOp(*given, **window, accumulate_f32=True), x, w, bias)
    assert_close(kept, wide, 1e-6)


TRANSPOSED = [
    # (x, w, groups, strides, pads, dilations, output_padding)
    ((1, 3, 5, 5), (3, 4, 3, 3), 1, (2, 2), (1, 1, 1, 1), (1, 1), (1, 1)),
    ((2, 4, 4, 3), (4, 3, 2, 3), 2, (1, 2), (0, 1, 1, 0), (1, 1), (0, 0)),
    ((1, 4, 4, 4), (4, 1, 4, 4), 4, (2, 2), (1, 1, 1, 1), (1, 1), (0, 0)),
    ((1, 2, 5, 4), (2, 3, 3, 2), 1, (3, 2), (0, 0, 0, 0), (2, 2), (2, 1)),
    ((1, 2, 6), (2, 3, 4), 1, (2,), (1, 1), (1,), (0,)),
    ((1, 2, 3, 3, 2), (2, 2, 2, 2, 2), 1, (2, 1, 2), (0, 0, 0, 0, 0, 0), (1, 1, 1), (0, 0, 0)),
]


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("case", TRANSPOSED, ids=lambda case: f"{case[0]}-{case[1]}")
def test_conv_transpose(case: tuple[Any, ...], with_bias: bool):
    x_shape, w_shape, groups, strides, pads, dilations, extra = case
    x, w, bias = arrays(F32, x_shape, w_shape, (w_shape[1] * groups,))
    operands = [x, w, bias] if with_bias else [x, w]
    expected = run_node(
        "ConvTranspose",
        operands,
        {"strides": strides, "pads": pads, "dilations": dilations, "output_padding": extra, "group": groups},
    )
    actual = interpret(
        lambda *given: ConvTransposeOp(
            *given, strides=strides, pads=pads, dilations=dilations, output_padding=extra, groups=groups
        ),
        *operands,
    )
    assert_close(actual, expected, 2e-6)


POOLS = [
    # (x, kernel, strides, pads, dilations, ceil_mode)
    ((1, 2, 8, 8), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
    ((2, 3, 9, 7), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), False),
    ((1, 2, 9, 8), (3, 2), (2, 3), (1, 0, 0, 1), (1, 1), True),
    ((1, 2, 6, 6), (6, 6), (1, 1), (0, 0, 0, 0), (1, 1), False),
    ((1, 2, 12), (3,), (2,), (1, 0), (1,), True),
    ((1, 2, 5, 6, 7), (2, 3, 2), (2, 2, 3), (0, 1, 0, 1, 1, 1), (1, 1, 1), False),
]


@pytest.mark.parametrize("case", [*POOLS, ((1, 2, 10, 10), (3, 2), (2, 2), (1, 1, 1, 1), (2, 3), False)], ids=str)
def test_max_pool(case: tuple[Any, ...]):
    shape, kernel, strides, pads, dilations, ceil_mode = case
    # Negative values: padding must not win.
    x = arrays(F32, shape)[0] - np.float32(5)
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    actual = interpret(
        lambda x: PoolOp(
            PoolKind.MAX, x, kernel=kernel, strides=strides, pads=pads, dilations=dilations, ceil_mode=ceil_mode
        ),
        x,
    )
    assert_close(actual, run_node("MaxPool", [x], {**attributes, "ceil_mode": int(ceil_mode)}), 0.0)


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_average_pool(case: tuple[Any, ...], count_include_pad: bool):
    shape, kernel, strides, pads, dilations, ceil_mode = case
    x = arrays(F32, shape)[0]
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil_mode)}
    actual = interpret(
        lambda x: PoolOp(
            PoolKind.AVERAGE,
            x,
            kernel=kernel,
            strides=strides,
            pads=pads,
            dilations=dilations,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        ),
        x,
    )
    expected = run_node("AveragePool", [x], {**attributes, "count_include_pad": int(count_include_pad)}, opset=19)
    assert_close(actual, expected, 2e-6)


@pytest.mark.parametrize("dtype", [I8, UI8, F16], ids=str)
def test_max_pool_of_other_types(dtype: DType):
    x = random_array(dtype, (1, 2, 6, 6), np.random.default_rng(0))
    actual = interpret(
        lambda x: PoolOp(PoolKind.MAX, x, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1)), x
    )
    expected = run_node("MaxPool", [x], {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)})
    assert_close(actual, expected)


# A batch of no images, or a layer without channels: results without elements, or of zeros.
def test_empty_tensors():
    window: dict[str, Any] = {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    empty, w = np.zeros((0, 2, 4, 4), np.float32), np.ones((2, 2, 3, 3), np.float32)
    assert interpret(lambda x, w: ConvOp(x, w, **window), empty, w).shape == (0, 2, 2, 2)
    transposed = interpret(lambda x, w: ConvTransposeOp(x, w, output_padding=(0, 0), **window), empty, w)
    assert transposed.shape == (0, 2, 6, 6)
    pooled = interpret(lambda x: PoolOp(PoolKind.MAX, x, kernel=(2, 2), **window), empty)
    assert pooled.shape == (0, 2, 3, 3)
    nothing, none = np.zeros((1, 0, 4, 4), np.float32), np.zeros((2, 0, 3, 3), np.float32)
    assert not interpret(lambda x, w: ConvOp(x, w, **window), nothing, none).any()
    a, b = np.zeros((2, 0), np.float32), np.zeros((0, 3), np.float32)
    assert interpret(lambda a, b: MatMulOp(a, b), a, b).tolist() == [[0.0] * 3] * 2
