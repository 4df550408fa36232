"""Iteration spaces: how a kernel walks the elements of its tensors, and where on the way it loads them.

A kernel without data movement of its own (elementwise, reduction, normalisation) works on pieces of one index space.
This module holds the arithmetic of such spaces, on plain tuples (`collapse`, `choose_lanes`, `chunk_sizes`), the view
of a tensor from a space (`Access`), and `traverse`, which emits the loops over pieces and loads every tensor at the
outermost loop level at which the piece of it is known, so that what does not change in a loop is loaded before it.
"""

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, gcd, prod
from typing import TypeVar

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.target import Target

Shape = tuple[int, ...]
Strides = tuple[int, ...]
Piece = dict[int, tuple[Affine, int]]
"""Dimension of the space -> (start, size); dimensions that are not named are taken whole."""

MIN_CHUNK_ELEMENTS = 512
"""No row is cut shorter than this to overlap transfer and computation: rows of 2 KiB keep a DMA near its best rate."""

OVERLAPPED_CHUNKS = 4
"""Pieces that a long row is cut into, so that loading, computing and storing overlap."""


def collapse(shape: Sequence[int], strides: Sequence[Strides]) -> tuple[Shape, list[Strides]]:
    """The fewest dimensions in which every tensor still walks the same elements in the same order.

    `strides` has one entry per tensor, with one stride per dimension of `shape`. Dimensions of size 1 disappear and
    neighbours merge where they form one run in every tensor; at least one dimension is left.
    """
    dims: list[tuple[int, Strides]] = []
    for d, size in enumerate(shape):
        if size == 1:
            continue
        walk = tuple(tensor[d] for tensor in strides)
        if dims and all(outer == inner * size for outer, inner in zip(dims[-1][1], walk, strict=True)):
            dims[-1] = (dims[-1][0] * size, walk)
        else:
            dims.append((size, walk))
    if not dims:
        dims.append((1, (0,) * len(strides)))
    return tuple(size for size, _ in dims), [tuple(walk[t] for _, walk in dims) for t in range(len(strides))]


def split(shape: Sequence[int], strides: Sequence[Strides], dim: int, parts: int) -> tuple[Shape, list[Strides]]:
    """Dimension `dim` as two: `parts` positions of consecutive runs. `parts` divides its size."""
    run = shape[dim] // parts
    new = [(*walk[:dim], walk[dim] * run, walk[dim], *walk[dim + 1 :]) for walk in strides]
    return (*shape[:dim], parts, run, *shape[dim + 1 :]), new


def largest_divisor(size: int, limit: int = LANES) -> int:
    """The largest divisor of `size` up to `limit`."""
    if size <= limit:
        return size
    return max(d for d in range(1, limit + 1) if gcd(size, d) == d)


@dataclass(frozen=True)
class Lanes:
    """Which positions lie on the partitions: those of dimension `dim`, as `parts` runs of consecutive ones."""

    dim: int
    parts: int


def _run_elements(shape: Shape, walk: Strides, lanes: Lanes) -> int:
    """Elements of the innermost contiguous run that one partition's row reads of a tensor."""
    run = 1
    for d in reversed(range(len(shape))):
        if walk[d] == 0:
            continue
        size = shape[d] // lanes.parts if d == lanes.dim else shape[d]
        if walk[d] != run and size > 1:
            break
        if d == lanes.dim:
            return run * size
        run *= size
    return run


def _cost_ns(
    shape: Shape, strides: Sequence[Strides], sizes_bytes: Sequence[int], passes: float, lanes: Lanes, target: Target
) -> float:
    """Nanoseconds per element, roughly: passes of the vector engine, transfers by descriptors or bytes, and pieces."""
    total = prod(shape)
    pieces = ceil(lanes.parts / LANES)
    used = lanes.parts / pieces
    rows = [d for d in range(len(shape)) if d != lanes.dim or lanes.parts != shape[d]]
    tiles = sum(any(walk[d] for d in rows) for walk in strides)
    # One tensor is the result; an operation streams every other one that is no column.
    cost = passes * max(1, tiles - 1) / (used * target.clock_ghz("dve"))
    cost += max(0, pieces - OVERLAPPED_CHUNKS) * float(target.dma_completion_ns) / total
    for walk, size_bytes in zip(strides, sizes_bytes, strict=True):
        elements = prod(n for n, stride in zip(shape, walk, strict=True) if stride)
        descriptor = float(target.dma_descriptor_ns) / float(target.dma_engines) / _run_elements(shape, walk, lanes)
        cost += max(descriptor, size_bytes / target.dma_rate_bytes_per_ns) * elements / total
    return cost


def choose_lanes(
    shape: Shape,
    strides: Sequence[Strides],
    sizes_bytes: Sequence[int],
    candidates: Collection[int],
    target: Target,
    passes: float = 1.0,
) -> Lanes:
    """The cheapest dimension among `candidates` to lie on the partitions, whole or in equal runs.

    Many lanes make computing fast, which goes over the data `passes` times; long contiguous runs in the rows make the
    transfers fast. `sizes_bytes` is the element size of each tensor.
    """
    options: list[Lanes] = []
    for d in candidates:
        options.append(Lanes(d, shape[d]))
        parts = largest_divisor(shape[d])
        if parts not in (1, shape[d]):
            options.append(Lanes(d, parts))
    return min(options, key=lambda lanes: _cost_ns(shape, strides, sizes_bytes, passes, lanes, target))


def balanced(size: int, limit: int) -> int:
    """The chunk that cuts `size` into equal parts of at most `limit`.

    The last part is smaller only where no chunk of at least half the limit divides the size: a remainder is more code.
    """
    limit = max(1, limit)
    chunk = ceil(size / ceil(size / limit))
    if size % chunk == 0:
        return chunk
    return next((d for d in range(limit, limit // 2, -1) if size % d == 0), chunk)


def chunk_sizes(shape: Sequence[int], partition: int, limit: int, whole: Collection[int] = ()) -> list[int]:
    """Piece size for every dimension: up to 128 lanes, and rows of up to `limit` elements, innermost dimensions first.

    Dimensions in `whole` are never cut, whatever the limit.
    """
    chunks = list(shape)
    chunks[partition] = min(LANES, shape[partition])
    budget = max(1, limit // prod(shape[d] for d in whole if d != partition))
    for d in reversed(range(len(shape))):
        if d != partition and d not in whole:
            chunks[d] = balanced(shape[d], budget)
            budget = max(1, budget // chunks[d])
    return chunks


def overlapping_limit(row_elements: int, limit: int) -> int:
    """Row length for a sweep: within `limit`, and such that a long row gives several pieces that overlap."""
    return min(limit, max(MIN_CHUNK_ELEMENTS, ceil(row_elements / OVERLAPPED_CHUNKS)))


@dataclass(frozen=True)
class Space:
    """An index space: sizes of its dimensions, and the one that lies on the partitions."""

    shape: Shape
    partition: int

    @property
    def free(self) -> list[int]:
        """The dimensions that run in the rows, in order."""
        return [d for d in range(len(self.shape)) if d != self.partition]

    @property
    def row_elements(self) -> int:
        """Elements of one partition's row."""
        return prod(self.shape[d] for d in self.free)


@dataclass(frozen=True)
class Access:
    """A tensor seen from a space: `dims[d]` is its dimension that dimension d walks, None where it stands still."""

    tensor: DramTensor | SbufTensor
    dims: tuple[int | None, ...]

    @staticmethod
    def dram(tensor: DramTensor, shape: Sequence[int], strides: Strides) -> "Access":
        """The buffer of a DRAM tensor walked with `strides` over a space of `shape`; stride 0 stands still."""
        still = [stride == 0 or size == 1 for stride, size in zip(strides, shape, strict=True)]
        sizes = tuple(1 if s else size for s, size in zip(still, shape, strict=True))
        window = replace(tensor, shape=sizes, strides=tuple(strides))
        return Access(window, tuple(None if s else d for d, s in enumerate(still)))

    @staticmethod
    def aligned(tensor: SbufTensor, shape: Sequence[int]) -> "Access":
        """A resident tensor that broadcasts to a space of `shape` by numpy's rule."""
        lead = len(shape) - len(tensor.shape)
        dims = (d if n == want else None for d, (n, want) in enumerate(zip(tensor.shape, shape[lead:], strict=True)))
        return Access(tensor, (*(None for _ in range(lead)), *dims))

    def _ranges(self, space: Space, piece: Piece) -> Piece:
        """The piece in the tensor's own dimensions; the lanes it needs are named even where it stands still on them."""
        if isinstance(self.tensor, SbufTensor):
            return {t: piece[d] for d, t in enumerate(self.dims) if t is not None and d in piece}
        ranges = {d: piece[d] for d, t in enumerate(self.dims) if t is not None and d in piece}
        if self.dims[space.partition] is None:
            ranges[space.partition] = (Affine(), min(LANES, space.shape[space.partition]))
        return ranges

    def _in_space(self, view: View, space: Space) -> View:
        """A resident view with one free dimension for every one of the space, of size 1 where it stands still."""
        assert isinstance(self.tensor, SbufTensor)
        own = [d for d in range(len(self.tensor.shape)) if d != self.tensor.partition]
        # Dimensions of size 1 that the space does not walk come out, those of the space that it lacks go in.
        walked = [t for t in self.dims if t is not None]
        for position in reversed(range(len(own))):
            if own[position] not in walked:
                view = view.at(1 + position, 0)
        for position, d in enumerate(space.free):
            if self.dims[d] is None:
                view = view.insert(position)
        return view

    def load(self, b: KernelBuilder, space: Space, piece: Piece, dtype: str | None, copies: int) -> View:
        """[lanes, one free dim for every free dim of the space]; size 1 where the tensor stands still."""
        ranges = self._ranges(space, piece)
        if isinstance(self.tensor, DramTensor):
            return self.tensor.load(b, space.partition, ranges, dtype, copies)
        return self._in_space(self.tensor.load(b, self.tensor.partition, ranges, dtype, copies), space)

    def store(self, b: KernelBuilder, space: Space, piece: Piece, copies: int) -> tuple[View, Callable[[], None]]:
        """Where to compute one piece into, shaped as `load` shapes it, and the function that finishes it."""
        ranges = self._ranges(space, piece)
        if isinstance(self.tensor, DramTensor):
            return self.tensor.store(b, space.partition, ranges, None, copies)
        view, commit = self.tensor.store(b, self.tensor.partition, ranges, None, copies)
        return self._in_space(view, space), commit

    def is_column(self, space: Space) -> bool:
        """Whether it varies only along the partitions."""
        return all(self.dims[d] is None for d in space.free)

    @property
    def size_bytes(self) -> int:
        """Bytes of an element."""
        return dtype_by_name(self.tensor.dtype).size_bytes


def fitted(view: View, space: Space, piece: Piece) -> View:
    """A loaded view cut to the lanes of the piece and repeated to its sizes."""
    sizes = [piece[d][1] if d in piece else n for d, n in enumerate(space.shape)]
    lanes = sizes[space.partition]
    view = view.slice(0, 0, lanes) if view.partitions != lanes else view
    return view.broadcast([sizes[d] for d in space.free])


Key = TypeVar("Key", bound=Hashable)


def traverse(
    b: KernelBuilder,
    space: Space,
    chunks: Sequence[int],
    accesses: Mapping[Key, tuple[Access, str | None]],
    body: Callable[[Piece, dict[Key, View]], None],
    last_lanes_apart: bool = False,
) -> None:
    """Loops over the pieces of a space; `body(piece, views)` emits the work on one.

    `accesses`: what to load, and as which element type (None: its own). Its views come shaped [lanes, free dims of the
    space], repeated where the tensor stands still. Lanes are the outermost loop unless everything that stands still on
    some dimension does so on the lanes. `last_lanes_apart`: the last tile of lanes is not in the loop of the others.
    """
    cut = [d for d in space.free if chunks[d] != space.shape[d]]
    rows_repeat = any(access.dims[space.partition] is None for access, _ in accesses.values())
    columns_repeat = any(access.dims[d] is None for access, _ in accesses.values() for d in cut)
    order = [*cut, space.partition] if rows_repeat and not columns_repeat else [space.partition, *cut]

    def step(remaining: list[int], piece: Piece, loaded: dict[Key, View]) -> None:
        here = dict(loaded)
        for key, (access, dtype) in accesses.items():
            waits = any(access.dims[d] is not None for d in remaining)
            if key not in here and not waits:
                here[key] = access.load(b, space, piece, dtype, b.rotation)
        if not remaining:
            body(piece, {key: fitted(view, space, piece) for key, view in here.items()})
            return
        d = remaining[0]
        apart = last_lanes_apart and d == space.partition
        head = (space.shape[d] - 1) // chunks[d] * chunks[d] if apart else space.shape[d]
        b.tiles(head, chunks[d], lambda start, size: step(remaining[1:], {**piece, d: (start, size)}, here))
        if apart:
            step(remaining[1:], {**piece, d: (Affine(head), space.shape[d] - head)}, here)

    step(order, {}, {})
