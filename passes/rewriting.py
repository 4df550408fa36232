"""Rewrite patterns as plain functions, and the driver that applies them.

A pattern is a function of an operation and a rewriter, marked with the operation classes it looks at:

    @rewrites(ReshapeOp)
    def reshape_to_same_shape(op: ReshapeOp, rewriter: PatternRewriter) -> None:
        '''reshape(x) to x's own shape -> x'''

`apply_rewrites` applies a list of them until nothing changes. It adds to xDSL's driver what that lacks: patterns are
looked up by class, operations made by a pattern get the location of the operation it matched, and patterns that undo
each other are reported instead of running for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from xdsl.dialects.builtin import LocationAttr, ModuleOp, UnknownLoc
from xdsl.ir import Operation
from xdsl.pattern_rewriter import PatternRewriter, PatternRewriterListener, PatternRewriteWalker, RewritePattern
from xdsl.transforms.dead_code_elimination import is_trivially_dead

from neuron_dialects.remarks import function_name, listening, remark

MAX_REWRITES_PER_OPERATION = 100
"""How many rewrites a program may take for each operation that it had; well-behaved patterns need a handful."""

_A = TypeVar("_A", bound=Operation)
_B = TypeVar("_B", bound=Operation)


@dataclass(frozen=True)
class Rewrite:
    """A pattern: `apply(op, rewriter)` changes the program through the rewriter, or leaves it alone."""

    name: str
    op_classes: tuple[type[Operation], ...]
    apply: Callable[[Any, PatternRewriter], None]


class RewriteLimitExceeded(Exception):
    """Patterns undo each other: a fault of the patterns, not of the program."""


@overload
def rewrites(op_class: type[_A], /) -> Callable[[Callable[[_A, PatternRewriter], None]], Rewrite]: ...
@overload
def rewrites(
    op_class: type[_A], other: type[_B], /, *more: type[Operation]
) -> Callable[[Callable[[_A | _B, PatternRewriter], None]], Rewrite]: ...
def rewrites(*op_classes: type[Operation]) -> Callable[[Callable[[Any, PatternRewriter], None]], Rewrite]:
    """Decorator: make a pattern of a function that is to see the operations of exactly these classes."""

    def make(function: Callable[[Any, PatternRewriter], None]) -> Rewrite:
        return Rewrite(function.__name__, op_classes, function)

    return make


def apply_rewrites(module: ModuleOp, patterns: Sequence[Rewrite], *, erase_dead: bool = True) -> bool:
    """Apply patterns everywhere below `module`, in their order for each operation, until nothing changes.

    Args:
        module: changed in place.
        patterns: at most one applies to an operation at a time; what it makes or touches is looked at again.
        erase_dead: also erase operations without effect whose results nobody uses.

    Returns:
        whether anything changed.

    Raises:
        RewriteLimitExceeded: after `MAX_REWRITES_PER_OPERATION` rewrites for each operation.
    """
    dispatcher = _Dispatcher(patterns, erase_dead, sum(1 for _ in module.walk()))
    listener = PatternRewriterListener(operation_insertion_handler=[dispatcher.locate])
    return PatternRewriteWalker(dispatcher, listener=listener).rewrite_module(module)


def set_location(op: Operation, location: LocationAttr) -> None:
    """Give `op`, and the operations inside it, a location where they have none."""
    for inner in op.walk():
        if isinstance(inner.location, UnknownLoc):
            inner.location = location


class _Dispatcher(RewritePattern):
    """The one pattern that xDSL's driver sees: finds those for an operation's class, locates what they make, counts."""

    def __init__(self, patterns: Sequence[Rewrite], erase_dead: bool, operations: int) -> None:
        self._by_class: dict[type[Operation], list[Rewrite]] = {}
        for pattern in patterns:
            for op_class in pattern.op_classes:
                self._by_class.setdefault(op_class, []).append(pattern)
        self._erase_dead = erase_dead
        self._limit = MAX_REWRITES_PER_OPERATION * max(operations, 1)
        self._applied: Counter[str] = Counter()
        self._location: LocationAttr = UnknownLoc()

    def locate(self, op: Operation) -> None:
        """Called for each inserted operation."""
        set_location(op, self._location)

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if self._erase_dead and is_trivially_dead(op):
            rewriter.erase(op)
            return
        self._location = op.location
        for pattern in self._by_class.get(type(op), ()):
            function = function_name(op) if listening() else None
            pattern.apply(op, rewriter)
            if rewriter.has_done_action:
                self._count(pattern)
                rule = " ".join((pattern.apply.__doc__ or f"{op.name} is rewritten").split("\n\n")[0].split())
                remark("passed", pattern.name, rule, op=op, function=function)
                return

    def _count(self, pattern: Rewrite) -> None:
        self._applied[pattern.name] += 1
        if self._applied.total() > self._limit:
            most = ", ".join(f"{name} {count} times" for name, count in self._applied.most_common(3))
            raise RewriteLimitExceeded(f"no end after {self._limit} rewrites: {most}")
