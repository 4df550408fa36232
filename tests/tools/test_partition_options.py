"""What a user says about host and core: command lines, errors, and numbers with host operators amid a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.errors import NeuronError
from runtime.reference import run_onnxruntime
from runtime.session import Session
from tests.numerics.models import SHIPPED, model_inputs
from tools.in_process import run_in_process
from tools.neuron_cc import main

LENET = SHIPPED / "lenet5.onnx"
EXACT = CompileOptions(target="trn1", auto_cast="none")


def outputs_agree(model: Path, options: CompileOptions) -> list[str]:
    """The executors of the segments, when the compiled model gives what onnxruntime does."""
    result = compile_model(model, options)
    assert result.neff is not None
    inputs = model_inputs(model)
    expected = run_onnxruntime(model, inputs)
    actual = Session(result.neff).run(inputs).outputs
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-4, atol=1e-5)
    return [node.executor for node in result.neff.graph]


# Pools on the host split the convolutions; a node's name does the same as its operator's.
@pytest.mark.parametrize(
    ("changes", "executors"),
    [
        ({"force_host": ("AveragePool",)}, ["core", "host", "core", "host", "core"]),
        ({"force_host": ("/2/AveragePool",)}, ["core", "host", "core"]),
        ({"force_host": ("Conv",)}, ["host", "core", "host", "core"]),
        ({"force_host": ("AveragePool",), "minimum_segment_size": 3}, None),
    ],
)
def test_forced_operators_amid_a_model(changes: dict[str, Any], executors: list[str] | None) -> None:
    found = outputs_agree(LENET, replace(EXACT, **changes))
    assert executors is None or found == executors


def test_names_that_the_model_does_not_have() -> None:
    for option in ("force_host", "force_core"):
        with pytest.raises(NeuronError) as caught:
            compile_model(LENET, replace(EXACT, **{option: ("Pool",)}))
        assert caught.value.code == "NX-PART-003"
        assert f"--{option.replace('_', '-')} Pool" in caught.value.message
        assert caught.value.help is not None and "AveragePool" in caught.value.help


def test_must_compile() -> None:
    assert outputs_agree(LENET, CompileOptions(target="trn1", auto_cast="none", must_compile=True)) == ["core"]
    with pytest.raises(NeuronError, match=r"NX-PART-002.*\n.*'/2/AveragePool': forced to the host"):
        compile_model(LENET, CompileOptions(must_compile=True, force_host=("AveragePool",)))
    with pytest.raises(NeuronError, match=r"NX-ARG-001.*--minimum-segment-size 0: at least 1"):
        compile_model(LENET, CompileOptions(minimum_segment_size=0))


# Both spellings of an option, lists and repetition.
@pytest.mark.parametrize(
    "arguments",
    [
        ["--force-host", "Tanh,/2/AveragePool"],
        ["--no-fuse-ops", "Tanh", "--no-fuse-ops", "/2/AveragePool"],
    ],
)
def test_command_line(tmp_path: Path, arguments: list[str]) -> None:
    file = tmp_path / "report.json"
    command = ["compile", str(LENET), "--target", "trn1", "--emit", "graph", "-o", str(tmp_path / "m.mlir")]
    assert run_in_process(main, [*command, "--report", str(file), *arguments]).exit_code == 0
    rows = json.loads(file.read_text(encoding="utf-8"))["partition"]
    forced = [row["node"] for row in rows if row["why"] == "forced to the host"]
    assert "/2/AveragePool" in forced and len(forced) > 2
    refused = run_in_process(main, [*command, "--must-compile", *arguments])
    assert refused.exit_code == 1
    assert refused.stderr.count("forced to the host") == len(forced)
