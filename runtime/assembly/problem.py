"""What is wrong with an assembly text: each problem with its place, so that a tool can mark it in the line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lark import Token

from neuron_dialects.errors import NeuronError

MAX_PROBLEMS = 20
"""Problems of one text that are collected; a text that is something else entirely has one a line."""


@dataclass(frozen=True)
class Problem:
    """One mistake at `length` characters from `line`:`column`, both counted from 1."""

    line: int
    column: int
    length: int
    message: str
    help: str | None = None


class AssemblyError(NeuronError):
    """What is wrong with a text, every problem found, in order; the message is the first's.

    Args:
        problems: at least one.
        code: NX-ASM-001 for a text that is not a program.
    """

    problems: tuple[Problem, ...]

    def __init__(self, problems: Sequence[Problem], code: str = "NX-ASM-001") -> None:
        first = problems[0]
        super().__init__(code, f"line {first.line}: {first.message}", help=first.help)
        self.problems = tuple(problems)


class Mistake(Exception):
    """What is wrong with a line, at one of its words; `at` makes it a problem of the text."""

    def __init__(self, message: str, word: Token | None, help: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.word = word
        self.help = help

    def at(self, line: int) -> Problem:
        """The problem, of a line of the text."""
        column, length = (1, 1) if self.word is None else (self.word.column or 1, len(self.word))
        return Problem(line, column, length, self.message, self.help)


def unquoted(word: Token) -> str:
    """The text of a JSON string. Raises Mistake."""
    try:
        text = str(json.loads(word))
        text.encode()
    except UnicodeEncodeError:
        raise Mistake("the string holds half of a surrogate pair", word) from None
    except ValueError:
        raise Mistake("the string is not a JSON string", word) from None
    return text


def nearest(word: str, known: Iterable[str]) -> str | None:
    """A help line that names the known words most like `word`, None when none is."""
    found = difflib.get_close_matches(word, list(known), n=3)
    return f"did you mean {' or '.join(found)}?" if found else None
