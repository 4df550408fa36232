"""The manual's page of the Python interface: its examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

import neuron_toolkit as nt
from tests.numerics.models import ROOT

PAGE = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Gelu", ["x"], ["y"])], "gelu", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), "model.onnx")
    names: dict[str, Any] = {}
    for piece in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(piece, names)
    printed = capsys.readouterr().out
    assert printed.startswith("(1, 16) ")
    assert "<Stage nisa-allocate-registers: " in printed
    assert nt.CompiledModel.read("model.neff").target == "trn1"


def test_every_name_is_on_the_page() -> None:
    assert [name for name in nt.__all__ if not re.search(rf"\b{name}\b", PAGE)] == ["__version__"]
