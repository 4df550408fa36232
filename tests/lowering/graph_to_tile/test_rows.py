"""Softmax, layer normalisation and reductions, on numbers: every kind, axis and row length, in DRAM and resident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import SSAValue

import runtime.program_interpreter
from neuron_dialects.dtypes import F32
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    LayerNormOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    SoftmaxOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
)
from runtime.semantics import Case
from tests.lowering.graph_to_tile.core_kernel import (
    NODE,
    Array,
    Make,
    assert_near,
    check,
    core_module,
    lowered,
    random,
    resident,
    run_core,
    tile_ops,
)

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TARGETS = ("inf1", "trn1")


def assert_close_to(make: Make, want: Array, *inputs: Array, target: str = "trn1", tolerance: float = 3e-6) -> None:
    """The lowered function gives `want`, computed in float64, rounded to its element type."""
    (have,) = run_core(make, *inputs, target=target)
    assert_near(have.reshape(want.shape), want.astype(have.dtype), tolerance)


# Softmax

SOFTMAX = [
    ((130, 7, 5), 2),
    ((4, 257), 1),
    ((2, 3, 4, 200), 3),
    ((1, 12, 100, 64), 2),
    ((5,), 0),
    ((2, 10, 33), 1),
    ((3, 1, 7), 1),
    ((1, 5000), 1),
    ((3, 12000), 1),
    ((2, 5000, 3), 1),
    ((700, 49), 1),
    ((0, 4), 1),
]


def softmax(axis: int, log: bool = False) -> Make:
    return lambda x: SoftmaxOp(x, axis, log=log)


def exact_softmax(x: Array, axis: int, log: bool) -> Array:
    """In float64."""
    shifted = x.astype(np.float64) - np.max(x.astype(np.float64), axis=axis, keepdims=True, initial=-np.inf)
    total = np.exp(shifted).sum(axis=axis, keepdims=True)
    return shifted - np.log(total) if log else np.exp(shifted) / total


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("shape", "axis"), SOFTMAX)
def test_softmax(shape: Sequence[int], axis: int, log: bool) -> None:
    for target in TARGETS:
        for dtype in (np.float32, BFLOAT16):
            x = random(shape, dtype)
            assert_close_to(softmax(axis, log), exact_softmax(x, axis, log), x, target=target)


# A masked row has -inf among its elements, or large negative numbers; a long one may begin with a chunk of them.
@pytest.mark.parametrize("length", [50, 200, 9000])
def test_softmax_of_masked_rows(length: int) -> None:
    x = random((3, length))
    x[0, length // 3 :] = -np.inf
    x[1, : length // 2] = -np.inf
    x[2, ::2] = -3.4e38
    assert_close_to(softmax(1), exact_softmax(x, 1, log=False), x)


def test_softmax_of_large_elements_does_not_overflow() -> None:
    x = random((4, 70)) * np.float32(1e4)
    for log in (False, True):
        assert_close_to(softmax(1, log), exact_softmax(x, 1, log), x)


def test_softmax_of_a_transposed_window() -> None:
    check(lambda x: SoftmaxOp(TransposeOp(x, (3, 1, 0, 2)), 1), random((6, 5, 7, 130)))


@pytest.mark.parametrize(
    ("shape", "partition", "axis"), [((2, 200, 9), 1, 2), ((300, 40), 0, 1), ((3, 140, 5, 6), 1, 2)]
)
def test_resident_softmax(shape: Sequence[int], partition: int, axis: int) -> None:
    def layer(x: SSAValue) -> Any:
        y = resident(SoftmaxOp(resident(UnaryOp(UnaryKind.TANH, x), partition), axis), partition)
        return BinaryOp(BinaryKind.ADD, y, x)

    for target in TARGETS:
        check(layer, random(shape), target=target, engines=True)


# The reduced dimension lies on the partitions: the operand must leave the chip.
def test_softmax_along_a_resident_operands_partition() -> None:
    check(lambda x: SoftmaxOp(resident(UnaryOp(UnaryKind.TANH, x), 1), 1), random((3, 200, 5)))


# Layer normalisation

LAYER_NORM = [
    ((130, 64), 1),
    ((4, 257), 1),
    ((2, 3, 4, 200), 2),
    ((1, 12, 768), 2),
    ((5,), 0),
    ((700, 96), 1),
    ((3, 1), 1),
    ((2, 9000), 1),
    ((3, 5, 40, 100), 1),
    ((2, 2, 60, 70, 3), 2),
    ((600, 8), 1),
    ((0, 4), 1),
]


def layer_norm(axis: int, names: Sequence[str], uncentred: bool = False) -> Make:
    """x, then the parameters of these names."""
    return lambda x, *given: LayerNormOp(
        x, **dict(zip(names, given, strict=True)), axis=axis, epsilon=1e-5, uncentred=uncentred
    )


def exact_layer_norm(x: Array, parameters: dict[str, Array], axis: int, uncentred: bool = False) -> Array:
    """In float64."""
    axes = tuple(range(axis, x.ndim))
    wide = x.astype(np.float64)
    centred = wide if uncentred else wide - wide.mean(axis=axes, keepdims=True)
    # The epsilon is an f32 in the operator.
    deviation = np.sqrt((centred**2).mean(axis=axes, keepdims=True) + float(np.float32(1e-5)))
    scale, bias = (parameters.get(name, np.float64(value)) for name, value in (("scale", 1), ("bias", 0)))
    return centred / deviation * scale.astype(np.float64) + bias.astype(np.float64)


@pytest.mark.parametrize("names", [(), ("scale",), ("bias",), ("scale", "bias")])
@pytest.mark.parametrize(("shape", "axis"), LAYER_NORM)
def test_layer_norm(shape: Sequence[int], axis: int, names: Sequence[str]) -> None:
    for target in TARGETS:
        for dtype in (np.float32, BFLOAT16):
            x = random(shape, dtype) + dtype(3) if dtype is np.float32 else random(shape, dtype)
            parameters = {name: random(shape[axis:], dtype, seed) for seed, name in enumerate(names)}
            if 0 in shape:
                check(layer_norm(axis, names), x, *parameters.values())
                continue
            want = exact_layer_norm(x, parameters, axis)
            assert_close_to(layer_norm(axis, names), want, x, *parameters.values(), target=target, tolerance=4e-6)


@pytest.mark.parametrize("names", [(), ("scale",), ("bias",), ("scale", "bias")])
@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 40), 2), ((3, 7, 600), 1), ((2, 20000), 1)])
def test_uncentred_layer_norm(shape: Sequence[int], axis: int, names: Sequence[str]) -> None:
    for target in TARGETS:
        x = random(shape) + np.float32(3)
        parameters = {name: random(shape[axis:], seed=seed) for seed, name in enumerate(names)}
        want = exact_layer_norm(x, parameters, axis, uncentred=True)
        assert_close_to(layer_norm(axis, names, True), want, x, *parameters.values(), target=target, tolerance=4e-6)


def test_layer_norm_of_rows_with_a_large_mean() -> None:
    x = random((40, 300)) + np.float32(1000)
    assert_close_to(layer_norm(1, ()), exact_layer_norm(x, {}, 1), x, tolerance=1e-4)


def test_resident_layer_norm() -> None:
    def layer(x: SSAValue, scale: SSAValue, bias: SSAValue) -> Any:
        y = resident(UnaryOp(UnaryKind.TANH, x), 1)
        z = resident(LayerNormOp(y, scale, bias, axis=2, epsilon=1e-5), 1)
        return BinaryOp(BinaryKind.ADD, z, y)

    for target in TARGETS:
        check(
            layer,
            random((2, 200, 96)),
            random((96,)),
            random((96,), seed=1),
            target=target,
            tolerance=4e-6,
            engines=True,
        )


# Tiles of short rows on partitions, several of them together: as many as divide them, or a smaller last group.
@pytest.mark.parametrize(
    ("tiles", "elements", "given"), [(14, 96, False), (9, 200, False), (6, 5, True), (2, 1, False)]
)
def test_layer_norm_of_tiles_of_short_rows(tiles: int, elements: int, given: bool) -> None:
    def layer(x: SSAValue, *parameters: SSAValue) -> Any:
        y = resident(LayerNormOp(x, *parameters, axis=1, epsilon=1e-5), 0)
        z = resident(LayerNormOp(y, axis=1, epsilon=1e-2), 0)
        return BinaryOp(BinaryKind.ADD, z, y)

    parameters = [random((elements,)), random((elements,), seed=1)] if given else []
    for target in TARGETS:
        check(layer, random((tiles * 128, elements)), *parameters, target=target, tolerance=4e-6, engines=True)


# Channels of feature maps on partitions: tiles of their pixels are turned, and normalised where they leave the array.
@pytest.mark.parametrize(
    ("images", "channels", "given"), [(2, 96, True), (3, 160, False), (1, 1, True), (2, 256, False)]
)
def test_layer_norm_of_turned_maps(images: int, channels: int, given: bool) -> None:
    def layer(x: SSAValue, *parameters: SSAValue) -> Any:
        maps = resident(ReshapeOp(resident(UnaryOp(UnaryKind.TANH, x), 1), (images, channels, 256)), 1)
        rows = ReshapeOp(TransposeOp(maps, (0, 2, 1)), (images * 256, channels))
        y = resident(LayerNormOp(rows, *parameters, axis=1, epsilon=1e-5), 0)
        return CastOp(y, F32)

    numbers = [
        random((images, channels, 16, 16)),
        *([random((channels,)), random((channels,), seed=1)] if given else []),
    ]
    x, *parameters = [number.astype(ml_dtypes.bfloat16) for number in numbers]
    # A row that is not a number stays the only one.
    x[0, :, 3, 5] = np.nan
    for target in TARGETS:
        check(layer, x, *parameters, target=target, tolerance=2e-2, engines=True)


# Scale and bias come on chip once, before the loop over rows.
def test_parameters_are_loaded_before_the_loops() -> None:
    module, _ = core_module(layer_norm(1, ("scale", "bias")), [random((1000, 96)), random((96,)), random((96,))])
    function = lowered(module)
    loads = [op for op in tile_ops(function) if op.name == "tile.load"]
    assert sum(op.parent is function.body.block for op in loads[:2]) == 2


# Reductions

EXACT: dict[ReduceKind, Callable[..., Array]] = {
    ReduceKind.SUM: np.sum,
    ReduceKind.MEAN: np.mean,
    ReduceKind.MAX: np.max,
    ReduceKind.MIN: np.min,
    ReduceKind.PROD: np.prod,
    ReduceKind.L1: lambda x, axis, keepdims: np.abs(x).sum(axis=axis, keepdims=keepdims),
    ReduceKind.L2: lambda x, axis, keepdims: np.sqrt(np.square(x).sum(axis=axis, keepdims=keepdims)),
    ReduceKind.SUM_SQUARE: lambda x, axis, keepdims: np.square(x).sum(axis=axis, keepdims=keepdims),
    ReduceKind.LOG_SUM: lambda x, axis, keepdims: np.log(x.sum(axis=axis, keepdims=keepdims)),
    ReduceKind.LOG_SUM_EXP: lambda x, axis, keepdims: np.log(np.exp(x).sum(axis=axis, keepdims=keepdims)),
}
"""Every reduction on float64."""

REDUCE = [
    ((130, 7, 5), (2,)),
    ((130, 7, 5), (0,)),
    ((130, 7, 5), (1,)),
    ((130, 7, 5), (0, 2)),
    ((130, 7, 5), (0, 1, 2)),
    ((2, 300, 7, 7), (2, 3)),
    ((4, 257), (1,)),
    ((4, 257), (0,)),
    ((5,), (0,)),
    ((3, 1, 1), (1,)),
    ((2, 9000), (1,)),
    ((2, 3, 40, 130), (0, 3)),
    ((10007,), (0,)),
    ((3, 300, 50), (1, 2)),
    ((2, 3, 5, 7, 11), (1, 3)),
    ((6, 5), ()),
    ((8, 1000, 8), (1,)),
    ((20000, 20), (0,)),
]


def reduce(kind: ReduceKind, axes: Sequence[int], keep_dims: bool = False) -> Make:
    return lambda x: ReduceOp(kind, x, axes, keep_dims=keep_dims)


def reducible(kind: ReduceKind, shape: Sequence[int], dtype: Any = np.float32) -> Array:
    """Values whose reduction is finite and not a small difference of large numbers."""
    x = random(shape)
    match kind:
        case ReduceKind.PROD:
            x = 1 + x / 300
        case ReduceKind.SUM | ReduceKind.MEAN | ReduceKind.LOG_SUM:
            x = np.abs(x) + np.float32(0.1)
        case _:
            pass
    return x.astype(dtype)


@pytest.mark.parametrize("kind", ReduceKind)
@pytest.mark.parametrize(("shape", "axes"), REDUCE)
def test_reduce(shape: Sequence[int], axes: Sequence[int], kind: ReduceKind) -> None:
    for target in TARGETS:
        for dtype, keep_dims in ((np.float32, False), (np.float32, True), (BFLOAT16, False)):
            x = reducible(kind, shape, dtype)
            want = EXACT[kind](x.astype(np.float64), axis=tuple(axes), keepdims=keep_dims)
            make = reduce(kind, axes, keep_dims)
            assert_close_to(
                make, np.asarray(want), x, target=target, tolerance=2e-5 if kind is ReduceKind.PROD else 3e-6
            )


@pytest.mark.parametrize("kind", [kind for kind in ReduceKind if kind not in (ReduceKind.MAX, ReduceKind.MIN)])
def test_reductions_of_nothing(kind: ReduceKind) -> None:
    if kind is not ReduceKind.MEAN:
        check(reduce(kind, (1,)), np.zeros((3, 0, 4), np.float32))
    check(reduce(kind, (1,)), np.zeros((0, 3), np.float32))


def test_infinite_maxima_do_not_spoil_log_sum_exp() -> None:
    x = random((4, 70))
    x[0], x[1, 3] = -np.inf, np.inf
    x[2, :69] = -np.inf
    check(reduce(ReduceKind.LOG_SUM_EXP, (1,)), x)
    x = np.full((2, 9000), -np.inf, np.float32)
    x[1, 8000] = 2.0
    check(reduce(ReduceKind.LOG_SUM_EXP, (1,)), x)


INTEGER_SHAPES = [((130, 7, 5), (2,)), ((4, 257), (1,)), ((2, 3000), (1,)), ((17,), (0,)), ((9, 4, 6), (0, 2))]


def integers(kind: ReduceKind, shape: Sequence[int]) -> Array:
    """Over the whole range of i32; for products odd, lest they are all 0, for norms such that squares add up."""
    x = random(shape, np.int32)
    if kind is ReduceKind.PROD:
        return x | 1
    return x % 600 if kind is ReduceKind.L2 else x


# The vector engine alone reduces, and it does so in f32: sums of large integers must be exact all the same.
@pytest.mark.parametrize("kind", [k for k in ReduceKind if k not in (ReduceKind.LOG_SUM, ReduceKind.LOG_SUM_EXP)])
def test_reductions_of_integers_are_exact(kind: ReduceKind, monkeypatch: pytest.MonkeyPatch) -> None:
    def on_vector_engine(name: str, engine: str, *rest: Any) -> Case:
        return Case(name, "dve", *rest)

    monkeypatch.setattr(runtime.program_interpreter, "Case", on_vector_engine)
    for shape, axes in INTEGER_SHAPES:
        check(reduce(kind, axes), integers(kind, shape), target="inf1")
    monkeypatch.undo()
    check(reduce(kind, (1,)), integers(kind, (4, 257)), engines=True)
    check(reduce(kind, (1,)), integers(kind, (1, 9001)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("kind", [ReduceKind.MAX, ReduceKind.MIN, ReduceKind.SUM])
def test_reductions_of_narrow_integers(kind: ReduceKind, dtype: Any) -> None:
    for axes in ((1,), (0,)):
        check(reduce(kind, axes), random((40, 257), dtype))


@pytest.mark.parametrize("keep_dims", [False, True])
@pytest.mark.parametrize("axes", [(2,), (0,), (0, 2), (1,), (0, 1, 2)])
def test_resident_reduce(axes: Sequence[int], keep_dims: bool) -> None:
    def layer(x: SSAValue) -> Any:
        return ReduceOp(ReduceKind.SUM, resident(UnaryOp(UnaryKind.TANH, x), 1), axes, keep_dims=keep_dims)

    for target in TARGETS:
        check(layer, np.abs(random((3, 200, 10))), target=target, engines=True)


# The result stays on chip too: without the reduced dimension it is another dimension that lies on the partitions.
def test_resident_result_of_a_reduction() -> None:
    def layer(x: SSAValue) -> Any:
        y = resident(UnaryOp(UnaryKind.TANH, x), 1)
        mean = resident(ReduceOp(ReduceKind.MEAN, y, (0, 2), keep_dims=True), 1)
        total = resident(ReduceOp(ReduceKind.MAX, y, (0,), keep_dims=False), 0)
        elsewhere = resident(ReduceOp(ReduceKind.MAX, y, (2,), keep_dims=False), 0)
        return BinaryOp(BinaryKind.SUB, y, mean), UnaryOp(UnaryKind.EXP, total), UnaryOp(UnaryKind.EXP, elsewhere)

    for target in TARGETS:
        check(layer, random((3, 200, 10)), target=target)


def test_an_element_type_without_arithmetic_is_an_error() -> None:
    for make in (reduce(ReduceKind.SUM, (1,)), softmax(1), layer_norm(1, ())):
        module, _ = core_module(make, [np.zeros((2, 3))])
        with pytest.raises(NeuronError) as caught:
            lowered(module)
        assert (caught.value.code, caught.value.node) == ("NX-OP-002", NODE)
