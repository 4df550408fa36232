"""How compile time grows with the number of equal layers: 12 against 48 decoder layers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.cases import Model
from benchmarks.models import prepare
from benchmarks.runner import Settings, run_child

LAYERS = (12, 48)
WEIGHT_PHASES = ("import", "emit")
"""Phases whose time follows the bytes of the weights: reading them, packing and writing them."""


ROLL = "graph-roll-layers"


def layer_scaling(settings: Settings, layers: tuple[int, int] = LAYERS) -> dict[str, Any]:
    """Compile seconds of stacks of `layers` equal layers, all of them and without the phases that move weights.

    `simulated_us`: of the larger stack, as it is and with each layer compiled by itself; `rel_l2_error`: of its
    outputs, where they are checked.
    """
    found: dict[str, Any] = {"layers": list(layers), "total_seconds": [], "without_weights_seconds": []}
    with tempfile.TemporaryDirectory() as folder:
        for count in layers:
            step = _step(count, folder, settings)
            phases = run_child("compile", step, settings)["compile_phases"]
            found["total_seconds"].append(phases["total"])
            found["without_weights_seconds"].append(phases["total"] - sum(phases[name] for name in WEIGHT_PHASES))
        step = _step(layers[1], folder, settings)
        rolled = run_child("run", step | {"check": settings.check}, settings)
        run_child("compile", step | {"without": [ROLL]}, settings)
        unrolled = run_child("run", step | {"check": False}, settings)
    found["simulated_us"] = [run["figures"]["total_time"] * 1e6 for run in (rolled, unrolled)]
    found |= {name: rolled[name] for name in ("rel_l2_error", "correct") if name in rolled}
    for name in ("total", "without_weights"):
        least, most = found[f"{name}_seconds"]
        found[f"{name}_ratio"] = most / least
    return found


def _step(count: int, folder: str, settings: Settings) -> dict[str, Any]:
    """What a child process is told of a stack of so many layers."""
    model, inputs = prepare(Model(f"decoder{count}", "decoder"), 1, settings.cache)
    return {"model": str(model), "inputs": str(inputs), "target": "trn1", "neff": str(Path(folder) / "model.neff")}


def show_scaling(found: dict[str, Any], console: Console) -> None:
    """Print the two times and their ratio, and what compiling equal layers once costs."""
    few, many = found["layers"]
    for name, label in (("total", "in all"), ("without_weights", "without reading and writing weights")):
        least, most = found[f"{name}_seconds"]
        console.print(
            f"{many} layers against {few}, compile time {label}: {most:.1f} s / {least:.1f} s = "
            f"{found[f'{name}_ratio']:.2f}",
            highlight=False,
        )
    rolled, unrolled = found["simulated_us"]
    error = f", rel_l2_error {found['rel_l2_error']:.3g}" if "rel_l2_error" in found else ""
    console.print(
        f"{many} layers, simulated time: {rolled:.0f} us{error}; each layer compiled by itself: {unrolled:.0f} us",
        highlight=False,
    )
