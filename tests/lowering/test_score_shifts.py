"""`graph-bound-scores` where attention is long: shifts, keys without their bias, and numbers at the bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.ir import Block, SSAValue

from lowering.bounded_scores import GraphBoundScoresPass, WeighedBoundScores
from lowering.graph_to_tile import attention
from lowering.graph_to_tile.attention_shifted import ShiftedKeyAttention
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import (
    AttentionOp,
    BinaryKind,
    BinaryOp,
    ConstantOp,
    LayerNormOp,
    MatMulOp,
    ReshapeOp,
)
from neuron_dialects.neuron import WEIGHTS_ATTRIBUTE
from neuron_dialects.weights import WeightStore
from passes.graph.flatten_rows import GraphFlattenRowsPass
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from tests import core_kernels
from tests.core_kernels import Array, Make, core_module, lowered_error

LENGTH, WIDTH, HEADS = 260, 256, 4

GAIN, SHIFT = 1.24, 16.0
"""Weights with scores that only just fit into the range of powers, and what these are lowered by."""


def weights_of(gain: float) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    made: dict[str, Array] = {}
    for i, scale in enumerate((gain, gain, 1.0)):
        made[f"w{i}"] = (scale * rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(ml_dtypes.bfloat16)
        made[f"b{i}"] = (0.1 * rng.standard_normal(WIDTH)).astype(ml_dtypes.bfloat16)
    return made


def block_of(kind: str = "plain") -> Make:
    """x -> normalisation -> attention of its projections; `kind`: what is different."""

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        norm = LayerNormOp(arguments[0], axis=2, epsilon=1e-5)
        block.add_op(norm)
        rows: list[SSAValue] = []
        for i in range(3):
            source = arguments[0] if kind == "keys of other rows" and i == 1 else norm.result
            product = MatMulOp(source, values[f"w{i}"])
            biased = BinaryOp(BinaryKind.ADD, values[f"b{i}"], product.result)
            block.add_ops([product, biased])
            rows.append(biased.result)
        factor = ConstantOp(0.125, BF16, ())
        scaled = BinaryOp(BinaryKind.MUL, rows[0], factor.result)
        block.add_ops([factor, scaled])
        op = AttentionOp(scaled.result, *rows[1:], heads=HEADS, kv_heads=HEADS, scale=1.0, causal=kind == "causal")
        block.add_op(op)
        flat = ReshapeOp(op.result, (LENGTH, WIDTH))
        last = MatMulOp(flat.result, values["w2"])
        block.add_ops([flat, last])
        return [last.result, rows[1]] if kind == "keys read twice" else [last.result]

    return make


def bounded(weights: Mapping[str, Array], make: Make) -> tuple[ModuleOp, AttentionOp]:
    module = core_module("trn1", [("bf16", (1, LENGTH, WIDTH))], weights, make)
    WeighedBoundScores(store_of(weights)).apply(Context(), module)
    module.verify()
    (op,) = [op for op in module.walk() if isinstance(op, AttentionOp)]
    return module, op


def store_of(weights: Mapping[str, Array]) -> WeightStore:
    store = WeightStore()
    for name, array in weights.items():
        store.add(name, array)
    return store


def test_small_weights_need_no_shift() -> None:
    _, op = bounded(weights_of(0.5), block_of())
    assert op.score_shift == 0.0
    assert isinstance(op.k.owner, BinaryOp)


# Where it is the bias of the keys that is too much, they lose it, and it goes, unless somebody else reads it.
@pytest.mark.parametrize("kind", ["plain", "keys read twice"])
def test_keys_lose_their_bias(kind: str) -> None:
    weights = weights_of(0.5)
    module, op = bounded(weights | {"b1": weights["b1"] * ml_dtypes.bfloat16(300.0)}, block_of(kind))
    assert op.score_shift == 0.0
    assert isinstance(op.k.owner, MatMulOp)
    assert ("@b1" in str(module)) == (kind == "keys read twice")


# Large weights, weights that are no numbers, and what the proof does not cover.
@pytest.mark.parametrize(
    ("gain", "kind"),
    [(3.0, "plain"), (float("inf"), "plain"), (float("nan"), "plain"), (0.5, "causal"), (0.5, "keys of other rows")],
)
def test_unbounded_scores(gain: float, kind: str) -> None:
    weights = weights_of(gain)
    _, op = bounded(weights, block_of(kind))
    assert op.score_shift is None
    assert isinstance(op.k.owner, BinaryOp)


# Rows along those directions in which scores are largest, and equal rows, spikes, numbers near the end of the range.
def test_numbers_at_the_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = weights_of(GAIN)
    x = np.random.default_rng(1).standard_normal((1, LENGTH, WIDTH))
    for head in range(HEADS):
        part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
        product = weights["w0"][:, part].astype(float) @ weights["w1"][:, part].astype(float).T
        left, _, right = np.linalg.svd(product)
        _, vectors = np.linalg.eigh(product + product.T)
        worst = [left[:, 0], right[0], -left[:, 0], -right[0], vectors[:, 0], vectors[:, -1]]
        x[0, 6 * head : 6 * head + 6] = worst
    x[0, 30], x[0, 31], x[0, 32] = 1e6, 0.0, np.where(np.arange(WIDTH) == 7, 1e15, 0.0)
    monkeypatch.setattr(core_kernels, "random_inputs", lambda _: [x.astype(ml_dtypes.bfloat16)])
    shifts: list[float | None] = []

    class Spy(ShiftedKeyAttention):
        def prepare(self) -> None:
            shifts.append(self.op.score_shift)
            super().prepare()

    monkeypatch.setattr(attention, "ShiftedKeyAttention", Spy)

    def layouts(block: Block) -> None:
        function = block.parent_op()
        module = function.parent_op() if function is not None else None
        assert isinstance(module, ModuleOp)
        WeighedBoundScores(store_of(weights)).apply(Context(), module)
        GraphFlattenRowsPass().apply(Context(), module)
        fuse_block(block)
        choose_layouts(block, 60000)

    assert lowered_error("trn1", [("bf16", (1, LENGTH, WIDTH))], weights, block_of(), layouts) < 2e-2
    assert shifts == [SHIFT]


def test_the_weights_of_the_file_that_a_module_names(tmp_path: Path) -> None:
    weights = weights_of(0.5)
    module = core_module("trn1", [("bf16", (1, LENGTH, WIDTH))], weights, block_of())
    GraphBoundScoresPass().apply(Context(), module)
    assert "score_shift" not in str(module)
    store_of(weights).save_safetensors(tmp_path / "w.safetensors")
    module.attributes[WEIGHTS_ATTRIBUTE] = StringAttr(str(tmp_path / "w.safetensors"))
    GraphBoundScoresPass().apply(Context(), module)
    assert "score_shift" in str(module)
