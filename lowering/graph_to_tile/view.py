"""Views: rectangular, strided, possibly broadcast pieces of a buffer, with starts that are affine in loop variables.

Kernel templates slice, permute, split and broadcast views the way numpy code would, and hand them to the builder, which
turns them into access patterns. A view of an on-chip buffer has the partition as dimension 0; a DRAM view has no such
dimension. Variables of the affine starts are loop numbers given out by the builder. Nothing here touches the IR.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from neuron_dialects.access import AccessPattern, Affine, merge_dims

Start = Affine | int


def as_affine(value: Start) -> Affine:
    """An integer or affine expression as an affine expression."""
    return value if isinstance(value, Affine) else Affine(value)


@dataclass(frozen=True)
class Buffer:
    """A buffer of a kernel: `key` identifies it to the builder; `shape` is row-major, on chip the partition first."""

    key: int
    shape: tuple[int, ...]
    dtype: str
    space: str

    @property
    def on_chip(self) -> bool:
        """Whether dimension 0 is the partition."""
        return self.space != "dram"

    def view(self) -> "View":
        """The whole buffer."""
        free = self.shape[1:] if self.on_chip else self.shape
        strides: list[int] = []
        stride = 1
        for size in reversed(free):
            strides.append(stride)
            stride *= size
        dims = tuple(zip(reversed(strides), free, strict=True))
        return View(self, Affine(), self.shape[0] if self.on_chip else 0, Affine(), dims)


@dataclass(frozen=True)
class View:
    """`partitions` partitions from `partition` (none: DRAM), and free dims (stride, size) from `offset` elements."""

    buffer: Buffer
    partition: Affine
    partitions: int
    offset: Affine
    dims: tuple[tuple[int, int], ...]

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.buffer.dtype

    @property
    def space(self) -> str:
        """Memory space."""
        return self.buffer.space

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes; on chip the number of partitions comes first."""
        free = tuple(size for _, size in self.dims)
        return (self.partitions, *free) if self.buffer.on_chip else free

    @property
    def free_elements(self) -> int:
        """Elements per partition (on chip) or in all (DRAM)."""
        return prod(size for _, size in self.dims)

    @property
    def is_column(self) -> bool:
        """Whether every partition sees one element (repeated along the free dimensions)."""
        return self.buffer.on_chip and all(stride == 0 or size == 1 for stride, size in self.dims)

    @property
    def column(self) -> "View":
        """The [P, 1] view of a column."""
        return replace(self, dims=((1, 1),))

    def _free(self, dim: int) -> int:
        """Index into `dims` of dimension `dim`; -1 for the partition."""
        dim = dim if dim >= 0 else dim + len(self.shape)
        return dim - 1 if self.buffer.on_chip else dim

    def slice(self, dim: int, start: Start, size: int, step: int = 1) -> "View":
        """`size` positions of dimension `dim` from `start`, `step` apart."""
        index = self._free(dim)
        start = as_affine(start)
        if index < 0:
            return replace(self, partition=self.partition + start, partitions=size)
        stride, _ = self.dims[index]
        dims = (*self.dims[:index], (stride * step, size), *self.dims[index + 1 :])
        return replace(self, offset=self.offset + start * stride, dims=dims)

    def at(self, dim: int, start: Start) -> "View":
        """Position `start` of free dimension `dim`, which disappears."""
        index = self._free(dim)
        stride, _ = self.dims[index]
        dims = (*self.dims[:index], *self.dims[index + 1 :])
        return replace(self, offset=self.offset + as_affine(start) * stride, dims=dims)

    def permute(self, order: Sequence[int]) -> "View":
        """Free dimensions in a new order (indices count free dimensions only)."""
        return replace(self, dims=tuple(self.dims[i] for i in order))

    def insert(self, index: int, size: int = 1) -> "View":
        """A new free dimension of `size` repetitions before free dimension `index`."""
        return replace(self, dims=(*self.dims[:index], (0, size), *self.dims[index:]))

    def broadcast(self, sizes: Sequence[int]) -> "View":
        """Free dimensions of size 1 repeated to `sizes` (one entry per free dimension)."""
        dims = tuple(
            (0, want) if size == 1 and want != 1 else (stride, size)
            for (stride, size), want in zip(self.dims, sizes, strict=True)
        )
        return replace(self, dims=dims)

    def split(self, index: int, sizes: Sequence[int]) -> "View":
        """Free dimension `index` as several of `sizes` (row-major); their product is its size."""
        stride, size = self.dims[index]
        assert prod(sizes) == size, (sizes, size)
        parts: list[tuple[int, int]] = []
        for part in reversed(sizes):
            parts.append((stride, part))
            stride *= part
        return replace(self, dims=(*self.dims[:index], *reversed(parts), *self.dims[index + 1 :]))

    def flat(self) -> "View":
        """All free dimensions as one; they must form one run (ValueError otherwise)."""
        merged = merge_dims(self.dims)
        if len(merged) > 1:
            raise ValueError(f"free dimensions {self.dims} are not one run")
        return replace(self, dims=merged)

    def pattern(self) -> AccessPattern:
        """The access pattern, with as few dims as possible."""
        return AccessPattern(self.partition, self.partitions, self.offset, merge_dims(self.dims))
