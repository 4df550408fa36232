"""MXNet's graph, `NAME-symbol.json`: nodes in topological order, read and checked.

A node has an operator ("null" for a variable), a name, attributes that are all text, and inputs that are pairs of an
earlier node and the number of its output. Older files call the attributes `param` or `attr`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neuron_dialects.errors import NeuronError

MAX_FILE_BYTES = 1 << 28
MAX_ATTRIBUTE_CHARACTERS = 1 << 16
VARIABLE = "null"
Entry = tuple[int, int]
"""A node and the number of one of its outputs."""


@dataclass(frozen=True, slots=True)
class SymbolNode:
    """A node of the graph. Attributes are read by kind, each with the default that MXNet documents for it."""

    op: str
    name: str
    attributes: Mapping[str, str]
    inputs: tuple[Entry, ...]

    def error(self, why: str) -> NeuronError:
        """An error of this node's: something about it has no converter."""
        return NeuronError("NX-FRAME-004", f"MXNet's {self.op}: {why}", node=self.name)

    def has(self, key: str) -> bool:
        """Whether an attribute is given, and is not None."""
        return self.attributes.get(key, "None") != "None"

    def text(self, key: str, default: str) -> str:
        return self.attributes[key] if self.has(key) else default

    def flag(self, key: str, default: bool) -> bool:
        value = self.text(key, str(default))
        if value not in ("True", "False", "1", "0", "true", "false"):
            raise self.error(f"attribute {key} is '{value}', not a truth value")
        return value in ("True", "1", "true")

    def number(self, key: str, default: float | None = None) -> float:
        if default is None and not self.has(key):
            raise self.error(f"attribute {key} is missing")
        value = self.text(key, str(default))
        try:
            return float(value)
        except ValueError as error:
            raise self.error(f"attribute {key} is '{value}', not a number") from error

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if not value.is_integer():
            raise self.error(f"attribute {key} is {value}, not an integer")
        return int(value)

    def integers(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A tuple of integers, `(2, 2)` or `[2,2]`, or a single one."""
        if not self.has(key):
            return default
        return tuple(value for value in self.optional_integers(key) if value is not None)

    def optional_integers(self, key: str) -> tuple[int | None, ...]:
        """A tuple of integers that may have `None` among them."""
        text = self.attributes.get(key, "()")
        if not re.fullmatch(r"[(\[]?\s*((-?\d{1,18}L?|None)\s*(,\s*(-?\d{1,18}L?|None)\s*)*,?)?\s*[)\]]?", text):
            raise self.error(f"attribute {key} is '{text[:80]}', not a tuple of integers")
        items = re.findall(r"-?\d+|None", text)
        return tuple(None if item == "None" else int(item) for item in items)


@dataclass(frozen=True, slots=True)
class Symbol:
    """A graph and its results."""

    nodes: tuple[SymbolNode, ...]
    heads: tuple[Entry, ...]


def read_symbol(path: Path) -> Symbol:
    """Read a graph. NeuronError NX-FRAME-002 when the file cannot be read or is malformed."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise _malformed(path, f"it has {size} bytes, limit {MAX_FILE_BYTES}")
        data: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise NeuronError("NX-FRAME-002", f"'{path}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _malformed(path, "it is not JSON") from error
    try:
        nodes = tuple(_node(entry) for entry in data["nodes"])
        heads = tuple(_entry(head) for head in data["heads"])
    except (TypeError, KeyError, ValueError, IndexError, AttributeError) as error:
        raise _malformed(path, f"its nodes are not as MXNet writes them ({type(error).__name__}: {error})") from error
    _check_order(path, nodes, heads)
    return Symbol(nodes, heads)


def _malformed(path: Path, why: str) -> NeuronError:
    return NeuronError("NX-FRAME-002", f"'{path.name}' is no MXNet graph: {why}")


def _node(entry: Mapping[str, Any]) -> SymbolNode:
    attributes: dict[str, Any] = {}
    for key in ("param", "attr", "attrs"):
        attributes |= entry.get(key) or {}
    texts = {key: str(value)[:MAX_ATTRIBUTE_CHARACTERS] for key, value in attributes.items()}
    return SymbolNode(str(entry["op"]), str(entry["name"]), texts, tuple(_entry(i) for i in entry["inputs"]))


def _entry(value: Any) -> Entry:
    node, output = value[0], value[1]
    if not isinstance(node, int) or not isinstance(output, int) or node < 0 or output < 0:
        raise ValueError(f"reference {value}")
    return node, output


def _check_order(path: Path, nodes: tuple[SymbolNode, ...], heads: tuple[Entry, ...]) -> None:
    """Nodes refer to earlier ones only, names are unique, and there is a result."""
    if not heads:
        raise _malformed(path, "it has no results")
    for position, node in enumerate(nodes):
        if any(source >= position for source, _ in node.inputs):
            raise _malformed(path, f"node '{node.name}' reads a later node")
    if any(source >= len(nodes) for source, _ in heads):
        raise _malformed(path, "a result is of no node")
    names = [node.name for node in nodes]
    if len(set(names)) != len(names):
        raise _malformed(path, "two nodes have one name")
