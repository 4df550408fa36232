"""Order of statements, on plain tasks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from passes.nisa.list_schedule import RECENT, Task, Touch, dependences, list_schedule

ENOUGH = 1 << 30


def load(buffer: int, source: int = 0, size: int = 4) -> Task:
    """A transfer into a buffer, triggered by sp."""
    touches = (Touch(source, 0, 0, False), Touch(buffer, 0, 9, True))
    return Task({"sp": 5.0}, 100.0, 2000.0, touches, {buffer: size})


def compute(engine: str, read: int, write: int, size: int = 4) -> Task:
    touches = (Touch(read, 0, 9, False), Touch(write, 0, 9, True))
    return Task({engine: 100.0}, 0.0, 100.0, touches, {read: size, write: size})


def chains(count: int) -> list[Task]:
    """Load, compute, load what the computed index says, store: one chain after the other."""
    tasks: list[Task] = []
    for i in range(count):
        indices, column, rows = 10 + 3 * i, 11 + 3 * i, 12 + 3 * i
        gather = Task({"sp": 5.0}, 100.0, 2000.0, (Touch(column, 0, 9, False), Touch(rows, 0, 9, True)), {rows: 4})
        store = Task({"pool": 5.0}, 100.0, 2000.0, (Touch(rows, 0, 9, False), Touch(1, 10 * i, 10 * i + 9, True)))
        tasks += [load(indices), compute("dve", indices, column), gather, store]
    return tasks


def conflicts(a: Task, b: Task) -> bool:
    return any(
        x.buffer == y.buffer and (x.writes or y.writes) and x.low <= y.high and y.low <= x.high
        for x in a.touches
        for y in b.touches
    )


def keeps_dependences(tasks: Sequence[Task], order: Sequence[int]) -> bool:
    at = {number: position for position, number in enumerate(order)}
    return all(at[i] < at[j] for i, j in combinations(range(len(tasks)), 2) if conflicts(tasks[i], tasks[j]))


def test_independent_chains_overlap() -> None:
    tasks = chains(20)
    schedule = list_schedule(tasks, ENOUGH)
    assert keeps_dependences(tasks, schedule.order)
    # One after the other each chain takes two loads; side by side all take little more than one chain.
    assert schedule.before_ns > 20 * 4000
    assert schedule.after_ns < 3 * 6500


def test_a_single_chain_stays() -> None:
    tasks = chains(1)
    assert list_schedule(tasks, ENOUGH).order == [0, 1, 2, 3]


def test_memory_limits_what_comes_early() -> None:
    tasks = chains(20)
    for early in (0, 4, 12):
        order = list_schedule(tasks, early).order
        assert keeps_dependences(tasks, order)
        assert _held(tasks, order) <= early
    assert list_schedule(tasks, 0).order == sorted(range(len(tasks)))
    assert list_schedule(tasks, 4).after_ns > list_schedule(tasks, ENOUGH).after_ns


def _held(tasks: Sequence[Task], order: Sequence[int]) -> int:
    """Most bytes that tasks hold before their old turn."""
    head, most, done, begun = 0, 0, set[int](), set[int]()
    early: dict[int, int] = {}
    for number in order:
        if number != head:
            new = {b: size for b, size in tasks[number].row_bytes.items() if b not in begun}
            early[number] = sum(new.values())
        begun |= tasks[number].row_bytes.keys()
        done.add(number)
        most = max(most, sum(early.values()))
        while head in done:
            early.pop(head, None)
            head += 1
    return most


def test_fixed_tasks_are_not_brought_forward() -> None:
    tasks = [Task(t.streams, t.transfer_ns, t.latency_ns, t.touches, t.row_bytes, fixed=True) for t in chains(5)]
    assert list_schedule(tasks, ENOUGH).order == list(range(len(tasks)))


@st.composite
def programs(draw: st.DrawFn) -> list[Task]:
    tasks: list[Task] = []
    for _ in range(draw(st.integers(1, 40))):
        touches: list[Touch] = []
        for _ in range(draw(st.integers(1, 3))):
            low = draw(st.integers(0, 12))
            touches.append(Touch(draw(st.integers(0, 5)), low, low + draw(st.integers(0, 6)), draw(st.booleans())))
        streams = {draw(st.sampled_from(["pe", "act", "dve", "pool", "sp"])): float(draw(st.integers(1, 3000)))}
        sizes = {touch.buffer: 8 * touch.buffer for touch in touches}
        latency = float(draw(st.integers(0, 3000)))
        tasks.append(Task(streams, float(draw(st.integers(0, 500))), latency, touches, sizes, draw(st.booleans())))
    return tasks


@settings(deadline=None)
@given(programs(), st.integers(0, 60), st.integers(1, 50))
def test_any_program(tasks: list[Task], early: int, window: int) -> None:
    schedule = list_schedule(tasks, early, window)
    assert sorted(schedule.order) == list(range(len(tasks)))
    assert keeps_dependences(tasks, schedule.order)
    assert _held(tasks, schedule.order) <= early
    assert schedule.after_ns <= schedule.before_ns
    assert list_schedule(tasks, early, window) == schedule


# Buffers that are touched very often: old touches are joined, which may only add dependences.
def test_dependences_of_busy_buffers() -> None:
    touches = [Touch(0, 10 * (i % 97), 10 * (i % 97) + 9, i % 3 == 0) for i in range(6 * RECENT)]
    tasks = [Task({"dve": 1.0}, 0.0, 1.0, [touch]) for touch in touches]
    found = dependences(tasks)
    reach: list[set[int]] = []
    for number, (limit, others) in enumerate(found):
        direct = set(range(limit)) | set(others)
        reach.append(direct.union(*(reach[other] for other in direct)))
        for earlier in range(number):
            if conflicts(tasks[earlier], tasks[number]):
                assert earlier in reach[number]
    assert sum(len(others) for _, others in found) < 3 * RECENT * len(tasks)
