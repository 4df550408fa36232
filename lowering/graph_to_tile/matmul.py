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
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import MatMulOp, TransposeOp, spec_of

FEW_ROWS = 8
"""Up to so many rows are turned by the DMA, element by element; more go through the tensor engine."""

Rows = dict[int, tuple[Affine, int]]


@dataclass(frozen=True)
class MatmulPlan:
    """Blocking of one matmul.

    `panel_rows`: rows (of one batch entry) in the panel; `panel_batch`: entries of the shared batch dimensions in the
    panel; `columns`: columns of one block.
    """

    panel_rows: int
    panel_batch: int
    columns: int


def plan_matmul(
    m: int, k: int, n: int, batch: int, element_bytes: int, budget_bytes: int, columns: int, macs_per_byte: float = 0.0
) -> MatmulPlan:
    """Panel and column block of a matmul that fits in `budget_bytes` a partition.

    `batch` is the number of batch entries that share the same `b`; `columns` the most columns of one PSUM bank;
    `macs_per_byte` how many multiply-adds the tensor engine does while the DMA moves a byte. Every panel streams all of
    `b` once, so a larger panel means less traffic; a narrower column block leaves room for one. The widest block whose
    traffic stays under 80 % of the multiplying time is taken, or else the one with the least traffic. Four blocks at
    least, where n allows: the first block has nothing to overlap its loads with, so it should be a small part of the
    whole.
    """
    work = batch * m * k * n
    best: tuple[float, MatmulPlan] | None = None
    width = min(n, columns, max(LANES, ceil(n / 4)))
    while True:
        plan = _largest_panel(m, k, batch, element_bytes, budget_bytes, width)
        if plan is not None:
            panels = ceil(m / plan.panel_rows) * ceil(batch / plan.panel_batch)
            traffic = (panels * k * n + batch * m * (k + n)) * element_bytes * macs_per_byte
            if traffic <= 0.8 * work:
                return plan
            if best is None or traffic < best[0]:
                best = (traffic, plan)
        if width <= 16 or (best is not None and width <= 128):
            break
        width = ceil(width / 2)
    return best[1] if best is not None else MatmulPlan(min(m, LANES), 1, width)


def _largest_panel(
    m: int, k: int, batch: int, element_bytes: int, budget_bytes: int, columns: int
) -> MatmulPlan | None:
    """The largest panel that fits, None without room.

    It lies beside three column blocks (the first, and two that rotate) and two staged row blocks.
    """
    row_bytes = ceil(k / LANES) * element_bytes
    most_rows = (budget_bytes - (2 * LANES + 3 * columns) * row_bytes) // row_bytes
    if most_rows < min(m, LANES):
        return None
    if m * batch <= most_rows:
        return MatmulPlan(m, batch, columns)
    if m <= most_rows:
        return MatmulPlan(m, max(1, most_rows // m), columns)
    return MatmulPlan(even_part(ceil(m / LANES), most_rows // LANES) * LANES, 1, columns)


def even_part(count: int, most: int) -> int:
    """Size of equal parts of `count`, at most `most`; a divisor, which leaves no rest, if one is half of it or more."""
    divisor = next((d for d in range(most, 0, -1) if count % d == 0), 1)
    return divisor if 2 * divisor >= most else ceil(count / ceil(count / most))


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
        staged = self._staged(ranges)
        group = self._group(staged)
        if full:
            self.kernel.b.tiles(full, group, lambda start, count: self._turn(panel, staged, start, count, LANES))
        if rest:
            self._turn(panel, staged, Affine(full), 1, rest)

    def load_tile(self, panel: View, ranges: Rows, index: Affine) -> None:
        """Load k tile `index` of a direct source into `panel` [k, 1, rows]."""
        assert isinstance(self.tensor, DramTensor)
        tensor, b = self.tensor, self.kernel.b
        window = tensor.view({**ranges, self.k_dim: (index * LANES, panel.partitions)}, [self.k_dim, self.row_dim])
        k_dim, rows = window.dims
        transfer(b, b.load, panel, View(window.buffer, Affine(), 0, window.offset, (k_dim, (0, 1), rows)))

    def _staged(self, ranges: Rows) -> View:
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

    def _group(self, staged: View) -> int:
        """Blocks of 128 k that are turned together: what one PSUM bank takes, but two groups where there is enough."""
        target = self.kernel.target
        room = int(target.psum_bank_bytes) // dtype_by_name(staged.dtype).size_bytes // staged.partitions
        return max(1, min(room, ceil(self.k // LANES / 2)))

    def _turn(self, panel: View, staged: View, start: Affine, count: int, size: int) -> None:
        """Turn `count` blocks of `size` k from k tile `start` and copy them into the panel."""
        b, rows = self.kernel.b, staged.partitions
        columns = int(self.kernel.target.pe_columns)
        for low in range(0, size, columns):
            width = min(columns, size - low)
            turned = b.alloc((width, count, rows), staged.dtype, "psum", 2, "turned").view()
            with b.loop(count) as j:
                block = staged.slice(1, (start + j) * LANES + low, width)
                b.transpose(turned.at(1, j), block)
            b.copy(panel.slice(0, low, width).slice(1, start, count), turned)


def canonical_windows(k: Kernel, op: MatMulOp) -> tuple[Tensor, Tensor]:
    """`a` as [..., M, K], `b` as [..., K, N], equal in rank, batch dimensions broadcast; weights turned at emission."""
    batch = spec_of(op.result)[1][:-2]
    a, b = k.tensor(op.a), _weight_k_major(k, op)
    if isinstance(a, SbufTensor) and (bool(op.transpose_a) or a.shape[:-2] != batch or a.partition != len(batch)):
        a = k.dram(op.a)
    if isinstance(a, DramTensor):
        a = _swap(a) if bool(op.transpose_a) else a
        a = a.broadcast((*batch, *a.shape[-2:]))
    if isinstance(b, SbufTensor):
        b = k.dram(op.b)
        b = _swap(b) if bool(op.transpose_b) else b
    return a, b.broadcast((*batch, *b.shape[-2:]))


def _swap(tensor: DramTensor) -> DramTensor:
    rank = len(tensor.shape)
    return tensor.transpose([*range(rank - 2), rank - 1, rank - 2])


def _weight_k_major(k: Kernel, op: MatMulOp) -> Tensor:
    tensor = k.tensor(op.b)
    if not isinstance(tensor, DramTensor):
        return tensor
    window = _swap(tensor) if bool(op.transpose_b) else tensor
    rank = len(window.shape)
    whole = tensor.symbol is not None and tensor.is_dense and tensor.offset == 0 and tensor.shape == tensor.buffer.shape
    if whole and tensor.symbol in k.weight_types and bool(op.transpose_b):
        order = [*range(rank - 2), rank - 1, rank - 2]
        return k.derive(f"{tensor.symbol}.k_major", [tensor.symbol], lambda v: [TransposeOp(v[0], permutation=order)])
    return window


def lower(k: Kernel, op: Operation, ops: Sequence[Operation], results: Sequence[SSAValue]) -> None:
    """Lower a matmul with the pointwise `ops` behind it."""
    assert isinstance(op, MatMulOp)
    a, b = canonical_windows(k, op)
    shape = spec_of(op.result)[1]
    rank = len(shape)
    epilogue = Epilogue(k, op.result, ops, results, rank - 2)
    epilogue.prepare()
    assert isinstance(b, DramTensor)
    varying = [d for d in range(rank - 2) if b.strides[d] != 0 and b.shape[d] > 1]
    shared = [d for d in range(rank - 2) if d not in varying and shape[d] > 1]
    kernel = _MatmulKernel(k, a, b, epilogue, shape, shared)

    def outer(dims: Sequence[int], ranges: Rows) -> None:
        if not dims:
            kernel.entry(ranges)
            return
        with k.b.loop(shape[dims[0]]) as i:
            outer(dims[1:], {**ranges, dims[0]: (i, 1)})

    outer(varying, {d: (Affine(0), 1) for d in range(rank - 2) if d not in varying and d not in shared})


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
        self.m_dim, self.n_dim = self.rank - 2, self.rank - 1
        self.depth = a.shape[-1]
        self._columns_loaded = False
        self.a_source = KMajor(k, a, self.m_dim, self.n_dim)
        self.b_source = KMajor(k, b, self.n_dim, self.m_dim)
        self.dtype = b.dtype
        budget = int(k.target.sbuf_bytes_per_partition) * 4 // 5 - k.resident_bytes
        element_bytes = dtype_by_name(self.dtype).size_bytes
        batch = prod(shape[d] for d in self.shared)
        self.plan = plan_matmul(
            shape[-2], self.depth, shape[-1], batch, element_bytes, budget, int(k.target.pe_moving_elements),
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
        b = self.k.b
        lanes = min(LANES, self.depth)
        k_tiles = ceil(self.depth / LANES)
        moving = b.alloc((lanes, k_tiles, columns[1]), self.dtype, "sbuf", 1 if first else 2, "columns").view()
        b_ranges = {d: r for d, r in ranges.items() if d not in batch}

        def turn(local: View, at: Rows, tile: Affine, size: int) -> None:
            self.a_source.load(local.at(1, tile).slice(2, 0, size), {**at, self.m_dim: (rows[0] + tile * LANES, size)})

        def multiply(local: View, at: Rows, tile: Affine, size: int) -> None:
            here = {**at, self.m_dim: (rows[0] + tile * LANES, size), self.n_dim: columns}
            turned = local.at(1, tile).slice(2, 0, size)
            self._multiply(turned, lambda p, i: moving.slice(0, 0, p).at(1, i), columns[1], here)

        def skewed(local: View, at: Rows) -> None:
            full, rest = divmod(rows[1], LANES)
            turn(local, at, Affine(0), LANES if full else rest)
            self._load_columns_once(moving, b_ranges, columns)
            if full > 1:
                with b.loop(full - 1) as i:
                    turn(local, at, i + 1, LANES)
                    multiply(local, at, i, LANES)
            if full and rest:
                turn(local, at, Affine(full), rest)
            if full:
                multiply(local, at, Affine(full - 1), LANES)
            if rest:
                multiply(local, at, Affine(full), rest)

        def entries(dims: list[int], position: list[Affine], at: Rows) -> None:
            if dims:
                d = dims[0]
                start, count = ranges.get(d, (Affine(0), self.shape[d]))
                with b.loop(count) as i:
                    entries(dims[1:], [*position, i], {**at, d: (start + i, 1)})
                return
            local = panel
            for index in position:
                local = local.at(1, index)
            if first:
                skewed(local, at)
                return
            full, rest = divmod(rows[1], LANES)
            if full:
                with b.loop(full) as i:
                    multiply(local, at, i, LANES)
            if rest:
                multiply(local, at, Affine(full), rest)

        self._columns_loaded = False
        if not first or batch:
            self._load_columns_once(moving, b_ranges, columns)
        entries(batch, [], {d: r for d, r in ranges.items() if d not in batch})

    def _load_columns_once(self, moving: View, ranges: Rows, columns: tuple[Affine, int]) -> None:
        """Load the block unless that was done: behind the first rows of a single batch entry, else before the loops."""
        if not self._columns_loaded:
            self._columns_loaded = True
            self._load_columns(moving, ranges, columns)

    def _load_columns(self, moving: View, ranges: Rows, columns: tuple[Affine, int]) -> None:
        """A block of columns of b as [k, k tiles, columns]; turned in pieces of 128 columns where k is contiguous."""
        zero = {d: (Affine(0), 1) for d in self.shared}
        if self.b_source.is_direct:
            self.b_source.load(moving, {**zero, **ranges, self.n_dim: columns})
            return
        self.k.b.tiles(
            columns[1],
            LANES,
            lambda start, size: self.b_source.load(
                moving.slice(2, start, size), {**zero, **ranges, self.n_dim: (columns[0] + start, size)}
            ),
        )

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
