"""Plans for one memory: which copies are taken, who is spilled, what is reported when nothing helps."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from passes.nisa.allocation import Interval, place_tight
from passes.nisa.memory_plan import LiveBuffer, plan_memory, plan_with_prefetch, prefetch_leads, run_ahead
from tests.passes.nisa.test_placement_ladder import SIX


# Everything fits: nobody loses a copy.
def test_what_fits_stays_as_it_is() -> None:
    plan = plan_memory([LiveBuffer(0, 10, 3, (0,)), LiveBuffer(1, 20, 1, (0, 1))], 50)
    assert plan.copies == {0: 3, 1: 1}
    assert plan.placement is not None
    assert plan.placement.needed == plan.live_units == 50


# 3 x 10 + 2 x 20 = 70 in 60 units: the buffer with the most copies loses one. For 30 units both lose all but one.
def test_copies_are_taken_from_the_buffer_with_most() -> None:
    buffers = [LiveBuffer(0, 10, 3, (0,)), LiveBuffer(1, 20, 2, (0,))]
    assert plan_memory(buffers, 60).copies == {0: 2, 1: 2}
    assert plan_memory(buffers, 40).copies == {0: 2, 1: 1}
    assert plan_memory(buffers, 30).copies == {0: 1, 1: 1}


# A nest that fits keeps its copies when another one is short of memory.
def test_copies_are_taken_only_where_memory_is_short() -> None:
    plan = plan_memory([LiveBuffer(0, 10, 3, (0,)), LiveBuffer(1, 10, 3, (1,)), LiveBuffer(2, 10, 1, (1,))], 30)
    assert plan.copies == {0: 3, 1: 2, 2: 1}


# At position 2 three buffers of 10 are live in 20 units, one is used there: the longer idle of the others is spilled.
def test_the_longest_idle_buffer_is_spilled() -> None:
    buffers = [
        LiveBuffer(0, 10, 1, (0, 5), movable=True),
        LiveBuffer(1, 10, 1, (1, 3), movable=True),
        LiveBuffer(2, 10, 1, (2,)),
    ]
    plan = plan_memory(buffers, 20)
    assert plan.placement is None
    assert plan.victims == (0,)


# Spilling 0 and 1 frees the same, but 1 is reloaded three times: 0 goes. The four units of 3 would free less.
def test_spills_are_chosen_by_what_they_free_for_their_cost() -> None:
    buffers = [
        LiveBuffer(0, 10, 1, (0, 6), movable=True, spill_cost=2.0),
        LiveBuffer(1, 10, 1, (0, 2, 4, 6), movable=True, spill_cost=4.0),
        LiveBuffer(2, 10, 1, (3,)),
        LiveBuffer(3, 4, 1, (0, 6), movable=True, spill_cost=1.5),
    ]
    assert plan_memory(buffers, 24).victims == (0,)
    cheaper = [replace(b, spill_cost=1.0) if b.key == 1 else b for b in buffers]
    assert plan_memory(cheaper, 24).victims == (1,)


# Six buffers that greedy orders do not get into the ten units that are live: without a search copies have to go.
def test_a_search_comes_before_copies_are_lost() -> None:
    buffers = [LiveBuffer(i.key, i.size // 2 if i.size > 3 else i.size, 2 if i.size > 3 else 1, (i.start, i.end))
               for i in SIX]  # fmt: skip
    searched = plan_memory(buffers, 10)
    assert searched.placement is not None
    assert searched.placement.rung == "search"
    assert searched.copies == {b.key: b.copies for b in buffers}
    greedy = plan_memory(buffers, 10, "greedy")
    assert greedy.placement is not None
    assert sum(greedy.copies.values()) < sum(searched.copies.values())


# Six transfers, one after the other, and a judge that likes any other placement better than the first that it sees.
def test_the_judge_decides_how_far_ahead_transfers_run() -> None:
    buffers = [LiveBuffer(key, 2 + key % 4, 1, (2 * key, 2 * key + 3)) for key in range(6)]
    seen: list[dict[int, int]] = []

    def another(_: Sequence[LiveBuffer], copies: Mapping[int, int], offsets: Mapping[int, int]) -> float:
        assert copies == dict.fromkeys(range(6), 1)
        seen.append(dict(offsets))
        return 9.0 if offsets == seen[0] else 5.0

    plan = plan_with_prefetch(buffers, 12, range(6), "search", another, 1.0)
    assert plan.placement is not None
    assert plan.placement.offsets == next(offsets for offsets in seen if offsets != seen[0])
    # One that is content with the first placement is asked once.
    seen.clear()
    plan_with_prefetch(buffers, 12, range(6), "search", another, 9.0)
    assert len(seen) == 1


# Nobody is idle where memory is short: no victims, but the position and the need.
def test_a_shortage_is_reported() -> None:
    plan = plan_memory([LiveBuffer(0, 10, 1, (0, 1, 2), movable=True), LiveBuffer(1, 15, 1, (1,))], 20)
    assert plan.victims == ()
    assert plan.placement is None
    assert plan.shortage == (1, 25)


# Buffers that may not be moved stay where they are.
def test_what_may_not_be_moved_is_no_victim() -> None:
    plan = plan_memory([LiveBuffer(0, 10, 1, (0, 2)), LiveBuffer(1, 15, 1, (1,))], 20)
    assert plan.victims == ()
    assert plan.shortage == (1, 25)


# Buffers are loaded for positions 10, 11 and 20, beside one of 6 units that lives from 8 to 12.
def test_transfers_run_ahead_into_spare_memory_in_program_order() -> None:
    loaded = [LiveBuffer(1, 3, 1, (10,)), LiveBuffer(2, 3, 1, (11, 12)), LiveBuffer(3, 4, 1, (20,))]
    profile = [0] * 8 + [6, 6, 9, 9, 9] + [0] * 7 + [4]
    leads = prefetch_leads(loaded, {1: 3, 2: 3, 3: 4}, profile, 10)
    # 6 + 3 fit in 10 and 6 + 6 do not, so that the second waits for the first; the third waits for the one of 6 units.
    assert leads == {1: 10, 2: 0, 3: 7}
    plan = plan_with_prefetch([*loaded, LiveBuffer(0, 6, 1, (8, 12))], 12, (1, 2, 3))
    assert plan.placement is not None
    assert not plan.placement.misfits


# Buffer 2 is written at position 1, while buffer 1 may still be read: it lies elsewhere, although the place of buffer
# 1, the first that is free again, would do.
def test_what_the_statement_before_reads_is_not_overwritten_where_there_is_room() -> None:
    buffers = [LiveBuffer(1, 3, 1, (0,)), LiveBuffer(2, 2, 1, (1,)), LiveBuffer(0, 2, 1, (2, 3))]
    buffers += [LiveBuffer(3, 5, 1, (3,)), LiveBuffer(9, 1, 1, (3,))]
    plan = plan_with_prefetch(buffers, 10, (9,))
    assert plan.placement is not None
    offsets = plan.placement.offsets
    assert offsets[2] >= offsets[1] + 3 or offsets[1] >= offsets[2] + 2


# Of 10 units, 0..3 are taken up to position 5 and 4..9 up to position 8. A loaded buffer of 4 units lies where it can
# be filled from position 9 on; it could be filled from 6 on. One of 2 units finds no better place than its own.
def test_a_transfer_moves_to_where_memory_is_free_earlier() -> None:
    intervals = {
        0: Interval(0, 0, 5, 4),
        1: Interval(1, 0, 8, 6),
        2: Interval(2, 10, 12, 4),
        3: Interval(3, 12, 14, 2),
    }
    offsets = {0: 0, 1: 4, 2: 6, 3: 4}
    moved = run_ahead(intervals, offsets, [2, 3], 10)
    assert moved == {0: 0, 1: 4, 2: 0, 3: 4}


@st.composite
def placed_intervals(draw: st.DrawFn) -> list[Interval]:
    starts = draw(st.lists(st.tuples(st.integers(0, 600), st.integers(0, 40), st.integers(1, 8)), max_size=40))
    return [Interval(key, start, start + length, size) for key, (start, length, size) in enumerate(starts)]


# Whoever moves: no two that live at the same position overlap, and all stay below what was needed before.
@given(placed_intervals(), st.integers(0, 7))
def test_transfers_that_run_ahead_take_no_memory_that_is_in_use(intervals: list[Interval], every: int) -> None:
    placement = place_tight(intervals, 10**6)
    loaded = [interval.key for interval in intervals if interval.key % 8 <= every]
    moved = run_ahead({i.key: i for i in intervals}, placement.offsets, loaded, placement.needed)
    for a, b in combinations(intervals, 2):
        if a.start <= b.end and b.start <= a.end:
            assert moved[a.key] + a.size <= moved[b.key] or moved[b.key] + b.size <= moved[a.key]
    assert all(moved[i.key] + i.size <= placement.needed for i in intervals)
