"""Remarks of passes on the command line: which are wanted, and how they are written.

`--remarks` takes kinds, `--remarks-filter` a regular expression that the pass's name must match. As text they are
diagnostics of severity `remark`; as YAML they are one document each, as LLVM's tools write optimization records.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_dialects.atomic_file import write_text
from neuron_dialects.errors import NeuronError
from neuron_dialects.remarks import KINDS, Remark, collect
from tools.diagnostics import Diagnostic, Place, report

FORMATS = ("text", "yaml")


def add_remark_arguments(group: Any) -> None:
    """Add the options of a command line that runs passes."""
    group.add_argument(
        "--remarks",
        nargs="?",
        const="all",
        metavar="KINDS",
        type=_kinds,
        help=f"what passes tell of their decisions: all (default), or some of {', '.join(KINDS)}",
    )
    group.add_argument("--remarks-filter", metavar="REGEX", help="only remarks of passes whose names match")
    group.add_argument("--remarks-format", choices=FORMATS, default="text", help="text (default) or YAML documents")
    group.add_argument("--remarks-output", type=Path, metavar="FILE", help="write them to FILE, as YAML")


@dataclass
class RemarkPrinter:
    """Hears remarks and tells those that are wanted.

    Args:
        kinds: the wanted kinds.
        filter: a regular expression that the name of the pass must match somewhere; None for all.
        yaml: whether they are YAML documents, gathered in `documents`, rather than diagnostics.
        tell: takes the diagnostics.
        place: where a framework node or a function stands in the input, as far as that is known.
    """

    kinds: frozenset[str]
    filter: re.Pattern[str] | None
    yaml: bool
    tell: Callable[[Diagnostic], None]
    place: Callable[[str | None, str | None], Place | None]

    def __post_init__(self) -> None:
        self.documents: list[str] = []

    @classmethod
    def of(
        cls,
        options: argparse.Namespace,
        tell: Callable[[Diagnostic], None],
        place: Callable[[str | None, str | None], Place | None],
    ) -> RemarkPrinter:
        """What the options of `add_remark_arguments` ask for; NX-ARG-002 for a filter that is no expression."""
        yaml = options.remarks_format == "yaml" or options.remarks_output is not None
        return cls(options.remarks or frozenset(KINDS), remark_filter(options.remarks_filter), yaml, tell, place)

    def write(self, path: Path | None) -> None:
        """Write the YAML documents, to standard error where there is no file."""
        text = "".join(self.documents)
        if path is not None:
            write_text(path, text)
        else:
            sys.stderr.write(text)

    def __call__(self, remark: Remark) -> None:
        """Hear a remark."""
        if remark.kind not in self.kinds or (self.filter and not self.filter.search(remark.pass_name)):
            return
        if self.yaml:
            self.documents.append(yaml_document(remark))
        else:
            self.tell(diagnostic_of_remark(remark, self.place(remark.node, remark.function)))


def wants_remarks(options: argparse.Namespace) -> bool:
    """Whether the options of `add_remark_arguments` ask for remarks."""
    return options.remarks is not None or options.remarks_output is not None


@contextmanager
def told_remarks(options: argparse.Namespace) -> Generator[None]:
    """Tell the remarks made inside as the options of `add_remark_arguments` say; nothing when none are wanted."""
    if not wants_remarks(options):
        yield
        return
    printer = RemarkPrinter.of(options, report, lambda node, function: None)
    with collect(printer):
        yield
    printer.write(options.remarks_output)


def remark_filter(text: str | None) -> re.Pattern[str] | None:
    """The compiled filter; NeuronError NX-ARG-002 when it is no regular expression."""
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise NeuronError("NX-ARG-002", f"--remarks-filter {text}: {error}") from None


def diagnostic_of_remark(remark: Remark, place: Place | None = None) -> Diagnostic:
    """A remark as a diagnostic: `remark: [pass] passed name: message`."""
    figures = "".join(f", {name} = {value}" for name, value in remark.figures.items())
    notes = [f"reason: {remark.reason}"] if remark.reason else []
    fields = {"kind": remark.kind, "pass": remark.pass_name, "name": remark.name, "function": remark.function}
    return Diagnostic(
        "remark",
        f"[{remark.pass_name}] {remark.kind} {remark.name}: {remark.message}{figures}",
        place=place,
        node=remark.node,
        notes=tuple(notes),
        help=remark.suggestion,
        properties={name: value for name, value in fields.items() if value is not None} | remark.figures,
    )


def yaml_document(remark: Remark) -> str:
    """A remark as a YAML document."""
    fields: list[tuple[str, Any]] = [
        ("Pass", remark.pass_name),
        ("Name", remark.name),
        ("Function", remark.function),
        ("Node", remark.node),
        ("Message", remark.message),
        ("Reason", remark.reason),
        ("Suggestion", remark.suggestion),
        ("Args", remark.figures or None),
    ]
    # JSON's texts, numbers and objects are YAML's too.
    lines = [f"{name}: {json.dumps(value, default=str)}" for name, value in fields if value is not None]
    return "\n".join([f"--- !{remark.kind.capitalize()}", *lines, "..."]) + "\n"


def _kinds(text: str) -> frozenset[str]:
    names = KINDS if text == "all" else tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(('all', *KINDS))}")
    return frozenset(names)
