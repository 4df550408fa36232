"""Views of a convolution's pixels, always with three spatial dimensions: depth, height, width."""

from collections.abc import Mapping

from lowering.graph_to_tile.conv_phases import three_dims
from lowering.graph_to_tile.tensors import DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine

Range = tuple[Affine, int]
"""(start, size)."""

Rows = Mapping[int, Range]
"""Pixels by spatial dimension: 0 depth, 1 height, 2 width."""


def with_three(view: View, n: int) -> View:
    """A view [lanes, n, spatial...] with spatial dims as depth, height, width."""
    if n == 1:
        return view.insert(1).insert(3)
    return view.insert(1) if n == 2 else view


def dram_pixels(x: DramTensor, ranges: Rows, images: Range, channel: Affine, lanes: int, tiles: int) -> View:
    """DRAM view [c, c tiles, n, d, h, w] of the pixels in `ranges`, `tiles` times `lanes` channels from `channel`."""
    n = len(x.shape) - 2
    named = {2 + d: ranges[1 if n == 1 else 3 - n + d] for d in range(n)}
    view = x.view({**named, 0: images, 1: (channel, lanes * tiles)})
    (n_dim, (c_stride, _), *spatial) = view.dims
    dims = ((c_stride, lanes), (c_stride * lanes, tiles), n_dim, *three_dims(spatial))
    return View(view.buffer, view.partition, 0, view.offset, dims)
