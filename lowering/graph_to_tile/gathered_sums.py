"""Kernel of gathered sums: rows of tables, fetched for 128 samples at a time, added up and joined on chip.

    out[s, part] = sum over c of  table[indices[s, c], :]          for each part of the result

Samples lie on partitions. For each of the `count` indices of a sample one indirect DMA fetches a row for every lane;
the vector engine adds them up where they lie, into the place of the sum in the result. All parts of 128 samples are
made before those of the next ones, so that what reads the result starts while further rows are fetched.

An indirect DMA takes as long for a row of two bytes as for one of two hundred, and all tables share the DMA. So the
rows of the smallest tables are not fetched, but counted (`counted_rows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count
from math import prod

from xdsl.ir import SSAValue

from lowering.graph_to_tile.counted_rows import Lookup, RowCounts, counted_tables
from lowering.graph_to_tile.gather import flat_indices, indirect
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.relayout import copy_window
from lowering.graph_to_tile.sample_indices import SampleIndices
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import shape_of
from passes.graph.gathered_sums import GatheredSum, JoinedSums

SAMPLES = 0
"""Dimension of the result that lies on partitions."""

ROW_BUFFERS = 6
"""Sums whose rows are fetched ahead of their addition. More would hold up other transfers: the DMA serves them in the
order in which they were asked for."""


@dataclass(frozen=True)
class _Sum:
    """A part that is gathered: table `number` of those of the kernel; `rows`: the table on chip where its rows are
    counted, [128, row tiles, width].
    """

    number: int
    table: DramTensor
    rows: View | None


def lower(k: Kernel, sums: JoinedSums) -> None:
    """Lower a group of gathered sums."""
    _Kernel(k, sums).run()


@dataclass
class _Kernel:
    """The loop over tiles of samples. `fetched`: buffers of rows that are used in turn, by type and shape."""

    k: Kernel
    sums: JoinedSums
    fetched: dict[tuple[str, int, int], list[View]] = field(default_factory=dict)
    indices: SampleIndices = field(init=False)
    counts: RowCounts | None = None

    def run(self) -> None:
        """Emit everything."""
        k, sums = self.k, self.sums
        samples, *rest = shape_of(sums.result)
        out = k.output(sums.result)
        parts = self._operands()
        widths = [part.table.shape[1] if isinstance(part, _Sum) else part.shape[1] for part in parts]
        firsts = [0, *accumulate(widths)]
        order = _interleaved([isinstance(part, _Sum) and part.rows is not None for part in parts])

        def tile(start: Affine, size: int) -> None:
            if isinstance(out, SbufTensor):
                rows = out.view({SAMPLES: (start, size)}).flat()
            else:
                rows = k.b.alloc((size, prod(rest)), out.dtype, "sbuf", 2, "joined").view()
            if self.counts is not None:
                self.counts.begin()
            for number in order:
                self._part(parts[number], rows.slice(1, firsts[number], widths[number]), start, size)
            if self.counts is not None:
                self.counts.finish()
            if isinstance(out, DramTensor):
                transfer(k.b, k.b.store, out.view({SAMPLES: (start, size)}), rows.split(0, rest))

        k.b.tiles(samples, LANES, tile)

    def _operands(self) -> list[_Sum | DramTensor]:
        """What the parts are made of, with indices and small tables on chip."""
        k = self.k
        gathered = [part for part in self.sums.parts if isinstance(part, GatheredSum)]
        tables = [k.dram(part.table) for part in gathered]
        lookups = [Lookup(table.shape[0], part.count, part.width) for part, table in zip(gathered, tables, strict=True)]
        counted = counted_tables(lookups, k.target) if k.takes("counted-rows") else set[int]()
        self.indices = SampleIndices(k, [_indices(k, part) for part in gathered], [x.rows for x in lookups], counted)
        self.indices.load()
        if counted:
            self.counts = RowCounts(k, tables[0].dtype, max(lookups[number].rows for number in counted))
        operands: list[_Sum | DramTensor] = []
        numbers = count()
        for part in self.sums.parts:
            if isinstance(part, GatheredSum):
                number = next(numbers)
                rows = self.counts.table(tables[number]) if self.counts and number in counted else None
                operands.append(_Sum(number, tables[number], rows))
            else:
                operands.append(_flat(k, part))
        return operands

    def _part(self, part: _Sum | DramTensor, place: View, start: Affine, size: int) -> None:
        """Fill the place of a part, [samples, width]."""
        if isinstance(part, DramTensor):
            self.k.b.load(place, part.view({SAMPLES: (start, size)}))
            return
        column = self.indices.columns(part.number, start, size)
        if part.rows is not None and self.counts is not None:
            self.counts.add(part.rows, part.table.shape[0], column, place)
        else:
            self._fetch(part, place, column)

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


def _interleaved(kinds: Sequence[bool]) -> list[int]:
    """Numbers of all elements in an order in which those of both kinds are spread evenly."""
    of_kind = [[number for number, kind in enumerate(kinds) if kind is wanted] for wanted in (False, True)]
    places = [((position + 0.5) / len(numbers), n) for numbers in of_kind for position, n in enumerate(numbers)]
    return [number for _, number in sorted(places)]


def _indices(k: Kernel, part: GatheredSum) -> DramTensor:
    """The indices of a part, as [samples, count]."""
    shape = (part.samples, part.count)
    indices = k.dram(part.indices).reshape(shape) or flat_indices(k, part.indices).reshape(shape)
    assert indices is not None, "a dense tensor has any shape"
    return indices


def _flat(k: Kernel, value: SSAValue) -> DramTensor:
    """A part that is there already, as [samples, elements]."""
    tensor, (samples, *rest) = k.dram(value), shape_of(value)
    flat = tensor.reshape((samples, prod(rest)))
    if flat is None:
        dense = k.scratch(value)
        copy_window(k, tensor, dense)
        flat = dense.reshape((samples, prod(rest)))
        assert flat is not None, "a dense tensor has any shape"
    return flat
