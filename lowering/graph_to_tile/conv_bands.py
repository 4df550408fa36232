"""Kernel of a depthwise convolution by bands: rows of channels on partitions, a product for each column of the filter.

    out[(c, y), n, x] = sum over columns j of the filter of  band_j[(c, r), (c, y)]^T . in[(c, r), n, x + j]

As many channels as have their rows on 128 partitions are one block. Its band matrices are zero but for a block of
[rows, output rows] of each channel, in which the column j of its filter stands in a diagonal band. Only these blocks
are loaded, into tiles that are zero elsewhere. The DMA brings the rows of channels, wherever the tensor lies, onto
partitions, and the results back.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.band_state import BandTiles, Form, resident_ahead
from lowering.graph_to_tile.conv_weights import is_packable
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.movement import load_resident
from lowering.graph_to_tile.pointwise import Pointwise
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.transfers import write_out
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import (
    BroadcastOp,
    ConvOp,
    FusedOp,
    PadMode,
    PadOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    ints,
    shape_of,
)
from passes.graph.band_filters import BANDS, Depthwise, Route, channels_per_block, quickest_route
from passes.graph.kernel_layouts import anchor_of

SBUF_SHARE = 5
"""What a chunk of blocks works in takes at most one part of so many of SBUF, or a quarter of what is free."""

COPIES = 2
"""Tiles of equal chunks at least: one is loaded while the other is multiplied."""

TILE_SHARE = 0.85
"""Part of SBUF that tensors and the tiles for all chunks of a layer may take; there are fewer tiles otherwise."""


ROWS_FIRST, IMAGES_FIRST = (1, 2, 0, 3), (2, 0, 1, 3)
"""[N, C, H, W] to [C, H, N, W], and back."""


def takes_bands(k: Kernel, op: Operation) -> bool:
    """Whether `op` was chosen to be computed by bands, and its filters are there to be arranged."""
    return isinstance(op, ConvOp) and BANDS in op.attributes and is_packable(k, op.w)


def lower_bands(k: Kernel, op: ConvOp, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a depthwise convolution with the pointwise `ops` behind it, which take operands of channels or numbers."""
    _Bands(k, op, ops, results).run()


def loads_weights(k: Kernel, op: Operation) -> bool:
    """Whether a kernel is a convolution with weights of its own, behind which other loads may stand."""
    anchor = anchor_of(op)
    return isinstance(anchor, ConvOp) and k.scalar(anchor.w) is None


def send_rows(k: Kernel, op: Operation) -> None:
    """Store results of `op` for the convolutions by bands that read them, if they go there by DRAM.

    Their kernels may come later: the transfers then fill the time in between.
    """
    for user in dict.fromkeys(use.operation for value in op.results for use in value.uses):
        conv = anchor_of(user)
        if not isinstance(conv, ConvOp) or BANDS not in conv.attributes:
            continue
        if isinstance(user, FusedOp):
            pairs = zip(user.body.block.args, user.operands, strict=True)
            k.tensors |= {argument: k.tensors[operand] for argument, operand in pairs if operand in k.tensors}
        if conv.x in k.tensors and conv.w in k.tensors and takes_bands(k, conv):
            k.b.location = conv.location
            _Bands(k, conv, [], []).send()


@dataclass(frozen=True)
class Chunk:
    """`count` blocks of `size` channels from channel `first`."""

    first: int
    size: int
    count: int


class _Bands:
    """One convolution. `per`: channels of a block; `taps`: columns of the filter; `width`: columns with border."""

    def __init__(self, k: Kernel, op: ConvOp, ops: Sequence[Operation], results: Sequence[SSAValue]):
        self.k, self.b, self.op, self.ops, self.results = k, k.b, op, ops, results
        self.images, self.channels, self.rows, self.columns = shape_of(op.x)
        self.out_rows, self.out_columns = shape_of(op.result)[2:]
        self.taps, self.step, self.spread = shape_of(op.w)[3], ints(op.strides)[1], ints(op.dilations)[1]
        self.pad = ints(op.pads)[1]
        self.per = channels_per_block(self.rows, self.out_rows)
        reach = (self.out_columns - 1) * self.step + (self.taps - 1) * self.spread + 1
        self.width = max(reach, self.pad + self.columns)
        weight = k.tensor(op.w)
        assert isinstance(weight, DramTensor) and weight.symbol is not None
        name = f"{weight.symbol}.bands{self.rows}"
        self.bands = k.derive(name, [weight.symbol], lambda v: band_ops(v[0], op))

    def send(self) -> None:
        """Store a resident input where blocks are read from, if that is not where it lies, and it is there by now."""
        x = self.k.tensor(self.op.x)
        if not isinstance(x, SbufTensor) or x in self.k.bands.arriving:
            return
        if isinstance(sent := self._readable(x), DramTensor):
            self.k.bands.sent[x, self._border] = sent

    @property
    def _border(self) -> tuple[int, int]:
        """What rows in DRAM have on their left, and columns with that on their right."""
        return self.pad, self.width

    def _readable(self, x: Tensor) -> Tensor:
        """The input where blocks are read from; other kernels go on reading a resident one where it is."""
        if isinstance(x, DramTensor):
            return x
        if (sent := self.k.bands.sent.pop((x, self._border), None)) is not None:
            return sent
        route = self._route(self.rows, self.columns)
        if x.partition == 1 and route is Route.TURNED:
            return self._turned_out(x)
        if x.partition == 1 and route is Route.DIRECT:
            return x
        copy = self.k.scratch(self.op.x)
        write_out(self.b, x, copy)
        return copy

    def _route(self, rows: int, columns: int) -> Route:
        """How rows of a resident tensor get there or come from there."""
        size_bytes = dtype_by_name(self.bands.dtype).size_bytes
        given, made = (self.rows, self.columns), (self.out_rows, self.out_columns)
        work = Depthwise(self.images, self.channels, *given, *made, 1, self.taps, size_bytes)
        return quickest_route(work, rows, columns, self.k.target)

    def _turned_out(self, x: SbufTensor) -> DramTensor:
        """A resident tensor in DRAM as [C, H, N, W], seen as [N, C, H, W], its border included: all that a lane reads
        is one run.
        """
        shape = (self.channels, self.rows, self.images, self.width)
        turned = DramTensor.dense(self.b.alloc_outer(shape, x.dtype, "dram"), shape)
        for start in range(0, self.channels, LANES):
            lanes = {0: (start, min(LANES, self.channels - start))}
            view, commit = turned.store(self.b, 0, lanes)
            self._clear_border(view)
            self.b.copy(view.slice(3, self.pad, self.columns), x.view({1: lanes[0]}).permute((1, 0, 2)))
            commit()
        return turned.transpose(IMAGES_FIRST)

    def _clear_border(self, view: View) -> None:
        """Zeros before and after the columns in the last dimension of a [lanes, any, any, columns] tile."""
        after = self.width - self.pad - self.columns
        for start, count in ((0, self.pad), (self.width - after, after)):
            if count:
                self.b.memset(view.slice(3, start, count), 0.0)

    def _turned_in(self, place: DramTensor, tensor: SbufTensor) -> None:
        """The way back. It is turned when a kernel reads it, and loaded behind the weights of the next one at latest:
        engines work on other images until then.
        """
        turned, location = place.transpose(ROWS_FIRST), self.b.location
        pieces = [(start, min(LANES, self.channels - start)) for start in range(0, self.channels, LANES)]
        loaded: list[View] = []

        def load() -> None:
            before, self.b.location = self.b.location, location
            loaded.extend(turned.load(self.b, 0, {0: lanes}) for lanes in pieces)
            self.b.location = before

        def turn() -> None:
            before, self.b.location = self.b.location, location
            if not loaded:
                self.k.bands.waiting.remove(load)
                load()
            for lanes, view in zip(pieces, loaded, strict=True):
                self.b.copy(tensor.view({1: lanes}).permute((1, 0, 2)), view)
            self.b.location = before

        self.k.bands.waiting.append(load)
        self.k.bands.arriving[tensor] = turn

    def run(self) -> None:
        """All blocks, chunk by chunk, in tiles that are zero where no chunk writes."""
        outputs = {value: self.k.output(value) for value in self.results}
        places = {value: self._place(tensor) for value, tensor in outputs.items()}
        cut = self._cut(places.values())
        # Bands are loaded while the layer before still works, as far as there are tiles for them.
        used = self._chosen_tiles(cut)
        ahead = [number for number, tiles in enumerate(used) if not any(tiles is other for other in used[:number])]
        for number in ahead:
            self._load_bands(cut[number], used[number])
        columns = [self._load_columns(chunk) for chunk in cut]
        results = self._result_tiles(cut, places)
        x = self._readable(self.k.tensor(self.op.x))
        for number, chunk in enumerate(cut):
            if number not in ahead:
                self._load_bands(chunk, used[number])
            self._chunk(chunk, used[number], x, columns[number], results[number], places)
        for value, tensor in outputs.items():
            place = places[value]
            if isinstance(tensor, SbufTensor) and isinstance(place, DramTensor):
                if self._route(self.out_rows, self.out_columns) is Route.TURNED:
                    self._turned_in(place, tensor)
                else:
                    load_resident(self.k, place, tensor)

    def _place(self, tensor: Tensor) -> Tensor:
        """Where results are written, which may be DRAM on their way to SBUF."""
        route = self._route(self.out_rows, self.out_columns)
        if isinstance(tensor, DramTensor) or route is Route.DIRECT:
            return tensor
        shape = tensor.shape
        if route is Route.TURNED:
            shape = tuple(shape[d] for d in ROWS_FIRST)
        place = DramTensor.dense(self.b.alloc_outer(shape, tensor.dtype, "dram"), shape)
        return place.transpose(IMAGES_FIRST) if route is Route.TURNED else place

    def _tile_channels(self, places: Iterable[Tensor]) -> int:
        """Channels that blocks are cut from: all where rows come from DRAM and go there, or those of a tile."""
        x = self.k.tensor(self.op.x)
        direct = isinstance(x, SbufTensor) and self._route(self.rows, self.columns) is Route.DIRECT
        resident = direct or any(isinstance(place, SbufTensor) for place in places)
        return LANES if resident else self.channels

    @cached_property
    def _keeps_bands(self) -> bool:
        """Whether tiles for all bands of a layer have room on chip until the last layer like this one."""
        blocks, size_bytes = ceil(self.channels / self.per), dtype_by_name(self.bands.dtype).size_bytes
        row = self.per * self.out_rows * self.taps + COPIES * self.images * (self.width + self.out_columns)
        room = TILE_SHARE * int(self.k.target.sbuf_bytes_per_partition) - self._resident_ahead()
        return blocks * row * size_bytes <= room

    def _cut(self, places: Iterable[Tensor]) -> list[Chunk]:
        """Chunks of as many blocks as fit into a part of SBUF, or of what is free."""
        row_bytes = self.images * (self.width + self.out_columns)
        block_bytes = self.per * self.out_rows * self.taps + row_bytes
        sbuf = int(self.k.target.sbuf_bytes_per_partition)
        room = sbuf // SBUF_SHARE if self._keeps_bands else min(sbuf // SBUF_SHARE, (sbuf - self.k.resident_bytes) // 4)
        most = room // (block_bytes * dtype_by_name(self.bands.dtype).size_bytes)
        return chunks(self.channels, self.per, max(1, most), self._tile_channels(places))

    def _chosen_tiles(self, cut: Sequence[Chunk]) -> list[BandTiles]:
        """Tiles for chunks: a tile for each that layers of this form have had before, cleared once, where there is
        room for them as long as such layers run; else new ones, of which two take turns.
        """
        held = self.k.bands.tiles if self._keeps_bands else dict[Form, list[BandTiles]]()
        most = len(cut) if self._keeps_bands else COPIES
        counts: Counter[Form] = Counter()
        found: list[BandTiles] = []
        for chunk in cut:
            tiles, number = held.setdefault(form := self._form(chunk), []), counts[form] % most
            counts[form] += 1
            if number == len(tiles):
                tiles.append(self._cleared_tiles(chunk))
            found.append(tiles[number])
        return found

    def _form(self, chunk: Chunk) -> Form:
        """What tiles of chunks, of this layer or of others, have in common."""
        sizes = (chunk.size, chunk.count, self.rows, self.out_rows, self.taps, self.images)
        return (*sizes, self.pad, self.columns, self.width, self.bands.dtype)

    def _resident_ahead(self) -> int:
        """Most bytes of resident tensors from this layer to the last one of its form."""
        bands = self.k.bands
        if not bands.resident_ahead:
            bands.resident_ahead = resident_ahead(self.k.program)
        return bands.resident_ahead.get(self.op, self.k.resident_bytes)

    def _cleared_tiles(self, chunk: Chunk) -> BandTiles:
        """New tiles for chunks like this one."""
        b, lanes = self.b, chunk.size * self.rows
        shape = (lanes, chunk.count, chunk.size, self.out_rows, self.taps)
        bands = b.alloc_outer(shape, self.bands.dtype, "sbuf", "bands").view()
        if chunk.size > 1:
            b.memset(bands, 0.0)
        shape = (lanes, chunk.count, self.images, self.width)
        count = COPIES if self._keeps_bands else 1
        rows = [b.alloc_outer(shape, self.bands.dtype, "sbuf", "rows").view() for _ in range(count)]
        for view in rows:
            self._clear_border(view)
        return BandTiles(bands, rows)

    def _result_tiles(self, cut: Sequence[Chunk], places: Mapping[SSAValue, Tensor]) -> list[dict[SSAValue, View]]:
        """Tiles that chunks leave their results in.

        They are parts of one buffer, so that no chunk waits for the store of the one before. Where all bands stay there
        is one for each chunk, and two such buffers take turns for all layers of this form.
        """
        shapes = [(chunk.size * self.out_rows, chunk.count, self.images, self.out_columns) for chunk in cut]
        parts = len(cut) if self._keeps_bands else min(COPIES, len(cut))
        whole = (max(s[0] for s in shapes), parts, max(s[1] for s in shapes), *shapes[0][2:])
        form = (*whole, *(tensor.dtype for tensor in places.values()))
        kept = self.k.bands.results.setdefault(form, []) if self._keeps_bands else []
        if len(kept) < COPIES:
            kept.append([self.b.alloc_outer(whole, t.dtype, "sbuf", "evicted").view() for t in places.values()])
        else:
            kept.append(kept.pop(0))
        made: list[dict[SSAValue, View]] = []
        for number, (lanes, count, *_) in enumerate(shapes):
            views = [view.slice(0, 0, lanes).at(1, number % parts).slice(1, 0, count) for view in kept[-1]]
            made.append(dict(zip(places, views, strict=True)))
        return made

    def _chunk(
        self,
        chunk: Chunk,
        tiles: BandTiles,
        x: Tensor,
        columns: dict[SSAValue, View],
        results: dict[SSAValue, View],
        places: dict[SSAValue, Tensor],
    ) -> None:
        """Load the rows of one chunk, multiply them into `results` and store these; the bands are there."""
        b = self.b
        rows = tiles.next_rows()
        bordered = x.shape[3] == self.width
        for view, place in on_rows(x, chunk, rows if bordered else rows.slice(3, self.pad, self.columns)):
            transfer(b, b.load, view, place)
        most = max(1, int(self.k.target.psum_bank_bytes) // 4 // self.out_columns)
        with b.loop(chunk.count) as i:
            taken = {value: column.slice(1, i, 1) for value, column in columns.items()}

            def body(start: Affine, images: int) -> None:
                moving = rows.at(1, i).slice(1, start, images)
                targets = {value: view.at(1, i).slice(1, start, images) for value, view in results.items()}
                self._product(tiles.bands.at(1, i), moving, taken, targets)

            b.tiles(self.images, min(most, self.images), body)
        for value, tensor in places.items():
            for view, place in on_rows(tensor, chunk, results[value]):
                transfer(b, b.store, place, view)

    def _load_bands(self, chunk: Chunk, tiles: BandTiles) -> None:
        """Bring the blocks of the band matrices to their places, unless they are there."""
        assert self.bands.symbol is not None
        name, tile = (self.bands.symbol, chunk.first), tiles.bands
        if tiles.held == name:
            return
        tiles.held = name
        b, (size, rows, row) = self.b, (chunk.size, self.rows, self.out_rows * self.taps)
        for channel in range(size):
            offset = Affine((chunk.first + channel) * rows * row)
            dims = ((row, rows), (size * rows * row, chunk.count), (self.taps, self.out_rows), (1, self.taps))
            source = View(self.bands.buffer, Affine(), 0, offset, dims)
            transfer(b, b.load, tile.slice(0, channel * rows, rows).at(2, channel), source)

    def _load_columns(self, chunk: Chunk) -> dict[SSAValue, View]:
        """Operands with a number for each channel, as [(channel, output row), blocks]."""
        b, found = self.b, dict[SSAValue, View]()
        inside = {self.op.result, *(op.results[0] for op in self.ops)}
        for operand in dict.fromkeys(value for op in self.ops for value in op.operands):
            if operand in inside or self.k.scalar(operand) is not None:
                continue
            window = self.k.dram(operand).broadcast(shape_of(self.op.result))
            step, size = window.strides[1], chunk.size
            tile = b.alloc((size * self.out_rows, chunk.count), "f32", "sbuf", 1, "column").view()
            dims = ((step, size), (0, self.out_rows), (step * size, chunk.count))
            source = View(window.buffer, Affine(), 0, Affine(window.offset + chunk.first * step), dims)
            transfer(b, b.load, tile, source)
            found[operand] = tile
        return found

    def _product(self, bands: View, rows: View, columns: dict[SSAValue, View], targets: dict[SSAValue, View]) -> None:
        """Multiply some images of one block, and take the result through the operators behind the convolution."""
        b = self.b
        images, lanes = rows.shape[1], bands.shape[1] * bands.shape[2]
        bank = b.alloc((lanes, images, self.out_columns), "f32", "psum", 4, "sum").view()
        for tap in range(self.taps):
            moving = rows.slice(2, tap * self.spread, self.out_columns, self.step)
            b.matmul(bank, bands.at(3, tap), moving, min(tap, 1))
        values: dict[SSAValue, View | float] = {
            operand: number
            for op in self.ops
            for operand in op.operands
            if (number := self.k.scalar(operand)) is not None
        }
        free = [size for _, size in bank.dims]
        values |= {value: column.insert(0).broadcast(free) for value, column in columns.items()}
        if self.op.result in targets:
            b.activation(targets.pop(self.op.result), bank, "copy")
        if targets:
            location = b.location
            Pointwise(b, self.k.target).emit_group(self.ops, {**values, self.op.result: bank}, targets)
            b.location = location


def chunks(channels: int, per: int, most: int, tile: int = LANES) -> list[Chunk]:
    """All channels in order as chunks of at most `most` blocks of `per` channels, and of what a tile has left."""
    found: list[Chunk] = []
    for start in range(0, channels, tile):
        full, rest = divmod(min(tile, channels - start), per)
        even = ceil(full / ceil(full / most)) if full else 1
        found += [Chunk(start + first * per, per, min(even, full - first)) for first in range(0, full, even)]
        if rest:
            found.append(Chunk(start + full * per, rest, 1))
    return found


def on_rows(tensor: Tensor, chunk: Chunk, rows: View) -> list[tuple[View, View]]:
    """Pieces of `rows` [(channel, row), blocks, images, columns], each with what it is of a tensor [N, C, H, W].

    One piece in DRAM; in SBUF one for each block, for a DMA starts on one partition.
    """
    if isinstance(tensor, DramTensor):
        images, (step, _), row, column = zip(tensor.strides, tensor.shape, strict=True)
        dims = ((step, chunk.size), row, (step * chunk.size, chunk.count), images, column)
        return [(rows, View(tensor.buffer, Affine(), 0, Affine(chunk.first * step + tensor.offset), dims))]
    pieces: list[tuple[View, View]] = []
    halo = tensor.halo or ((0, 0),) * 3
    others = [n for d, n in enumerate(tensor.shape) if d != tensor.partition]
    for block in range(chunk.count):
        tile, lane = divmod(chunk.first + block * chunk.size, LANES)
        view = tensor.whole.slice(0, lane, chunk.size).at(1, tile)
        for position, (n, (low, _)) in enumerate(zip(others, halo, strict=True)):
            view = view.slice(1 + position, low, n)
        pieces.append((rows.at(1, block), view.permute((1, 0, 2))))
    return pieces


def band_ops(weight: SSAValue, op: ConvOp) -> list[Operation]:
    """Graph ops from filters [C, 1, taps, columns] to bands [C, rows, output rows, columns].

    The filter's column stands in a row of the band `stride` further on for each output row. Rows that are all the
    same, `period` long, are that when they are read as rows that are `stride` shorter.
    """
    (channels, _, taps, columns), rows, out = shape_of(weight), shape_of(op.x)[2], shape_of(op.result)[2]
    stride, pad = ints(op.strides)[0], ints(op.pads)[0]
    length = max(taps + (out - 1) * stride, pad + rows)
    period = length + stride
    made: list[Operation] = [ReshapeOp(weight, (channels, taps, columns))]

    def then(following: Operation) -> SSAValue:
        made.append(following)
        return following.results[0]

    column = then(TransposeOp(made[0].results[0], (0, 2, 1)))
    low, high = (0, 0, 0), (0, 0, period - taps)
    padded = then(PadOp(column, low=low, high=high, mode=PadMode.CONSTANT, value=0.0))
    single = then(ReshapeOp(padded, (channels, columns, 1, period)))
    repeated = then(BroadcastOp(single, (channels, columns, out, period)))
    flat = then(ReshapeOp(repeated, (channels, columns, out * period)))
    cut = then(SliceOp(flat, (0, 0, 0), (channels, columns, out * length), (1, 1, 1)))
    shifted = then(ReshapeOp(cut, (channels, columns, out, length)))
    window = then(SliceOp(shifted, (0, 0, 0, pad), (channels, columns, out, rows), (1, 1, 1, 1)))
    then(TransposeOp(window, (0, 3, 2, 1)))
    return made
