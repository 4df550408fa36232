"""Views and loads of a convolution's pixels, always with three spatial dimensions: depth, height, width."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_phases import Triple, three_dims, triple_pairs
from lowering.graph_to_tile.tensors import LANES, DramTensor, RingTensor, SbufTensor, transfer
from lowering.graph_to_tile.view import View
from lowering.graph_to_tile.windows import Segment
from neuron_dialects.access import Affine

Range = tuple[Affine, int]
"""(start, size)."""

Place = tuple[Segment, Affine]
"""A tile of a segment along one dimension."""

Rows = Mapping[int, Range]
"""Pixels by spatial dimension: 0 depth, 1 height, 2 width."""

Moving = Callable[[Affine, int, Triple], View]
"""(channel tile, lanes of it, offset of a tap) -> the pixels that the tap reads, [lanes, ...]."""


def with_three(view: View, n: int) -> View:
    """A view [lanes, images, spatial...] with spatial dims as depth, height, width."""
    if n == 1:
        return view.insert(1).insert(3)
    return view.insert(1) if n == 2 else view


def with_own(view: View, n: int) -> View:
    """A view [lanes, images, depth, height, width] with the `n` spatial dims that a tensor has."""
    return view if n == 3 else view.at(2, 0) if n == 2 else view.at(2, 0).at(3, 0)


def dram_pixels(x: DramTensor, ranges: Rows, images: Range, channel: Affine, lanes: int, tiles: int) -> View:
    """DRAM view [c, c tiles, n, d, h, w] of the pixels in `ranges`, `tiles` times `lanes` channels from `channel`."""
    n = len(x.shape) - 2
    named = {2 + d: ranges[1 if n == 1 else 3 - n + d] for d in range(n)}
    view = x.view({**named, 0: images, 1: (channel, lanes * tiles)})
    (n_dim, (c_stride, _), *spatial) = view.dims
    dims = ((c_stride, lanes), (c_stride * lanes, tiles), n_dim, *three_dims(spatial))
    return View(view.buffer, view.partition, 0, view.offset, dims)


def resident_pixels(x: SbufTensor, channels: Range, images: Range, ranges: Sequence[Range], strides: Triple) -> Moving:
    """The moving operand of a tile of pixels of a resident input, given a tile of channels, lanes and a tap's offset.

    `ranges`: for each spatial dimension, the position that the first tap of the first pixel reads, and the pixels.
    """
    n = len(x.shape) - 2
    halo = triple_pairs([x.halo[1 + d] if x.halo else (0, 0) for d in range(n)])

    def moving(c_tile: Affine, lanes: int, offset: Triple) -> View:
        lane_range = (channels[0] + c_tile * LANES, lanes)
        if isinstance(x, RingTensor):
            return with_three(x.view({0: images, 1: lane_range, 2: ranges[1], 3: ranges[2]}), n)
        view = x.view({1: lane_range}, with_halo=True)
        view = view.slice(1, images[0] + (x.halo[0][0] if x.halo else 0), images[1])
        view = with_three(view, n)
        for d, (start, size) in enumerate(ranges):
            view = view.slice(2 + d, start + (halo[d][0] + offset[d]), size, strides[d])
        return view

    return moving


def plain_pixels(
    b: KernelBuilder, x: DramTensor, channels: Range, images: Range, at: Sequence[Place], strides: Triple
) -> View:
    """[c, c tiles, n, d, h, w] with the border of the tile filled with zeros."""
    count = channels[1]
    tiles = ceil(count / LANES)
    extents = [segment.extent for segment, _ in at]
    tile = b.alloc((min(LANES, count), tiles, images[1], *extents), x.dtype, "sbuf", 2, "pixels").view()
    inner, ranges = tile, dict[int, Range]()
    for d, (segment, i) in enumerate(at):
        real = segment.extent - segment.low - segment.high
        if segment.low:
            b.memset(inner.slice(3 + d, 0, segment.low), 0.0)
        if segment.high:
            b.memset(inner.slice(3 + d, segment.low + real, segment.high), 0.0)
        if real < 1:
            return tile
        inner = inner.slice(3 + d, segment.low, real)
        ranges[d] = (i * (segment.size * strides[d]) + (segment.input_start + segment.low), real)
    full, rest = divmod(count, LANES)
    if full:
        source = dram_pixels(x, ranges, images, channels[0], LANES, full)
        transfer(b, b.load, inner.slice(1, 0, full), source)
    if rest:
        source = dram_pixels(x, ranges, images, channels[0] + full * LANES, rest, 1)
        transfer(b, b.load, inner.slice(0, 0, rest).slice(1, full, 1), source)
    return tile
