"""A model stopped at any level gives the outputs of its NEFF: through the command lines, weights beside the text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runtime.reference import errors
from tests.numerics.models import model_inputs, model_path
from tools.neuron_cc import main as neuron_cc
from tools.neuron_run import main as neuron_run

MODELS = ("mnist_mlp", "lenet5", "squeezenet1_1", "distilbert")


@pytest.mark.parametrize("target", ["trn1", "inf1"])
@pytest.mark.parametrize("name", MODELS)
def test_every_level_gives_the_outputs_of_the_neff(
    name: str, target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model_path(name)
    if not path.is_file():
        pytest.skip(f"{name}.onnx is not beside the clone")
    inputs = path.with_name(f"{name}.inputs.npz")
    shapes = [f"--input-shape={n}={','.join(map(str, v.shape))}" for n, v in model_inputs(path).items()]
    results: dict[str, dict[str, np.ndarray]] = {}
    for level in ("neff", "graph", "tile", "nisa"):
        file = tmp_path / f"{level}.{'neff' if level == 'neff' else 'mlir'}"
        command = ["compile", str(path), "-o", str(file), "--target", target, "--emit", level, *shapes]
        assert neuron_cc(command) == 0
        out = tmp_path / f"{level}.npz"
        assert neuron_run([str(file), "--inputs", str(inputs), "--outputs", str(out)]) == 0
        with np.load(out) as arrays:
            results[level] = {key: arrays[key] for key in arrays.files}
    capsys.readouterr()
    for key, value in results["neff"].items():
        # Tile and nisa round at the same places; the machine adds up products that lie in one place in one go, in
        # another order. The graph level sums in another order altogether.
        assert errors(results["nisa"][key], value)["rel_l2_error"] < 1e-4
        assert errors(results["tile"][key], value)["rel_l2_error"] < 1e-4
        assert errors(results["graph"][key], value)["rel_l2_error"] < 2e-2


def test_json_of_compile_and_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, neff, report = model_path("mnist_mlp"), tmp_path / "m.neff", tmp_path / "r.json"
    assert neuron_cc(["compile", str(path), "-o", str(neff), "--target", "trn1", "--report", str(report)]) == 0
    fields = json.loads(report.read_text())
    assert {"compile_seconds", "partition", "casts", "spills", "peak_sbuf_bytes", "instruction_bytes"} <= set(fields)
    assert fields["compile_seconds"]["total"] > 0
    assert fields["instruction_bytes"] > 0
    capsys.readouterr()
    assert neuron_run([str(neff), "--random", "3", "--check", str(path), "--mode", "both", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    (output,) = result["outputs"]
    assert output["rel_l2_error"] <= max(3e-2, 3 * output["floor_rel_l2_error"])
    assert result["total_time"] >= result["roofline_time"] > 0
    assert 0 < result["tensor_engine_active_time_percent"] <= 1
    assert 0 < result["mfu_estimated_percent"] <= 1


def test_same_input_same_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model_path("lenet5")
    files = [tmp_path / "a.neff", tmp_path / "b.neff"]
    for file in files:
        assert neuron_cc(["compile", str(path), "-o", str(file)]) == 0
    capsys.readouterr()
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--target", "trn9"], "NX-TARGET-001"),
        (["--auto-cast", "some"], "NX-ARG-001"),
        (["--input-shape", "x"], "NX-ARG-002"),
    ],
)
def test_a_wrong_option_is_one_coded_line(arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert neuron_cc(["compile", str(model_path("mnist_mlp")), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error[{code}]")
    assert "Traceback" not in captured.err
