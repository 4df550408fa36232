"""The attention template against the graph level: masks, shared key heads, long sequences, both array widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.context import Context
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile.attention_plan import HeadGroups, even_tiles
from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from neuron_dialects.access_ops import space_of
from neuron_dialects.graph import AttentionOp, BinaryKind, BinaryOp, layout_of
from neuron_dialects.tile import AllocOp, TileOp
from passes.graph.layout import choose_layouts
from tests.core_kernels import Make, core_function, core_module, executions, lowered_error

BF16_TOLERANCE = 6e-3
"""Probabilities and result rounded to bf16."""


def attention(heads: int, kv_heads: int | None = None, scale: float = 0.125, causal: bool = False) -> Make:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        op = AttentionOp(*arguments, heads=heads, kv_heads=kv_heads or heads, scale=scale, causal=causal)
        block.add_op(op)
        return [op.result]

    return make


CASES: dict[str, tuple[list[tuple[int, ...]], Make]] = {
    "one tile": ([(1, 128, 128)] * 3, attention(2)),
    "remainders": ([(2, 50, 192)] * 3, attention(3)),
    "two tiles of queries": ([(2, 197, 256)] * 3, attention(4)),
    "a loop over tiles of several heads": ([(1, 512, 192)] * 3, attention(3)),
    "other keys": ([(1, 40, 128), (1, 300, 128), (1, 300, 128)], attention(2)),
    "large heads": ([(1, 64, 512)] * 3, attention(2, scale=0.06)),
    "small heads": ([(1, 64, 256)] * 3, attention(8, scale=0.2)),
    "heads that do not pack": ([(1, 40, 96), (1, 140, 96), (1, 140, 60)], attention(12, scale=0.3)),
    "shared key heads that do not pack": ([(1, 96, 160), (1, 96, 80), (1, 96, 80)], attention(2, 1)),
    "shared key heads": ([(1, 96, 512), (1, 96, 128), (1, 96, 128)], attention(8, 2)),
    "other value size": ([(1, 64, 128), (1, 64, 128), (1, 64, 64)], attention(2)),
    "more keys than a bank": ([(1, 160, 64), (1, 1100, 64), (1, 1100, 64)], attention(1)),
    "mask of keys": ([*[(2, 130, 128)] * 3, (2, 1, 1, 130)], attention(2)),
    "mask of heads": ([*[(2, 70, 256)] * 3, (1, 4, 70, 70)], attention(4)),
    "causal": ([(1, 300, 128)] * 3, attention(2, causal=True)),
    "causal behind a prefix": ([(1, 70, 128), (1, 200, 128), (1, 200, 128)], attention(2, causal=True)),
    "negative scale": ([(1, 64, 64)] * 3, attention(1, scale=-0.1)),
}


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("case", CASES)
def test_attention_matches_the_graph_level(case: str, target: str) -> None:
    shapes, make = CASES[case]
    inputs = [("f32" if index == 3 else "bf16", shape) for index, shape in enumerate(shapes)]
    assert lowered_error(target, inputs, {}, make) < BF16_TOLERANCE


def masked(block: Block, arguments: Sequence[SSAValue], _weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
    """Two layers of attention with a mask [B, 1, Q, K] that is computed on chip."""
    q, k, v, mask = arguments
    mask_op = BinaryOp(BinaryKind.ADD, mask, mask)
    first = AttentionOp(q, k, v, mask_op.result, heads=2, kv_heads=2, scale=0.125)
    second = AttentionOp(first.result, k, v, mask_op.result, heads=2, kv_heads=2, scale=0.125)
    block.add_ops([mask_op, first, second])
    return [second.result]


# A mask stays on chip for both layers where tiles of 128 queries read it; 197 queries are two tiles of 99.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize(("length", "stays"), [(70, True), (128, True), (256, True), (197, False)])
def test_a_mask_of_all_heads_stays_on_chip(length: int, stays: bool, target: str) -> None:
    seen: list[bool] = []

    def lay(block: Block) -> None:
        choose_layouts(block, 60000)
        (mask,) = [op for op in block.ops if isinstance(op, BinaryOp)]
        layout = layout_of(mask.result)
        seen.append(layout is not None and layout.partition_dimension == 2)

    inputs = [*[("bf16", (3, length, 128))] * 3, ("bf16", (3, 1, length, length))]
    assert lowered_error(target, inputs, {}, masked, lay) < 2 * BF16_TOLERANCE
    assert seen == [stays]


def test_fp32_attention_keeps_fp32_accuracy() -> None:
    assert lowered_error("trn1", [("f32", (1, 150, 128))] * 3, {}, attention(2)) < 2e-6


@given(st.sampled_from([1, 2, 3, 6, 8, 12, 32]), st.sampled_from([1, 2, 4]), st.sampled_from([8, 32, 64, 80, 128, 256]),
       st.integers(1, 2000))  # fmt: skip
def test_groups_divide_the_heads_and_fit_a_bank(kv_heads: int, shared: int, size: int, keys: int) -> None:
    heads = kv_heads * shared
    groups = HeadGroups.plan(heads, kv_heads, size, size, keys, 512)
    assert heads % groups.group == 0
    assert groups.period % groups.group == 0
    assert groups.group == 1 or groups.group * min(keys, 512) <= 512
    assert groups.group == 1 or groups.group * size <= 512


@given(st.integers(1, 3000), st.integers(1, 200))
def test_even_tiles_cover_everything(extent: int, most: int) -> None:
    even = even_tiles(extent, most)
    if even is None:
        return
    count, size, step = even
    assert size <= most
    assert (count - 1) * step + size == extent
    assert count == 1 or 0 < step <= size
    assert count == -(-extent // most)


def test_even_tiles_of_usual_lengths() -> None:
    assert even_tiles(197, 128) == (2, 99, 98)
    assert even_tiles(512, 128) == (4, 128, 128)
    assert even_tiles(50, 128) == (1, 50, 0)


# 4096 positions, 128 features, causal: scores of 4096 x 4096 would be 64 MiB in DRAM; only the 4096 x 128 result goes
# there, and keys behind a tile of queries are not multiplied: 32 * 33 / 2 of 32 * 32 tiles of keys.
def test_long_causal_attention_writes_nothing_but_its_result_to_dram() -> None:
    module = core_module("trn1", [("bf16", (1, 4096, 128))] * 3, {}, attention(1, causal=True))
    ConvertGraphToTilePass().apply(Context(), module)
    body = core_function(module).body.block
    assert not [op for op in body.walk() if isinstance(op, AllocOp) and space_of(op.buffer) == "dram"]
    stores = [op.views["dst"] for op in body.walk() if isinstance(op, TileOp) and op.name == "tile.store"]
    assert {buffer for buffer, _ in stores} == {body.args[-1]}
    assert sum(pattern.elements for _, pattern in stores) == 4096 * 128
    # Scores take 128 features for each key of a tile, contexts 128 columns.
    products = [op for op in body.walk() if isinstance(op, TileOp) and op.name == "tile.matmul"]
    columns = sum(executions(op) * op.views["moving"][1].free_elements for op in products)
    assert columns == 2 * 128 * 32 * 33 // 2
