"""Kernel templates by graph op: the union of the tables of the template modules, imported on first use."""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from xdsl.ir import Operation

_MODULES = (
    "elementwise", "rows", "pool", "movement", "padding", "gather", "scatter", "matmul", "attention", "conv",
    "recurrent",
)  # fmt: skip


@functools.cache
def kernels() -> dict[type[Operation], Callable[..., None]]:
    """graph op class -> template."""
    table: dict[type[Operation], Callable[..., None]] = {}
    for name in _MODULES:
        module: Any = importlib.import_module(f"lowering.graph_to_tile.{name}")
        table |= module.KERNELS
    return table


def kernel_of(op: type[Operation]) -> Callable[..., None] | None:
    """The template of a graph op class, None when there is none."""
    return kernels().get(op)
