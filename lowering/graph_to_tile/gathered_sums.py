"""Kernel of gathered sums: rows of tables, fetched for 128 samples at a time, added up and joined on chip.

    out[s, part] = sum over c of  table[indices[s, c], :]          for each part of the result

Samples lie on partitions. For each of the `count` indices of a sample one indirect DMA fetches a row for every lane;
the vector engine adds them up where they lie, into the place of the sum in the result. All parts of 128 samples are
made before those of the next ones, so that what reads the result starts while further rows are fetched.
"""

from dataclasses import dataclass
from math import prod

from xdsl.ir import SSAValue

from lowering.graph_to_tile.gather import flat_indices, indirect, wrapped_indices
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.relayout import copy_window
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import shape_of
from passes.graph.gathered_sums import GatheredSum, JoinedSums

SAMPLES = 0
"""Dimension of the result that lies on partitions."""


@dataclass(frozen=True)
class _Sum:
    """A part that is gathered. `indices`: [samples, count] in DRAM; `columns`: of all whole tiles of 128 samples, on
    chip, [128, tiles, count].
    """

    table: DramTensor
    indices: DramTensor
    columns: View | None

    def column(self, k: Kernel, start: Affine, size: int) -> View:
        """The indices of some samples on chip, [samples, count]."""
        if self.columns is not None and size == LANES:
            return self.columns.at(1, start.divided(LANES))
        return wrapped_indices(k, self.indices.view({SAMPLES: (start, size)}), self.table.shape[0])


def lower(k: Kernel, sums: JoinedSums) -> None:
    """Lower a group of gathered sums."""
    samples, *rest = shape_of(sums.result)
    out = k.output(sums.result)
    parts = [_gathered(k, part) if isinstance(part, GatheredSum) else _flat(k, part) for part in sums.parts]
    widths = [part.table.shape[1] if isinstance(part, _Sum) else part.shape[1] for part in parts]

    def tile(start: Affine, size: int) -> None:
        if isinstance(out, SbufTensor):
            rows = out.view({SAMPLES: (start, size)}).flat()
        else:
            rows = k.b.alloc((size, prod(rest)), out.dtype, "sbuf", 2, "joined").view()
        first = 0
        for part, width in zip(parts, widths, strict=True):
            place = rows.slice(1, first, width)
            first += width
            if isinstance(part, _Sum):
                _sum_rows(k, part, place, start, size)
            else:
                k.b.load(place, part.view({SAMPLES: (start, size)}))
        if isinstance(out, DramTensor):
            window = out.view({SAMPLES: (start, size)})
            transfer(k.b, k.b.store, window, rows.split(0, rest))

    k.b.tiles(samples, LANES, tile)


def _gathered(k: Kernel, part: GatheredSum) -> _Sum:
    """The operands of a sum; the indices of all whole tiles come on chip together."""
    indices = k.dram(part.indices).reshape((part.samples, part.count))
    if indices is None:
        indices = flat_indices(k, part.indices).reshape((part.samples, part.count))
    assert indices is not None, "a dense tensor has any shape"
    table, tiles, columns = k.dram(part.table), part.samples // LANES, None
    if tiles:
        (stride, _), count = indices.view().dims
        dims = ((stride, LANES), (stride * LANES, tiles), count)
        columns = wrapped_indices(k, View(indices.buffer, Affine(), 0, Affine(indices.offset), dims), table.shape[0])
    return _Sum(table, indices, columns)


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


def _sum_rows(k: Kernel, part: _Sum, place: View, start: Affine, size: int) -> None:
    """Fetch the rows of some samples, and add them up in their place [samples, width]."""
    b, column, width = k.b, part.column(k, start, size), part.table.shape[1]
    roles, fields = indirect(part.table, 0, {})
    count = column.shape[1]
    if count == 1 and place.dtype == part.table.dtype:
        b.emit("gather", {"dst": place, **roles, "indices": column}, fields)
        return
    rows = b.alloc((size, count, width), part.table.dtype, "sbuf", 2, "rows").view()
    with b.loop(count) as position:
        at = {**roles, "indices": column.slice(1, position, 1)}
        b.emit("gather", {"dst": rows.at(1, position), **at}, fields)
    b.reduce(place, rows.permute((1, 0)), "add")
