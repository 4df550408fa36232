"""Comments that say which diagnostics a file must cause, as MLIR's tests write them, and their comparison with facts.

    // expected-error@+1 {{operands must be of one type}}
    %b = arith.addi %a, %c : i32
    // expected-error-re@below {{exceeds {{[0-9]+}} bytes}}
    // expected-remark@unknown {{nothing to fuse}}

A comment speaks of its own line; `@+N` and `@-N` of another one, `@above` and `@below` of the nearest line without such
a comment, `@unknown` of a diagnostic that has no line. The text must occur in the diagnostic; in the `-re` form what
stands in inner `{{...}}` is a regular expression. Notes and help lines of a diagnostic may be expected as `note`, and
need not be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tools.diagnostics import Diagnostic

_COMMENT = re.compile(
    r"expected-(?P<kind>error|warning|remark|note)(?P<regex>-re)?"
    r"\s*(?:@(?P<where>[+-]\d+|above|below|unknown))?\s*\{\{(?P<text>.*)\}\}"
)
_INNER = re.compile(r"\{\{(.*?)\}\}")


@dataclass(frozen=True)
class Expectation:
    """One comment: a diagnostic of this kind at `line` (None: without a place), written in line `written`."""

    kind: str
    line: int | None
    text: str
    is_regex: bool
    written: int

    def fits(self, kind: str, line: int | None, message: str) -> bool:
        """Whether it speaks of this diagnostic."""
        if kind != self.kind or line != self.line:
            return False
        if not self.is_regex:
            return self.text in message
        parts = _INNER.split(self.text)
        pattern = "".join(f"(?:{part})" if number % 2 else re.escape(part) for number, part in enumerate(parts))
        return re.search(pattern, message) is not None


def read_expectations(text: str, line_offset: int = 0) -> list[Expectation]:
    """The comments of `text`, whose first line is number `line_offset` + 1."""
    lines = text.split("\n")
    found = [_COMMENT.search(line) for line in lines]
    made: list[Expectation] = []
    for number, match in enumerate(found):
        if match is None:
            continue
        line = _line_spoken_of(match["where"], number, found)
        made.append(
            Expectation(
                match["kind"],
                None if line is None else line + line_offset + 1,
                match["text"],
                match["regex"] is not None,
                number + line_offset + 1,
            )
        )
    return made


def _line_spoken_of(where: str | None, number: int, found: Sequence[re.Match[str] | None]) -> int | None:
    if where == "unknown":
        return None
    if where in ("above", "below"):
        step = 1 if where == "below" else -1
        number += step
        while 0 <= number < len(found) and found[number] is not None:
            number += step
        return number
    return number + int(where or 0)


@dataclass(frozen=True)
class Mismatch:
    """A place in the file, and what was told or not told there. Line and column 0: no place."""

    line: int
    column: int
    message: str


def compare(
    expected: Sequence[Expectation], diagnostics: Sequence[Diagnostic], *, only_expected: bool = False
) -> list[Mismatch]:
    """What differs between comments and diagnostics, in the order of lines; every comment speaks of one diagnostic.

    With `only_expected`, diagnostics that no comment speaks of are passed over.
    """
    open_ = list(expected)
    mismatches: list[Mismatch] = []

    def take(kind: str, line: int | None, message: str) -> bool:
        for position, expectation in enumerate(open_):
            if expectation.fits(kind, line, message):
                del open_[position]
                return True
        return False

    for diagnostic in diagnostics:
        place = diagnostic.place
        line = place.line if place is not None and place.line else None
        if not take(diagnostic.severity, line, diagnostic.headline()) and not only_expected:
            mismatches.append(Mismatch(line or 0, place.column if place else 0, f"unexpected {diagnostic.headline()}"))
        for note in (*diagnostic.notes, *([diagnostic.help] if diagnostic.help else [])):
            take("note", line, note)
    mismatches += [Mismatch(e.written, 1, f'expected {e.kind} "{e.text}" was not produced') for e in open_]
    return sorted(mismatches, key=lambda mismatch: (mismatch.line, mismatch.column))
