"""Attention with keys on partitions, against the graph level: tiles of queries, several sequences, large scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.dialects.builtin import TensorType
from xdsl.ir import Block, SSAValue
from xdsl.rewriter import Rewriter

from lowering.graph_to_tile import attention, attention_keys
from lowering.graph_to_tile.attention_keys import KeyAttention
from lowering.graph_to_tile.attention_plan import PlanFigures, keys_pay
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import AttentionOp, BinaryKind, BinaryOp, CastOp, LayerNormOp, MatMulOp, ReshapeOp, shape_of
from neuron_dialects.graph.layout import LayoutAttr
from neuron_dialects.target import load_target
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from tests.core_kernels import Array, Make, lowered_error

SEQUENCES = 3


def weights_of(width: int, gain: float = 1.0) -> dict[str, Array]:
    """Of the projections of queries (0), keys (1), values (2), each with a bias, and of the last product (3)."""
    rng = np.random.default_rng(5)
    made: dict[str, Array] = {}
    for i, scale in enumerate((gain, gain, 1.0, 1.0)):
        made[f"w{i}"] = (scale * rng.standard_normal((width, width)) / width**0.5).astype(ml_dtypes.bfloat16)
        made[f"b{i}"] = rng.standard_normal(width).astype(np.float32)
    return made


def projected(heads: int, length: int, width: int, values_of: str = "product", masked: bool = False) -> Make:
    """x [sequences * length, width] -> attention of its projections -> a product.

    `values_of`: what the values are: a projection as well, rows that are normalised on chip, or rows in DRAM. `masked`:
    with the weight "mask" added to scores that are not scaled.
    """

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def product(x: SSAValue, number: int) -> SSAValue:
            matmul = MatMulOp(x, values[f"w{number}"], accumulate_f32=True)
            biased = BinaryOp(BinaryKind.ADD, matmul.result, values[f"b{number}"])
            narrow = CastOp(biased.result, BF16)
            block.add_ops([matmul, biased, narrow])
            return narrow.result

        rows = [product(arguments[0], i) for i in range(2 if values_of != "product" else 3)]
        if values_of == "norm":
            norm = LayerNormOp(arguments[0], axis=1, epsilon=1e-5)
            block.add_op(norm)
            rows.append(norm.result)
        elif values_of == "dram":
            rows.append(arguments[0])
        parts = [ReshapeOp(value, (SEQUENCES, length, width)) for value in rows]
        block.add_ops(parts)
        operands = [*(part.result for part in parts), *([values["mask"]] if masked else [])]
        op = AttentionOp(*operands, heads=heads, kv_heads=heads, scale=1.0 if masked else (heads / width) ** 0.5)
        together = ReshapeOp(op.result, (SEQUENCES * length, width))
        block.add_ops([op, together])
        return [product(together.result, 3)]

    return make


def lay_out(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, 60000)


def keep_values(block: Block) -> None:
    """Layouts as they are chosen, and what is normalised stays on chip until attention reads it as its values."""
    lay_out(block)
    for op in block.ops:
        if isinstance(op, LayerNormOp):
            (rows,) = [use.operation for use in op.result.uses if isinstance(use.operation, ReshapeOp)]
            for result, partition in ((op.result, 0), (rows.results[0], 1)):
                resident = TensorType(BF16.type, shape_of(result), LayoutAttr.resident(partition))
                Rewriter.replace_value_with_new_type(result, resident)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[AttentionOp]:
    """The attentions that this kernel lowers, whether it pays or not."""
    seen: list[AttentionOp] = []

    class Spy(KeyAttention):
        def prepare(self) -> None:
            seen.append(self.op)
            super().prepare()

    monkeypatch.setattr(attention, "KeyAttention", Spy)
    monkeypatch.setattr(attention_keys, "keys_pay", lambda *_: True)
    return seen


# (heads, positions, features, target): two tiles of queries that overlap and two of keys; heads of 32 features, four in
# a unit, positions on partitions in place or not; heads of 128 features and three tiles of queries; heads of 64
# features in units of their own. More keys than a bank of PSUM takes: five tiles of 104 queries in a loop.
CASES = [
    (4, 197, 256, "trn1"),
    (4, 197, 256, "inf1"),
    (12, 128, 384, "trn1"),
    (2, 260, 256, "trn1"),
    (9, 50, 1152, "trn1"),
    (4, 260, 256, "trn1"),
    (4, 520, 256, "trn1"),
]


@pytest.mark.parametrize(("heads", "length", "width", "target"), CASES)
def test_matches_the_graph_level(heads: int, length: int, width: int, target: str, taken: list[AttentionOp]) -> None:
    inputs = [("bf16", (SEQUENCES * length, width))]
    assert lowered_error(target, inputs, weights_of(width), projected(heads, length, width), lay_out) < 1e-2
    assert len(taken) == 1


# Values that lie with positions on partitions, and values in DRAM, of which a unit's heads are loaded at a time.
@pytest.mark.parametrize("values_of", ["norm", "dram"])
def test_values_that_are_not_projected(values_of: str, taken: list[AttentionOp]) -> None:
    inputs, make = [("bf16", (SEQUENCES * 128, 384))], projected(12, 128, 384, values_of)
    assert lowered_error("trn1", inputs, weights_of(384), make, keep_values) < 1e-2
    assert len(taken) == 1


# Scores of some thousands, far beyond what exp can take: only what is subtracted keeps powers in range.
def test_scores_far_from_zero(taken: list[AttentionOp]) -> None:
    length, width = 130, 256
    weights = weights_of(width, gain=30.0)
    inputs = [("bf16", (SEQUENCES * length, width))]
    # One key takes nearly all weight: where two are about as good, rounding of q and k decides between them.
    assert lowered_error("trn1", inputs, weights, projected(4, length, width), lay_out) < 0.1
    assert len(taken) == 1


# Masks of each head and query, of all heads, of keys alone, of each head alone, and the same for all sequences; in
# iterations over three sequences; and where a unit is one head. Hidden keys, a sequence of which all keys are hidden
# alike, and large biases.
@pytest.mark.parametrize(
    ("heads", "length", "shape"),
    [
        (12, 128, (SEQUENCES, 12, 128, 128)),
        (12, 128, (SEQUENCES, 1, 1, 128)),
        (12, 128, (1, 12, 1, 128)),
        (4, 197, (SEQUENCES, 1, 197, 197)),
        (4, 197, (1, 4, 197, 197)),
        (4, 260, (1, 4, 260, 260)),
    ],
)
def test_masks(heads: int, length: int, shape: tuple[int, ...], taken: list[AttentionOp]) -> None:
    width, rng = 32 * heads if heads == 12 else 256, np.random.default_rng(7)
    mask = 20.0 * rng.standard_normal(shape)
    mask[..., rng.permutation(length)[: length // 3]] = -np.inf
    mask[-1, ..., length // 2 :] = -np.inf
    if shape[0] == SEQUENCES:
        mask[0] = ml_dtypes.finfo(ml_dtypes.bfloat16).min
    weights = weights_of(width, gain=(heads / width) ** 0.25) | {"mask": mask.astype(ml_dtypes.bfloat16)}
    make = projected(heads, length, width, masked=True)
    assert lowered_error("trn1", [("bf16", (SEQUENCES * length, width))], weights, make, lay_out) < 1e-2
    assert len(taken) == 1


# Where engines take turns at PSUM, powers that pass it once less pay; where each has its own port, the tensor engine,
# which makes all scores twice, would be what the others wait for.
@pytest.mark.parametrize(("target", "pays"), [("trn1", True), ("inf1", False)])
def test_the_choice_follows_the_figures_of_the_target(target: str, pays: bool) -> None:
    assert keys_pay(PlanFigures(99, 197, 64), load_target(target)) == pays
