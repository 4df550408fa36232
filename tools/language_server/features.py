"""What an editor asks of a text, as plain functions: mistakes, the meaning of a word, where a name is defined.

Lines and columns count from 0, columns in characters, as editors count. Only server.py knows the protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class Range:
    """`length` characters of a line."""

    line: int
    column: int
    length: int


@dataclass(frozen=True)
class Mistake:
    """What is wrong at a place, with its code."""

    place: Range
    message: str
    code: str


_WORD = re.compile(r'[%@#!^]?[\w.$-]+|"(?:\\.|[^"\\])*"')


def is_assembly(name: str) -> bool:
    """Whether a file of this name holds assembly; every other one is taken for MLIR."""
    return PurePath(name).suffix == ".nasm"


def word_at(text: str, line: int, column: int) -> tuple[str, Range] | None:
    """The word that a place is in, or stands right behind of."""
    lines = text.split("\n")
    if line >= len(lines):
        return None
    for found in _WORD.finditer(lines[line]):
        if found.start() <= column <= found.end():
            return found.group(), Range(line, found.start(), len(found.group()))
    return None


def mistakes(name: str, text: str) -> list[Mistake]:
    """What is wrong with a file: every mistake of an assembly text, the first one of each part of an MLIR file."""
    from tools.language_server import assembly, mlir

    return assembly.mistakes(text) if is_assembly(name) else mlir.mistakes(text)


def meaning(name: str, text: str, line: int, column: int) -> str | None:
    """What a word means, as Markdown; None for one that has no meaning of its own."""
    from tools.language_server import assembly, mlir

    found = word_at(text, line, column)
    if found is None:
        return None
    return assembly.meaning(found[0]) if is_assembly(name) else mlir.meaning(found[0])


def definition(name: str, text: str, line: int, column: int) -> Range | None:
    """Where a name is defined: a label, semaphore or variable of assembly, a value or symbol of MLIR."""
    from tools.language_server import assembly, mlir

    found = word_at(text, line, column)
    if found is None:
        return None
    lines = text.split("\n")
    return assembly.definition(lines, line, found[0]) if is_assembly(name) else mlir.definition(lines, line, found[0])


def proposals(name: str, text: str, line: int) -> Sequence[tuple[str, str]]:
    """Words that can stand in a line, each with what it is."""
    from tools.language_server import assembly, mlir

    return assembly.proposals(text, line) if is_assembly(name) else mlir.proposals()


def places(lines: Sequence[str], pattern: str) -> Iterator[Range]:
    """The first group of each match of a pattern, line by line."""
    compiled = re.compile(pattern)
    for number, line in enumerate(lines):
        for found in compiled.finditer(line):
            yield Range(number, found.start(1), len(found.group(1)))
