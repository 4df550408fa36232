"""Kernel template of graph.gather: rows of a table in DRAM, picked by run-time indices, through the indirect DMA.

    result[o..., i..., n...] = data[o..., indices[i...], n...]

Each of up to 128 indices lies on one partition and fetches one row there; a row is everything that the data holds at
one position of the gathered axis, whatever lies before or behind it, so any axis is gathered alike. Rows that do not
fit into a tile are fetched in chunks, by windows on the table that advance with the loops. Negative indices count
from the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.copy_plan import fit
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.movement import settle
from lowering.graph_to_tile.relayout import copy_window
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import GatherOp, shape_of
from neuron_dialects.graph.support import EXACT_INTEGERS
from neuron_dialects.isa.limits import MAX_ON_CHIP_DIMS
from neuron_dialects.neuron import location_name

Ranges = dict[int, tuple[Affine, int]]

RUN_BYTES = 4096
"""Most bytes of rows that a lane fetches before they are stored together."""

MOST_COLUMNS = 256
"""Columns of 128 indices that are loaded together."""


def lower_gather(k: Kernel, op: GatherOp) -> None:
    """One index known at compile time is a window; everything else goes through the indirect DMA."""
    axis = int(op.axis.value.data)
    data = k.dram(op.data)
    known = k.scalar(op.indices)
    if known is not None:
        settle(k, op.result, known_row(data, axis, int(known), shape_of(op.indices)))
        return
    rows = data.shape[axis]
    if rows > EXACT_INTEGERS:
        raise NeuronError(
            "NX-OP-002",
            f"gather from {rows} rows exceeds the {EXACT_INTEGERS} that index arithmetic counts exactly",
            node=location_name(op.location),
            help="run it on the host, or gather from parts of the table",
        )
    matrix = axis == 0 and len(data.shape) == 2 and len(shape_of(op.indices)) == 1
    if matrix and k.residents.get(op.result) == (0, ()):
        gather_resident(k, data, op)
        return
    shape = shape_of(op.indices)
    flat = (*data.shape[:axis], prod(shape), *data.shape[axis + 1 :])
    destination = k.destinations.get(op.result)
    window = None if destination is None else destination.reshape(flat)
    place = window or DramTensor.dense(k.b.alloc_outer(flat, data.dtype, "dram"))
    if prod(flat):
        gather_rows(k, data, axis, flat_indices(k, op.indices), place)
    if window is not None:
        k.output(op.result)
    else:
        shaped = place.reshape((*data.shape[:axis], *shape, *data.shape[axis + 1 :]))
        assert shaped is not None, "a dense tensor has any shape"
        settle(k, op.result, shaped)


def known_row(data: DramTensor, axis: int, index: int, index_shape: Sequence[int]) -> DramTensor:
    """The window at one position of `axis`, repeated over the dimensions of the indices."""
    index = index + data.shape[axis] if index < 0 else index
    row = data.slice(
        [index if d == axis else 0 for d in range(len(data.shape))],
        [1 if d == axis else size for d, size in enumerate(data.shape)],
        [1] * len(data.shape),
    )
    shape = (*data.shape[:axis], *index_shape, *data.shape[axis + 1 :])
    strides = (*row.strides[:axis], *(0 for _ in index_shape), *row.strides[axis + 1 :])
    return replace(row, shape=shape, strides=strides)


def flat_indices(k: Kernel, value: SSAValue) -> DramTensor:
    """All indices as one dimension."""
    indices = k.dram(value)
    count = prod(indices.shape)
    flat = indices.reshape((count,))
    if flat is None:
        dense = k.scratch(value)
        copy_window(k, indices, dense)
        flat = dense.reshape((count,))
        assert flat is not None, "a dense tensor has any shape"
    return flat


@dataclass(frozen=True)
class RowChunks:
    """Which dimensions of a row are cut, into how many positions; the others are fetched whole."""

    dims: tuple[int, ...]
    sizes: dict[int, int]


def row_chunks(shape: Sequence[int], axis: int, limit_elements: int) -> RowChunks:
    """Cut a row (all dimensions but `axis`) into pieces of at most `limit_elements` and a rank that the DMA takes."""
    sizes: dict[int, int] = {}
    budget, rank = limit_elements, 0
    for d in reversed([d for d in range(len(shape)) if d != axis]):
        size = fit(shape[d], budget) if rank < MAX_ON_CHIP_DIMS else 1
        rank += size > 1
        sizes[d] = size
        budget = max(1, budget // size)
    return RowChunks(tuple(d for d in sorted(sizes) if sizes[d] != shape[d]), sizes)


def gather_rows(k: Kernel, data: DramTensor, axis: int, indices: DramTensor, output: DramTensor) -> None:
    """output[o..., i, n...] = data[o..., indices[i], n...]; indices of one dimension, any integer type."""

    def piece(column: View, tile: View, ranges: Ranges) -> None:
        roles, fields = indirect(data, axis, ranges)
        k.b.emit("gather", {"dst": tile, **roles, "indices": column}, fields)
        k.b.store(output.view(ranges, row_order(data, axis)), tile)

    done = _gather_runs(k, data, indices, output) if axis == 0 and len(data.shape) == 2 else 0
    if done < indices.shape[0]:
        rest = indices.slice([done], [indices.shape[0] - done], [1])
        starts, sizes = [0] * len(output.shape), list(output.shape)
        starts[axis], sizes[axis] = done, rest.shape[0]
        output = output.slice(starts, sizes, [1] * len(sizes))
        indexed_pieces(k, data, axis, rest, piece)


def _gather_runs(k: Kernel, data: DramTensor, indices: DramTensor, output: DramTensor) -> int:
    """Rows of a matrix for as many indices as fill all lanes; returns their number.

    Lane p takes a run of indices, which come in one transfer; its rows leave in one: alone, each would take longer to
    start than to move.
    """
    columns, row_bytes = data.shape[1], data.shape[1] * dtype_by_name(data.dtype).size_bytes
    run = min(indices.shape[0] // LANES, RUN_BYTES // row_bytes)
    if run < 2:
        return 0
    blocks = indices.shape[0] // (LANES * run)
    with k.b.loop(blocks) as i:
        first = i * (LANES * run)
        column = wrapped_indices(k, _in_runs(indices, first, run), data.shape[0])
        rows = k.b.alloc((LANES, run, columns), data.dtype, "sbuf", 3, "rows").view()
        roles, fields = indirect(data, 0, {})
        with k.b.loop(run) as position:
            at = {**roles, "indices": column.slice(1, position, 1)}
            k.b.emit("gather", {"dst": rows.at(1, position), **at}, fields)
        k.b.store(_in_runs(output, first, run), rows)
    return blocks * LANES * run


def _in_runs(tensor: DramTensor, first: Affine, run: int) -> View:
    """[lane, position in its run, ...] of 128 runs of the first dimension."""
    stride, rest = tensor.strides[0], zip(tensor.strides[1:], tensor.shape[1:], strict=True)
    dims = ((stride * run, LANES), (stride, run), *rest)
    return View(tensor.buffer, Affine(), 0, first * stride + tensor.offset, dims)


def gather_resident(k: Kernel, data: DramTensor, op: GatherOp) -> None:
    """Rows that stay on chip are fetched to where they stay."""
    indices = flat_indices(k, op.indices)
    output = k.output(op.result)
    assert isinstance(output, SbufTensor)

    def piece(column: View, ranges: Ranges) -> None:
        roles, fields = indirect(data, 0, ranges)
        k.b.emit("gather", {"dst": output.view(ranges), **roles, "indices": column}, fields)

    column = index_columns(k, indices, data.shape[0])

    def one_tile(start: Affine, size: int) -> None:
        piece(column(start, size), {0: (start, size)})

    k.b.tiles(indices.shape[0], LANES, one_tile)


def row_order(table: DramTensor, axis: int) -> list[int]:
    """Dimensions of rows that lie on partitions."""
    return [axis, *(d for d in range(len(table.shape)) if d != axis)]


def indirect(table: DramTensor, axis: int, ranges: Ranges) -> tuple[dict[str, View], dict[str, int]]:
    """Operand and fields of an indirect DMA on the part of the rows that `ranges` tells."""
    within = {d: position for d, position in ranges.items() if d != axis}
    window = table.view({**within, axis: (0, 1)}, row_order(table, axis)[1:])
    return {"table": window}, {"rows": table.shape[axis], "row_stride": table.strides[axis]}


def indexed_pieces(
    k: Kernel, table: DramTensor, axis: int, indices: DramTensor, piece: Callable[[View, View, Ranges], None]
) -> None:
    """`piece(column, tile, ranges)` for up to 128 indices at a time, on the column, and for each chunk of their rows.

    The tile is a fresh one for the chunk; `ranges` has the range of indices as that of the axis.
    """
    b = k.b
    elements = k.row_budget_elements * 4 // dtype_by_name(table.dtype).size_bytes
    chunks = row_chunks(table.shape, axis, elements)

    def nest(dims: Sequence[int], column: View, ranges: Ranges) -> None:
        if not dims:
            sizes = [ranges[d][1] if d in ranges else table.shape[d] for d in row_order(table, axis)[1:]]
            tile = b.alloc((column.partitions, *(sizes or [1])), table.dtype, "sbuf", 2, "rows").view()
            piece(column, tile, ranges)
            return
        d, *others = dims
        b.tiles(table.shape[d], chunks.sizes[d], lambda start, size: nest(others, column, {**ranges, d: (start, size)}))

    column = index_columns(k, indices, table.shape[axis])

    def one_tile(start: Affine, size: int) -> None:
        nest(chunks.dims, column(start, size), {axis: (start, size)})

    b.tiles(indices.shape[0], LANES, one_tile)


def index_columns(k: Kernel, indices: DramTensor, rows: int) -> Callable[[Affine, int], View]:
    """What gives the column of up to 128 indices from a start on, an i32 on each partition, negative ones from the end.

    All whole columns are loaded in one transfer: each alone would hold its rows up for the time that a transfer takes.
    """
    full = indices.shape[0] // LANES
    if not 1 < full <= MOST_COLUMNS:
        return lambda start, size: load_indices(k, indices, start, size, rows)
    window = indices.view({0: (0, full * LANES)})
    ((stride, _),) = window.dims
    dims = ((stride, LANES), (stride * LANES, full))
    columns = wrapped_indices(k, View(window.buffer, Affine(), 0, window.offset, dims), rows)

    def column(start: Affine, size: int) -> View:
        if size < LANES:
            return load_indices(k, indices, start, size, rows)
        return columns.slice(1, start.divided(LANES), 1)

    return column


def load_indices(k: Kernel, indices: DramTensor, start: Affine, size: int, rows: int) -> View:
    """`size` indices from `start` as an i32 column, one per partition, negative ones counted from the end."""
    window = indices.view({0: (start, size)})
    return wrapped_indices(k, View(window.buffer, Affine(), 0, window.offset, (*window.dims, (0, 1))), rows)


def wrapped_indices(k: Kernel, source: View, rows: int) -> View:
    """The indices of a DRAM view [lanes, n] as i32 on chip, negative ones counted from the end of `rows`."""
    raw = k.b.alloc(source.shape, "i32", "sbuf", 2, "indices").view()
    k.b.load(raw, source)
    return counted_from_start(k, raw, rows)


def counted_from_start(k: Kernel, raw: View, rows: int) -> View:
    """Indices on chip, i32, of which negative ones count from the end of `rows`, all counted from the start."""
    (column,) = all_counted_from_start(k, [(raw, rows)])
    return column


def all_counted_from_start(k: Kernel, indices: Sequence[tuple[View, int]]) -> list[View]:
    """The same for the indices of several tables: no instruction waits for the one before it."""
    b = k.b
    # In f32, which is exact here, the vector engine adds; gpsimd's queue may wait for what it has to store.
    wrapped = [b.alloc(raw.shape, "f32", "sbuf", 2, "wrapped").view() for raw, _ in indices]
    columns = [b.alloc(raw.shape, "i32", "sbuf", 2, "column").view() for raw, _ in indices]
    for (raw, rows), back in zip(indices, wrapped, strict=True):
        b.tensor_scalar(back, raw, "less", 0.0, "multiply", float(rows))
    for (raw, _), back, column in zip(indices, wrapped, columns, strict=True):
        b.tensor_tensor(column, raw, back, "add")
    return columns


KERNELS: dict[type[Operation], Callable[[Kernel, Any], None]] = {GatherOp: lower_gather}
