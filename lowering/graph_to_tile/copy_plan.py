"""How to copy one strided DRAM window to another: candidate routes, their estimated times, and the cheapest of them.

Given the dimensions that both windows share, as (size, destination stride, source stride), the element type and the
target. Three routes exist. A *direct* copy is one DMA; its descriptors cover the runs that are contiguous on both
sides, so it is slow where these are a few bytes. A *tiled* copy loads pieces in source order, puts their free
dimensions into destination order with an engine (which also repeats, skips and reverses elements) and stores them in
destination order, so that both transfers have long runs. A *transposed* copy swaps the innermost dimensions of the
two windows on the tensor engine, 128 rows at a time. Only times are computed here, from the same functions that the
machine's clock uses; nothing touches the IR.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, isqrt, prod

from neuron_dialects.access import AccessPattern, Affine, Dims, contiguous_dims, merge_dims
from neuron_dialects.cost import dma_cost, issue_ns, latency_ns
from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.isa import Instruction, Operand
from neuron_dialects.isa.limits import MAX_DMA_DIMS, MAX_ON_CHIP_DIMS
from neuron_dialects.target import Target

LANES = 128
"""Partitions of a tile."""

MAX_COVER = 8
"""Largest step between elements that a load reads over, so that an engine may pick the elements out of one run."""

OCCUPANCY = 0.05
"""Weight of time hidden behind other work: of two routes that take equally long, the one that works less is better."""

ROTATING_COPIES = 2
"""Physical copies of each tile: loads of one piece overlap with stores of another."""


@dataclass(frozen=True)
class Axis:
    """One dimension of a copy: its size and the strides, in elements, with which the two windows step along it."""

    size: int
    destination: int
    source: int


@dataclass(frozen=True)
class CopyTask:
    """What is copied: `axes` in destination order (see `joint_axes`), and how many elements a row of a tile may have.

    `dtype` is the destination's; where the source's differs, the DMA that reads it casts. A fill has no source: its
    tiles are set to a number instead of being loaded.
    """

    axes: tuple[Axis, ...]
    dtype: str
    source_dtype: str
    target: Target
    budget_elements: int
    fill: bool = False


@dataclass(frozen=True)
class DirectPlan:
    """One DMA inside loops over `loops`, the axes beyond the rank that a DMA can have."""

    nanoseconds: float
    loops: tuple[int, ...]


@dataclass(frozen=True)
class TilePlan:
    """Pieces of `chunks` positions of `axes`; axis `partition` lies on the partitions.

    `load_order`: free axes, outermost first, as a piece is loaded. `cover`: the axis whose loaded run includes the
    elements between its positions, or None. `rearranges`: whether an engine copies the piece into destination order.
    `tail`: what is left of an axis that was split unevenly, a copy of its own.
    """

    nanoseconds: float
    axes: tuple[Axis, ...]
    partition: int
    chunks: tuple[int, ...]
    load_order: tuple[int, ...]
    cover: int | None
    rearranges: bool
    tail: "Tail | None" = None


@dataclass(frozen=True)
class TransposePlan:
    """Pieces of `row_chunk` positions of the last axis and `column_chunk` of axis `columns` pass the tensor engine."""

    nanoseconds: float
    columns: int
    row_chunk: int
    column_chunk: int


Plan = DirectPlan | TilePlan | TransposePlan


@dataclass(frozen=True)
class Tail:
    """What is left of `axis` of a task from position `start` on, and how to copy it."""

    axis: int
    start: int
    task: CopyTask
    plan: Plan


def joint_axes(shape: Sequence[int], destination: Sequence[int], source: Sequence[int]) -> tuple[Axis, ...]:
    """The dimensions of a copy in destination order, fewest possible: ones dropped, neighbours that step alike joined.

    Destination strides are positive and visit no element twice; source strides may be negative or 0. At least one axis.
    """
    axes = [Axis(*a) for a in zip(shape, destination, source, strict=True) if a[0] != 1]
    merged: list[Axis] = []
    for axis in sorted(axes, key=lambda a: -a.destination):
        if merged:
            outer = merged[-1]
            if outer.destination == axis.destination * axis.size and outer.source == axis.source * axis.size:
                merged[-1] = Axis(outer.size * axis.size, axis.destination, axis.source)
                continue
        merged.append(axis)
    return tuple(merged) or (Axis(1, 1, 1),)


def plan_copy(task: CopyTask) -> Plan:
    """The cheapest route for `task`."""
    return min(candidates(task), key=lambda plan: plan.nanoseconds)


def candidates(task: CopyTask, split: bool = True) -> Iterator[Plan]:
    """Every route that the target can take, each with its estimated time; without `split`, no axis is cut in two."""
    if not task.fill:
        yield plan_direct(task)
        transposed = plan_transposed(task)
        if transposed is not None:
            yield transposed
    if len(task.axes) == 1:
        yield from _tile_plan(task, (Axis(1, 1, 1), *task.axes), 0)
    for partition in range(len(task.axes)):
        yield from _tile_plan(task, task.axes, partition)
    for index in sorted({len(task.axes) - 1, inner_source(task.axes)} if split else ()):
        for inner in sorted({ceil(task.axes[index].size / LANES), 32, 64, 128}):
            yield from _split_plan(task, index, inner)


# Direct copies


def plan_direct(task: CopyTask) -> DirectPlan:
    """One DMA from DRAM to DRAM; the shortest axes beyond its rank become loops."""
    by_size = sorted(range(len(task.axes)), key=lambda i: task.axes[i].size)
    loops = tuple(sorted(by_size[: max(0, len(task.axes) - MAX_DMA_DIMS)]))
    trips = prod(task.axes[i].size for i in loops)
    return DirectPlan(direct_busy_ns(task, loops) * trips + _round_trip_ns(task.target), loops)


def direct_busy_ns(task: CopyTask, loops: Sequence[int] = ()) -> float:
    """Nanoseconds that the DMA engines take for one direct copy of the axes that are not in `loops`."""
    axes = [axis for i, axis in enumerate(task.axes) if i not in loops]
    destination = _linear((a.destination, a.size) for a in axes)
    return _dma_ns(task, ("dram", destination), ("dram", _linear((a.source, a.size) for a in axes)), task.source_dtype)


# Copies through SBUF with the free dimensions rearranged by an engine


def _split_plan(task: CopyTask, index: int, inner: int) -> Iterator[TilePlan]:
    """Axis `index` as (outer, inner) with the outer part on the partitions, and a tail where it does not divide."""
    axis = task.axes[index]
    outer, rest = divmod(axis.size, inner)
    if inner < 2 or outer < 2:
        return
    parts = (Axis(outer, axis.destination * inner, axis.source * inner), Axis(inner, axis.destination, axis.source))
    axes = (*task.axes[:index], *parts, *task.axes[index + 1 :])
    tail, tail_ns = None, 0.0
    if rest:
        left = (*task.axes[:index], Axis(rest, axis.destination, axis.source), *task.axes[index + 1 :])
        tail_task = replace(task, axes=left)
        tail_plan = min(candidates(tail_task, split=False), key=lambda plan: plan.nanoseconds)
        tail, tail_ns = Tail(index, outer * inner, tail_task, tail_plan), tail_plan.nanoseconds
    for plan in _tile_plan(task, axes, index):
        yield replace(plan, nanoseconds=plan.nanoseconds + tail_ns, tail=tail)


def inner_source(axes: Sequence[Axis]) -> int:
    """The axis along which the source steps least (repetitions do not step); the last one where nothing steps."""
    moving = [i for i, a in enumerate(axes) if a.source]
    return min(moving, key=lambda i: abs(axes[i].source), default=len(axes) - 1)


def _tile_plan(task: CopyTask, axes: tuple[Axis, ...], partition: int) -> Iterator[TilePlan]:
    """The tiled copy with `partition` on the partitions; nothing where it would rearrange nothing."""
    free = [i for i in range(len(axes)) if i != partition]
    near = inner_source(axes)
    cover = near if near != partition and 1 < abs(axes[near].source) <= MAX_COVER and not task.fill else None
    chunks = _chunks(task, axes, partition, cover)
    load_order = tuple(sorted(free, key=lambda i: -abs(axes[i].source)))
    read = [i for i in load_order if axes[i].source and chunks[i] > 1]
    written = [i for i in free if chunks[i] > 1]
    rearranges = read != written or cover is not None or any(axes[i].source < 0 for i in written)
    if not rearranges and not task.fill:
        return
    plan = TilePlan(0.0, axes, partition, chunks, load_order, cover, rearranges and not task.fill)
    yield replace(plan, nanoseconds=_tile_ns(task, plan))


def _chunks(task: CopyTask, axes: tuple[Axis, ...], partition: int, cover: int | None) -> tuple[int, ...]:
    """Positions of each axis in one piece: long runs on both sides first, then as much as fits into the budget."""
    chunks = [1] * len(axes)
    chunks[partition] = min(LANES, axes[partition].size)
    budget = max(1, task.budget_elements // (abs(axes[cover].source) if cover is not None else 1))
    ends = [i for i in dict.fromkeys((inner_source(axes), len(axes) - 1)) if i != partition]
    if len(ends) == 2:
        chunks[ends[0]] = fit(axes[ends[0]].size, isqrt(budget))
    for i in (*reversed(ends), *reversed([i for i in range(len(axes)) if i != partition and i not in ends])):
        others = prod(c for d, c in enumerate(chunks) if d not in (i, partition))
        rank = sum(c > 1 for d, c in enumerate(chunks) if d not in (i, partition))
        if rank < MAX_ON_CHIP_DIMS:
            chunks[i] = fit(axes[i].size, max(1, budget // others))
    return tuple(chunks)


def fit(size: int, limit: int, step: int = 1) -> int:
    """The largest divisor of `size` between half of `limit` and `limit`, which leaves no remainder; else the limit.

    Only multiples of `step` are considered, of which `limit` is one; a size within the limit is taken whole.
    """
    if size <= limit:
        return size
    return next((n for n in range(limit, limit // 2, -step) if size % n == 0), max(1, limit))


def loaded_size(plan: TilePlan, index: int, size: int) -> int:
    """Elements of a loaded tile along axis `index` for `size` positions of it: repeated ones are loaded once."""
    axis = plan.axes[index]
    if axis.source == 0:
        return 1
    return (size - 1) * abs(axis.source) + 1 if index == plan.cover else size


def _tile_ns(task: CopyTask, plan: TilePlan) -> float:
    """Time of a tiled copy: the busiest of DMA, engine and latency per piece, and one round trip."""
    axes, chunks, lanes = plan.axes, plan.chunks, plan.chunks[plan.partition]
    free = [i for i in range(len(axes)) if i != plan.partition]
    target = task.target
    store = _dma_ns(
        task,
        ("dram", _linear((axes[i].destination, chunks[i]) for i in (plan.partition, *free))),
        ("sbuf", _chip(lanes, [chunks[i] for i in free])),
    )
    load = engine = 0.0
    if not task.fill:
        sizes = [loaded_size(plan, i, chunks[i]) for i in plan.load_order]
        strides = [1 if i == plan.cover else axes[i].source for i in plan.load_order]
        lines = [(axes[plan.partition].source, lanes), *zip(strides, sizes, strict=True)]
        load = _dma_ns(task, ("sbuf", _chip(lanes, sizes)), ("dram", _linear(lines)), task.source_dtype)
    if plan.rearranges or task.fill:
        tile = Operand("sbuf", task.dtype, _chip(lanes, [chunks[i] for i in free]))
        name, operands = ("memset", {"dst": tile}) if task.fill else ("tensor_copy", {"dst": tile, "data": tile})
        engine = issue_ns(Instruction(name, "dve", operands), target)
    pieces = prod(axis.size / chunk for axis, chunk in zip(axes, chunks, strict=True))
    stages = 1 if task.fill else 2
    chain = stages * _round_trip_ns(target) + load + store + engine + latency_ns("dve", target)
    return pieces * _piece_ns(load + store, engine, chain / ROTATING_COPIES) + chain


# Copies through the tensor engine


def plan_transposed(task: CopyTask) -> TransposePlan | None:
    """The copy that swaps the innermost axes of source and destination on the tensor engine; None where it cannot.

    Both must be contiguous and different axes, and the values must pass the array unchanged.
    """
    target = task.target
    last, columns = len(task.axes) - 1, inner_source(task.axes)
    rows_axis, columns_axis = task.axes[last], task.axes[columns]
    exact = task.dtype in ("bf16", "f16") or (task.dtype == "f32" and bool(target.pe_transpose_exact))
    if not exact or columns == last or rows_axis.destination != 1 or columns_axis.source != 1:
        return None
    bank_elements = int(target.psum_bank_bytes) // dtype_by_name(task.dtype).size_bytes
    row_chunk = fit(rows_axis.size, bank_elements, LANES)
    width = int(target.pe_columns)
    budget = max(width, task.budget_elements // ceil(row_chunk / LANES))
    column_chunk = fit(columns_axis.size, budget // width * width, width)
    plan = TransposePlan(0.0, columns, row_chunk, column_chunk)
    return replace(plan, nanoseconds=_transpose_ns(task, plan))


def _transpose_ns(task: CopyTask, plan: TransposePlan) -> float:
    axes, target = task.axes, task.target
    rows, columns = axes[-1], axes[plan.columns]
    lanes, blocks = min(LANES, plan.row_chunk), ceil(plan.row_chunk / LANES)
    width = min(int(target.pe_columns), plan.column_chunk)
    passes = ceil(plan.column_chunk / width)
    lines = [(rows.source, lanes), (rows.source * LANES, blocks), (1, plan.column_chunk)]
    rows_loaded = ("sbuf", _chip(lanes, [blocks, plan.column_chunk]))
    load = _dma_ns(task, rows_loaded, ("dram", _linear(lines)), task.source_dtype)
    line = _linear([(columns.destination, width), (1, plan.row_chunk)])
    store = passes * _dma_ns(task, ("dram", line), ("sbuf", _chip(width, [plan.row_chunk])))
    block = Operand("sbuf", task.dtype, _chip(lanes, [width]))
    turned = Operand("psum", task.dtype, _chip(width, [lanes]))
    tensor = passes * blocks * issue_ns(Instruction("nc_transpose", "pe", {"dst": turned, "data": block}), target)
    tile = _chip(width, [plan.row_chunk])
    moved = {"dst": Operand("sbuf", task.dtype, tile), "data": Operand("psum", task.dtype, tile)}
    evict = passes * issue_ns(Instruction("tensor_copy", "dve", moved), target)
    pieces = rows.size / plan.row_chunk * columns.size / plan.column_chunk
    pieces *= prod(a.size for i, a in enumerate(axes) if i not in (plan.columns, len(axes) - 1))
    latency = latency_ns("pe", target) + latency_ns("dve", target)
    chain = 2 * _round_trip_ns(target) + load + (store + tensor + evict) / passes + latency
    return pieces * _piece_ns(load + store, tensor, evict, chain / ROTATING_COPIES) + chain


# Times


def _piece_ns(*busy: float) -> float:
    """What one piece adds: the busiest part hides the others, which count a little: they are kept from other work."""
    return max(busy) + OCCUPANCY * sum(busy)


def _round_trip_ns(target: Target) -> float:
    """From the trigger of a DMA to the start of whoever waits for it, less the time that each DMA engine works."""
    stagger = (int(target.dma_engines) - 1) * float(target.dma_stagger_ns)
    return float(target.dma_start_ns) + stagger + float(target.dma_completion_ns)


def _linear(dims: Iterable[tuple[int, int]]) -> AccessPattern:
    return AccessPattern(Affine(), 0, Affine(), merge_dims(tuple(dims)))


def _chip(lanes: int, sizes: Sequence[int]) -> AccessPattern:
    dims: Dims = contiguous_dims(sizes)
    return AccessPattern(Affine(), lanes, Affine(), dims)


def _dma_ns(
    task: CopyTask, dst: tuple[str, AccessPattern], src: tuple[str, AccessPattern], source_dtype: str | None = None
) -> float:
    operands = {
        "dst": Operand(dst[0], task.dtype, dst[1]),
        "src": Operand(src[0], source_dtype or task.dtype, src[1]),
    }
    return dma_cost(Instruction("dma_copy", "dma", operands), task.target).busy_ns
