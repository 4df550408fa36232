"""Kernel template of graph.scatter: rows of a table in DRAM replaced at run-time indices, through the indirect DMA.

    result = data;  result[o..., indices[i...], n...] = updates[o..., i..., n...]

The data is copied to the result, then each of up to 128 indices lies on one partition and sends one row there; rows are
cut as gathers cut them. Tiles follow one another on the same table, so that of equal indices the later update stays.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from xdsl.ir import Operation

from lowering.graph_to_tile.gather import Ranges, flat_indices, indexed_pieces, indirect, row_order
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.movement import settle
from lowering.graph_to_tile.relayout import copy_window
from lowering.graph_to_tile.tensors import DramTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import ScatterOp, shape_of


def lower_scatter(k: Kernel, op: ScatterOp) -> None:
    """Scatter in the function output itself where the result is one, else in DRAM scratch."""
    axis = int(op.axis.value.data)
    data, destination = k.dram(op.data), k.destinations.get(op.result)
    table = destination or k.scratch(op.result)
    copy_window(k, data, table)
    count = prod(shape_of(op.indices))
    if count and prod(data.shape):
        shape = (*data.shape[:axis], count, *data.shape[axis + 1 :])
        scatter_rows(k, table, axis, flat_indices(k, op.indices), _flat_updates(k, op, shape))
    if destination is not None:
        k.output(op.result)
    else:
        settle(k, op.result, table)


def _flat_updates(k: Kernel, op: ScatterOp, shape: Sequence[int]) -> DramTensor:
    """The updates with all dimensions of the indices as one."""
    updates = k.dram(op.updates)
    flat = updates.reshape(shape)
    if flat is None:
        dense = k.scratch(op.updates)
        copy_window(k, updates, dense)
        flat = dense.reshape(shape)
        assert flat is not None, "a dense tensor has any shape"
    return flat


def scatter_rows(k: Kernel, table: DramTensor, axis: int, indices: DramTensor, updates: DramTensor) -> None:
    """table[o..., indices[i], n...] = updates[o..., i, n...]; indices of one dimension, any integer type."""

    def piece(column: View, tile: View, ranges: Ranges) -> None:
        roles, fields = indirect(table, axis, ranges)
        k.b.load(tile, updates.view(ranges, row_order(table, axis)))
        k.b.emit("scatter", {**roles, "data": tile, "indices": column}, fields)

    indexed_pieces(k, table, axis, indices, piece)


KERNELS: dict[type[Operation], Callable[[Kernel, Any], None]] = {ScatterOp: lower_scatter}
