"""Affine expressions and access patterns: their algebra, their text, and what merging dimensions may change."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_dialects.access import (
    AccessPattern,
    Affine,
    contiguous_dims,
    merge_dims,
    parse_affine,
    parse_pattern,
)

VARIABLES = range(4)

numbers = st.integers(-1000, 1000)
affines = st.builds(Affine.of, numbers, st.dictionaries(st.sampled_from(VARIABLES), numbers))
assignments = st.fixed_dictionaries({v: st.integers(0, 50) for v in VARIABLES})
dims = st.lists(st.tuples(st.integers(-40, 40), st.integers(1, 5)), min_size=1, max_size=5).map(tuple)
patterns = st.builds(AccessPattern, st.integers(0, 127).map(Affine) | affines, st.integers(0, 128), affines, dims).map(
    lambda p: p if p.partitions else AccessPattern(Affine(), 0, p.offset, p.dims)
)


def element_sequence(dims: tuple[tuple[int, int], ...], offset: int = 0) -> list[int]:
    """Element numbers that dims list, in order."""
    positions = np.array(offset)
    for stride, size in dims:
        positions = positions[..., None] + stride * np.arange(size)
    return positions.reshape(-1).tolist()


# Sums, products and differences of expressions are those of their values.
@given(affines, affines, numbers, assignments)
def test_affine_algebra(a: Affine, b: Affine, factor: int, variables: dict[int, int]):
    def value(e: Affine) -> int:
        return e.value(variables)

    assert value(a + b) == value(a) + value(b)
    assert value(a - b) == value(a) - value(b)
    assert value(a * factor) == value(factor * a) == value(a) * factor
    assert value(-a) == -value(a)
    assert value(a + factor) == value(factor + a) == value(a) + factor
    assert value(a.linear) == value(a) - a.constant


# Equal expressions compare equal however they were made: terms are sorted and no coefficient is 0.
@given(affines, affines)
def test_affine_is_normal(a: Affine, b: Affine):
    assert a + b == b + a
    assert a + b - b == a
    assert a - a == Affine()
    for result in (a + b, a * 0, a - b):
        assert [v for v, _ in result.terms] == sorted({v for v, _ in result.terms})
        assert all(c for _, c in result.terms)
    assert a.is_constant == (not a.terms)


@given(affines, assignments)
def test_affine_renaming_keeps_the_value(a: Affine, variables: dict[int, int]):
    renamed = a.rename(lambda v: v + 10)
    assert renamed.value({v + 10: n for v, n in variables.items()}) == a.value(variables)
    assert all(renamed.coefficient(v + 10) == a.coefficient(v) for v in VARIABLES)


# The bounds are the extremes over all iterations.
@given(affines, st.fixed_dictionaries({v: st.integers(1, 3) for v in VARIABLES}))
def test_affine_bounds(a: Affine, trips: dict[int, int]):
    grid = np.stack(np.meshgrid(*(np.arange(trips[v]) for v in VARIABLES)), -1).reshape(-1, len(VARIABLES))
    values = [a.value(dict(zip(VARIABLES, map(int, row), strict=True))) for row in grid]
    assert a.bounds(trips) == (min(values), max(values))


@given(affines)
def test_affine_text_round_trip(a: Affine):
    assert parse_affine(str(a)) == a
    assert parse_affine(a.text("%v{}".format), lambda name: int(name.removeprefix("%v"))) == a


@given(patterns)
def test_pattern_text_round_trip(pattern: AccessPattern):
    assert parse_pattern(str(pattern)) == pattern


# How the documented examples are spelled.
def test_pattern_text():
    on_chip = AccessPattern(Affine(32), 64, Affine.of(4, {0: 512}), ((28, 14), (1, 14)))
    assert str(on_chip) == "[32:64][512*$0 + 4 : 14 step 28, 14]"
    dram = AccessPattern(Affine(), 0, Affine.variable(1, 1024), ((2048, 128), (1, 512)))
    assert str(dram) == "[1024*$1 : 128 step 2048, 512]"
    assert str(AccessPattern(Affine(), 0, Affine.of(-3, {2: -1}), ((-1, 4),))) == "[-$2 - 3 : 4 step -1]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[0 : 4", "expected ] at column 6"),
        ("[0 ; 4]", "expected : at column 2"),
        ("[0:1][0 : 4] 7", "unexpected text after the access pattern: ' 7'"),
        ("[0 : $1]", "expected a number"),
        ("[%i : 4]", "expected a variable like $0, not '%i'"),
        ("", "expected ["),
    ],
)
def test_malformed_pattern(text: str, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_pattern(text)


@pytest.mark.parametrize("text", ["", "3 +", "2*", "$x", "1 2"])
def test_malformed_affine(text: str):
    with pytest.raises(ValueError, match="expect"):
        parse_affine(text)


# Merging lists the same elements in the same order, with the fewest dims that can.
@given(dims)
def test_merge_dims_keeps_the_sequence(dims: tuple[tuple[int, int], ...]):
    merged = merge_dims(dims)
    assert element_sequence(merged) == element_sequence(dims)
    assert merge_dims(merged) == merged
    assert len(merged) <= len(dims)
    assert all(size > 1 for _, size in merged) or merged == ((1, 1),)


@given(st.lists(st.integers(1, 5), max_size=5))
def test_dense_block_is_one_run(shape: list[int]):
    assert contiguous_dims(shape) == ((1, int(np.prod(shape, dtype=int))),)


# Extent, run and counts agree with the elements that a pattern lists.
@given(patterns)
def test_pattern_measures(pattern: AccessPattern):
    sequence = element_sequence(pattern.dims)
    assert pattern.free_elements == len(sequence)
    assert pattern.elements == len(sequence) * max(1, pattern.partitions)
    assert pattern.extent == (min(sequence), max(sequence))
    run = pattern.contiguous_run
    assert len(sequence) % run == 0
    for start in range(0, len(sequence), run):
        assert sequence[start : start + run] == list(range(sequence[start], sequence[start] + run))
    assert pattern.is_dram == (pattern.partitions == 0)


# Rows that touch are one run, rows with a gap are not, a repeated element is a run of one.
def test_contiguous_run():
    def run(*dims: tuple[int, int]) -> int:
        return AccessPattern(Affine(), 0, Affine(), dims).contiguous_run

    assert run((14, 14), (1, 14)) == 196
    assert run((28, 14), (1, 14)) == 14
    assert run((28, 14), (2, 14)) == 1
    assert run((1, 14), (0, 4)) == 1


@given(patterns, affines)
def test_shifted_and_renamed_patterns(pattern: AccessPattern, distance: Affine):
    shifted = pattern.shifted(distance)
    assert shifted.offset - pattern.offset == distance
    assert (shifted.partition, shifted.partitions, shifted.dims) == (
        pattern.partition, pattern.partitions, pattern.dims,
    )  # fmt: skip
    assert pattern.rename(lambda v: v + 7).variables() == {v + 7 for v in pattern.variables()}
