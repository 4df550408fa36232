"""Feature maps in blocks of pixels: filters by numbers, where pieces begin, and functions that compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.dtypes import BF16, F16, F32, DType
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    SoftmaxOp,
    UnaryKind,
    UnaryOp,
    WeightOp,
    shape_of,
    spec_of,
)
from neuron_dialects.ssa_order import check_ssa_order
from neuron_dialects.target import Target
from neuron_dialects.weights import WeightStore
from passes.graph import block_plan
from passes.graph.block_pixels import GraphBlockPixelsPass
from passes.graph.pixel_border import is_border, vanishes
from passes.graph.pixel_grid import Line, Lines, Window, window_of
from runtime.graph_interpreter import WeightResolver, run_graph
from tests.core_kernels import Array, core_function, core_module, random_inputs, relative_error


@dataclass
class Builder:
    """Adds convolutions of random weights to a block."""

    block: Block
    weights: Mapping[str, SSAValue]

    def add(self, op: Operation) -> SSAValue:
        self.block.add_op(op)
        return op.results[0]

    def conv(self, x: SSAValue, w: str, stride: int = 1, groups: int = 1) -> SSAValue:
        weight = self.weights[w]
        pad = shape_of(weight)[2] // 2
        bias = self.weights.get(f"{w}b")
        return self.add(
            ConvOp(x, weight, bias, strides=(stride,) * 2, pads=(pad,) * 4, dilations=(1, 1), groups=groups)
        )

    def clip(self, x: SSAValue) -> SSAValue:
        return self.add(ClipOp(x, minimum=0.0, maximum=6.0))


def filters(**shapes: tuple[int, ...]) -> dict[str, Array]:
    """Weights by name, and a bias for each."""
    rng = np.random.default_rng(3)
    made: dict[str, Array] = {}
    for name, shape in shapes.items():
        made[name] = (rng.standard_normal(shape) * 0.2).astype(np.float32)
        made[f"{name}b"] = rng.standard_normal(shape[:1]).astype(np.float32)
    return made


def blocked(module: ModuleOp, weights: Mapping[str, Array], monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """Results behind the pass, which takes blocks wherever it can."""
    monkeypatch.setattr(block_plan, "WORTH", float("inf"))
    monkeypatch.setattr(block_plan, "plain_ns", lambda *_: 1e9)
    GraphBlockPixelsPass().apply(Context(), module)
    module.verify()
    assert not check_ssa_order(module)
    store = WeightStore()
    for name, array in weights.items():
        store.add(name, array)
    function = core_function(module)
    inputs = random_inputs([(spec_of(value)[0].name, shape_of(value)) for value in function.body.block.args])
    return run_graph(function, inputs, WeightResolver(module, store))


def plain(module: ModuleOp, weights: Mapping[str, Array]) -> list[Array]:
    """Results in front of the pass."""
    function = core_function(module)
    inputs = random_inputs([(spec_of(value)[0].name, shape_of(value)) for value in function.body.block.args])
    return run_graph(function, inputs, lambda name: weights[name])


def residual(b: Builder, x: SSAValue, name: str, channels: int) -> SSAValue:
    """An inverted residual."""
    wide = b.clip(b.conv(x, f"{name}e"))
    deep = b.clip(b.conv(wide, f"{name}d", groups=channels))
    return b.add(BinaryOp(BinaryKind.ADD, x, b.conv(deep, f"{name}p")))


def inverted_residuals(size: int) -> tuple[dict[str, Array], ModuleOp]:
    """Two inverted residuals, of 3 x 3 and of 5 x 5, a stride between them, and a way out."""
    weights = filters(
        stem=(6, 3, 3, 3), ae=(16, 6, 1, 1), ad=(16, 1, 3, 3), ap=(6, 16, 1, 1), se=(32, 6, 1, 1), sd=(32, 1, 5, 5),
        sp=(8, 32, 1, 1), be=(16, 8, 1, 1), bd=(16, 1, 5, 5), bp=(8, 16, 1, 1), head=(20, 8, 1, 1),
    )  # fmt: skip

    def make(block: Block, args: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        b = Builder(block, values)
        x = residual(b, b.conv(args[0], "stem", 2), "a", 16)
        x = b.conv(b.clip(b.conv(b.clip(b.conv(x, "se")), "sd", 2, 32)), "sp")
        return [b.conv(residual(b, x, "b", 16), "head")]

    return weights, core_module("trn1", [("f32", (2, 3, size, size + 8))], weights, make)


# Every kind of convolution goes to blocks, between them and back: the numbers are those of pixels.
def test_inverted_residuals_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, module = inverted_residuals(24)
    expected = plain(module, weights)
    (result,) = blocked(module, weights, monkeypatch)
    assert (2, 64, 7, 9) in made(module)  # of 6 x 8 blocks, beginning a pixel before the map
    assert relative_error(result, expected[0]) < 1e-5


def squeezed(b: Builder, x: SSAValue, name: str) -> SSAValue:
    """Squeeze and excite."""
    mean = b.add(ReduceOp(ReduceKind.MEAN, x, (2, 3), keep_dims=True))
    low = b.add(UnaryOp(UnaryKind.SILU, b.conv(mean, f"{name}r")))
    return b.add(BinaryOp(BinaryKind.MUL, x, b.add(UnaryOp(UnaryKind.SIGMOID, b.conv(low, f"{name}x")))))


# The means of pixels of blocks are added up by the weights behind them, and a gate is made for each pixel of a block.
def test_squeeze_and_excite_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = filters(
        stem=(8, 4, 1, 1), e=(32, 8, 1, 1), d=(32, 1, 5, 5), r=(2, 32, 1, 1), x=(32, 2, 1, 1), p=(8, 32, 1, 1),
        head=(5, 8, 1, 1),
    )  # fmt: skip
    weights["scale"] = np.linspace(-1, 1, 8, dtype=np.float32).reshape(8, 1, 1)

    def make(block: Block, args: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        b = Builder(block, values)
        x = b.conv(args[0], "stem")
        deep = b.conv(b.clip(b.conv(x, "e")), "d", groups=32)
        thin = b.conv(squeezed(b, deep, ""), "p")
        return [
            b.conv(b.add(BinaryOp(BinaryKind.ADD, b.add(BinaryOp(BinaryKind.MUL, thin, values["scale"])), x)), "head")
        ]

    module = core_module("trn1", [("f32", (2, 4, 10, 6))], weights, make)
    expected = plain(module, weights)
    (result,) = blocked(module, weights, monkeypatch)
    assert relative_error(result, expected[0]) < 1e-5
    assert (2, 128, 5, 3) in made(module)
    assert any(isinstance(op, ConvTransposeOp) for op in module.walk())


# The mean of a map that begins a pixel early, where an activation makes zero of what is beside it; else it does not.
@pytest.mark.parametrize(
    ("kind", "begins_early"), [("silu", True), ("relu", True), ("clip", True), ("gelu", False), ("clip at one", False)]
)
def test_weighed_maps_that_begin_early(kind: str, begins_early: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = filters(
        stem=(8, 4, 1, 1), e=(32, 8, 1, 1), d=(32, 1, 3, 3), r=(2, 32, 1, 1), x=(32, 2, 1, 1), p=(8, 32, 1, 1),
        head=(5, 8, 1, 1),
    )  # fmt: skip

    def activated(b: Builder, x: SSAValue) -> SSAValue:
        if kind.startswith("clip"):
            return b.add(ClipOp(x, minimum=1.0 if kind == "clip at one" else 0.0))
        return b.add(UnaryOp(UnaryKind(kind), x))

    def make(block: Block, args: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        b = Builder(block, values)
        x = b.conv(args[0], "stem")
        deep = activated(b, b.conv(b.clip(b.conv(x, "e")), "d", groups=32))
        return [b.conv(b.conv(squeezed(b, deep, ""), "p"), "head")]

    module = core_module("trn1", [("f32", (2, 4, 10, 6))], weights, make)
    expected = plain(module, weights)
    (result,) = blocked(module, weights, monkeypatch)
    assert relative_error(result, expected[0]) < 1e-5
    assert ((2, 128, 6, 4) in made(module)) == begins_early
    assert sum(is_border(op) for op in module.walk()) == (2 if begins_early else 0)


# The share of a map that its blocks have is no number of bf16: the weights behind the mean are not all rounded with it.
def test_means_of_maps_that_begin_early_are_not_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = filters(
        stem=(8, 4, 1, 1), e=(32, 8, 1, 1), d=(32, 1, 3, 3), r=(512, 32, 1, 1), x=(32, 512, 1, 1), p=(8, 32, 1, 1),
        head=(5, 8, 1, 1),
    )  # fmt: skip
    weights = {name: value.astype(ml_dtypes.bfloat16) for name, value in weights.items()}

    def make(block: Block, args: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        b = Builder(block, values)
        deep = b.clip(b.conv(b.clip(b.conv(b.conv(args[0], "stem"), "e")), "d", groups=32))
        return [b.conv(b.conv(squeezed(b, deep, ""), "p"), "head")]

    module = core_module("trn1", [("bf16", (1, 4, 26, 26))], weights, make)
    blocked(module, weights, monkeypatch)
    store = WeightStore()
    for name, array in weights.items():
        store.add(name, array)
    resolve = WeightResolver(module, store)
    weighing = [op.w for op in module.walk() if isinstance(op, ConvOp) and shape_of(op.w) == (512, 128, 1, 1)]
    (behind,) = (resolve(w.owner.symbol.string_value()) for w in weighing if isinstance(w.owner, WeightOp))
    shares = behind.astype(np.float64) / np.repeat(weights["r"].astype(np.float64), 4, 1)
    assert abs(np.median(shares) / (14 * 14 / (26 * 26)) - 1) < 3e-4


# What a type of 16 bits with five for the exponent cannot hold is not added.
@pytest.mark.parametrize(("dtype", "expected"), [(F16, False), (BF16, True), (F32, True)])
def test_types_of_sums_that_vanish(dtype: DType, expected: bool) -> None:
    zero = ConstantOp(0.0, dtype, (1, 4, 2, 2)).result
    assert vanishes(ClipOp(zero, minimum=0.0, maximum=6.0)) == expected
    assert vanishes(UnaryOp(UnaryKind.SILU, zero)) == expected
    assert not vanishes(ClipOp(zero, maximum=6.0))
    assert not vanishes(UnaryOp(UnaryKind.TANH, zero))


def made(module: ModuleOp) -> list[tuple[int, ...]]:
    """Shapes of what convolutions make."""
    return [shape_of(op.results[0]) for op in module.walk() if isinstance(op, ConvOp)]


# An odd number of rows, a map that is returned, and one that something else reads than convolutions: pixels, and the
# numbers as before.
@pytest.mark.parametrize("situation", ["odd", "returned", "softmax", "one pixel", "nothing"])
def test_what_stays_in_pixels(situation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = filters(stem=(4, 3, 1, 1), e=(16, 4, 1, 1), d=(16, 1, 3, 3), p=(4, 16, 1, 1), head=(5, 4, 1, 1))

    def make(block: Block, args: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        b = Builder(block, values)
        wide = b.clip(b.conv(b.conv(args[0], "stem"), "e"))
        deep = b.conv(wide, "d", groups=16)
        if situation == "softmax":
            deep = b.add(SoftmaxOp(deep, 1))
        results = [b.conv(b.conv(deep, "p"), "head")]
        return [*results, deep] if situation == "returned" else results

    shape = {"odd": (1, 3, 7, 8), "one pixel": (1, 3, 1, 1), "nothing": (0, 3, 4, 4)}.get(situation, (1, 3, 8, 8))
    module = core_module("trn1", [("f32", shape)], weights, make)
    before = made(module)
    expected = plain(module, weights)
    results = blocked(module, weights, monkeypatch)
    assert made(module) == before
    for result, known in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, known)


# Sums that stay in f32 behind operands of bf16, put into blocks by a convolution of their own: its weights are f32.
def test_pixels_moved_into_blocks_in_f32(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {
        "stem": np.ones((4, 3, 3, 3), ml_dtypes.bfloat16), "e": np.ones((16, 4, 1, 1), ml_dtypes.bfloat16),
        "d": np.ones((16, 1, 3, 3), ml_dtypes.bfloat16), "p": np.ones((4, 16, 1, 1), ml_dtypes.bfloat16),
    }  # fmt: skip

    def make(block: Block, args: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        b = Builder(block, values)

        def conv(x: SSAValue, w: str, groups: int = 1) -> SSAValue:
            pads, ones = (shape_of(values[w])[2] // 2,) * 4, (1, 1)
            wide = ConvOp(x, values[w], strides=ones, pads=pads, dilations=ones, groups=groups, accumulate_f32=True)
            return b.add(CastOp(b.add(wide), BF16))

        x = conv(args[0], "stem")
        deep = conv(b.clip(conv(b.clip(conv(x, "e")), "d", 16)), "p")
        return [conv(b.add(BinaryOp(BinaryKind.ADD, x, deep)), "e")]

    convolve = block_plan.convolve

    def dear(op: ConvOp, read: Lines, made: Lines, target: Target) -> block_plan.Convolved:
        convolved = convolve(op, read, made, target)
        return convolved if read == made else replace(convolved, ns=convolved.ns * 1e9)

    monkeypatch.setattr(block_plan, "convolve", dear)
    monkeypatch.setattr(block_plan, "_round_trip_ns", lambda *_: 0.0)
    module = core_module("trn1", [("bf16", (1, 3, 8, 8))], weights, make)
    (expected,) = plain(module, weights)
    (result,) = blocked(module, weights, monkeypatch)
    assert (1, 4, 8, 8) in made(module)
    assert (1, 16, 4, 4) in made(module)
    assert relative_error(result, expected) < 1e-2


def odd_body(situation: str, b: Builder, x: SSAValue, given: Mapping[str, SSAValue]) -> SSAValue:
    """A depthwise convolution, and what is read of it in one of many ways."""
    wide = b.clip(b.conv(x, "e"))
    deep = b.conv(wide, "d", groups=16)
    if situation == "a map for all channels":
        return b.add(BinaryOp(BinaryKind.MUL, deep, b.conv(deep, "one")))
    if situation == "a map for channels":
        return b.add(BinaryOp(BinaryKind.MUL, b.conv(deep, "one"), given["scale"]))
    if situation == "function of a mean":
        mean = b.add(ReduceOp(ReduceKind.MEAN, deep, (2, 3), keep_dims=True))
        low = b.conv(b.add(UnaryOp(UnaryKind.SIGN, mean)), "r")
        return b.add(BinaryOp(BinaryKind.MUL, deep, b.conv(low, "x")))
    if situation == "logarithm":  # of nothing, beside the map
        positive = b.add(UnaryOp(UnaryKind.SIGMOID, wide))
        return b.add(UnaryOp(UnaryKind.LOG, b.clip(b.conv(positive, "c", groups=16))))
    five = b.add(BinaryOp(BinaryKind.MUL, deep, given["two"]))
    mean = b.add(ReduceOp(ReduceKind.MEAN, five, (2, 3), keep_dims=True))
    return b.add(BinaryOp(BinaryKind.MUL, deep, b.add(ReshapeOp(mean, (1, 1, 1, 8)))))


# Operands of other shapes than the result, functions of means, and functions that are infinite beside a map.
@pytest.mark.parametrize(
    "situation",
    ["a map for all channels", "a map for channels", "function of a mean", "logarithm", "five dimensions"],
)
def test_what_does_not_go_with_blocks(situation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = filters(
        stem=(4, 3, 1, 1), e=(16, 4, 1, 1), d=(16, 1, 3, 3), c=(16, 1, 3, 3), one=(1, 16, 1, 1), r=(2, 16, 1, 1),
        x=(16, 2, 1, 1), p=(4, 16, 1, 1), head=(5, 4, 1, 1),
    )  # fmt: skip
    weights["scale"] = np.linspace(-1, 1, 16, dtype=np.float32).reshape(16, 1, 1)
    weights["two"] = np.full((1, 1, 1, 1, 1), 2, np.float32)
    weights["c"][:] = np.eye(3, dtype=np.float32)[1] * np.eye(3, dtype=np.float32)[1][:, None]
    weights["cb"][:] = weights["db"][:] = weights["eb"][:] = weights["stemb"][:] = 0

    def make(block: Block, args: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        b = Builder(block, values)
        x = b.conv(args[0], "stem")
        deep = b.conv(odd_body(situation, b, x, values), "p")
        return [b.conv(b.add(BinaryOp(BinaryKind.ADD, x, deep)), "head")]

    module = core_module("trn1", [("f32", (1, 3, 8, 8))], weights, make)
    (expected,) = plain(module, weights)
    (result,) = blocked(module, weights, monkeypatch)
    assert np.isfinite(expected).all()
    assert relative_error(result, expected) < 1e-5


# Position q takes tap t from q * stride - pad + t. Blocks of the result that begin a pixel early read two of three.
@pytest.mark.parametrize(
    ("filter_", "read", "result", "expected"),
    [
        ((3, 1, 1), Line(2, 0, 4), Line(2, 0, 4), Window(3, 1, 1, 1, (1, 2))),
        ((3, 1, 1), Line(2, 0, 4), Line(2, -1, 5), Window(2, 1, 1, 1, (0, 1))),
        ((3, 2, 1), Line(2, 0, 4), Line(2, 0, 2), Window(3, 2, 1, 0, (1, 3))),
        ((5, 1, 2), Line(2, 0, 4), Line(2, 0, 4), Window(3, 1, 1, 1, (0, 1))),
        ((1, 1, 0), Line(2, -1, 5), Line(2, 0, 4), Window(2, 1, 0, 0, (1, 2))),
        ((3, 2, 1), Line(1, 0, 8), Line(2, 0, 2), Window(5, 4, 1, 0, (0, 2))),
        ((1, 1, 0), Line(2, 0, 4), Line(1, 0, 8), None),
    ],
)
def test_windows_over_blocks(filter_: tuple[int, int, int], read: Line, result: Line, expected: Window | None) -> None:
    assert window_of(*filter_, read, result) == expected
