"""Sums of gathered rows, alone and joined, against the graph level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import SSAValue

from lowering.graph_to_tile.local_plan import Lookup, Share, held_rows, local_groups
from lowering.graph_to_tile.sample_indices import side_by_side
from lowering.graph_to_tile.tensors import DramTensor
from lowering.graph_to_tile.view import Buffer
from neuron_dialects.dtypes import dtype_of_numpy
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import (
    ConcatOp,
    FusedOp,
    GatherOp,
    ReduceKind,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    WeightOp,
    tensor_type,
)
from neuron_dialects.target import load_target
from neuron_dialects.weights import WeightStore
from passes.graph.fuse import fuse_block
from passes.graph.gathered_sums import sums_of_group
from runtime.graph_interpreter import WeightResolver
from runtime.program_interpreter import run_function
from tests.graph_level import build
from tests.lowering.graph_to_tile.core_kernel import (
    Array,
    Make,
    assert_near,
    check,
    core_module,
    expected,
    fused,
    lowered,
    random,
    resident,
    run_core,
    tile_ops,
)

BF16 = ml_dtypes.bfloat16


def summed(table: SSAValue, indices: SSAValue, samples: int, count: int, width: int) -> SSAValue:
    """[samples, width] of indices [samples, count]."""
    listed = ReshapeOp(indices, (samples * count,)).result
    rows = ReshapeOp(GatherOp(table, listed, 0).result, (samples, count, width)).result
    return ReduceOp(ReduceKind.SUM, rows, (1,), keep_dims=False).result


def joined(samples: int, counts: Sequence[int], width: int, stays: bool = False) -> Make:
    """Sums of as many tables and something else, side by side."""

    def make(other: SSAValue, *given: SSAValue) -> Any:
        tables, indices = given[: len(counts)], given[len(counts) :]
        parts = [other]
        for table, index, count in zip(tables, indices, counts, strict=True):
            parts.append(ReshapeOp(summed(table, index, samples, count, width), (samples, 1, width)).result)
        result = ConcatOp(parts, 1).result
        return resident(result, 0) if stays else result

    return make


def operands(samples: int, counts: Sequence[int], width: int, dtype: Any) -> list[Array]:
    rng = np.random.default_rng(0)
    sizes = [7 + 300 * number for number in range(len(counts))]
    tables = [random((size, width), dtype, size) for size in sizes]
    named = [rng.integers(-size, size, (samples, n)).astype(np.int32) for size, n in zip(sizes, counts, strict=True)]
    return [random((samples, 1, width), dtype), *tables, *named]


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("dtype", [np.float32, BF16])
def test_joined_sums(target: str, dtype: Any):
    given = operands(130, (4, 1), 24, dtype)
    check(fused(joined(130, (4, 1), 24)), *given, target=target)


SIZES = (3, 40, 700, 300, 3000, 500, 8, 90, 70, 5, 20000)
LOCAL_SAMPLES, LOCAL_WIDTH, LOCAL_COUNT = 130, 32, 9


def run_looked_up(named: Array, dtype: Any) -> tuple[Array, Array, list[str]]:
    """What the kernel gives and what it should give for sums of rows of weights, joined, by indices that are slices of
    `named`; and the names of its ops.
    """
    kind = dtype_of_numpy(np.dtype(dtype))
    tables = [random((size, LOCAL_WIDTH), dtype, size) for size in SIZES]

    def make(all_indices: SSAValue, *given: SSAValue) -> Any:
        weights = [WeightOp(f"t{n}", tensor_type(kind, table.shape)).result for n, table in enumerate(tables)]
        parts: list[SSAValue] = []
        for number, table in enumerate(given or weights):
            cut = SliceOp(all_indices, (0, number, 0), (len(named), 1, LOCAL_COUNT), (1, 1, 1)).result
            listed = ReshapeOp(cut, (len(named), LOCAL_COUNT)).result
            parts.append(summed(table, listed, len(named), LOCAL_COUNT, LOCAL_WIDTH))
        return ConcatOp(parts, 1)

    module, function = core_module(make, [named])
    fuse_block(function.body.block)
    store = WeightStore()
    for number, table in enumerate(tables):
        store.add(f"t{number}", table)
    tiles = lowered(module)
    (have,) = run_function(tiles, [named], WeightResolver(module, store))
    (want,) = expected(make, named, *tables)
    return have, want, [op.name for op in tile_ops(tiles)]


def some_indices() -> Array:
    rng = np.random.default_rng(0)
    columns = [rng.integers(-size, size, (LOCAL_SAMPLES, LOCAL_COUNT)) for size in SIZES]
    return np.stack(columns, axis=1).astype(np.int32)


# Rows of small tables are gathered on chip, of eight by one instruction and of two more by another, where two bytes an
# element make that fast enough; those of larger tables are fetched. All tables' indices are slices of one tensor. What
# is left of the samples is fetched as well.
@pytest.mark.parametrize(("dtype", "groups", "fetched"), [(np.float32, 1, 3), (BF16, 2, 0)])
def test_local_rows(dtype: Any, groups: int, fetched: int):
    have, want, names = run_looked_up(some_indices(), dtype)
    assert_near(have, want, 2e-6)
    assert names.count("tile.local_gather") == groups
    assert names.count("tile.gather") == fetched + len(SIZES)


# An index outside of its own table is refused, also where a larger table lies beside it, below 0 as well.
@pytest.mark.parametrize(("table", "index"), [(0, 3), (0, -4), (2, 700), (4, 3000), (4, -(10**6)), (7, 2**31 - 1)])
def test_local_rows_that_are_not_there(table: int, index: int):
    named = some_indices()
    named[77, table, 2] = index
    with pytest.raises(NeuronError, match="local_gather: index 65535 at position") as caught:
        run_looked_up(named, BF16)
    assert caught.value.code == "NX-RUN-002"


def test_small_tables_stay_while_gpsimd_has_less_to_do():
    target, room = load_target("trn1"), 54000
    many = [Lookup(10**5, 4, 64, "bf16")] * 6
    small = [Lookup(size, 4, 64, "bf16") for size in (300, 20, 5600, 400, 4, 8, 90, 7)]
    ones = tuple(Share(n, 1) for n in (8, 9, 6, 12, 7, 11, 13, 10))
    assert local_groups([*many, *small], 256, room, target) == [ones]
    assert local_groups([*many, *small], 100, room, target) == []
    assert local_groups(small[:1], 256, room, target) == []
    assert local_groups([*many, *small], 256, room, load_target("inf1")) == []
    # Widths that cores cannot share, and tables that are not there when the program is made.
    assert local_groups([Lookup(300, 4, 40, "bf16")] * 9, 256, room, target) == []
    assert local_groups([Lookup(300, 4, 64, "bf16", packs=False)] * 9, 256, room, target) == []


# A table that is too large for one core lies on several; no group has more cores, and no partition less room, than
# there is.
@pytest.mark.parametrize("room", [20000, 30000, 60000])
def test_large_tables_on_several_cores(room: int):
    sizes = (12000, 3000, 2500, 700, 60, 5)
    lookups = [Lookup(10**5, 4, 64, "bf16")] * 6 + [Lookup(size, 4, 64, "bf16") for size in sizes]
    groups = local_groups(lookups, 2048, room, load_target("trn1"))
    shares = [share for group in groups for share in group]
    assert all(sum(share.cores for share in group) <= 8 for group in groups)
    assert len({share.number for share in shares}) == len(shares)
    most = [max(held_rows(lookups[s.number].rows, s.cores) for s in group) * 8 for group in groups]
    assert sum(most) <= room
    assert max(share.cores for share in shares) > 1
    assert (6 in {share.number for share in shares}) == (room >= 30000)


def test_indices_side_by_side():
    whole = DramTensor.dense(Buffer(0, (100, 12), "i32", "dram"))
    cut = [whole.slice((0, first), (100, size), (1, 1)) for first, size in ((4, 4), (0, 4), (9, 2))]
    other = DramTensor.dense(Buffer(1, (100, 4), "i32", "dram"))
    assert side_by_side([*cut, other]) == [[1, 0], [2], [3]]


# What the result's readers take from SBUF lies there with samples on partitions.
def test_resident_sums():
    given = operands(256, (3,), 16, BF16)

    def make(*arguments: SSAValue) -> Any:
        kept = fused(joined(256, (3,), 16, stays=True))(*arguments)[0]
        return ReduceOp(ReduceKind.MAX, kept, (1,), keep_dims=False)

    check(make, *given)


def test_a_sum_alone():
    _, table, indices = operands(200, (5,), 40, np.float32)
    check(fused(lambda t, i: summed(t, i, 200, 5, 40)), table, indices)


# A sum that is joined is part of the joining group; one that somebody else reads as well is a group of its own.
def test_groups():
    given = operands(128, (2, 2), 8, np.float32)

    def make(other: SSAValue, *rest: SSAValue) -> Any:
        first = summed(rest[0], rest[2], 128, 2, 8)
        second = summed(rest[1], rest[3], 128, 2, 8)
        parts = [other, *(ReshapeOp(value, (128, 1, 8)).result for value in (first, second))]
        return ConcatOp(parts, 1).result, second

    function = build(make, given)
    fuse_block(function.body.block)
    groups = [op for op in function.body.block.ops if isinstance(op, FusedOp)]
    found = [sums_of_group(op) for op in groups]
    assert [len(sums.parts) for sums in found if sums] == [1, 3]
    assert run_core(make, *given)[1].shape == (128, 8)


# Few samples with many indices each keep their lanes busy with indices.
def test_few_samples_are_no_group():
    given = operands(2, (64,), 8, np.float32)
    function = build(lambda _, t, i: summed(t, i, 2, 64, 8), given)
    fuse_block(function.body.block)
    assert not any(isinstance(op, FusedOp) for op in function.body.block.ops)
