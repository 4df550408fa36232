"""The algorithms that cut a graph into segments, on plain numbers."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from passes.graph.segments import Node, assign_segments, keep_with_host


@st.composite
def graphs(draw: st.DrawFn, largest: int = 7) -> tuple[list[bool], list[list[int]]]:
    count = draw(st.integers(1, largest))
    sides = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    producers = [sorted(draw(st.sets(st.integers(0, number - 1)))) if number else [] for number in range(count)]
    return sides, producers


def is_valid(sides: list[bool], producers: list[list[int]], segments: list[int]) -> bool:
    one_side = all(len({sides[n] for n, s in enumerate(segments) if s == segment}) == 1 for segment in set(segments))
    in_order = all(segments[p] <= segments[n] for n in range(len(sides)) for p in producers[n])
    return one_side and in_order


def fewest(sides: list[bool], producers: list[list[int]]) -> int:
    """By trying every assignment to up to k segments."""
    for count in range(1, len(sides) + 1):
        for segments in product(range(count), repeat=len(sides)):
            if is_valid(sides, producers, list(segments)):
                return count
    raise AssertionError("every node in a segment of its own is valid")


@given(graphs())
@settings(max_examples=60)
def test_segments_are_valid_and_fewest(graph: tuple[list[bool], list[list[int]]]):
    sides, producers = graph
    segments = assign_segments(sides, producers)
    assert is_valid(sides, producers, segments)
    assert sorted(set(segments)) == list(range(len(set(segments))))
    # Trying every assignment takes too long for more.
    if len(sides) <= 6:
        assert len(set(segments)) == fewest(sides, producers)


def test_no_nodes():
    assert assign_segments([], []) == []
    assert keep_with_host([]) == set()


# Which side begins decides: host, core, core needs two segments, whatever else there is.
def test_either_side_may_begin():
    assert assign_segments([True, False, False], [[], [0], []]) == [0, 1, 1]
    assert assign_segments([False, True, True], [[], [0], []]) == [0, 1, 1]
    assert assign_segments([True, False, False, True], [[], [0], [], [2]]) == [0, 1, 1, 2]


def host(*producers: int) -> Node:
    return Node(True, list(producers))


def core(*producers: int, size: int = 0) -> Node:
    return Node(False, list(producers), result_bytes=size)


def moves(*producers: int, size: int = 0, returned: bool = False, reads: str = "") -> Node:
    """A moving node; `reads` says who else reads the program input that it reads."""
    return Node(False, list(producers), True, returned, reads == "host", reads == "core", size)


# input -> move -> move -> host: both moves stay with the host; a computation would not, nor a move that the core needs.
def test_moves_before_the_host():
    assert keep_with_host([moves(), moves(0), host(1)]) == {0, 1}
    assert keep_with_host([core(), moves(0), host(1)]) == {1}
    assert keep_with_host([moves(), host(0), core(0)]) == set()


# A slice of a large value of the core is taken there; where the host has the large value anyway, it takes the slice.
def test_moves_that_would_bring_more_bytes():
    assert keep_with_host([core(size=100), moves(0, size=10), host(1)]) == set()
    assert keep_with_host([core(size=10), moves(0, size=100), host(1)]) == {1}
    assert keep_with_host([core(size=100), moves(0, size=10), host(1), host(0)]) == {1}


# host -> move -> result: no core is started for that; nor for what only moves an input that the host has.
def test_moves_behind_the_host():
    assert keep_with_host([host(), moves(0), moves(1, returned=True)]) == {1, 2}
    assert keep_with_host([host(), moves(returned=True, reads="host")]) == {1}
    assert keep_with_host([host(), moves(returned=True, reads="core")]) == set()
    assert keep_with_host([host(), moves(0), core(1)]) == set()
    assert keep_with_host([host(), core(), moves(0, 1, returned=True)]) == set()


# A program that only moves data runs on the core: there is no host segment to join.
def test_only_moves():
    assert keep_with_host([moves(reads="core"), moves(0, returned=True)]) == set()
