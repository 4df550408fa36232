"""Sums of rows of a small table that stays on chip, by counting how often each row is named.

    sum over c of  table[indices[s, c], :]  =  sum over r of  (how many indices of s are r) . table[r, :]

The vector engine compares the indices of 128 samples, one sample to a lane, with the numbers of the rows. A product
with an identity matrix turns what it found and adds it up over the indices of a sample: rows lie on partitions then,
and a second product multiplies the counts with the table. Between the two the counts leave PSUM; meanwhile the tensor
engine counts for the next rows, or the next table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from lowering.graph_to_tile.conv_weights import identity_ops
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import BF16
from neuron_dialects.graph import ConstantOp
from neuron_dialects.target import Target

MOST_COUNTED = 2048
"""Rows of the largest table whose rows are counted."""


@dataclass(frozen=True)
class Lookup:
    """`count` rows for each sample, of `width` elements, of a table of `rows`."""

    rows: int
    count: int
    width: int


def counted_tables(lookups: Sequence[Lookup], target: Target) -> set[int]:
    """Numbers of the lookups whose rows are counted: those in the smallest tables, while the vector engine, which adds
    up the rows of the others, has less to do than the DMA.
    """
    clock, issue = target.clock_ghz("dve"), int(target.min_issue_cycles)
    found: set[int] = set()
    if int(target.pe_columns) < LANES:
        return found

    def fetched_ns(lookup: Lookup) -> float:
        return lookup.count * float(target.dma_stagger_ns) * int(target.dma_engines)

    def added_ns(lookup: Lookup) -> float:
        return max(issue, lookup.count * lookup.width) / clock

    def compared_ns(lookup: Lookup) -> float:
        return lookup.count * max(issue, lookup.rows) / clock

    dma, vector = sum(map(fetched_ns, lookups)), sum(map(added_ns, lookups))
    for number in sorted(range(len(lookups)), key=lambda n: lookups[n].rows):
        lookup = lookups[number]
        dma -= fetched_ns(lookup)
        vector += compared_ns(lookup) - added_ns(lookup)
        if vector > dma or lookup.rows > MOST_COUNTED or lookup.width > int(target.pe_moving_elements):
            break
        found.add(number)
    return found


@dataclass
class RowCounts:
    """What counting needs for tables of type `dtype` with at most `most` rows: the numbers of rows on every lane, an
    identity matrix, and PSUM banks for counts and for sums. What is found, ones and zeros, is exact in bf16.
    """

    k: Kernel
    dtype: str
    most: int
    numbers: View = field(init=False)
    identity: View = field(init=False)
    counts: list[View] = field(init=False)
    sums: View = field(init=False)
    turns: int = 0
    waiting: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        k, b = self.k, self.k.b
        counted = np.arange(LANES, dtype=np.float32)[None]
        first = k.derive(f"numbers.{LANES}", [], lambda _: [ConstantOp(counted)])
        self.numbers = b.alloc((LANES, -(-self.most // LANES) * LANES), "f32", "sbuf", 1, "numbers").view()
        b.load(self.numbers.slice(1, 0, LANES), first.broadcast((LANES, LANES)).view())
        for start in range(LANES, self.most, LANES):
            b.tensor_scalar(self.numbers.slice(1, start, LANES), self.numbers.slice(1, 0, LANES), "add", float(start))
        ones = k.derive(f"identity.{LANES}.bf16", [], lambda _: identity_ops(BF16, LANES))
        self.identity = b.alloc((LANES, LANES), "bf16", "sbuf", 1, "identity").view()
        b.load(self.identity, ones.view())

    def table(self, tensor: DramTensor) -> View:
        """A table on chip, [128, row tiles, width]."""
        rows, width = tensor.shape
        full, rest = divmod(rows, LANES)
        view = self.k.b.alloc((min(rows, LANES), full + bool(rest), width), tensor.dtype, "sbuf", 1, "table").view()
        if full:
            window = tensor.slice((0, 0), (full * LANES, width), (1, 1)).reshape((full, LANES, width))
            assert window is not None, "whole tiles of rows"
            self.k.b.load(view.slice(1, 0, full), window.transpose((1, 0, 2)).view())
        if rest:
            self.k.b.load(view.slice(0, 0, rest).at(1, full), tensor.view({0: (Affine(full * LANES), rest)}))
        return view

    def begin(self) -> None:
        """Make the banks for a tile of samples."""
        b, bank = self.k.b, int(self.k.target.psum_bank_bytes) // 4
        shape = (LANES, bank // LANES, LANES)
        self.counts = [b.alloc(shape, "f32", "psum", 1, "counts").view() for _ in range(2)]
        self.sums = b.alloc((LANES, bank), "f32", "psum", 2, "sums").view()

    def add(self, table: View, rows: int, column: View, place: View) -> None:
        """place [samples, width] = the sums of the rows of a table that `column` [samples, count] names, as f32."""
        b, (size, count), width = self.k.b, column.shape, table.shape[2]
        named = b.alloc((size, count, rows), "bf16", "sbuf", 2, "named").view()
        numbers = self.numbers.slice(0, 0, size).slice(1, 0, rows)
        with b.loop(count) as position:
            b.tensor_scalar(named.at(1, position), numbers, "equal", column.slice(1, position, 1))
        first = self.turns * width % (self.sums.shape[1] // width * width)
        sums = self.sums.slice(0, 0, size).slice(1, first, width)
        together = self.counts[0].shape[1] * LANES
        for start in range(0, rows, together):
            here = min(together, rows - start)
            turned = self._count(named.slice(2, start, here))
            last = start + here == rows
            tables = table.slice(1, start // LANES, -(-here // LANES))

            def multiply(turned: View = turned, tables: View = tables, start: int = start, last: bool = last) -> None:
                _multiply(self.k, sums, turned, tables, min(together, rows - start), bool(start))
                if last:
                    b.copy(place, sums)

            self.finish()
            self.waiting = multiply

    def _count(self, named: View) -> View:
        """Counts of some rows on chip, [rows, row tiles, samples], of what was found, [samples, count, rows]."""
        b, (size, count, rows) = self.k.b, named.shape
        identity = self.identity.slice(0, 0, size).slice(1, 0, size)
        bank, (full, rest) = self.counts[self.turns % 2].slice(2, 0, size), divmod(rows, LANES)
        self.turns += 1
        turned = b.alloc((LANES, full + bool(rest), size), self.dtype, "sbuf", 2, "counts").view()

        def tile(first: Affine, lanes: int) -> None:
            place = bank.slice(0, 0, lanes).at(1, first.divided(LANES))
            with b.loop(count) as position:
                b.matmul(place, named.at(1, position).slice(1, first, lanes), identity, position)

        b.tiles(rows, LANES, tile)
        if full:
            b.copy(turned.slice(1, 0, full), bank.slice(1, 0, full))
        if rest:
            b.copy(turned.slice(0, 0, rest).at(1, full), bank.slice(0, 0, rest).at(1, full))
        return turned

    def finish(self) -> None:
        """Multiply what was counted last."""
        if self.waiting is not None:
            self.waiting()
            self.waiting = None


def _multiply(k: Kernel, sums: View, counts: View, table: View, rows: int, begun: bool) -> None:
    """Add counts [rows, row tiles, samples] times the rows of a table, [rows, row tiles, width], to sums."""

    def tile(first: Affine, lanes: int) -> None:
        left = counts.slice(0, 0, lanes).at(1, first.divided(LANES))
        right = table.slice(0, 0, lanes).at(1, first.divided(LANES))
        k.b.matmul(sums, left, right, first + int(begun))

    k.b.tiles(rows, LANES, tile)
