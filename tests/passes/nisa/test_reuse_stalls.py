"""What sharing memory costs: who waits for whom, and how long a program takes."""

from hypothesis import given
from hypothesis import strategies as st

from passes.nisa.allocation import Interval, place_spread, place_tight
from passes.nisa.list_schedule import Task, Touch
from passes.nisa.reuse_stalls import Occupant, ReuseStalls, reuse_waits
from tests.passes.nisa.test_allocation import interval_lists


# Two places of four units; a third occupant takes half of each, a fourth what is left of the first.
def test_whoever_takes_a_place_waits_for_its_last_users() -> None:
    occupants = [Occupant(0, 0, 2, 4), Occupant(1, 1, 3, 4), Occupant(2, 5, 6, 4), Occupant(3, 7, 7, 2)]
    waits = reuse_waits(occupants, {0: 0, 1: 4, 2: 2, 3: 0})
    assert waits == {5: {2, 3}, 7: {2}}


def users_of_each_unit(intervals: list[Interval], offsets: dict[int, int]) -> dict[int, set[int]]:
    """`reuse_waits` unit by unit."""
    last: dict[int, int] = {}
    waits: dict[int, set[int]] = {}
    for interval in sorted(intervals, key=lambda i: (i.start, i.key)):
        for unit in range(offsets[interval.key], offsets[interval.key] + interval.size):
            if unit in last:
                waits.setdefault(interval.start, set()).add(last[unit])
            last[unit] = interval.end
    return waits


# Any placement: the same waits as from a table of all units.
@given(interval_lists(), st.booleans())
def test_waits_are_those_of_the_units(intervals: list[Interval], spread: bool) -> None:
    offsets = place_tight(intervals, 200).offsets
    if spread:
        found = place_spread(intervals, 200)
        assert found is not None
        offsets = found
    occupants = [Occupant(i.key, i.start, i.end, i.size) for i in intervals]
    assert reuse_waits(occupants, offsets) == users_of_each_unit(intervals, offsets)


# Load, compute, load, compute. With places of their own the second load runs during the first computation.
def test_sharing_a_place_costs_the_overlap() -> None:
    tasks = [
        Task({"sp": 1.0}, 100.0, 0.0, [Touch(0, 0, 9, writes=True)]),
        Task({"pe": 100.0}, 0.0, 0.0, [Touch(0, 0, 9, writes=False)]),
        Task({"sp": 1.0}, 100.0, 0.0, [Touch(1, 0, 9, writes=True)]),
        Task({"pe": 100.0}, 0.0, 0.0, [Touch(1, 0, 9, writes=False)]),
    ]
    stalls = ReuseStalls(tasks)
    occupants = [Occupant(0, 0, 1, 10), Occupant(1, 2, 3, 10)]
    assert stalls.free_ns == 300.0
    assert stalls.time_ns(occupants, {0: 0, 1: 10}) == 300.0
    assert stalls.time_ns(occupants, {0: 0, 1: 0}) == 400.0
