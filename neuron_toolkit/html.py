"""Results as HTML, for notebooks: tables and preformatted text without scripts or styles from outside."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

MAX_LINES = 400
"""Lines of a text that are shown."""


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """Rows of cells; numbers are aligned to the right."""
    parts = ["<table>"]
    if head:
        parts.append(f"<thead><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr></thead>")
    parts += ["<tbody>", *(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows), "</tbody></table>"]
    return "".join(parts)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td style="text-align:right">{value:.6g}</td>'
    if isinstance(value, int):
        return f'<td style="text-align:right">{value:,}</td>'
    return f'<td style="text-align:left">{html.escape(str(value))}</td>'


def section(title: str, *bodies: str) -> str:
    """A titled part that can be folded away."""
    return f"<details open><summary><b>{html.escape(title)}</b></summary>{''.join(bodies)}</details>"


def preformatted(text: str) -> str:
    """Text as it is, its first `MAX_LINES` lines."""
    lines = text.rstrip("\n").split("\n")
    shown = [*lines[:MAX_LINES], *([f"... {len(lines) - MAX_LINES} more lines"] if len(lines) > MAX_LINES else [])]
    joined = html.escape("\n".join(shown))
    return f'<pre style="max-height:30em;overflow:auto;line-height:1.25">{joined}</pre>'
