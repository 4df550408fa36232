"""The placement ladder: each rung places without overlap, and tells rightly what can be placed and what cannot."""

from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_dialects.errors import NeuronError
from passes.nisa import exact_placement
from passes.nisa.allocation import Interval, load_profile, place_tight
from passes.nisa.canonical_placement import search_placement
from passes.nisa.exact_placement import place_exactly
from passes.nisa.placement_ladder import climb, place
from tests.passes.nisa.test_allocation import interval_lists, overlapping

# Greedy orders need 11 units for these, ten are live at once.
SIX = [
    Interval(0, 0, 3, 2), Interval(1, 1, 2, 3), Interval(2, 1, 1, 3), Interval(3, 0, 1, 2), Interval(4, 2, 3, 4),
    Interval(5, 3, 3, 4),
]  # fmt: skip


@st.composite
def tiny_lists(draw: st.DrawFn) -> list[Interval]:
    """Up to six intervals over four positions: few enough to try all placements."""
    starts_ends_sizes = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))
    drawn = draw(st.lists(starts_ends_sizes, max_size=6))
    return [Interval(key, min(a, b), max(a, b), size) for key, (a, b, size) in enumerate(drawn)]


def can_be_placed(intervals: list[Interval], capacity: int, offsets: dict[int, int] | None = None) -> bool:
    """Whether any offsets work, by trying them all."""
    offsets = offsets or {}
    if len(offsets) == len(intervals):
        return True
    interval = intervals[len(offsets)]
    placed = intervals[: len(offsets) + 1]
    for low in range(capacity - interval.size + 1):
        tried = {**offsets, interval.key: low}
        if not overlapping(placed, tried) and can_be_placed(intervals, capacity, tried):
            return True
    return False


def check(intervals: list[Interval], capacity: int, found: list[int]) -> None:
    """The offsets overlap nowhere and stay within the capacity."""
    assert overlapping(intervals, {i.key: offset for i, offset in zip(intervals, found, strict=True)}) == []
    assert all(0 <= offset <= capacity - i.size for i, offset in zip(intervals, found, strict=True))


# Tiny memories: the search finds a placement exactly when there is one, and says so when there is none.
@settings(max_examples=150)
@given(tiny_lists(), st.integers(4, 10))
def test_the_search_is_complete(intervals: list[Interval], capacity: int) -> None:
    result = search_placement(intervals, capacity)
    assert (result.offsets is not None) == can_be_placed(intervals, capacity)
    assert result.proved == (result.offsets is None)
    if result.offsets is not None:
        check(intervals, capacity, result.offsets)


# Any intervals, any capacity: what the search finds is a placement, and it is the same when it is asked again.
@given(interval_lists(), st.integers(1, 60))
def test_searched_placements_do_not_overlap(intervals: list[Interval], capacity: int) -> None:
    result = search_placement(intervals, capacity)
    assert result == search_placement(intervals, capacity)
    if result.offsets is not None:
        check(intervals, capacity, result.offsets)


# Any intervals: whatever greedy orders place, the ladder places too, from its lowest rung.
@given(interval_lists(), st.integers(1, 60))
def test_the_ladder_is_never_worse_than_its_lowest_rung(intervals: list[Interval], capacity: int) -> None:
    greedy, found = place_tight(intervals, capacity), climb(intervals, capacity)
    assert len(found.misfits) <= len(greedy.misfits)
    assert (found.rung == "greedy") == (not greedy.misfits)
    assert found.needed <= greedy.needed
    assert (found.needed <= capacity) == (not found.misfits)


# The six intervals: only the search fills ten units with them, and proves that they do not fit in nine.
def test_the_search_fits_what_greedy_orders_do_not() -> None:
    greedy = climb(SIX, 10, "greedy")
    assert (greedy.needed, greedy.rung) == (11, "greedy")
    found = place(SIX, 10)
    assert (found.needed, found.misfits, found.rung) == (max(load_profile(SIX)), (), "search")
    assert overlapping(SIX, found.offsets) == []
    assert climb(SIX, 9).proved


# A search without patience gives up, and does not claim to have proved anything.
def test_a_search_is_bounded() -> None:
    intervals = [Interval(key, key % 7, key % 7 + key % 5, 3 + key % 11) for key in range(60)]
    capacity = max(load_profile(intervals))
    result = search_placement(intervals, capacity, patience=-59)
    assert result.offsets is None
    assert not result.proved
    assert result.steps <= 2 * 7


# The solver is not installed: whoever asks for it is told which extra to install.
def test_a_missing_solver_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_placement, "SOLVER_PACKAGE", "no_such_solver")
    assert not exact_placement.has_solver()
    with pytest.raises(NeuronError) as raised:
        place_exactly(SIX, 10)
    assert raised.value.code == "NX-PASS-004"
    assert "neuron-toolkit[solve]" in str(raised.value.help)


@pytest.mark.skipif(find_spec("ortools") is None, reason="needs the extra `solve`")
class TestSolver:
    # Tiny memories: the solver agrees with trying everything.
    @settings(max_examples=40, deadline=None)
    @given(tiny_lists(), st.integers(4, 10))
    def test_the_solver_is_right(self, intervals: list[Interval], capacity: int) -> None:
        result = place_exactly(intervals, capacity)
        assert (result.offsets is not None) == can_be_placed(intervals, capacity)
        if result.offsets is not None:
            check(intervals, capacity, result.offsets)

    # The same question twice: the same addresses. A hint that does not fit is no hindrance.
    def test_the_solver_is_deterministic(self) -> None:
        first, second = (place_exactly(SIX, 10, [0, 8, 9, 10, 2, 7]) for _ in range(2))
        assert first == second
        assert first.offsets is not None
        check(SIX, 10, first.offsets)
