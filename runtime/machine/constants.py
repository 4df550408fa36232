"""Operands of products that are the same in every run: made from the parameters once, before the program runs.

A constant operand was loaded from a parameter by a transfer, or made of others by an instruction. It is made by these
instructions' own meanings on scratch memory, so that the program's memories need not hold it yet, and is kept as
float32: [rows, columns], or by its blocks where most of it is zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.machine.blocks import BlockOperand, Floats
from runtime.machine.execution import DST, Execution
from runtime.machine.products import Content, Group
from runtime.semantics.numerics import reader
from runtime.semantics.registry import Array
from runtime.semantics.tensor_engine import product_reader

KEPT_BYTES = 512 << 20
"""Size of all constant operands that stay for further runs."""

COPIED_BYTES = 64 << 20
"""Size of what instructions wrote that is at hand while operands are made of it."""

ConstantOperand = Floats | BlockOperand


class Constants:
    """Makes constant operands while there is room for them; equal ones are one.

    Args:
        order: what happens in time, as for `products.find_groups`.
        executions: all executions in it, by number.
        sources: of those that write constants, the contents of what they read.
    """

    def __init__(
        self,
        order: Sequence[int],
        executions: Mapping[int, Execution],
        sources: Mapping[int, Sequence[Content]],
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._order, self._executions, self._sources = order, executions, sources
        self._room_bytes = kept_bytes
        self._made: dict[Hashable, ConstantOperand | None] = {}
        self._written: dict[Hashable, NDArray[np.uint8]] = {}
        self._written_bytes = 0

    def operand(self, groups: Sequence[Group], role: str, *, blocks: bool) -> ConstantOperand | None:
        """The operand `role` of groups, side by side; None where it is not constant or there is no room.

        `blocks`: it may be given by its blocks.
        """
        contents = tuple(tuple(group.contents(role)) for group in groups)
        if not all(content.constant for own in contents for content in own):
            return None
        key = contents, blocks
        if key not in self._made:
            self._made[key] = self._make(groups, role, blocks)
        return self._made[key]

    def _make(self, groups: Sequence[Group], role: str, blocks: bool) -> ConstantOperand | None:
        views = [[self._executions[number].view(role) for number in group.members] for group in groups]
        widths = [own[0].size // own[0].shape[0] for own in views]
        if 4 * groups[0].rows * sum(widths) > self._room_bytes:
            return None
        matrix, column = np.empty((groups[0].rows, sum(widths)), np.float32), 0
        for group, width in zip(groups, widths, strict=True):
            row = 0
            for number, content in zip(group.members, group.contents(role), strict=True):
                execution, dtype = self._executions[number], self._executions[number].dtype(role)
                view = self._view(execution, role, content)
                values = (product_reader(dtype) or reader(dtype))(view).reshape(view.shape[0], -1)
                matrix[row : row + len(values), column : column + width] = values
                row += len(values)
            column += width
        pieces = [view.shape[0] for view in views[0]]
        made = (BlockOperand.of(matrix, pieces) if blocks else None) or matrix
        self._room_bytes -= made.nbytes
        return made

    def _view(self, execution: Execution, role: str, content: Content) -> Array:
        """An operand, on scratch memory."""
        number = ~self._order[content.written]
        writer = self._executions[number]
        _, first, _, _, _ = execution.box(_access(execution, role))
        _, own_first, own_last, low, high = writer.box(_access(writer, DST))
        view, dst, row_bytes = execution.view(role), writer.view(DST), high - low
        # Where the operand begins behind the first byte of what was written, within a partition.
        start = _address(view) - _address(dst) - (first - own_first) * dst.strides[0]
        memory = self._result(number, content, (own_last - own_first) * row_bytes, row_bytes)
        offset, strides = (first - own_first) * row_bytes + start, (row_bytes, *view.strides[1:])
        return np.ndarray(view.shape, view.dtype, memory.data, offset, strides)

    def _result(self, number: int, content: Content, size: int, row_bytes: int) -> NDArray[np.uint8]:
        """What an execution writes, partition after partition."""
        assert isinstance(content.name, tuple)
        key = content.name[0]
        memory = self._written.get(key)
        if memory is None:
            writer, contents = self._executions[number], iter(self._sources[number])
            kernel = writer.work.kernel
            assert kernel is not None
            views, numbers = writer.operands
            made = {role: self._view(writer, role, next(contents)) for role in writer.sources}
            memory = np.empty(size, np.uint8)
            dst = views[DST]
            made[DST] = np.ndarray(dst.shape, dst.dtype, memory.data, 0, (row_bytes, *dst.strides[1:]))
            kernel({**views, **made}, numbers)()
            if self._written_bytes + size > COPIED_BYTES:
                self._written, self._written_bytes = {}, 0
            self._written[key] = memory
            self._written_bytes += size
        return memory


def _access(execution: Execution, role: str) -> int:
    """The number of an operand among the accesses."""
    return next(n for n, access in enumerate(execution.work.entry.accesses) if access.role == role)


def _address(view: Array) -> int:
    return int(view.__array_interface__["data"][0])
