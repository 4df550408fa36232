"""Packages that only some users have: imported when needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from neuron_dialects.errors import NeuronError


def require(package: str, extra: str) -> Any:
    """The imported package; NeuronError NX-FRAME-001 naming the extra that installs it when it is absent or broken."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        missing = not is_installed(package)
        raise NeuronError(
            "NX-FRAME-001",
            f"the package '{package}' is not installed" if missing else f"'{package}' cannot be imported: {error}",
            help=f"pip install 'neuron-toolkit[{extra}]'",
        ) from error


def is_installed(package: str) -> bool:
    """Whether the package is there, without importing it."""
    return importlib.util.find_spec(package) is not None
