"""What each error code means, why it comes, and what to do: the entries behind `--explain` and the page of the manual.

The TOML files beside this module hold one table for each code:

    cause      why the error comes
    cure       what to do
    command    a command line that gets it, if there is a short one
    python     statements that get it, where no command does; `path` is a file of 8 bytes
    files      name -> text of the files that either needs; a `.onnx` file that begins with `<` is in ONNX's textual
               syntax

A test runs every example and wants to see its code, and wants an entry for every code of `ERROR_CODES`.
"""

from __future__ import annotations

import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from neuron_dialects.errors import ERROR_CODES, NeuronError


@dataclass(frozen=True)
class Explanation:
    """One entry."""

    code: str
    cause: str
    cure: str
    command: str | None = None
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    python: str | None = None

    def text(self) -> str:
        """What `--explain` prints."""
        parts = [f"{self.code}: {ERROR_CODES[self.code]}", _filled(self.cause), _filled(self.cure)]
        example = f"$ {self.command}" if self.command is not None else self.python
        if example is not None:
            shown = [f"{name}:\n{textwrap.indent(text.strip(), '    ')}" for name, text in self.files.items()]
            parts += ["Example:", *(textwrap.indent(part.strip(), "    ") for part in [*shown, example])]
        return "\n\n".join(parts) + "\n"


@cache
def explanations() -> Mapping[str, Explanation]:
    """Every entry, by its code."""
    entries: dict[str, Explanation] = {}
    folder = resources.files(__name__)
    for file in sorted(folder.iterdir(), key=lambda found: found.name):
        if file.name.endswith(".toml"):
            for code, table in tomllib.loads(file.read_text(encoding="utf-8")).items():
                entries[code] = Explanation(code, **table)
    return entries


def explain(code: str) -> str:
    """What to print for `--explain CODE`; NeuronError NX-ARG-001 when there is no such code."""
    found = explanations().get(code.upper())
    if found is None:
        raise NeuronError("NX-ARG-001", f"--explain {code}: there is no such code", help="docs/reference/errors.md")
    return found.text()


def _filled(text: str) -> str:
    return textwrap.fill(text, width=100, break_on_hyphens=False, break_long_words=False)
