"""The arithmetic of iteration spaces: merging dimensions, choosing lanes, cutting pieces."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lowering.graph_to_tile.iteration import (
    Lanes,
    balanced,
    choose_lanes,
    chunk_sizes,
    collapse,
    largest_divisor,
    overlapping_limit,
    split,
)
from neuron_dialects.target import load_target

TRN1 = load_target("trn1")
F32 = 4


def addresses(shape: tuple[int, ...], strides: tuple[int, ...]) -> list[int]:
    """Elements in the order in which a tensor is walked."""
    return [int(np.dot(index, strides)) for index in product(*map(range, shape))]


# [4, 64, 14, 14] with an operand per channel: the plane is one dimension; images and channels stay apart.
def test_dimensions_that_all_tensors_walk_alike_merge() -> None:
    dense, column = (12544, 196, 14, 1), (0, 1, 0, 0)
    assert collapse((4, 64, 14, 14), [dense, dense]) == ((50176,), [(1,), (1,)])
    assert collapse((4, 64, 14, 14), [dense, column]) == ((4, 64, 196), [(12544, 196, 1), (0, 1, 0)])
    assert collapse((1, 1), [(5, 7)]) == ((1,), [(0,)])


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.lists(st.integers(-3, 12), min_size=4, max_size=4), min_size=1, max_size=3),
)
def test_collapsing_keeps_the_elements_and_their_order(shape: list[int], tensors: list[list[int]]) -> None:
    strides = [tuple(tensor[: len(shape)]) for tensor in tensors]
    merged, walks = collapse(tuple(shape), strides)
    assert len(merged) <= max(1, len(shape))
    for before, after in zip(strides, walks, strict=True):
        assert addresses(tuple(shape), before) == addresses(merged, after)


def test_splitting_keeps_the_elements_and_their_order() -> None:
    shape, (walk,) = split((3, 12, 5), [(60, 5, 1)], 1, 4)
    assert (shape, walk) == ((3, 4, 3, 5), (60, 15, 5, 1))
    assert addresses(shape, walk) == addresses((3, 12, 5), (60, 5, 1))


def test_divisors_and_equal_chunks() -> None:
    assert [largest_divisor(n) for n in (1, 96, 128, 130, 384, 10007)] == [1, 96, 128, 65, 128, 1]
    # 3,761 elements, a prime number, against a limit of 3,754: two halves rather than seven elements left over.
    assert balanced(3761, 3754) == 1881
    # 2,048 at a time leave no remainder, which the equal parts of 3,745 would.
    assert balanced(131072, 3754) == 2048
    assert [balanced(n, 100) for n in (1, 100, 101, 250)] == [1, 100, 51, 84]


# 50,176 elements in one run: 128 rows of 392 give all lanes and long rows.
def test_one_run_is_spread_over_all_lanes() -> None:
    assert choose_lanes((50176,), [(1,), (1,)], [F32, F32], [0], TRN1) == Lanes(0, 128)


# x, an operand per channel, the result. 512 channels in front of a plane are lanes enough, and the operand a column;
# with 3 the plane is spread and the channels are a loop.
def test_channels_or_plane() -> None:
    many, few = (100352, 196, 1), (50176, 1)
    assert choose_lanes((1, 512, 196), [many, (0, 1, 0), many], [F32] * 3, range(3), TRN1) == Lanes(1, 512)
    assert choose_lanes((3, 50176), [few, (1, 0), few], [F32] * 3, range(2), TRN1) == Lanes(1, 128)


# 1,024 rows of 96 elements: eight rows on each partition are few long transfers, one row each would be many short ones.
def test_short_rows_share_a_partition() -> None:
    assert choose_lanes((1024, 96), [(96, 1), (96, 1)], [F32, F32], [0], TRN1) == Lanes(0, 128)
    assert choose_lanes((384, 768), [(768, 1), (768, 1)], [F32, F32], [0], TRN1) == Lanes(0, 384)


# A softmax over the channels of [64, 4096]: positions lie on the lanes, in runs of 32 that the transfer reads whole.
def test_the_innermost_dimension_is_never_scattered_element_by_element() -> None:
    assert choose_lanes((64, 4096), [(4096, 1), (4096, 1)], [F32, F32], [1], TRN1) == Lanes(1, 128)


def test_chunks_are_cut_from_the_outside() -> None:
    assert chunk_sizes((300, 8, 100), 0, 1000) == [128, 8, 100]
    assert chunk_sizes((300, 20, 100), 0, 1000) == [128, 10, 100]
    assert chunk_sizes((300, 20, 4000), 0, 1000) == [128, 1, 1000]
    # Whole rows of 100 elements in dimension 1: ten positions of dimension 2 go with them.
    assert chunk_sizes((300, 100, 25), 0, 1000, whole=(1,)) == [128, 100, 9]
    assert overlapping_limit(8000, 3000) == 2000
    assert overlapping_limit(1000, 3000) == 512
