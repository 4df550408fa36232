"""The page of the error codes."""

from __future__ import annotations

from itertools import groupby

import neuron_dialects.errors
from neuron_dialects.errors import ERROR_CODES
from tools.reference_pages.markdown import code, docstring, escaped, page, table


def errors_page() -> str:
    """The page of the error codes."""
    families = groupby(ERROR_CODES.items(), key=lambda entry: entry[0].rpartition("-")[0])
    return page(
        "Error codes",
        docstring(neuron_dialects.errors),
        *(
            f"## {family}\n\n" + table(("code", "meaning"), ((code(name), escaped(text)) for name, text in entries))
            for family, entries in families
        ),
    )
