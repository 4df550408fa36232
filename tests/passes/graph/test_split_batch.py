"""Splitting the batch of the first layers: the choice by numbers, and functions that compute the same afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.graph import (
    AttentionOp,
    BinaryKind,
    BinaryOp,
    ConcatOp,
    ConvOp,
    LayerNormOp,
    MatMulOp,
    PoolKind,
    PoolOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    shape_of,
)
from neuron_dialects.ssa_order import check_ssa_order
from passes.graph.fuse import fuse_block
from passes.graph.split_batch import MAX_PARTS, Split, plan_split, split_block
from runtime.graph_interpreter import run_graph
from tests.core_kernels import Array, core_function, core_module, random_inputs


@given(st.integers(1, 24), st.lists(st.integers(0, 1000), max_size=8), st.integers(1, 1000))
def test_parts_are_equal_fit_and_are_as_few_as_can_be(batch: int, live: list[int], capacity: int) -> None:
    plan = plan_split(batch, by_parts(batch, live), live, capacity)
    if plan is None:
        return
    assert batch % plan.images == 0
    assert max(live[: plan.layers]) * plan.images <= capacity * batch
    assert all(size <= capacity for size in live[plan.layers :])
    larger = [images for images in range(plan.images + 1, batch + 1) if batch % images == 0]
    assert all(max(live) * images > capacity * batch for images in larger)


def by_parts(batch: int, live: Sequence[int]) -> dict[int, list[float]]:
    """Live bytes of one of so many parts, where an image takes as much as any other."""
    return {
        parts: [size / parts for size in live] for parts in range(1, min(batch, MAX_PARTS) + 1) if batch % parts == 0
    }


def test_the_run_ends_behind_the_last_layer_over_budget_where_little_crosses() -> None:
    def plan(batch: int, live: list[int], crossing: list[int]) -> Split | None:
        return plan_split(batch, by_parts(batch, live), crossing, 200)

    assert plan(8, [100, 300, 200, 250, 90], [10] * 5) == Split(4, 4)
    assert plan(8, [100, 300, 90, 80, 70], [100, 90, 45, 30, 10]) == Split(3, 4)
    assert plan(8, [100, 300, 90, 80, 70, 60], [100, 100, 101, 100, 40, 30]) == Split(5, 4)
    assert plan(8, [100, 300, 90, 80, 70, 60], [100, 100, 120, 100, 40, 30]) == Split(2, 4)
    assert plan(10, [100, 1000, 200], [10] * 3) == Split(2, 2)
    assert plan(8, [100, 200], [10] * 2) is None
    assert plan(8, [100, 801], [10] * 2) is None
    assert plan(1, [300], [10]) is None


def network(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """A convolution with bias and activation, a pool, a residual block, and a mean."""

    def add(op: ConvOp | UnaryOp | BinaryOp | PoolOp | ReduceOp) -> SSAValue:
        b.add_op(op)
        return op.results[0]

    x = add(ConvOp(arguments[0], weights["stem"], weights["bias"], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1]))
    x = add(UnaryOp(UnaryKind.RELU, x))
    x = add(PoolOp(PoolKind.MAX, x, kernel=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0], dilations=[1, 1]))
    y = add(
        UnaryOp(
            UnaryKind.RELU,
            add(ConvOp(x, weights["w"], weights["bias"], strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])),
        )
    )
    z = add(ConvOp(y, weights["w"], None, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1]))
    x = add(UnaryOp(UnaryKind.RELU, add(BinaryOp(BinaryKind.ADD, z, x))))
    return [add(ReduceOp(ReduceKind.MEAN, x, axes=(2, 3), keep_dims=False)), y]


WEIGHTS = {
    "stem": np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32),
    "w": np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype(np.float32),
    "bias": np.random.default_rng(2).standard_normal(16).astype(np.float32),
}


def module_of(fuse: bool, capacity: int) -> ModuleOp:
    module = core_module("trn1", INPUTS, WEIGHTS, network)
    if fuse:
        fuse_block(core_function(module).body.block)
    split_block(core_function(module).body.block, capacity)
    module.verify()
    assert not check_ssa_order(module)
    return module


INPUTS = [("f32", (6, 3, 8, 8))]


@pytest.mark.parametrize(("fuse", "capacity"), [(True, 800), (False, 1200)])
def test_a_split_function_computes_the_same(fuse: bool, capacity: int) -> None:
    (x,) = random_inputs(INPUTS)

    def results(module: ModuleOp) -> list[Array]:
        return run_graph(core_function(module), [x], lambda name: WEIGHTS[name])

    whole = results(module_of(fuse, 1 << 20))
    # A map of the stem takes 8 x 8 x 4 = 256 bytes for an image. Fused, one of them and the pool's 64 to 100 bytes are
    # live, so that 2 images fit in 800; two maps where the activation is an op of its own.
    module = module_of(fuse, capacity)
    operations = list(core_function(module).body.block.ops)
    assert [op.starts.get_values()[0] for op in operations if isinstance(op, SliceOp)] == [0, 2, 4]
    assert any(isinstance(op, ConcatOp) for op in operations)
    for split, expected in zip(results(module), whole, strict=True):
        np.testing.assert_allclose(split, expected, rtol=1e-5, atol=1e-5)


def test_a_function_that_fits_stays_as_it_is() -> None:
    module = module_of(fuse=True, capacity=1 << 20)
    assert not any(isinstance(op, SliceOp | ConcatOp) for op in module.walk())


def test_what_mixes_images_is_not_split() -> None:
    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        mean = ReduceOp(ReduceKind.MEAN, arguments[0], axes=(0,), keep_dims=True)
        shifted = BinaryOp(BinaryKind.SUB, arguments[0], mean.result)
        ops = [mean, shifted]
        b.add_ops(ops)
        conv = ConvOp(shifted.result, weights["stem"], None, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1])
        b.add_op(conv)
        return [conv.result]

    module = core_module("trn1", INPUTS, WEIGHTS, make)
    split_block(core_function(module).body.block, 100)
    assert not any(isinstance(op, SliceOp) for op in module.walk())


def dense_block(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """Layers of 16 channels, each of all before it."""

    def add(op: ConvOp | ConcatOp | ReduceOp) -> SSAValue:
        b.add_op(op)
        return op.results[0]

    def conv(x: SSAValue, weight: str) -> SSAValue:
        return add(ConvOp(x, weights[weight], None, strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1]))

    parts = [conv(arguments[0], "stem")]
    for _ in range(3):
        joined = add(ConcatOp(parts, 1)) if len(parts) > 1 else parts[0]
        parts.append(conv(joined, f"w{len(parts)}"))
    return [add(ReduceOp(ReduceKind.MEAN, add(ConcatOp(parts, 1)), axes=(2, 3), keep_dims=False))]


# The 64 channels of an image take 256 bytes once, in whatever concatenation: three images fit into 800.
def test_concatenated_channels_are_split_and_lie_in_one_place() -> None:
    filters = {f"w{n}": np.full((16, 16 * n, 3, 3), 0.01, np.float32) for n in (1, 2, 3)}
    weights = {"stem": WEIGHTS["stem"], **filters}
    module = core_module("trn1", INPUTS, weights, dense_block)
    (x,) = random_inputs(INPUTS)
    (whole,) = run_graph(core_function(module), [x], lambda name: weights[name])
    split_block(core_function(module).body.block, 800)
    module.verify()
    operations = list(core_function(module).body.block.ops)
    assert [op.starts.get_values()[0] for op in operations if isinstance(op, SliceOp)] == [0, 3]
    assert len([op for op in operations if isinstance(op, ConcatOp) and op.axis.value.data == 1]) == 6
    (split,) = run_graph(core_function(module), [x], lambda name: weights[name])
    np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)


def windows(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """A projection of positions, attention in windows of them that overlap the rows of an image, and a residual."""

    def add(op: Operation) -> SSAValue:
        b.add_op(op)
        return op.results[0]

    x = add(ReshapeOp(arguments[0], (4 * 64, 16)))
    x = add(LayerNormOp(x, weights["scale"], None, axis=1, epsilon=1e-5))
    apart = add(ReshapeOp(add(MatMulOp(x, weights["w"])), (4, 8, 8, 16)))
    low, high = (add(SliceOp(apart, (0, s, 0, 0), (4, n, 8, 16), (1, 1, 1, 1))) for s, n in ((2, 6), (0, 2)))
    rolled = add(ReshapeOp(add(ConcatOp([low, high], 1)), (4, 2, 4, 8, 16)))
    tiles = add(ReshapeOp(add(TransposeOp(rolled, (0, 2, 1, 3, 4))), (4 * 4, 16, 16)))
    mixed = add(AttentionOp(tiles, tiles, tiles, weights["mask"], heads=2, kv_heads=2, scale=0.3))
    return [add(BinaryOp(BinaryKind.ADD, add(ReshapeOp(mixed, (4 * 64, 16))), x))]


def test_rows_of_images_are_split() -> None:
    rng = np.random.default_rng(4)
    shapes = {"w": (16, 16), "scale": (16,), "mask": (2, 2, 16, 16)}
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs = [("f32", (4, 64, 16))]

    def results(capacity: int) -> tuple[ModuleOp, list[Array]]:
        module = core_module("trn1", inputs, given, windows)
        split_block(core_function(module).body.block, capacity)
        module.verify()
        return module, run_graph(core_function(module), random_inputs(inputs), lambda name: given[name])

    _, (whole,) = results(1 << 20)
    # A tensor of 64 positions in f32 takes 256 bytes of a partition for each image; four are live at the attention.
    module, (split,) = results(2048)
    sequences = [shape_of(op.q)[0] for op in module.walk() if isinstance(op, AttentionOp)]
    assert sequences == [8, 8]
    np.testing.assert_allclose(split, whole, rtol=1e-5, atol=1e-5)
