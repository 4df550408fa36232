"""Kernel of attention: scores, softmax and context stay on chip.

For each sequence, each tile of 128 queries and each group of heads whose scores fill one PSUM bank:

    scores[q, head, key] = qT[d, q]^T . kT[d, key]            tensor engine, into PSUM
    masked               = scores * scale + mask              only where there is a mask, or the bank is too small
    powers[q, head, key] = exp(masked - max), with row sums   rounded to v's type
    turned[key, head, q] = powers^T                           tensor engine, through PSUM
    context[q, head, :]  = turned^T . v[key, :] / row sum     tensor engine; divided as it leaves PSUM

Queries and keys are wanted with their features on partitions, values with their positions there: what lies otherwise is
turned once per sequence. No score matrix reaches DRAM. With `causal`, keys that no query of a tile sees are left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, lcm

import numpy as np
from xdsl.ir import Operation

from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.matmul import KMajor
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.turning import blocks_per_bank, turn_blocks, turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import F32, dtype_by_name
from neuron_dialects.graph import AttentionOp, CompareKind, CompareOp, ConstantOp, SelectOp, spec_of
from neuron_dialects.graph.attention import packs_heads

FEATURES = 2
"""Dimension of q, k, v and the result that holds the packed heads."""

HIDDEN = -1e30
"""What is added to the scores of keys that a query does not see."""


@dataclass(frozen=True)
class HeadGroups:
    """How heads are taken together. Pure arithmetic.

    `group`: heads whose scores share a PSUM bank. `period`: heads after which the places of heads within tiles of 128
    partitions, and the sharing of key heads, repeat; a multiple of `group`.
    """

    group: int
    period: int

    @staticmethod
    def plan(heads: int, kv_heads: int, size: int, value_size: int, keys: int, bank: int) -> "HeadGroups":
        """Groups of `heads` query heads of `size` elements over `keys` keys; `bank` f32 elements fill a PSUM bank."""
        most = max(1, min(bank // min(keys, bank), bank // value_size))
        group = max(n for n in range(1, min(heads, most) + 1) if heads % n == 0)
        per_tile = heads_per_tile(size)
        period = lcm(group, per_tile, heads // kv_heads * per_tile)
        return HeadGroups(group, period)


def heads_per_tile(size: int) -> int:
    """Heads of `size` elements that share a tile of 128 partitions; one where they cannot be packed, or fill tiles."""
    return LANES // size if packs_heads(size) and size < LANES else 1


def even_tiles(extent: int, most: int) -> tuple[int, int, int] | None:
    """(number, size, step) of as few tiles of one size as cover `extent`, overlapping where they must; None if none do.

    What lies in two tiles is computed twice, with the same result, and one loop serves all tiles.
    """
    count = ceil(extent / most)
    if count == 1:
        return 1, extent, 0
    sizes = range(ceil(extent / count), most + 1)
    return next(((count, n, (extent - n) // (count - 1)) for n in sizes if (extent - n) % (count - 1) == 0), None)


def lower_attention(k: Kernel, op: AttentionOp) -> None:
    """Lower `graph.attention`."""
    kernel = _Attention(k, op)
    kernel.prepare()
    with k.b.loop(kernel.batch) as i:
        kernel.sequence(i)


@dataclass
class _Sequence:
    """Operands of one sequence: q, k [128 features, tiles, positions] and v [128 positions, tiles, features]."""

    q: View
    k: View
    v: View
    batch: Affine


@dataclass
class _Attention:
    """Emits one attention."""

    k: Kernel
    op: AttentionOp
    mask: DramTensor | None = None
    triangle: View | None = None
    out: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.b, self.e = self.k.b, Emitter(self.k.b, self.k.target)
        (self.batch, self.queries, _), self.keys = spec_of(self.op.q)[1], spec_of(self.op.k)[1][1]
        self.heads, self.kv_heads = self.op.heads.value.data, self.op.kv_heads.value.data
        self.size, self.value_size = self.op.head_size, self.op.value_size
        self.dtype = spec_of(self.op.v)[0].name
        self.bank = int(self.k.target.psum_bank_bytes) // F32.size_bytes
        self.columns = int(self.k.target.pe_columns)
        self.groups = HeadGroups.plan(self.heads, self.kv_heads, self.size, self.value_size, self.keys, self.bank)

    def prepare(self) -> None:
        """What all sequences share: the result, the mask as a window, the triangle of the causal form."""
        if self.op.mask is not None:
            window = self.k.dram(self.op.mask)
            self.mask = window.broadcast((self.batch, self.heads, self.queries, self.keys))
        if self.op.causal:
            self.triangle = self._triangle()
        self.out = self.k.output(self.op.result)

    def _triangle(self) -> View:
        """[128, 128]: 0 up to the diagonal, HIDDEN above it."""
        source = self.k.derive("attention.triangle", [], lambda _: _triangle())
        tile = self.b.alloc_outer((LANES, LANES), "f32", "sbuf", "triangle").view()
        self.b.load(tile, source.view())
        return tile

    # -- operands ------------------------------------------------------------------------------------------------------

    def sequence(self, batch: Affine) -> None:
        """One sequence of the batch."""
        here = _Sequence(
            self._features(self.k.tensor(self.op.q), batch, "q"),
            self._features(self.k.tensor(self.op.k), batch, "k"),
            self._positions(self.k.tensor(self.op.v), batch),
            batch,
        )
        if self.op.causal:
            for start in range(0, self.queries, LANES):
                rows = min(LANES, self.queries - start)
                self._query_tile(here, Affine(start), rows, self._visible(start + rows - 1))
            return
        even = even_tiles(self.queries, LANES)
        if even is None:
            self.b.tiles(self.queries, LANES, lambda start, rows: self._query_tile(here, start, rows, self.keys))
            return
        count, size, step = even
        with self.b.loop(count) as i:
            self._query_tile(here, i * step, size, self.keys)

    def _visible(self, query: int) -> int:
        """Keys that query `query` sees in the causal form."""
        return max(1, min(self.keys, query + self.keys - self.queries + 1))

    def _features(self, tensor: Tensor, batch: Affine, name: str) -> View:
        """[128, tiles, positions] of one sequence."""
        if isinstance(tensor, SbufTensor) and tensor.partition == FEATURES:
            return tensor.whole.at(2, batch)
        length, elements = tensor.shape[1], tensor.shape[FEATURES]
        size = LANES if packs_heads(self.size) else self.size
        panel = self.b.alloc(
            (min(size, elements), ceil(elements / size), length), tensor.dtype, "sbuf", self.b.rotation, name
        ).view()
        source = KMajor(self.k, tensor, 1, FEATURES)

        def rows(start: Affine, count: int) -> None:
            part, at = panel.slice(2, start, count), {0: (batch, 1), 1: (start, count)}
            if size == LANES:
                source.load(part, at)
                return
            staged = source.staged(at)
            group = min(blocks_per_bank(self.k, staged), elements // size)

            def heads(first: Affine, number: int) -> None:
                turn_blocks(self.k, part, staged, first, number, size, size)

            self.b.tiles(elements // size, group, heads)

        self.b.tiles(length, LANES, rows)
        return panel

    def _positions(self, tensor: Tensor, batch: Affine) -> View:
        """[128, key tiles, features] of one sequence."""
        elements = tensor.shape[FEATURES]
        if isinstance(tensor, SbufTensor) and tensor.partition == 1:
            return tensor.whole.at(2, batch)
        tiles = ceil(self.keys / LANES)
        panel = self.b.alloc(
            (min(LANES, self.keys), tiles, elements), tensor.dtype, "sbuf", self.b.rotation, "v"
        ).view()

        def rows(start: Affine, count: int) -> None:
            place = panel.slice(0, 0, count).at(1, start.divided(LANES))
            if isinstance(tensor, DramTensor):
                self.b.load(place, tensor.view({0: (batch, 1), 1: (start, count)}, [1, FEATURES]))
            else:
                self._turn_values(place, tensor.whole.at(2, batch), elements, start, count)

        self.b.tiles(self.keys, LANES, rows)
        return panel

    def _turn_values(self, place: View, features: View, elements: int, start: Affine, count: int) -> None:
        """`place` [count, features] from values with features on partitions [128, tiles, positions]."""
        full, rest = divmod(elements, LANES)
        per_bank = max(1, int(self.k.target.psum_bank_bytes) // dtype_by_name(self.dtype).size_bytes // LANES)

        def blocks(first: Affine, tiles: int, size: int) -> None:
            for low in range(0, count, self.columns):
                width = min(self.columns, count - low)
                turned = self.b.alloc((width, tiles, size), self.dtype, "psum", 2, "turned").view()
                with self.b.loop(tiles) as j:
                    block = features.slice(0, 0, size).at(1, first + j).slice(1, start + low, width)
                    self.b.transpose(turned.at(1, j), block)
                target = place.slice(0, low, width).slice(1, first * LANES, tiles * size)
                self.b.copy(target, turned)

        if full:
            self.b.tiles(full, per_bank, lambda first, tiles: blocks(first, tiles, LANES))
        if rest:
            blocks(Affine(full), 1, rest)

    # -- tiles of queries ----------------------------------------------------------------------------------------------

    def _query_tile(self, here: _Sequence, start: Affine, rows: int, keys: int) -> None:
        """All heads of up to 128 queries from `start`, over the first `keys` keys."""
        dtype = spec_of(self.op.result)[0].name
        elements = self.heads * self.value_size
        result = self.b.alloc((rows, elements), dtype, "sbuf", self.b.rotation, "context").view()
        tile = _QueryTile(self, here, start, rows, keys, result, self._shared_mask(here, start, rows, keys))
        period = min(self.groups.period, self.heads)
        full, rest = divmod(self.heads, period)
        with self.b.loop(full) as i:
            tile.heads(i, period)
        if rest:
            tile.heads(Affine(full), rest)
        self._finish(here, start, rows, result)

    def _shared_mask(self, here: _Sequence, start: Affine, rows: int, keys: int) -> View | None:
        """The mask [rows, keys] where it is the same for all heads."""
        if self.mask is None or self.mask.strides[1] != 0:
            return None
        return self.load_mask(here, Affine(0), start, rows, keys)

    def load_mask(self, here: _Sequence, head: Affine, start: Affine, rows: int, keys: int) -> View:
        """The mask [rows, keys] of one head."""
        assert self.mask is not None
        tile = self.b.alloc((rows, keys), "f32", "sbuf", self.b.rotation, "mask").view()
        part = {0: (here.batch, 1), 1: (head, 1), 2: (start, rows), 3: (Affine(0), keys)}
        transfer(self.b, self.b.load, tile, self.mask.view(part, [2, 3]))
        return tile

    def _finish(self, here: _Sequence, start: Affine, rows: int, result: View) -> None:
        """Put the rows of a tile of queries where the result lies."""
        out = self.out
        if isinstance(out, SbufTensor):
            turn_rows(self.k, out.whole.at(2, here.batch).slice(2, start, rows), result)
        else:
            self.b.store(out.view({0: (here.batch, 1), 1: (start, rows)}, [1, FEATURES]), result)


@dataclass
class _QueryTile:
    """One tile of queries: its place, the keys that it sees, its rows of the result and the mask that heads share."""

    kernel: _Attention
    here: _Sequence
    start: Affine
    rows: int
    keys: int
    result: View
    mask: View | None

    def heads(self, turn: Affine, count: int) -> None:
        """`count` heads from head `turn` * period."""
        a = self.kernel
        for first in range(0, count, a.groups.group):
            group = min(a.groups.group, count - first)
            self._group(turn, first, group)

    def _place(self, turn: Affine, head: int, heads_per_period: int, size: int) -> tuple[int, Affine]:
        """(first partition, tile) of the head `head` of period `turn`, in a tensor of heads of `size` elements."""
        per_tile = heads_per_tile(size)
        if per_tile == 1:
            return 0, (turn * heads_per_period + head) * ceil(size / LANES)
        return (head % per_tile) * size, turn * (heads_per_period // per_tile) + head // per_tile

    def _group(self, turn: Affine, first: int, group: int) -> None:
        """The heads `first` to `first + group` of period `turn`."""
        a, b = self.kernel, self.kernel.b
        scores, scale = self._scores(turn, first, group)
        lowered = b.alloc((self.rows, group), "f32", "sbuf", b.rotation, "top").view()
        b.reduce(lowered, scores, "maximum", negate=True)
        if scale != 1.0:
            a.e.scalar(lowered, lowered, "multiply", scale)
        powers = b.alloc((self.rows, group, self.keys), a.dtype, "sbuf", b.rotation, "powers").view()
        sums = b.alloc((self.rows, group), "f32", "sbuf", b.rotation, "sums").view()
        for j in range(group):
            b.activation(
                powers.at(1, j), scores.at(1, j), "exp", scale, bias=lowered.slice(1, j, 1),
                row_sum=sums.slice(1, j, 1),
            )  # fmt: skip
        a.e.reciprocal(sums, sums)
        self._context(turn, first, group, powers, sums)

    def _scores(self, turn: Affine, first: int, group: int) -> tuple[View, float]:
        """([rows, group, keys] before the softmax, factor that the softmax has to apply)."""
        a, b = self.kernel, self.kernel.b
        scale = a.op.scale.value.data
        if self.keys * group <= a.bank and a.mask is None and not a.op.causal and scale > 0:
            bank = b.alloc((self.rows, group, self.keys), "f32", "psum", 2, "scores").view()
            for j in range(group):
                self._products(bank.at(1, j), turn, first + j, Affine(0), self.keys)
            return bank, scale
        masked = b.alloc((self.rows, group, self.keys), "f32", "sbuf", b.rotation, "masked").view()
        mask = self._mask(turn, first, group)

        def block(start: Affine, size: int) -> None:
            bank = b.alloc((self.rows, group, size), "f32", "psum", 2, "scores").view()
            for j in range(group):
                self._products(bank.at(1, j), turn, first + j, start, size)
            target = masked.slice(2, start, size)
            if mask is None:
                a.e.scalar(target, bank, "multiply", scale)
            else:
                a.e.scalar_tensor(target, bank, "multiply", scale, "add", mask.slice(2, start, size))

        b.tiles(self.keys, min(self.keys, a.bank // group), block)
        if a.op.causal:
            self._hide(masked, group)
        return masked, 1.0

    def _mask(self, turn: Affine, first: int, group: int) -> View | None:
        """The mask of a group, [rows, group, keys]."""
        a, b = self.kernel, self.kernel.b
        if a.mask is None:
            return None
        if self.mask is not None:
            return self.mask.insert(0).broadcast([group, self.keys])
        tile = b.alloc((self.rows, group, self.keys), "f32", "sbuf", b.rotation, "mask").view()
        head = turn * min(a.groups.period, a.heads) + first
        part = {0: (self.here.batch, 1), 1: (head, group), 2: (self.start, self.rows), 3: (Affine(0), self.keys)}
        transfer(b, b.load, tile, a.mask.view(part, [2, 1, 3]))
        return tile

    def _hide(self, masked: View, group: int) -> None:
        """Hide the keys behind each query; only the last 128 keys of a tile reach beyond its first query."""
        a = self.kernel
        assert a.triangle is not None
        reach = self.start.constant + a.keys - a.queries
        low = max(0, reach + 1)
        size = self.keys - low
        if size <= 0:
            return
        # Query r sees the keys up to reach + r: row r of the triangle from column `skipped` on.
        skipped = low - reach
        part = a.triangle.slice(0, 0, self.rows).slice(1, skipped, size).insert(0).broadcast([group, size])
        target = masked.slice(2, low, size)
        a.e.tensors(target, target, part, "add")

    def _products(self, bank: View, turn: Affine, head: int, start: Affine, size: int) -> None:
        """bank [rows, size] = q . k^T of one head, keys from `start`."""
        a, b = self.kernel, self.kernel.b
        lane, tile = self._place(turn, head, a.groups.period, a.size)
        shared = a.heads // a.kv_heads
        kv_period = max(1, a.groups.period // shared)
        kv_lane, kv_tile = self._place(turn, head // shared, kv_period, a.size)
        tiles, lanes = ceil(a.size / LANES), min(a.size, LANES)
        for low in range(0, self.rows, a.columns):
            width = min(a.columns, self.rows - low)
            with b.loop(tiles) as i:
                left = self.here.q.slice(0, lane, lanes).at(1, tile + i).slice(1, self.start + low, width)
                right = self.here.k.slice(0, kv_lane, lanes).at(1, kv_tile + i).slice(1, start, size)
                b.matmul(bank.slice(0, low, width), left, right, i)

    # -- context -------------------------------------------------------------------------------------------------------

    def _context(self, turn: Affine, first: int, group: int, powers: View, sums: View) -> None:
        """The rows of the result of one group: powers . v / sums."""
        a, b = self.kernel, self.kernel.b
        size = a.value_size
        bank = b.alloc((self.rows, group, size), "f32", "psum", 2, "weighted").view()
        full, rest = divmod(self.keys, LANES)
        per_bank = max(1, int(a.k.target.psum_bank_bytes) // dtype_by_name(a.dtype).size_bytes // (self.rows * group))
        pieces = [(start, min(per_bank, full - start)) for start in range(0, full, per_bank)]
        for start, count in pieces:
            self._weighted(bank, turn, first, powers, start, count, LANES)
        if rest:
            self._weighted(bank, turn, first, powers, full, 1, rest)
        head = turn * min(a.groups.period, a.heads) + first
        target = self.result.slice(1, head * size, group * size).split(0, (group, size))
        divided = View(sums.buffer, sums.partition, sums.partitions, sums.offset, (*sums.dims, (0, size)))
        a.e.tensors(target, bank, divided, "multiply")

    def _weighted(self, bank: View, turn: Affine, first: int, powers: View, start: int, count: int, lanes: int) -> None:
        """Add `count` tiles of `lanes` keys from key tile `start` to the context of a group."""
        a, b = self.kernel, self.kernel.b
        group = powers.shape[1]
        turned = b.alloc((lanes, group, count, self.rows), a.dtype, "sbuf", b.rotation, "turned").view()
        for low in range(0, lanes, a.columns):
            width = min(a.columns, lanes - low)
            out = b.alloc((width, group, count, self.rows), a.dtype, "psum", 2, "turned").view()
            for j in range(group):
                with b.loop(count) as i:
                    b.transpose(out.at(1, j).at(1, i), powers.at(1, j).slice(1, (i + start) * LANES + low, width))
            b.copy(turned.slice(0, low, width), out)
        shared = a.heads // a.kv_heads
        kv_period = max(1, a.groups.period // shared)
        for j in range(group):
            column = (turn * kv_period + (first + j) // shared) * a.value_size
            for low in range(0, self.rows, a.columns):
                width = min(a.columns, self.rows - low)
                with b.loop(count) as i:
                    left = turned.at(1, j).at(1, i).slice(1, low, width)
                    right = self.here.v.slice(0, 0, lanes).at(1, i + start).slice(1, column, a.value_size)
                    b.matmul(bank.slice(0, low, width).at(1, j), left, right, i + start)


def _triangle() -> list[Operation]:
    """Recipe of [128, 128] f32: 0 up to the diagonal, HIDDEN above it."""
    indices = np.arange(LANES, dtype=np.float32)
    rows = ConstantOp(indices[:, None], F32, (LANES, 1))
    columns = ConstantOp(indices[None, :], F32, (1, LANES))
    seen = CompareOp(CompareKind.GE, rows.result, columns.result)
    zero, hidden = ConstantOp(0.0, F32, ()), ConstantOp(HIDDEN, F32, ())
    return [rows, columns, seen, zero, hidden, SelectOp(seen.result, zero.result, hidden.result)]


KERNELS: dict[type[AttentionOp], Callable[[Kernel, AttentionOp], None]] = {AttentionOp: lower_attention}
"""Template by op class."""
