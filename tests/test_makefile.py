"""The makefile's targets: each is defined once, and what CI calls is there."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


# A second rule for a target replaces the first, and make says so on its error output only.
def test_no_target_is_defined_twice() -> None:
    result = subprocess.run(
        ["make", "--dry-run", "help", "check", "test", "filecheck"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stderr == ""
    for command in ("ruff check", "ruff format --check", "basedpyright", "pytest", "lit"):
        assert command in result.stdout
