"""What a command line tells its user: a `Diagnostic`, and how it is written as text, JSON or SARIF.

A diagnostic says how bad it is, with which code, where (file, line and column, with the line itself), at which
framework node, and what to do. As text it is

    model.mlir:3:5: error[NX-IR-001]: 'arith.addi' operands must be of one type
        %b = arith.addi %a, %c : i32
        ^
      help: cast one of them

As `json` each diagnostic is one line with one object; `sarif` is one document for a whole run (SARIF 2.1.0, which code
hosts and editors read). All three go to standard error. This module knows nothing of exceptions: tools/errors.py makes
diagnostics of them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from neuron_dialects.errors import ERROR_CODES
from neuron_dialects.version import VERSION

Severity = Literal["error", "warning", "remark"]
FORMATS = ("text", "json", "sarif")
"""Values of --diagnostics-format."""
FORMAT_OPTION = "--diagnostics-format"
INTERNAL = "internal"
"""Code of a bug in the toolkit."""
_LONGEST_LINE = 1000
"""Characters of a line that are printed: names taken from a file may have any length."""
_SARIF_LEVELS = {"error": "error", "warning": "warning", "remark": "note"}
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


@dataclass(frozen=True)
class Place:
    """A place in a file; line and column count from 1, and are 0 where they are not known."""

    file: str
    line: int = 0
    column: int = 0
    source_line: str | None = None
    """The text of the line, without its end."""
    length: int = 1
    """Characters that are marked."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    def excerpt(self) -> list[str]:
        """The line and a line of carets under it, indented; nothing where the line is not known."""
        if self.source_line is None or not self.column:
            return []
        lead = "".join("\t" if c == "\t" else " " for c in self.source_line[: self.column - 1])
        length = max(1, min(self.length, len(self.source_line) - self.column + 1))
        return [f"    {self.source_line}", f"    {lead}^{'~' * (length - 1)}"]


@dataclass(frozen=True)
class Diagnostic:
    """One thing to tell."""

    severity: Severity
    message: str
    code: str | None = None
    place: Place | None = None
    node: str | None = None
    """Name of the framework (ONNX) node concerned."""
    notes: tuple[str, ...] = ()
    help: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What else machines may want to know, as plain data."""

    def headline(self) -> str:
        """The first line without the place: `error[CODE]: node 'n': message`."""
        code = f"[{self.code}]" if self.code and self.code != INTERNAL else ""
        name = "internal error" if self.code == INTERNAL else self.severity
        node = f"node '{self.node}': " if self.node else ""
        return f"{name}{code}: {node}{self.message}"

    def text(self) -> str:
        """All lines, printable, without a newline at the end."""
        place = f"{self.place}: " if self.place else ""
        lines = [f"{place}{self.headline()}", *(self.place.excerpt() if self.place else ())]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  help: {self.help}"] if self.help else []
        return printable("\n".join(lines))

    def data(self) -> dict[str, Any]:
        """The diagnostic as a JSON object; fields that are not known are absent."""
        fields: dict[str, Any] = {"severity": self.severity, "code": self.code, "message": self.message}
        if self.place is not None:
            fields |= {"file": self.place.file}
            if self.place.line:
                fields |= {"line": self.place.line, "column": self.place.column, "source": self.place.source_line}
        fields |= {"node": self.node, "notes": list(self.notes), "help": self.help, **self.properties}
        return {name: value for name, value in fields.items() if value not in (None, [])}


def sarif(tool: str, diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """A SARIF 2.1.0 log of one run of `tool`."""
    rules = sorted({d.code for d in diagnostics if d.code})
    driver = {
        "name": tool,
        "semanticVersion": VERSION,
        "rules": [
            {"id": code, "shortDescription": {"text": ERROR_CODES.get(code, "a bug in the toolkit")}} for code in rules
        ],
    }
    results = [_sarif_result(diagnostic) for diagnostic in diagnostics]
    return {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _sarif_result(diagnostic: Diagnostic) -> dict[str, Any]:
    text = "\n".join([diagnostic.message, *diagnostic.notes, *([diagnostic.help] if diagnostic.help else [])])
    result: dict[str, Any] = {"level": _SARIF_LEVELS[diagnostic.severity], "message": {"text": text}}
    if diagnostic.code:
        result["ruleId"] = diagnostic.code
    location: dict[str, Any] = {}
    if place := diagnostic.place:
        physical: dict[str, Any] = {"artifactLocation": {"uri": place.file.replace("\\", "/")}}
        location["physicalLocation"] = physical
        if place.line:
            physical["region"] = {"startLine": place.line, "startColumn": place.column}
    if diagnostic.node:
        location["logicalLocations"] = [{"name": diagnostic.node, "kind": "node"}]
    if location:
        result["locations"] = [location]
    if diagnostic.properties:
        result["properties"] = dict(diagnostic.properties)
    return result


def printable(message: str) -> str:
    """`message` with long lines shortened, and without control characters: text from a file may hold any."""
    lines = message.split("\n")
    message = "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..." for line in lines)
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in message)


class Reporter:
    """Where the diagnostics of a run go: to standard error at once, or as one document at its end.

    Args:
        tool: name of the command line.
        format: one of FORMATS.
    """

    def __init__(self, tool: str, format: str = "text") -> None:
        self.tool = tool
        self.format = format
        self._kept: list[Diagnostic] = []

    def report(self, diagnostic: Diagnostic) -> None:
        """Tell, now or with `finish`."""
        match self.format:
            case "json":
                print(json.dumps(diagnostic.data()), file=sys.stderr)
            case "sarif":
                self._kept.append(diagnostic)
            case _:
                print(diagnostic.text(), file=sys.stderr)

    def finish(self) -> None:
        """End the run: a SARIF log is written even when there was nothing to tell."""
        if self.format == "sarif":
            print(json.dumps(sarif(self.tool, self._kept), indent=2), file=sys.stderr)
            self._kept = []


_CURRENT: ContextVar[Reporter | None] = ContextVar("reporter", default=None)


def report(diagnostic: Diagnostic) -> None:
    """Tell through the reporter of the run that this belongs to; as text outside of any."""
    (_CURRENT.get() or Reporter("neuron")).report(diagnostic)


def install(reporter: Reporter | None) -> Reporter | None:
    """Make `reporter` that of this run; returns the one before, to be put back."""
    previous = _CURRENT.get()
    _CURRENT.set(reporter)
    return previous


def add_common_arguments(parser: Any) -> None:
    """The options that every command line has: how errors are written, and tracebacks."""
    parser.add_argument(FORMAT_OPTION, choices=FORMATS, default="text", help="how errors and warnings are written")
    parser.add_argument("--debug", action="store_true", help="print a traceback for an error")


def requested_format(arguments: Sequence[str]) -> str:
    """The format that a command line asks for; text if it asks for none that there is.

    Read before the arguments are parsed, since parsing them can go wrong.
    """
    chosen = "text"
    for position, argument in enumerate(arguments):
        if argument == FORMAT_OPTION and position + 1 < len(arguments):
            chosen = arguments[position + 1]
        elif argument.startswith(f"{FORMAT_OPTION}="):
            chosen = argument.partition("=")[2]
    return chosen if chosen in FORMATS else "text"
