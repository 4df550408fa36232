"""Folding images into channels: the choice by numbers, and functions that compute the same afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import IntegerAttr, ModuleOp, i64
from xdsl.ir import Block, Operation, SSAValue

from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConvOp,
    PoolKind,
    PoolOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    UnaryKind,
    UnaryOp,
)
from neuron_dialects.graph.work import MODEL_MACS, model_macs
from neuron_dialects.ssa_order import check_ssa_order
from neuron_dialects.target import load_target
from passes.graph.fold_images import fold_block
from passes.graph.fold_plan import Convolution, Sweep, convolution_ns, plan_folds, sweep_ns
from passes.graph.fuse import fuse_block
from passes.graph.image_copies import ImageCopies
from runtime.graph_interpreter import run_graph
from tests.core_kernels import Array, core_function, core_module, random_inputs

TRN1 = load_target("trn1")
NUMBERS = st.integers(0, 20)


@given(st.lists(st.tuples(st.dictionaries(st.sampled_from([1, 2, 4]), NUMBERS, min_size=1), NUMBERS), max_size=5))
def test_the_plan_is_the_cheapest(layers: list[tuple[dict[int, int], int]]) -> None:
    costs, switches = [cost for cost, _ in layers], [switch for _, switch in layers]

    def price(choice: Sequence[int]) -> int:
        changes = (switch for (a, b), switch in zip(pairwise(choice), switches[1:], strict=True) if a != b)
        return sum(cost[fold] for cost, fold in zip(costs, choice, strict=True)) + sum(changes)

    plan = plan_folds(costs, switches)
    assert len(plan) == len(layers)
    assert price(plan) == min(price(choice) for choice in product(*costs)) if layers else True


# A depthwise convolution of 32 channels uses a quarter of the array; four images of it use all, eight are two blocks.
def test_a_depthwise_convolution_by_its_columns() -> None:
    work = Convolution(8, 32, 32, 32, 56 * 56, 9, 3, thin=False, element_bytes=2)
    once, four, eight = (convolution_ns(work, fold, TRN1) for fold in (1, 4, 8))
    assert once == pytest.approx(8 * 56 * 56 * 9 / 2.8)
    assert four == eight == pytest.approx(once / 4)


# 256 channels fill the array: nothing is gained, and eight images would load the filters as zeros for the most part.
def test_many_channels_gain_nothing() -> None:
    work = Convolution(8, 256, 256, 1, 14 * 14, 9, 3, thin=False, element_bytes=2)
    assert convolution_ns(work, 2, TRN1) == convolution_ns(work, 1, TRN1)
    assert convolution_ns(work, 8, TRN1) > convolution_ns(work, 1, TRN1)


# Three channels of images from DRAM: taps on partitions, three of nine in a column; four images make 12 channels.
def test_an_image_with_taps_on_partitions() -> None:
    work = Convolution(8, 3, 32, 1, 112 * 112, 9, 3, thin=True, element_bytes=2)
    assert convolution_ns(work, 1, TRN1) == pytest.approx(8 * 112 * 112 * 3 / 2.8)
    assert convolution_ns(work, 4, TRN1) == pytest.approx(2 * 112 * 112 * 3 / 2.8)


# What goes to DRAM does so a bank at a time, and a transfer of 32 lanes takes as long to start as one of 128.
def test_a_sweep_that_is_stored() -> None:
    work = Sweep(8, 32, 512, 1.0, 2)
    assert sweep_ns(work, 4, TRN1, stored=True) < sweep_ns(work, 1, TRN1, stored=True)
    assert sweep_ns(work, 1, TRN1, stored=False) == pytest.approx(8 * 512 / (1.4 + 1.12))


def network(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """A stem, a depthwise block with squeeze-and-excite and residual, a pool, and a mean of all positions."""

    def add(op: Operation) -> SSAValue:
        b.add_op(op)
        return op.results[0]

    def conv(x: SSAValue, w: str, groups: int = 1, pad: int = 1, bias: str | None = None) -> SSAValue:
        given = weights[bias] if bias else None
        return add(ConvOp(x, weights[w], given, strides=[1, 1], pads=[pad] * 4, dilations=[1, 1], groups=groups))

    x = add(UnaryOp(UnaryKind.RELU, conv(arguments[0], "stem", bias="bias")))
    y = add(UnaryOp(UnaryKind.RELU, conv(x, "depthwise", groups=16)))
    squeezed = add(ReduceOp(ReduceKind.MEAN, y, axes=(2, 3), keep_dims=True))
    gate = add(UnaryOp(UnaryKind.SIGMOID, conv(squeezed, "point", pad=0, bias="bias")))
    y = add(BinaryOp(BinaryKind.MUL, y, gate))
    x = add(BinaryOp(BinaryKind.ADD, conv(y, "point", pad=0, bias="bias"), x))
    x = add(PoolOp(PoolKind.MAX, x, kernel=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0], dilations=[1, 1]))
    return [add(ReduceOp(ReduceKind.MEAN, x, axes=(2, 3), keep_dims=False)), y]


RANDOM = np.random.default_rng(0)
WEIGHTS: dict[str, Array] = {
    "stem": RANDOM.standard_normal((16, 3, 3, 3)).astype(np.float32),
    "depthwise": RANDOM.standard_normal((16, 1, 3, 3)).astype(np.float32),
    "point": RANDOM.standard_normal((16, 16, 1, 1)).astype(np.float32),
    "bias": RANDOM.standard_normal(16).astype(np.float32),
}


@pytest.mark.parametrize("fuse", [True, False])
def test_a_folded_function_computes_the_same(fuse: bool) -> None:
    inputs = [("f32", (4, 3, 24, 24))]
    (x,) = random_inputs(inputs)
    module = core_module("trn1", inputs, WEIGHTS, network)

    def results(module: ModuleOp) -> list[Array]:
        return run_graph(core_function(module), [x], lambda name: WEIGHTS[name])

    whole = results(module)
    block = core_function(module).body.block
    if fuse:
        fuse_block(block)
    fold_block(block, TRN1)
    module.verify()
    assert not check_ssa_order(module)
    groups = [op.groups.value.data for op in module.walk() if isinstance(op, ConvOp)]
    assert groups == [4, 64, 4, 4]
    for folded, expected in zip(results(module), whole, strict=True):
        np.testing.assert_allclose(folded, expected, rtol=1e-4, atol=1e-4)


# A map that all channels are multiplied with would be one of each image: it stays beside images that are apart.
def test_what_all_channels_share_is_not_folded() -> None:
    def make(b: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        scaled = BinaryOp(BinaryKind.MUL, *arguments)
        b.add_op(scaled)
        return [scaled.result]

    module = core_module("trn1", [("f32", (4, 16, 24, 24)), ("f32", (4, 1, 24, 24))], {}, make)
    fold_block(core_function(module).body.block, TRN1)
    assert not any(isinstance(op, ReshapeOp) for op in module.walk())


# Of four images in two parts, a copy computes half; of images that are taken as one, all that the model asks for.
@pytest.mark.parametrize(("together", "macs"), [(1, 500), (2, 1000)])
def test_a_copy_knows_its_share_of_the_models_work(together: int, macs: int) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        conv = ConvOp(arguments[0], values["w"], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
        conv.attributes[MODEL_MACS] = IntegerAttr(1000, i64)
        block.add_op(conv)
        return [conv.result]

    module = core_module("trn1", [("f32", (4, 8, 6, 6))], {"w": np.zeros((8, 8, 1, 1), np.float32)}, make)
    block = core_function(module).body.block
    conv = next(op for op in block.ops if isinstance(op, ConvOp))
    clone = ImageCopies(block, 2, together).clone(conv, {conv.x: conv.x})
    assert model_macs(clone) == macs
    clone.erase()
