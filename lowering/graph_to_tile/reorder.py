"""Rows in another order: within each lane where features lie on partitions, else as transfers between DRAM tensors."""

from dataclasses import replace
from itertools import product
from math import ceil

from lowering.graph_to_tile.emitter import within_rank
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.relayout import copy_window
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import ReorderRowsOp
from neuron_dialects.graph.reorder import RowPiece

FEATURES = 1
"""Dimension of the matrix that lies on partitions where rows are moved on chip."""

SIDE_BY_SIDE = 2
"""Copies of the same piece in one iteration."""

COLUMNS = 1024
"""Elements of a lane that a copy is to have at least, if there are as many alike."""


def lower_reorder_rows(k: Kernel, op: ReorderRowsOp) -> None:
    """Lower `graph.reorder_rows`."""
    x, out = k.tensor(op.x), k.output(op.result)
    if isinstance(out, SbufTensor) and isinstance(x, SbufTensor) and x.partition == out.partition == FEATURES:
        _on_chip(k, x, out, op)
        return
    target = out if isinstance(out, DramTensor) else k.scratch(op.result)
    source, period = k.dram(op.x), op.period.value.data
    for piece in op.row_pieces:
        parts = [_window(tensor, piece, period, side) for side, tensor in enumerate((target, source))]
        copy_window(k, parts[1], parts[0])
    if target is not out:
        k.tensors[op.result] = target
        settle_on_chip(k, target, out)


def settle_on_chip(k: Kernel, source: DramTensor, out: Tensor) -> None:
    """Bring a matrix in DRAM to its place on chip."""
    assert isinstance(out, SbufTensor)

    def tile(start: Affine, size: int) -> None:
        ranges = {out.partition: (start, size)}
        order = [out.partition, 1 - out.partition]
        k.b.load(out.view(ranges), source.view(ranges, order))

    k.b.tiles(out.shape[out.partition], LANES, tile)


def _window(tensor: DramTensor, piece: RowPiece, period: int, side: int) -> DramTensor:
    """The rows of a piece, in all periods, of the result (`side` 0) or the operand: [periods, sizes..., features]."""
    rows, features = tensor.shape
    row, column = tensor.strides
    first = piece.source if side else piece.to
    shape = (rows // period, *(size for size, *_ in piece.dims), features)
    strides = (row * period, *(dim[1 + side] * row for dim in piece.dims), column)
    return replace(tensor, shape=shape, strides=strides, offset=tensor.offset + first * row)


def _on_chip(k: Kernel, x: SbufTensor, out: SbufTensor, op: ReorderRowsOp) -> None:
    """Copies within lanes, of as many periods at a time as make copies long."""
    rows, features = x.shape
    period, pieces = op.period.value.data, op.row_pieces
    periods = rows // period
    wanted = min(periods, ceil(COLUMNS * len(pieces) / period))
    together = next(n for n in range(wanted, periods + 1) if periods % n == 0)
    # Several copies in an iteration, which engines share.
    side_by_side = SIDE_BY_SIDE if periods // together % SIDE_BY_SIDE == 0 else 1

    def tile(start: Affine, lanes: int) -> None:
        views = [tensor.view({FEATURES: (start, lanes)}) for tensor in (out, x)]
        with k.b.loop(periods // together // side_by_side) as i:
            for number, piece in product(range(side_by_side), pieces):
                first = (i * side_by_side + number) * together * period
                dst, src = (_lane_view(view, piece, (first, together, period), side) for side, view in enumerate(views))
                within_rank(k.b, [dst, src], lambda pair: k.b.copy(pair[0], pair[1]))

    k.b.tiles(features, LANES, tile)


def _lane_view(view: View, piece: RowPiece, periods: tuple[Affine, int, int], side: int) -> View:
    """The rows of a piece, of the result or the operand, in some periods: (first row, number, length) of these."""
    first, count, period = periods
    (stride, _), start = view.dims[-1], piece.source if side else piece.to
    dims = ((period * stride, count), *((dim[1 + side] * stride, dim[0]) for dim in piece.dims))
    return replace(view, offset=view.offset + (first + start) * stride, dims=dims)
