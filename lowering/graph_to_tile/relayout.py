"""Copies and fills of DRAM windows: emits the route that `copy_plan` chose as loops over tiles.

Given two windows of one shape and element type, leaves behind the ops that make the destination equal to the source:
`copy_window` by the cheapest route, `transposed_copy` through the tensor engine where that is possible. `fill_window`
sets a window to a number. Windows of no elements need nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.copy_plan import (
    LANES,
    ROTATING_COPIES,
    Axis,
    CopyTask,
    DirectPlan,
    Plan,
    TilePlan,
    TransposePlan,
    joint_axes,
    loaded_size,
    plan_copy,
    plan_transposed,
)
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import DramTensor
from lowering.graph_to_tile.view import Buffer, View
from neuron_dialects.access import Affine
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.target import Target

Ranges = dict[int, tuple[Affine, int]]
"""Axis of a copy -> (start, size); axes that are not named are taken from position 0."""


@dataclass(frozen=True)
class Side:
    """One window of a copy: its buffer, its first element, and which stride of an `Axis` belongs to it."""

    buffer: Buffer
    offset: Affine
    stride: Callable[[Axis], int]

    def view(self, axes: tuple[Axis, ...], ranges: Ranges, order: tuple[int, ...]) -> View:
        """The DRAM view of a piece, its dimensions in `order`."""
        offset = self.offset
        for index, (start, _) in ranges.items():
            offset = offset + start * self.stride(axes[index])
        dims = tuple((self.stride(axes[i]), ranges[i][1] if i in ranges else axes[i].size) for i in order)
        return View(self.buffer, Affine(), 0, offset, dims)

    def moved(self, axis: Axis, start: int) -> "Side":
        """The window from position `start` of an axis on."""
        return replace(self, offset=self.offset + start * self.stride(axis))


@dataclass(frozen=True)
class Copy:
    """The two ends of a copy; without a source every element becomes `value`."""

    b: KernelBuilder
    destination: Side
    source: Side | None
    value: float = 0.0


def copy_task(destination: DramTensor, source: DramTensor | None, target: Target, budget_elements: int) -> CopyTask:
    """What `copy_window` or (without a source) `fill_window` has to do; `budget_elements` counts fp32 elements."""
    strides = destination.strides if source is None else source.strides
    axes = joint_axes(destination.shape, destination.strides, tuple(0 for _ in strides) if source is None else strides)
    budget = budget_elements * 4 // dtype_by_name(destination.dtype).size_bytes
    source_dtype = destination.dtype if source is None else source.buffer.dtype
    return CopyTask(axes, destination.dtype, source_dtype, target, budget, source is None)


def copy_window(k: Kernel, source: DramTensor, destination: DramTensor) -> None:
    """destination = source; same shape and element type (which the source may have by a cast as it is read)."""
    _check(source, destination)
    if source != destination and prod(destination.shape):
        task = copy_task(destination, source, k.target, k.row_budget_elements)
        emit_plan(k, task, plan_copy(task), destination, source)


def transposed_copy(k: Kernel, source: DramTensor, destination: DramTensor) -> None:
    """destination = source by way of the tensor engine, which swaps the innermost dimensions of the two windows.

    Where the target cannot pass the element type unchanged, or the windows have the same innermost dimension, the
    copy takes the cheapest other route.
    """
    _check(source, destination)
    if prod(destination.shape):
        task = copy_task(destination, source, k.target, k.row_budget_elements)
        emit_plan(k, task, plan_transposed(task) or plan_copy(task), destination, source)


def fill_window(k: Kernel, destination: DramTensor, value: float) -> None:
    """Every element of the window = value."""
    if prod(destination.shape):
        task = copy_task(destination, None, k.target, k.row_budget_elements)
        emit_plan(k, task, plan_copy(task), destination, None, value)


def _check(source: DramTensor, destination: DramTensor) -> None:
    same = source.shape == destination.shape and source.dtype == destination.dtype
    assert same, f"{source.shape} of {source.dtype} copied to {destination.shape} of {destination.dtype}"


def emit_plan(
    k: Kernel, task: CopyTask, plan: Plan, destination: DramTensor, source: DramTensor | None, value: float = 0.0
) -> None:
    """Carry out `task` (see `copy_task`) by any of its routes."""
    to = Side(destination.buffer, Affine(destination.offset), lambda axis: axis.destination)
    if source is None:
        _emit(Copy(k.b, to, None, value), task, plan)
    else:
        _emit(Copy(k.b, to, Side(source.buffer, Affine(source.offset), lambda axis: axis.source)), task, plan)


def _emit(copy: Copy, task: CopyTask, plan: Plan) -> None:
    match plan:
        case DirectPlan():
            _emit_direct(copy, task, plan)
        case TransposePlan():
            _emit_transposed(copy, task, plan)
        case TilePlan():
            _emit_tiles(copy, plan)
            if plan.tail is not None:
                axis, start = task.axes[plan.tail.axis], plan.tail.start
                source = None if copy.source is None else copy.source.moved(axis, start)
                rest = replace(copy, destination=copy.destination.moved(axis, start), source=source)
                _emit(rest, plan.tail.task, plan.tail.plan)


def _emit_direct(copy: Copy, task: CopyTask, plan: DirectPlan) -> None:
    """Loops over the axes beyond a DMA's rank around one DMA from DRAM to DRAM."""
    assert copy.source is not None
    source, order = copy.source, tuple(i for i in range(len(task.axes)) if i not in plan.loops)

    def nest(loops: tuple[int, ...], ranges: Ranges) -> None:
        if loops:
            with copy.b.loop(task.axes[loops[0]].size) as i:
                nest(loops[1:], {**ranges, loops[0]: (i, 1)})
        else:
            copy.b.load(copy.destination.view(task.axes, ranges, order), source.view(task.axes, ranges, order))

    nest(plan.loops, {})


def _emit_tiles(copy: Copy, plan: TilePlan) -> None:
    """Loops over the pieces of a tiled copy or fill."""

    def nest(cut: list[int], ranges: Ranges) -> None:
        if not cut:
            _emit_piece(copy, plan, ranges)
            return
        index = cut[0]
        size, chunk = plan.axes[index].size, plan.chunks[index]
        copy.b.tiles(size, chunk, lambda start, count: nest(cut[1:], {**ranges, index: (start, count)}))

    nest(list(range(len(plan.axes))), {})


def _emit_piece(copy: Copy, plan: TilePlan, ranges: Ranges) -> None:
    b, axes = copy.b, plan.axes
    free = tuple(i for i in range(len(axes)) if i != plan.partition)
    lanes = ranges[plan.partition][1]
    if copy.source is None:
        tile = _tile(b, lanes, [ranges[i][1] for i in free], copy.destination.buffer.dtype)
        b.memset(tile, copy.value)
    else:
        tile = _load_piece(b, copy.source, plan, ranges, copy.destination.buffer.dtype)
        if plan.rearranges:
            moved = _tile(b, lanes, [ranges[i][1] for i in free], tile.dtype)
            b.copy(moved, tile)
            tile = moved
    b.store(copy.destination.view(axes, ranges, (plan.partition, *free)), tile)


def _tile(b: KernelBuilder, lanes: int, sizes: Sequence[int], dtype: str) -> View:
    """A rotating SBUF tile as [lanes, *sizes]; without free dimensions it still has one element on each partition."""
    view = b.alloc((lanes, *(sizes or [1])), dtype, "sbuf", ROTATING_COPIES).view()
    return view if sizes else replace(view, dims=())


def _load_piece(b: KernelBuilder, source: Side, plan: TilePlan, ranges: Ranges, dtype: str) -> View:
    """Load a piece in source order, addresses ascending; returns it as [partition, free axes in destination order]."""
    axes = plan.axes
    offset, dims = source.offset, []
    for index in (plan.partition, *plan.load_order):
        start, size = ranges[index]
        stride = axes[index].source
        first = start if stride >= 0 or index == plan.partition else start + (size - 1)
        offset = offset + first * stride
        if index == plan.partition:
            dims.append((stride, size))
        else:
            dims.append((1 if index == plan.cover else abs(stride), loaded_size(plan, index, size)))
    tile = _tile(b, dims[0][1], [size for _, size in dims[1:]], dtype)
    b.load(tile, View(source.buffer, Affine(), 0, offset, tuple(dims)))
    free = [i for i in range(len(axes)) if i != plan.partition]
    view = tile.permute([plan.load_order.index(i) for i in free])
    for position, index in enumerate(free, start=1):
        stride, size = axes[index].source, ranges[index][1]
        step = abs(stride) if index == plan.cover else 1
        if stride < 0:
            view = view.slice(position, (size - 1) * step, size, -step)
        elif stride:
            view = view.slice(position, 0, size, step)
    return view.broadcast([ranges[i][1] for i in free])


def _emit_transposed(copy: Copy, task: CopyTask, plan: TransposePlan) -> None:
    """Loops over all other axes, chunks of rows and chunks of columns around one piece of a transposed copy."""
    axes, b, last = task.axes, copy.b, len(task.axes) - 1

    def columns_of(ranges: Ranges) -> None:
        b.tiles(
            axes[plan.columns].size, plan.column_chunk,
            lambda start, size: _transpose_piece(copy, task, plan, {**ranges, plan.columns: (start, size)}),
        )  # fmt: skip

    def nest(outer: list[int], ranges: Ranges) -> None:
        if outer:
            with b.loop(axes[outer[0]].size) as i:
                nest(outer[1:], {**ranges, outer[0]: (i, 1)})
        else:
            b.tiles(axes[last].size, plan.row_chunk, lambda start, size: columns_of({**ranges, last: (start, size)}))

    nest([i for i in range(last) if i != plan.columns], {})


def _transpose_piece(copy: Copy, task: CopyTask, plan: TransposePlan, ranges: Ranges) -> None:
    """Load [rows, columns] with rows on partitions, turn it block by block into PSUM, and store [columns, rows]."""
    assert copy.source is not None
    source = copy.source
    b, axes, last, dtype = copy.b, task.axes, len(task.axes) - 1, task.dtype
    (first_row, rows), (first_column, columns) = ranges[last], ranges[plan.columns]
    blocks, rest = divmod(rows, LANES)
    row_stride = axes[last].source
    tiles: list[tuple[int, View]] = []
    for count, lanes, done in ((blocks, LANES, 0), (1 if rest else 0, rest, blocks * LANES)):
        if count:
            tile = b.alloc((lanes, count, columns), dtype, "sbuf", ROTATING_COPIES).view()
            corner = source.view(axes, {**ranges, last: (first_row + done, 1), plan.columns: (first_column, 1)}, ())
            b.load(tile, replace(corner, dims=((row_stride, lanes), (row_stride * LANES, count), (1, columns))))
            tiles.append((done, tile))

    def one_pass(start: Affine, width: int) -> None:
        turned = b.alloc((width, rows), dtype, "psum", ROTATING_COPIES).view()
        for done, tile in tiles:
            lanes, count, _ = tile.shape
            with b.loop(count) as block:
                piece = tile.slice(2, start, width).at(1, block)
                b.transpose(turned.slice(1, block * LANES + done, lanes), piece)
        out = b.alloc((width, rows), dtype, "sbuf", ROTATING_COPIES).view()
        b.copy(out, turned)
        where = {**ranges, plan.columns: (first_column + start, width)}
        b.store(copy.destination.view(axes, where, (plan.columns, last)), out)

    b.tiles(columns, int(task.target.pe_columns), one_pass)
