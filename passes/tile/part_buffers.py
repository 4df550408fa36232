"""Buffers that loops use part by part become as small as one part.

Loops that make and read rows in the same order touch, in one part of their iterations, a window of the rows of a
buffer. Where nothing else touches the buffer, and a part is done before the next one begins, all parts can use one
window: `window_of` says whether that is so, `use_window` lets a copy of a loop do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.dialects.builtin import MemRefType
from xdsl.dialects.scf import ForOp
from xdsl.ir import Operation, SSAValue
from xdsl.utils.hints import isa

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.access_ops import AccessAttr, AccessOp, space_of
from neuron_dialects.loops import trip_count


@dataclass(frozen=True)
class Window:
    """`rows` of a buffer's rows of `whole` elements that one part touches; as large a share of its other dimensions."""

    whole: int
    rows: int

    def pattern(self, pattern: AccessPattern, first: int) -> AccessPattern:
        """A view of the rows from `first` on, in a buffer of the window's rows alone."""
        outer, row = divmod(pattern.offset.constant, self.whole)
        terms = [(variable, self._stride(coefficient)) for variable, coefficient in pattern.offset.terms]
        offset = Affine.of(outer * self.rows + row - first, terms)
        dims = tuple((self._stride(stride), size) for stride, size in pattern.dims)
        return AccessPattern(pattern.partition, pattern.partitions, offset, dims)

    def _stride(self, stride: int) -> int:
        return stride // self.whole * self.rows if stride % self.whole == 0 else stride


def window_of(buffer: SSAValue, loops: Sequence[ForOp], parts: int) -> Window | None:
    """The window that each of `parts` parts of `loops`, which alone touch `buffer`, work on; None where they do not."""
    assert isa(buffer.type, MemRefType)
    elements = prod(buffer.type.get_shape()[1:])
    if space_of(buffer) != "sbuf" or not isinstance(buffer.owner, Operation):
        return None
    found: set[int] = set()
    for loop in loops:
        trips = trip_count(loop)
        for op in loop.walk():
            if not isinstance(op, AccessOp):
                continue
            counts = [_trips_of(index) for index in op.indices]
            outer = next((i for i, index in enumerate(op.indices) if index is loop.body.block.args[0]), None)
            for operand, pattern in op.views.values():
                if operand is buffer:
                    step = 0 if outer is None else pattern.offset.coefficient(outer)
                    found.add(step * trips if _stays_inside(pattern, step, step * trips, outer, counts) else 0)
    (whole,) = found if len(found) == 1 else (0,)
    return Window(whole, whole // parts) if whole and elements % whole == 0 and whole % parts == 0 else None


def _trips_of(index: SSAValue) -> int:
    block = index.owner
    assert not isinstance(block, Operation)
    loop = block.parent_op()
    assert isinstance(loop, ForOp)
    return trip_count(loop)


def _stays_inside(pattern: AccessPattern, step: int, whole: int, outer: int | None, counts: Sequence[int]) -> bool:
    """Whether an iteration touches no more than its own `step` of each `whole` elements."""
    if step <= 0:
        return False
    inner = [(coefficient, counts[v]) for v, coefficient in pattern.offset.terms if v != outer]
    within = [(stride, size) for stride, size in (*inner, *pattern.dims) if stride % whole]
    first = pattern.offset.constant % whole
    return all(stride > 0 for stride, _ in within) and first + sum(s * (n - 1) for s, n in within) < step


def use_window(ops: Sequence[Operation], buffer: SSAValue, window: Window, first: int, new: SSAValue) -> None:
    """Let `ops`, a part of a loop that touches the rows of `buffer` from `first` on, use `new` in its place."""
    for op in (inner for outer in ops for inner in outer.walk()):
        if isinstance(op, AccessOp) and buffer in op.buffers:
            patterns = [
                (role, window.pattern(pattern, first) if operand is buffer else pattern)
                for (role, pattern), operand in zip(op.access.data, op.buffers, strict=True)
            ]
            op.properties["access"] = AccessAttr(tuple(patterns))
            op.set_operands([new if operand is buffer else operand for operand in op.buffers], list(op.indices))
