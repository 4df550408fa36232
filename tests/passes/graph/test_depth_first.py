"""Layers on bands of rows: functions that compute the same afterwards, also when what they share stays on chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from lowering.graph_to_tile import transfers
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConcatOp,
    ConvOp,
    ConvTransposeOp,
    PoolKind,
    PoolOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    UnaryKind,
    UnaryOp,
    layout_of,
    shape_of,
    tensor_type,
)
from neuron_dialects.ssa_order import check_ssa_order
from neuron_dialects.target import load_target
from passes.graph.depth_first import joined_images, run_in_bands
from passes.graph.fold_images import fold_block
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from passes.graph.row_bands import Machine
from runtime.graph_interpreter import run_graph
from tests.core_kernels import Array, core_function, core_module, lowered_error, random_inputs

TRN1 = load_target("trn1")
CHANNELS = 64


def filters(seed: int, *shape: int) -> Array:
    """Filters of about unit gain."""
    values = np.random.default_rng(seed).standard_normal(shape)
    return (values / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


WEIGHTS = {
    "stem": filters(0, CHANNELS, 3, 3, 3),
    "w": filters(1, CHANNELS, CHANNELS, 3, 3),
    "up": filters(2, CHANNELS, CHANNELS, 2, 2),
    "joined": filters(3, CHANNELS, 2 * CHANNELS, 3, 3),
    "out": filters(4, 2, CHANNELS, 1, 1),
    "bias": filters(5, CHANNELS, 1, 1),
}
INPUTS = [("f32", (4, 3, 32, 32))]


def network(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """Down and up again: the map in front of the pool is also put beside what comes back."""

    def add(op: Operation) -> SSAValue:
        b.add_op(op)
        return op.results[0]

    def conv(x: SSAValue, w: str, pad: int = 1) -> SSAValue:
        made = add(ConvOp(x, weights[w], None, strides=[1, 1], pads=[pad] * 4, dilations=[1, 1]))
        return add(UnaryOp(UnaryKind.RELU, add(BinaryOp(BinaryKind.ADD, made, weights["bias"]))))

    skip = conv(conv(arguments[0], "stem"), "w")
    x = add(PoolOp(PoolKind.MAX, skip, kernel=[2, 2], strides=[2, 2], pads=[0] * 4, dilations=[1, 1]))
    x = conv(conv(x, "w"), "w")
    pads = [0] * 4
    x = add(ConvTransposeOp(x, weights["up"], strides=[2, 2], pads=pads, dilations=[1, 1], output_padding=[0, 0]))
    x = conv(add(ConcatOp([skip, x], 1)), "joined")
    x = conv(x, "w")
    return [add(ConvOp(x, weights["out"], None, strides=[1, 1], pads=[0] * 4, dilations=[1, 1]))]


def machine(capacity: int) -> Machine:
    """One with slow DMA, on which small maps are worth keeping.

    Two images of 32 x 32 beside each other take 32 x 32 x 4 = 4096 bytes of a partition, 4624 with zeros around.
    """
    return Machine(capacity, bytes_per_ns=0.01, start_ns=0.0)


def in_bands(capacity: int) -> ModuleOp:
    module = core_module("trn1", INPUTS, WEIGHTS, network)
    block = core_function(module).body.block
    fuse_block(block)
    run_in_bands(block, TRN1, machine(capacity))
    module.verify()
    assert not check_ssa_order(module)
    return module


@pytest.mark.parametrize("capacity", [3000, 5000])
def test_a_function_in_bands_computes_the_same(capacity: int) -> None:
    (x,) = random_inputs(INPUTS)

    def results(module: ModuleOp) -> list[Array]:
        return run_graph(core_function(module), [x], lambda name: WEIGHTS[name])

    module = in_bands(capacity)
    slices = [op for op in module.walk() if isinstance(op, SliceOp)]
    assert any(shape_of(op.result)[2] < shape_of(op.x)[2] for op in slices)
    for banded, expected in zip(results(module), results(in_bands(1 << 20)), strict=True):
        np.testing.assert_allclose(banded, expected, rtol=1e-4, atol=1e-5)


# Rows of the model's own that are cut out of a map between layers in bands: they stand behind the map.
def test_rows_that_are_cut_out_between_layers_stay_in_order() -> None:
    def cropped(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        results = network(b, arguments, weights)
        skip = next(op for op in b.ops if isinstance(op, PoolOp)).x
        crop = SliceOp(skip, (0, 0, 3, 0), (4, CHANNELS, 20, 32), (1,) * 4)
        assert isinstance(skip.owner, Operation)
        b.insert_op_after(crop, skip.owner)
        return [*results, crop.result]

    (x,) = random_inputs(INPUTS)
    module = core_module("trn1", INPUTS, WEIGHTS, cropped)
    function = core_function(module)
    expected = run_graph(function, [x], lambda name: WEIGHTS[name])
    fuse_block(function.body.block)
    run_in_bands(function.body.block, TRN1, machine(3000))
    module.verify()
    assert not check_ssa_order(module)
    assert any(isinstance(op, ConcatOp) for op in module.walk())
    for banded, whole in zip(run_graph(function, [x], lambda name: WEIGHTS[name]), expected, strict=True):
        np.testing.assert_allclose(banded, whole, rtol=1e-4, atol=1e-5)


def test_a_function_that_fits_stays_as_it_is() -> None:
    assert not any(isinstance(op, SliceOp) for op in in_bands(1 << 20).walk())


# The map in front of the pool stays on chip for it and is stored beside, from images that share the partitions or not.
# Rows are stored as they are computed, a quarter of them at once here.
@pytest.mark.parametrize("folded", [False, True])
def test_a_map_that_is_pooled_and_put_together_is_stored_from_the_chip(
    folded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "STORE_BYTES", 1 << 16)
    kept: list[Operation] = []

    def layouts(block: Block) -> None:
        fuse_block(block)
        run_in_bands(block, TRN1, machine(5000))
        if folded:
            fold_block(block, TRN1)
        choose_layouts(block, 100_000)
        for op in block.ops:
            if isinstance(op, PoolOp) and layout_of(op.x) is not None:
                kept.append(op)
                readers = [use.operation.name for use in op.x.uses]
                assert ReshapeOp.name in readers if folded else "graph.relayout" in readers

    assert lowered_error("trn1", INPUTS, WEIGHTS, network, layouts) < 1e-5
    assert kept


def joined_branches(b: Block, x: SSAValue, weights: Mapping[str, SSAValue], other: SSAValue | None) -> SSAValue:
    """Two branches of a map, or one and `other`, put together for a convolution."""

    def conv(value: SSAValue, w: str) -> SSAValue:
        op = ConvOp(value, weights[w], None, strides=[1, 1], pads=[1] * 4, dilations=[1, 1])
        b.add_op(op)
        return op.result

    left, right = conv(x, "w"), conv(x, "w") if other is None else other
    whole = ConcatOp([left, right], 1)
    b.add_op(whole)
    return conv(conv(whole.result, "joined"), "w")


# Branches of a run are put together for each part of it; what joins a map from elsewhere stays whole.
@pytest.mark.parametrize("elsewhere", [False, True])
def test_branches_are_put_together_for_each_part(elsewhere: bool) -> None:
    inputs = [("f32", (4, CHANNELS, 32, 32)), ("f32", (4, CHANNELS, 32, 32))]

    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        return [joined_branches(b, arguments[0], weights, arguments[1] if elsewhere else None)]

    values = random_inputs(inputs)
    module = core_module("trn1", inputs, WEIGHTS, make)
    function = core_function(module)
    expected = run_graph(function, values, lambda name: WEIGHTS[name])
    run_in_bands(function.body.block, TRN1, machine(13_000))
    module.verify()
    assert not check_ssa_order(module)
    channels = [op.result for op in function.body.block.ops if isinstance(op, ConcatOp) and op.axis.value.data == 1]
    assert len(channels) == 1 if elsewhere else len(channels) > 1
    assert all((shape_of(value) == (4, 2 * CHANNELS, 32, 32)) is elsewhere for value in channels)
    for banded, whole in zip(run_graph(function, values, lambda name: WEIGHTS[name]), expected, strict=True):
        np.testing.assert_allclose(banded, whole, rtol=1e-4, atol=1e-5)


def test_what_mixes_rows_is_left_alone() -> None:
    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        mean = ReduceOp(ReduceKind.MEAN, arguments[0], axes=(2,), keep_dims=True)
        shifted = BinaryOp(BinaryKind.SUB, arguments[0], mean.result)
        b.add_ops([mean, shifted])
        return [shifted.result]

    module = core_module("trn1", INPUTS, {}, make)
    run_in_bands(core_function(module).body.block, TRN1, machine(100))
    assert not any(isinstance(op, SliceOp) for op in module.walk())


# Two and three images put together: the last three are what was put there, any others are none of both.
def test_images_that_were_put_together_are_taken_from_where_they_were() -> None:
    block = Block(arg_types=[tensor_type(BF16, (images, 8, 4, 4)) for images in (2, 3)])
    whole = ConcatOp(block.args, 0)
    assert joined_images(whole.result, 2, 3) is block.args[1]
    assert joined_images(whole.result, 1, 3) is None
    assert joined_images(block.args[1], 0, 3) is None
