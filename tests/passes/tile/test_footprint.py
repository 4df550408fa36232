"""Whether operands meet: the quick test against all elements written out."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from passes.tile.footprint import Footprint, apart, stays_ahead

STRIDES = st.lists(st.tuples(st.integers(-40, 40), st.integers(1, 4)), max_size=3).map(tuple)
FOOTPRINTS = st.builds(
    Footprint,
    first_partition=st.integers(0, 6),
    partitions=st.integers(1, 4),
    base=st.integers(0, 100),
    strides=STRIDES,
    step=st.integers(-30, 30),
    trips=st.integers(1, 4),
)


def elements(footprint: Footprint, iteration: int) -> set[tuple[int, int]]:
    """(partition, element) of one iteration."""
    places = itertools.product(*(range(count) for _, count in footprint.strides))
    start = footprint.base + footprint.step * iteration
    offsets = {
        start + sum(stride * k for (stride, _), k in zip(footprint.strides, place, strict=True)) for place in places
    }
    lanes = range(footprint.first_partition, footprint.first_partition + footprint.partitions)
    return {(lane, offset) for lane in lanes for offset in offsets}


@given(FOOTPRINTS, FOOTPRINTS)
def test_what_is_apart_never_meets(a: Footprint, b: Footprint) -> None:
    if apart(a, b):
        assert not elements(a, 0) & elements(b, 0)


@given(FOOTPRINTS, FOOTPRINTS, st.integers(1, 5))
def test_what_stays_ahead_never_meets_an_earlier_iteration(a: Footprint, b: Footprint, trips: int) -> None:
    a, b = (Footprint(f.first_partition, f.partitions, f.base, f.strides, f.step, trips) for f in (a, b))
    if stays_ahead(a, b):
        for i, j in itertools.product(range(trips), repeat=2):
            assert i <= j or not elements(a, i) & elements(b, j)


# Tiles of 128 rows of 768 elements, one behind the other: tile i is not touched by the tiles before it.
def test_tiles_of_rows_stay_ahead() -> None:
    tile = Footprint(0, 128, 0, ((1, 768),), 768, 8)
    assert stays_ahead(tile, tile)


# More tiles than distances are looked at one by one: those that are far apart need no look.
def test_many_tiles_stay_ahead() -> None:
    tile = Footprint(0, 128, 0, ((1, 96),), 96, 300)
    assert stays_ahead(tile, tile)
    assert not stays_ahead(tile, Footprint(0, 128, 96, ((1, 96),), 96, 300))


@given(FOOTPRINTS, st.integers(1, 3))
def test_groups_touch_what_their_iterations_touch(footprint: Footprint, size: int) -> None:
    footprint = Footprint(0, 1, footprint.base, footprint.strides, footprint.step, 2 * size)
    grouped = footprint.in_groups(size)
    for group in range(2):
        each = [elements(footprint, group * size + i) for i in range(size)]
        assert elements(grouped, group) == set[tuple[int, int]]().union(*each)


# The same tiles with features on partitions: 128 columns of each of 6 rows of 1024, interleaved.
def test_tiles_of_columns_stay_ahead() -> None:
    tile = Footprint(0, 128, 0, ((1024, 6), (1, 128)), 128, 8)
    assert stays_ahead(tile, tile)


# A reader of all columns meets what later iterations write.
def test_a_reader_of_everything_does_not_follow() -> None:
    tile = Footprint(0, 128, 0, ((1024, 6), (1, 128)), 128, 8)
    assert not stays_ahead(tile, Footprint(0, 128, 0, ((1, 6144),), 0, 8))


def test_rows_of_a_table_may_be_any() -> None:
    table = Footprint(0, 1, 5000, ((1, 4),), everything=True)
    assert not apart(table, Footprint(0, 1, 0, ((1, 4),)))
