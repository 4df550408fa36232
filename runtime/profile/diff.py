"""Two profiles side by side: figures and operators that differ, and limits that a change may not exceed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neuron_dialects.errors import NeuronError
from runtime.profile.operators import OperatorRow

_LIMIT = re.compile(r"\s*(\w+)\s*([<>])\s*([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(%?)\s*")


@dataclass(frozen=True)
class Difference:
    """One figure before and after. `relative`: change per old value, None when that was 0."""

    name: str
    before: float
    after: float

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before

    @property
    def is_equal(self) -> bool:
        """Whether it is the same up to rounding."""
        return abs(self.change) <= 1e-9 * max(abs(self.before), abs(self.after))

    @property
    def relative(self) -> float | None:
        """Change as a fraction of the old value."""
        return self.change / self.before if self.before else None


def figure_differences(before: Mapping[str, float], after: Mapping[str, float]) -> list[Difference]:
    """The figures of both summaries, in the order of the first."""
    return [Difference(name, float(before[name]), float(after[name])) for name in before if name in after]


def operator_differences(before: Sequence[OperatorRow], after: Sequence[OperatorRow]) -> list[Difference]:
    """Seconds on the critical path by name, those that changed most first; 0 where a name is only in one."""
    old, new = ({row.name: row.critical_ns * 1e-9 for row in rows} for rows in (before, after))
    rows = [Difference(name, old.get(name, 0.0), new.get(name, 0.0)) for name in dict.fromkeys((*old, *new))]
    return sorted(rows, key=lambda row: -abs(row.change))


@dataclass(frozen=True)
class Limit:
    """What may not happen: `total_time>+2%` is a change of total_time by more than 2 percent upwards."""

    text: str
    name: str
    above: bool
    amount: float
    is_relative: bool

    def broken_by(self, difference: Difference) -> bool:
        """Whether a difference goes beyond it. From 0 every change in its direction is beyond a relative limit."""
        change = difference.change
        if self.is_relative:
            whole = difference.relative
            change = whole if whole is not None else change * float("inf") if change else 0.0
        return change > self.amount if self.above else change < self.amount


def parse_limit(text: str) -> Limit:
    """The limit that `FIGURE>+2%`, `FIGURE<-5%` or `FIGURE>+1e-6` says; NeuronError NX-PROF-002 for another text."""
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise NeuronError("NX-PROF-002", f"'{text}' is not FIGURE>+CHANGE", help="for example total_time>+2%")
    name, direction, number, percent = match.groups()
    amount = float(number) / 100 if percent else float(number)
    return Limit(text.strip(), name, direction == ">", amount, bool(percent))


def broken_limits(limits: Sequence[Limit], differences: Sequence[Difference]) -> list[tuple[Limit, Difference]]:
    """The limits that are broken; NeuronError NX-PROF-002 for one on a figure that the profiles do not have."""
    by_name = {difference.name: difference for difference in differences}
    broken: list[tuple[Limit, Difference]] = []
    for limit in limits:
        if limit.name not in by_name:
            raise NeuronError("NX-PROF-002", f"no figure '{limit.name}'", help=f"figures: {', '.join(by_name)}")
        if limit.broken_by(by_name[limit.name]):
            broken.append((limit, by_name[limit.name]))
    return broken
