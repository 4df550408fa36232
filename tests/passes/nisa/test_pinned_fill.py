"""Buffers that only loads of parameters write, laid out to be filled once."""

from __future__ import annotations

from neuron_dialects.access import AccessPattern, Affine
from passes.nisa.pinned_fill import Fill, expand


def on_chip(offset: Affine, size: int) -> AccessPattern:
    return AccessPattern(Affine(), 4, offset, ((1, size),))


def in_dram(offset: Affine, size: int) -> AccessPattern:
    return AccessPattern(Affine(), 0, offset, ((100, 4), (1, size)))


OUTER, INNER = Affine.variable(0), Affine.variable(1)
TRIPS = {0: 3, 1: 2}


def test_a_place_for_each_iteration_that_loads_something_else() -> None:
    """The source moves with the outer loop: three places, 8 elements apart, each filled in two parts."""
    contents = expand([Fill("w", on_chip(4 * INNER, 4), in_dram(8 * OUTER + 4 * INNER, 4))], TRIPS, [0], 4, 8)
    assert contents is not None
    assert (contents.places, contents.steps) == (3, {0: 8})
    assert [t.dst.offset.constant for t in contents.transfers] == [0, 4, 8, 12, 16, 20]
    assert [t.src.offset.constant for t in contents.transfers] == [0, 4, 8, 12, 16, 20]


def test_iterations_that_load_the_same_share_a_place() -> None:
    """The source does not depend on the loop around the buffer: one place, no access moves."""
    contents = expand([Fill("w", on_chip(4 * INNER, 4), in_dram(4 * INNER, 4))], TRIPS, [0], 4, 8)
    assert contents is not None
    assert (contents.places, contents.steps, len(contents.transfers)) == (1, {}, 2)


def test_two_loops_count_like_digits() -> None:
    """The source moves with both loops around the buffer: the inner one's places are next to each other."""
    contents = expand([Fill("w", on_chip(Affine(), 8), in_dram(16 * OUTER + 8 * INNER, 8))], TRIPS, [0, 1], 4, 8)
    assert contents is not None
    assert (contents.places, contents.steps) == (6, {0: 16, 1: 8})


def test_what_is_loaded_over_stays() -> None:
    """A loop inside of the buffer's life loads over what it loaded before; or two loads of one place overlap."""
    assert expand([Fill("w", on_chip(Affine(), 8), in_dram(8 * OUTER, 8))], TRIPS, [], 4, 8) is None
    both = [Fill("w", on_chip(Affine(), 5), in_dram(Affine(), 5)), Fill("v", on_chip(Affine(4), 4), in_dram(OUTER, 4))]
    assert expand(both, TRIPS, [0], 4, 8) is None


def test_part_of_the_places_is_filled_by_all() -> None:
    """One load moves with the loop, another one does not: the latter fills its part of every place."""
    fills = [
        Fill("w", on_chip(Affine(), 4), in_dram(4 * OUTER, 4)),
        Fill("v", on_chip(Affine(4), 4), in_dram(Affine(), 4)),
    ]
    contents = expand(fills, TRIPS, [0], 4, 8)
    assert contents is not None
    assert [(t.source, t.dst.offset.constant) for t in contents.transfers] == [
        ("w", 0), ("w", 8), ("w", 16), ("v", 4), ("v", 12), ("v", 20),
    ]  # fmt: skip
