"""Delta debugging: the smallest part of a program that still has a property, as a search on plain numbers.

A program is a tuple of parts, each of which is kept, bypassed (its result becomes one of its operands) or cut (its
result becomes an input, or goes with its users). `minimize` is given the number of parts and a test, and leaves a
choice with the property from which no single part can be taken away. Parts are removed in runs, halved from all of them
down to one, so that a fault in a few of n parts takes about log(n) tests for each of them, not n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum

MAX_ROUNDS = 8
"""How often the search begins again with what it has left."""


class Fate(Enum):
    """What becomes of a part that is still there."""

    KEPT = "kept"
    BYPASSED = "bypassed"


Choice = Mapping[int, Fate]
"""Part -> its fate; parts that are not in it are cut."""

Test = Callable[[Choice], bool]
"""Whether the program of a choice still has the property."""


@dataclass
class Search:
    """Tests choices, each once, up to a limit.

    Args:
        test: the property.
        max_tests: after so many tests nothing has the property any more, which ends the search.
        improved: called with each smaller choice that has it.
    """

    test: Test
    max_tests: int
    improved: Callable[[Choice], None] = lambda choice: None
    tests: int = 0
    _known: dict[frozenset[tuple[int, Fate]], bool] = field(default_factory=dict[frozenset[tuple[int, Fate]], bool])

    def holds(self, choice: Choice) -> bool:
        """Whether a choice has the property; a choice of no parts never has."""
        key = frozenset(choice.items())
        if key not in self._known:
            if not any(fate is Fate.KEPT for fate in choice.values()) or self.tests >= self.max_tests:
                return False
            self.tests += 1
            self._known[key] = self.test(choice)
            if self._known[key]:
                self.improved(choice)
        return self._known[key]

    def minimize(self, parts: int, bypassable: Callable[[int], bool] = lambda part: True) -> Choice:
        """A choice of parts 0 to `parts` - 1 that has the property, given that all of them have.

        `bypassable` tells of a part whether it has an operand to pass on.
        """
        choice: Choice = dict.fromkeys(range(parts), Fate.KEPT)
        for _ in range(MAX_ROUNDS):
            before = choice
            choice = self._remove_runs(choice, bypassable)
            if choice == before:
                break
        return choice

    def _remove_runs(self, choice: Choice, bypassable: Callable[[int], bool]) -> Choice:
        """Cut or bypass runs of parts, of half of them, a quarter and so on, while the property holds."""
        left = sorted(choice)
        size = max(1, len(left) // 2)
        while left:
            position = len(left)
            while position > 0:
                start = max(0, position - size)
                run = left[start:position]
                cut = dict(choice)
                for part in run:
                    del cut[part]
                passed_on = [part for part in run if choice[part] is Fate.KEPT and bypassable(part)]
                if self.holds(cut):
                    choice = cut
                    del left[start:position]
                # What a chain needs only as a link: found at the same size of runs, or whole chains would stay long.
                elif passed_on and self.holds(bypassed := {**choice, **dict.fromkeys(passed_on, Fate.BYPASSED)}):
                    choice = bypassed
                position -= size
            if size == 1:
                break
            size = max(1, min(size // 2, len(left)))
        return choice
