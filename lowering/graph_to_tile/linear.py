"""Kernel of a matrix product whose rows, or whose result, lie on chip with features on partitions.

Tensors x [rows, k] and y [rows, n] with features on partitions are the operands that the tensor engine contracts, so
that layers follow each other without turning anything:

    y[n, rows] = w[k, n]^T . x[k, rows]        features on partitions: the next product, attention
    y[rows, n] = x[k, rows]^T . w[k, n]        rows on partitions: normalisation along n, DRAM

Weights stay on chip for all rows where they fit, else columns of them stream past. Rows are the outer loop, so that the
next layer can begin with the first of them; rows that lie otherwise are turned as they come.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import ceil

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.k_major import KMajor, k_major
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.product_bias import ProductBias, take_bias
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.turning import Bank, turn_matrix, turns_together
from lowering.graph_to_tile.view import View
from lowering.graph_to_tile.weight_tiles import WeightTiles
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import MatMulOp, spec_of

_Range = tuple[Affine, int]
"""(start, size)"""

ROWS, FEATURES = 0, 1
"""Dimensions of the matrices."""

ROW_PARTS = 4
"""In so many parts rows are multiplied at least where they are wanted in parts (`Kernel.parted_rows`)."""

PART_ROWS = 256
"""Most rows of a part: the tensor engine is busy for longer than loading another stationary operand takes."""

WEIGHT_SHARE = 0.25
"""Part of SBUF that the weights of one layer may take to stay for all rows."""

STREAMED_SHARE = 1 / 16
"""Part of SBUF that a chunk of columns takes that streams past; there are two. Little, so that the next layer's first
chunk has room before this layer ends."""

USABLE_SHARE = 0.9
"""Part of SBUF that resident tensors and the weights of one layer take together; the rest is for tiles in passing."""

BIAS_SHARE = 1 / 8
"""Part of SBUF that the bias of all columns may take to stay; that of more columns is loaded with each block."""

WIDEST_LOAD = 512
"""Columns of a weight that are loaded together."""

GATHERED_BYTES = 16 * 1024
"""Bytes of a lane that the one feature of all rows may take until it is stored."""

SUM_BANKS = 4
"""PSUM banks that sums of one product rotate over."""

FEW_BLOCKS = 2
"""Blocks of columns of a tile of rows that are written one by one."""


def wants_linear(k: Kernel, op: MatMulOp, results: Sequence[SSAValue]) -> bool:
    """Whether the operands or a result of a product lie as this kernel serves them."""
    if len(spec_of(op.result)[1]) != 2 or op.transpose_a or not isinstance(k.tensor(op.b), DramTensor):
        return False
    a = k.tensor(op.a)
    features_in = isinstance(a, SbufTensor) and a.partition == FEATURES and not a.halo
    features_out = any(k.residents.get(result) == (FEATURES, ()) for result in results)
    return features_in or features_out


def lower_linear(k: Kernel, op: MatMulOp, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a product of matrices with the pointwise `ops` behind it; `results` agree on their partition dimension."""
    if k.values_for is not None and _hands_values(k, op, ops, results):
        return
    rows, columns = spec_of(op.result)[1]
    turned = any(value in k.residents and k.residents[value][0] == FEATURES for value in results)
    # One feature of all rows is one run in memory.
    turned = turned or (columns == 1 and not any(value in k.residents for value in results))
    bias, ops, results = (None, ops, results) if turned else take_bias(k, op, ops, results)
    epilogue = Epilogue(k, op.result, ops, results, FEATURES if turned else ROWS)
    x = k.tensor(op.a)
    weight = k.dram(op.b)
    weight = k_major(k, weight) if bool(op.transpose_b) else weight
    epilogue.prepare()
    if rows in k.parted_rows:
        # Engines that would fill columns for each part work for the loop that fetches rows, and run ahead.
        epilogue.fill_numbers()
    at_once = turned and rows in k.parted_rows and k.postpones_for is None
    store = _store_at_once(k, epilogue) if at_once else None
    linear = _Linear(k, op, x, weight, epilogue, spec_of(op.result)[1], turned, bias)
    if k.postpones_for is None:
        linear.run()
        if store is not None:
            store()
    else:
        k.postponed.setdefault(k.postpones_for, []).append(linear)


def _store_at_once(k: Kernel, epilogue: Epilogue) -> Callable[[], None] | None:
    """Let the one result, a feature of all rows, stay on chip until all of it is there; gives what stores it.

    What waits in the queue of a store for a part of the rows would wait for that part.
    """
    (value, out), *more = epilogue.outputs.items()
    if more or not isinstance(out, DramTensor) or out.shape[FEATURES] > 1:
        return None
    rows = out.shape[ROWS]
    if rows * dtype_by_name(out.dtype).size_bytes > GATHERED_BYTES:
        return None
    buffer = k.b.alloc_outer((1, 1, rows), out.dtype, "sbuf", "results")
    epilogue.outputs[value] = SbufTensor(buffer, out.shape, FEATURES)
    return lambda: transfer(k.b, k.b.store, out.view({}, (FEATURES, ROWS)), buffer.view().at(1, 0))


def _hands_values(k: Kernel, op: MatMulOp, ops: Sequence[Operation], results: Sequence[SSAValue]) -> bool:
    """Leave a product to the attention that `values_for` names, if nothing but a bias is added to it."""
    x, attention = k.tensor(op.a), k.values_for
    if attention is None or not isinstance(x, SbufTensor) or x.partition != FEATURES or op.transpose_b:
        return False
    bias, ops, results = take_bias(k, op, ops, results)
    if ops:
        return False
    epilogue = Epilogue(k, op.result, ops, results, FEATURES)
    epilogue.prepare()
    shape = spec_of(op.result)[1]
    k.value_products[attention] = _Linear(k, op, x, k.dram(op.b), epilogue, shape, turned=False, bias=bias)
    return True


def load_width(columns: int, most: int = WIDEST_LOAD) -> int:
    """Columns that are loaded together: the widest multiple of 128 up to `most` that divides `columns`.

    Where there is none, `WIDEST_LOAD` or all columns.
    """
    widths = range(min(most, WIDEST_LOAD) // LANES * LANES, 0, -LANES)
    return next((width for width in widths if columns % width == 0), min(columns, WIDEST_LOAD))


@dataclass
class _Linear:
    """Loops of one product."""

    k: Kernel
    op: MatMulOp
    x: Tensor
    weight: DramTensor
    epilogue: Epilogue
    shape: tuple[int, ...]
    turned: bool
    bias: ProductBias | None = None
    weights: View = field(init=False)
    bias_row: View | None = None
    """The parts of the bias of all columns, where these stay on chip."""
    features: View | None = None
    """All rows of x with features on partitions, where they were turned once for all chunks of columns."""

    def __post_init__(self) -> None:
        self.b, self.rows, self.columns = self.k.b, self.shape[ROWS], self.shape[FEATURES]
        self.depth = self.weight.shape[0]
        self.tiles, self.lanes = ceil(self.depth / LANES), min(LANES, self.depth)
        self.source = KMajor(self.k, self.weight, FEATURES, ROWS)
        self.array_columns = int(self.k.target.pe_columns)
        self.moving = int(self.k.target.pe_moving_elements)
        self.width = load_width(self.columns)
        if self.bias is not None and self.bias.row_bytes <= BIAS_SHARE * int(self.k.target.sbuf_bytes_per_partition):
            self.bias_row = self.bias.whole(self.k)

    def load(self) -> None:
        """Bring all weights on chip."""
        shape = (self.lanes, self.tiles, self.columns)
        self.weights = self.b.alloc(shape, self.weight.dtype, "sbuf", self.b.rotation, "weights").view()
        self._load(self.weights, Affine(0), self.columns)

    def pieces(self, rows: _Range, banks: Bank) -> list[Callable[[], None]]:
        """What emits the columns of some rows, 128 at a time; both operands are on chip."""
        assert isinstance(self.x, SbufTensor)
        x = self.x.whole.slice(2, *rows)

        def emit(first: int) -> None:
            count = min(LANES, self.columns - first)
            bank = banks((count, rows[1]))
            self._accumulate(bank, self.weights.slice(2, first, count), x)
            self.epilogue.apply([(0, bank)], {ROWS: rows, FEATURES: (Affine(first), count)})

        return [partial(emit, first) for first in range(0, self.columns, LANES)]

    def fill(self, bank: View, rows: _Range, first: int) -> None:
        """Columns from `first` on of some rows, with their bias, into `bank` [rows, columns]; operands are on chip."""
        assert isinstance(self.x, SbufTensor)
        self._begin(bank, Affine(first))
        self._accumulate(bank, self.x.whole.slice(2, *rows), self.weights.slice(2, first, bank.free_elements))

    def run(self) -> None:
        """All columns, in as few chunks as the weights need."""
        element_bytes = dtype_by_name(self.weight.dtype).size_bytes
        sbuf = int(self.k.target.sbuf_bytes_per_partition)
        share = min(int(sbuf * WEIGHT_SHARE), int(sbuf * USABLE_SHARE) - self.k.resident_bytes)
        most = share // (self.tiles * element_bytes)
        if self.k.pins_weights and self.weight.symbol is not None:
            most = self.columns
        if self._in_parts and most >= self.columns:
            self._chunk(Affine(0), self.columns)
            return
        if self._streams and most >= 2 * self.width:
            self.b.tiles(self.columns, self.width, self._chunk)
            return
        room = int(sbuf * USABLE_SHARE) - self.k.resident_bytes
        if self.turned and self._reuses_columns and most >= 2 * self.width and not self.k.pins_weights:
            self._turn_once(room)
            if self.features is not None:
                self.b.tiles(self.columns, self.width, self._chunk)
                return
        if most >= self.columns:
            self._chunk(Affine(0), self.columns)
            return
        if most < 2 * self.width and self.rows > (self.moving if self.turned else LANES):
            # Narrow loads are read once, streamed groups of k tiles once for each block of rows.
            self.width = load_width(self.columns, most // 2)
        if most < 2 * self.width:
            self._deep()
            return
        self._turn_once(room)
        streamed = min(most // 2, max(LANES, int(sbuf * STREAMED_SHARE) // (self.tiles * element_bytes)))
        self.width = load_width(self.columns, streamed)
        chunk = max(self.width, streamed // self.width * self.width)
        self.b.tiles(self.columns, chunk, self._chunk)

    @property
    def _in_parts(self) -> bool:
        """Whether rows are wanted in several parts."""
        return self.rows in self.k.parted_rows and self.rows % (ROW_PARTS * LANES) == 0

    @property
    def _streams(self) -> bool:
        """Whether x is on chip as it is wanted, with so many rows that columns of weights load while others multiply.

        Then the weights take little memory, and what comes next can be loaded already.
        """
        features = isinstance(self.x, SbufTensor) and self.x.partition == FEATURES
        return self.turned and features and self._reuses_columns

    @property
    def _reuses_columns(self) -> bool:
        """Whether columns of weights take much longer to be multiplied with all rows than to be loaded."""
        tile_macs = LANES * self.rows
        load_ns = LANES * dtype_by_name(self.weight.dtype).size_bytes / self.k.target.dma_rate_bytes_per_ns
        return tile_macs / self.k.target.peak_macs_per_ns > 2 * load_ns

    def _turn_once(self, room_bytes: int) -> None:
        """Turn all rows of x, which every chunk of columns reads, where a partition has room for them."""
        row_bytes = self.tiles * dtype_by_name(self.x.dtype).size_bytes
        streams = 2 * max(int(int(self.k.target.sbuf_bytes_per_partition) * STREAMED_SHARE), LANES * row_bytes)
        if (
            isinstance(self.x, SbufTensor)
            and self.x.partition == ROWS
            and self.rows * row_bytes + streams <= room_bytes
        ):
            self.features = self._features(Affine(0), self.rows)

    def _chunk(self, start: Affine, size: int) -> None:
        """`size` columns from `start`, for all rows."""
        # Few blocks of columns have buffers of their own: smaller ones find a place, and are filled, earlier.
        width = size if self.turned or ceil(size / self.width) > FEW_BLOCKS else self.width
        weights: list[View] = []
        for low in range(0, size, width):
            shape = (self.lanes, self.tiles, min(width, size - low))
            weights.append(self.b.alloc(shape, self.weight.dtype, "sbuf", self.b.rotation, "weights").view())
            self._load(weights[-1], start + low, shape[2])
        self.b.tiles(self.rows, self._block_rows, lambda row, count: self._rows(weights, row, count, start, size))

    @property
    def _block_rows(self) -> int:
        """Rows that are multiplied at a time: as many in each block where they need not come in tiles of 128."""
        if not self.turned:
            return LANES
        if self._in_parts:
            return next(rows for rows in (PART_ROWS, LANES) if self.rows // ROW_PARTS % rows == 0)
        blocks = ceil(self.rows / self.moving)
        in_place = self.features is not None or (isinstance(self.x, SbufTensor) and self.x.partition == FEATURES)
        return self.rows // blocks if in_place and self.rows % blocks == 0 else self.moving

    def _load(self, weights: View, start: Affine, size: int) -> None:
        """Fill `weights` [128, k tiles, columns] with `size` columns from `start`."""

        def load(first: Affine, count: int) -> None:
            panel = weights.slice(2, first, count)
            if self.source.is_direct:
                self.source.load(panel, {FEATURES: (start + first, count)})
                return
            self.b.tiles(
                count,
                LANES,
                lambda low, n: self.source.load(panel.slice(2, low, n), {FEATURES: (start + first + low, n)}),
            )

        self.b.tiles(size, min(size, self.width), load)

    def _deep(self) -> None:
        """So many k tiles that not even the columns of one load fit: groups of k tiles stream past."""
        rows = self.moving if self.turned else LANES
        width = LANES if self.turned else min(self.moving, self.columns)
        tiles = WeightTiles(self.k, self.op, self.weight, width, by_lane=isinstance(self.x, DramTensor))

        def block(x: View, row: Affine, count: int, start: Affine, size: int) -> None:
            shape = (size, count) if self.turned else (count, size)
            bank = self.b.alloc(shape, "f32", "psum", 2, "sum").view()
            self._begin(bank, start)

            def group(first: Affine, number: int, lanes: int = LANES) -> None:
                loaded = self.b.alloc((lanes, number, size), self.weight.dtype, "sbuf", 6, "weights").view()
                transfer(self.b, self.b.load, loaded, tiles.view(first, number, lanes, start, size))
                with self.b.loop(number) as i:
                    self._add_tile(bank, x.slice(0, 0, lanes).at(1, first + i), loaded.at(1, i), first + i + self.begun)

            full, rest = divmod(self.depth, LANES)
            self.b.tiles(full, min(full, tiles.group) or 1, group)
            if rest:
                group(Affine(full), 1, rest)
            self.epilogue.apply([(0, bank)], {ROWS: (row, count), FEATURES: (start, size)})

        def rows_block(row: Affine, count: int) -> None:
            x = self._features_by_lane(row, count) if tiles.by_lane else self._features(row, count)
            self.b.tiles(self.columns, width, lambda start, size: block(x, row, count, start, size))

        self.b.tiles(self.rows, rows, rows_block)

    def _features_by_lane(self, row: Affine, count: int) -> View:
        """Rows of x, which lie in DRAM, as [128, k tiles, rows]; a partition takes neighbouring features of a row."""
        assert isinstance(self.x, DramTensor)
        panel = self.b.alloc((LANES, count, self.tiles), self.x.dtype, "sbuf", self.b.rotation, "panel").view()
        window = self.x.view({ROWS: (row, count)})
        (row_stride, _), (stride, _) = window.dims
        dims = ((stride * self.tiles, LANES), (row_stride, count), (stride, self.tiles))
        transfer(self.b, self.b.load, panel, View(window.buffer, Affine(), 0, window.offset, dims))
        return panel.permute((1, 0))

    def _add_tile(self, bank: View, x: View, weights: View, added: Affine) -> None:
        """Add the products of one k tile, x [k, rows] and weights [k, columns], to the bank."""
        left, right = (weights, x) if self.turned else (x, weights)
        for low in range(0, bank.partitions, self.array_columns):
            width = min(self.array_columns, bank.partitions - low)
            self.b.matmul(bank.slice(0, low, width), left.slice(1, low, width), right, added)

    def _rows(self, panels: Sequence[View], row: Affine, count: int, start: Affine, size: int) -> None:
        """A block of rows against a chunk of columns."""
        x, weights = self._features(row, count), panels[0]
        if self.turned:
            self.b.tiles(
                size, min(size, self.width), lambda low, n: self._by_features(weights, x, (row, count), (start, low, n))
            )
            return
        blocks = ceil(size / self.width)
        if blocks > FEW_BLOCKS:
            self.b.tiles(
                size,
                self.width,
                lambda low, n: self._by_rows(weights.slice(2, low, n), x, (row, count), start + low, SUM_BANKS),
            )
            return
        # Banks of their own for the few blocks, written one by one, rotate with the rows alone.
        for number, block in enumerate(panels):
            self._by_rows(block, x, (row, count), start + number * self.width, SUM_BANKS // blocks)

    def _features(self, row: Affine, count: int) -> View:
        """Rows of x as [128, k tiles, rows]."""
        x = self.x
        if self.features is not None:
            return self.features.slice(2, row, count)
        if isinstance(x, SbufTensor) and x.partition == FEATURES:
            return x.whole.slice(2, row, count)
        panel = self.b.alloc((self.lanes, self.tiles, count), x.dtype, "sbuf", self.b.rotation, "panel").view()
        if isinstance(x, SbufTensor) and turns_together(self.k, x, count):
            turn_matrix(self.k, panel, x, row, count)
            return panel
        source = KMajor(self.k, x, ROWS, FEATURES)

        def tile(low: Affine, n: int) -> None:
            source.load(panel.slice(2, low, n), {ROWS: (row + low, n)})

        self.b.tiles(count, LANES, tile)
        return panel

    @property
    def begun(self) -> int:
        """1 where sums hold something before the first k tile is added, else 0."""
        return int(self.bias is not None)

    def _begin(self, bank: View, start: Affine) -> None:
        """Put the bias of the columns from `start` into a bank [rows, columns]."""
        if self.bias is None:
            return
        size = bank.free_elements
        whole = self.bias_row
        row = self.bias.load(self.k, (start, size), SUM_BANKS) if whole is None else whole.slice(1, start, size)
        self.bias.begin(self.k, bank, row)

    def _accumulate(self, bank: View, left: View, right: View) -> None:
        """bank [m, n] = left [k, tiles, m]^T . right [k, tiles, n], in as many parts as the array has columns for."""
        full, rest = divmod(self.depth, LANES)
        for low in range(0, bank.partitions, self.array_columns):
            part = bank.slice(0, low, min(self.array_columns, bank.partitions - low))
            stationary = left.slice(2, low, part.partitions)
            if full:
                with self.b.loop(full) as i:
                    self.b.matmul(part, stationary.at(1, i), right.at(1, i), i + self.begun)
            if rest:
                end = stationary.slice(0, 0, rest).at(1, full)
                self.b.matmul(part, end, right.slice(0, 0, rest).at(1, full), int(full > 0) + self.begun)

    def _by_features(
        self, weights: View, x: View, rows: tuple[Affine, int], columns: tuple[Affine, Affine, int]
    ) -> None:
        """Columns on partitions, 128 at a time."""
        start, low, n = columns

        def tile(first: Affine, count: int) -> None:
            bank = self.b.alloc((count, rows[1]), "f32", "psum", SUM_BANKS, "sum").view()
            self._accumulate(bank, weights.slice(2, low + first, count), x)
            self.epilogue.apply([(0, bank)], {ROWS: rows, FEATURES: (start + low + first, count)})

        self.b.tiles(n, LANES, tile)

    def _by_rows(self, weights: View, x: View, rows: _Range, start: Affine, banks: int) -> None:
        """Rows on partitions against a block of columns from `start`, in `banks` banks in turn."""
        bank = self.b.alloc((rows[1], weights.shape[2]), "f32", "psum", banks, "sum").view()
        self._begin(bank, start)
        self._accumulate(bank, x, weights)
        self.epilogue.apply([(0, bank)], {ROWS: rows, FEATURES: (start, weights.shape[2])})
