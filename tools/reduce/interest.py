"""What a smaller program must still do: a script says so, or one of the built-in tests.

A test is called with the path of a candidate. The built-in ones run the toolkit in this process: `neuron-opt` on
textual IR, `neuron-cc compile` on ONNX models, with the options that the user gave.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from neuron_dialects.errors import ERROR_CODES, NeuronError
from tools.errors import EXIT_INTERNAL_ERROR
from tools.in_process import Completed, run_in_process

Interesting = Callable[[Path], bool]

KINDS = "crash, mismatch, error=CODE or slow=SECONDS"
DEFAULT_TOLERANCE = 3e-2
"""rel_l2_error of an output against onnxruntime that is a mismatch, where the floor of the cast type is lower."""


def script(command: Sequence[str], timeout_seconds: float) -> Interesting:
    """Runs a command with the candidate as its last argument: exit code 0 means that it still has the property."""

    def interesting(path: Path) -> bool:
        try:
            done = subprocess.run(
                [*command, str(path)], capture_output=True, check=False, timeout=timeout_seconds, cwd=path.parent
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    return interesting


def built_in(kind: str, options: Sequence[str], tolerance: float = DEFAULT_TOLERANCE) -> Interesting:
    """The built-in test `kind`; NeuronError NX-ARG-001 when there is no such test."""
    name, _, value = kind.partition("=")
    match name:
        case "crash":
            return lambda path: run_tool(path, options).exit_code == EXIT_INTERNAL_ERROR
        case "error" if value in ERROR_CODES:
            marker = f"error[{value}]: "
            return lambda path: marker in run_tool(path, options).stderr
        case "slow" if re.fullmatch(r"\d+(\.\d+)?", value):
            return lambda path: _seconds(path, options) > float(value)
        case "mismatch" if not value:
            return lambda path: _mismatch(path, options, tolerance)
        case _:
            raise NeuronError("NX-ARG-001", f"--interesting {kind}: choose {KINDS}")


def run_tool(path: Path, options: Sequence[str]) -> Completed:
    """Run the tool of the candidate's kind; what it makes is thrown away."""
    if path.suffix == ".mlir":
        from tools.neuron_opt import main as neuron_opt

        return run_in_process(neuron_opt, [str(path), *options])
    from tools.neuron_cc import main as neuron_cc

    # Not from the cache: what is looked for happens while compiling.
    output = str(path.with_suffix(".out"))
    return run_in_process(neuron_cc, ["compile", str(path), "-o", output, "--no-cache", *options])


def _seconds(path: Path, options: Sequence[str]) -> float:
    started = perf_counter()
    done = run_tool(path, options)
    # What is refused at once is not slow; what fails late was not either.
    return perf_counter() - started if done.exit_code == 0 else 0.0


def _mismatch(path: Path, options: Sequence[str], tolerance: float) -> bool:
    """Whether a pass changes results (IR), or outputs are not onnxruntime's (ONNX)."""
    if path.suffix == ".mlir":
        return "error[NX-PASS-003]: " in run_tool(path, [*options, "--verify-numerics"]).stderr
    from tools.neuron_run import FLOORS
    from tools.neuron_run import main as neuron_run

    if run_tool(path, options).exit_code != 0:
        return False
    done = run_in_process(neuron_run, [str(path.with_suffix(".out")), "--check", str(path), "--json"])
    if done.exit_code != 0:
        return False
    rows = json.loads(done.stdout)["outputs"]
    return any(not row["rel_l2_error"] <= max(tolerance, FLOORS * row.get("floor_rel_l2_error", 0.0)) for row in rows)
