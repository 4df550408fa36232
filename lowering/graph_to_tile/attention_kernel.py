"""What the kernels of attention share: its operands on chip, tiles of queries and groups of heads, where results go.

A kernel of attention is an `Attention` that has a `run` of its own. A tile of queries and a group of heads are one unit
of it. Tiles on chip that units take in turn are rings, made by the first unit that asks.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil

from lowering.graph_to_tile.attention_operands import FEATURES, Operands, load_triangle, repeated_mask
from lowering.graph_to_tile.attention_plan import HeadGroup, HeadGroups, Tile, even_tiles, heads_per_tile
from lowering.graph_to_tile.attention_projections import SUM_BANKS, Projections
from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pipelining import Ring
from lowering.graph_to_tile.tensors import LANES, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.turning import Bank, turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import F32, dtype_by_name
from neuron_dialects.graph import AttentionOp, spec_of

QUERIES = 2
"""Dimension of a mask that counts queries."""


class AttentionSequence:
    """One sequence of the batch: q, k [128 features, tiles, positions] and v [128 positions, tiles, features].

    Operands that lie otherwise are brought on chip, or turned, when they are first asked for.
    """

    def __init__(self, kernel: "Attention", batch: Affine):
        self.kernel, self.batch = kernel, batch
        self.results: dict[Tile, View] = {}
        self.result_copies = 2
        self.masks: dict[Tile, View | None] = {}

    @cached_property
    def q(self) -> View:
        """Queries."""
        return self.kernel.operands.features(self.kernel.op.q, self.batch, "q")

    @cached_property
    def k(self) -> View:
        """Keys."""
        return self.kernel.operands.features(self.kernel.op.k, self.batch, "k")

    @cached_property
    def v(self) -> View:
        """Values."""
        return self.kernel.values or self.kernel.operands.positions(self.kernel.op.v, self.batch)

    def bring_values(self) -> None:
        """Emit what it takes to have the values on chip."""
        if self.kernel.values is not None:
            self.kernel.operands.positions(self.kernel.op.v, self.batch, self.kernel.values)
        else:
            _ = self.v

    def mask(self, tile: Tile) -> View | None:
        """The mask [rows, keys] of a tile of queries, where it is the same for all heads."""
        if tile not in self.masks:
            mask = self.kernel.mask
            shared = isinstance(mask, SbufTensor) or (mask is not None and mask.strides[1] == 0)
            self.masks[tile] = self.kernel.load_mask(self.batch, Affine(0), tile) if shared else None
        return self.masks[tile]

    def prepare(self, tile: Tile) -> None:
        """Bring everything on chip that all heads of a tile share."""
        _ = self.q, self.k, self.v, self.mask(tile)

    def result(self, tile: Tile) -> View:
        """Where the rows of the result of a tile of queries are put together."""
        if tile not in self.results:
            a, elements = self.kernel, self.kernel.heads * self.kernel.value_size
            ring = a.ring("context", (min(LANES, a.queries), elements), a.out_dtype, "sbuf", 2)
            self.results[tile] = ring.take((tile.rows, elements), len(self.results) % self.result_copies)
        return self.results[tile]


@dataclass
class Attention(ABC):
    """Emits one attention."""

    k: Kernel
    op: AttentionOp
    mask: Tensor | None = None
    triangle: View | None = None
    out: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.b, self.e = self.k.b, Emitter(self.k.b, self.k.target)
        (self.batch, self.queries, _), self.keys = spec_of(self.op.q)[1], spec_of(self.op.k)[1][1]
        self.heads, self.kv_heads = self.op.heads.value.data, self.op.kv_heads.value.data
        self.size, self.value_size = self.op.head_size, self.op.value_size
        self.dtype, self.out_dtype = spec_of(self.op.v)[0].name, spec_of(self.op.result)[0].name
        self.bank = int(self.k.target.psum_bank_bytes) // F32.size_bytes
        self.columns = int(self.k.target.pe_columns)
        self.groups = HeadGroups.plan(self.heads, self.kv_heads, self.size, self.value_size, self.keys, self.bank)
        self.rings: dict[str, Ring] = {}
        self.values: View | None = None
        self.operands = Operands(self.k, self.op, self.turning)

    def prepare(self) -> None:
        """What all sequences share: the result, the mask as a window, the triangle of the causal form."""
        if self.op.mask is not None:
            tensor = self.k.tensor(self.op.mask)
            if not isinstance(tensor, SbufTensor) or tensor.partition != QUERIES:
                window = repeated_mask(self.k, self.op)
                tensor = window.broadcast((self.batch, self.heads, self.queries, self.keys))
            self.mask = tensor
        if self.op.causal:
            self.triangle = load_triangle(self.k)
        self.out = self.k.output(self.op.result)

    def ring(self, name: str, shape: tuple[int, ...], dtype: str, space: str, copies: int) -> Ring:
        """Tiles that units take in turn; made by the first that asks, who needs the most."""
        key = f"{name}.{dtype}"
        if key not in self.rings:
            self.rings[key] = Ring(lambda: self.b.alloc_outer(shape, dtype, space, name).view(), copies)
        return self.rings[key]

    def turning(self, dtype: str) -> Bank:
        """Banks of PSUM through which turned blocks of `dtype` leave the array."""
        elements = int(self.k.target.psum_bank_bytes) // dtype_by_name(dtype).size_bytes
        return self.ring("turned", (min(LANES, self.columns), elements), dtype, "psum", 2).take

    @abstractmethod
    def run(self) -> None:
        """All sequences."""

    def _projections(self) -> Projections:
        """The products that this attention emits between its own stages."""
        waiting = self.k.postponed.pop(self.op, [])
        return Projections(
            self.b, waiting, self.keys, lambda: self.ring("sum", (LANES, self.bank), "f32", "psum", SUM_BANKS).take
        )

    # -- units ---------------------------------------------------------------------------------------------------------

    def _tiles(self) -> list[Tile]:
        """The tiles of queries of a sequence."""
        if self.op.causal:
            starts = range(0, self.queries, LANES)
            sizes = [(start, min(LANES, self.queries - start)) for start in starts]
            return [Tile(Affine(start), rows, self._visible(start + rows - 1)) for start, rows in sizes]
        count, size, step = even_tiles(self.queries, LANES) or (ceil(self.queries / LANES), LANES, LANES)
        starts = [i * step for i in range(count)]
        return [Tile(Affine(start), min(size, self.queries - start), self.keys) for start in starts]

    def _visible(self, query: int) -> int:
        """Keys that query `query` sees in the causal form."""
        return max(1, min(self.keys, query + self.keys - self.queries + 1))

    def _units(self, tile: Tile) -> list[HeadGroup]:
        """All units of a tile of queries, one by one."""
        period, group = min(self.groups.period, self.heads), self.groups.group
        firsts = [(turn, first) for turn in range(0, self.heads, period) for first in range(0, period, group)]
        firsts = [(turn, first) for turn, first in firsts if turn + first < self.heads]
        return [
            HeadGroup(tile, Affine(turn // period), period, first, min(group, self.heads - turn - first), last)
            for (turn, first), last in zip(firsts, [False] * (len(firsts) - 1) + [True], strict=True)
        ]

    def _place(self, unit: HeadGroup, head: int, per_period: int, size: int) -> tuple[int, Affine]:
        """(first partition, tile) of head `head` of the unit's period, in a tensor of heads of `size` elements."""
        per_tile = heads_per_tile(size)
        if per_tile == 1:
            return 0, (unit.turn * per_period + head) * ceil(size / LANES)
        return (head % per_tile) * size, unit.turn * (per_period // per_tile) + head // per_tile

    def _products(self, bank: View, here: AttentionSequence, unit: HeadGroup, j: int, keys: tuple[Affine, int]) -> None:
        """bank [rows, size] = q . k^T of head `j` of a unit, for the keys (start, size)."""
        (start, size), head, shared = keys, unit.first + j, self.heads // self.kv_heads
        lane, tile = self._place(unit, head, unit.period, self.size)
        kv_lane, kv_tile = self._place(unit, head // shared, max(1, unit.period // shared), self.size)
        tiles, lanes, q, k = ceil(self.size / LANES), min(self.size, LANES), here.q, here.k
        for low in range(0, unit.tile.rows, self.columns):
            width = min(self.columns, unit.tile.rows - low)
            with self.b.loop(tiles) as i:
                left = q.slice(0, lane, lanes).at(1, tile + i).slice(1, unit.tile.start + low, width)
                right = k.slice(0, kv_lane, lanes).at(1, kv_tile + i).slice(1, start, size)
                self.b.matmul(bank.slice(0, low, width), left, right, i)

    @property
    def _turned_elements(self) -> int:
        """Elements of a bank of PSUM that turned powers pass through."""
        return int(self.k.target.psum_bank_bytes) // dtype_by_name(self.dtype).size_bytes

    def _pieces(self, unit: HeadGroup) -> list[tuple[int, int, int, int]]:
        """(first tile of keys, number of tiles, their lanes, place in the row of turned powers), by PSUM banks."""
        full, rest = divmod(unit.tile.keys, LANES)
        width = unit.tile.rows * unit.group
        most = max(1, self._turned_elements // width)
        pieces = [(start, min(most, full - start), LANES, start * width) for start in range(0, full, most)]
        return [*pieces, (full, 1, rest, full * width)] if rest else pieces

    def _turned(self, unit: HeadGroup, number: int, copies: int) -> View:
        """A tile for all turned powers of a unit, [128 keys, tiles of keys * group * rows]."""
        most = min(LANES, self.queries) * self.groups.group * ceil(self.keys / LANES)
        ring = self.ring("turned_powers", (min(LANES, self.keys), most), self.dtype, "sbuf", copies)
        elements = unit.tile.rows * unit.group * ceil(unit.tile.keys / LANES)
        return ring.take((min(LANES, self.keys), elements), number)

    def load_mask(self, batch: Affine, head: Affine, tile: Tile) -> View:
        """The mask [rows, keys] of one head; of a mask on chip, which serves all heads, the view."""
        assert self.mask is not None
        part = {0: (batch, 1), 1: (head, 1), QUERIES: (tile.start, tile.rows), 3: (Affine(0), tile.keys)}
        if isinstance(self.mask, SbufTensor):
            own = (batch if self.mask.shape[0] > 1 else Affine(0), 1)
            return self.mask.view({**part, 0: own}).at(1, 0).at(1, 0)
        view = self.b.alloc((tile.rows, tile.keys), "f32", "sbuf", self.b.rotation, "mask").view()
        transfer(self.b, self.b.load, view, self.mask.view(part, [2, 3]))
        return view

    def _finish(self, here: AttentionSequence, tile: Tile) -> None:
        """Put the rows of a tile of queries where the result lies."""
        out, result = self.out, here.result(tile)
        if isinstance(out, SbufTensor):
            panel = out.whole.at(2, here.batch).slice(2, tile.start, tile.rows)
            turn_rows(self.k, panel, result, bank=self.turning(result.dtype))
        else:
            self.b.store(out.view({0: (here.batch, 1), 1: (tile.start, tile.rows)}, [1, FEATURES]), result)
