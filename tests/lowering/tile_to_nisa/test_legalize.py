"""Cutting access patterns: the pieces list the same elements in the same order, each within the rank limit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowering.tile_to_nisa.legalize import cut, needs_split, split_outer
from neuron_dialects.access import AccessPattern, Affine, Dims, merge_dims
from neuron_dialects.isa.limits import MAX_DMA_DIMS, MAX_ON_CHIP_DIMS

LOOP = 7
"""Number of the loop variable that a cut introduces."""


def sequence(dims: Dims, offset: int = 0) -> list[int]:
    """Elements that a pattern touches, in order."""
    strides = [stride for stride, _ in dims]
    positions = product(*(range(size) for _, size in dims))
    return [offset + sum(s * i for s, i in zip(strides, position, strict=True)) for position in positions]


def on_chip(dims: Dims, offset: int = 0) -> AccessPattern:
    return AccessPattern(Affine(), 16, Affine(offset), dims)


SIZES = st.sampled_from((1, 2, 3, 4, 6, 8))
DIMS = st.lists(st.tuples(st.integers(-9, 40), SIZES), min_size=1, max_size=4).map(tuple)


@given(DIMS, st.integers(2, 48))
def test_a_split_lists_the_same_elements(dims: Dims, count: int) -> None:
    found = split_outer(dims, count)
    if found is not None:
        stride, inner = found
        assert sequence(((stride, count), *inner)) == sequence(dims)


# The outermost size itself, its divisors, and its product with sizes further in that continue it, can be peeled off.
@pytest.mark.parametrize(
    ("dims", "count", "expected"),
    [
        (((64, 6), (1, 8)), 6, (64, ((1, 8),))),
        (((64, 6), (1, 8)), 3, (128, ((64, 2), (1, 8)))),
        (((8, 6), (1, 8)), 12, (4, ((1, 4),))),
        (((1, 6),), 6, (1, ((1, 1),))),
        (((1, 6),), 2, (3, ((1, 3),))),
        (((64, 6), (1, 8)), 12, None),
        (((64, 6), (1, 8)), 4, None),
        (((64, 6),), 12, None),
    ],
)
def test_what_can_be_peeled_off(dims: Dims, count: int, expected: tuple[int, Dims] | None) -> None:
    assert split_outer(dims, count) == expected


def test_limits_are_those_of_the_instructions() -> None:
    for limit, is_dma in ((MAX_ON_CHIP_DIMS, False), (MAX_DMA_DIMS, True)):
        dims = tuple((3**d, 2) for d in range(limit + 1))
        assert not needs_split([on_chip(dims[1:])], is_dma)
        assert needs_split([on_chip(dims[1:]), on_chip(dims)], is_dma)


def regrouped(draw: st.DrawFn, sizes: Sequence[int]) -> Dims:
    """Dims that run over as many elements as `sizes`, with neighbouring dimensions joined at random."""
    groups: list[list[int]] = [[sizes[0]]]
    for size in sizes[1:]:
        if draw(st.booleans()):
            groups.append([size])
        else:
            groups[-1].append(size)
    dims: list[tuple[int, int]] = []
    stride = 1
    for group in reversed(groups):
        count = 1
        for size in group:
            count *= size
        dims.append((stride, count))
        # A gap between rows now and then, so that the neighbours do not form one run.
        stride = stride * count + draw(st.sampled_from((0, 5)))
    return tuple(reversed(dims))


@st.composite
def patterns(draw: st.DrawFn) -> list[AccessPattern]:
    """Operands of one op: the same number of elements each, in dimensions of their own."""
    sizes = draw(st.lists(st.sampled_from((2, 3, 4)), min_size=2, max_size=6))
    count = draw(st.integers(1, 3))
    return [on_chip(merge_dims(regrouped(draw, sizes)), draw(st.integers(0, 9))) for _ in range(count)]


@given(patterns())
def test_iterations_of_a_cut_list_the_same_elements(operands: list[AccessPattern]) -> None:
    found = cut(operands, LOOP)
    if found is None:
        return
    trips, pieces = found
    assert trips > 1
    for operand, piece in zip(operands, pieces, strict=True):
        listed = [e for i in range(trips) for e in sequence(piece.dims, piece.offset.value({LOOP: i}))]
        assert listed == sequence(operand.dims, operand.offset.constant)
        assert (piece.partition, piece.partitions) == (operand.partition, operand.partitions)
        assert piece.variables() <= {LOOP}


# Repeated cuts end within the limit whenever the outermost dimension is common, as it is for operands of one view.
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from((2, 3))), min_size=5, max_size=8))
def test_equal_operands_are_cut_down_to_the_limit(dims: list[tuple[int, int]]) -> None:
    operands = [on_chip(tuple(dims)), on_chip(tuple((stride + 10, size) for stride, size in dims))]
    loops = 0
    while needs_split(operands, is_dma=False):
        found = cut(operands, LOOP + loops)
        assert found is not None
        operands, loops = found[1], loops + 1
    assert loops <= len(dims) - MAX_ON_CHIP_DIMS


def test_operands_without_a_common_outer_dimension_are_not_cut() -> None:
    assert cut([on_chip(((100, 2), (10, 3), (1, 5))), on_chip(((100, 5), (10, 3), (1, 2)))], LOOP) is None


# 4 x 3 and 6 x 2 elements have only halves in common.
def test_a_common_divisor_is_cut_off() -> None:
    assert cut([on_chip(((100, 4), (1, 3))), on_chip(((10, 6), (1, 2)))], LOOP) == (
        2,
        [
            AccessPattern(Affine(), 16, Affine.variable(LOOP, 200), ((100, 2), (1, 3))),
            AccessPattern(Affine(), 16, Affine.variable(LOOP, 30), ((10, 3), (1, 2))),
        ],
    )


# A size of 1 is no loop: what lies further in is peeled.
def test_single_iterations_are_no_cut() -> None:
    assert cut([on_chip(((100, 1),)), on_chip(((1, 1),))], LOOP) is None
