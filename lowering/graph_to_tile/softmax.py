"""Kernel of softmax and log-softmax along one axis.

Rows that fit SBUF are loaded whole, several per partition. The maximum is subtracted inside the exponential, whose row
sum comes with it; short rows take whole-tile ops instead, because an instruction per row would cost more. Longer rows
take two passes over chunks: the first keeps a running maximum and a running sum scaled to it, the second computes the
result.
"""

from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.iteration import Access, Piece
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pointwise import require_supported
from lowering.graph_to_tile.row_space import (
    RowSpace,
    agreed_lane,
    dram_rows,
    each_row,
    reduce_rows,
    repeated_rows,
    resident_rows,
)
from lowering.graph_to_tile.tensors import DramTensor, SbufTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import SoftmaxOp, shape_of

LOWEST = -3.4028234663852886e38
"""The lowest finite f32."""

ROW_INSTRUCTION_ELEMENTS = 64
"""Row length from which one instruction per row is better than passes over whole tiles (the least issue interval)."""


def lower_softmax(k: Kernel, op: SoftmaxOp) -> None:
    """Lower `graph.softmax`."""
    require_supported(op)
    axis, log = op.axis.value.data, bool(op.log)
    rows = same_shape_rows(k, op, axis)
    if rows is None:
        return
    emitter = Emitter(k.b, k.target)
    chunks = rows.chunks(k.row_budget_elements)
    if chunks is None:
        long_softmax(emitter, rows, k.row_budget_elements, log)
        return
    x, out = rows.accesses

    def body(piece: Piece, views: dict[str, View]) -> None:
        view, commit = out.store(k.b, rows.space, piece, k.b.rotation)
        softmax_rows(emitter, rows, piece, rows.arranged(view), views["x"], log)
        commit()

    rows.each_piece(k.b, chunks, {"x": x}, body)


def same_shape_rows(k: Kernel, op: SoftmaxOp, axis: int) -> RowSpace | None:
    """The rows along one axis of an operand x and of a result of its shape; None where there are no elements."""
    shape = shape_of(op.x)
    if 0 in shape:
        k.output(op.result)
        return None
    lane = agreed_lane(k, op.x, op.result, (axis,), range(len(shape)))
    out = k.output(op.result)
    if lane is not None:
        accesses = [whole_access(tensor, shape) for tensor in (k.tensor(op.x), out)]
        return resident_rows(shape, (axis,), lane, accesses)
    x = k.dram(op.x)
    assert isinstance(out, DramTensor)
    return dram_rows(k, shape, (axis,), [(x, x.strides), (out, out.strides)])


def whole_access(tensor: DramTensor | SbufTensor, shape: tuple[int, ...]) -> Access:
    """A tensor of the space's own shape."""
    if isinstance(tensor, SbufTensor):
        return Access.aligned(tensor, shape)
    return Access.dram(tensor, shape, tensor.strides)


def softmax_rows(e: Emitter, rows: RowSpace, piece: Piece, dst: View, x: View, log: bool) -> None:
    """dst = softmax of the rows of x, both [lanes, kept, reduced]."""
    kept = len(rows.kept)
    negated, sums = rows.stats(e.b, piece), rows.stats(e.b, piece)
    reduce_rows(e.b, negated, x, "maximum", negate=True)
    powers = exponentials(e, rows, x, negated, sums)
    if log:
        e.function(sums, sums, "log")
    else:
        e.reciprocal(sums, sums)
    if rows.row_length >= ROW_INSTRUCTION_ELEMENTS:

        def row(views: list[View] | tuple[View, ...]) -> None:
            target, source, power, top, total = views
            if log:
                e.scalar(target, source, "add", top, "subtract", total)
            else:
                e.scalar(target, power, "multiply", total)

        each_row(e.b, kept, [dst, x, powers, negated, sums], lambda views: row(list(views)))
    elif log:
        e.alu(powers, x, repeated_rows(negated, x), "add")
        e.alu(dst, powers, repeated_rows(sums, x), "subtract")
    else:
        e.alu(dst, powers, repeated_rows(sums, x), "multiply")


def exponentials(e: Emitter, rows: RowSpace, x: View, negated: View, sums: View) -> View:
    """exp(x + negated) for rows of x, [lanes, kept, reduced]; `sums` receives the sum of each row."""
    powers = e.temp(x, rotating=True)
    if rows.row_length >= ROW_INSTRUCTION_ELEMENTS:
        each_row(
            e.b,
            len(rows.kept),
            [powers, x, negated, sums],
            lambda v: e.b.activation(v[0], v[1], "exp", bias=v[2].column, row_sum=v[3].column),
        )
    else:
        e.alu(powers, x, repeated_rows(negated, x), "add")
        e.function(powers, powers, "exp")
        reduce_rows(e.b, sums, powers, "add")
    return powers


def long_softmax(e: Emitter, rows: RowSpace, limit: int, log: bool) -> None:
    """Softmax of rows that do not fit SBUF."""
    x, out = rows.accesses

    def row(piece: Piece) -> None:
        negated, total = running_exponentials(e, rows, x, piece, limit)
        if log:
            e.function(total, total, "log")
        else:
            e.reciprocal(total, total)

        def chunk(part: Piece) -> None:
            source = rows.load(e.b, x, part)
            view, commit = out.store(e.b, rows.space, part, e.b.rotation)
            target = rows.arranged(view)
            if log:
                e.scalar(target, source, "add", negated, "subtract", total)
            else:
                powers = e.temp(source, rotating=True)
                e.function(powers, source, "exp", bias=negated)
                e.scalar(target, powers, "multiply", total)
            commit()

        rows.each_chunk(e.b, piece, limit, chunk)

    rows.each_long_row(e.b, row)


def running_exponentials(e: Emitter, rows: RowSpace, x: Access, piece: Piece, limit: int) -> tuple[View, View]:
    """([P, 1] negated maximum, [P, 1] sum of exp(x - maximum)) of one long row per lane, in one pass over its chunks.

    The sum is kept relative to the maximum so far and scaled down when that grows. The maximum starts at the lowest
    finite number, so that a chunk of -inf alone leaves no NaN.
    """
    b, lanes = e.b, piece[rows.space.partition][1]

    def column() -> View:
        return b.alloc((lanes, 1), "f32", "sbuf", b.rotation).view()

    negated, total = column(), column()
    b.memset(negated, -LOWEST)
    b.memset(total, 0.0)

    def chunk(part: Piece) -> None:
        source = rows.load(b, x, part)
        before, change, fresh, powers = column(), column(), column(), e.temp(source, rotating=True)
        e.assign(before, negated)
        reduce_rows(b, change.at(1, 0), one_row(source), "maximum", negate=True)
        e.tensors(negated, before, change, "minimum")
        # exp(old maximum - new maximum) = exp(new negated - old negated).
        e.tensors(change, negated, before, "subtract")
        e.function(change, change, "exp")
        e.b.activation(powers, source, "exp", bias=negated, row_sum=fresh)
        e.scalar_tensor(total, total, "multiply", change, "add", fresh)

    rows.each_chunk(b, piece, limit, chunk)
    return negated, total


def one_row(view: View) -> View:
    """[lanes, kept of size 1, reduced] without the kept dimensions: the row of each lane."""
    while len(view.dims) > 1 and view.dims[0][1] == 1:
        view = view.at(1, 0)
    return view
