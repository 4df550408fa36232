"""Runs single instructions on arrays, for the tests of their meanings."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa import INSTRUCTIONS
from runtime.semantics import Case, execute

Array = NDArray[Any]
Typed = tuple[str, Array]


def typed(dtype: str, values: Any) -> Typed:
    """Values held as an element type."""
    return dtype, np.asarray(values).astype(dtype_by_name(dtype).numpy)


def run(name: str, dst: Typed, engine: str = "", fields: dict[str, Any] | None = None, **operands: Typed) -> Array:
    """Execute an instruction; `dst` is what the output holds before, the result what it holds afterwards."""
    everything = {"dst": (dst[0], dst[1].copy()), **operands}
    case = Case(
        name, engine, {r: d for r, (d, _) in everything.items()}, {r: v.shape for r, (_, v) in everything.items()},
        fields or {},
    )  # fmt: skip
    given = {f.name: (fields or {}).get(f.name, f.default) for f in INSTRUCTIONS[name].fields if f.kind == "affine"}
    numbers = {key: value.constant if isinstance(value, Affine) else int(value) for key, value in given.items()}
    execute(case, {role: view for role, (_, view) in everything.items()}, numbers)
    return everything["dst"][1]


def empty(dtype: str, *shape: int) -> Typed:
    """A poisoned output."""
    row = dtype_by_name(dtype)
    return dtype, np.full((*shape, row.size_bytes), 0xFF, np.uint8).view(row.numpy)[..., 0]
