"""Makes every `tests/filecheck/**/*.mlir` a pytest item, so that lit's tests run in one process with all others.

`lit tests/filecheck` runs the same files with real processes; this takes a tenth of its time. A failing item shows the
command that failed, the head of what it printed, and filecheck's message.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.run_lines import ROOT, Outcome, RunLineError, Step, run_file

FOLDER = ROOT / "tests" / "filecheck"
SHOWN_LINES = 40
"""Number of lines of each output that a failure report shows."""


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the regression tests; called by pytest for every file."""
    if file_path.suffix == ".mlir" and FOLDER in file_path.parents:
        return FilecheckFile.from_parent(parent, path=file_path)
    return None


class FilecheckFile(pytest.File):
    """A file in lit's format."""

    def collect(self) -> Iterable[pytest.Item]:
        yield FilecheckItem.from_parent(self, name="RUN")


class FilecheckItem(pytest.Item):
    """The RUN lines of one file."""

    def runtest(self) -> None:
        # Like lit, start in an empty folder: a test must not depend on where it is run from.
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            outcome = run_file(self.path, Path(folder))
        if not outcome.passed:
            raise RunLinesFailed(outcome)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, RunLinesFailed | RunLineError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, str(self.path.relative_to(ROOT))


class RunLinesFailed(Exception):
    """The report of a failed test, readable as it is."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("\n".join(_described(step) for step in outcome.steps))


def _described(step: Step) -> str:
    lines = [f"$ {step.command}", f"exit code {step.exit_code}"]
    for name, text in (("stdout", step.stdout), ("stderr", step.stderr)):
        if text:
            shown = text.splitlines()
            lines.append(f"--- {name} ---")
            lines += shown[:SHOWN_LINES]
            if len(shown) > SHOWN_LINES:
                lines.append(f"... {len(shown) - SHOWN_LINES} more lines")
    return "\n".join([*lines, ""])
