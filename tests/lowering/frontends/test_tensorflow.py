"""SavedModel folders and `.keras` files to NEFFs, against TensorFlow. What needs TensorFlow is skipped without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lowering.compiler import CompileOptions, compile_model
from lowering.frontends.tensorflow import INTERPRETER, read_tensorflow
from neuron_dialects.errors import NeuronError
from runtime.reference import errors
from runtime.session import Session

PYTHON = os.environ.get(INTERPRETER, sys.executable)
_FIND = "import importlib.util as u, sys; sys.exit(any(u.find_spec(p) is None for p in ('tensorflow', 'tf2onnx')))"
_MAKE = """
import sys
import keras, numpy as np
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    keras.Input((16, 16, 3), batch_size=1, name="image"),
    layers.Conv2D(8, 3, padding="same", strides=2, activation="relu"),
    layers.BatchNormalization(), layers.DepthwiseConv2D(3), layers.ReLU(6), layers.MaxPooling2D(),
    layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax"),
])
model.save(sys.argv[1] + "/net.keras")
model.export(sys.argv[1] + "/net", verbose=False)
image = np.random.default_rng(0).standard_normal((1, 16, 16, 3)).astype("float32")
np.savez(sys.argv[1] + "/values.npz", image=image, expected=model.predict(image, verbose=0))
"""


def has_tensorflow() -> bool:
    return subprocess.run([PYTHON, "-c", _FIND], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not has_tensorflow(), reason=f"no TensorFlow and tf2onnx in {PYTHON}: pip install .[tensorflow]")
def test_both_kinds_of_files(tmp_path: Path) -> None:
    subprocess.run([PYTHON, "-c", _MAKE, str(tmp_path)], check=True, capture_output=True, cwd=tmp_path)
    with np.load(tmp_path / "values.npz") as values:
        image, expected = values["image"], values["expected"]
    for name in ("net", "net.keras"):
        result = compile_model(tmp_path / name, CompileOptions(target="trn1", auto_cast="none"))
        assert result.neff is not None and result.neff.name == "net"
        assert {row["where"] for row in result.report["partition"]} == {"core"}
        (actual,) = Session(result.neff).run({result.neff.inputs[0].name: image}).outputs.values()
        assert errors(actual, expected)["rel_l2_error"] <= 1e-4


# An interpreter that is not there, or has no TensorFlow: the user learns of both ways out.
def test_no_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "net.keras"
    model.touch()
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho tensorflow tf2onnx\n", encoding="utf-8")
    script.chmod(0o755)
    for interpreter, message in (
        (str(tmp_path / "absent"), "cannot be started: No such file"),
        (str(script), "has no tensorflow and no tf2onnx"),
    ):
        monkeypatch.setenv(INTERPRETER, interpreter)
        with pytest.raises(NeuronError, match=message) as caught:
            read_tensorflow(model)
        assert caught.value.code == "NX-FRAME-001"
        assert caught.value.help is not None and INTERPRETER in caught.value.help


# The exporter fails: its last line is the reason, whatever it printed before.
def test_a_failing_exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saved_model.pb").touch()
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\necho Traceback >&2\necho bad model >&2\nexit 1\n', "utf-8")
    script.chmod(0o755)
    monkeypatch.setenv(INTERPRETER, str(script))
    with pytest.raises(NeuronError, match=r"tf2onnx cannot convert '.*': bad model") as caught:
        read_tensorflow(tmp_path)
    assert caught.value.code == "NX-FRAME-003"


def test_paths_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(NeuronError, match=r"is no SavedModel: it has no saved_model\.pb"):
        read_tensorflow(tmp_path)
    with pytest.raises(NeuronError, match="does not exist"):
        read_tensorflow(tmp_path / "absent.keras")
