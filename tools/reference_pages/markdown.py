"""Pieces of Markdown: tables, lists, and docstrings as prose with fenced examples."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence

_CODE_SPAN = re.compile(r"(`+[^`]+`+)")
_FENCE = "```"


def page(title: str, *blocks: str) -> str:
    """A page: a note that it is generated, its title, its blocks with a blank line between them."""
    note = "<!-- Made by `python -m tools.generate_docs`; edit the definitions, not this page. -->"
    return "\n\n".join([note, f"# {title}", *(block for block in blocks if block)]) + "\n"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; nothing when there are no rows. Cells are Markdown."""
    lines = [_row(cells) for cells in rows]
    return "\n".join([_row(columns), _row(["---"] * len(columns)), *lines]) if lines else ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {item}" for item in items)


def code(text: object) -> str:
    """A code span; nothing for an empty text."""
    return f"`{text}`" if str(text) else ""


def codes(texts: Iterable[object]) -> str:
    """Code spans, separated by commas."""
    return ", ".join(code(text) for text in texts)


def escaped(text: str) -> str:
    """Plain text whose stars and angle brackets mean themselves; code spans are left as they are."""
    parts = _CODE_SPAN.split(text)
    return "".join(
        part if position % 2 else part.replace("*", "\\*").replace("<", "&lt;") for position, part in enumerate(parts)
    )


def docstring(documented: object, language: str = "mlir") -> str:
    """The docstring of an object: prose, with its indented examples as fenced ones. Empty when it has none."""
    return "\n\n".join(_blocks(inspect.cleandoc(getattr(documented, "__doc__", None) or ""), language))


def summary(documented: object) -> str:
    """The first paragraph of an object's docstring, on one line."""
    text = inspect.cleandoc(getattr(documented, "__doc__", None) or "")
    return escaped(" ".join(text.partition("\n\n")[0].split()))


def _blocks(text: str, language: str) -> Iterator[str]:
    """Paragraphs and examples of a docstring without its indentation; an example keeps its blank lines."""
    example: list[str] = []
    for block in re.split(r"\n\s*\n", text):
        if block.startswith("    "):
            example.append(inspect.cleandoc(f"\n{block}"))
            continue
        if example:
            yield fenced("\n\n".join(example), language)
            example = []
        if block:
            yield escaped(block)
    if example:
        yield fenced("\n\n".join(example), language)


def fenced(text: str, language: str = "mlir") -> str:
    """A fenced example."""
    return f"{_FENCE}{language}\n{text}\n{_FENCE}"
