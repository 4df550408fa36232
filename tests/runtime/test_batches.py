"""Groups of products that share an operand: which are computed together, and when."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from runtime.machine.batches import MAX_COLUMNS, Batch, find_batches
from runtime.machine.products import Content, Group


def group(number: int, stationary: Content, moving: str = "x", rows: int = 128) -> Group:
    """A group of one product that reads at 10 number, and writes 5 later."""
    return Group([number], False, ("psum", 0, 128, 0, 64), rows, [stationary], [Content(moving, constant=False)])


def constant(name: str) -> Content:
    return Content(name, constant=True, written=10_000)


def batches(groups: Sequence[Group], columns: int = 128) -> list[list[int]]:
    """Members of the groups of each batch."""
    ends = {g.members[0]: 10 * g.members[0] + 5 for g in groups}
    found = find_batches(groups, ends, dict.fromkeys(groups, (columns, 512)))
    for batch in found:
        assert batch.starts == [columns * n for n in range(len(batch.groups))]
        assert batch.operands == list(range(len(batch.groups)))
    return members(found)


def members(found: Sequence[Batch]) -> list[list[int]]:
    """Members of the groups of each batch."""
    return [[g.members[0] for g in batch.groups] for batch in found]


# Weights that are known beforehand, whenever they are loaded: one product, where the pixels and the rows are the same.
def test_constants_join():
    assert batches([group(n, constant(f"w{n}")) for n in range(3)]) == [[0, 1, 2]]
    assert batches([group(0, constant("a")), group(1, constant("b"), "y"), group(2, constant("c"))]) == [[0, 2], [1]]
    assert batches([group(0, constant("a")), group(1, constant("b"), rows=64)]) == [[0], [1]]


# The first group is computed at 5: what was written before that can join, what is written at 5 or later cannot.
@pytest.mark.parametrize(("written", "together"), [(-1, True), (4, True), (5, False), (12, False)])
def test_data_joins_once_it_is_there(written: int, together: bool):
    first, second = Content("a", constant=False), Content("b", constant=False, written=written)
    assert (len(batches([group(0, first), group(1, second)])) == 1) == together


# Constants are prepared beforehand, so that they are not put beside data.
def test_constants_and_data_are_apart():
    assert batches([group(0, constant("a")), group(1, Content("b", constant=False))]) == [[0], [1]]


def test_columns_are_limited():
    groups = [group(n, constant(f"w{n}")) for n in range(5)]
    assert batches(groups, MAX_COLUMNS // 2) == [[0, 1], [2, 3], [4]]


# Room for results of 512 x 32 float32: five of them, two, so that the third one is too many, or one.
def test_results_that_wait_are_limited():
    groups = [group(n, constant(f"w{n}"), moving) for n, moving in enumerate("abcbca")]
    ends, sizes = {n: 10 * n + 5 for n in range(6)}, dict.fromkeys(groups, (32, 512))
    assert members(find_batches(groups, ends, sizes, 5 << 16)) == [[0, 5], [1, 3], [2, 4]]
    assert members(find_batches(groups, ends, sizes, 2 << 16)) == [[0], [1, 3], [2, 4], [5]]
    assert members(find_batches(groups, ends, sizes, 1 << 16)) == [[n] for n in range(6)]


def test_groups_of_a_batch_can_be_alone():
    groups = [group(n, constant(f"w{n}")) for n in range(2)]
    (batch,) = find_batches(groups, {0: 5, 1: 15}, dict.fromkeys(groups, (32, 512)))
    alone = batch.alone()
    assert [(one.groups, one.starts, one.columns) for one in alone] == [([g], [0], 32) for g in groups]
