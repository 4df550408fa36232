"""The matmul template against the graph level: remainders, batches, orientations, weights, both array widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile.matmul_plan import plan_matmul
from neuron_dialects.graph import MatMulOp, UnaryKind, UnaryOp
from passes.graph.fuse import fuse_block
from tests.core_kernels import Make, lowered_error

BF16_TOLERANCE = 4e-3
"""One rounding of the result to bf16."""


def matmul(transpose_a: bool = False, transpose_b: bool = False) -> Make:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        right = arguments[1] if len(arguments) > 1 else weights["w"]
        op = MatMulOp(arguments[0], right, transpose_a=transpose_a, transpose_b=transpose_b)
        block.add_op(op)
        return [op.result]

    return make


CASES = {
    "one tile": ([(64, 96), (96, 80)], matmul()),
    "remainders everywhere": ([(300, 260), (260, 700)], matmul()),
    "shared b over a batch": ([(4, 3, 130, 64), (3, 64, 50)], matmul()),
    "scores: b transposed": ([(2, 3, 130, 64), (2, 3, 140, 64)], matmul(transpose_b=True)),
    "a transposed": ([(3, 70, 130), (3, 70, 50)], matmul(transpose_a=True)),
    # On an array as wide as the lanes the sums of six tiles of rows grow side by side; these lie behind them.
    "two tiles behind the first, halves at the end": ([(1024, 256), (256, 1024)], matmul()),
    "three tiles and some rows behind the first": ([(1200, 256), (256, 1024)], matmul()),
    "some rows behind the first": ([(800, 384), (384, 300)], matmul()),
    "few rows": ([(1, 784), (784, 10)], matmul()),
    "one column": ([(200, 100), (100, 1)], matmul()),
    "batch of a alone": ([(5, 40, 200), (200, 130)], matmul()),
    "samples": ([(140, 7, 9), (140, 9, 5)], matmul()),
    "samples, b transposed": ([(256, 64, 33), (256, 3, 33)], matmul(transpose_b=True)),
    "samples, a transposed": ([(130, 9, 20), (130, 9, 64)], matmul(transpose_a=True)),
}


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("case", CASES)
def test_matmul_of_inputs_matches_the_graph_level(case: str, target: str) -> None:
    shapes, make = CASES[case]
    assert lowered_error(target, [("bf16", shape) for shape in shapes], {}, make) < BF16_TOLERANCE


# The operand is turned once for both sides; what follows the product rides on its eviction.
def test_products_of_samples_with_themselves() -> None:
    def make(block: Block, arguments: Sequence[SSAValue], _: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        product = MatMulOp(arguments[0], arguments[0], transpose_b=True)
        squashed = UnaryOp(UnaryKind.TANH, product.result)
        block.add_ops([product, squashed])
        return [squashed.result]

    assert lowered_error("trn1", [("bf16", (150, 27, 40))], {}, make, fuse_block) < 2 * BF16_TOLERANCE


@pytest.mark.parametrize("transposed", [False, True])
def test_weights_are_packed_at_emission(transposed: bool) -> None:
    rng = np.random.default_rng(1)
    shape = (1000, 784) if transposed else (784, 1000)
    weights = {"w": rng.standard_normal(shape).astype(ml_dtypes.bfloat16)}
    assert lowered_error("trn1", [("bf16", (2, 130, 784))], weights, matmul(transpose_b=transposed)) < BF16_TOLERANCE


def test_fp32_matmul_keeps_fp32_accuracy() -> None:
    assert lowered_error("trn1", [("f32", (200, 300)), ("f32", (300, 600))], {}, matmul()) < 1e-6


@pytest.mark.parametrize(
    ("m", "k", "n", "batch"), [(4096, 4096, 4096, 1), (128, 768, 3072, 8), (77, 10, 5, 3), (1, 25088, 4096, 1)]
)
def test_plan_fits_its_budget(m: int, k: int, n: int, batch: int) -> None:
    budget = 110_000
    plan = plan_matmul(m, k, n, batch, 2, budget, 512)
    row_bytes = -(-k // 128) * 2
    used = (min(m, plan.panel_rows) * min(batch, plan.panel_batch) + 3 * plan.columns + 2 * 128) * row_bytes
    assert used <= budget or (plan.panel_rows == min(m, 128) and plan.columns <= 16)
    assert plan.panel_rows == m or plan.panel_rows % 128 == 0
