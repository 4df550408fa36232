"""Kernels written in assembly: right numbers on the machine, no race, and the same file from their own disassembly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_dialects.target import load_target
from runtime.assembly import assemble, assembled_model
from runtime.neff import neff_bytes
from runtime.neff.text import program_text
from runtime.races import check_races
from runtime.session import Session

KERNELS = Path(__file__).parents[3] / "examples" / "kernels"
Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]


def softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def layer_norm(x: Array, gamma: Array, beta: Array) -> Array:
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gamma + beta


CASES: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]], Callable[..., Array]]] = {
    "matmul": ({"A": (512, 256), "B": (512, 1024)}, {}, lambda A, B: A.T @ B),
    "softmax": ({"x": (256, 512)}, {}, softmax),
    "layer_norm": ({"x": (256, 768)}, {"gamma": (768,), "beta": (768,)}, layer_norm),
}
"""Kernel -> shapes of its inputs, shapes of its parameters, what it computes."""


def values(shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    generator = np.random.default_rng(len(shapes))
    return {name: generator.normal(1.0, 2.0, shape).astype(np.float32) for name, shape in shapes.items()}


def test_every_kernel_has_a_case() -> None:
    assert sorted(path.stem for path in KERNELS.glob("*.nasm")) == sorted(CASES)


@pytest.mark.parametrize("name", CASES)
def test_numbers(name: str) -> None:
    inputs, parameters, meaning = (values(CASES[name][0]), values(CASES[name][1]), CASES[name][2])
    assembly = assemble((KERNELS / f"{name}.nasm").read_text(encoding="utf-8"))
    program = assembly.programs[0]
    assert check_races(program, load_target(program.target)) == []
    model = assembled_model(assembly, parameters=parameters)
    assert model.name == name
    (result,) = Session(model).run(inputs).outputs.values()
    expected = meaning(**inputs, **parameters)
    np.testing.assert_allclose(result, expected, rtol=2e-5, atol=2e-5 * float(np.abs(expected).max()))
    listing = "\n".join(('.model "kernel"', *program_text(program)))
    again = assembled_model(assemble(listing.replace('"kernel"', f'"{name}"', 1)), parameters=parameters)
    assert neff_bytes(again) == neff_bytes(model)


# The loads of the next tiles run while the tensor engine multiplies: the whole takes less than its parts in turn.
def test_matmul_overlaps() -> None:
    model = assembled_model(assemble((KERNELS / "matmul.nasm").read_text(encoding="utf-8")))
    (timing,) = Session(model).run(values(CASES["matmul"][0]), "timing").timings
    parts = timing.dma_active_time + sum(engine.active_time for engine in timing.engines.values())
    assert timing.total_time < 0.9 * parts
