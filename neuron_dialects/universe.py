"""Our dialects and passes as xDSL discovers them, through the entry point `xdsl.universe`.

`NEURON_UNIVERSE` maps each name to a function that imports what the name stands for when it is first used: registering
everything costs nothing, and a program that uses one dialect loads one dialect.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from xdsl.ir import Dialect
from xdsl.passes import ModulePass
from xdsl.universe import Universe

DIALECTS: dict[str, str] = {
    "graph": "neuron_dialects.graph:Graph",
    "neuron": "neuron_dialects.neuron:Neuron",
    "nisa": "neuron_dialects.nisa:Nisa",
    "tile": "neuron_dialects.tile:Tile",
}
"""Dialect name -> "module:Dialect"."""

# Dialects import nothing else of ours: whoever defines an operation does not depend on who rewrites it. But xDSL asks
# one universe for dialects and passes alike, so this package knows the passes as strings only, and `import_module`
# resolves them when somebody asks for a pass.
PASS_TABLE = "passes.registry:PASSES"


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def _dialect(path: str) -> Callable[[], Dialect]:
    return lambda: cast(Dialect, _load(path))


def _pass(path: str) -> Callable[[], type[ModulePass]]:
    return lambda: cast(type[ModulePass], _load(path))


NEURON_UNIVERSE = Universe(
    all_dialects={name: _dialect(path) for name, path in DIALECTS.items()},
    all_passes={name: _pass(path) for name, path in cast(dict[str, str], _load(PASS_TABLE)).items()},
)
