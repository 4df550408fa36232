"""Kernel template of graph.matmul: result rows on partitions, both operands contracted along their partitions.

    out[m, n] = sum over k tiles of  aT[k, m]^T . b[k, n]

Rows of `a` lie in DRAM with k contiguous, so each block of 128 rows is loaded as it lies and turned by the tensor engine; the
turned rows form a panel that stays in SBUF while blocks of 512 columns of `b` stream past it. The first column block loads the
panel as it goes, so that multiplying starts as soon as the first rows are there; the other column blocks only read it.
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
    """Blocking of one matmul. `panel_rows`: rows (of one batch entry) in the panel; `panel_batch`: entries of the innermost
    invariant batch dimension in the panel; `columns`: columns of one block."""

    panel_rows: int
    panel_batch: int
    columns: int


def plan_matmul(
    m: int, k: int, n: int, batch: int, element_bytes: int, budget_bytes: int, columns: int
) -> MatmulPlan:
    """Largest panel for which two panels, two column blocks and the tiles around them fit in `budget_bytes` a partition.

    `batch` is the number of batch entries that share the same `b`; `columns` the most columns of one PSUM bank.
    """
    k_tiles = ceil(k / LANES)
    columns = min(n, columns)
    left = budget_bytes - 2 * k_tiles * columns * element_bytes - 2 * k_tiles * LANES * element_bytes
    row_bytes = k_tiles * element_bytes
    most_rows = max(LANES, left // 2 // row_bytes)
    if m * batch <= most_rows:
        return MatmulPlan(m, batch, columns)
    if m <= most_rows:
        return MatmulPlan(m, max(1, most_rows // m), columns)
    return MatmulPlan(max(LANES, most_rows // LANES * LANES), 1, columns)


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
        """Fill `panel` [128, k tiles, rows] with the rows that `ranges` selects (at most 128 of them unless direct)."""
        full, rest = divmod(self.k, LANES)
        if self.is_direct:
            assert isinstance(self.tensor, DramTensor)
            if full:
                self._direct(panel.slice(1, 0, full), ranges, 0, full)
            if rest:
                self._direct(panel.slice(0, 0, rest).slice(1, full, 1), ranges, full * LANES, 0)
            return
        staged = self._staged(ranges)
        group = self._group(staged)
        if full:
            self.kernel.b.tiles(full, group, lambda start, count: self._turn(panel, staged, start, count, LANES))
        if rest:
            self._turn(panel, staged, Affine(full), 1, rest)

    def _direct(self, panel: View, ranges: Rows, k_start: int, tiles: int) -> None:
        assert isinstance(self.tensor, DramTensor)
        tensor, b = self.tensor, self.kernel.b
        size = LANES if tiles else self.k - k_start
        window = tensor.view({**ranges, self.k_dim: (k_start, size * max(1, tiles))}, [self.k_dim, self.row_dim])
        (k_stride, _), rows = window.dims
        source = View(window.buffer, Affine(), 0, window.offset, ((k_stride, size), (k_stride * size, max(1, tiles)), rows))
        transfer(b, b.load, panel, source)

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
        """Blocks of 128 k that one PSUM bank takes turned."""
        target = self.kernel.target
        room = int(target.psum_bank_bytes) // dtype_by_name(staged.dtype).size_bytes // staged.partitions
        return max(1, min(room, self.k // LANES or 1))

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
    """`a` as [..., M, K] and `b` as [..., K, N] of equal rank, batch dimensions broadcast; weights turned at emission."""
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
        self.a_source = KMajor(k, a, self.m_dim, self.n_dim)
        self.b_source = KMajor(k, b, self.n_dim, self.m_dim)
        self.dtype = b.dtype
        budget = int(k.target.sbuf_bytes_per_partition) * 5 // 8
        element_bytes = dtype_by_name(self.dtype).size_bytes
        batch = prod(shape[d] for d in self.shared)
        self.plan = plan_matmul(
            shape[-2], self.depth, shape[-1], batch, element_bytes, budget, int(k.target.pe_moving_elements)
        )

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
            self.shape[first], chunk, lambda start, size: self.panel({**ranges, first: (start, size)}, self.shared, Affine(0), m)
        )

    def _split_rows(self, ranges: Rows) -> None:
        rows = self.plan.panel_rows
        self.k.b.tiles(self.shape[self.m_dim], rows, lambda start, size: self.panel(ranges, [], start, size))

    def panel(self, ranges: Rows, batch: Sequence[int], m_start: Affine, m_size: int) -> None:
        """One panel: `batch` dimensions (their extents in `ranges` or whole) times `m_size` rows from `m_start`."""
        k_tiles = ceil(self.depth / LANES)
        sizes = [ranges[d][1] if d in ranges else self.shape[d] for d in batch]
        lanes = min(LANES, self.depth)
        buffer = self.k.b.alloc((lanes, k_tiles, *sizes, m_size), self.dtype, "sbuf", 2, "panel").view()
        block = self.plan.columns
        n = self.shape[self.n_dim]

        def columns(start: Affine, size: int, first: bool) -> None:
            self._columns(buffer, ranges, list(batch), (m_start, m_size), (start, size), first)

        columns(Affine(0), min(block, n), True)
        full, rest = divmod(n - min(block, n), block)
        if full:
            with self.k.b.loop(full) as i:
                columns((i + 1) * block, block, False)
        if rest:
            columns(Affine(n - rest), rest, False)

    def _columns(
        self,
        panel: View,
        ranges: Rows,
        batch: list[int],
        rows: tuple[Affine, int],
        columns: tuple[Affine, int],
        first: bool,
    ) -> None:
        """One block of columns against the whole panel; the first one fills the panel as it goes."""
        b = self.k.b
        lanes = min(LANES, self.depth)
        k_tiles = ceil(self.depth / LANES)
        moving = b.alloc((lanes, k_tiles, columns[1]), self.dtype, "sbuf", 2, "columns").view()
        b_ranges = {d: r for d, r in ranges.items() if d not in batch}
        self._load_columns(moving, b_ranges, columns)

        def entries(dims: list[int], position: list[Affine], at: Rows) -> None:
            if dims:
                d = dims[0]
                start, count = ranges.get(d, (Affine(0), self.shape[d]))
                with b.loop(count) as i:
                    entries(dims[1:], [*position, i], {**at, d: (start + i, 1)})
                return
            local = panel
            for index in position:
                local = local.at(2, index)
            b.tiles(rows[1], LANES, lambda start, size: tile(local, at, start, size))

        def tile(local: View, at: Rows, start: Affine, size: int) -> None:
            turned = local.slice(2, start, size)
            here = {**at, self.m_dim: (rows[0] + start, size)}
            if first:
                self.a_source.load(turned, here)
            self._multiply(turned, moving, {**here, self.n_dim: columns})

        entries(batch, [], {d: r for d, r in ranges.items() if d not in batch})

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

    def _multiply(self, stationary: View, moving: View, ranges: Rows) -> None:
        """One tile of the result: accumulate over k, then evict."""
        b, width = self.k.b, int(self.k.target.pe_columns)
        rows, columns = stationary.shape[2], moving.shape[2]
        full, rest = divmod(self.depth, LANES)
        parts: list[tuple[int, View]] = []
        for lane in range(0, rows, width):
            lanes = min(width, rows - lane)
            bank = b.alloc((lanes, columns), "f32", "psum", 4 if width >= rows else 2, "sum").view()
            weights = stationary.slice(2, lane, lanes)
            if full:
                with b.loop(full) as i:
                    b.matmul(bank, weights.at(1, i), moving.at(1, i), i)
            if rest:
                last_w = weights.slice(0, 0, rest).at(1, full)
                b.matmul(bank, last_w, moving.slice(0, 0, rest).at(1, full), 1 if full else 0)
            for _ in range(self.rank - 2):
                bank = bank.insert(0)
            parts.append((lane, bank))
        self.epilogue.apply(parts, ranges)


def _alone(k: Kernel, op: MatMulOp) -> None:
    lower(k, op, [], [op.result])


KERNELS: dict[type[Operation], Callable[[Kernel, MatMulOp], None]] = {MatMulOp: _alone}
"""Template by op class."""
