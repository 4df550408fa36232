"""Kernel of reductions over any axes.

Reduced dimensions run in the rows, kept ones on the partitions and in loops. A kind is a function of every element, a
combining operator and a function of the result (`KINDS`). Rows longer than SBUF are combined chunk by chunk in a
running accumulator. Where hardly anything is kept, most partitions would idle: then a reduced dimension is cut into
runs that are reduced side by side, and a second reduction, over a short scratch tensor, combines them. Integers are
exact (see integer_reduce.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from lowering.graph_to_tile.conv_sums import finish_sums
from lowering.graph_to_tile.emitter import Emitter
from lowering.graph_to_tile.integer_reduce import IntegerReduction
from lowering.graph_to_tile.integers import INTEGER_DTYPES, NARROW_DTYPES
from lowering.graph_to_tile.iteration import Access, Piece, Strides, largest_divisor
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.pointwise import require_supported
from lowering.graph_to_tile.row_space import (
    RowSpace,
    agreed_lane,
    dram_rows,
    reduce_rows,
    resident_rows,
)
from lowering.graph_to_tile.softmax import LOWEST, exponentials, running_exponentials
from lowering.graph_to_tile.tensors import DramTensor, SbufTensor, row_major
from lowering.graph_to_tile.view import View
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import ReduceKind, ReduceOp, ints, shape_of

IDLE_LANES = 16
"""Where kept dimensions fill at most this many lanes, a long reduced dimension is spread over the others."""

SPREAD_ELEMENTS = 4096
"""Reduced elements per result from which spreading pays for its scratch tensor."""


@dataclass(frozen=True)
class Kind:
    """result = last(combine over elements of each(x)): a reduction operator between two functions of the scalar engine.

    `last` may also be "mean", a division by the number of elements.
    """

    combine: str
    each: str | None = None
    last: str | None = None


KINDS: dict[ReduceKind, Kind] = {
    ReduceKind.SUM: Kind("add"),
    ReduceKind.MEAN: Kind("add", last="mean"),
    ReduceKind.MAX: Kind("maximum"),
    ReduceKind.MIN: Kind("minimum"),
    ReduceKind.PROD: Kind("multiply"),
    ReduceKind.L1: Kind("add", each="abs"),
    ReduceKind.L2: Kind("add", each="square", last="sqrt"),
    ReduceKind.SUM_SQUARE: Kind("add", each="square"),
    ReduceKind.LOG_SUM: Kind("add", last="log"),
}
"""The float reductions but log_sum_exp, which subtracts the maximum first."""

IDENTITY = {"add": 0.0, "multiply": 1.0, "maximum": -float("inf"), "minimum": float("inf")}
"""What a running accumulator starts from."""

STAGES: dict[ReduceKind, tuple[ReduceKind, ReduceKind]] = {
    ReduceKind.SUM: (ReduceKind.SUM, ReduceKind.SUM),
    ReduceKind.MEAN: (ReduceKind.MEAN, ReduceKind.MEAN),
    ReduceKind.MAX: (ReduceKind.MAX, ReduceKind.MAX),
    ReduceKind.MIN: (ReduceKind.MIN, ReduceKind.MIN),
    ReduceKind.PROD: (ReduceKind.PROD, ReduceKind.PROD),
    ReduceKind.L1: (ReduceKind.L1, ReduceKind.SUM),
    ReduceKind.L2: (ReduceKind.L2, ReduceKind.L2),
    ReduceKind.SUM_SQUARE: (ReduceKind.SUM_SQUARE, ReduceKind.SUM),
    ReduceKind.LOG_SUM: (ReduceKind.SUM, ReduceKind.LOG_SUM),
    ReduceKind.LOG_SUM_EXP: (ReduceKind.LOG_SUM_EXP, ReduceKind.LOG_SUM_EXP),
}
"""A float reduction in two stages: of equal runs, then of their results. A mean of means is the mean, a norm of norms
the norm."""


def lower_reduce(k: Kernel, op: ReduceOp) -> None:
    """Lower `graph.reduce`."""
    require_supported(op)
    kind, shape, axes = op.kind.data, shape_of(op.x) or (1,), ints(op.axes)
    if prod(shape_of(op.result)) == 0:
        k.output(op.result)
        return
    if prod(shape) == 0:
        _fill_empty(k, op)
        return
    if finish_sums(k, op):
        return
    out_dims = result_dims(len(shape), axes, bool(op.keep_dims))
    lane = agreed_lane(k, op.x, op.result, axes, out_dims)
    out = k.output(op.result)
    if lane is None:
        assert isinstance(out, DramTensor)
        x = k.dram(op.x).broadcast(shape)
        reduce_dram(k, kind, x, axes, out, result_strides(out, out_dims))
        return
    accesses = [
        _resident_access(k.tensor(op.x), shape, tuple(range(len(shape)))),
        _resident_access(out, shape, out_dims),
    ]
    reduce_space(k, kind, resident_rows(shape, axes, lane, accesses))


def result_dims(rank: int, axes: Sequence[int], keep_dims: bool) -> tuple[int | None, ...]:
    """The result's dimension for each dimension of the operand, None for reduced ones."""
    dims: list[int | None] = []
    for d in range(rank):
        gone = 0 if keep_dims else sum(axis < d for axis in axes)
        dims.append(None if d in axes else d - gone)
    return tuple(dims)


def result_strides(out: DramTensor, out_dims: Sequence[int | None]) -> Strides:
    """Strides of the result over the operand's dimensions; it stands still on reduced ones."""
    return tuple(0 if o is None else out.strides[o] for o in out_dims)


def _resident_access(tensor: DramTensor | SbufTensor, shape: Sequence[int], dims: tuple[int | None, ...]) -> Access:
    if isinstance(tensor, SbufTensor):
        return Access(tensor, dims)
    return Access.dram(tensor, shape, result_strides(tensor, dims))


def _fill_empty(k: Kernel, op: ReduceOp) -> None:
    """The reduction of no elements: the combining operator's identity, taken through the kind's last function."""
    kind = op.kind.data
    value = {ReduceKind.PROD: 1.0, ReduceKind.LOG_SUM: -float("inf"), ReduceKind.LOG_SUM_EXP: -float("inf")}.get(
        kind, 0.0
    )
    k.residents.pop(op.result, None)
    out = k.output(op.result)
    assert isinstance(out, DramTensor)
    rows = dram_rows(k, out.shape or (1,), (), [(out, out.strides or (0,))])
    chunks = rows.chunks(k.row_budget_elements)
    assert chunks is not None

    def body(piece: Piece, views: dict[str, View]) -> None:
        view, commit = rows.accesses[0].store(k.b, rows.space, piece, k.b.rotation)
        k.b.memset(view, value)
        commit()

    rows.each_piece(k.b, chunks, {}, body)


def reduce_dram(
    k: Kernel, kind: ReduceKind, x: DramTensor, axes: Sequence[int], out: DramTensor, out_strides: Strides
) -> None:
    """Reduce a DRAM tensor into `out`, which is walked with `out_strides` over x's dimensions."""
    kept = prod(size for d, size in enumerate(x.shape) if d not in axes)
    count = prod(x.shape[d] for d in axes)
    is_float = dtype_by_name(x.dtype).is_float
    axis = max(axes, key=lambda d: largest_divisor(x.shape[d]), default=0)
    parts = largest_divisor(x.shape[axis]) if axes else 1
    spread = (
        is_float and kept <= IDLE_LANES and parts > kept and (count >= SPREAD_ELEMENTS or count > k.row_budget_elements)
    )
    if not spread:
        reduce_space(k, kind, dram_rows(k, x.shape, axes, [(x, x.strides), (out, out_strides)]))
        return
    first, second = STAGES[kind]
    run = x.shape[axis] // parts
    shape = (parts, *(run if d == axis else size for d, size in enumerate(x.shape)))
    strides = (x.strides[axis] * run, *x.strides)
    runs = DramTensor(x.buffer, shape, strides, x.offset)
    kept_shape = tuple(1 if d - 1 in axes else size for d, size in enumerate(shape))
    scratch = DramTensor.dense(k.b.alloc_outer(kept_shape, "f32", "dram"), kept_shape)
    still = tuple(0 if d - 1 in axes else stride for d, stride in enumerate(row_major(kept_shape)))
    inner = [d + 1 for d in axes]
    reduce_space(k, first, dram_rows(k, shape, inner, [(runs, strides), (scratch, still)]))
    reduce_space(k, second, dram_rows(k, kept_shape, (0,), [(scratch, scratch.strides), (out, (0, *out_strides))]))


def reduce_space(k: Kernel, kind: ReduceKind, rows: RowSpace) -> None:
    """Reduce the rows of the first tensor of `rows` into the second."""
    dtype = rows.accesses[0].tensor.dtype
    exact_in_floats = dtype in NARROW_DTYPES and kind in (ReduceKind.MAX, ReduceKind.MIN)
    if dtype in INTEGER_DTYPES and not exact_in_floats:
        IntegerReduction(k.b, k.target, rows, kind).emit()
    else:
        _FloatReduction(k, rows, kind).emit()


class _FloatReduction:
    """Emits one reduction in f32. Accesses of `rows`: the operand, then the result."""

    def __init__(self, k: Kernel, rows: RowSpace, kind: ReduceKind):
        self.b = k.b
        self.e = Emitter(k.b, k.target)
        self.rows = rows
        self.kind = kind
        self.limit = k.row_budget_elements
        self.x, self.out = rows.accesses

    def emit(self) -> None:
        """All loops."""
        chunks = self.rows.chunks(self.limit)
        if chunks is None:
            self.rows.each_long_row(self.b, self._long_row)
        else:
            self.rows.each_piece(self.b, chunks, {"x": self.x}, self._whole_rows)

    def _whole_rows(self, piece: Piece, views: dict[str, View]) -> None:
        view, commit = self.out.store(self.b, self.rows.space, piece, self.b.rotation)
        dst = self.rows.per_row(view)
        if self.kind is ReduceKind.LOG_SUM_EXP:
            self._log_sum_exp(dst, piece, views["x"])
        else:
            kind = KINDS[self.kind]
            total = dst if kind.last is None else self.rows.stats(self.b, piece)
            reduce_rows(self.b, total, self._each(views["x"]), kind.combine)
            self._last(dst, total)
        commit()

    def _each(self, x: View) -> View:
        each = KINDS[self.kind].each
        if each is None:
            return x
        mapped = self.e.temp(x, rotating=True)
        self.e.function(mapped, x, each)
        return mapped

    def _last(self, dst: View, total: View) -> None:
        match KINDS[self.kind].last:
            case None:
                if dst is not total:
                    self.e.assign(dst, total)
            case "mean":
                self.e.scalar(dst, total, "multiply", 1.0 / self.rows.row_length)
            case function:
                self.e.function(dst, total, function)

    def _log_sum_exp(self, dst: View, piece: Piece, x: View) -> None:
        """log(sum(exp(x - max))) + max, the maximum clamped to finite numbers, lest inf - inf appear."""
        negated, sums = self.rows.stats(self.b, piece), self.rows.stats(self.b, piece)
        reduce_rows(self.b, negated, x, "maximum", negate=True)
        self.e.scalar(negated, negated, "minimum", -LOWEST, "maximum", LOWEST)
        exponentials(self.e, self.rows, x, negated, sums)
        self.e.function(sums, sums, "log")
        self.e.alu(dst, sums, negated, "subtract")

    def _long_row(self, piece: Piece) -> None:
        view, commit = self.out.store(self.b, self.rows.space, piece, self.b.rotation)
        dst = self.rows.per_row(view)
        if self.kind is ReduceKind.LOG_SUM_EXP:
            negated, total = running_exponentials(self.e, self.rows, self.x, piece, self.limit)
            self.e.function(total, total, "log")
            self.b.tensor_tensor(dst, total, negated, "subtract")
        else:
            self._last(dst, self._running(piece))
        commit()

    def _running(self, piece: Piece) -> View:
        """[lanes, kept of size 1]: the combination of a long row, chunk by chunk."""
        combine = KINDS[self.kind].combine
        total = self.rows.stats(self.b, piece)
        self.b.memset(total, IDENTITY[combine])

        def chunk(part: Piece) -> None:
            fresh = self.rows.stats(self.b, piece)
            reduce_rows(self.b, fresh, self._each(self.rows.load(self.b, self.x, part)), combine)
            self.e.tensors(total, total, fresh, combine)

        self.rows.each_chunk(self.b, piece, self.limit, chunk)
        return total
