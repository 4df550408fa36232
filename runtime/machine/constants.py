"""Operands of products that are the same in every run: made from the parameters once, before the program runs.

A constant operand was loaded from a parameter by a transfer. It is made by that transfer's own meaning on scratch
memory, so that the program's memories need not hold it yet, and is kept as float32: [rows, columns], or by its blocks
where most of it is zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.machine.blocks import BlockOperand, Floats
from runtime.machine.execution import Execution
from runtime.machine.products import Content, Group
from runtime.semantics.numerics import reader
from runtime.semantics.registry import Array
from runtime.semantics.tensor_engine import product_reader

KEPT_BYTES = 512 << 20
"""Size of all constant operands that stay for further runs."""

COPIED_BYTES = 64 << 20
"""Size of loaded parameters that are at hand while operands are made of them."""

ConstantOperand = Floats | BlockOperand


class Constants:
    """Makes constant operands while there is room for them; equal ones are one.

    Args:
        order: what happens in time, as for `products.find_groups`.
        executions: all executions in it, by number.
    """

    def __init__(self, order: Sequence[int], executions: Mapping[int, Execution], kept_bytes: int = KEPT_BYTES) -> None:
        self._order, self._executions, self._room_bytes = order, executions, kept_bytes
        self._made: dict[Hashable, ConstantOperand | None] = {}
        self._loads: dict[Hashable, NDArray[np.uint8]] = {}
        self._loads_bytes = 0

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
                values = self._values(self._executions[number], role, content)
                matrix[row : row + len(values), column : column + width] = values
                row += len(values)
            column += width
        pieces = [view.shape[0] for view in views[0]]
        made = (BlockOperand.of(matrix, pieces) if blocks else None) or matrix
        self._room_bytes -= made.nbytes
        return made

    def _values(self, execution: Execution, role: str, content: Content) -> Floats:
        """What an operand will hold, [rows, columns]."""
        load = self._executions[~self._order[content.written]]
        access = next(n for n, access in enumerate(execution.work.entry.accesses) if access.role == role)
        target = next(n for n, access in enumerate(load.work.entry.accesses) if access.writes)
        _, first, _, _, _ = execution.box(access)
        _, load_first, load_last, load_low, load_high = load.box(target)
        view, dst, row_bytes = execution.view(role), load.view("dst"), load_high - load_low
        partition_bytes = dst.strides[0]
        # Where the operand begins behind the first byte of the load, within a partition.
        start = _address(view) - _address(dst) - (first - load_first) * partition_bytes
        memory = self._loaded(load, content, (load_last - load_first) * row_bytes, row_bytes)
        offset, strides = (first - load_first) * row_bytes + start, (row_bytes, *view.strides[1:])
        values: Array = np.ndarray(view.shape, view.dtype, memory.data, offset, strides)
        dtype = execution.dtype(role)
        return (product_reader(dtype) or reader(dtype))(values).reshape(view.shape[0], -1)

    def _loaded(self, load: Execution, content: Content, size: int, row_bytes: int) -> NDArray[np.uint8]:
        """What a transfer loads, partition after partition."""
        assert isinstance(content.name, tuple)
        key = content.name[0]
        memory = self._loads.get(key)
        if memory is None:
            if self._loads_bytes + size > COPIED_BYTES:
                self._loads, self._loads_bytes = {}, 0
            memory = self._loads[key] = np.empty(size, np.uint8)
            self._loads_bytes += size
            dst, kernel = load.view("dst"), load.work.kernel
            assert kernel is not None
            place: Array = np.ndarray(dst.shape, dst.dtype, memory.data, 0, (row_bytes, *dst.strides[1:]))
            kernel({"src": load.view("src"), "dst": place}, {})()
        return memory


def _address(view: Array) -> int:
    return int(view.__array_interface__["data"][0])
