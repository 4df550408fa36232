"""Remarks: what a pass tells about its decisions, for whoever asks.

A pass says what it did (`passed`), what it would have done had something been otherwise (`missed`, with the reason and
what to change), or what it found out (`analysis`, with figures):

    remark("missed", "fuse", "relu stays a kernel of its own", op=relu, reason="it is a scalar")

Remarks cost nothing unless somebody listens: `listening` says so, and `collect` is how a driver listens. The listener
is kept in a context variable, so compilations side by side do not hear each other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from xdsl.dialects.builtin import StringAttr
from xdsl.ir import Operation

Kind = Literal["passed", "missed", "analysis"]
KINDS: tuple[Kind, ...] = ("passed", "missed", "analysis")


@dataclass(frozen=True)
class Remark:
    """One remark of a pass."""

    kind: Kind
    pass_name: str
    name: str
    """What the remark is about, one word that is the same for all remarks of its sort."""
    message: str
    node: str | None = None
    """Framework node of the operation concerned."""
    function: str | None = None
    reason: str | None = None
    suggestion: str | None = None
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    """Numbers by name, with their units in the names."""


Listener = Callable[[Remark], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("remark_listener", default=None)
_PASS: ContextVar[str] = ContextVar("remarking_pass", default="")


def listening() -> bool:
    """Whether anybody hears remarks: ask before working out one that costs time."""
    return _LISTENER.get() is not None


def remark(
    kind: Kind,
    name: str,
    message: str,
    *,
    op: Operation | None = None,
    node: str | None = None,
    function: str | None = None,
    reason: str | None = None,
    suggestion: str | None = None,
    **figures: Any,
) -> None:
    """Make a remark in the name of the pass that is running.

    Args:
        kind: `passed`, `missed` or `analysis`.
        name: what it is about, in one word.
        message: the remark in one line.
        op: the operation concerned, which gives framework node and function where these are not given.
        node: name of the framework node concerned.
        function: name of the function concerned.
        reason: why it is so.
        suggestion: what to do for another outcome.
        figures: numbers, with units in their names.
    """
    listener = _LISTENER.get()
    if listener is None:
        return
    from neuron_dialects.neuron import location_name

    if op is not None:
        node = node or location_name(op.location)
        function = function or function_name(op)
    listener(Remark(kind, _PASS.get(), name, message, node, function, reason, suggestion, figures))


@contextmanager
def collect(listener: Listener) -> Generator[None]:
    """Let `listener` hear all remarks made inside."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


@contextmanager
def in_pass(name: str) -> Generator[None]:
    """Remarks made inside are those of the pass `name`."""
    token = _PASS.set(name)
    try:
        yield
    finally:
        _PASS.reset(token)


def function_name(op: Operation | None) -> str | None:
    """The function, or other named operation, that an operation is or stands in."""
    while op is not None:
        symbol = op.properties.get("sym_name")
        if isinstance(symbol, StringAttr):
            return symbol.data
        op = op.parent_op()
    return None
