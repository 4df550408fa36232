"""Measures cases, each step in a child process, and collects one record per case.

A record is plain data, ready for JSON: the case, `status` ("ok", "wrong", "missing" or "failed") with a `message`, and
the figures of the steps. `derived` adds what follows from them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.cases import PUBLISHED, Case
from benchmarks.models import ROOT, Missing, prepare
from neuron_dialects.target import load_target

Record = dict[str, Any]
ENGINES = ("tensor", "vector", "scalar", "gpsimd")
CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True)
class Settings:
    """How cases are measured.

    `root`: the tree whose compiler and machine are measured. `check`: also run the program on data and compare it with
    onnxruntime. `without`: passes that are left out. `timeout_seconds`: of one step.
    """

    cache: Path
    root: Path = ROOT
    check: bool = True
    without: tuple[str, ...] = ()
    timeout_seconds: float = 1800.0
    environment: dict[str, str] = field(default_factory=dict)


def measure(case: Case, settings: Settings) -> Record:
    """One case: compiled, timed, and with `check` run on data and compared."""
    record: Record = {
        "case": case.name, "model": case.model.name, "batch": case.batch, "target": case.target, "status": "ok",
        "source": case.model.source, "auto_cast": case.model.auto_cast, "message": "",
    }  # fmt: skip
    try:
        model, inputs = prepare(case.model, case.batch, settings.cache)
        with tempfile.TemporaryDirectory() as folder:
            step = {
                "model": str(model), "inputs": str(inputs), "target": case.target, "without": settings.without,
                "auto_cast": case.model.auto_cast,
                "neff": str(Path(folder) / "model.neff"), "check": settings.check,
            }  # fmt: skip
            for name in ("compile", "run", *(["onnxruntime"] if settings.check else [])):
                record |= run_child(name, step, settings)
    except Missing as missing:
        return record | {"status": "missing", "message": str(missing)}
    except (subprocess.SubprocessError, ValueError) as error:
        return record | {"status": "failed", "message": _reason(error)}
    if not record.get("correct", True):
        record |= {"status": "wrong", "message": f"rel_l2_error {record['rel_l2_error']:.3g}"}
    return record | derived(case, record)


def run_child(name: str, step: dict[str, Any], settings: Settings) -> Record:
    """What one step of `child.py` found. One thread, so that seconds do not depend on the number of processors."""
    threads = {key: "1" for key in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    environment = {**os.environ, **threads, **settings.environment, "PYTHONPATH": str(settings.root)}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(step, file)
        file.flush()
        done = subprocess.run(
            [sys.executable, str(CHILD), name, file.name],
            env=environment, cwd=settings.root, capture_output=True, text=True, timeout=settings.timeout_seconds,
            check=True,
        )  # fmt: skip
    found: Record = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _reason(error: Exception) -> str:
    """The last line that a failed step wrote."""
    text = getattr(error, "stderr", None) or str(error)
    lines = [line for line in str(text).strip().splitlines() if line]
    return lines[-1] if lines else type(error).__name__


def derived(case: Case, record: Record) -> Record:
    """Figures that follow from those that were measured: efficiency, traffic, throughput of a chip, ratios."""
    figures, target = record["figures"], load_target(case.target)
    total, moved = figures["total_time"], figures["hbm_read_bytes"] + figures["hbm_write_bytes"]
    made: Record = {
        "total_time": total,
        "roofline_time": figures["roofline_time"],
        "efficiency": figures["roofline_time"] / total if total else 0.0,
        "mfu": figures["mfu_estimated_percent"],
        "activity": {engine: figures[f"{engine}_engine_active_time_percent"] for engine in ENGINES}
        | {"dma": figures["dma_active_time_percent"]},
        "dram_bytes": moved,
        "dram_ratio": moved / record["compulsory_bytes"] if record["compulsory_bytes"] else 0.0,
    }
    if total:
        cores = int(target.cores_per_chip)
        made["samples_per_second_per_chip"] = cores * case.batch / total
        bound_seconds = record["compulsory_bytes"] / (float(target.dram_bytes_per_ns) * 1e9)
        made["dram_bound_samples_per_second"] = cores * case.batch / bound_seconds if bound_seconds else 0.0
    if record.get("onnxruntime_seconds"):
        made["interpreter_ratio"] = record["interpreter_seconds"] / record["onnxruntime_seconds"]
    published = PUBLISHED.get((case.model.name, case.target))
    if published is not None and total:
        made["published_samples_per_second"] = published.samples_per_second
        made["published_how"] = f"batch {published.batch}, {published.how}"
        made["published_ratio"] = made["samples_per_second_per_chip"] / published.samples_per_second
    return made
