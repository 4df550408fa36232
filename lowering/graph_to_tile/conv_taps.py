"""Convolutions of few channels: filter taps side by side on partitions, as `tap_plan` chooses.

Each row of taps is loaded for itself, strided, so that the rows of a tile are those of the outputs. Where columns of
taps lie side by side too, what was loaded is copied from quadrant to quadrant, and the filters are packed to match at
emission, with zeros in the lanes between and for taps that fill a product up.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, gcd, prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.conv_phases import Phase, triple
from lowering.graph_to_tile.conv_pixels import Place, Range, dram_pixels
from lowering.graph_to_tile.conv_weights import WeightPacking, is_packable, load_taps
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tap_plan import Filter, TapPlan, plan_taps
from lowering.graph_to_tile.tensors import LANES, DramTensor, transfer
from lowering.graph_to_tile.view import View
from lowering.graph_to_tile.windows import Segment
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import ConvOp, ConvTransposeOp, PadMode, PadOp, ReshapeOp, TransposeOp, ints
from passes.graph.conv_groups import ConvGroups
from passes.graph.kernel_layouts import THIN_CHANNELS

MOST_COPIES = 3
"""Buffers for blocks of rows that take turns, elsewhere, at most."""

LEAST_BLOCKS = 4
"""Blocks of rows that an image is loaded in at least, where it has so many tiles: nothing hides the first of them."""

LOAD_LATENCIES = 2
"""What is loaded at once takes the DMA so many times as long as it waits for a transfer to begin and to end."""

SPREAD_SHARE = 24
"""Such a block takes at most one part of so many of SBUF: blocks of the next image find room while these still work."""

SLOTS = 2
"""Blocks of rows on chip: one is loaded while another one is multiplied, and begins with the last rows of that one."""

SLOTS_OF_PAIRS = 3
"""The same where pairs of rows are made: one is loaded, one copied to the other columns, one multiplied."""


def spread_taps(
    k: Kernel, op: ConvOp | ConvTransposeOp, x: DramTensor, groups: ConvGroups, phase: Phase, pairs: bool
) -> TapPlan | None:
    """How the taps of a convolution, which may make pairs of rows, lie on partitions; None where none do.

    Worth it for few input channels, and possible where a row of the input is loaded as one run.
    """
    channels = x.shape[1]
    outer = len({(d, h) for _, (d, h, _) in phase.taps})
    in_runs = phase.stride[1] == 1 or (x.shape[-1] > 1 and len(x.shape) > 3)
    regular = len(phase.taps) % max(1, outer) == 0
    thin = groups.blocks == 1 and channels <= THIN_CHANNELS and channels * outer <= LANES
    if not (thin and in_runs and regular and outer > 1 and k.takes("tap-rows")):
        return None
    window = Filter(channels, groups.block_outputs, (outer, len(phase.taps) // outer), phase.stride[1:], (1, 1))
    packable = is_packable(k, op.w) and k.scalar(op.w) is None
    if not isinstance(op, ConvOp) or len(x.shape) != 4 or not packable or not k.takes("tap-columns"):
        return TapPlan(window, outer, 1, 0)
    height, width = ints(op.dilations)
    window = replace(window, dilation=(height, width))
    return plan_taps(window, x.dtype, dtype_by_name(x.buffer.dtype).size_bytes, k.target, pairs)


def widened(phase: Phase, plan: TapPlan) -> Phase:
    """The phase with a window of whole products."""
    if plan.columns == 1:
        return phase
    return replace(phase, reach=(phase.reach[0], *plan.reach))


class SpreadTaps:
    """Loads of a convolution whose taps lie on partitions; `pairs`: it makes pairs of rows."""

    def __init__(self, k: Kernel, x: DramTensor, phase: Phase, plan: TapPlan, pairs: bool):
        self.k, self.b, self.x, self.phase, self.plan = k, k.b, x, phase, plan
        self.streams = pairs and plan.columns > 1
        self.slots = SLOTS_OF_PAIRS if self.streams else SLOTS
        self.channels, self.extents = plan.filter.channels, triple(x.shape[2:], 1)
        self._slots: View | None = None
        self._first: Segment | None = None
        self._turn = 0

    @property
    def offsets(self) -> Sequence[tuple[int, int]]:
        """For each product, the (row, column) of a tile where it starts to read."""
        if self.plan.columns > 1:
            return self.plan.offsets
        return [(0, offset[2]) for _, offset in self.phase.taps[: len(self.phase.taps) // self.plan.rows]]

    def load_weights(self, packing: WeightPacking, block: Affine, start: Affine, outputs: int) -> View:
        """The filters of a block of groups on chip as [lanes, 1, products, o]."""
        if self.plan.columns > 1:
            return self._load_packed(packing, start, outputs)
        b, channels, products = self.b, self.channels, len(self.offsets)
        shape = (channels * self.plan.rows, 1, products, outputs)
        tile = b.alloc(shape, packing.dtype, "sbuf", 2, "weights").view()
        numbers = [number for number, _ in self.phase.taps]
        source = packing.view(block, 0, channels, start, outputs)
        for row in range(self.plan.rows):
            lanes = tile.slice(0, row * channels, channels).at(1, 0)
            load_taps(b, lanes, source, numbers[row * products : (row + 1) * products])
        return tile

    def _load_packed(self, packing: WeightPacking, start: Affine, outputs: int) -> View:
        """The filters where columns of taps lie side by side."""
        plan, products = self.plan, len(self.plan.offsets)
        packed = packing.packed_as(f"taps{plan.rows}x{plan.columns}.{plan.slot}", lambda packed: tap_ops(packed, plan))
        tile = self.b.alloc((plan.lanes, 1, products, outputs), packed.dtype, "sbuf", 2, "weights").view()
        source = packed.view({0: (0, plan.lanes), 2: (start, outputs)})
        transfer(self.b, self.b.load, tile.at(1, 0), source)
        return tile

    def prepare(self, images: int, cuts: Sequence[Sequence[Segment]]) -> None:
        """Allocate what `load` fills, for all blocks of `images` images, given the segments of each dimension.

        Where all blocks have the same columns, two buffers take turns, and what no load writes is zero from the start:
        loads then wait for no engine. Elsewhere each block has a buffer of its own.
        """
        self._slots, (columns, *others) = None, cuts[2]
        self._first = cuts[1][0]
        if self.plan.columns > 1 and columns.count == 1 and not others:
            rows = max(segment.size for segment in cuts[1]) + self._more_rows
            shape = (self.plan.lanes, self.slots, images, 1, rows, columns.extent)
            self._slots = self.b.alloc(shape, self.x.dtype, "sbuf", 1, "pixels").view()
            self.b.memset(self._slots, 0.0)

    def block_rows(self, row_bytes: int, most: int, tiles: int) -> tuple[int, int]:
        """The least number of blocks that an image is loaded in, and the rows of one, `most` at most; `row_bytes`: of a
        lane for a row, of which there are several in each of so many `tiles`.
        """
        target, lanes = self.k.target, self.plan.rows * self.channels
        latency_ns = float(target.dma_start_ns + target.dma_completion_ns)
        rate = min(target.dma_rate_bytes_per_ns, float(target.dram_bytes_per_ns))
        read, held = (dtype_by_name(name).size_bytes for name in (self.x.buffer.dtype, self.x.dtype))
        worth = ceil(LOAD_LATENCIES * latency_ns * rate / lanes * held / read / row_bytes)
        share = int(target.sbuf_bytes_per_partition) // SPREAD_SHARE // row_bytes
        if self.streams:
            # The rows of a tap come in a transfer of their own, of all DMA engines.
            shortest_ns = int(target.dma_engines) * float(target.dma_stagger_ns)
            worth = max(worth, ceil(shortest_ns * rate / self.channels * held / read / row_bytes))
        least = max(1, min(tiles, LEAST_BLOCKS, self.phase.sizes[1] // worth))
        return least, max(1, min(most, max(share, worth)))

    @property
    def even_rows(self) -> int:
        """Rows of which a transfer, each row of a lane for itself, keeps all DMA engines busy to its end."""
        engines = int(self.k.target.dma_engines)
        return engines // gcd(engines, self.channels) if self.streams else 1

    @property
    def turns(self) -> int:
        """Blocks of rows in an iteration of their loop."""
        return 1 if self._slots is None else self.slots

    @property
    def _more_rows(self) -> int:
        return max(row for row, _ in self.offsets)

    def load(self, images: Range, at: Sequence[Place]) -> View:
        """[lanes, n, d, h, w extent]: for each depth and height tap the rows that the tile's outputs need."""
        depth, height, width = at
        rows, lanes = height[0].size + self._more_rows, self.plan.rows * self.channels
        if self._slots is not None:
            tile = self._slots.at(1, self._turn).slice(1, 0, images[1]).slice(3, 0, rows)
            self._turn = (self._turn + 1) % self.slots
            self._clear_border(tile, at[:2])
            if (known := self._known_rows(height[0])) and self._first is not None:
                # The block before, in the other buffer, ends with the rows that this one begins with.
                before = self._slots.at(1, (self._turn - 2) % self.slots).slice(1, 0, images[1])
                self.b.copy(
                    tile.slice(0, 0, lanes).slice(3, 0, known),
                    before.slice(0, 0, lanes).slice(3, self._first.size, known),
                )
        else:
            sizes = (images[1], depth[0].size, rows, width[0].extent)
            copies = self._copies(prod(segment.size for segment, _ in at) * images[1], prod(sizes))
            tile = self.b.alloc((self.plan.lanes, *sizes), self.x.dtype, "sbuf", copies, "pixels").view()
            if self.plan.columns > 1:
                self.b.memset(tile, 0.0)
            self._clear_border(tile, at)
        for row in range(self.plan.rows):
            self._load_row(tile, row, images, at)
        read = self._read(tile, width[0].size)
        for column in range(1, self.plan.columns):
            shifted = tile.slice(4, column * self.plan.filter.dilation[1], tile.shape[4])
            self.b.copy(
                read.slice(0, column * self.plan.slot, lanes),
                self._read(shifted, width[0].size).slice(0, 0, lanes),
            )
        return tile

    def _copies(self, pixels: int, elements: int) -> int:
        """Buffers that take turns, so that the products of other blocks take as long as the loads of one.

        `pixels` of the result and `elements` of a lane in a block.
        """
        target = self.k.target
        products = len(self.offsets) * ceil(self.plan.filter.outputs / int(target.pe_columns))
        products_ns = products * pixels / target.clock_ghz("pe")
        row_bytes = self.channels * elements * dtype_by_name(self.x.buffer.dtype).size_bytes
        shortest_ns = int(target.dma_engines) * float(target.dma_stagger_ns)
        row_ns = max(shortest_ns, row_bytes / target.dma_rate_bytes_per_ns)
        load_ns = float(target.dma_start_ns + target.dma_completion_ns) + shortest_ns + self.plan.rows * row_ns
        return min(MOST_COPIES, 1 + ceil(load_ns / max(1.0, products_ns)))

    def _clear_border(self, tile: View, at: Sequence[Place]) -> None:
        """Zeros where some tap reads padding: on all lanes, as loads of the other taps come on top."""
        for d, (segment, _) in enumerate(at):
            step, size = (self.phase.stride[d] if d < 2 else 1), tile.shape[2 + d]
            for count, first in ((segment.low, True), (segment.high, False)):
                border = min(size, ceil(count / step))
                if border:
                    self.b.memset(tile.slice(2 + d, 0 if first else size - border, border), 0.0)

    def _read(self, tile: View, outputs: int) -> View:
        """The columns of a tile that products read."""
        plan = self.plan
        return tile.slice(4, 0, plan.read_columns(outputs), plan.read_step)

    def _known_rows(self, segment: Segment) -> int:
        """Rows of a block that the block before has loaded: all blocks but the first segment's follow a full one."""
        return self._more_rows if self._slots is not None and segment is not self._first else 0

    def _load_row(self, tile: View, row: int, images: Range, at: Sequence[Place]) -> None:
        """The lanes of one row of taps, as far as they are no border and not known."""
        b, phase = self.b, self.phase
        _, (d_offset, h_offset, _) = phase.taps[row * (len(phase.taps) // self.plan.filter.taps[0])]
        inner = tile.slice(0, row * self.channels, self.channels)
        ranges: dict[int, Range] = {}
        steps = [phase.stride[0], phase.stride[1], 1]
        for d, ((segment, i), offset) in enumerate(zip(at, (d_offset, h_offset, 0), strict=True)):
            count = tile.shape[2 + d]
            first = segment.input_start + offset
            low = min(count, max(0, ceil(-first / steps[d]))) if segment.low else 0
            if d == 1:
                low = max(low, min(count, self._known_rows(segment)))
            last = self.extents[d] - 1
            high = count - low
            if segment.high:
                high = min(high, max(0, (last - first) // steps[d] + 1 - low))
            if high < 1:
                return
            inner = inner.slice(2 + d, low, high)
            ranges[d] = (i * (segment.size * phase.stride[d]) + (first + low * steps[d]), (high - 1) * steps[d] + 1)
        source = dram_pixels(self.x, ranges, images, Affine(0), self.channels, 1).at(1, 0)
        for d in range(2):
            source = source.slice(2 + d, 0, inner.shape[2 + d], steps[d])
        transfer(b, b.load, inner, source)


def tap_ops(packed: SSAValue, plan: TapPlan) -> list[Operation]:
    """Graph ops from filters [1, c, tap, o] to [lane, product, o]: zeros where no tap is, and in lanes between."""
    channels, (rows, columns), outputs = plan.filter.channels, plan.steps, plan.filter.outputs
    ops: list[Operation] = []

    def add(op: Operation) -> SSAValue:
        ops.append(op)
        return op.results[0]

    missing = (0, rows * plan.rows - plan.filter.taps[0], columns * plan.columns - plan.filter.taps[1], 0)
    taps = add(ReshapeOp(packed, shape=(channels, *plan.filter.taps, outputs)))
    taps = add(PadOp(taps, low=(0, 0, 0, 0), high=missing, mode=PadMode.CONSTANT, value=0.0))
    taps = add(ReshapeOp(taps, shape=(channels, rows, plan.rows, columns, plan.columns, outputs)))
    taps = add(TransposeOp(taps, permutation=(4, 2, 0, 1, 3, 5)))
    used = plan.rows * channels
    lanes = add(ReshapeOp(taps, shape=(plan.columns, used, rows * columns * outputs)))
    lanes = add(PadOp(lanes, low=(0, 0, 0), high=(0, plan.slot - used, 0), mode=PadMode.CONSTANT, value=0.0))
    add(ReshapeOp(lanes, shape=(plan.columns * plan.slot, rows * columns, outputs)))
    return ops
