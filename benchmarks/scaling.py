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


def layer_scaling(settings: Settings, layers: tuple[int, int] = LAYERS) -> dict[str, Any]:
    """Compile seconds of stacks of `layers` equal layers, all of them and without the phases that move weights."""
    found: dict[str, Any] = {"layers": list(layers), "total_seconds": [], "without_weights_seconds": []}
    for count in layers:
        model, inputs = prepare(Model(f"decoder{count}", "decoder"), 1, settings.cache)
        with tempfile.TemporaryDirectory() as folder:
            step = {
                "model": str(model), "inputs": str(inputs), "target": "trn1", "neff": str(Path(folder) / "model.neff"),
            }  # fmt: skip
            phases = run_child("compile", step, settings)["compile_phases"]
        found["total_seconds"].append(phases["total"])
        found["without_weights_seconds"].append(phases["total"] - sum(phases[name] for name in WEIGHT_PHASES))
    for name in ("total", "without_weights"):
        least, most = found[f"{name}_seconds"]
        found[f"{name}_ratio"] = most / least
    return found


def show_scaling(found: dict[str, Any], console: Console) -> None:
    """Print the two times and their ratio."""
    few, many = found["layers"]
    for name, label in (("total", "in all"), ("without_weights", "without reading and writing weights")):
        least, most = found[f"{name}_seconds"]
        console.print(
            f"{many} layers against {few}, compile time {label}: {most:.1f} s / {least:.1f} s = "
            f"{found[f'{name}_ratio']:.2f}",
            highlight=False,
        )
