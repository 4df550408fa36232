"""Products of matrices that stay on chip: features or rows on partitions, remainders, weights too large to stay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile.linear import load_width
from lowering.graph_to_tile.postponed import postponed_products
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import (
    AttentionOp,
    BinaryKind,
    BinaryOp,
    CastOp,
    LayerNormOp,
    MatMulOp,
    RelayoutOp,
    ReshapeOp,
    SliceOp,
    UnaryKind,
    UnaryOp,
    layout_of,
    shape_of,
)
from neuron_dialects.target import load_target
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts, resident_profile
from tests.core_kernels import Array, Make, core_function, core_module, lowered_error

BF16_TOLERANCE = 8e-3
"""A few roundings to bf16."""

Values = Mapping[str, SSAValue]


def weights_of(*shapes: tuple[int, ...], dtype: str = "bf16") -> dict[str, Array]:
    """Weights w0, w1, ... and biases b0, b1, ... of layers k -> n."""
    rng = np.random.default_rng(3)
    made: dict[str, Array] = {}
    kind = ml_dtypes.bfloat16 if dtype == "bf16" else np.float32
    for i, (k, n) in enumerate(shapes):
        made[f"w{i}"] = (rng.standard_normal((k, n)) / k**0.5).astype(kind)
        made[f"b{i}"] = rng.standard_normal(n).astype(np.float32)
    return made


def layer(block: Block, x: SSAValue, values: Values, number: int, *, cast: bool = True) -> SSAValue:
    """x . w + b, cast to bf16."""
    product = MatMulOp(x, values[f"w{number}"], accumulate_f32=True)
    biased = BinaryOp(BinaryKind.ADD, product.result, values[f"b{number}"])
    block.add_ops([product, biased])
    if not cast:
        return biased.result
    narrow = CastOp(biased.result, BF16)
    block.add_op(narrow)
    return narrow.result


def chain(length: int) -> Make:
    """Layers after each other, an activation between."""

    def make(block: Block, arguments: Sequence[SSAValue], values: Values) -> Sequence[SSAValue]:
        x = arguments[0]
        for number in range(length):
            x = layer(block, x, values, number)
            if number + 1 < length:
                relu = UnaryOp(UnaryKind.RELU, x)
                block.add_op(relu)
                x = relu.result
        return [x]

    return make


def normalised(block: Block, arguments: Sequence[SSAValue], values: Values) -> Sequence[SSAValue]:
    """A residual block: layer_norm(x), two layers, added to it, layer_norm again."""
    norm = LayerNormOp(arguments[0], axis=1, epsilon=1e-5)
    narrow = CastOp(norm.result, BF16)
    block.add_ops([norm, narrow])
    inner = layer(block, narrow.result, values, 0)
    outer = layer(block, inner, values, 1, cast=False)
    residual = BinaryOp(BinaryKind.ADD, outer, norm.result)
    last = LayerNormOp(residual.result, axis=1, epsilon=1e-5)
    block.add_ops([residual, last])
    return [last.result]


def attended(block: Block, arguments: Sequence[SSAValue], values: Values) -> Sequence[SSAValue]:
    """Merged projections, cut apart, attention over two sequences, a projection."""
    merged = layer(block, arguments[0], values, 0)
    rows, width = shape_of(merged)
    third = width // 3
    parts: list[SSAValue] = []
    for i in range(3):
        part = SliceOp(merged, [0, i * third], [rows, third], [1, 1])
        apart = ReshapeOp(part.result, (2, rows // 2, third))
        block.add_ops([part, apart])
        parts.append(apart.result)
    attention = AttentionOp(*parts, heads=third // 64, kv_heads=third // 64, scale=0.125)
    together = ReshapeOp(attention.result, (rows, third))
    block.add_ops([attention, together])
    return [layer(block, together.result, values, 1, cast=False)]


def lay_out(capacity: int = 100000, turns_f32: bool = True) -> Callable[[Block], None]:
    def apply(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, capacity, turns_f32)

    return apply


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize(
    ("rows", "sizes"),
    [(200, (256, 384, 128)), (70, (100, 300, 50)), (1, (128, 256, 10)), (600, (64, 1100, 200)), (128, (128, 128, 128))],
)
def test_chains_of_layers(target: str, rows: int, sizes: tuple[int, ...]) -> None:
    weights = weights_of(*pairwise(sizes))
    error = lowered_error(target, [("bf16", (rows, sizes[0]))], weights, chain(len(sizes) - 1), lay_out())
    assert error < BF16_TOLERANCE


# 20 k tiles x 1536 columns x 2 bytes = 61,440 bytes a partition: more than a quarter of SBUF.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
def test_weights_that_do_not_fit_stream_past(target: str) -> None:
    weights = weights_of((256, 2560), (2560, 1536))
    assert lowered_error(target, [("bf16", (150, 256))], weights, chain(2), lay_out()) < BF16_TOLERANCE


# 90 k tiles x 512 columns x 2 bytes = 92,160 bytes a partition: not even the columns of one load fit twice.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("rows", [1, 140])
def test_weights_of_many_rows_stream_past_in_tiles(target: str, rows: int) -> None:
    weights = weights_of((128, 11500), (11500, 520), (520, 600))
    assert lowered_error(target, [("bf16", (rows, 128))], weights, chain(3), lay_out(50000)) < BF16_TOLERANCE


# The first layer's rows lie in DRAM: 90 k tiles, each partition takes 90 neighbouring features of each row.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("rows", [1, 3])
def test_rows_in_dram_come_as_neighbouring_features(target: str, rows: int) -> None:
    weights = weights_of((11520, 130), (130, 60))
    assert lowered_error(target, [("bf16", (rows, 11520))], weights, chain(2), lay_out(50000)) < BF16_TOLERANCE


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("rows", [300, 128, 40])
def test_residual_blocks(target: str, rows: int) -> None:
    weights = weights_of((256, 512), (512, 256))
    assert lowered_error(target, [("f32", (rows, 256))], weights, normalised, lay_out()) < BF16_TOLERANCE


# 2 k tiles x 8192 columns x 2 bytes = 32,768 bytes a partition: the first layer's columns stream past its rows, which
# normalisation leaves with rows on partitions, and which are turned once for all columns.
def test_rows_are_turned_once_for_columns_that_stream_past() -> None:
    weights = weights_of((256, 8192), (8192, 256))
    turned: list[int] = []

    def lay(block: Block) -> None:
        lay_out(60000)(block)
        turned.append(sum(isinstance(op, RelayoutOp) for op in block.ops))

    assert lowered_error("inf1", [("f32", (140, 256))], weights, normalised, lay) < BF16_TOLERANCE
    assert turned == [0]


@pytest.mark.parametrize("target", ["trn1", "inf1"])
def test_attention_between_layers(target: str) -> None:
    weights = weights_of((128, 768), (256, 128))
    assert lowered_error(target, [("bf16", (300, 128))], weights, attended, lay_out()) < BF16_TOLERANCE


def laid_out(inputs: Sequence[tuple[str, tuple[int, ...]]], weights: Mapping[str, Array], make: Make) -> Block:
    block = core_function(core_module("trn1", inputs, weights, make)).body.block
    lay_out()(block)
    return block


# What products and attention read has features (the last dimension) on partitions; names of the same memory agree.
def test_layers_around_attention_keep_features_on_partitions() -> None:
    weights = weights_of((128, 768), (256, 128))
    block = laid_out([("bf16", (300, 128))], weights, attended)
    layouts = {op.name: layout_of(op.results[0]) for op in block.ops if op.results and "weight" not in op.name}
    for name in ("graph.slice", "graph.reshape", "graph.attention"):
        layout = layouts[name]
        assert layout is not None
        rank = 3 if name == "graph.attention" else 2
        assert layout.partition_dimension == rank - 1


def test_normalised_rows_are_turned_once() -> None:
    weights = weights_of((256, 512), (512, 256), dtype="f32")

    def make(block: Block, arguments: Sequence[SSAValue], values: Values) -> Sequence[SSAValue]:
        norm = LayerNormOp(arguments[0], axis=1, epsilon=1e-5)
        block.add_op(norm)
        first = MatMulOp(norm.result, values["w0"])
        again = MatMulOp(norm.result, values["w0"])
        both = BinaryOp(BinaryKind.MUL, first.result, again.result)
        last = MatMulOp(both.result, values["w1"])
        total = BinaryOp(BinaryKind.ADD, last.result, norm.result)
        block.add_ops([first, again, both, last, total])
        return [total.result]

    block = laid_out([("f32", (200, 256))], weights, make)
    (relayout,) = [op for op in block.ops if isinstance(op, RelayoutOp)]
    layouts = [layout_of(relayout.x), layout_of(relayout.result)]
    assert [layout.partition_dimension if layout else None for layout in layouts] == [0, 1]
    assert lowered_error("trn1", [("f32", (200, 256))], weights, make, lay_out()) < 2e-6


# Where the array rounds what it passes, f32 is not turned on chip.
def test_f32_is_not_turned_by_an_array_that_rounds() -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Values) -> Sequence[SSAValue]:
        op = AttentionOp(*arguments, heads=2, kv_heads=2, scale=0.125)
        rows = ReshapeOp(op.result, (80, 128))
        block.add_ops([op, rows])
        product = MatMulOp(rows.result, values["w0"])
        block.add_op(product)
        return [product.result]

    block = core_function(
        core_module("inf1", [("f32", (2, 40, 128))] * 3, weights_of((128, 8), dtype="f32"), make)
    ).body.block
    lay_out(turns_f32=False)(block)
    assert all(layout_of(op.results[0]) is None for op in block.ops if op.results)


def test_widths_of_loads_divide_the_columns() -> None:
    assert [load_width(n) for n in (768, 3072, 1000, 130, 50)] == [384, 512, 512, 130, 50]


def projected(block: Block, arguments: Sequence[SSAValue], values: Values) -> Sequence[SSAValue]:
    """Projections of four sequences, attention, a projection."""
    x = layer(block, arguments[0], values, 0)
    rows, width = shape_of(x)
    parts: list[SSAValue] = []
    for number in (1, 2, 3):
        part = ReshapeOp(layer(block, x, values, number), (4, rows // 4, width))
        block.add_op(part)
        parts.append(part.result)
    attention = AttentionOp(*parts, heads=width // 64, kv_heads=width // 64, scale=0.125)
    together = ReshapeOp(attention.result, (rows, width))
    block.add_ops([attention, together])
    return [layer(block, together.result, values, 4, cast=False)]


# Projections wait for the attention and are made a sequence at a time, between its stages; where there is room, and
# where a sequence keeps the array longer than its columns take out of PSUM (trn1: 3 * 130 / 2.8 = 139 ns, 378 / 2).
# 6 heads are 4 units in all, 10 heads are 5 units in each of two tiles of queries.
@pytest.mark.parametrize(("target", "width", "waiting"), [("trn1", 384, 0), ("inf1", 384, 3), ("trn1", 640, 3)])
def test_projections_of_later_sequences_fill_the_time_of_attention(target: str, width: int, waiting: int) -> None:
    weights = weights_of((64, width), *[(width, width)] * 3, (width, 100))
    seen: list[int] = []

    def lay(block: Block) -> None:
        lay_out(60000)(block)
        ops, machine = list(block.ops), load_target(target)
        seen.append(len(postponed_products(ops, resident_profile(ops), machine)))
        seen.append(len(postponed_products(ops, [int(machine.sbuf_bytes_per_partition)] * len(ops), machine)))

    assert lowered_error(target, [("bf16", (520, 64))], weights, projected, lay) < BF16_TOLERANCE
    assert seen == [waiting, 0]


# A sequence of more rows than a product moves at once does not wait: its projections are lowered where they stand.
def test_projections_of_long_sequences_do_not_wait() -> None:
    weights = weights_of((64, 64), *[(64, 64)] * 3, (64, 16))
    seen: list[int] = []

    def lay(block: Block) -> None:
        lay_out(60000)(block)
        ops = list(block.ops)
        seen.append(len(postponed_products(ops, resident_profile(ops), load_target("trn1"))))

    assert lowered_error("trn1", [("bf16", (4 * 516, 64))], weights, projected, lay) < BF16_TOLERANCE
    assert seen == [0]
