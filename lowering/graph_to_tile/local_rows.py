"""Sums of rows of tables that stay on chip, gathered there by gpsimd.

    sum over c of  table[indices[s, c], :]

Each of the eight cores of gpsimd has 16 partitions, and indices of its own. A table lies on the partitions of one core,
row after row, with some elements of each row on every partition, so that one instruction fetches rows of eight tables
for 128 samples. A larger table lies on several cores, a part of its rows on each: a core whose part does not hold a row
fetches zeros instead. Products with a matrix of ones and zeros add the rows of a sample up, those of all cores of a
table, and turn the sums: samples lie on partitions then. No descriptor is spent on a row, and DRAM is not read again.

An index that names no row becomes one that the instruction refuses. `local_plan.py` says which tables lie where.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.local_plan import held_rows
from lowering.graph_to_tile.tensors import LANES, DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import BinaryKind, BinaryOp, BroadcastOp, ConstantOp, PadOp, ReshapeOp, TransposeOp
from neuron_dialects.isa.limits import CORE_PARTITIONS, MAX_SIZE
from passes.graph.conv_groups import QUADRANT

NO_ROW = float(MAX_SIZE)
"""Index that no row begins at."""

FAR = float(1 << 22)
"""Further than any place in a table."""

ENDS, FIRST, HELD = range(3)
"""What a lane knows of its table: where its rows end, and which of them the lane holds: from where on, and how far."""


@dataclass(frozen=True)
class SharedTable:
    """A table [rows, width] on some `cores` of gpsimd, and the `indices` [samples, count] into it."""

    table: DramTensor
    indices: DramTensor
    cores: int

    @property
    def part(self) -> int:
        """Rows of the table on each of its cores."""
        return -(-self.table.shape[0] // self.cores)

    @property
    def held(self) -> int:
        """The same with the row of zeros."""
        return held_rows(self.table.shape[0], self.cores)


@dataclass
class LocalRows:
    """A group of tables on chip, and the indices of all whole tiles of samples; `shares` in the order of the cores that
    they lie on, of one kind.
    """

    k: Kernel
    shares: Sequence[SharedTable]
    rows: View = field(init=False)
    places: View = field(init=False)
    selection: View = field(init=False)

    def __post_init__(self) -> None:
        (_, self.width), (_, self.count) = self.shares[0].table.shape, self.shares[0].indices.shape
        self.elements = self.width // CORE_PARTITIONS
        self.lanes = CORE_PARTITIONS * sum(share.cores for share in self.shares)
        self.dtype = self.shares[0].table.dtype
        self._load_indices()
        self._load_tables()

    def _load_tables(self) -> None:
        """Bring rows on chip, [lanes, row * elements], and what adds them up, [lanes, tables * 16]."""
        b, most = self.k.b, max(share.held for share in self.shares) * self.elements
        self.rows = b.alloc((self.lanes, most), self.dtype, "sbuf", 1, "tables").view()
        sizes = [share.held * self.elements for share in self.shares for _ in range(share.cores)]
        for first in range(0, self.lanes, QUADRANT):
            # The instruction reads what lies behind the rows of smaller tables as well.
            least = min(sizes[first // CORE_PARTITIONS : (first + QUADRANT) // CORE_PARTITIONS])
            if least < most:
                lanes = self.rows.slice(0, first, min(QUADRANT, self.lanes - first))
                b.memset(lanes.slice(1, least, most - least), 0.0)
        core = 0
        for share in self.shares:
            packed, size = self._packed(share), share.held * self.elements
            for part in range(share.cores):
                place = self.rows.slice(0, core * CORE_PARTITIONS, CORE_PARTITIONS).slice(1, 0, size)
                b.load(place, packed.view({1: (part * size, size)}))
                core += 1
        columns = CORE_PARTITIONS * len(self.shares)
        self.selection = b.alloc((self.lanes, columns), self.dtype, "sbuf", 1, "selection").view()
        b.load(self.selection, self._selection().view())

    def _packed(self, share: SharedTable) -> DramTensor:
        """[16, cores * row * elements]: element j * 16 + p of a row is element j of partition p of its core."""
        symbol, rows = share.table.symbol, share.table.shape[0]
        assert symbol is not None
        apart = (share.cores, share.part, self.elements, CORE_PARTITIONS)
        missing, zeros = share.cores * share.part - rows, share.held - share.part

        def recipe(weights: list[SSAValue]) -> list[Operation]:
            ops: list[Operation] = []

            def add(op: Operation) -> SSAValue:
                ops.append(op)
                return op.results[0]

            value = weights[0] if not missing else add(PadOp(weights[0], (0, 0), (missing, 0)))
            value = add(ReshapeOp(value, apart))
            value = value if not zeros else add(PadOp(value, (0, 0, 0, 0), (0, zeros, 0, 0)))
            turned = add(TransposeOp(value, permutation=[3, 0, 1, 2]))
            add(ReshapeOp(turned, (CORE_PARTITIONS, share.cores * share.held * self.elements)))
            return ops

        name = f"{symbol}.cores" if share.cores == 1 else f"{symbol}.{share.cores}.cores"
        return self.k.derive(name, [symbol], recipe)

    def _selection(self) -> DramTensor:
        """[lanes, tables * 16]: ones where lane p of a table's cores meets column p of the table."""
        cores = [share.cores for share in self.shares]
        owner = np.repeat(np.arange(len(cores)), cores)[:, None] == np.arange(len(cores))
        dtype, columns = dtype_by_name(self.dtype), len(cores) * CORE_PARTITIONS

        def recipe(_: list[SSAValue]) -> list[Operation]:
            blocks = ConstantOp(owner[:, None, :, None].astype(np.float32), dtype)
            identity = ConstantOp(np.eye(CORE_PARTITIONS, dtype=np.float32)[None, :, None], dtype)
            both = BinaryOp(BinaryKind.MUL, blocks.result, identity.result)
            return [blocks, identity, both, ReshapeOp(both.result, (self.lanes, columns))]

        return self.k.derive(f"selection.{'.'.join(map(str, cores))}.{self.dtype}", [], recipe)

    def _load_indices(self) -> None:
        """Bring all indices on chip as places in the rows, [lanes, samples / 16, count]: sample s on lane s % 16."""
        b, runs = self.k.b, self.shares[0].indices.shape[0] // LANES * (LANES // CORE_PARTITIONS)
        shape = (self.lanes, runs, self.count)
        raw = b.alloc(shape, "i32", "sbuf", 1, "indices").view()
        core = 0
        for share in self.shares:
            stride, each = share.indices.strides
            dims = ((stride, CORE_PARTITIONS), (stride * CORE_PARTITIONS, runs), (each, self.count))
            source = View(share.indices.buffer, Affine(), 0, Affine(share.indices.offset), dims)
            for _ in range(share.cores):
                b.load(raw.slice(0, core * CORE_PARTITIONS, CORE_PARTITIONS), source)
                core += 1
        known = b.alloc((self.lanes, 3), "f32", "sbuf", 1, "ends").view()
        b.load(known, self._known().view())
        self.places = self._placed(raw, *(known.slice(1, number, 1) for number in (ENDS, FIRST, HELD)))

    def _placed(self, raw: View, ends: View, first: View, held: View) -> View:
        """Indices as places in the rows that a lane holds."""
        b = self.k.b
        back, place, past = (b.alloc(raw.shape, "f32", "sbuf", 1, "places").view() for _ in range(3))
        places = b.alloc(raw.shape, "ui16", "sbuf", 1, "places").view()
        # Negative ones count from the end; what is outside of the table then is larger than any place in it.
        b.tensor_scalar(back, raw, "less", 0.0, "multiply", ends)
        self._combine(place, raw, float(self.elements), back, "add")
        b.tensor_scalar(past, place, "greater_equal", ends, "multiply", NO_ROW)
        if any(share.cores > 1 for share in self.shares):
            self._combine(past, place, -NO_ROW, past, "maximum")
            # What another core holds is the row of zeros behind the last one here.
            b.tensor_scalar(place, place, "subtract", first)
            b.tensor_scalar(back, place, "less", 0.0, "multiply", FAR)
            b.tensor_tensor(back, back, place, "maximum")
            b.tensor_scalar(back, back, "minimum", held)
        else:
            self._combine(back, place, -NO_ROW, place, "maximum")
        b.tensor_tensor(places, back, past, "maximum")
        return places

    def _combine(self, dst: View, data: View, factor: float, other: View, op: str) -> None:
        """dst = (data * factor) op other."""
        fields = {"op0": "multiply", "scalar0": factor, "op1": op}
        self.k.b.emit("scalar_tensor_tensor", {"dst": dst, "data": data, "other": other}, fields)

    def _known(self) -> DramTensor:
        """[lanes, 3]: where the rows of each table end, the first of those on the lane, and how far these reach."""
        rows = [
            (share.table.shape[0], part * share.part, share.part if share.cores > 1 else share.table.shape[0])
            for share in self.shares
            for part in range(share.cores)
        ]
        name = f"ends.{'.'.join(f'{end}+{first}' for end, first, _ in rows)}.{self.elements}"
        columns = np.array(rows, np.float32)[:, None] * self.elements

        def recipe(_: list[SSAValue]) -> list[Operation]:
            one = ConstantOp(columns)
            lanes = BroadcastOp(one.result, (len(rows), CORE_PARTITIONS, 3))
            return [one, lanes, ReshapeOp(lanes.result, (self.lanes, 3))]

        return self.k.derive(name, [], recipe)

    def add(self, start: Affine, places: Sequence[View]) -> None:
        """places [128, width] of each table = the sums of the rows for the 128 samples from `start` on."""
        b, runs, size = self.k.b, LANES // CORE_PARTITIONS, self.elements
        shape = (self.lanes, runs, self.count, CORE_PARTITIONS, size)
        gathered = b.alloc(shape, self.rows.dtype, "sbuf", 1, "gathered").view()
        named = self.places.slice(1, start.divided(CORE_PARTITIONS), runs)
        b.emit("local_gather", {"dst": gathered, "data": self.rows, "indices": named}, {"elements": size})
        sums = b.alloc((LANES, size, CORE_PARTITIONS * len(self.shares)), "f32", "psum", 2, "sums").view()
        for element in range(size):
            with b.loop(self.count) as position:
                b.matmul(sums.at(1, element), gathered.at(4, element).at(2, position), self.selection, position)
        for number, place in enumerate(places):
            part = sums.slice(2, number * CORE_PARTITIONS, CORE_PARTITIONS)
            b.copy(place.split(0, (size, CORE_PARTITIONS)), part)
