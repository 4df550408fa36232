"""The page of MXNet's operators that have a converter."""

from __future__ import annotations

import lowering.frontends.mxnet
from lowering.frontends.mxnet import OPERATORS
from tools.reference_pages.markdown import code, docstring, page, table


def mxnet_page() -> str:
    """The operators by name, in the order of the alphabet."""
    rows = ((code(name), (OPERATORS[name].__doc__ or "").strip().split("\n\n")[0]) for name in sorted(OPERATORS))
    notes = ((name, " ".join(note.split()).replace("|", "\\|")) for name, note in rows)
    return page("MXNet's operators", docstring(lowering.frontends.mxnet), table(("operator", "notes"), notes))
