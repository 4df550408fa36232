"""What watches the passes of `neuron-opt` run: the clock and the counters, with the reports that MLIR's tools print."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

_RULE = f"===-{'-' * 73}-==="


class Clock:
    """Seconds of each step: the first time that a row is named decides its place in the report."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def timed(self, row: str) -> Generator[None]:
        """Add the time spent inside to `row`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[row] = self.seconds.get(row, 0.0) + time.perf_counter() - started

    def report(self) -> str:
        """The rows, what is left, and the total."""
        total = time.perf_counter() - self._started
        rows = {**self.seconds, "Rest": max(0.0, total - sum(self.seconds.values())), "Total": total}
        lines = [*_title("Execution time report"), f"  Total Execution Time: {total:.4f} seconds", ""]
        lines.append("  ----Wall Time----  ----Name----")
        lines += [f"  {seconds:8.4f} ({seconds / total:6.1%})  {row}" for row, seconds in rows.items()]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class PassChange:
    """What one run of a pass did: operators of the program before and after, by name."""

    name: str
    before: Mapping[str, int]
    after: Mapping[str, int]

    def statistics(self) -> dict[str, int]:
        """Statistic -> value: all operations, then those whose number changed."""
        kinds = sorted({*self.before, *self.after})
        changed = {kind: self.after.get(kind, 0) - self.before.get(kind, 0) for kind in kinds}
        return {
            "operations-before": sum(self.before.values()),
            "operations-after": sum(self.after.values()),
            **{kind: count for kind, count in changed.items() if count},
        }


class Statistics:
    """Counts the operations of the program around each pass."""

    def __init__(self) -> None:
        self.changes: list[PassChange] = []
        self._before: Counter[str] = Counter()

    def before(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Called before a pass runs."""
        self._before = _count(module)

    def after(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """Called after a pass has run."""
        self.changes.append(PassChange(module_pass.name, self._before, _count(module)))

    def failed(self, module_pass: ModulePass, module: ModuleOp) -> None:
        """A pass that failed is not counted."""


def statistics_report(changes: Sequence[PassChange], display: str) -> str:
    """The statistics in the order of the pipeline, or (`list`) summed by pass, in alphabetical order."""
    if display == "pipeline":
        rows = [(change.name, change.statistics()) for change in changes]
    else:
        summed: dict[str, Counter[str]] = {}
        for change in changes:
            statistics = summed.setdefault(change.name, Counter())
            for statistic, value in change.statistics().items():
                statistics[statistic] += value
        rows = [(name, {k: v for k, v in summed[name].items() if v or "-" in k}) for name in sorted(summed)]
    lines = _title("Pass statistics report")
    for name, statistics in rows:
        lines.append(name)
        for statistic, value in statistics.items():
            sign = "" if statistic.startswith("operations-") else "+"
            lines.append(f"  (S) {value:{sign}6d} {statistic}")
    return "\n".join(lines) + "\n"


def print_report(text: str) -> None:
    """Write a report to standard error."""
    sys.stderr.write(text)


def _count(module: ModuleOp) -> Counter[str]:
    return Counter(op.name for op in module.walk() if op is not module)


def _title(text: str) -> list[str]:
    return [_RULE, f"{f'... {text} ...':^80}".rstrip(), _RULE]
