"""Kernel of a 1x1 convolution whose channels are wanted last (`graph-pixel-rows`): a product with pixels as rows.

    row[pixel, o] = sum over input channels of  x[c, pixel]^T . w[c, o]

The input is the stationary operand, as many pixels of it as the array has columns; the filters stream past. A lane has
neighbouring pixels, so that what it stores is one run for each part of the channels. Everything behind the product
happens in the tile that is stored: the first operators while it leaves PSUM, those on some of the last positions there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil

from xdsl.ir import SSAValue

from lowering.graph_to_tile.conv_weights import WeightPacking, is_packable
from lowering.graph_to_tile.emitter import Operand
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.movement import materialize
from lowering.graph_to_tile.pointwise import Pointwise
from lowering.graph_to_tile.product_bias import PARTS, product_bias
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import SliceOp, shape_of, spec_of
from passes.graph.conv_groups import plan_groups
from passes.graph.pixel_rows import PixelLanes, PixelRows, pixel_lanes

ROW_BYTES = 20 * 1024
"""Bytes of a partition that a tile of results may take: long runs for the DMA, and room for three."""


def lower(k: Kernel, run: PixelRows) -> None:
    """Lower a run of operators that `rows_of` recognised."""
    _PixelRowsKernel(k, run).emit()


@dataclass
class _PixelRowsKernel:
    k: Kernel
    run: PixelRows
    lanes: PixelLanes = field(init=False)
    operands: dict[SSAValue, View] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.b = self.k.b
        self.images, self.channels, height, width = shape_of(self.run.conv.x)
        self.outputs = shape_of(self.run.conv.result)[1]
        self.lanes = pixel_lanes(height, width, min(LANES, int(self.k.target.pe_columns)))
        self.dtype = spec_of(self.run.result)[0]
        self.tiles = ceil(self.channels / LANES)

    def emit(self) -> None:
        """The whole kernel."""
        k, b, parts, lanes = self.k, self.b, self.run.parts, self.lanes
        output = k.output(self.run.result)
        assert isinstance(output, DramTensor)
        shape = (self.images, parts, lanes.lanes, lanes.positions, self.outputs // parts)
        window = output.reshape(shape)
        if window is None:
            window = k.scratch(self.run.result).reshape(shape)
            assert window is not None, "a dense tensor has any shape"
        weights, bias = self._weights(), self._bias()
        self._load_operands()
        x = k.tensor(self.run.conv.x)
        row_bytes = self.outputs * self.dtype.size_bytes
        chunk = max(1, min(lanes.columns, ROW_BYTES // row_bytes))
        while lanes.columns % chunk:
            chunk -= 1
        with b.loop(self.images) as image:
            pixels = self._pixels(x, image)
            with b.loop(lanes.rows) as row, b.loop(lanes.columns // chunk) as part:
                tile = b.alloc((lanes.lanes, parts, chunk, self.outputs // parts), self.dtype.name, "sbuf", 3, "rows")
                view, first = tile.view(), row * lanes.columns + part * chunk
                self._products(pixels, weights, bias, view, (row, part * chunk))
                self._pieces(view, first)
                stored = window.view({0: (image, 1), 3: (first, chunk)}, [2, 0, 1, 3, 4]).at(1, 0)
                transfer(b, b.store, stored, view)
        base = DramTensor.dense(window.buffer, shape_of(self.run.result))
        if window.buffer is not output.buffer:
            materialize(k, base, output)

    # -- operands ------------------------------------------------------------------------------------------------------

    def _weights(self) -> View:
        """The filters on chip, [c, c tiles, o]."""
        k, b, conv = self.k, self.b, self.run.conv
        groups = plan_groups(self.channels, self.outputs, 1, is_packable(k, conv.w))
        packing = WeightPacking(k, conv.w, groups, 1, False)
        shape = (min(LANES, self.channels), self.tiles, self.outputs)
        weights = b.alloc_outer(shape, packing.dtype, "sbuf", "weights").view()
        for tile in range(self.tiles):
            count = min(LANES, self.channels - tile * LANES)
            source = packing.view(Affine(0), tile * LANES, count, Affine(0), self.outputs)
            transfer(b, b.load, weights.slice(0, 0, count).at(1, tile), source.at(3, 0).at(1, 0))
        return weights

    def _bias(self) -> Callable[[View], None] | None:
        """What begins the sums of a bank with the bias."""
        addition, k = self.run.bias, self.k
        if addition is None:
            return None
        tensor = k.dram(addition.b)
        assert dtype_by_name(tensor.dtype) in PARTS
        bias = product_bias(k, tensor)
        row = bias.load(k, (Affine(0), self.outputs), 1)
        return lambda bank: bias.begin(k, bank, row)

    def _load_operands(self) -> None:
        """Constants with a number for each pixel, as [lanes, parts, positions, last]."""
        lanes, parts, k = self.lanes, self.run.parts, self.k
        for piece in self.run.pieces:
            made = {result for op in piece.ops for result in op.results}
            for op in piece.ops:
                for value in op.operands:
                    if value in made or value in self.operands or isinstance(value.owner, SliceOp):
                        continue
                    if k.scalar(value) is not None:
                        continue
                    tensor = k.dram(value).reshape((parts, lanes.lanes, lanes.positions, piece.size))
                    assert tensor is not None, "constants are dense"
                    shape = (lanes.lanes, parts, lanes.positions, piece.size)
                    tile = self.b.alloc_outer(shape, tensor.dtype, "sbuf", "constants").view()
                    transfer(self.b, self.b.load, tile, tensor.view(order=[1, 0, 2, 3]))
                    self.operands[value] = tile

    def _pixels(self, x: Tensor, image: Affine) -> View:
        """The pixels of one image on chip, [c, c tiles, height, width]."""
        b = self.b
        if isinstance(x, SbufTensor) and x.partition == 1:
            low = [before for before, _ in x.halo] or [0, 0, 0]
            view = x.whole.at(2, image + low[0])
            return view.slice(2, low[1], x.shape[2]).slice(3, low[2], x.shape[3])
        source = self.k.dram(self.run.conv.x)
        tile = b.alloc((min(LANES, self.channels), self.tiles, *source.shape[2:]), source.dtype, "sbuf", 2, "pixels")
        for position in range(self.tiles):
            count = min(LANES, self.channels - position * LANES)
            piece = source.view({0: (image, 1), 1: (position * LANES, count)}, [1, 0, 2, 3]).at(1, 0)
            transfer(b, b.load, tile.view().slice(0, 0, count).at(1, position), piece)
        return tile.view()

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _products(
        self, pixels: View, weights: View, bias: Callable[[View], None] | None, tile: View, start: tuple[Affine, Affine]
    ) -> None:
        """Fill `tile` [lanes, parts, positions, last]; `start`: row and column of each lane's first pixel."""
        k, b = self.k, self.b
        bank_elements = min(int(k.target.pe_moving_elements), int(k.target.psum_bank_bytes) // 4)

        def bank_of(first: Affine, count: int) -> None:
            bank = b.alloc((self.lanes.lanes, count, self.outputs), "f32", "psum", 4, "sum").view()
            with b.loop(count) as position:
                self._sum(bank.at(1, position), pixels, weights, bias, (start[0], start[1] + first + position))
            self._evict(bank, tile.slice(2, first, count))

        b.tiles(tile.shape[2], max(1, bank_elements // self.outputs), bank_of)

    def _sum(
        self, bank: View, pixels: View, weights: View, bias: Callable[[View], None] | None, at: tuple[Affine, Affine]
    ) -> None:
        """One pixel of each lane."""
        b, lanes = self.b, self.lanes
        if bias is not None:
            bias(bank)
        if lanes.rows > 1:
            stationary = pixels.slice(2, at[0], lanes.lanes, lanes.rows).at(3, at[1])
        else:
            per_row = pixels.shape[3] // lanes.columns
            stationary = pixels.slice(3, at[1], per_row, lanes.columns)
        full, rest = divmod(self.channels, LANES)
        if full:
            with b.loop(full) as i:
                b.matmul(bank, stationary.at(1, i), weights.at(1, i), 1 if bias is not None else i)
        if rest:
            left, right = stationary.at(1, full).slice(0, 0, rest), weights.at(1, full).slice(0, 0, rest)
            b.matmul(bank, left, right, 1 if full or bias is not None else 0)

    def _evict(self, bank: View, tile: View) -> None:
        """The operators on whole rows, while they leave PSUM for `tile` [lanes, parts, positions, last]."""
        b, run = self.b, self.run
        source = bank.split(1, (run.parts, self.outputs // run.parts))
        target = tile.permute((1, 0, 2))
        if not run.base:
            b.copy(target, source)
            return
        values: dict[SSAValue, Operand] = {run.transpose.result: source}
        for op in run.base:
            for value in op.operands:
                if (number := self.k.scalar(value)) is not None:
                    values[value] = number
        location = b.location
        Pointwise(b, self.k.target).emit_group(run.base, values, {run.row: target})
        b.location = location

    def _pieces(self, tile: View, first: Affine) -> None:
        """What is made of some of the last positions, in their place."""
        chunk = tile.shape[2]
        for piece in self.run.pieces:
            place = tile.slice(3, piece.start, piece.size)
            made = {result for op in piece.ops for result in op.results}
            values: dict[SSAValue, Operand] = {}
            for op in piece.ops:
                for value in op.operands:
                    if value in made:
                        continue
                    number = self.k.scalar(value)
                    if number is not None:
                        values[value] = number
                    elif value in self.operands:
                        values[value] = self.operands[value].slice(2, first, chunk)
                    else:
                        values[value] = place
            if piece.ops:
                location = self.b.location
                Pointwise(self.b, self.k.target).emit_group(piece.ops, values, {piece.value: place})
                self.b.location = location
