"""Graph operators of host functions as ONNX models: onnxruntime must give what the graph interpreter gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from lowering.nisa_to_neff.host_model import host_model_bytes
from lowering.nisa_to_neff.host_model.translate import WRITTEN_OPS
from neuron_dialects.dtypes import BF16, DTYPES, F16, F32, F64, I1, I8, I32, I64, UI8, DType, dtype_by_name
from neuron_dialects.graph import (
    UNARY_PARAMETERS,
    BatchNormOp,
    BinaryKind,
    BinaryOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    DerivedWeightOp,
    GatherOp,
    Graph,
    LayerNormOp,
    MatMulOp,
    PadMode,
    PadOp,
    PoolKind,
    PoolOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    ScatterOp,
    SelectOp,
    SliceOp,
    SoftmaxOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    YieldOp,
)
from runtime.graph_interpreter import run_graph
from tests.graph_level import Array, assert_close, build, no_weights
from tests.lowering.host_models import check, run_model, values

I16, UI16, UI32, UI64 = (dtype_by_name(name) for name in ("i16", "ui16", "ui32", "ui64"))
FLOATS = [F32, F64, F16, BF16]
INTEGERS = [I8, UI8, I16, UI16, I32, UI32, I64, UI64]
LOGICAL = (BinaryKind.AND, BinaryKind.OR, BinaryKind.XOR)
BITWISE = (BinaryKind.BIT_AND, BinaryKind.BIT_OR, BinaryKind.BIT_XOR, BinaryKind.SHIFT_LEFT, BinaryKind.SHIFT_RIGHT)
WITHOUT_F64_KERNEL = (UnaryKind.ERF, UnaryKind.GELU, UnaryKind.ATAN)
UNARY = [
    (kind, dtype)
    for kind in UnaryKind
    for dtype in FLOATS
    if kind is not UnaryKind.NOT and not (dtype is F64 and kind in WITHOUT_F64_KERNEL)
]


def nonzero(dtype: DType, *shape: int, seed: int = 1) -> Array:
    """Divisors: of either sign, no zeros."""
    array = values(dtype, *shape, seed=seed)
    return np.where(array == 0, np.array(3, dtype.numpy), array)


# Every operator of the dialect that computes or holds values has a way into a model.
def test_every_operator_is_written():
    assert WRITTEN_OPS == set(Graph.operations) - {DerivedWeightOp, YieldOp}


@pytest.mark.parametrize(("kind", "dtype"), UNARY, ids=str)
def test_unary(kind: UnaryKind, dtype: DType):
    x = values(dtype, 3, 17) * 3
    if kind in (UnaryKind.LOG, UnaryKind.SQRT, UnaryKind.RSQRT):
        x = np.abs(x) + dtype.numpy.type(0.1)
    parameters = dict(zip(UNARY_PARAMETERS.get(kind, ()), (0.3, 0.7), strict=False))
    check(lambda x: UnaryOp(kind, x, **parameters), x.astype(dtype.numpy))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize(
    "kind", [UnaryKind.ABS, UnaryKind.NEG, UnaryKind.SIGN, UnaryKind.RELU, UnaryKind.SQUARE], ids=str
)
def test_unary_on_integers(kind: UnaryKind, dtype: DType):
    limits = np.iinfo(dtype.numpy)
    check(lambda x: UnaryOp(kind, x), np.array([limits.min + 1, 0, 1, 7, limits.max], dtype.numpy))


def test_not():
    check(lambda x: UnaryOp(UnaryKind.NOT, x), values(I1, 5))


# NaN passes through what ONNX says it passes through.
def test_special_values():
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 1.5], np.float32)
    check(lambda x: UnaryOp(UnaryKind.IS_NAN, x), x)
    check(lambda x: ClipOp(x, minimum=-1, maximum=1), x)
    for kind in (BinaryKind.MAX, BinaryKind.MIN):
        check(lambda a, b, kind=kind: BinaryOp(kind, a, b), x, np.zeros(5, np.float32))
    for kind in CompareKind:
        check(lambda a, b, kind=kind: CompareOp(kind, a, b), x, x[::-1].copy())


@pytest.mark.parametrize("bounds", [(-1.0, 0.5), (None, 0.5), (0.1, None), (None, None), (2.0, 1.0)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_clip(dtype: DType, bounds: tuple[float | None, float | None]):
    check(lambda x: ClipOp(x, minimum=bounds[0], maximum=bounds[1]), values(dtype, 40))


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_clip_on_integers(dtype: DType):
    check(lambda x: ClipOp(x, minimum=2, maximum=5), values(dtype, 20))
    check(lambda x: ClipOp(x, minimum=-1e9, maximum=float("inf")), np.array([0, 100], dtype.numpy))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in BinaryKind if kind not in (*LOGICAL, *BITWISE)], ids=str)
def test_binary(kind: BinaryKind, dtype: DType):
    a, b = values(dtype, 4, 1, 5) * 4, nonzero(dtype, 4, 5)
    if kind is BinaryKind.POW:
        a = np.abs(a)
    if kind is BinaryKind.PRELU:
        a = np.broadcast_to(a, (4, 4, 5)).copy()
    check(lambda a, b: BinaryOp(kind, a, b), a.astype(dtype.numpy), b)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("kind", [kind for kind in BinaryKind if kind not in LOGICAL], ids=str)
def test_binary_on_integers(kind: BinaryKind, dtype: DType):
    a, b = values(dtype, 4, 30), nonzero(dtype, 30)
    if kind is BinaryKind.POW:
        b = values(UI8, 30).astype(dtype.numpy) % 4
    check(lambda a, b: BinaryOp(kind, a, b), a, b.astype(dtype.numpy))


@pytest.mark.parametrize("dtype", [I8, UI8, I32, I64], ids=str)
@pytest.mark.parametrize("kind", [BinaryKind.ADD, BinaryKind.SUB, BinaryKind.MUL], ids=str)
def test_integers_wrap(kind: BinaryKind, dtype: DType):
    limits = np.iinfo(dtype.numpy)
    a, b = np.array([limits.max, limits.min, limits.max]), np.array([1, 1, 3])
    check(lambda a, b: BinaryOp(kind, a, b), a.astype(dtype.numpy), b.astype(dtype.numpy))


# onnxruntime refuses the first division and dies of the second: neither may reach it.
@pytest.mark.parametrize("dtype", [I32, I64], ids=str)
@pytest.mark.parametrize("kind", [BinaryKind.DIV, BinaryKind.MOD, BinaryKind.FMOD], ids=str)
def test_divisions_without_a_result(kind: BinaryKind, dtype: DType):
    a, b = np.array([5, np.iinfo(dtype.numpy).min, -5, 7], dtype.numpy), np.array([0, -1, 3, -1], dtype.numpy)
    check(lambda a, b: BinaryOp(kind, a, b), a, b)


# A known divisor needs no guard: one node, one constant.
def test_division_by_a_constant():
    function = build(lambda a: BinaryOp(BinaryKind.DIV, a, ConstantOp(3, I64, (2,))), [np.array([7, -7])])
    model = onnx.load_from_string(host_model_bytes(function, no_weights))
    assert [node.op_type for node in model.graph.node] == ["Div", "Identity"]
    assert run_model(function, [np.array([7, -7])])[0].tolist() == [2, -2]


@pytest.mark.parametrize("kind", LOGICAL, ids=str)
def test_logical(kind: BinaryKind):
    check(lambda a, b: BinaryOp(kind, a, b), np.array([[True], [False]]), np.array([True, False]))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
@pytest.mark.parametrize("kind", list(CompareKind), ids=str)
def test_compare(kind: CompareKind, dtype: DType):
    check(lambda a, b: CompareOp(kind, a, b), values(dtype, 3, 20), values(dtype, 20, seed=0))


def test_compare_truth_values():
    for kind in (CompareKind.EQ, CompareKind.NE):
        check(lambda a, b, kind=kind: CompareOp(kind, a, b), values(I1, 9), values(I1, 9, seed=1))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, I1], ids=str)
def test_select(dtype: DType):
    arrays = values(I1, 4, 1), values(dtype, 4, 6), values(dtype, 6, seed=1)
    check(lambda c, a, b: SelectOp(c, a, b), *arrays, tolerance=0)


CAST_DTYPES = [dtype for dtype in DTYPES if dtype.onnx is not None]


@pytest.mark.parametrize("target", CAST_DTYPES, ids=str)
@pytest.mark.parametrize("source", CAST_DTYPES, ids=str)
def test_cast(source: DType, target: DType):
    x = np.array([0, 1, 2, 3, 7, 13, 100], np.float64)
    if source.is_float:
        x = np.concatenate([x, [0.1, 0.5, 1.5, 2.5, 99.9]])
    if source.is_signed and target.is_signed:
        x = np.concatenate([x, -x])
    check(lambda x: CastOp(x, target), x.astype(source.numpy), tolerance=0)


def test_cast_rounds_and_saturates():
    x = np.array([257.0, 259.0, 1e6, -1e6, np.inf, 1 + 2**-9], np.float32)
    for name in ("bf16", "f16", "f8e4m3fn", "f8e5m2"):
        check(lambda x, name=name: CastOp(x, dtype_by_name(name)), x, tolerance=0)
    check(lambda x: CastOp(x, UI8), np.array([300, -300, 2**40 + 5]))


# 1 + 2^-9 + 2^-9 in bf16: each sum is rounded, so that neither addition changes the 1.
def test_each_operator_rounds():
    def make(x: Any, y: Any) -> Any:
        return BinaryOp(BinaryKind.ADD, BinaryOp(BinaryKind.ADD, x, y), y)

    x, y = np.array([1.0], BF16.numpy), np.array([2.0**-9], BF16.numpy)
    assert run_model(build(make, [x, y]), [x, y])[0].astype(np.float32).tolist() == [1.0]
    check(make, x, y, tolerance=0)


# Reductions and normalisations


@pytest.mark.parametrize("axes", [[0], [1, 2], [0, 1, 2], []], ids=str)
@pytest.mark.parametrize("keep_dims", [False, True], ids=["drop", "keep"])
@pytest.mark.parametrize("kind", list(ReduceKind), ids=str)
def test_reduce(kind: ReduceKind, axes: list[int], keep_dims: bool):
    for dtype in FLOATS:
        x = np.abs(values(dtype, 3, 4, 5)) + dtype.numpy.type(0.5)
        check(lambda x: ReduceOp(kind, x, axes, keep_dims=keep_dims), x.astype(dtype.numpy))


@pytest.mark.parametrize("dtype", [dtype for dtype in INTEGERS if dtype is not UI64], ids=str)
@pytest.mark.parametrize(
    "kind", [kind for kind in ReduceKind if kind not in (ReduceKind.LOG_SUM, ReduceKind.LOG_SUM_EXP)], ids=str
)
def test_reduce_integers(kind: ReduceKind, dtype: DType):
    for axes in ([1], [0, 1], []):
        check(lambda x, axes=axes: ReduceOp(kind, x, axes, keep_dims=False), values(dtype, 6, 7))


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_softmax(dtype: DType, log: bool):
    for axis in range(3):
        check(lambda x, axis=axis: SoftmaxOp(x, axis, log=log), values(dtype, 2, 5, 3))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("given", ["", "scale", "bias", "scale bias"])
@pytest.mark.parametrize("uncentred", [False, True])
def test_layer_norm(given: str, dtype: DType, uncentred: bool):
    parameters = {name: values(dtype, 4, 5, seed=number) for number, name in enumerate(given.split())}

    def make(x: Any, *arguments: Any) -> LayerNormOp:
        named = dict(zip(parameters, arguments, strict=True))
        return LayerNormOp(x, named.get("scale"), named.get("bias"), axis=1, epsilon=1e-5, uncentred=uncentred)

    check(make, values(dtype, 3, 4, 5), *parameters.values(), tolerance={F32: 1e-5}.get(dtype))


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_batch_norm(dtype: DType, shape: tuple[int, ...]):
    scale, bias, mean, variance = (values(dtype, 3, seed=seed) for seed in range(4))
    arrays = values(dtype, *shape), scale, bias, mean, np.abs(variance) + dtype.numpy.type(0.1)
    check(lambda *xs: BatchNormOp(*xs, epsilon=1e-3), *(array.astype(dtype.numpy) for array in arrays), tolerance=None)


# Products and windows


@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS], ids=str)
def test_matmul(dtype: DType, flags: tuple[bool, bool]):
    a, b = values(dtype, 2, 1, 3, 5), values(dtype, 4, 5, 6, seed=1)
    a, b = (x.swapaxes(-1, -2).copy() if flag else x for x, flag in zip((a, b), flags, strict=True))
    check(lambda a, b: MatMulOp(a, b, transpose_a=flags[0], transpose_b=flags[1]), a, b)


# The sums of narrow floats are not rounded where the result is f32.
@pytest.mark.parametrize("dtype", [F16, BF16], ids=str)
def test_sums_kept_in_f32(dtype: DType):
    check(lambda a, b: MatMulOp(a, b, accumulate_f32=True), values(dtype, 3, 50), values(dtype, 50, 4, seed=1))
    check(
        lambda x, w, bias: ConvOp(x, w, bias, strides=[1], pads=[0, 0], dilations=[1], accumulate_f32=True),
        *(values(dtype, 1, 6, 9), values(dtype, 4, 6, 3, seed=1), values(F32, 4)),
    )


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((1, 4, 9), (6, 4, 3), {"strides": [2], "pads": [1, 0], "dilations": [1]}),
        ((2, 4, 7, 8), (6, 2, 3, 2), {"strides": [1, 2], "pads": [0, 1, 2, 1], "dilations": [2, 1], "groups": 2}),
        ((1, 4, 6, 6), (8, 1, 3, 3), {"strides": [1, 1], "pads": [1, 1, 1, 1], "dilations": [1, 1], "groups": 4}),
        ((1, 2, 4, 5, 6), (3, 2, 2, 3, 1), {"strides": [1, 2, 1], "pads": [0] * 6, "dilations": [1, 1, 1]}),
    ],
    ids=["1d", "2d groups", "depthwise", "3d"],
)
def test_conv(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any], dtype: DType):
    check(lambda x, w: ConvOp(x, w, **attributes), values(dtype, *x), values(dtype, *w, seed=1))
    bias = values(dtype, w[0], seed=2)
    check(lambda x, w, bias: ConvOp(x, w, bias, **attributes), values(dtype, *x), values(dtype, *w, seed=1), bias)


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize(
    ("x", "w", "attributes"),
    [
        ((1, 4, 5), (4, 3, 3), {"strides": [2], "pads": [1, 0], "dilations": [1], "output_padding": [1]}),
        (
            (2, 4, 4, 5),
            (4, 3, 3, 2),
            {"strides": [2, 1], "pads": [0, 1, 1, 0], "dilations": [1, 2], "output_padding": [1, 0], "groups": 2},
        ),
    ],
    ids=["1d", "2d groups"],
)
def test_conv_transpose(x: tuple[int, ...], w: tuple[int, ...], attributes: dict[str, Any], dtype: DType):
    arrays = values(dtype, *x), values(dtype, *w, seed=1)
    check(lambda x, w: ConvTransposeOp(x, w, **attributes), *arrays)
    bias = values(dtype, w[1] * attributes.get("groups", 1), seed=2)
    check(lambda x, w, bias: ConvTransposeOp(x, w, bias, **attributes), *arrays, bias)


WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 3, 10), {"kernel": [3], "strides": [2], "pads": [1, 0], "dilations": [1]}),
    ((2, 3, 7, 8), {"kernel": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1], "dilations": [1, 1], "ceil_mode": True}),
    ((1, 2, 9, 9), {"kernel": [2, 3], "strides": [1, 2], "pads": [0, 1, 0, 1], "dilations": [2, 1]}),
    ((1, 2, 5, 6, 7), {"kernel": [2, 2, 3], "strides": [2, 2, 2], "pads": [0] * 6, "dilations": [1] * 3}),
]


@pytest.mark.parametrize("dtype", [*FLOATS, I8, UI8], ids=str)
@pytest.mark.parametrize(("shape", "attributes"), WINDOWS, ids=["1d", "ceil", "dilated", "3d"])
def test_max_pool(shape: tuple[int, ...], attributes: dict[str, Any], dtype: DType):
    check(lambda x: PoolOp(PoolKind.MAX, x, **attributes), values(dtype, *shape))


@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize(("shape", "attributes"), WINDOWS, ids=["1d", "ceil", "dilated", "3d"])
def test_average_pool(shape: tuple[int, ...], attributes: dict[str, Any], dtype: DType, count_include_pad: bool):
    check(
        lambda x: PoolOp(PoolKind.AVERAGE, x, count_include_pad=count_include_pad, **attributes), values(dtype, *shape)
    )


# Movement: exact for every element type


@pytest.mark.parametrize("dtype", CAST_DTYPES, ids=str)
def test_movement(dtype: DType):
    x = values(dtype, 3, 4, 5)

    def corner(x: Any) -> Any:
        return ReshapeOp(SliceOp(x, [0, 0, 0], [3, 4, 2], [1, 1, 1]), [3, 4, 2, 1])

    def moved(x: Any) -> list[Any]:
        return [
            TransposeOp(x, [2, 0, 1]),
            ReshapeOp(x, [5, 12]),
            BroadcastOp(SliceOp(x, [0, 0, 0], [3, 1, 5], [1, 1, 1]), [2, 3, 7, 5]),
            ConcatOp([x, SliceOp(x, [2, 3, 0], [2, 4, 5], [-1, -1, 1])], 0),
            SliceOp(x, [2, 1, 4], [3, 2, 3], [-1, 2, -2]),
            SliceOp(x, [0, 3, 1], [0, 4, 2], [-1, -1, 3]),
            GatherOp(x, ConstantOp(np.array([[0, -1], [2, 1]])), 2),
            ScatterOp(x, ConstantOp(np.array([[3], [-1]])), corner(x), 2),
        ]

    check(moved, x, tolerance=0)


@pytest.mark.parametrize("dtype", CAST_DTYPES, ids=str)
@pytest.mark.parametrize("mode", list(PadMode), ids=str)
def test_pad(mode: PadMode, dtype: DType):
    check(lambda x: PadOp(x, [1, 0, 2], [0, 3, 1], mode=mode, value=1.3), values(dtype, 3, 4, 5), tolerance=0)


def test_scalars():
    x = np.array(2.5, np.float32)

    def moved(x: Any) -> list[Any]:
        return [TransposeOp(x, []), ReshapeOp(x, [1, 1]), BroadcastOp(x, [3]), SliceOp(x, [], [], []), PadOp(x, [], [])]

    check(moved, x, tolerance=0)


def test_empty_tensors():
    x = np.zeros((0, 3), np.float32)

    def moved(x: Any) -> list[Any]:
        return [ReshapeOp(x, [3, 0, 2]), UnaryOp(UnaryKind.EXP, x), ReduceOp(ReduceKind.SUM, x, [0], keep_dims=False)]

    check(moved, x, tolerance=0)


# Where onnxruntime has no kernel, the model is still what ONNX defines, and the reference implementation runs it.
def test_without_kernel():
    x, w = values(F64, 1, 2, 6), values(F64, 3, 2, 3)
    window: dict[str, Any] = {"strides": [1], "pads": [0, 1], "dilations": [1]}

    def make(x: Any, w: Any) -> list[Any]:
        return [
            UnaryOp(UnaryKind.ERF, x),
            UnaryOp(UnaryKind.GELU, x),
            ConvOp(x, w, **window),
            PoolOp(PoolKind.AVERAGE, x, kernel=[2], **window),
        ]

    function = build(make, [x, w])
    model = onnx.load_from_string(host_model_bytes(function, no_weights))
    onnx.checker.check_model(model, full_check=True)
    results: Any = ReferenceEvaluator(model).run(None, {"in0": x, "in1": w})
    for have, want in zip(results, run_graph(function, [x, w], no_weights), strict=True):
        # The reference implementation of Gelu holds a constant in f32.
        assert_close(have, want, 1e-7)
