"""Products of samples' little matrices as features of a layer, against the graph level."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import SSAValue

from neuron_dialects.dtypes import BF16 as BFLOAT16
from neuron_dialects.graph import CastOp, ConcatOp, FusedOp, MatMulOp, PadOp, ReshapeOp, layout_of, shape_of
from neuron_dialects.target import load_target
from neuron_dialects.weights import WeightStore
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from passes.graph.sample_products import features_of_group, whole_sides
from runtime.graph_interpreter import WeightResolver
from runtime.program_interpreter import run_function
from tests.lowering.graph_to_tile.core_kernel import (
    Array,
    assert_near,
    check_instructions,
    core_module,
    expected,
    lowered,
    random,
    tile_ops,
)
from tests.lowering.graph_to_tile.test_gathered_sums import summed

BF16 = ml_dtypes.bfloat16


def features(a: SSAValue, b: SSAValue, other: SSAValue | None, *, turned: bool = False) -> SSAValue:
    """[samples, features] of the products of [samples, m, k] and [samples, n, k], and of others."""
    product = MatMulOp(a, b, transpose_a=turned, transpose_b=not turned).result
    samples, m, n = shape_of(product)
    rows, columns = whole_sides(m, n)
    filled = PadOp(product, (0, 0, 0), (0, rows - m, columns - n)).result
    flat = ReshapeOp(filled, (samples, rows * columns)).result
    return flat if other is None else ConcatOp([flat, other], 1).result


def run_layer(make: Any, given: list[Array], target: str, room: int) -> tuple[Array, Array, bool]:
    """What a program gives and should give, and whether its features stay on chip, with `room` for that."""
    module, function = core_module(make, given, target)
    fuse_block(function.body.block)
    choose_layouts(function.body.block, room)
    (group,) = [op for op in function.body.block.ops if isinstance(op, FusedOp) and features_of_group(op)]
    stays = layout_of(group.results[0]) is not None
    tiles = lowered(module)
    check_instructions(tiles, load_target(target))
    (have,) = run_function(tiles, given, WeightResolver(module, WeightStore()))
    (want,) = expected(make, *given)
    return have, want, stays


# One table of others beside them or none, wider than the lanes, and matrices that are not square; on chip, and without
# room there; with what is left of 128 samples.
@pytest.mark.parametrize("room", [100_000, 0])
@pytest.mark.parametrize(
    ("target", "dtype", "samples", "a", "b", "other"),
    [
        ("trn1", BF16, 200, (27, 64), (27, 64), 64),
        ("trn1", np.float32, 130, (5, 9), (33, 9), None),
        ("trn1", BF16, 128, (1, 3), (2, 3), 200),
        ("inf1", BF16, 129, (9, 20), (40, 20), 7),
    ],
)
def test_features(target: str, dtype: Any, samples: int, a: Any, b: Any, other: int | None, room: int):
    same = a == b
    given = [random((samples, *shape), dtype, seed) for seed, shape in enumerate((a, b))][: 1 if same else 2]
    columns = int(np.prod(whole_sides(a[0], b[0]))) + (other or 0)
    given += [random((samples, other), dtype, 5)] if other else []
    given.append(random((columns, 24), dtype, 6))

    def make(*values: SSAValue) -> Any:
        x, y = (values[0], values[0]) if same else values[:2]
        return MatMulOp(features(x, y, values[-2] if other else None), values[-1]).result

    have, want, stays = run_layer(make, given, target, room)
    assert stays == bool(room)
    assert_near(have, want, 2e-2 if dtype is BF16 else 1e-5)


def test_turned_operands():
    given = [random((140, 9, 20), BF16, 1), random((140, 9, 30), BF16, 2), random((640, 8), BF16, 3)]

    def make(a: SSAValue, b: SSAValue, w: SSAValue) -> Any:
        return MatMulOp(features(a, b, None, turned=True), w).result

    have, want, _ = run_layer(make, given, "trn1", 100_000)
    assert_near(have, want, 2e-2)


# A sample that is no number is none alone.
def test_samples_are_apart():
    given = [random((128, 27, 16), BF16, 1), random((896, 8), BF16, 2)]
    given[0][5] = np.nan
    given[0][77, 3, 4] = -np.inf

    def make(x: SSAValue, w: SSAValue) -> Any:
        return MatMulOp(features(x, x, None), w).result

    have, _, _ = run_layer(make, given, "trn1", 100_000)
    assert sorted(np.flatnonzero(~np.isfinite(have.astype(np.float32)).all(axis=1))) == [5, 77]


# What is multiplied is gathered in the same kernel; a matrix that is joined with it lies with features on partitions,
# as the layer in front leaves it.
@pytest.mark.parametrize("room", [100_000, 0])
def test_gathered_operands(room: int):
    rng = np.random.default_rng(0)
    tables = [random((size, 16), BF16, size) for size in (50, 70)]
    named = [rng.integers(-50, 50, (260, 3)).astype(np.int32) for _ in tables]
    given = [random((260, 32), BF16, 1), random((32, 16), BF16, 2), random((144, 8), BF16, 3), *tables, *named]

    def make(x: SSAValue, v: SSAValue, w: SSAValue, *rest: SSAValue) -> Any:
        dense = MatMulOp(x, v).result
        sums = [summed(table, index, 260, 3, 16) for table, index in zip(rest[:2], rest[2:], strict=True)]
        joined = ConcatOp([ReshapeOp(part, (260, 1, 16)).result for part in (dense, *sums)], 1).result
        return MatMulOp(features(joined, joined, dense), w).result

    have, want, stays = run_layer(make, given, "trn1", room)
    assert stays == bool(room)
    assert_near(have, want, 4e-2)


# Short rows that are cast and turned come several tiles at a time: so many as a lane takes, what is left of them, and
# what is left of 128 rows.
@pytest.mark.parametrize(("rows", "width", "loads"), [(1300, 50, 2), (300, 13, 2), (130, 256, 2), (90, 3, 1)])
def test_short_rows_come_together(rows: int, width: int, loads: int):
    given = [random((rows, width), np.float32, 1), random((width, 24), BF16, 2)]

    def make(x: SSAValue, w: SSAValue) -> Any:
        return MatMulOp(CastOp(x, BFLOAT16).result, w).result

    module, function = core_module(make, given)
    choose_layouts(function.body.block, 100_000)
    (cast,) = [op for op in function.body.block.ops if isinstance(op, CastOp)]
    assert layout_of(cast.result) is not None
    tiles = lowered(module)
    check_instructions(tiles, load_target("trn1"))
    (have,) = run_function(tiles, given, WeightResolver(module, WeightStore()))
    (want,) = expected(make, *given)
    assert_near(have, want, 1e-2)
    sources = {tiles.body.block.args[0]}
    assert sum(op.name == "tile.load" and op.views["src"][0] in sources for op in tile_ops(tiles)) == loads
