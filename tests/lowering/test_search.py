"""Coordinate descent over settings, on plain functions."""

from __future__ import annotations

from itertools import product

import pytest

from lowering.search import Choice, Found, Knob, descend

KNOBS = (Knob("a", ("1", "2")), Knob("b", ("1", "2", "3")), Knob("c", ("1",)))


def forever() -> bool:
    return False


def ignore(_: Found) -> None:
    pass


def bowl(choice: Choice) -> float:
    """Each knob has its own best value: a = 2, b = 1, c = default."""
    a, b, c = (int(choice.get(name, 0)) for name in "abc")
    return 100.0 + (a - 2) ** 2 + 3 * (b - 1) ** 2 + c


def test_the_best_of_independent_knobs_is_found() -> None:
    found = descend(KNOBS, bowl, bowl({}), forever, ignore)
    everything = [
        {name: value for name, value in zip("abc", values, strict=True) if value}
        for values in product(*(("", *knob.values) for knob in KNOBS))
    ]
    assert found.cost == min(map(bowl, everything))
    assert found.choice == {"a": "2", "b": "1"}
    assert found.complete
    assert found.default_cost == bowl({})


def test_nothing_is_tried_twice() -> None:
    asked: list[Choice] = []

    def cost(choice: Choice) -> float:
        asked.append(choice)
        return bowl(choice)

    found = descend(KNOBS, cost, bowl({}), forever, ignore)
    assert len({frozenset(choice.items()) for choice in asked}) == len(asked) == len(found.tried)
    assert {} not in asked


# Only together are b = 1 and c = 1 better: after a change, earlier knobs are asked again.
def test_later_knobs_reopen_earlier_ones() -> None:
    def cost(choice: Choice) -> float:
        table = {(): 10.0, ("c",): 9.0, ("b", "c"): 5.0}
        return table.get(tuple(sorted(name for name in choice if choice[name] == "1")), 20.0)

    found = descend(KNOBS, cost, 10.0, forever, ignore)
    assert (found.choice, found.cost) == ({"b": "1", "c": "1"}, 5.0)


def test_what_does_not_compile_is_passed_over() -> None:
    found = descend(KNOBS, lambda choice: None if "a" in choice else bowl(choice), bowl({}), forever, ignore)
    assert found.choice == {"b": "1"}
    assert ({"a": "1"}, None) in found.tried


@pytest.mark.parametrize("trials", range(5))
def test_time_ends_the_search_with_the_best_so_far(trials: int) -> None:
    seen: list[int] = []
    found = descend(KNOBS, bowl, bowl({}), lambda: len(seen) >= trials, lambda f: seen.append(len(f.tried)))
    assert len(found.tried) == trials
    assert not found.complete
    assert found.cost == min([bowl({}), *(cost for _, cost in found.tried if cost is not None)])


def test_an_interrupt_ends_the_search_with_the_best_so_far() -> None:
    def cost(choice: Choice) -> float:
        if "b" in choice:
            raise KeyboardInterrupt
        return bowl(choice)

    found = descend(KNOBS, cost, bowl({}), forever, ignore)
    assert (found.choice, found.complete) == ({"a": "2"}, False)
