"""docs/serving.md: its Python examples run, its tables name every variable and every status."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from runtime.serving import Status
from runtime.serving.settings import VARIABLES
from tests.tutorial_runner import ROOT, prepare, run_command

PAGE = ROOT / "docs" / "serving.md"
TEXT = PAGE.read_text(encoding="utf-8")


def rows() -> dict[str, list[str]]:
    """First cell of each row of a table -> its other cells."""
    found = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in found}


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    prepare(tmp_path)
    shutil.copy(ROOT / "examples" / "digits" / "digits_cnn.onnx", tmp_path)
    run_command("neuron-cc compile two_layers.onnx -o two_layers.neff --target inf1", tmp_path)
    run_command("neuron-cc compile digits_cnn.onnx --input-shape image=4,1,8,8 -o digits_cnn.neff", tmp_path)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert len(examples) == 6
    names: dict[str, Any] = {}
    for example in examples:
        exec(compile(example, PAGE.name, "exec"), names)


def test_every_variable_is_described():
    assert [name for name in VARIABLES if name not in rows()] == []


def test_every_status_is_described():
    assert {name: cells[0] for name, cells in rows().items() if name.startswith("NRT_")} == {
        status.name: str(status.value) for status in Status
    }
