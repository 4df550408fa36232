"""Placement in one memory: nothing overlaps, what fits is found, places are used in turn."""

from hypothesis import given
from hypothesis import strategies as st

from passes.nisa.allocation import Interval, load_profile, place_spread, place_tight
from passes.nisa.placement_ladder import place


@st.composite
def interval_lists(draw: st.DrawFn) -> list[Interval]:
    intervals: list[Interval] = []
    for key in range(draw(st.integers(0, 14))):
        start = draw(st.integers(0, 12))
        intervals.append(Interval(key, start, start + draw(st.integers(0, 6)), draw(st.integers(1, 9))))
    return intervals


def overlapping(intervals: list[Interval], offsets: dict[int, int]) -> list[tuple[int, int]]:
    """Pairs that share a position and a unit."""
    return [
        (a.key, b.key)
        for a in intervals
        for b in intervals
        if a.key < b.key
        and a.start <= b.end
        and b.start <= a.end
        and offsets[a.key] < offsets[b.key] + b.size
        and offsets[b.key] < offsets[a.key] + a.size
    ]


# Any intervals: nothing overlaps, the extent is reported and is at least what is live at once.
@given(interval_lists(), st.integers(1, 40))
def test_tight_placements_do_not_overlap(intervals: list[Interval], capacity: int) -> None:
    placement = place_tight(intervals, capacity)
    assert overlapping(intervals, placement.offsets) == []
    ends = {i.key: placement.offsets[i.key] + i.size for i in intervals}
    assert placement.needed == max(ends.values(), default=0)
    assert placement.needed >= max(load_profile(intervals), default=0)
    assert set(placement.misfits) == {key for key, end in ends.items() if end > capacity}


# Any intervals: a spread placement overlaps nowhere and stays in the capacity.
@given(interval_lists(), st.integers(1, 60))
def test_spread_placements_do_not_overlap(intervals: list[Interval], capacity: int) -> None:
    offsets = place_spread(intervals, capacity)
    if offsets is not None:
        assert overlapping(intervals, offsets) == []
        assert all(0 <= offsets[i.key] <= capacity - i.size for i in intervals)


# Size-descending best fit needs 5 units here, another order needs the 4 that are live at once: the best is kept.
def test_the_best_of_several_orders_is_kept() -> None:
    intervals = [
        Interval(0, 0, 1, 2),
        Interval(1, 1, 3, 1),
        Interval(2, 3, 4, 2),
        Interval(3, 2, 3, 1),
        Interval(4, 0, 0, 2),
    ]
    placement = place(intervals, 4)
    assert placement.needed == max(load_profile(intervals)) == 4
    assert placement.misfits == ()


# Four buffers one after the other in a memory for three: each takes the place that has been free for longest.
def test_places_are_used_in_turn() -> None:
    intervals = [Interval(key, key, key, 10) for key in range(5)]
    assert place(intervals, 30).offsets == {0: 0, 1: 10, 2: 20, 3: 0, 4: 10}


# The extent that is reported is that of the tightest placement, not of the spread one.
def test_the_need_does_not_depend_on_the_capacity() -> None:
    intervals = [Interval(key, key, key, 10) for key in range(5)]
    assert place(intervals, 1000).needed == 10


# Many stretches of different ages: they are joined, and placement goes on.
def test_many_small_buffers() -> None:
    intervals = [Interval(key, key, key + 3, 1 + key % 3) for key in range(2000)]
    placement = place(intervals, 2000)
    assert placement.misfits == ()
    assert overlapping(intervals[:300], placement.offsets) == []
