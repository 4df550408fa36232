"""Reductions and normalisations of the graph level against onnxruntime."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from neuron_dialects.dtypes import BF16, F16, F32, I32, I64, UI8, DType
from neuron_dialects.graph import BatchNormOp, LayerNormOp, ReduceKind, ReduceOp, SoftmaxOp
from tests.graph_level import Array, assert_close, interpret, random_array, run_node

REDUCTIONS = {
    ReduceKind.SUM: "ReduceSum",
    ReduceKind.MEAN: "ReduceMean",
    ReduceKind.MAX: "ReduceMax",
    ReduceKind.MIN: "ReduceMin",
    ReduceKind.PROD: "ReduceProd",
    ReduceKind.L1: "ReduceL1",
    ReduceKind.L2: "ReduceL2",
    ReduceKind.SUM_SQUARE: "ReduceSumSquare",
    ReduceKind.LOG_SUM: "ReduceLogSum",
    ReduceKind.LOG_SUM_EXP: "ReduceLogSumExp",
}


def onnx_reduce(kind: ReduceKind, x: Array, axes: list[int], keep_dims: bool) -> Array:
    return run_node(REDUCTIONS[kind], [x, np.array(axes, np.int64)], {"keepdims": int(keep_dims)})


def test_every_kind_is_tested():
    assert set(REDUCTIONS) == set(ReduceKind)


@pytest.mark.parametrize("keep_dims", [True, False])
@pytest.mark.parametrize("axes", [[0], [2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("kind", REDUCTIONS, ids=str)
def test_reduce(kind: ReduceKind, axes: list[int], keep_dims: bool):
    x = np.abs(random_array(F32, (3, 4, 5), np.random.default_rng(0))) + np.float32(0.1)
    actual = interpret(lambda x: ReduceOp(kind, x, axes, keep_dims=keep_dims), x)
    assert_close(actual, onnx_reduce(kind, x, axes, keep_dims), 1e-6)


ON_INTEGERS = [ReduceKind.SUM, ReduceKind.MAX, ReduceKind.MIN, ReduceKind.PROD, ReduceKind.L1]


@pytest.mark.parametrize(("kind", "dtype"), [(ReduceKind.MEAN, I32), *product(ON_INTEGERS, [I32, I64])], ids=str)
def test_reduce_integers(kind: ReduceKind, dtype: DType):
    x = random_array(dtype, (3, 5), np.random.default_rng(2))
    assert_close(interpret(lambda x: ReduceOp(kind, x, [1], keep_dims=True), x), onnx_reduce(kind, x, [1], True))


def test_reduce_l2_of_integers_truncates():
    x = np.array([[3, 4], [1, 1]], np.int32)
    assert interpret(lambda x: ReduceOp(ReduceKind.L2, x, [1], keep_dims=False), x).tolist() == [5, 1]


# Without axes nothing is added up, but the inner function of a kind still applies.
def test_reduce_over_no_axes():
    x = np.array([[1.0, -2.0]], np.float32)
    assert interpret(lambda x: ReduceOp(ReduceKind.SUM, x, [], keep_dims=True), x).tolist() == [[1.0, -2.0]]
    assert interpret(lambda x: ReduceOp(ReduceKind.SUM_SQUARE, x, [], keep_dims=False), x).tolist() == [[1.0, 4.0]]
    assert interpret(lambda x: ReduceOp(ReduceKind.L1, x, [], keep_dims=False), x).tolist() == [[1.0, 2.0]]


# exp(1000) overflows, its logarithm must not; an infinite maximum is kept.
def test_log_sum_exp_is_stable():
    x = np.array([[1000.0, 1000.0], [-np.inf, -np.inf], [np.inf, 1.0], [-np.inf, 2.0]], np.float32)
    actual = interpret(lambda x: ReduceOp(ReduceKind.LOG_SUM_EXP, x, [1], keep_dims=False), x)
    assert_close(actual, np.array([1000 + np.log(2), -np.inf, np.inf, 2.0], np.float32), 1e-6)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_narrow_floats_are_summed_wide(dtype: DType):
    # In the element type itself the sum would stop growing at 2**8 (bf16) or 2**11 (f16).
    x = np.ones((1, 4096), dtype.numpy)
    assert interpret(lambda x: ReduceOp(ReduceKind.SUM, x, [1], keep_dims=False), x).astype(np.float32) == 4096


def test_reduce_an_empty_dimension():
    x = np.zeros((2, 0), np.float32)
    assert interpret(lambda x: ReduceOp(ReduceKind.SUM, x, [1], keep_dims=False), x).tolist() == [0.0, 0.0]
    assert interpret(lambda x: ReduceOp(ReduceKind.PROD, x, [1], keep_dims=False), x).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("log", [False, True])
def test_softmax(axis: int, log: bool):
    x = random_array(F32, (3, 4, 5), np.random.default_rng(5)) * np.float32(30)
    expected = run_node("LogSoftmax" if log else "Softmax", [x], {"axis": axis})
    assert_close(interpret(lambda x: SoftmaxOp(x, axis, log=log), x), expected, 1e-6)


def test_softmax_of_masked_scores():
    x = np.array([[0.0, -np.inf, 1.0], [-3.4e38, -3.4e38, -3.4e38]], np.float32)
    assert_close(interpret(lambda x: SoftmaxOp(x, 1), x), run_node("Softmax", [x], {"axis": 1}), 1e-6)


@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_softmax_of_narrow_floats_rounds_once(dtype: DType):
    x = random_array(dtype, (2, 64), np.random.default_rng(6))
    wide = interpret(lambda x: SoftmaxOp(x, 1), x.astype(np.float32))
    np.testing.assert_array_equal(interpret(lambda x: SoftmaxOp(x, 1), x), wide.astype(dtype.numpy))


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_norm(axis: int, with_bias: bool):
    rng = np.random.default_rng(7)
    x = random_array(F32, (2, 3, 8), rng) + np.float32(2)
    scale, bias = (random_array(F32, x.shape[axis:], rng) for _ in range(2))
    parameters = [scale, bias] if with_bias else [scale]
    actual = interpret(lambda x, *given: LayerNormOp(x, *given, axis=axis, epsilon=1e-5), x, *parameters)
    assert_close(actual, run_node("LayerNormalization", [x, *parameters], {"axis": axis, "epsilon": 1e-5}), 2e-6)


def test_uncentred_layer_norm_divides_by_the_root_mean_square():
    x = random_array(F32, (2, 3, 8), np.random.default_rng(9)) + np.float32(2)
    actual = interpret(lambda x: LayerNormOp(x, axis=1, epsilon=1e-5, uncentred=True), x)
    assert_close(actual, x / np.sqrt(np.mean(x * x, axis=(1, 2), keepdims=True) + np.float32(1e-5)), 2e-6)


def test_layer_norm_with_only_one_of_its_parameters():
    rng = np.random.default_rng(8)
    x, parameter = random_array(F32, (2, 8), rng), random_array(F32, (8,), rng)
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)

    def both(scale: Array, bias: Array) -> Array:
        return interpret(lambda x, s, b: LayerNormOp(x, s, b, axis=1, epsilon=1e-3), x, scale, bias)

    assert_close(interpret(lambda x: LayerNormOp(x, axis=1, epsilon=1e-3), x), both(ones, zeros))
    only_bias = interpret(lambda x, b: LayerNormOp(x, None, b, axis=1, epsilon=1e-3), x, parameter)
    assert_close(only_bias, both(ones, parameter))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 5), (2, 3, 4, 4), (1, 3, 2, 2, 2)])
def test_batch_norm(shape: tuple[int, ...]):
    rng = np.random.default_rng(9)
    x = random_array(F32, shape, rng)
    scale, bias, mean = (random_array(F32, (3,), rng) for _ in range(3))
    operands = [x, scale, bias, mean, np.abs(random_array(F32, (3,), rng))]
    actual = interpret(lambda *values: BatchNormOp(*values, epsilon=1e-5), *operands)
    assert_close(actual, run_node("BatchNormalization", operands, {"epsilon": 1e-5}), 2e-6)


def test_maximum_of_bytes():
    x = random_array(UI8, (4, 6), np.random.default_rng(1))
    actual = interpret(lambda x: ReduceOp(ReduceKind.MAX, x, [1], keep_dims=False), x)
    assert_close(actual, onnx_reduce(ReduceKind.MAX, x, [1], False))
