"""From assembly text to statements: every line by itself, through the grammar in assembly.lark.

A statement holds the words of its line with their places (lark's tokens are strings that know their column) and no
meaning yet. A line that does not fit the grammar becomes a problem, and reading goes on with the next line.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, cast

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken
from lark.lexer import PatternStr

from neuron_dialects.access import Affine
from runtime.assembly.problem import MAX_PROBLEMS, Problem

_READABLE = {
    "$END": "the end of the line",
    "ADDRESS": "an address",
    "DIRECTIVE": "a directive",
    "INT": "a number",
    "NAME": "a name",
    "REGISTER": "a register",
    "SIGN": "'+' or '-'",
    "STRING": "a string",
    "VALUE": "a value",
}


@dataclass(frozen=True)
class Bracket:
    """`[start : size step stride, ...]`: the start, and (stride, size) of each dimension."""

    start: Affine
    dims: tuple[tuple[int, int], ...]
    place: Token


@dataclass(frozen=True)
class OperandText:
    """`role space dtype @variable [partitions][pattern]`, the variable and one of the brackets where they are given."""

    role: Token
    space: Token
    dtype: Token
    variable: Token | None
    brackets: tuple[Bracket, ...]


@dataclass(frozen=True)
class Entry:
    """An instruction or a control instruction; exactly one of `numbers` and (`ring`, `operands`, `fields`) is used."""

    mnemonic: Token
    waits: tuple[tuple[Token, Affine], ...] = ()
    numbers: tuple[Token, ...] = ()
    ring: Token | None = None
    operands: tuple[OperandText, ...] = ()
    fields: tuple[tuple[Token, Token], ...] = ()
    signal: Token | None = None
    origin: Token | None = None


@dataclass(frozen=True)
class Directive:
    """`.name argument ...`: names, numbers, strings, and at most one shape (`shape`)."""

    name: Token
    arguments: tuple[Token, ...]
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Statement:
    """What one line says: a directive, or a label, an entry, or a label before an entry."""

    line: int
    directive: Directive | None = None
    label: Token | None = None
    entry: Entry | None = None


@v_args(inline=True)
class _ToStatement(Transformer[Token, Any]):
    """Builds the plain data above while the line is parsed."""

    def statement(self, *parts: Any) -> dict[str, Any]:
        kinds = {Directive: "directive", Entry: "entry"}
        return {kinds.get(type(part), "label"): part for part in parts}

    def start(self, *parts: Any) -> dict[str, Any]:
        return parts[0] if parts else {}

    def directive(self, name: Token, *arguments: Any) -> Directive:
        words = tuple(a for a in arguments if isinstance(a, Token))
        shapes = [a for a in arguments if isinstance(a, tuple)]
        return Directive(name, words, shapes[0] if shapes else None)

    def shape(self, *sizes: Token | None) -> tuple[int, ...]:
        return tuple(int(size) for size in sizes if size is not None)

    def label(self, name: Token, _: Token | None = None) -> Token:
        return name

    def mnemonic(self, name: Token) -> Token:
        return name

    def entry(self, *parts: Any) -> Entry:
        given: dict[str, Any] = {}
        for part in parts:
            given |= {"mnemonic": part} if isinstance(part, Token) else part
        return Entry(**given)

    def waits(self, _: Token, *conditions: tuple[Token, Affine]) -> dict[str, Any]:
        return {"waits": conditions}

    def condition(self, semaphore: Token, value: tuple[Affine, Token]) -> tuple[Token, Affine]:
        return semaphore, value[0]

    def affine(self, first: Token, sign: Token | None = None, constant: Token | None = None) -> tuple[Affine, Token]:
        if first.type == "INT":
            return Affine(int(first)), first
        added = 0 if constant is None else int(constant)
        return Affine(-added if sign == "-" else added, ((int(first[1:]), 1),)), first

    def signal(self, _: Token, name: Token) -> dict[str, Any]:
        return {"signal": name}

    def origin(self, _: Token, name: Token) -> dict[str, Any]:
        return {"origin": name}

    def numbers(self, *numbers: Token) -> dict[str, Any]:
        return {"numbers": numbers}

    def transfer(self, *parts: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"operands": tuple(p for p in parts if isinstance(p, OperandText))}
        for part in parts:
            given |= part if isinstance(part, dict) else {}
        return given

    def ring(self, _: Token, name: Token) -> dict[str, Any]:
        return {"ring": name}

    def operand(self, role: Token, space: Token, dtype: Token, *rest: Any) -> OperandText:
        variable = next((part for part in rest if isinstance(part, Token)), None)
        return OperandText(role, space, dtype, variable, tuple(p for p in rest if isinstance(p, Bracket)))

    def variable(self, name: Token) -> Token:
        return name

    def bracket(self, start: tuple[Affine, Token], *dims: tuple[int, int]) -> Bracket:
        return Bracket(start[0], dims, start[1])

    def dimension(self, size: Token, _: Token | None = None, stride: Token | None = None) -> tuple[int, int]:
        return (1 if stride is None else int(stride), int(size))

    def fields(self, *fields: tuple[Token, Token] | None) -> dict[str, Any]:
        return {"fields": tuple(field for field in fields if field is not None)}

    def field(self, name: Token, value: Token) -> tuple[Token, Token]:
        return name, value


@functools.cache
def _parser() -> Lark:
    grammar = (resources.files("runtime.assembly") / "assembly.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", transformer=_ToStatement())


def read_statements(text: str) -> tuple[list[Statement], list[Problem]]:
    """The statements of the lines that have one, in order, and what is wrong with lines that do not fit the grammar.

    At most `MAX_PROBLEMS` lines are found fault with; what follows the last of them is not read.
    """
    parser, statements, problems = _parser(), list[Statement](), list[Problem]()
    for number, line in enumerate(text.split("\n"), 1):
        try:
            parts = cast(dict[str, Any], parser.parse(line))
        except UnexpectedInput as error:
            problems.append(_problem(error, number, line))
            if len(problems) == MAX_PROBLEMS:
                break
            continue
        if parts:
            statements.append(Statement(number, **parts))
    return statements, problems


def _problem(error: UnexpectedInput, number: int, line: str) -> Problem:
    match error:
        case UnexpectedCharacters():
            return Problem(number, error.column, 1, f"unexpected {error.char!a}{_expected(error.allowed or ())}")
        case UnexpectedToken() if error.token.type != "$END":
            word = str(error.token)
            message = f"unexpected {word[:40]!a}{_expected(error.accepts or error.expected)}"
            return Problem(number, error.token.column or 1, len(word), message)
        case UnexpectedToken():
            message = f"the line ends too early{_expected(error.accepts or error.expected)}"
            return Problem(number, len(line.rstrip()) + 1, 1, message)
        case UnexpectedEOF() | _:
            return Problem(number, len(line.rstrip()) + 1, 1, "the line ends too early")


def _expected(terminals: Sequence[str] | set[str]) -> str:
    names = sorted({_terminal(name) for name in terminals} - {""})
    return f"; expected {' or '.join(names)}" if 0 < len(names) <= 6 else ""


def _terminal(name: str) -> str:
    """How a message calls a terminal of the grammar."""
    if name in _READABLE:
        return _READABLE[name]
    if name in ("COMMENT", "__IGNORE_0"):
        return ""
    pattern = _parser().get_terminal(name).pattern
    return f"'{pattern.value}'" if isinstance(pattern, PatternStr) else ""
