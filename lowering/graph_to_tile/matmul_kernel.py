"""The loops of one product of matrices: result rows on partitions, both operands contracted along their partitions.

    out[m, n] = sum over k tiles of  aT[k, m]^T . b[k, n]

Rows of `a` lie in DRAM with k contiguous, so each block of 128 rows is loaded as it lies and turned by the tensor
engine; the turned rows form a panel that stays in SBUF while blocks of 512 columns of `b` stream past it. The first
column block loads the panel as it goes, so that multiplying starts as soon as the first rows are there; the other
column blocks only read it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.k_major import KMajor, Rows
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.matmul_plan import plan_matmul
from lowering.graph_to_tile.product_bias import ProductBias
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor
from lowering.graph_to_tile.turning import turn_blocks, turned_group
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name

Banks = Sequence[tuple[int, View]]
"""(first row within the tile, sums [rows, columns] in PSUM)."""

Tiles = Callable[[int, Affine], View]
"""(lanes, k tile) -> [lanes, columns]."""


@dataclass(frozen=True)
class _Part:
    """Tiles of the panel, `view` [lanes, batch, row tiles, k tiles, 128]: rows (start, size) of the result.

    `head`: whether they are loaded k tile by k tile, beside the first block of columns.
    """

    view: View
    rows: tuple[Affine, int]
    head: bool


@dataclass
class _ColumnBlock:
    """A block of columns of b on chip, `moving` [k, k tiles, columns], and what it is multiplied with.

    `rows` and `columns`: (start, size) in the result; `outer`: the entry of the batch dimensions that the block lies
    in; `loaded`: whether `moving` is filled; `bias`: the bias of the columns, where the tensor engine adds it. The
    first block is filled behind the first tile of rows, so that multiplying starts early; within batch loops, and
    later, it is filled at once.
    """

    moving: View
    rows: tuple[Affine, int]
    columns: tuple[Affine, int]
    outer: Rows
    loaded: bool = False
    bias: View | None = None

    def tile(self, lanes: int, index: Affine) -> View:
        """k tile `index` of the block, of `lanes` positions."""
        return self.moving.slice(0, 0, lanes).at(1, index)


class MatmulKernel:
    """Loops of one matmul; `shared` are the batch dimensions along which `b` does not change."""

    def __init__(
        self,
        k: Kernel,
        a: Tensor,
        b: DramTensor,
        epilogue: Epilogue,
        shape: tuple[int, ...],
        shared: Sequence[int],
        bias: ProductBias | None = None,
    ):
        self.bias = bias
        self.k, self.b, self.shape, self.shared, self.epilogue = k, b, shape, list(shared), epilogue
        self.rank = len(shape)
        self.m_dim, self.n_dim = epilogue.partition, self.rank - 1
        self.depth = a.shape[-1]
        self.a_source = KMajor(k, a, self.m_dim, self.n_dim)
        self.b_source = KMajor(k, b, self.n_dim, self.rank - 2)
        self.dtype = b.dtype
        budget = int(k.target.sbuf_bytes_per_partition) * 4 // 5 - k.resident_bytes
        element_bytes = dtype_by_name(self.dtype).size_bytes
        batch = prod(shape[d] for d in self.shared)
        self.plan = plan_matmul(
            shape[self.m_dim], self.depth, shape[-1], batch, element_bytes, budget, int(k.target.pe_moving_elements),
            k.target.peak_macs_per_ns / k.target.dma_rate_bytes_per_ns, 1 if self._head_tiles(shape[self.m_dim]) else 4,
            pinned=k.pins_weights and b.symbol is not None,
        )  # fmt: skip

    def entry(self, ranges: Rows) -> None:
        """Everything for one entry of the varying batch dimensions."""
        m = self.shape[self.m_dim]
        if not self.shared or self.plan.panel_batch >= prod(self.shape[d] for d in self.shared):
            if self.plan.panel_rows >= m:
                self.panel(ranges, self.shared, Affine(0), m)
            else:
                assert not self.shared or self.plan.panel_batch == 1
                self._split_rows(ranges)
            return
        first = self.shared[0]
        inner = prod(self.shape[d] for d in self.shared[1:])
        chunk = max(1, self.plan.panel_batch // inner)
        if self.plan.panel_rows < m or chunk == 1:
            with self.k.b.loop(self.shape[first]) as i:
                saved, self.shared = self.shared, self.shared[1:]
                self.entry({**ranges, first: (i, 1)})
                self.shared = saved
            return
        self.k.b.tiles(
            self.shape[first],
            chunk,
            lambda start, size: self.panel({**ranges, first: (start, size)}, self.shared, Affine(0), m),
        )

    def _split_rows(self, ranges: Rows) -> None:
        rows = self.plan.panel_rows
        self.k.b.tiles(self.shape[self.m_dim], rows, lambda start, size: self.panel(ranges, [], start, size))

    def panel(self, ranges: Rows, batch: Sequence[int], m_start: Affine, m_size: int) -> None:
        """One panel: `batch` dimensions (their extents in `ranges` or whole) times `m_size` rows from `m_start`."""
        sizes = [ranges[d][1] if d in ranges else self.shape[d] for d in batch]
        single = m_size <= LANES and prod(sizes) == 1 and self.b_source.is_direct
        if single:
            self._stream(self._panel_buffer(sizes, m_size), ranges, list(batch), (m_start, m_size))
            return
        head = 0 if sizes else self._head_tiles(m_size)
        parts: list[_Part] = []
        if head:
            parts.append(_Part(self._head_buffer(head), (m_start, head * LANES), head=True))
        if m_size > head * LANES:
            rows = (m_start + head * LANES, m_size - head * LANES)
            parts.append(_Part(self._panel_buffer(sizes, rows[1]), rows, head=False))
        n = self.shape[self.n_dim]
        block = min(self.plan.columns, n)
        self._columns(parts, ranges, list(batch), (Affine(0), block), True)
        full, rest = divmod(n - block, block)
        if full == 1 and not rest and not sizes and not ranges:
            self._columns(parts, ranges, [], (Affine(block), block), False, last=True)
            return
        if full:
            with self.k.b.loop(full) as i:
                self._columns(parts, ranges, list(batch), ((i + 1) * block, block), False)
        if rest:
            self._columns(parts, ranges, list(batch), (Affine(n - rest), rest), False)

    def _panel_buffer(self, sizes: Sequence[int], rows: int) -> View:
        """[lanes, batch, row tiles, k tiles, 128]: a block for each tile of rows, so that tiles are written apart."""
        shape = (min(LANES, self.depth), *sizes, ceil(rows / LANES), ceil(self.depth / LANES), min(LANES, rows))
        return self.k.b.alloc(shape, self.dtype, "sbuf", 1, "panel").view()

    def _head_buffer(self, tiles: int) -> View:
        """[128, row tiles, k tiles, 128]: a block for each k tile, so that k tiles are written apart."""
        shape = (LANES, self.depth // LANES, tiles, LANES)
        return self.k.b.alloc(shape, self.dtype, "sbuf", 1, "head").view().permute([1, 0, 2])

    def _stream(self, panel: View, ranges: Rows, batch: list[int], rows: tuple[Affine, int]) -> None:
        """A panel of one tile of rows: nothing of b is used twice, so it streams through in tiles of 128 x columns."""
        b = self.k.b
        at = {**{d: (Affine(0), 1) for d in batch}, **ranges, self.m_dim: rows}
        for _ in batch:
            panel = panel.at(1, 0)
        panel = panel.at(1, 0)
        self.a_source.load(panel, at)
        b_ranges = {d: r for d, r in at.items() if d != self.m_dim}
        block = min(self.shape[self.n_dim], int(self.k.target.pe_moving_elements))

        def columns(start: Affine, size: int) -> None:
            def k_tile(lanes: int, index: Affine) -> View:
                tile = b.alloc((lanes, 1, size), self.dtype, "sbuf", 6, "columns").view()
                self.b_source.load_tiles(tile, {**b_ranges, self.n_dim: (start, size)}, index)
                return tile.at(1, 0)

            bias = self._load_bias((start, size), 6)
            self._multiply(panel, k_tile, size, {**at, self.n_dim: (start, size)}, bias)

        b.tiles(self.shape[self.n_dim], block, columns)

    def _columns(
        self,
        parts: Sequence[_Part],
        ranges: Rows,
        batch: list[int],
        columns: tuple[Affine, int],
        first: bool,
        last: bool = False,
    ) -> None:
        """One block of columns against the whole panel; the first one fills the panel as it goes.

        `last`: nothing of the kernel comes behind it, so that it ends with a small tile.
        """
        lanes, k_tiles = min(LANES, self.depth), ceil(self.depth / LANES)
        copies = 1 if first else 2
        moving = self.k.b.alloc((lanes, k_tiles, columns[1]), self.dtype, "sbuf", copies, "columns").view()
        outer = {d: r for d, r in ranges.items() if d not in batch}
        loaded, bias = not first or bool(batch), self._load_bias(columns, copies)
        if loaded:
            self._load_columns(_ColumnBlock(moving, parts[0].rows, columns, outer))

        def entries(part: _Part, block: _ColumnBlock, dims: list[int], local: View, at: Rows) -> None:
            if dims:
                start, count = ranges.get(dims[0], (Affine(0), self.shape[dims[0]]))
                with self.k.b.loop(count) as i:
                    entries(part, block, dims[1:], local.at(1, i), {**at, dims[0]: (start + i, 1)})
            elif not first:
                self._multiply_rows(block, local, at, last and part is parts[-1])
            elif part.head:
                self._head(block, local, at, parts[1:])
            else:
                self._turn_and_multiply(block, local, at, self._turned_ahead(part) if len(parts) > 1 else 0)

        for part in parts:
            entries(part, _ColumnBlock(moving, part.rows, columns, outer, loaded, bias), batch, part.view, outer)
            loaded = True

    def _turn_and_multiply(self, block: "_ColumnBlock", panel: View, at: Rows, turned: int = 0) -> None:
        """All rows of one batch entry, turned into the panel one tile ahead of the multiplication.

        `turned`: how many of the first tiles are in the panel already.
        """
        full, rest = divmod(block.rows[1], LANES)
        if not turned:
            self._turn_tile(block.rows, panel, at, Affine(0), min(LANES, block.rows[1]))
        if not block.loaded:
            self._load_columns(block)
        ahead = max(1, turned)
        for tile in range(min(ahead, full) - 1):
            self._multiply_tile(block, panel, at, Affine(tile), LANES)
        if full > ahead:
            with self.k.b.loop(full - ahead) as i:
                self._turn_and_multiply_tile(block, panel, at, i + ahead, LANES)
        if full and rest:
            self._turn_and_multiply_tile(block, panel, at, Affine(full), rest)
        elif full:
            self._multiply_tile(block, panel, at, Affine(full - 1), LANES)
        if rest:
            self._multiply_tile(block, panel, at, Affine(full), rest)

    def _head(self, block: "_ColumnBlock", panel: View, at: Rows, behind: Sequence[_Part]) -> None:
        """Load, turn and multiply the first tiles of rows with a block of columns that is not loaded either.

        Their sums grow side by side, k tile by k tile, so that the tensor engine starts when 128 of k have arrived, and
        not when all of k has. One k tile is loaded and turned ahead of the multiplication. So are the first tiles of
        rows of the part `behind`: their blocks leave PSUM in front of the sums.
        """
        b, tiles, k_tiles = self.k.b, panel.shape[1], panel.shape[2]
        a_ranges = {**at, self.m_dim: block.rows}
        b_ranges = {**{d: r for d, r in at.items() if d != self.m_dim}, self.n_dim: block.columns}
        sums = [b.alloc((LANES, block.columns[1]), "f32", "psum", 1, "sum").view() for _ in range(tiles)]
        for bank in sums:
            self._begin([(0, bank)], block.bias)

        def arrive(index: Affine) -> None:
            self.a_source.load_slab(panel.at(2, index), a_ranges, index)
            self.b_source.load_tiles(block.moving.slice(1, index, 1), b_ranges, index)

        def multiply(index: Affine) -> None:
            for tile, bank in enumerate(sums):
                b.matmul(bank, panel.at(1, tile).at(1, index), block.moving.at(1, index), index + self.begun)

        arrive(Affine(0))
        with b.loop(k_tiles - 1) as i:
            arrive(i + 1)
            multiply(i)
        for part in behind:
            self._turn_ahead(part, at)
        multiply(Affine(k_tiles - 1))
        for tile, bank in enumerate(sums):
            self._evict([(0, bank)], self._piece(block, at, Affine(tile), LANES))

    def _turn_ahead(self, part: _Part, at: Rows) -> None:
        """Turn the first tiles of the rows behind the head, each in one piece: it leaves PSUM in front of the sums."""
        for tile in range(self._turned_ahead(part)):
            size = min(LANES, part.rows[1] - tile * LANES)
            self._turn_tile(part.rows, part.view, at, Affine(tile), size, groups=1)

    @staticmethod
    def _turned_ahead(part: _Part) -> int:
        """How many tiles of a part behind the head are turned with it."""
        return min(2, max(1, part.rows[1] // LANES))

    def _head_tiles(self, rows: int) -> int:
        """Tiles of `rows` rows whose sums and turned blocks PSUM takes side by side; 0 where operands do not stream."""
        target, a = self.k.target, self.a_source
        streams = self.b_source.is_direct and not isinstance(a.tensor, SbufTensor)
        if int(target.pe_columns) < LANES or not streams or self.depth % LANES or self.depth < 2 * LANES:
            return 0
        banks, tiles = int(target.psum_banks), rows // LANES
        if not a.is_direct:
            banks -= 2
            tiles = min(tiles, int(target.psum_bank_bytes) // (LANES * dtype_by_name(self.dtype).size_bytes))
        return min(banks, tiles) if min(banks, tiles) > 1 else 0

    def _multiply_rows(self, block: "_ColumnBlock", panel: View, at: Rows, last: bool = False) -> None:
        """All rows of one batch entry, which are in the panel already; `last`: the last tile in two parts."""
        full, rest = divmod(block.rows[1], LANES)
        parted = int(last and full > 1 and not rest and self.bias is None)
        if full - parted:
            with self.k.b.loop(full - parted) as i:
                self._multiply_tile(block, panel, at, i, LANES)
        if parted:
            self._multiply_in_parts(block, panel, at, Affine(full - 1))
        if rest:
            self._multiply_tile(block, panel, at, Affine(full), rest)

    def _multiply_in_parts(self, block: "_ColumnBlock", panel: View, at: Rows, tile: Affine) -> None:
        """A tile of rows in two halves of the columns: the first leaves while the second is multiplied.

        What a kernel ends with nothing hides: the shorter the last eviction and its store, the better.
        """
        start, count = block.columns
        half = -(-count // 2)

        def piece(first: Affine, size: int) -> None:
            def columns(lanes: int, index: Affine) -> View:
                return block.tile(lanes, index).slice(1, first, size)

            ranges = {**self._piece(block, at, tile, LANES), self.n_dim: (start + first, size)}
            self._multiply(panel.at(1, tile), columns, size, ranges, None)

        self.k.b.tiles(count, half, piece)

    def _turn_tile(
        self, rows: tuple[Affine, int], panel: View, at: Rows, tile: Affine, size: int, groups: int = 2
    ) -> None:
        """Load and turn one tile of the `rows` of a part into its panel, at least in so many groups of blocks."""
        rows = (rows[0] + tile * LANES, size)
        self.a_source.load(panel.at(1, tile).slice(2, 0, size), {**at, self.m_dim: rows}, groups)

    def _turn_and_multiply_tile(self, block: "_ColumnBlock", panel: View, at: Rows, tile: Affine, size: int) -> None:
        """Turn tile `tile` of `size` rows group by group, and multiply the tile before it between the groups.

        Each group leaves PSUM while the tensor engine multiplies.
        """
        before, b, full = tile - 1, self.k.b, self.depth // LANES
        if self.a_source.is_direct:
            self._turn_tile(block.rows, panel, at, tile, size)
            self._multiply_tile(block, panel, at, before, LANES)
            return
        rows = {**at, self.m_dim: (block.rows[0] + tile * LANES, size)}
        into, staged = panel.at(1, tile).slice(2, 0, size), self.a_source.staged(rows)
        stationary, banks = panel.at(1, before), self._banks(LANES, block.columns[1])
        self._begin(banks, block.bias)

        def group(start: Affine, count: int) -> None:
            turn_blocks(self.k, into, staged, start, count, LANES)
            with b.loop(count) as j:
                self._accumulate(banks, stationary, block.tile, LANES, start + j)

        if full:
            b.tiles(full, turned_group(self.k, staged, 2), group)
        if self.depth % LANES:
            turn_blocks(self.k, into, staged, Affine(full), 1, self.depth % LANES)
            self._accumulate(banks, stationary, block.tile, self.depth % LANES, Affine(full))
        self._evict(banks, self._piece(block, at, before, LANES))

    def _multiply_tile(self, block: "_ColumnBlock", panel: View, at: Rows, tile: Affine, size: int) -> None:
        """Multiply one tile of the panel's rows with the block."""
        turned = panel.at(1, tile).slice(2, 0, size)
        self._multiply(turned, block.tile, block.columns[1], self._piece(block, at, tile, size), block.bias)

    def _piece(self, block: "_ColumnBlock", at: Rows, tile: Affine, size: int) -> Rows:
        """The piece of the result that a tile of `size` rows and a block make."""
        return {**at, self.m_dim: (block.rows[0] + tile * LANES, size), self.n_dim: block.columns}

    def _load_columns(self, block: "_ColumnBlock") -> None:
        """A block of columns of b as [k, k tiles, columns]; turned in pieces of 128 columns where k is contiguous."""
        block.loaded = True
        start, count = block.columns
        at = {**{d: (Affine(0), 1) for d in self.shared}, **block.outer}
        if self.b_source.is_direct:
            self.b_source.load(block.moving, {**at, self.n_dim: (start, count)})
            return

        def piece(first: Affine, size: int) -> None:
            self.b_source.load(block.moving.slice(2, first, size), {**at, self.n_dim: (start + first, size)})

        self.k.b.tiles(count, LANES, piece)

    def _load_bias(self, columns: tuple[Affine, int], copies: int) -> View | None:
        """The bias of a block of columns on chip, where the tensor engine adds it."""
        return None if self.bias is None else self.bias.load(self.k, columns, copies)

    @property
    def begun(self) -> int:
        """1 where sums hold their bias before the first k tile is added, else 0."""
        return int(self.bias is not None)

    def _begin(self, banks: Banks, bias: View | None) -> None:
        if self.bias is not None and bias is not None:
            for _, bank in banks:
                self.bias.begin(self.k, bank, bias)

    def _multiply(self, stationary: View, moving: Tiles, columns: int, ranges: Rows, bias: View | None) -> None:
        """One tile of the result: accumulate over k, then evict; `moving(lanes, k tile)` gives one k tile's columns."""
        banks = self._banks(stationary.shape[2], columns)
        self._begin(banks, bias)
        full, rest = divmod(self.depth, LANES)
        if full:
            with self.k.b.loop(full) as i:
                self._accumulate(banks, stationary, moving, LANES, i)
        if rest:
            self._accumulate(banks, stationary, moving, rest, Affine(full))
        self._evict(banks, ranges)

    def _banks(self, rows: int, columns: int) -> Banks:
        """Sums of a tile of the result in PSUM, by first row: as many rows each as the array has columns."""
        width = int(self.k.target.pe_columns)
        copies = 4 if width >= rows else 2
        return [
            (lane, self.k.b.alloc((min(width, rows - lane), columns), "f32", "psum", copies, "sum").view())
            for lane in range(0, rows, width)
        ]

    def _accumulate(self, banks: Banks, stationary: View, moving: Tiles, lanes: int, index: Affine) -> None:
        """Add the product of k tile `index`; that of the first one replaces the sums, unless they begin with a bias."""
        right = moving(lanes, index)
        for lane, bank in banks:
            left = stationary.slice(0, 0, lanes).slice(2, lane, bank.partitions).at(1, index)
            self.k.b.matmul(bank, left, right, index + self.begun)

    def _evict(self, banks: Banks, ranges: Rows) -> None:
        parts: list[tuple[int, View]] = []
        for lane, bank in banks:
            for _ in range(self.rank - 2):
                bank = bank.insert(0)
            parts.append((lane, bank))
        self.epilogue.apply(parts, ranges)
