"""Blocks of output rows whose input a convolution loads from DRAM together, and the sums that such blocks share."""

from collections.abc import Sequence
from math import ceil

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_phases import Phase, triple
from lowering.graph_to_tile.conv_taps import SpreadTaps
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, Tensor
from lowering.graph_to_tile.view import View
from lowering.graph_to_tile.windows import Segment
from neuron_dialects.dtypes import dtype_by_name


def block_segments(
    k: Kernel,
    x: Tensor,
    phase: Phase,
    tile: Sequence[int],
    segments: Sequence[Sequence[Segment]],
    spread: SpreadTaps | None,
    channels: int,
) -> list[Segment]:
    """Output rows whose input is loaded together: many tiles, in a sixth of SBUF at most.

    A transfer for the few rows of a tile would be all start-up time, and neighbouring tiles share rows. `tile`: of the
    result [images, depth, height, width]; `segments`: of each spatial dimension, in tiles.
    """
    width = max(segment.extent for segment in segments[2])
    depth = max(segment.extent for segment in segments[0]) if spread is None else tile[1]
    row = tile[0] * depth * width * dtype_by_name(x.dtype).size_bytes
    if spread is None:
        row *= ceil(channels / LANES) * phase.stride[1]
    sbuf = int(k.target.sbuf_bytes_per_partition)
    rows = max(1, min(sbuf // 6, (sbuf - k.resident_bytes) // 4) // row)
    tiles = ceil(phase.sizes[1] / tile[2])
    least, rows = (1, rows) if spread is None else spread.block_rows(row, rows, tiles)
    blocks = max(least, ceil(tiles / max(1, rows // tile[2])))
    size = ceil(tiles / blocks) * tile[2]
    if spread is not None and (even := spread.even_rows) < 2 * size:
        size = ceil(size / even) * even
    return phase.segments(1, size, triple(x.shape[2:], 1)[1])


def shared_sums(b: KernelBuilder, shape: tuple[int, ...], count: int) -> list[View]:
    """`count` tiles of sums for all blocks of rows: loops of their own would each take tiles of their own."""
    return [b.alloc_outer(shape, "f32", "psum", "sum").view() for _ in range(count)]
