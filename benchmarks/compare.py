"""Regressions between two runs: the same cases of an older run and of this one, figure by figure.

Simulated figures do not vary from run to run, so their tolerance is small; seconds and memory of the compiler do.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import ROOT

Record = dict[str, Any]
TOLERANCES: Mapping[str, float] = {
    "total_time": 0.01,
    "dram_bytes": 0.02,
    "spill_bytes": 0.0,
    "instruction_bytes": 0.05,
    "compile_cpu_seconds": 0.30,
    "compile_peak_bytes": 0.15,
    "timing_seconds": 0.50,
    "interpreter_seconds": 0.50,
}
"""Figure -> how much larger it may be than before, as a fraction."""
NOISE_SECONDS = 0.2
"""Differences of measured seconds below this are noise whatever the ratio."""


@dataclass(frozen=True)
class Change:
    """One figure of one case, before and now."""

    case: str
    figure: str
    before: float
    now: float

    @property
    def ratio(self) -> float:
        """Now over before; infinite when it was nothing."""
        return self.now / self.before if self.before else float("inf")

    @property
    def is_regression(self) -> bool:
        """Whether it is worse by more than the tolerance."""
        if self.figure.endswith("_seconds") and self.now - self.before < NOISE_SECONDS:
            return False
        return self.now > self.before * (1 + TOLERANCES[self.figure])


def changes(before: Sequence[Record], now: Sequence[Record]) -> list[Change]:
    """Every figure of `TOLERANCES` that both runs have, case by case in the order of this run.

    A case that was right before and is not now counts as an infinite `total_time`.
    """
    older = {record["case"]: record for record in before}
    found: list[Change] = []
    for record in now:
        old = older.get(record["case"])
        if old is None or old["status"] != "ok":
            continue
        if record["status"] in ("failed", "wrong"):
            found.append(Change(record["case"], "total_time", old["total_time"], float("inf")))
            continue
        found += [
            Change(record["case"], figure, float(old[figure]), float(record[figure]))
            for figure in TOLERANCES
            if figure in old and figure in record
        ]
    return found


def load_records(path: Path) -> list[Record]:
    """The records of a stored run."""
    return list(json.loads(path.read_text(encoding="utf-8"))["records"])


@contextmanager
def worktree(revision: str) -> Generator[Path]:
    """A checkout of another revision beside the clone, removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--detach", str(path), revision], cwd=ROOT, check=True,
                       capture_output=True)  # fmt: skip
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(path)], cwd=ROOT, check=True)
