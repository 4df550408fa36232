"""Search over settings: coordinate descent within a budget, as a pure algorithm.

Each knob has a default and other values. Starting from all defaults, one knob at a time takes each of its other values
while the rest stay; the best is kept, and the round begins again until a whole round finds nothing better. What was
tried is not tried again. The order is fixed, so that a search that ran to its end gives the same answer every time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Choice = Mapping[str, str]
"""Knob -> value, for those that differ from their default."""

Cost = Callable[[Choice], float | None]
"""What a choice costs, less is better; None for one that does not work."""


@dataclass(frozen=True)
class Knob:
    """A setting: `values` other than the default, the most promising first."""

    name: str
    values: tuple[str, ...]


@dataclass
class Found:
    """Outcome of a search: the best choice and its cost, the cost of the defaults, all that was tried in order.

    `complete`: the search ended because nothing was left to try, not for lack of time.
    """

    choice: Choice
    cost: float
    default_cost: float
    tried: list[tuple[Choice, float | None]] = field(default_factory=list)
    complete: bool = False


Tell = Callable[[Found], None]


def descend(
    knobs: Sequence[Knob], cost: Cost, default_cost: float, time_is_up: Callable[[], bool], tell: Tell
) -> Found:
    """The best choice of values for `knobs` by coordinate descent.

    `default_cost`: cost of the empty choice, which is not asked for. `tell` is called after each trial. Stops when
    `time_is_up` says so, between trials, or on KeyboardInterrupt within one, and then returns the best so far.
    """
    found = Found({}, default_cost, default_cost)
    known: set[frozenset[tuple[str, str]]] = {frozenset()}
    try:
        while True:
            before = found.cost
            for knob in knobs:
                for value in ("", *knob.values):
                    choice = {name: v for name, v in {**found.choice, knob.name: value}.items() if v}
                    if frozenset(choice.items()) in known:
                        continue
                    if time_is_up():
                        return found
                    known.add(frozenset(choice.items()))
                    price = cost(choice)
                    found.tried.append((choice, price))
                    if price is not None and price < found.cost:
                        found.choice, found.cost = choice, price
                    tell(found)
            if found.cost >= before:
                found.complete = True
                return found
    except KeyboardInterrupt:
        return found
