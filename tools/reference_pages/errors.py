"""The page of the error codes."""

from __future__ import annotations

from itertools import groupby

import neuron_dialects.errors
from neuron_dialects.errors import ERROR_CODES
from tools.error_pages import Explanation, explanations
from tools.reference_pages.markdown import code, docstring, escaped, page, table


def errors_page() -> str:
    """The page of the error codes: a table for each family, then a section for each code."""
    families = groupby(ERROR_CODES.items(), key=lambda entry: entry[0].rpartition("-")[0])
    return page(
        "Error codes",
        docstring(neuron_dialects.errors),
        "`neuron-opt --explain CODE` prints what stands here about a code.",
        *(
            f"## {family}\n\n" + table(("code", "meaning"), ((_link(name), escaped(text)) for name, text in entries))
            for family, entries in families
        ),
        *(_section(explanations()[name]) for name in ERROR_CODES if name in explanations()),
    )


def _link(name: str) -> str:
    return f"[{code(name)}](#{name.lower()})" if name in explanations() else code(name)


def _section(entry: Explanation) -> str:
    parts = [f"### {entry.code}", f"{ERROR_CODES[entry.code].capitalize()}.", entry.cause, f"**Cure.** {entry.cure}"]
    parts += [f"{code(name)}:\n\n```\n{text.strip()}\n```" for name, text in entry.files.items()]
    if entry.command is not None:
        parts.append(f"```\n{entry.command}\n```")
    elif entry.python is not None:
        parts.append(f"```python\n{entry.python.strip()}\n```")
    return "\n\n".join(parts)
