"""`graph-band-filters`: which depthwise convolutions are computed with all rows of a channel on partitions.

The tensor engine multiplies a channel by a filter of its own as a diagonal matrix: each tap is a product, and 127 of
128 multipliers of a column have nothing to do. With the rows of a few channels on partitions, [channel, row], the taps
of a column of the filter are one band matrix, block-diagonal over the channels: a product does all vertical taps, and
only the horizontal ones remain. A filter of 7 by 7 takes 7 products instead of 49. It costs transfers across
partitions, of the tensor and of its result, and the bands are larger than the filters. Given core functions with their
final convolutions, the pass marks those for which that is estimated to be faster; the kernel obeys.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from math import ceil

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, UnitAttr
from xdsl.ir import Block, Operation
from xdsl.passes import ModulePass

from neuron_dialects.graph import ConvOp, FusedOp, WeightOp, ints, shape_of, spec_of
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.remarks import listening, remark
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES
from passes.graph.kernel_layouts import BANDS, anchor_of, outer_value, sweeps_channels

EXPOSED = 1.8
"""How much longer a layer takes by bands than what keeps the DMA busy: transfers in wait for the layer before, and the
next layer waits for those out."""

__all__ = ["BANDS", "Depthwise", "GraphBandFiltersPass", "Route", "channels_per_block", "quickest_route"]


CHUNK_BLOCKS = 12
"""Blocks of channels that are worked on together, about, for the estimate."""


class Route(Enum):
    """How rows of a resident tensor get onto partitions of their own, or back.

    DIRECT: a transfer on chip for each block. BOUNCED: by DRAM, in transfers of many blocks. TURNED: by DRAM too, in
    an order in which rows of all images are one run, made by copies on chip.
    """

    DIRECT = auto()
    BOUNCED = auto()
    TURNED = auto()


@dataclass(frozen=True)
class Depthwise:
    """`channels` of `images`, `rows` by `columns`, to `out_rows` by `out_columns` with `taps` by `across` taps."""

    images: int
    channels: int
    rows: int
    columns: int
    out_rows: int
    out_columns: int
    taps: int
    across: int
    element_bytes: int


def channels_per_block(rows: int, out_rows: int) -> int:
    """Channels whose rows, and output rows, have room on 128 partitions; 0 where one has not."""
    return LANES // max(rows, out_rows)


def diagonal_ns(work: Depthwise, target: Target) -> float:
    """The tensor engine's time with a diagonal matrix for each tap."""
    pixels = work.images * work.out_rows * work.out_columns
    return work.taps * work.across * ceil(work.channels / LANES) * pixels / target.clock_ghz("pe")


def routes_ns(work: Depthwise, rows: int, columns: int, target: Target) -> dict[Route, float]:
    """Time of each route of a tensor of `rows` by `columns` to rows on partitions, or back: transfers and copies."""
    engines, images = int(target.dma_engines), work.images
    rate = min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns))
    blocks = ceil(work.channels / channels_per_block(work.rows, work.out_rows))
    dense = images * work.channels * rows * columns * work.element_bytes / rate
    runs = work.channels * rows / engines * float(target.dma_descriptor_ns)
    copies = ceil(work.channels / LANES) * images * rows * columns / target.clock_ghz("dve")
    return {
        Route.DIRECT: max(dense, images * runs, blocks * engines * float(target.dma_stagger_ns)),
        Route.BOUNCED: dense + max(dense, images * runs),
        Route.TURNED: dense + max(dense, runs) + copies,
    }


def quickest_route(work: Depthwise, rows: int, columns: int, target: Target) -> Route:
    """The route that takes least."""
    times = routes_ns(work, rows, columns, target)
    return min(times, key=times.__getitem__)


def products_ns(work: Depthwise, target: Target) -> float:
    """The tensor engine's time by bands."""
    blocks = ceil(work.channels / channels_per_block(work.rows, work.out_rows))
    columns = max(work.images * work.out_columns, int(target.min_issue_cycles))
    return work.across * blocks * columns / target.clock_ghz("pe")


def transfers_ns(work: Depthwise, target: Target) -> float:
    """Time of the transfers of both tensors."""
    moved = min(routes_ns(work, work.rows, work.columns, target).values())
    return moved + min(routes_ns(work, work.out_rows, work.out_columns, target).values())


def bands_ns(work: Depthwise, target: Target) -> float:
    """Time to load the bands in chunks, a transfer for each channel of a block."""
    per = channels_per_block(work.rows, work.out_rows)
    run_ns = work.out_rows * work.across * work.element_bytes / float(target.dma_engine_bytes_per_ns)
    moved = work.channels * work.rows / target.dma_engines * max(float(target.dma_descriptor_ns), run_ns)
    chunks = ceil(ceil(work.channels / per) / CHUNK_BLOCKS)
    return moved + chunks * per * int(target.dma_engines) * float(target.dma_stagger_ns)


def bands_bytes(work: Depthwise) -> int:
    """Bytes of a partition that the tiles with all bands take."""
    per = channels_per_block(work.rows, work.out_rows)
    return ceil(work.channels / per) * per * work.out_rows * work.across * work.element_bytes


def banded_ns(work: Depthwise, target: Target) -> float:
    """The larger of the tensor engine's time and of that of the transfers."""
    return max(products_ns(work, target), transfers_ns(work, target) + bands_ns(work, target))


def is_banded_faster(work: Depthwise, target: Target) -> bool:
    """Whether bands are estimated to be faster, with the time until transfers arrive, and their rows fit."""
    if channels_per_block(work.rows, work.out_rows) < 1 or work.across * work.taps == 1:
        return False
    wait = 2 * float(target.dma_start_ns + target.dma_completion_ns)
    return EXPOSED * banded_ns(work, target) + wait < diagonal_ns(work, target)


@dataclass(frozen=True)
class GraphBandFiltersPass(ModulePass):
    """Mark depthwise convolutions that are computed by bands.

        %1 = graph.conv %x, %w ... groups 384 : (tensor<8x384x14x14xbf16>, tensor<384x1x7x7xbf16>) -> ...

    becomes

        %1 = graph.conv %x, %w ... groups 384 {graph.bands} : ...
    """

    name = "graph-band-filters"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Mark in every core function."""
        for function in core_functions(op):
            band_block(function.body.block, target_of(op))


def band_block(block: Block, target: Target) -> None:
    """Mark in one block."""
    for op in block.ops:
        if not isinstance(op, ConvOp | FusedOp) or (work := depthwise_of(op)) is None:
            continue
        if is_banded_faster(work, target):
            anchor_of(op).attributes[BANDS] = UnitAttr()
            if listening():
                remark("passed", "bands", "rows of channels lie on partitions, filters are bands", op=op)


def depthwise_of(op: Operation) -> Depthwise | None:
    """The depthwise convolution that a kernel is, if it can be computed by bands."""
    conv = anchor_of(op)
    if not isinstance(conv, ConvOp) or conv.bias is not None or len(shape_of(conv.x)) != 4:
        return None
    (images, channels, rows, columns), (dtype, result) = shape_of(conv.x), spec_of(conv.result)
    single = conv.groups.value.data == channels == result[1] and isinstance(outer_value(op, conv.w).owner, WeightOp)
    if not single or ints(conv.dilations)[0] != 1:
        return None
    if isinstance(op, FusedOp) and not all(sweeps_channels(inner, conv, result) for inner in op.body.block.ops):
        return None
    taps, across = shape_of(conv.w)[2:]
    return Depthwise(images, channels, rows, columns, result[2], result[3], taps, across, dtype.size_bytes)
