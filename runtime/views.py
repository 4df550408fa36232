"""Numpy views of operands: from a piece of memory, an access pattern and values of its variables, without copying.

A `Region` is the memory that a pattern is relative to: a buffer, a whole on-chip memory, a DRAM tensor. An
`OperandView` is made once for each operand of a static instruction and gives the view of every execution; views are
kept by start, so that buffers that rotate cost one dictionary look-up. Bounds are checked when a view is made, on the
pattern's extremes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError

Array = NDArray[Any]
POISON = 0xFF
"""Every byte of memory that was not written: NaN in floating types, -1 in signed integers."""
_CACHED_VIEWS = 4096
"""Views kept for each operand; a loop over a large DRAM tensor has more starts than it pays to keep."""


def affine_function(expression: Affine) -> Callable[[Sequence[int]], int]:
    """The expression as a fast function of the values of its variables, indexed by variable."""
    constant, terms = expression.constant, expression.terms
    if not terms:
        return lambda variables: constant
    if len(terms) == 1:
        ((variable, coefficient),) = terms
        if coefficient == 1:
            return lambda variables: constant + variables[variable]
        return lambda variables: constant + coefficient * variables[variable]

    def value(variables: Sequence[int]) -> int:
        total = constant
        for variable, coefficient in terms:
            total += coefficient * variables[variable]
        return total

    return value


@dataclass(frozen=True)
class Region:
    """A piece of memory as access patterns see it.

    `memory`: all bytes, one-dimensional uint8. On chip the region has `rows` partitions, `row_bytes` of each, the first
    at byte `base`, `row_stride` bytes apart. In DRAM (`rows` 0) it is `row_bytes` bytes from `base`.
    """

    memory: NDArray[np.uint8]
    base: int
    rows: int
    row_bytes: int
    row_stride: int = 0
    label: str = "the buffer"

    @staticmethod
    def of_array(array: Array, label: str = "the tensor") -> "Region":
        """A DRAM tensor: the array's own memory, which must be contiguous."""
        flat = array.reshape(-1).view(np.uint8)
        return Region(flat, 0, 0, flat.size, 0, label)

    @staticmethod
    def on_chip(partitions: int, row_bytes: int, label: str = "the buffer") -> "Region":
        """Fresh poisoned memory of `partitions` rows."""
        memory = np.full(partitions * row_bytes, POISON, np.uint8)
        return Region(memory, 0, partitions, row_bytes, row_bytes, label)

    def poison(self) -> None:
        """Fill the region with poison."""
        if self.rows == 0:
            self.memory[self.base : self.base + self.row_bytes] = POISON
        else:
            shape, strides = (self.rows, self.row_bytes), (self.row_stride, 1)
            np.ndarray(shape, np.uint8, self.memory.data, self.base, strides)[...] = POISON


def widened(name: str, role: str, pattern: AccessPattern, fields: Mapping[str, Any]) -> AccessPattern:
    """The pattern of all that an operand may touch: the table of a gather or scatter gets its rows as a first
    dimension.
    """
    if role != "table" or name not in ("dma_gather", "dma_scatter"):
        return pattern
    rows, stride = int(fields.get("rows", 0)), int(fields.get("row_stride", 0))
    if rows < 1:
        raise NeuronError("NX-RUN-004", f"{name}: the table has {rows} rows, at least 1")
    return AccessPattern(pattern.partition, pattern.partitions, pattern.offset, ((stride, rows), *pattern.dims))


def view_shape(pattern: AccessPattern) -> tuple[int, ...]:
    """Shape of the views of a pattern: [partitions, *dims] on chip, [*dims] in DRAM."""
    free = tuple(size for _, size in pattern.dims)
    return free if pattern.is_dram else (pattern.partitions, *free)


def bounds_problem(
    pattern: AccessPattern, dtype: str, rows: int, row_bytes: int, partition: tuple[int, int], offset: tuple[int, int]
) -> str | None:
    """What lies outside of a region of `rows` x `row_bytes` when the starts run over the given (least, most) ranges."""
    low, high = pattern.extent
    size = dtype_by_name(dtype).size_bytes
    first, last = (offset[0] + low) * size, (offset[1] + high + 1) * size
    if first < 0 or last > row_bytes:
        place = "the tensor" if pattern.is_dram else "a partition's row"
        return f"touches bytes {first} to {last - 1} of {place}, which has {row_bytes}"
    if not pattern.is_dram and (partition[0] < 0 or partition[1] + pattern.partitions > rows):
        return f"touches partitions {partition[0]} to {partition[1] + pattern.partitions - 1}, there are {rows}"
    return None


class OperandView:
    """Views of one operand of one static instruction.

    Calling it with the values of the variables gives the view of this execution: [partitions, *dims] on chip, [*dims]
    in DRAM, of the operand's type. Raises NX-RUN-001 where the pattern leaves the region; `name` is how the message
    calls the operand, `node` the framework node that it is for.
    """

    __slots__ = ("_cache", "_dtype", "_name", "_node", "_offset", "_partition", "_pattern", "_region", "_strides")

    def __init__(self, region: Region, pattern: AccessPattern, dtype: str, name: str, node: str | None = None) -> None:
        self._region, self._pattern, self._name, self._node = region, pattern, name, node
        self._dtype = dtype_by_name(dtype)
        size = self._dtype.size_bytes
        free = tuple(stride * size for stride, _ in pattern.dims)
        self._strides = free if pattern.is_dram else (region.row_stride, *free)
        self._offset = affine_function(pattern.offset)
        self._partition = affine_function(pattern.partition) if pattern.partition.terms else None
        self._cache: dict[Any, Array] = {}

    def __call__(self, variables: Sequence[int]) -> Array:
        key: Any = self._offset(variables)
        if self._partition is not None:
            key = (key, self._partition(variables))
        view = self._cache.get(key)
        return self._make(key) if view is None else view

    def _make(self, key: Any) -> Array:
        offset, partition = key if isinstance(key, tuple) else (key, self._pattern.partition.constant)
        region, pattern = self._region, self._pattern
        problem = bounds_problem(
            pattern, self._dtype.name, region.rows, region.row_bytes, (partition, partition), (offset, offset)
        )
        if problem:
            raise NeuronError("NX-RUN-001", f"{self._name} {problem} ({region.label})", node=self._node)
        start = region.base + partition * region.row_stride + offset * self._dtype.size_bytes
        view: Array = np.ndarray(view_shape(pattern), self._dtype.numpy, region.memory.data, start, self._strides)
        if len(self._cache) >= _CACHED_VIEWS:
            self._cache.clear()
        self._cache[key] = view
        return view
