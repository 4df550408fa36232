"""TensorFlow to ONNX by tf2onnx: SavedModel folders, and `.keras` files by way of one.

TensorFlow runs in a process of its own: it cannot take the compiler down, its messages stay out of ours, and it may
live in another interpreter, named by the environment variable NEURON_TENSORFLOW_PYTHON, where it does not fit beside
the compiler's packages. Needs the extra `tensorflow` there. A SavedModel is a program of TensorFlow's: converting one
runs none of its functions, but TensorFlow's reader of it is only as safe against hostile files as TensorFlow says.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuron_dialects.errors import NeuronError

if TYPE_CHECKING:
    from onnx import ModelProto

INTERPRETER = "NEURON_TENSORFLOW_PYTHON"
"""Environment variable: the Python interpreter that has TensorFlow; our own without it."""
OPSET = 18
"""Operator set that tf2onnx is asked for, its newest."""
MAX_SECONDS = 3600
MAX_ONNX_BYTES = 2**31 - 1
_FIND = "import importlib.util as u, sys; print(*[p for p in sys.argv[1:] if u.find_spec(p) is None])"
"""Prints which of the packages are not there, importing none of them."""
_EXPORT = """import os, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras
model = keras.models.load_model(sys.argv[1], compile=False, safe_mode=True)
model.export(sys.argv[2], format="tf_saved_model", verbose=False)
"""
"""Makes a SavedModel of a `.keras` file, in Keras's safe mode, which refuses layers that carry code."""


def read_tensorflow(path: Path) -> ModelProto:
    """The ONNX model of a SavedModel folder or a `.keras` file.

    Inputs and outputs have the names of the serving signature's; images stay in TensorFlow's order (NHWC).

    NeuronError: NX-FRAME-001 when the interpreter has no TensorFlow or tf2onnx, 002 when there is no model at `path`,
    003 when TensorFlow cannot read it or tf2onnx cannot convert it.
    """
    if path.is_dir() and not (path / "saved_model.pb").is_file():
        raise NeuronError("NX-FRAME-002", f"the folder '{path}' is no SavedModel: it has no saved_model.pb")
    if not path.exists():
        raise NeuronError("NX-FRAME-002", f"'{path}' does not exist")
    path = path.resolve()
    interpreter = os.environ.get(INTERPRETER) or sys.executable
    _check_packages(interpreter, ("tensorflow", "tf2onnx") if path.is_dir() else ("tensorflow", "keras", "tf2onnx"))
    with tempfile.TemporaryDirectory() as folder:
        saved = path
        if not path.is_dir():
            saved = Path(folder) / "saved_model"
            _run(interpreter, ["-c", _EXPORT, str(path), str(saved)], f"Keras cannot read '{path.name}'")
        output = Path(folder) / "model.onnx"
        arguments = ["--saved-model", str(saved), "--output", str(output), "--opset", str(OPSET)]
        _run(interpreter, ["-m", "tf2onnx.convert", *arguments], f"tf2onnx cannot convert '{path.name}'")
        return _loaded(output, path)


def _check_packages(interpreter: str, packages: Sequence[str]) -> None:
    """NeuronError NX-FRAME-001 unless the interpreter starts and finds every package (importing none of them)."""
    completed = _completed(interpreter, ["-c", _FIND, *packages])
    missing = completed.stdout.split()
    if completed.returncode or missing:
        what = f"has no {' and no '.join(missing)}" if missing else "does not work"
        raise NeuronError(
            "NX-FRAME-001",
            f"the interpreter {interpreter} {what}",
            help=f"pip install 'neuron-toolkit[tensorflow]', or set {INTERPRETER} to an interpreter that has it",
        )


def _run(interpreter: str, arguments: Sequence[str], failure: str) -> None:
    completed = _completed(interpreter, arguments)
    if completed.returncode:
        lines = [line.strip() for line in completed.stderr.splitlines() if line.strip()]
        raise NeuronError("NX-FRAME-003", f"{failure}: {lines[-1][:400] if lines else 'it gives no reason'}")


def _completed(interpreter: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """The finished process; it is started in a folder of its own, so that it imports nothing from the user's."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    program = os.path.abspath(interpreter) if os.sep in interpreter else interpreter
    try:
        with tempfile.TemporaryDirectory() as folder:
            return subprocess.run(
                [program, *arguments],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=MAX_SECONDS,
                check=False,
                cwd=folder,
                env=environment,
            )
    except OSError as error:
        raise NeuronError(
            "NX-FRAME-001",
            f"the interpreter {interpreter} cannot be started: {error.strerror}",
            help=f"set {INTERPRETER} to an interpreter that has TensorFlow",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NeuronError("NX-FRAME-003", f"TensorFlow did not finish within {MAX_SECONDS} s") from error


def _loaded(output: Path, path: Path) -> ModelProto:
    from onnx import ModelProto

    size = output.stat().st_size if output.is_file() else 0
    if not 0 < size <= MAX_ONNX_BYTES:
        raise NeuronError("NX-FRAME-003", f"tf2onnx makes {size} bytes of '{path.name}', limit {MAX_ONNX_BYTES}")
    return ModelProto.FromString(output.read_bytes())
