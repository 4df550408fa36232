"""Sums of rows of tables that stay on chip, gathered there by gpsimd.

    sum over c of  table[indices[s, c], :]

Each of the eight cores of gpsimd has 16 partitions, and indices of its own. A table lies on the partitions of one core,
row after row, with some elements of each row on every partition, so that one instruction fetches rows of eight tables
for 128 samples. Products with an identity matrix add the rows of a sample up and turn the sums: samples lie on
partitions then. No descriptor is spent on a row, and DRAM is not read again.

An index that names no row becomes one that the instruction refuses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.conv_weights import identity_ops
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.cost import issue_ns
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import ConstantOp, ReshapeOp, TransposeOp
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.isa.limits import CORE_PARTITIONS, GATHERED_ELEMENTS, MAX_LOCAL_INDICES, MAX_SIZE
from neuron_dialects.target import Target

NO_ROW = float(MAX_SIZE)
"""Index that no row begins at."""

TABLE_SHARE = 0.3
"""Part of SBUF that tables may take."""

USABLE_SHARE = 0.7
"""Part of SBUF that resident tensors and tables take together; the rest is for rows in passing, and for what is loaded
for the next kernels.
"""


@dataclass(frozen=True)
class Lookup:
    """`count` rows for each sample, of `width` elements of type `dtype`, of a table of `rows`; `packs`: whether the
    table can be laid out as it is wanted when the program is made.
    """

    rows: int
    count: int
    width: int
    dtype: str
    packs: bool = True

    @property
    def elements(self) -> int:
        """Elements of a row on each partition of a core."""
        return self.width // CORE_PARTITIONS

    @property
    def bytes(self) -> int:
        """Bytes of the table on each partition of a core."""
        return self.rows * self.elements * dtype_by_name(self.dtype).size_bytes

    def is_local(self, target: Target) -> bool:
        """Whether gpsimd can gather the rows, of whole tiles of samples."""
        return (
            self.packs
            and self.dtype in target.matmul_dtypes
            and self.width % CORE_PARTITIONS == 0
            and self.elements in GATHERED_ELEMENTS
            and self.rows * self.elements <= MAX_SIZE
            and self.count * LANES <= MAX_LOCAL_INDICES
            and self.width * 4 <= int(target.psum_bank_bytes)
        )


def local_groups(lookups: Sequence[Lookup], samples: int, room_bytes: int, target: Target) -> list[tuple[int, ...]]:
    """Numbers of the lookups whose rows gpsimd gathers, by the instruction that does so; `room_bytes`: what tables may
    take of a partition.

    Tables of one size are together, the smallest first, as long as that takes the busiest of the DMA, which fetches the
    rows of the others, and of what takes turns with gpsimd, the vector engine, which adds them up, less time.
    """
    tiles = samples // LANES
    if "pool" not in target.compute_engines or "local_gather" in target.unsupported_instructions or not tiles:
        return []
    dma = sum(tiles * _fetched_ns(lookup, target) for lookup in lookups)
    vector = sum(tiles * _added_ns(lookup, target) for lookup in lookups)
    found: list[tuple[int, ...]] = []
    for candidates in _candidates(lookups, target):
        group = tuple(n for n in candidates if lookups[n].bytes <= room_bytes)
        if not group:
            continue
        most, group_lookups = max(lookups[n].bytes for n in group), [lookups[n] for n in group]
        rate, each = target.dma_rate_bytes_per_ns, float(target.dma_descriptor_ns) / int(target.dma_engines)
        loads = sum(CORE_PARTITIONS * lookup.bytes / rate + tiles * LANES * each for lookup in group_lookups)
        after = dma + loads - sum(tiles * _fetched_ns(lookup, target) for lookup in group_lookups)
        busy = vector - sum(tiles * _added_ns(lookup, target) for lookup in group_lookups)
        busy += tiles * _gathered_ns(group_lookups, target)
        if max(after, busy) < max(dma, vector):
            room_bytes, dma, vector = room_bytes - most, after, busy
            found.append(group)
    return found


def _candidates(lookups: Sequence[Lookup], target: Target) -> list[tuple[int, ...]]:
    """Lookups of tables of one kind, as many as one instruction gathers from, those in the smallest tables first."""
    cores = min(LANES, int(target.pe_columns)) // CORE_PARTITIONS
    kinds: dict[tuple[int, int, str], list[int]] = {}
    for number in sorted(range(len(lookups)), key=lambda n: lookups[n].rows):
        lookup = lookups[number]
        if lookup.is_local(target):
            kinds.setdefault((lookup.count, lookup.width, lookup.dtype), []).append(number)
    together = {kind: min(cores, int(target.psum_bank_bytes) // (4 * kind[1])) for kind in kinds}
    return [
        tuple(numbers[first : first + together[kind]])
        for kind, numbers in kinds.items()
        for first in range(0, len(numbers), together[kind])
    ]


def _fetched_ns(lookup: Lookup, target: Target) -> float:
    """DMA time for the rows of 128 samples."""
    return lookup.count * float(target.dma_stagger_ns) * int(target.dma_engines)


def _added_ns(lookup: Lookup, target: Target) -> float:
    """Time of the vector engine to add them up."""
    return max(int(target.min_issue_cycles), lookup.count * lookup.width) / target.clock_ghz("dve")


def _gathered_ns(group: Sequence[Lookup], target: Target) -> float:
    """Time of gpsimd for the rows of 128 samples in all tables of a group."""
    lanes, count, elements = CORE_PARTITIONS * len(group), LANES * group[0].count, group[0].elements

    def tile(dtype: str, size: int) -> Operand:
        return Operand("sbuf", dtype, AccessPattern(Affine(), lanes, Affine(), ((1, size),)))

    operands = {
        "dst": tile(group[0].dtype, count * elements),
        "data": tile(group[0].dtype, max(lookup.rows for lookup in group) * elements),
        "indices": tile("ui16", count // CORE_PARTITIONS),
    }
    return issue_ns(Instruction("local_gather", "pool", operands, {"elements": elements}), target)


@dataclass
class LocalRows:
    """A group of tables on chip, and the indices of all whole tiles of samples.

    `tables` [rows, width] and `indices` [samples, count], in the order of the cores that they lie on; of one kind.
    """

    k: Kernel
    tables: Sequence[DramTensor]
    indices: Sequence[DramTensor]
    identity: View
    rows: View = field(init=False)
    places: View = field(init=False)

    def __post_init__(self) -> None:
        (_, self.width), self.count = self.tables[0].shape, self.indices[0].shape[1]
        self.elements, self.lanes = self.width // CORE_PARTITIONS, CORE_PARTITIONS * len(self.tables)
        self._load_indices()
        self._load_tables()

    def _load_tables(self) -> None:
        """Bring rows on chip, [lanes, row * elements]."""
        most = max(table.shape[0] for table in self.tables) * self.elements
        self.rows = self.k.b.alloc((self.lanes, most), self.tables[0].dtype, "sbuf", 1, "tables").view()
        for number, table in enumerate(self.tables):
            packed = self._packed(table)
            place = self.rows.slice(0, number * CORE_PARTITIONS, CORE_PARTITIONS)
            self.k.b.load(place.slice(1, 0, packed.shape[1]), packed.view())

    def _packed(self, table: DramTensor) -> DramTensor:
        """[16, row * elements]: element j * 16 + p of a row is element j of partition p."""
        symbol, rows = table.symbol, table.shape[0]
        assert symbol is not None
        apart, whole = (rows, self.elements, CORE_PARTITIONS), (CORE_PARTITIONS, rows * self.elements)

        def recipe(weights: list[SSAValue]) -> list[Operation]:
            split = ReshapeOp(weights[0], apart)
            turned = TransposeOp(split.result, permutation=[2, 0, 1])
            return [split, turned, ReshapeOp(turned.result, whole)]

        return self.k.derive(f"{symbol}.cores", [symbol], recipe)

    def _load_indices(self) -> None:
        """Bring all indices on chip as places in the rows, [lanes, samples / 16, count]: sample s on lane s % 16."""
        b, runs = self.k.b, self.indices[0].shape[0] // LANES * (LANES // CORE_PARTITIONS)
        shape = (self.lanes, runs, self.count)
        raw = b.alloc(shape, "i32", "sbuf", 1, "indices").view()
        for number, tensor in enumerate(self.indices):
            stride, each = tensor.strides
            dims = ((stride, CORE_PARTITIONS), (stride * CORE_PARTITIONS, runs), (each, self.count))
            source = View(tensor.buffer, Affine(), 0, Affine(tensor.offset), dims)
            b.load(raw.slice(0, number * CORE_PARTITIONS, CORE_PARTITIONS), source)
        ends = b.alloc((self.lanes, 1), "f32", "sbuf", 1, "ends").view()
        b.load(ends, self._ends().view())
        back, first, past = (b.alloc(shape, "f32", "sbuf", 1, "places").view() for _ in range(3))
        self.places = b.alloc(shape, "ui16", "sbuf", 1, "places").view()
        # Negative ones count from the end; what is outside of the table then is larger than any place in it.
        b.tensor_scalar(back, raw, "less", 0.0, "multiply", ends)
        self._combine(first, raw, float(self.elements), back, "add")
        b.tensor_scalar(past, first, "greater_equal", ends, "multiply", NO_ROW)
        self._combine(back, first, -NO_ROW, first, "maximum")
        b.tensor_tensor(self.places, back, past, "maximum")

    def _combine(self, dst: View, data: View, factor: float, other: View, op: str) -> None:
        """dst = (data * factor) op other."""
        fields = {"op0": "multiply", "scalar0": factor, "op1": op}
        self.k.b.emit("scalar_tensor_tensor", {"dst": dst, "data": data, "other": other}, fields)

    def _ends(self) -> DramTensor:
        """[lanes, 1]: where the rows of each table end."""
        ends = [table.shape[0] * self.elements for table in self.tables]
        column = np.repeat(np.array(ends, np.float32), CORE_PARTITIONS)[:, None]
        name = f"ends.{'.'.join(map(str, ends))}"
        return self.k.derive(name, [], lambda _: [ConstantOp(column)])

    def add(self, start: Affine, places: Sequence[View]) -> None:
        """places [128, width] of each table = the sums of the rows for the 128 samples from `start` on."""
        b, runs, size = self.k.b, LANES // CORE_PARTITIONS, self.elements
        shape = (self.lanes, runs, self.count, CORE_PARTITIONS, size)
        gathered = b.alloc(shape, self.rows.dtype, "sbuf", 2, "gathered").view()
        named = self.places.slice(1, start.divided(CORE_PARTITIONS), runs)
        b.emit("local_gather", {"dst": gathered, "data": self.rows, "indices": named}, {"elements": size})
        sums = b.alloc((LANES, size, self.lanes), "f32", "psum", 2, "sums").view()
        identity = self.identity.slice(0, 0, self.lanes).slice(1, 0, self.lanes)
        for element in range(size):
            with b.loop(self.count) as position:
                b.matmul(sums.at(1, element), gathered.at(4, element).at(2, position), identity, position)
        for number, place in enumerate(places):
            part = sums.slice(2, number * CORE_PARTITIONS, CORE_PARTITIONS)
            b.copy(place.split(0, (size, CORE_PARTITIONS)), part)


def identity_matrix(k: Kernel, dtype: str) -> View:
    """[128, 128] on chip."""
    source = k.derive(f"identity.{LANES}.{dtype}", [], lambda _: identity_ops(dtype_by_name(dtype), LANES))
    identity = k.b.alloc((LANES, LANES), dtype, "sbuf", 1, "identity").view()
    k.b.load(identity, source.view())
    return identity
