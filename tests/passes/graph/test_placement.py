"""The algorithms that weigh a core against the host, on plain numbers."""

from __future__ import annotations

from time import perf_counter

from hypothesis import given, settings
from hypothesis import strategies as st

from passes.graph.placement import (
    MOVED_FLOPS,
    Program,
    TimedOperator,
    Value,
    drop_small_segments,
    move_islands,
    total_ns,
)
from passes.graph.segments import assign_segments

CORE_LAUNCH, HOST_LAUNCH, CROSSING = 15.0, 20.0, 2.0


def chain(*operators: tuple[float, float, int], fixed: frozenset[int] = frozenset()) -> Program:
    """Operators (core time, host time, FLOPs) one after the other, from an input of the program to its result."""
    last = len(operators) - 1
    made = [
        TimedOperator(core, host, flops, [n - 1] if n else [], [n], [n + 1], n in fixed)
        for n, (core, host, flops) in enumerate(operators)
    ]
    values = [Value(CROSSING), *(Value(CROSSING, n, n == last) for n in range(len(operators)))]
    return Program(made, values, CORE_LAUNCH, HOST_LAUNCH)


LARGE, SMALL, HOST = (100.0, 2000.0, 10_000), (1.0, 2.0, 5), (0.0, 3.0, 5)


# large, host, small: the large one takes 100 and 15 to start and its input crosses; the result of each crosses.
def test_total_by_hand():
    program = chain(LARGE, HOST, SMALL)
    assert total_ns(program, [False, True, False]) == (2 + 15 + 100) + (2 + 20 + 3) + (2 + 15 + 1 + 2)
    assert total_ns(program, [False, True, True]) == (2 + 15 + 100) + (2 + 20 + 3 + 2)


# The small island behind the host costs 20 on the core, launch and two crossings included, and 2 on the host.
def test_a_small_island_moves():
    program = chain(LARGE, HOST, SMALL)
    moves = move_islands(program, [False, True, False])
    assert set(moves) == {2}
    assert (moves[2].core_ns, moves[2].host_ns) == (15 + 1 + 2 + 2, 2)


# Between two host operators it also takes the launch of one of their segments with it.
def test_between_two_host_segments():
    program = chain(LARGE, HOST, SMALL, HOST, LARGE)
    moves = move_islands(program, [False, True, False, True, False])
    assert set(moves) == {2}
    assert moves[2].core_ns == 15 + 20 + 1 + 2 + 2


# What stays: the whole program, the largest island, a fixed one, one with too many FLOPs, one that is faster here.
def test_what_stays_on_the_core():
    assert move_islands(chain(SMALL, SMALL), [False, False]) == {}
    assert move_islands(chain(HOST, SMALL), [True, False]) == {}
    assert move_islands(chain(LARGE, HOST, SMALL, fixed=frozenset([2])), [False, True, False]) == {}
    assert move_islands(chain(LARGE, HOST, (1.0, 2.0, 500)), [False, True, False]) == {}
    assert move_islands(chain(LARGE, HOST, (1.0, 100.0, 5)), [False, True, False]) == {}


# Half of the time is the limit: 20 on the core, so 10 on the host move and 11 do not.
def test_a_clear_gain_is_needed():
    assert set(move_islands(chain(LARGE, HOST, (1.0, 10.0, 5)), [False, True, False])) == {2}
    assert move_islands(chain(LARGE, HOST, (1.0, 11.0, 5)), [False, True, False]) == {}


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, list[bool]]:
    count = draw(st.integers(1, 14))
    inputs = draw(st.integers(1, 3))
    values = [Value(draw(st.sampled_from([1.0, 2.0, 30.0]))) for _ in range(inputs)]
    operators: list[TimedOperator] = []
    on_host: list[bool] = []
    for number in range(count):
        reads = draw(st.sets(st.integers(0, len(values) - 1), min_size=1, max_size=3))
        makers = {maker for value in reads if (maker := values[value].maker) is not None}
        operators.append(
            TimedOperator(
                draw(st.sampled_from([1.0, 5.0, 200.0])),
                draw(st.sampled_from([2.0, 10.0, 4000.0])),
                draw(st.sampled_from([0, 1, 1000])),
                sorted(makers),
                sorted(reads),
                [len(values)],
                draw(st.integers(0, 7)) == 0,
            )
        )
        values.append(Value(draw(st.sampled_from([1.0, 2.0, 30.0])), number, draw(st.booleans())))
        on_host.append(draw(st.booleans()))
    return Program(operators, values, CORE_LAUNCH, HOST_LAUNCH), on_host


@given(programs())
@settings(max_examples=100)
def test_moves_keep_their_rules(case: tuple[Program, list[bool]]):
    program, on_host = case
    moves = move_islands(program, on_host)
    after = [host or number in moves for number, host in enumerate(on_host)]
    assert all(not on_host[number] and not program.operators[number].fixed for number in moves)
    assert total_ns(program, after) <= total_ns(program, on_host)
    able = sum(operator.flops for operator, host in zip(program.operators, on_host, strict=True) if not host)
    assert sum(program.operators[number].flops for number in moves) <= MOVED_FLOPS * able
    assert all(on_host) or not all(after)
    # Nothing goes to and fro: what was decided is not decided otherwise the second time.
    assert not moves or move_islands(program, on_host) == moves


@given(programs(), st.integers(1, 4), st.data())
@settings(max_examples=100)
def test_segments_have_their_size(case: tuple[Program, list[bool]], minimum: int, data: st.DataObject):
    program, on_host = case
    producers = [operator.producers for operator in program.operators]
    pinned = [not host and data.draw(st.integers(0, 5)) == 0 for host in on_host]
    place, levels = drop_small_segments(on_host, producers, minimum, pinned)
    assert len(place) == len(levels) == len(on_host)
    assert all(now or not before for before, now in zip(on_host, place, strict=True))
    assert not any(host and fixed for host, fixed in zip(place, pinned, strict=True))
    assert sorted(set(levels)) == list(range(len(set(levels))))
    for number, needed in enumerate(producers):
        assert all(levels[producer] <= levels[number] for producer in needed)
    for level in set(levels):
        members = [number for number, of in enumerate(levels) if of == level]
        assert len({place[number] for number in members}) == 1
        small = not place[members[0]] and len(members) < minimum
        assert not small or any(pinned[number] for number in members)
    if minimum == 1:
        assert place == on_host
        assert len(set(levels)) == len(set(assign_segments(on_host, producers)))


# Two operators are too few for three: the host takes them, and its segments before and behind become one.
def test_a_dropped_segment_joins_the_host():
    place, levels = drop_small_segments(
        [True, False, False, True, False, False, False], [[], [0], [1], [2], [3], [4], [5]], 3, [False] * 7
    )
    assert place == [True, True, True, True, False, False, False]
    assert levels == [0, 0, 0, 0, 1, 1, 1]


# Nine thousand operators that change sides all the time take a moment.
def test_long_programs():
    program = chain(*[LARGE if n % 3 == 0 else HOST if n % 3 == 1 else SMALL for n in range(9_000)])
    on_host = [n % 3 == 1 for n in range(9_000)]
    begun = perf_counter()
    # Between SMALL and the next LARGE nothing changes sides: each pair is one island, but for the last.
    assert set(move_islands(program, on_host)) == {8_999}
    drop_small_segments(on_host, [operator.producers for operator in program.operators], 3, [False] * 9_000)
    assert perf_counter() - begun < 10
