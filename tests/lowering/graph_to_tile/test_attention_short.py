"""Attention over many short sequences, against the graph level: masks that repeat, heads in groups, projections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.dialects.builtin import UnitAttr
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile.attention_plan import sequences_in_iteration
from lowering.graph_to_tile.attention_short import ShortAttention
from neuron_dialects.graph import AttentionOp, BinaryKind, BinaryOp, MatMulOp, ReshapeOp
from neuron_dialects.graph.attention import SCORE_SHIFT, SEES_KEYS
from neuron_dialects.graph.attrs import f32_attr
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from tests.core_kernels import Array, Make, lowered_error

BF16_TOLERANCE = 6e-3
"""Probabilities and result rounded to bf16."""


def windows(
    sequences: int,
    length: int,
    heads: int,
    width: int,
    scale: float,
    shift: float | None = None,
    *,
    sees_keys: bool = True,
) -> Make:
    """x [sequences * length, width] -> attention of its projections, as a matrix again -> a product."""

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def product(x: SSAValue, name: str) -> SSAValue:
            op = MatMulOp(x, values[name])
            block.add_op(op)
            return op.result

        def shaped(x: SSAValue, *shape: int) -> SSAValue:
            op = ReshapeOp(x, shape)
            block.add_op(op)
            return op.result

        q, k, v = (product(arguments[0], name) for name in "qkv")
        if "bias" in values:
            added = BinaryOp(BinaryKind.ADD, v, values["bias"])
            block.add_op(added)
            v = added.result
        q, k, v = (shaped(x, sequences, length, width) for x in (q, k, v))
        op = AttentionOp(q, k, v, values.get("mask"), heads=heads, kv_heads=heads, scale=scale)
        if shift is not None:
            op.attributes[SCORE_SHIFT] = f32_attr(shift)
        if sees_keys:
            op.attributes[SEES_KEYS] = UnitAttr()
        block.add_op(op)
        return [product(shaped(op.result, sequences * length, width), "o")]

    return make


def weights_of(width: int, mask: tuple[int, ...], gain: float) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    made: dict[str, Array] = {name: rng.standard_normal((width, width)) / width**0.5 for name in "kvo"}
    made["q"] = gain * rng.standard_normal((width, width)) / width**0.5
    if mask:
        # The last keys are hidden by minus infinity, some of the others nearly so.
        made["mask"] = 2 * rng.standard_normal(mask) - 100 * (rng.random(mask) < 0.2)
        made["mask"][..., -3:] = -np.inf
    return {name: array.astype(ml_dtypes.bfloat16) for name, array in made.items()}


def fused_layouts(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, 135000)


CASES = {
    "a mask for two sequences": (16, 50, 3, 96, (2, 3, 50, 50), 1.0),
    "masks for many sequences": (64, 20, 3, 96, (32, 3, 20, 20), 1.0),
    "a mask that heads share": (16, 24, 2, 128, (4, 1, 24, 24), 1.0),
    "eight units in an iteration": (16, 24, 2, 64, (8, 1, 24, 24), 300.0),
    "no mask": (18, 33, 4, 128, (), 1.0),
    "large scores": (16, 49, 3, 96, (1, 3, 49, 49), 300.0),
    "scores whose maxima no 16 bits hold": (16, 49, 3, 96, (), 3e4),
}


NIGHTLY_CASES = {
    "one mask": (16, 98, 3, 96, (1, 3, 98, 98), 1.0),
    "several groups of heads": (16, 98, 6, 192, (2, 6, 98, 98), 1.0),
    "five units in an iteration": (20, 110, 20, 640, (1, 1, 110, 110), 1.0),
}


NAMES = (*CASES, *(pytest.param(name, marks=pytest.mark.nightly) for name in NIGHTLY_CASES))


@pytest.mark.parametrize("case", NAMES)
def test_short_sequences_match_the_graph_level(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_case({**CASES, **NIGHTLY_CASES}[case], None, monkeypatch)


# One unit or several in a sequence, one sequence or several in an iteration; powers that would overflow, or vanish.
BOUNDED_CASES = {
    "one unit each": ((18, 33, 3, 96, (2, 3, 33, 33), 1.0), 0.0),
    "no mask": ((16, 20, 3, 96, (), 1.0), 60.0),
    "a mask that heads share, two units": ((16, 70, 8, 256, (1, 1, 70, 70), 1.0), -60.0),
    "one sequence in an iteration": ((16, 120, 16, 512, (1, 1, 120, 120), 1.0), 16.0),
    "values of several banks": ((4, 20, 20, 640, (), 1.0), 0.0),
}


@pytest.mark.parametrize("case", BOUNDED_CASES)
def test_bounded_scores_match_the_graph_level(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_case(*BOUNDED_CASES[case], monkeypatch)


Case = tuple[int, int, int, int, tuple[int, ...], float]


def check_case(case: Case, shift: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel for short sequences, or its form without maxima, is taken and gives what the graph level does."""
    sequences, length, heads, width, mask, gain = case
    taken: list[ShortAttention] = []
    run = ShortAttention.run

    def seen(kernel: ShortAttention) -> None:
        taken.append(kernel)
        run(kernel)

    monkeypatch.setattr(ShortAttention, "run", seen)
    make = windows(sequences, length, heads, width, (width // heads) ** -0.5, shift)
    inputs = [("bf16", (sequences * length, width))]
    tolerance = BF16_TOLERANCE if gain == 1.0 else 3 * BF16_TOLERANCE
    weights = weights_of(width, mask, gain)
    weights["bias"] = np.linspace(-1.0, 1.0, width).astype(ml_dtypes.bfloat16)
    assert lowered_error("trn1", inputs, weights, make, fused_layouts) < tolerance
    assert len(taken) == 1
    assert ("compared.f32" in taken[0].rings) is (shift is None)
    # It makes the values itself where it looks for no maxima.
    assert (taken[0].product is None) is (shift is None)


# A mask that may hide all keys of a query is for another kernel: its large number takes all bits of the scores.
@pytest.mark.parametrize("hidden", [-1e9, -1e30])
def test_a_query_that_sees_nothing(hidden: float) -> None:
    weights = weights_of(96, (), 1e4)
    mask = np.zeros((1, 1, 20, 20))
    mask[..., 5, :] = mask[..., :, 7] = hidden
    weights["mask"] = mask.astype(ml_dtypes.bfloat16)
    make = windows(16, 20, 3, 96, 32**-0.5, sees_keys=False)
    # Which of its keys such a query sees is left to the rounding of that number.
    assert lowered_error("trn1", [("bf16", (320, 96))], weights, make, fused_layouts) < 0.3


# A narrow array, masks in f32 and operands in DRAM take another kernel; a mask repeats there too.
@pytest.mark.parametrize(("target", "dtype"), [("inf1", "bf16"), ("trn1", "f32")])
def test_masks_repeat_in_other_kernels(target: str, dtype: str) -> None:
    mask = (
        np.random.default_rng(1)
        .standard_normal((4, 2, 40, 40))
        .astype(np.float32 if dtype == "f32" else ml_dtypes.bfloat16)
    )

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        q, k, v = arguments
        op = AttentionOp(q, k, v, values["mask"], heads=2, kv_heads=2, scale=0.2)
        block.add_op(op)
        return [op.result]

    assert lowered_error(target, [("bf16", (8, 40, 64))] * 3, {"mask": mask}, make) < BF16_TOLERANCE


# Sums with what is the same for all queries: masks of fewer dimensions are for another kernel.
@pytest.mark.parametrize("shape", [(), (20,), (20, 20), (3, 20, 20)])
def test_masks_of_fewer_dimensions(shape: tuple[int, ...]) -> None:
    weights = weights_of(96, (), 1.0) | {
        "mask": np.random.default_rng(4).standard_normal(shape).astype(ml_dtypes.bfloat16)
    }
    make = windows(16, 20, 3, 96, 32**-0.5)
    assert (
        lowered_error("trn1", [("bf16", (320, 96))], weights, make, lambda block: choose_layouts(block, 135000))
        < BF16_TOLERANCE
    )


# A mask that was computed on the core holds minus infinity as well.
def test_a_computed_mask() -> None:
    plain = windows(16, 20, 3, 96, 32**-0.5)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        twice = BinaryOp(BinaryKind.ADD, values["mask"], values["mask"])
        block.add_op(twice)
        return plain(block, arguments, {**values, "mask": twice.result})

    weights = weights_of(96, (2, 3, 20, 20), 1.0)
    assert (
        lowered_error("trn1", [("bf16", (320, 96))], weights, make, lambda block: choose_layouts(block, 135000))
        < BF16_TOLERANCE
    )


@given(st.integers(1, 16), st.integers(1, 40), st.integers(1, 40))
def test_iterations_share_the_sequences_out(repeats: int, period: int, units: int) -> None:
    together = sequences_in_iteration(repeats * period, period, units)
    assert (repeats * period) % together == 0
    assert together % period == 0 or period % together == 0
