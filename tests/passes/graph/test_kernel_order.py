"""An order of kernels for engines that take one after the other: permutations, waits that others fill, and room."""

from hypothesis import given
from hypothesis import strategies as st

from passes.graph.kernel_order import Task, staggered

PLENTY = 1 << 30


@st.composite
def programs(draw: st.DrawFn) -> list[Task]:
    """Tasks that depend on earlier ones."""
    tasks: list[Task] = []
    times = st.integers(0, 50)
    for number in range(draw(st.integers(0, 14))):
        before = draw(st.frozensets(st.integers(0, number - 1), max_size=3)) if number else frozenset[int]()
        name = draw(st.sampled_from([None, "a", "b"]))
        tasks.append(Task(before, draw(times), draw(times), draw(times), draw(times), name, draw(times)))
    return tasks


@given(programs(), st.integers(0, 200))
def test_every_task_comes_once_and_after_what_it_depends_on(tasks: list[Task], capacity: int) -> None:
    order = staggered(tasks, capacity)
    assert sorted(order) == list(range(len(tasks)))
    place = {number: i for i, number in enumerate(order)}
    assert all(place[before] < place[number] for number, task in enumerate(tasks) for before in task.after)


def chains(result_bytes: int = 0) -> list[Task]:
    """Two chains, one behind the other: work of 10 ns, then work that waits 10 ns for it."""
    a = [Task(frozenset(), 10, result_bytes=result_bytes), Task(frozenset({0}), 10, lead_ns=10)]
    b = [Task(frozenset(), 10, result_bytes=result_bytes), Task(frozenset({2}), 10, lead_ns=10)]
    return [*a, *b]


def test_one_chain_fills_the_waits_of_the_other() -> None:
    assert staggered(chains(), PLENTY) == [0, 2, 1, 3]


# What the second chain would keep on chip too early has no room beside the result of the first.
def test_nothing_is_taken_early_without_room() -> None:
    assert staggered(chains(result_bytes=60), 100) == [0, 1, 2, 3]


def test_a_chain_goes_on_where_nothing_is_waited_for() -> None:
    tasks = [Task(frozenset(), 10), Task(frozenset(), 10), Task(frozenset({0}), 10), Task(frozenset({1}), 10)]
    assert staggered(tasks, PLENTY) == [0, 2, 1, 3]


# Kernels with the same constants stand beside each other: others would wait for these to be loaded again.
def test_constants_are_loaded_once_for_neighbours() -> None:
    tasks = [Task(frozenset(), 1, constants=name, setup_ns=20) for name in "abab"]
    assert staggered(tasks, PLENTY) == [0, 2, 1, 3]
