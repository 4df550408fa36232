"""Results of products in the place of the residual that was added to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import BinaryKind, BinaryOp, CastOp, FusedOp, LayerNormOp, MatMulOp
from passes.graph.fuse import LEAST_DEPTH, fuse_block
from passes.graph.layout import choose_layouts, resident_profile
from passes.graph.residence import overwrites
from tests.core_kernels import Make, core_function, core_module, lowered_error

WEIGHTS = {"w": (np.random.default_rng(0).standard_normal((128, 128)) / 12).astype(ml_dtypes.bfloat16)}


def residual(*, read_again: bool) -> Make:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        norm = LayerNormOp(arguments[0], axis=1, epsilon=1e-5)
        narrow = CastOp(norm.result, BF16)
        product = MatMulOp(narrow.result, weights["w"], accumulate_f32=True)
        added = BinaryOp(BinaryKind.ADD, norm.result, product.result)
        last = LayerNormOp(added.result, axis=1, epsilon=1e-5)
        block.add_ops([norm, narrow, product, added, last])
        if not read_again:
            return [last.result]
        more = BinaryOp(BinaryKind.MUL, last.result, norm.result)
        block.add_op(more)
        return [more.result]

    return make


def layouts(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, 100000)


# The residual ends with the sum: the sum takes its place. Where it is read again, it may not.
@pytest.mark.parametrize("read_again", [False, True])
def test_a_sum_takes_the_place_of_a_residual_that_ends(read_again: bool) -> None:
    make = residual(read_again=read_again)
    block = core_function(core_module("trn1", [("f32", (300, 128))], WEIGHTS, make)).body.block
    layouts(block)
    kernel = next(op for op in block.ops if isinstance(op, FusedOp))
    assert bool(overwrites(kernel)) is not read_again
    # Three tiles of 128 f32 = 1536 bytes for rows, 300 bf16 = 600 bytes for their turned form.
    at_product = resident_profile(list(block.ops))[list(block.ops).index(kernel)]
    assert at_product == (2 * 1536 + 600 if read_again else 1536 + 600)


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("read_again", [False, True])
def test_numbers_do_not_change(target: str, read_again: bool) -> None:
    make = residual(read_again=read_again)
    assert lowered_error(target, [("f32", (300, 128))], WEIGHTS, make, layouts) < 8e-3


def scaled(depth: int) -> Make:
    """layer_norm(h . w + n * s + b), where n = layer_norm(x) and h, `depth` wide, is made of it in front of it."""

    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        norm = LayerNormOp(arguments[0], axis=1, epsilon=1e-5)
        narrow = CastOp(norm.result, BF16)
        hidden = MatMulOp(narrow.result, weights["v"])
        product = MatMulOp(hidden.result, weights["w"], accumulate_f32=True)
        factor = BinaryOp(BinaryKind.MUL, norm.result, weights["s"])
        added = BinaryOp(BinaryKind.ADD, product.result, factor.result)
        biased = BinaryOp(BinaryKind.ADD, added.result, weights["b"])
        last = LayerNormOp(biased.result, axis=1, epsilon=1e-5)
        block.add_ops([norm, narrow, hidden, product, factor, added, biased, last])
        return [last.result]

    return make


# The scaled residual is part of a long product's kernel: no tensor of it is kept, and the sum takes its place. A short
# product would wait for the scaling, which stands behind the normalisation then; the sum takes the place of its result.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("depth", [128, LEAST_DEPTH])
def test_a_scaled_residual_is_read_where_it_is_added(target: str, depth: int) -> None:
    rng = np.random.default_rng(1)
    weights = {name: rng.standard_normal(128).astype(np.float32) for name in "sb"}
    weights |= {
        "v": (rng.standard_normal((128, depth)) / 12).astype(ml_dtypes.bfloat16),
        "w": (rng.standard_normal((depth, 128)) / depth**0.5).astype(ml_dtypes.bfloat16),
    }
    block = core_function(core_module(target, [("f32", (300, 128))], weights, scaled(depth))).body.block
    layouts(block)
    (kernel,) = (op for op in block.ops if isinstance(op, FusedOp))
    assert overwrites(kernel)
    ops = list(block.ops)
    apart = [i for i, op in enumerate(ops) if isinstance(op, BinaryOp)]
    norms = [i for i, op in enumerate(ops) if isinstance(op, LayerNormOp)]
    assert apart == ([] if depth == LEAST_DEPTH else [norms[0] + 1])
    assert lowered_error(target, [("f32", (300, 128))], weights, scaled(depth), layouts) < 8e-3
