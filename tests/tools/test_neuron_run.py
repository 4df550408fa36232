"""neuron-run on hand-written text: time and races of queues at every form, and what it says when there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from examples.tutorial import EXP_TILES
from tools.in_process import run_in_process
from tools.neuron_opt import run_in_process as neuron_opt
from tools.neuron_run import main

ALLOCATED = "nisa-verify,nisa-allocate,nisa-synchronize"


@pytest.fixture
def queues(tmp_path: Path) -> Path:
    """exp_tiles.mlir in queues (form 4)."""
    path = tmp_path / "queues.mlir"
    assert neuron_opt([str(EXP_TILES), "-p", f"{ALLOCATED},nisa-split-queues", "-o", str(path)]).exit_code == 0
    return path


def run_json(*arguments: str) -> dict[str, Any]:
    done = run_in_process(main, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


# Queues with loops (form 4) and with registers (form 5) take the same time; 16 transfers at DMA speed are most of it.
def test_time_of_text(queues: Path, tmp_path: Path) -> None:
    registers = tmp_path / "registers.mlir"
    assert neuron_opt([str(queues), "-p", "nisa-allocate-registers", "-o", str(registers)]).exit_code == 0
    figures = run_json(str(queues), "--mode", "timing")
    assert figures["outputs"] == []
    assert figures["dma_transfer_count"] == 16
    assert figures["dma_transfer_total_bytes"] == 2 * 128 * 4096 * 4
    assert figures == run_json(str(registers), "--mode", "timing")
    both = run_json(str(queues), "--mode", "both")
    assert both["outputs"] == [{"name": "y", "shape": [128, 4096], "dtype": "f32"}]
    assert both["total_time"] == figures["total_time"]


# Without queues there is no time and nothing to prove.
@pytest.mark.parametrize("option", [["--mode", "timing"], ["--mode", "both"], ["--check-races"]])
def test_program_order_has_no_time(option: list[str]) -> None:
    done = run_in_process(main, [str(EXP_TILES), *option])
    assert done.exit_code == 1
    assert "error[NX-RUN-013]: function @" in done.stderr
    assert "has no queues" in done.stderr


# The compiler's program passes the check; without one wait it is refused, although its numbers are right in this run.
def test_races_of_text(queues: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "y.npz"
    assert run_in_process(main, [str(queues), "--check-races", "--outputs", str(outputs)]).exit_code == 0
    race = tmp_path / "race.mlir"
    race.write_text(queues.read_text(encoding="utf-8").replace(", store0 >= %i - 1", ""), encoding="utf-8")
    (output,) = run_json(str(race), "--check", str(outputs))["outputs"]
    assert output["max_abs_error"] == 0
    done = run_in_process(main, [str(race), "--check-races"])
    assert done.exit_code == 1
    assert "error[NX-RUN-007]: dma_copy (queue pool" in done.stderr
    assert "which writes dst, are not ordered" in done.stderr
