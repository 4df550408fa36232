"""MLIR in an editor: what neuron-opt says of the file, operations from their docstrings, values and symbols."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Sequence
from typing import Any

from neuron_dialects.universe import NEURON_UNIVERSE
from tools.language_server.features import Mistake, Range, places


def mistakes(text: str) -> list[Mistake]:
    """What parser and verifier find, as `neuron-opt --split-input-file` tells it: the first mistake of the file."""
    from tools.neuron_opt import run_in_process

    done = run_in_process(["--split-input-file", "--diagnostics-format=json"], text)
    found: list[Mistake] = []
    for line in done.stderr.splitlines():
        try:
            told: dict[str, Any] = json.loads(line)
        except ValueError:
            continue
        row, column = int(told.get("line", 1)) - 1, int(told.get("column", 1)) - 1
        source = str(told.get("source") or "")
        word = re.match(r"[%@#!^]?[\w.$-]+|.", source[column:])
        message = "\n".join([told["message"], *(f"help: {help_}" for help_ in [told.get("help")] if help_)])
        found.append(Mistake(Range(row, column, len(word.group()) if word else 1), message, str(told.get("code", ""))))
    return found


@functools.cache
def _operations() -> dict[str, str]:
    """Operation -> its docstring, of our dialects."""
    table: dict[str, str] = {}
    for factory in NEURON_UNIVERSE.all_dialects.values():
        for operation in factory().operations:
            table[operation.name] = inspect.cleandoc(operation.__doc__ or "")
    return table


def meaning(word: str) -> str | None:
    """The docstring of an operation of ours."""
    text = _operations().get(word)
    return None if text is None else f"**{word}**\n\n{text}"


def definition(lines: Sequence[str], line: int, word: str) -> Range | None:
    """Where a value is made, in the function of the line or outside of any, or where a symbol is defined."""
    name = re.escape(word)
    if word.startswith("@"):
        return next(places(lines, rf"\b(?:func\.func|graph\.derived_weight)\b[^@]*({name})(?![\w.$-])"), None)
    if not word.startswith("%"):
        return None
    name = re.escape(word.partition("#")[0])
    starts = [number for number, text in enumerate(lines) if re.search(r"\bfunc\.func\b", text)]
    first = max((number for number in starts if number <= line), default=0)
    last = min((number for number in starts if number > line), default=len(lines))
    made = rf"({name})(?![\w.$-])(?=\s*(?::\d+)?(?:\s*,\s*%[\w.$-]+)*\s*=|\s*:(?!\s*\())"
    for found in places(lines[first:last], made):
        return Range(found.line + first, found.column, found.length)
    return None


def proposals() -> list[tuple[str, str]]:
    """The operations of our dialects."""
    return [(name, text.partition("\n")[0]) for name, text in sorted(_operations().items())]
