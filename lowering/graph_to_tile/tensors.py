"""Where a tensor lives while a core function runs, and how kernels get at pieces of it.

A `DramTensor` is a strided window on a DRAM buffer: reshape, transpose, slice and broadcast of such a tensor are new
windows, not copies. An `SbufTensor` is resident on chip in the layout its encoding names: one logical dimension lies on
the partitions in tiles of 128, the others follow in order behind the tile number. Both give kernels the same two
things: `load` returns an SBUF view of one piece (issuing DMA only where needed), and `store` returns where to write a
piece and how to finish it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, prod

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.view import Buffer, Start, View, as_affine
from neuron_dialects.access import Affine, merge_dims
from neuron_dialects.isa.limits import MAX_DMA_DIMS
from passes.graph.conv_groups import LANES

Ranges = Mapping[int, tuple[Start, int]]
"""Logical dimension -> (start, size); dimensions that are not named are taken whole."""


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense row-major tensor."""
    strides = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        strides[i] = strides[i + 1] * shape[i + 1]
    return tuple(strides)


@dataclass(frozen=True)
class DramTensor:
    """A window of `shape` on a DRAM buffer: element index = offset + sum(index * stride). Stride 0 repeats.

    `element` is the type that the tensor has where it differs from the buffer's: the DMA casts as it loads.
    """

    buffer: Buffer
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    symbol: str | None = None
    element: str | None = None

    @staticmethod
    def dense(buffer: Buffer, shape: Sequence[int] | None = None, symbol: str | None = None) -> "DramTensor":
        """The whole buffer in row-major order, seen as `shape`."""
        shape = tuple(buffer.shape if shape is None else shape)
        return DramTensor(buffer, shape, row_major(shape), 0, symbol)

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.element or self.buffer.dtype

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie in row-major order without gaps."""
        return all(
            size == 1 or stride == dense
            for size, stride, dense in zip(self.shape, self.strides, row_major(self.shape), strict=True)
        )

    def reshape(self, shape: Sequence[int]) -> "DramTensor | None":
        """The same window with another shape, or None where that needs a copy."""
        strides = reshape_strides(self.shape, self.strides, shape)
        return None if strides is None else replace(self, shape=tuple(shape), strides=strides)

    def transpose(self, permutation: Sequence[int]) -> "DramTensor":
        """Dimensions in a new order."""
        return replace(
            self, shape=tuple(self.shape[i] for i in permutation), strides=tuple(self.strides[i] for i in permutation)
        )

    def slice(self, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> "DramTensor":
        """A strided window; steps may be negative."""
        offset = self.offset + sum(start * stride for start, stride in zip(starts, self.strides, strict=True))
        strides = tuple(stride * step for stride, step in zip(self.strides, steps, strict=True))
        return replace(self, shape=tuple(sizes), strides=strides, offset=offset)

    def part(self, axis: int, first: int, size: int) -> "DramTensor":
        """The window of `size` positions of `axis` from `first` on."""
        starts, sizes = [0] * len(self.shape), list(self.shape)
        starts[axis], sizes[axis] = first, size
        return self.slice(starts, sizes, [1] * len(sizes))

    def broadcast(self, shape: Sequence[int]) -> "DramTensor":
        """Repeated to `shape` by numpy's rule."""
        lead = len(shape) - len(self.shape)
        strides = (0,) * lead + tuple(
            0 if size == 1 and want != 1 else stride
            for size, stride, want in zip(self.shape, self.strides, shape[lead:], strict=True)
        )
        return replace(self, shape=tuple(shape), strides=strides)

    def view(self, ranges: Ranges | None = None, order: Sequence[int] | None = None) -> View:
        """A DRAM view of one piece, its dimensions in `order` (logical order by default)."""
        offset, sizes = Affine(self.offset), list(self.shape)
        for dim, (start, size) in (ranges or {}).items():
            offset = offset + as_affine(start) * self.strides[dim]
            sizes[dim] = size
        dims = tuple((self.strides[d], sizes[d]) for d in (order if order is not None else range(len(sizes))))
        return View(self.buffer, Affine(), 0, offset, dims)

    def load(
        self,
        b: KernelBuilder,
        partition: int,
        ranges: Ranges,
        dtype: str | None = None,
        copies: int = 2,
        name: str | None = None,
    ) -> View:
        """Load one piece with dimension `partition` on the partitions; returns [partition, other dims in order].

        The piece spans at most 128 positions of `partition`. Repeated (stride 0) free dimensions are loaded once.
        """
        sizes = [ranges[d][1] if d in ranges else size for d, size in enumerate(self.shape)]
        free = [d for d in range(len(sizes)) if d != partition]
        stored = [1 if self.strides[d] == 0 else sizes[d] for d in free]
        tile = b.alloc((sizes[partition], *(stored or [1])), dtype or self.dtype, "sbuf", copies, name)
        repeated = {d for d in free if self.strides[d] == 0}
        once = {d: (start, 1 if d in repeated else size) for d, (start, size) in ranges.items()}
        for d in free:
            if self.strides[d] == 0:
                once[d] = (0, 1)
        transfer(b, b.load, tile.view(), self.view(once, [partition, *free]))
        view = tile.view() if free else replace(tile.view(), dims=())
        return view.broadcast([sizes[d] for d in free])

    def store(
        self, b: KernelBuilder, partition: int, ranges: Ranges, dtype: str | None = None, copies: int = 2
    ) -> tuple[View, Callable[[], None]]:
        """A tile to compute one piece into, and the function that writes it back."""
        sizes = [ranges[d][1] if d in ranges else size for d, size in enumerate(self.shape)]
        free = [d for d in range(len(sizes)) if d != partition]
        tile = b.alloc((sizes[partition], *([sizes[d] for d in free] or [1])), dtype or self.dtype, "sbuf", copies)
        view = tile.view() if free else replace(tile.view(), dims=())

        def commit() -> None:
            transfer(b, b.store, self.view(ranges, [partition, *free]), tile.view())

        return view, commit


@dataclass(frozen=True)
class SbufTensor:
    """A tensor resident in SBUF: buffer [128, ceil(size / 128), other dims...], dimension `partition` on partitions.

    `halo` elements before and after each of the trailing dims of the buffer belong to it but not to the tensor (zeros
    that a convolution reads as padding): (before, after) per logical dimension other than `partition`, none if empty.
    A tensor may begin at lane `first_lane` of tile `first_tile` of a buffer that holds more: at another lane than 0
    where it has less than a tile.
    """

    buffer: Buffer
    shape: tuple[int, ...]
    partition: int
    halo: tuple[tuple[int, int], ...] = ()
    first_tile: int = 0
    first_lane: int = 0

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.buffer.dtype

    @property
    def whole(self) -> View:
        """[lanes, tiles, other dims in order], halo included."""
        lanes = min(LANES, self.shape[self.partition])
        return self.buffer.view().slice(0, self.first_lane, lanes).slice(1, self.first_tile, self.tiles)

    @property
    def single_pixels(self) -> View:
        """[lanes, tiles, images] of a tensor [images, channels, 1...] with channels on partitions."""
        (first_image, _), *around = self.halo or ((0, 0),) * (len(self.shape) - 1)
        view = self.whole.slice(2, first_image, self.shape[0])
        for low, _ in around:
            view = view.at(3, low)
        return view

    def seen_as(self, shape: Sequence[int], partition: int) -> "SbufTensor":
        """The same memory, without halo, under another shape; only the buffer's view of its row changes."""
        row = SbufTensor.buffer_shape(shape, partition)
        buffer = replace(self.buffer, shape=(*self.buffer.shape[:2], *row[2:]))
        return replace(self, buffer=buffer, shape=tuple(shape), partition=partition, halo=())

    @property
    def tiles(self) -> int:
        """Tiles of 128 that the partition dimension is cut into."""
        return ceil(self.shape[self.partition] / LANES)

    @staticmethod
    def buffer_shape(shape: Sequence[int], partition: int, halo: Sequence[tuple[int, int]] = ()) -> tuple[int, ...]:
        """Shape of the buffer that holds a tensor of `shape`."""
        others = [size for d, size in enumerate(shape) if d != partition]
        if halo:
            others = [size + low + high for size, (low, high) in zip(others, halo, strict=True)]
        return (min(LANES, shape[partition]), ceil(shape[partition] / LANES), *others)

    def view(self, ranges: Ranges, with_halo: bool = False) -> View:
        """[partition, other dims in order] of one piece; its start on the partition dimension is a multiple of 128.

        With `with_halo`, starts and sizes of the other dims count from the first halo element.
        """
        start, size = ranges.get(self.partition, (0, self.shape[self.partition]))
        view = self.whole.slice(0, 0, size).at(1, as_affine(start).divided(LANES))
        others = [d for d in range(len(self.shape)) if d != self.partition]
        for position, d in enumerate(others):
            low = self.halo[position][0] if self.halo and not with_halo else 0
            first, count = ranges.get(d, (0, self.shape[d] if not with_halo else view.shape[1 + position]))
            view = view.slice(1 + position, as_affine(first) + low, count)
        return view

    def load(
        self,
        b: KernelBuilder,
        partition: int,
        ranges: Ranges,
        dtype: str | None = None,
        copies: int = 2,
        name: str | None = None,
    ) -> View:
        """The resident piece itself; copied only to change its element type."""
        assert partition == self.partition
        view = self.view(ranges)
        if dtype is None or dtype == self.dtype:
            return view
        tile = b.alloc(view.shape, dtype, "sbuf", copies, name).view()
        b.copy(tile, view)
        return tile

    def store(
        self, b: KernelBuilder, partition: int, ranges: Ranges, dtype: str | None = None, copies: int = 2
    ) -> tuple[View, Callable[[], None]]:
        """The resident piece itself; nothing to finish."""
        assert partition == self.partition
        return self.view(ranges), lambda: None


@dataclass(frozen=True)
class RingTensor(SbufTensor):
    """A tensor [N, C, H, W] with C on partitions of which the last pieces that were written are in SBUF.

    A piece is `piece_rows` rows of an image; they take turns in the buffer [lanes, tiles, slots, piece_rows, W].
    """

    piece_rows: int = 1

    def view(self, ranges: Ranges, with_halo: bool = False) -> View:
        """As `SbufTensor.view`, for rows of one piece of an image that is a constant."""
        (image, images), (row, rows) = ((as_affine(start), size) for start, size in (ranges[0], ranges[2]))
        assert images == 1
        assert image.is_constant
        part = row.constant // self.piece_rows
        piece = image.constant * (self.shape[2] // self.piece_rows) + part
        slots = self.buffer.shape[2]
        held = SbufTensor(self.buffer, (slots, self.shape[1], self.piece_rows, self.shape[3]), self.partition)
        place = {0: (Affine(piece % slots), 1), 2: (row - part * self.piece_rows, rows)}
        return held.view({**ranges, **place})


@dataclass(frozen=True)
class ResidentWindow:
    """The part of a resident tensor at `starts`, `steps` apart (one of each for every logical dimension), to be written
    in place; all of the partition dimension.
    """

    tensor: SbufTensor
    starts: tuple[int, ...]
    steps: tuple[int, ...]

    def store(
        self, b: KernelBuilder, partition: int, ranges: Ranges, dtype: str | None = None, copies: int = 2
    ) -> tuple[View, Callable[[], None]]:
        """As `SbufTensor.store`, for a piece of the window; `ranges` names all dimensions but whole ones of step 1."""
        tensor = self.tensor
        assert partition == tensor.partition
        start, size = ranges.get(partition, (0, tensor.shape[partition]))
        view = tensor.whole.slice(0, 0, size).at(1, as_affine(start).divided(LANES))
        for position, d in enumerate(d for d in range(len(tensor.shape)) if d != partition):
            low = tensor.halo[position][0] if tensor.halo else 0
            first, count = ranges.get(d, (0, tensor.shape[d]))
            place = as_affine(first) * self.steps[d] + (self.starts[d] + low)
            view = view.slice(1 + position, place, count, self.steps[d])
        return view, lambda: None


Tensor = DramTensor | SbufTensor


def reshape_strides(shape: Sequence[int], strides: Sequence[int], new: Sequence[int]) -> tuple[int, ...] | None:
    """Strides of the same elements in shape `new`, or None where no strides can express it (numpy's no-copy rule)."""
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    result: list[int] = []
    i = 0
    pending: list[tuple[int, int]] = []
    position = 0
    sizes = list(new)
    while position < len(sizes):
        if sizes[position] == 1:
            result.append(0)
            position += 1
            continue
        want, have = sizes[position], 1
        group = [position]
        if i >= len(old):
            return None
        pending = [old[i]]
        have = old[i][0]
        i += 1
        position += 1
        while want != have:
            if want < have:
                while position < len(sizes) and sizes[position] == 1:
                    group.append(position)
                    position += 1
                if position >= len(sizes):
                    return None
                want *= sizes[position]
                group.append(position)
                position += 1
            else:
                if i >= len(old):
                    return None
                pending.append(old[i])
                have *= old[i][0]
                i += 1
        for (_, outer), (inner_size, inner) in pairwise(pending):
            if outer != inner * inner_size:
                return None
        stride = pending[-1][1]
        part: list[int] = []
        for index in reversed(group):
            part.append(stride)
            stride *= sizes[index]
        result.extend(reversed(part))
    return tuple(result) if i == len(old) else None


def transfer(b: KernelBuilder, move: Callable[[View, View], None], dst: View, src: View) -> None:
    """`move(dst, src)` cut into loops over outer dims until both sides are within the DMA's number of dimensions."""
    dram, chip = (src, dst) if src.space == "dram" else (dst, src)
    if dram.space == chip.space == "dram" or len(merge_dims(dram.dims)) <= MAX_DMA_DIMS:
        move(dst, src)
        return
    outer = max(range(1, len(dram.dims)), key=lambda d: 0 if dram.dims[d][1] == 1 else 1000 - dram.dims[d][1])
    trips = dram.dims[outer][1]
    with b.loop(trips) as i:
        inner_dram, inner_chip = dram.at(outer, i), chip.at(outer, i)
        inner = (inner_chip, inner_dram) if src.space == "dram" else (inner_dram, inner_chip)
        transfer(b, move, *inner)


def sweep(
    b: KernelBuilder,
    shape: Sequence[int],
    partition: int,
    limit_elements: int,
    body: Callable[[dict[int, tuple[Affine, int]]], None],
    whole: Sequence[int] = (),
) -> None:
    """`body(ranges)` for pieces of `shape`: up to 128 positions of `partition` and up to `limit_elements` in the rest.

    Dimensions in `whole` are never cut. Outer free dimensions become loops of one position each; one dimension is cut
    into equal chunks, its remainder peeled. `ranges` names every dimension that is cut.
    """
    free = [d for d in range(len(shape)) if d != partition and d not in whole]
    budget = max(1, limit_elements // prod([shape[d] for d in whole if d != partition] or [1]))
    chunks: dict[int, int] = {}
    for d in reversed(free):
        size = min(shape[d], budget)
        chunks[d] = size
        budget = max(1, budget // size)

    def nest(dims: list[int], ranges: dict[int, tuple[Affine, int]]) -> None:
        if not dims:
            body(ranges)
            return
        d = dims[0]
        b.tiles(shape[d], chunks[d], lambda start, size: nest(dims[1:], {**ranges, d: (start, size)}))

    chunks[partition] = min(LANES, shape[partition])
    order = [partition, *(d for d in free if chunks[d] != shape[d])]
    nest(order, {})
