"""The loops of one convolution: matmul over the filter taps, output channels on partitions.

    out[o, pixels] = sum over input-channel tiles and taps of  w[c, tap, o]^T . x[c, pixels shifted by the tap]

No im2col buffer: a tap is a strided view of the input tile, which is loaded once with its zero border. Weights are
packed at emission as [group block, c, tap, o]. Groups are put side by side into blocks of up to 128 input channels with
block-diagonal weights, so depthwise and grouped convolutions fill the array's rows. An input with few channels packs
the taps of the outermost window dimension onto partitions too.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil, prod

from lowering.graph_to_tile.conv_ahead import BlocksAhead, covers, with_following
from lowering.graph_to_tile.conv_blocks import PixelBlocks
from lowering.graph_to_tile.conv_border import NONE, Border
from lowering.graph_to_tile.conv_chain import Stage
from lowering.graph_to_tile.conv_diagonals import Diagonals, blocks_at_once, is_depthwise
from lowering.graph_to_tile.conv_parts import Part
from lowering.graph_to_tile.conv_phases import Phase, Triple, triple, triple_pairs
from lowering.graph_to_tile.conv_pixels import Moving, Place, Range, plain_pixels, resident_pixels, with_own, with_three
from lowering.graph_to_tile.conv_residual import Residual
from lowering.graph_to_tile.conv_row_blocks import block_segments, shared_sums
from lowering.graph_to_tile.conv_scales import weigh
from lowering.graph_to_tile.conv_taps import SpreadTaps, spread_taps, widened
from lowering.graph_to_tile.conv_weights import (
    Stationary,
    WeightPacking,
    add_taps,
    from_output,
    is_packable,
    kept_weights,
    load_filters,
    stationary_of,
    uniform_weights,
)
from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.movement import brought
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor
from lowering.graph_to_tile.view import View
from lowering.graph_to_tile.windows import output_tile, without_padding
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import ConvOp, ConvTransposeOp, shape_of
from passes.graph.chain_pixels import functions_of
from passes.graph.conv_groups import ConvGroups
from passes.graph.kernel_layouts import KEEPS_WEIGHTS

PLAIN = 2
"""Most operators, a bias and one more, that one instruction does while it brings a sum out of PSUM."""

TURNS = 2
"""Buffers for the weights of blocks, or of chunks of outputs, that take turns."""

FILTERS_SHARE = 3
"""The filters of all blocks of a layer take at most this part (one over it) of SBUF."""

SUMS = 4
"""Tiles of sums in PSUM that take turns."""


class ConvKernel:
    """Loops of one phase of a convolution."""

    def __init__(
        self,
        k: Kernel,
        op: ConvOp | ConvTransposeOp,
        epilogue: Epilogue,
        groups: ConvGroups,
        packing: WeightPacking,
        phase: Phase,
        residual: Residual | None = None,
        parts: Sequence[Part] = (),
        blocks: PixelBlocks | None = None,
        border: Border = NONE,
        pairs: bool = False,
    ):
        self.k, self.b, self.op, self.epilogue, self.packing = k, k.b, op, epilogue, packing
        self.groups = replace(groups, outputs=groups.outputs * (1 + len(phase.beside)))
        self.parts, self.blocks, self.border = parts, blocks, border
        self.residual, self.phase, self.n = residual, phase, len(shape_of(op.w)) - 2
        self.uniform = k.scalar(op.w) if groups.groups == 1 else None
        self.blocks_ahead, self.following = k.ahead.pop(op, None), None
        x = k.tensor(op.x)
        self.batch, self.channels = x.shape[:2]
        self.extents = triple(x.shape[2:], 1)
        self.bank = bank = min(int(k.target.pe_moving_elements), int(k.target.psum_bank_bytes) // 4)
        self.sums, self.turn = SUMS, 0
        self.shared_sums: Sequence[View] | None = None
        # What is put off makes as many pixels for each of a tile as the strides step over, in one bank too.
        self.tiles_ahead = self.blocks_ahead is not None and isinstance(op, ConvOp) and covers(op)
        share = bank // prod(phase.stride) if self.tiles_ahead else bank
        self.tile = output_tile((self.batch, *phase.sizes), share)
        self.filters: View | None = None
        self.scale, self.image_weights = k.scales.pop(op, None), None
        if self.scale is not None:
            self.tile = (1, *self.tile[1:])
        self.segments = [self.phase.segments(d, self.tile[1 + d], self.extents[d]) for d in range(3)]
        self.x = self._readable(x)
        if isinstance(self.x, SbufTensor):
            self.segments = [without_padding(cut) for cut in self.segments]
        if border.ends:
            self.segments = [border.apart(d, cut, phase.stride[d]) for d, cut in enumerate(self.segments)]
        plan = spread_taps(k, op, self.x, groups, phase, pairs) if isinstance(self.x, DramTensor) else None
        self.spread: SpreadTaps | None = None
        if plan is not None and isinstance(self.x, DramTensor):
            self.phase = widened(phase, plan)
            self.segments = [self.phase.segments(d, self.tile[1 + d], self.extents[d]) for d in range(3)]
            self.spread = SpreadTaps(k, self.x, self.phase, plan, pairs)

    def _readable(self, x: Tensor) -> Tensor:
        """A resident input only where its halo covers what the windows read; otherwise its DRAM form."""
        if not isinstance(x, SbufTensor):
            return x
        halo = triple_pairs([x.halo[1 + d] if x.halo else (0, 0) for d in range(self.n)])
        fits = all(s.low <= halo[d][0] and s.high <= halo[d][1] for d in range(3) for s in self.segments[d])
        aligned = self.groups.blocks == 1 or self.groups.block_inputs % LANES == 0
        if fits and aligned and x.partition == 1:
            return x
        self._catch_up()
        return next(self.k.dram(v) for v, t in self.k.tensors.items() if t is x)

    # -- loops ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """All blocks of groups."""
        groups = self.groups

        def block(start: Affine, count: int, following: int) -> None:
            first, inputs, outputs = start * groups.inputs, count * groups.inputs, count * groups.outputs
            self.following = (first + inputs, following * groups.inputs) if following else None
            self._block(start.divided(groups.per_block), first, inputs, start * groups.outputs, outputs)
            self.following = None

        if isinstance(self.op, ConvOp) and self.spread is None and is_depthwise(self.k, self.op, groups):
            if step := blocks_at_once(self.op, groups, self.k):
                self._depthwise(self.op, step)
                return
        block_inputs = min(groups.groups, groups.per_block) * groups.inputs
        if block_inputs < LANES or self._chunk(LANES, LANES) < LANES:
            self._catch_up()
        self.filters = self._filters_of_blocks()
        if wanted := self.blocks_ahead is not None:
            self.blocks_ahead.block((Affine(0), block_inputs))
        with_following(self.b, groups.groups, groups.per_block, groups.groups, wanted, block)

    def _catch_up(self) -> None:
        """Emit what was put off to be emitted here, as if it had not been."""
        if self.blocks_ahead is not None:
            self.blocks_ahead.all()
            self.blocks_ahead = None

    def ahead(self) -> BlocksAhead | None:
        """What the convolution behind this one, of one tap, can emit; None where weights come in chunks."""
        outputs = self.groups.outputs * self.groups.groups
        others = (self.residual, self.spread, self.uniform, self.scale)
        plain = not self.parts and not self.border.ends and all(other is None for other in others)
        if not plain or self.groups.blocks > 1 or self._chunk(self.channels, outputs) < outputs:
            return None
        self.x = x = self.x if isinstance(self.x, SbufTensor) else brought(self.k, self.x)
        inputs = (Affine(0), self.channels)
        weights = self._load_weights(Affine(0), self.channels, Affine(0), outputs)
        assert weights is not None

        def emit(channels: Range, images: Range, ranges: Sequence[Range]) -> None:
            moving = resident_pixels(x, inputs, images, ranges, self.phase.stride)
            self._tile(from_output(weights, channels[0]), inputs, channels, images, ranges, moving)

        def whole() -> None:
            self._pixels(weights, *inputs, Affine(0), outputs)

        return BlocksAhead(self.b, self.b.location, (self.batch, *self.phase.sizes), prod(self.tile), emit, whole)

    def stage(self) -> Stage:
        """The kernel as one of several that run piece by piece."""
        x, outputs = self.x, self.groups.outputs
        assert isinstance(x, SbufTensor)
        inputs: Range = (Affine(0), self.channels)
        load = partial(self._load_weights, Affine(0), self.channels, Affine(0), outputs)
        key = (Affine(0), Affine(0), outputs, *(number for number, _ in self.phase.taps))
        weights = kept_weights(self.k, self.op, self.packing, key, load)

        def emit(images: Range, ranges: Sequence[Range], banks: int) -> None:
            moving = resident_pixels(x, inputs, images, ranges, self.phase.stride)
            self.sums = banks
            self._tile(weights, inputs, (Affine(0), outputs), images, ranges, moving)

        sums = 1 if self.uniform is not None else ceil(outputs / LANES)
        functions = {kind for inner in self.epilogue.ops for kind in functions_of(inner)}
        return Stage(self.b.location, sums, frozenset(functions), len(self.epilogue.ops) <= PLAIN, emit)

    def _depthwise(self, op: ConvOp, step: int) -> None:
        """All channels, the filters of `step` blocks at once, and one block behind what was put off."""
        groups, per_block = self.groups, self.groups.per_block
        if self.blocks_ahead is not None:
            self.blocks_ahead.block((Affine(0), min(per_block, groups.groups)))
        for first in range(0, groups.blocks, step):
            diagonals = Diagonals(self.k, op, groups, first, min(step, groups.blocks - first))
            low = first * per_block
            most = min(step * per_block, groups.groups - low)

            def block(
                start: Affine, count: int, following: int, diagonals: Diagonals = diagonals, low: int = low
            ) -> None:
                self.following = (start + (low + count), following) if following else None
                begin = start + low
                self._pixels(diagonals.stationary(start.divided(per_block)), begin, count, begin, count)
                self.following = None

            with_following(self.b, most, per_block, groups.groups - low, self.blocks_ahead is not None, block)

    def _filters_of_blocks(self) -> View | None:
        """The filters of all blocks on chip, [c, block, taps, o]: the stream of loads then waits for no product, and
        what later kernels load comes while this one works. None where few blocks have buffers anyway, or without room.
        """
        groups, b, taps = self.groups, self.b, [number for number, _ in self.phase.taps]
        others = (self.spread, self.uniform, self.scale)
        plain = (
            all(other is None for other in others) and not self.phase.beside and KEEPS_WEIGHTS not in self.op.attributes
        )
        if groups.blocks <= TURNS or groups.block_inputs > LANES or not plain or not is_packable(self.k, self.op.w):
            return None
        shape = (groups.block_inputs, groups.blocks, len(taps), groups.block_outputs)
        sbuf = int(self.k.target.sbuf_bytes_per_partition)
        room = min(sbuf // FILTERS_SHARE, (sbuf - self.k.resident_bytes) // 2)
        if not taps or prod(shape[1:]) * dtype_by_name(self.packing.dtype).size_bytes > room:
            return None
        filters = b.alloc(shape, self.packing.dtype, "sbuf", 1, "filters").view()
        with b.loop(groups.blocks) as i:
            tile = filters.at(1, i).insert(0)
            load_filters(b, self.packing, tile, i, groups.block_inputs, (Affine(0), groups.block_outputs), taps)
        return filters

    def _block(self, index: Affine, c_start: Affine, channels: int, o_start: Affine, outputs: int) -> None:
        """One block: its weights stay on chip while the pixels stream past, in chunks of outputs that fit."""
        if self.filters is not None:
            self._pixels(stationary_of(self.filters.at(1, index).insert(0)), c_start, channels, o_start, outputs)
            return
        chunk = self._chunk(channels, outputs)

        def outputs_chunk(start: Affine, size: int) -> None:
            key = (index, start, size, *(number for number, _ in self.phase.taps)) if self.spread is None else None
            load = partial(self._load_weights, index, channels, start, size)
            weights = kept_weights(self.k, self.op, self.packing, key, load)
            if self.scale is not None and weights is not None:
                self.image_weights = weigh(self.b, weights, self.scale, channels, size, self.packing.dtype)
            self._pixels(weights, c_start, channels, o_start + start, size)

        self.b.tiles(outputs, min(chunk, outputs), outputs_chunk)

    def _chunk(self, channels: int, outputs: int) -> int:
        """How many outputs have their weights on chip together."""
        step = self.groups.lane_step
        # Taps that are spread over partitions take no bytes of a row.
        taps = self.phase.taps if self.spread is None else self.spread.offsets
        if self.uniform is not None:
            return ceil(outputs / step) * step
        return self.packing.outputs_together(ceil(channels / LANES) * len(taps), outputs, step)

    def _load_weights(self, block: Affine, channels: int, start: Affine, outputs: int) -> Stationary | None:
        """Weights on chip as [c, c tiles, taps, o], or [lanes, 1, products, o] where taps are on partitions too."""
        b, taps = self.b, len(self.phase.taps)
        if not taps:
            return None
        if self.uniform is not None:
            lanes = channels if self.spread is None else self.spread.plan.lanes
            return uniform_weights(b, self.uniform, lanes, outputs, self.packing.dtype)
        if self.spread is not None:
            return stationary_of(self.spread.load_weights(self.packing, block, start, outputs))
        shape = (min(LANES, channels), ceil(channels / LANES), taps, outputs)
        tile = b.alloc(shape, self.packing.dtype, "sbuf", TURNS, "weights").view()
        numbers = [number for number, _ in self.phase.taps]
        rows_of_outputs = [numbers, *self.phase.beside]
        each = outputs // len(rows_of_outputs)
        for row, taken in enumerate(rows_of_outputs):
            load_filters(b, self.packing, tile.slice(3, row * each, each), block, channels, (start, each), taken)
        return stationary_of(tile)

    def _pixels(
        self, weights: Stationary | None, c_start: Affine, channels: int, o_start: Affine, outputs: int
    ) -> None:
        """All pixels for one chunk of outputs."""
        b = self.b
        inputs, results = (c_start, channels), (o_start, outputs)
        cuts = [*self.segments]
        if isinstance(self.x, DramTensor):
            blocks = block_segments(self.k, self.x, self.phase, self.tile, self.segments, self.spread, channels)
            cuts[1] = self.border.apart(1, blocks, self.phase.stride[1])

        def spatial(d: int, at: list[Place], images: Range) -> None:
            if d == 3:
                if isinstance(self.x, DramTensor):
                    self._block_of_rows(weights, inputs, results, images, at)
                else:
                    self._resident_tile(weights, inputs, results, images, at)
                return
            turns = 1 if self.spread is None or d != 1 else self.spread.turns
            for segment in cuts[d]:
                full, rest = divmod(segment.count, turns)
                if full:
                    with b.loop(full) as i:
                        for turn in range(turns):
                            spatial(d + 1, [*at, (segment, i * turns + turn)], images)
                for turn in range(rest):
                    spatial(d + 1, [*at, (segment, Affine(full * turns + turn))], images)

        if self.spread is not None:
            self.spread.prepare(self.tile[0], cuts)
            if self.spread.streams and self.spread.turns > 1:
                lanes = min(outputs, int(self.k.target.pe_columns))
                self.shared_sums = shared_sums(b, (lanes, *self.tile), SUMS)

        def some_images(start: Affine, size: int) -> None:
            if self.blocks_ahead is not None and self.following is not None and not self.tiles_ahead:
                self.blocks_ahead.images(self.following, (start, size))
            spatial(0, [], (start, size))

        b.tiles(self.batch, self.tile[0], some_images)

    def _resident_tile(
        self, weights: Stationary | None, channels: Range, outputs: Range, images: Range, at: list[Place]
    ) -> None:
        """One tile of pixels of a resident input, and the same pixels of the block that was put off before it."""
        assert isinstance(self.x, SbufTensor)
        strides = self.phase.stride
        ranges = [(segment.start + i * segment.size, segment.size) for segment, i in at]
        if self.blocks_ahead is not None and self.following is not None and self.tiles_ahead:
            read = [(start * stride, size * stride) for (start, size), stride in zip(ranges, strides, strict=True)]
            self.blocks_ahead.pixels(self.following, [images, *read])
        read = [
            (i * (segment.size * step) + segment.input_start, segment.size)
            for (segment, i), step in zip(at, strides, strict=True)
        ]
        moving = resident_pixels(self.x, channels, images, read, strides)
        if self.image_weights is not None:
            weights = self.image_weights.stationary(images[0])
        self._tile(weights, channels, outputs, images, ranges, moving)

    def _block_of_rows(
        self, weights: Stationary | None, channels: Range, outputs: Range, images: Range, at: list[Place]
    ) -> None:
        """The tiles of one block of output rows, whose input is loaded first."""
        assert isinstance(self.x, DramTensor)
        strides = self.phase.stride
        if self.spread is not None:
            block = self.spread.load(images, at)
        else:
            block = plain_pixels(self.b, self.x, channels, images, at, strides)
        (depth, d), (height, h), (width, w) = at
        first = height.start + h * height.size

        def rows(start: Affine, size: int, turn: int = 0) -> None:
            self.turn = turn

            def spread(_channel_tile: Affine, _lanes: int, offset: Triple) -> View:
                return block.slice(3, start + offset[1], size).slice(4, offset[2], width.size, strides[2])

            def moving(channel_tile: Affine, lanes: int, offset: Triple) -> View:
                view = block.slice(0, 0, lanes).at(1, channel_tile).slice(2, offset[0], depth.size, strides[0])
                view = view.slice(3, start * strides[1] + offset[1], size, strides[1])
                return view.slice(4, offset[2], width.size, strides[2])

            ranges = [(depth.start + d * depth.size, depth.size), (first + start, size)]
            ranges.append((width.start + w * width.size, width.size))
            self._tile(weights, channels, outputs, images, ranges, moving if self.spread is None else spread)

        if self.shared_sums is None:
            self.border.rows(self.b, height.size, self.tile[2], rows)
            return
        step = self.tile[2]

        def several(start: Affine, size: int) -> None:
            for turn, first in enumerate(range(0, size, step)):
                rows(start + first, min(step, size - first), turn)

        self.b.tiles(height.size, step * SUMS, several)

    def _tile(
        self,
        weights: Stationary | None,
        channels: Range,
        outputs: Range,
        images: Range,
        ranges: Sequence[Range],
        pixels: Moving,
    ) -> None:
        """One tile of pixels against all outputs of the chunk; `ranges`: its depths, rows and columns."""
        b = self.b
        sizes = (images[1], *(size for _, size in ranges))
        spatial_ranges = {2 + d: r for d, r in enumerate(ranges[1:2] if self.n == 1 else ranges[3 - self.n :])}

        width = int(self.k.target.pe_columns)
        shared: View | None = None
        if self.uniform is not None and self.spread is None:
            shared = self._sum(weights, pixels, Affine(0), min(width, outputs[1]), channels[1], sizes)
        started = None
        if shared is not None and not self.parts and self.residual is None:
            started = self.epilogue.begun(with_own(shared, self.n))
        epilogue = self.epilogue if started is None else started[0]

        def output_tile_body(start: Affine, lanes: int) -> None:
            parts: list[tuple[int, View]] = []
            here = {0: images, 1: (outputs[0] + start, lanes), **spatial_ranges}
            for lane in range(0, lanes, width):
                count = min(width, lanes - lane)
                if started is not None:
                    parts.append((lane, started[1].slice(0, 0, count)))
                    continue
                if shared is not None:
                    bank = shared.slice(0, 0, count)
                else:
                    bank = self._sum(weights, pixels, start + lane, count, channels[1], sizes)
                self.border.add(b, bank, (outputs[0] + start + lane, count), ranges)
                for part in self.parts:
                    for left, right in part.operands(self.k, here, outputs[0] + start + lane, count):
                        b.matmul(bank, left, with_three(right, self.n), 1)
                if self.residual is not None:
                    identity, added = self.residual.operands(here, lane, count)
                    b.matmul(bank, identity, with_three(added, self.n), 1)
                parts.append((lane, with_own(bank, self.n)))
            if self.blocks is not None:
                self.blocks.apply(parts[0][1], here)
                return
            epilogue.apply(parts, here)

        b.tiles(outputs[1], self.groups.lane_step, output_tile_body)

    def _sum(
        self,
        weights: Stationary | None,
        pixels: Moving,
        start: Affine,
        lanes: int,
        channels: int,
        sizes: tuple[int, ...],
    ) -> View:
        """Accumulate all channels and taps of `lanes` outputs in PSUM; [lanes, n, d, h, w]."""
        b = self.b
        if weights is None:
            zeros = b.alloc((lanes, *sizes), "f32", "sbuf", 2, "zeros").view()
            b.memset(zeros, 0.0)
            return zeros
        if self.shared_sums is None:
            bank = b.alloc((lanes, *sizes), "f32", "psum", self.sums, "sum").view()
        else:
            bank = self.shared_sums[self.turn % SUMS].slice(0, 0, lanes)
            for d, size in enumerate(sizes, 1):
                bank = bank.slice(d, 0, size)
            self.turn += 1
        if self.spread is not None:
            for t, (row, column) in enumerate(self.spread.offsets):
                left = weights(Affine(0), self.spread.plan.lanes, t, start, lanes)
                b.matmul(bank, left, pixels(Affine(0), channels, (0, row, column)), min(t, 1))
            return bank
        add_taps(b, bank, weights, pixels, [offset for _, offset in self.phase.taps], (start, lanes), channels)
        return bank
