"""Kernel template of graph.matmul: result rows on partitions, both operands contracted along their partitions.

    out[m, n] = sum over k tiles of  aT[k, m]^T . b[k, n]

Rows of `a` lie in DRAM with k contiguous, so each block of 128 rows is loaded as it lies and turned by the tensor
engine; the turned rows form a panel that stays in SBUF while blocks of 512 columns of `b` stream past it. The first
column block loads the panel as it goes, so that multiplying starts as soon as the first rows are there; the other
column blocks only read it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.matmul_plan import plan_matmul
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.turning import turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import MatMulOp, TransposeOp, spec_of
from passes.graph.layout import matmul_rows

FEW_ROWS = 8
"""Up to so many rows are turned by the DMA, element by element; more go through the tensor engine."""

Rows = dict[int, tuple[Affine, int]]


class KMajor:
    """A matrix [rows, k] made available as [k on partitions, rows], from wherever and however it lies."""

    def __init__(self, kernel: Kernel, tensor: Tensor, row_dim: int, k_dim: int):
        """`row_dim` and `k_dim` are dimensions of `tensor`; the others are batch dimensions."""
        self.kernel, self.tensor, self.row_dim, self.k_dim = kernel, tensor, row_dim, k_dim
        self.k = tensor.shape[k_dim]

    @property
    def is_direct(self) -> bool:
        """Whether the DMA can load k onto partitions in runs (or has so little to move that runs do not matter)."""
        tensor = self.tensor
        if isinstance(tensor, SbufTensor):
            return False
        return tensor.strides[self.k_dim] != 1 or min(tensor.shape[self.row_dim], self.k) <= FEW_ROWS

    def load(self, panel: View, ranges: Rows) -> None:
        """Fill `panel` [128, k tiles, rows] with the rows that `ranges` selects (at most 128 of them unless direct).

        A direct source is loaded one k tile at a time, so that multiplying can start with the first.
        """
        full, rest = divmod(self.k, LANES)
        if self.is_direct:
            if full:
                with self.kernel.b.loop(full) as i:
                    self.load_tile(panel.slice(1, i, 1), ranges, i)
            if rest:
                self.load_tile(panel.slice(0, 0, rest).slice(1, full, 1), ranges, Affine(full))
            return
        turn_rows(self.kernel, panel, self.staged(ranges), parts=2)

    def load_tile(self, panel: View, ranges: Rows, index: Affine) -> None:
        """Load k tile `index` of a direct source into `panel` [k, 1, rows]."""
        assert isinstance(self.tensor, DramTensor)
        tensor, b = self.tensor, self.kernel.b
        window = tensor.view({**ranges, self.k_dim: (index * LANES, panel.partitions)}, [self.k_dim, self.row_dim])
        k_dim, rows = window.dims
        transfer(b, b.load, panel, View(window.buffer, Affine(), 0, window.offset, (k_dim, (0, 1), rows)))

    def staged(self, ranges: Rows) -> View:
        """The rows as they lie: [rows, k] on chip."""
        if isinstance(self.tensor, SbufTensor):
            view = self.tensor.view(ranges)
        else:
            view = self.tensor.load(self.kernel.b, self.row_dim, ranges, name="rows")
        position = self.k_dim - (1 if self.k_dim > self.row_dim else 0)
        for d in reversed(range(len(view.dims))):
            if d != position:
                view = view.at(1 + d, 0)
        return view


def canonical_windows(k: Kernel, op: MatMulOp) -> tuple[Tensor, Tensor]:
    """`a` as [..., M, K], `b` as [..., K, N], equal in rank, batch dimensions broadcast; weights turned at emission."""
    batch = spec_of(op.result)[1][:-2]
    a = k.tensor(op.a)
    if isinstance(a, SbufTensor) and (bool(op.transpose_a) or a.shape[:-2] != batch or a.partition != matmul_rows(op)):
        a = k.dram(op.a)
    if isinstance(a, DramTensor):
        # Turning on an array narrower than the lanes takes two passes and twice the PSUM: a weight comes turned.
        turned = not bool(op.transpose_a) and int(k.target.pe_columns) < LANES
        a = _swap(a) if bool(op.transpose_a) else _swap(k_major(k, a)) if turned else a
        a = a.broadcast((*batch, *a.shape[-2:]))
    b = k.dram(op.b)
    b = k_major(k, b) if bool(op.transpose_b) else b
    return a, b.broadcast((*batch, *b.shape[-2:]))


def _swap(tensor: DramTensor) -> DramTensor:
    rank = len(tensor.shape)
    return tensor.transpose([*range(rank - 2), rank - 1, rank - 2])


def k_major(k: Kernel, tensor: DramTensor) -> DramTensor:
    """[..., rows, K] as [..., K, rows]: a weight is turned at emission, anything else is another window."""
    rank = len(tensor.shape)
    whole = tensor.symbol is not None and tensor.is_dense and tensor.offset == 0 and tensor.shape == tensor.buffer.shape
    if tensor.symbol is None or not whole or tensor.symbol not in k.weight_types:
        return _swap(tensor)
    order = [*range(rank - 2), rank - 1, rank - 2]
    return k.derive(f"{tensor.symbol}.k_major", [tensor.symbol], lambda v: [TransposeOp(v[0], permutation=order)])


def lower(k: Kernel, op: Operation, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a matmul with the pointwise `ops` behind it."""
    from lowering.graph_to_tile.linear import lower_linear, wants_linear

    assert isinstance(op, MatMulOp)
    if wants_linear(k, op, results[0]):
        lower_linear(k, op, ops, results)
        return
    a, b = canonical_windows(k, op)
    shape = spec_of(op.result)[1]
    rank = len(shape)
    rows = matmul_rows(op)
    epilogue = Epilogue(k, op.result, ops, results, rows)
    epilogue.prepare()
    assert isinstance(b, DramTensor)
    varying = [d for d in range(rank - 2) if b.strides[d] != 0 and b.shape[d] > 1]
    shared = [d for d in range(rank - 2) if d not in varying and shape[d] > 1 and d != rows]
    kernel = _MatmulKernel(k, a, b, epilogue, shape, shared)

    def outer(dims: Sequence[int], ranges: Rows) -> None:
        if not dims:
            kernel.entry(ranges)
            return
        with k.b.loop(shape[dims[0]]) as i:
            outer(dims[1:], {**ranges, dims[0]: (i, 1)})

    outer(varying, {d: (Affine(0), 1) for d in range(rank - 2) if d not in (*varying, *shared, rows)})


@dataclass
class _ColumnBlock:
    """A block of columns of b on chip, `moving` [k, k tiles, columns], and what it is multiplied with.

    `rows` and `columns`: (start, size) in the result; `outer`: the entry of the batch dimensions that the block lies
    in; `loaded`: whether `moving` is filled. The first block is filled behind the first tile of rows, so that
    multiplying starts early; within batch loops, and later, it is filled at once.
    """

    moving: View
    rows: tuple[Affine, int]
    columns: tuple[Affine, int]
    outer: Rows
    loaded: bool = False


class _MatmulKernel:
    """Loops of one matmul; `shared` are the batch dimensions along which `b` does not change."""

    def __init__(
        self,
        k: Kernel,
        a: Tensor,
        b: DramTensor,
        epilogue: Epilogue,
        shape: tuple[int, ...],
        shared: Sequence[int],
    ):
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
            k.target.peak_macs_per_ns / k.target.dma_rate_bytes_per_ns,
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
        k_tiles = ceil(self.depth / LANES)
        sizes = [ranges[d][1] if d in ranges else self.shape[d] for d in batch]
        lanes = min(LANES, self.depth)
        # One block of [k tiles, 128] for each tile of rows, so that tiles are read and written apart.
        tiles = ceil(m_size / LANES)
        buffer = self.k.b.alloc(
            (lanes, *sizes, tiles, k_tiles, min(LANES, m_size)), self.dtype, "sbuf", 1, "panel"
        ).view()
        n = self.shape[self.n_dim]
        block = min(self.plan.columns, n)
        rows = (m_start, m_size)
        if m_size <= LANES and prod(sizes) == 1 and self.b_source.is_direct:
            self._stream(buffer, ranges, list(batch), rows)
            return

        self._columns(buffer, ranges, list(batch), rows, (Affine(0), block), True)
        full, rest = divmod(n - block, block)
        if full:
            with self.k.b.loop(full) as i:
                self._columns(buffer, ranges, list(batch), rows, ((i + 1) * block, block), False)
        if rest:
            self._columns(buffer, ranges, list(batch), rows, (Affine(n - rest), rest), False)

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
                self.b_source.load_tile(tile, {**b_ranges, self.n_dim: (start, size)}, index)
                return tile.at(1, 0)

            self._multiply(panel, k_tile, size, {**at, self.n_dim: (start, size)})

        b.tiles(self.shape[self.n_dim], block, columns)

    def _columns(
        self,
        panel: View,
        ranges: Rows,
        batch: list[int],
        rows: tuple[Affine, int],
        columns: tuple[Affine, int],
        first: bool,
    ) -> None:
        """One block of columns against the whole panel; the first one fills the panel as it goes.

        While a tile of rows is multiplied, the next one is turned already, so that the tensor engine does not wait for
        the turned rows to leave PSUM.
        """
        lanes, k_tiles = min(LANES, self.depth), ceil(self.depth / LANES)
        copies = 1 if first else 2
        moving = self.k.b.alloc((lanes, k_tiles, columns[1]), self.dtype, "sbuf", copies, "columns").view()
        outer = {d: r for d, r in ranges.items() if d not in batch}
        block = _ColumnBlock(moving, rows, columns, outer)

        def entries(dims: list[int], local: View, at: Rows) -> None:
            if not dims:
                (self._turn_and_multiply if first else self._multiply_rows)(block, local, at)
                return
            start, count = ranges.get(dims[0], (Affine(0), self.shape[dims[0]]))
            with self.k.b.loop(count) as i:
                entries(dims[1:], local.at(1, i), {**at, dims[0]: (start + i, 1)})

        if not first or batch:
            self._load_columns(block)
        entries(batch, panel, outer)

    def _turn_and_multiply(self, block: "_ColumnBlock", panel: View, at: Rows) -> None:
        """All rows of one batch entry, turned into the panel one tile ahead of the multiplication."""
        full, rest = divmod(block.rows[1], LANES)
        self._turn_tile(block, panel, at, Affine(0), LANES if full else rest)
        if not block.loaded:
            self._load_columns(block)
        if full > 1:
            with self.k.b.loop(full - 1) as i:
                self._turn_tile(block, panel, at, i + 1, LANES)
                self._multiply_tile(block, panel, at, i, LANES)
        if full and rest:
            self._turn_tile(block, panel, at, Affine(full), rest)
        if full:
            self._multiply_tile(block, panel, at, Affine(full - 1), LANES)
        if rest:
            self._multiply_tile(block, panel, at, Affine(full), rest)

    def _multiply_rows(self, block: "_ColumnBlock", panel: View, at: Rows) -> None:
        """All rows of one batch entry, which are in the panel already."""
        full, rest = divmod(block.rows[1], LANES)
        if full:
            with self.k.b.loop(full) as i:
                self._multiply_tile(block, panel, at, i, LANES)
        if rest:
            self._multiply_tile(block, panel, at, Affine(full), rest)

    def _turn_tile(self, block: "_ColumnBlock", panel: View, at: Rows, tile: Affine, size: int) -> None:
        """Load and turn one tile of rows into the panel."""
        rows = (block.rows[0] + tile * LANES, size)
        self.a_source.load(panel.at(1, tile).slice(2, 0, size), {**at, self.m_dim: rows})

    def _multiply_tile(self, block: "_ColumnBlock", panel: View, at: Rows, tile: Affine, size: int) -> None:
        """Multiply one tile of the panel's rows with the block."""
        here = {**at, self.m_dim: (block.rows[0] + tile * LANES, size), self.n_dim: block.columns}
        turned = panel.at(1, tile).slice(2, 0, size)
        moving = block.moving
        self._multiply(turned, lambda p, i: moving.slice(0, 0, p).at(1, i), block.columns[1], here)

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

    def _multiply(self, stationary: View, moving: "Callable[[int, Affine], View]", columns: int, ranges: Rows) -> None:
        """One tile of the result: accumulate over k, then evict; `moving(lanes, k tile)` gives one k tile's columns."""
        b, width = self.k.b, int(self.k.target.pe_columns)
        rows = stationary.shape[2]
        full, rest = divmod(self.depth, LANES)
        banks = [
            (lane, b.alloc((min(width, rows - lane), columns), "f32", "psum", 4 if width >= rows else 2, "sum").view())
            for lane in range(0, rows, width)
        ]

        def accumulate(lanes: int, index: Affine, added: Affine | int) -> None:
            right = moving(lanes, index)
            for lane, bank in banks:
                left = stationary.slice(0, 0, lanes).slice(2, lane, bank.partitions).at(1, index)
                b.matmul(bank, left, right, added)

        if full:
            with b.loop(full) as i:
                accumulate(LANES, i, i)
        if rest:
            accumulate(rest, Affine(full), 1 if full else 0)
        parts: list[tuple[int, View]] = []
        for lane, bank in banks:
            for _ in range(self.rank - 2):
                bank = bank.insert(0)
            parts.append((lane, bank))
        self.epilogue.apply(parts, ranges)


def _alone(k: Kernel, op: MatMulOp) -> None:
    lower(k, op, [], [op.result])


KERNELS: dict[type[Operation], Callable[[Kernel, MatMulOp], None]] = {MatMulOp: _alone}
"""Template by op class."""
