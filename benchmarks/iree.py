"""Processor seconds that IREE takes to compile the same models for the CPU, in the same run.

IREE is no dependency: `--iree BIN` names the folder of a virtual environment that has `iree-base-compiler[onnx]`.
"""

from __future__ import annotations

import resource
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.models import prepare
from benchmarks.runner import Settings


def add_iree(cases: Sequence[Case], records: Sequence[dict[str, Any]], settings: Settings, programs: Path) -> None:
    """Add `iree_cpu_seconds` to every record that has figures; `iree_message` where IREE fails."""
    for case, record in zip(cases, records, strict=True):
        if "total_time" not in record:
            continue
        model, _ = prepare(case.model, case.batch, settings.cache)
        try:
            record["iree_cpu_seconds"] = compile_seconds(model, programs, settings.timeout_seconds)
        except (OSError, subprocess.SubprocessError) as error:
            text = str(getattr(error, "stderr", "") or error)
            record["iree_message"] = text.strip().splitlines()[0] if text.strip() else type(error).__name__


def compile_seconds(model: Path, programs: Path, timeout_seconds: float) -> float:
    """User and system seconds of import and compilation for the CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        mlir, module = Path(folder) / "model.mlir", Path(folder) / "model.vmfb"
        for command in (
            [str(programs / "iree-import-onnx"), str(model), "-o", str(mlir), "--opset-version", "17"],
            [
                str(programs / "iree-compile"), str(mlir), "-o", str(module), "--iree-hal-target-device=local",
                "--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host",
            ],
        ):  # fmt: skip
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout_seconds)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
