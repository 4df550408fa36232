"""Kernel of gathered sums: rows of tables, fetched for 128 samples at a time, added up and joined on chip.

    out[s, part] = sum over c of  table[indices[s, c], :]          for each part of the result

Samples lie on partitions. For each of the `count` indices of a sample one indirect DMA fetches a row for every lane;
the vector engine adds them up where they lie, into the place of the sum in the result. All parts of 128 samples are
made before those of the next ones, so that what reads the result starts while further rows are fetched.

An indirect DMA takes as long for a row of two bytes as for one of two hundred, and all tables share the DMA. So small
tables stay on chip, where gpsimd gathers their rows (`local_rows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count
from math import prod

from xdsl.ir import SSAValue

from lowering.graph_to_tile.gather import flat_indices, indirect
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.local_plan import TABLE_SHARE, USABLE_SHARE, Group, Lookup, local_groups
from lowering.graph_to_tile.local_rows import LocalRows, SharedTable
from lowering.graph_to_tile.relayout import copy_window
from lowering.graph_to_tile.sample_indices import SampleIndices
from lowering.graph_to_tile.sample_products import FeatureTiles
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, transfer
from lowering.graph_to_tile.turning import turn_rows
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import shape_of, spec_of
from passes.graph.gathered_sums import GatheredSum, JoinedSums
from passes.graph.sample_products import SampleFeatures

SAMPLES = 0
"""Dimension of the result that lies on partitions."""

ROW_BUFFERS = 6
"""Sums whose rows are fetched ahead of their addition. More would hold up other transfers: the DMA serves them in the
order in which they were asked for."""


@dataclass(frozen=True)
class _Sum:
    """A part that is gathered: table `number` of those of the kernel."""

    number: int
    table: DramTensor


_Part = _Sum | DramTensor | SbufTensor
"""What a part is made of; a matrix on chip has features on partitions."""


def lower(k: Kernel, sums: JoinedSums, features: SampleFeatures | None = None) -> None:
    """Lower a group of gathered sums, or of the `features` that are made of them."""
    _Kernel(k, sums, None if features is None else FeatureTiles(k, features)).run()


@dataclass
class _Kernel:
    """The loop over tiles of samples. `features`: what is made of a tile's sums; else these are the result. `fetched`:
    buffers of rows that are used in turn, by type and shape; `groups`: numbers of the tables whose rows gpsimd gathers,
    and what holds them.
    """

    k: Kernel
    sums: JoinedSums
    features: FeatureTiles | None = None
    fetched: dict[tuple[str, int, int], list[View]] = field(default_factory=dict)
    indices: SampleIndices = field(init=False)
    groups: list[tuple[tuple[int, ...], LocalRows]] = field(default_factory=list)

    def run(self) -> None:
        """Emit everything."""
        k, sums = self.k, self.sums
        (samples, *rest), features = shape_of(sums.result), self.features
        out = None if features else k.output(sums.result)
        # Products of a part of the samples are made while rows of the next one are fetched.
        k.parted_rows.add(samples)
        parts = self._operands()
        widths = [_width(part) for part in parts]
        firsts, dtype = [0, *accumulate(widths)], spec_of(sums.result)[0].name
        place_of = {part.number: i for i, part in enumerate(parts) if isinstance(part, _Sum)}
        local = {place_of[number] for numbers, _ in self.groups for number in numbers}
        # What other kernels make comes last: it may not be there yet.
        order = sorted(range(len(parts)), key=lambda i: (not isinstance(parts[i], _Sum), i))

        def place(rows: View, i: int) -> View:
            return rows.slice(1, firsts[i], widths[i])

        def add_local(rows: View, start: Affine) -> None:
            for numbers, group in self.groups:
                group.add(start, [place(rows, place_of[number]) for number in numbers])

        def tile(start: Affine, size: int) -> None:
            if isinstance(out, SbufTensor):
                rows = out.view({SAMPLES: (start, size)}).flat()
            else:
                rows = k.b.alloc((size, prod(rest)), dtype, "sbuf", 2, "joined").view()
                if size == LANES:
                    add_local(rows, start)
            for i in order:
                if i not in local or size < LANES:
                    self._part(parts[i], place(rows, i), start, size)
            if features is not None:
                features.tile(start, size, rows.split(0, rest), rows.split(0, rest))
            elif isinstance(out, DramTensor):
                transfer(k.b, k.b.store, out.view({SAMPLES: (start, size)}), rows.split(0, rest))

        if isinstance(out, SbufTensor) and self.groups:
            # Ahead of rows that are fetched: gpsimd needs nothing that the DMA does for them.
            with k.b.loop(samples // LANES) as i:
                add_local(out.view({SAMPLES: (i * LANES, LANES)}).flat(), i * LANES)
        k.b.tiles(samples, LANES, tile)

    def _operands(self) -> list[_Part]:
        """What the parts are made of, with indices and small tables on chip."""
        k = self.k
        gathered = [part for part in self.sums.parts if isinstance(part, GatheredSum)]
        tables = [k.dram(part.table) for part in gathered]
        indices = [_indices(k, part) for part in gathered]
        groups = self._local_groups(gathered, tables) if k.takes("local-rows") else []
        local = {share.number for group in groups for share in group}
        self.indices = SampleIndices(k, indices, [table.shape[0] for table in tables], local)
        self.indices.load()
        for group in groups:
            shares = [SharedTable(tables[share.number], indices[share.number], share.cores) for share in group]
            self.groups.append((tuple(share.number for share in group), LocalRows(k, shares)))
        numbers = count()
        return [
            _Sum(number := next(numbers), tables[number]) if isinstance(part, GatheredSum) else _present(k, part)
            for part in self.sums.parts
        ]

    def _local_groups(self, gathered: Sequence[GatheredSum], tables: Sequence[DramTensor]) -> list[Group]:
        """Numbers of the tables that stay on chip, by the instruction that gathers from them."""
        k = self.k
        lookups = [
            Lookup(table.shape[0], part.count, part.width, table.dtype, k.is_parameter(table))
            for part, table in zip(gathered, tables, strict=True)
        ]
        sbuf = int(k.target.sbuf_bytes_per_partition)
        room = min(int(sbuf * TABLE_SHARE), int(sbuf * USABLE_SHARE) - k.resident_bytes)
        return local_groups(lookups, self.sums.samples, room, k.target)

    def _part(self, part: _Part, place: View, start: Affine, size: int) -> None:
        """Fill the place of a part, [samples, width]."""
        if isinstance(part, DramTensor):
            self.k.b.load(place, part.view({SAMPLES: (start, size)}))
        elif isinstance(part, SbufTensor):
            features = part.whole.slice(2, start, size).flat()
            turn_rows(self.k, place.insert(0), features)
        else:
            self._fetch(part, place, self.indices.columns(part.number, start, size))

    def _fetch(self, part: _Sum, place: View, column: View) -> None:
        """Fetch the rows of some samples, and add them up."""
        b, (size, count), width = self.k.b, column.shape, part.table.shape[1]
        roles, fields = indirect(part.table, 0, {})
        if count == 1 and place.dtype == part.table.dtype:
            b.emit("gather", {"dst": place, **roles, "indices": column}, fields)
            return
        rows = self._buffer(part.table.dtype, count, width).slice(0, 0, size)
        with b.loop(count) as position:
            at = {**roles, "indices": column.slice(1, position, 1)}
            b.emit("gather", {"dst": rows.at(1, position), **at}, fields)
        b.reduce(place, rows.permute((1, 0)), "add")

    def _buffer(self, dtype: str, count: int, width: int) -> View:
        """The buffer whose turn it is."""
        buffers = self.fetched.setdefault((dtype, count, width), [])
        if len(buffers) < ROW_BUFFERS:
            buffers.append(self.k.b.alloc_outer((LANES, count, width), dtype, "sbuf", "rows").view())
            return buffers[-1]
        buffers.append(buffers.pop(0))
        return buffers[-1]


def _indices(k: Kernel, part: GatheredSum) -> DramTensor:
    """The indices of a part, as [samples, count]."""
    shape = (part.samples, part.count)
    indices = k.dram(part.indices).reshape(shape) or flat_indices(k, part.indices).reshape(shape)
    assert indices is not None, "a dense tensor has any shape"
    return indices


def _width(part: _Part) -> int:
    """Elements of a part for each sample."""
    if isinstance(part, SbufTensor):
        return part.shape[part.partition]
    return part.table.shape[1] if isinstance(part, _Sum) else part.shape[1]


def _present(k: Kernel, value: SSAValue) -> DramTensor | SbufTensor:
    """A part that is there already, as [samples, elements] in DRAM, or with all elements of a sample on partitions."""
    tensor, (samples, *rest) = k.tensor(value), shape_of(value)
    if isinstance(tensor, SbufTensor) and tensor.shape[tensor.partition] == prod(rest) <= LANES and not tensor.halo:
        if tensor.partition == len(tensor.shape) - 1:
            return tensor
    tensor = k.dram(value)
    flat = tensor.reshape((samples, prod(rest)))
    if flat is None:
        dense = k.scratch(value)
        copy_window(k, tensor, dense)
        flat = dense.reshape((samples, prod(rest)))
        assert flat is not None, "a dense tensor has any shape"
    return flat
