"""Kernel templates of the operators that only move elements: reshape, transpose, broadcast, slice, concat.

Most of them cost nothing: the result is another window on the memory of the operand. A copy is made where no strides
can express the result, where the result must stand in a buffer of its own (a function output, a resident tensor), and
where reading the window element by element would take its readers longer than copying it once. `copy_plan` estimates
both and chooses how to copy. `forward_destinations` runs before the templates and lets producers write straight into
their place in a concatenation or an output.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.copy_plan import direct_busy_ns, plan_copy
from lowering.graph_to_tile.kernel import Kernel, relayout_pairs
from lowering.graph_to_tile.relayout import copy_task, copy_window, transposed_copy
from lowering.graph_to_tile.reorder import lower_reorder_rows
from lowering.graph_to_tile.tensors import LANES, DramTensor, SbufTensor, Tensor, row_major, transfer
from lowering.graph_to_tile.transfers import store_in_pieces, write_out
from lowering.graph_to_tile.turning import lower_turned, wants_turning
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine, merge_dims
from neuron_dialects.graph import (
    BroadcastOp,
    ConcatOp,
    FusedOp,
    MatMulOp,
    RelayoutOp,
    ReorderRowsOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    ints,
    layout_of,
    shape_of,
    spec_of,
)
from neuron_dialects.isa.limits import MAX_ON_CHIP_DIMS
from passes.graph.kernel_layouts import images_apart, reads

LEAST_RUN_BYTES = 512
"""Parts of a concatenation that interleave in memory are computed there if their runs are at least so long: producers
may wait for each other, and what a store of short runs takes is hardly less than that of a copy."""

MOST_SHARE = 0.75
"""Part of a concatenation's result that one operand is, for all to be computed there however short their runs are."""

__all__ = ["KERNELS", "forward_destinations", "materialize", "settle", "transposed_copy"]


# Placing results


def materialize(k: Kernel, tensor: Tensor, destination: DramTensor) -> None:
    """destination = tensor (same shape and element type), wherever it lives; nothing where it is there already."""
    if isinstance(tensor, SbufTensor):
        write_out(k.b, tensor, destination)
    elif not is_same_window(tensor, destination):
        copy_window(k, tensor, destination)


def is_same_window(a: DramTensor, b: DramTensor) -> bool:
    """Whether two windows of one shape are the same memory in the same order."""
    steps = [(s, t) for n, s, t in zip(a.shape, a.strides, b.strides, strict=True) if n != 1]
    return (a.buffer, a.dtype, a.offset) == (b.buffer, b.dtype, b.offset) and all(s == t for s, t in steps)


def settle(k: Kernel, value: SSAValue, window: DramTensor) -> None:
    """`value` has the elements of `window`: a copy where the value has a place of its own, else the window itself."""
    if value in k.destinations or value in k.residents:
        output = k.output(value)
        if isinstance(output, DramTensor):
            materialize(k, window, output)
        else:
            load_resident(k, window, output)
    else:
        k.alias(value, window)


def settle_readable(k: Kernel, value: SSAValue, window: DramTensor) -> None:
    """As `settle`, but a window that its readers would read slowly is copied to dense memory first."""
    if value not in k.destinations and value not in k.residents and not reads_well(k, value, window):
        dense = k.scratch(value)
        copy_window(k, window, dense)
        window = dense
    settle(k, value, window)


def reads_well(k: Kernel, value: SSAValue, window: DramTensor) -> bool:
    """Whether reading `window` at each use of `value` takes no longer than copying it and reading the copy."""
    if prod(window.shape) == 0 or window.is_dense:
        return True
    value, window = _reshaped(k, value, window)
    users = list(readers(value))
    dense = replace(window, strides=row_major(window.shape))
    whole = copy_task(dense, window, k.target, k.row_budget_elements)
    as_it_is = direct_busy_ns(whole)
    if users and len(window.shape) >= 2 and all(isinstance(user, MatMulOp) for user in users):
        # A matmul turns blocks on chip: either of the last two dimensions may be the contiguous one.
        swap = [*range(len(window.shape) - 2), len(window.shape) - 1, len(window.shape) - 2]
        turned = window.transpose(swap)
        target = replace(turned, strides=row_major(turned.shape))
        as_it_is = min(as_it_is, direct_busy_ns(copy_task(target, turned, k.target, k.row_budget_elements)))
    uses = max(1, len(users))
    copied = direct_busy_ns(copy_task(dense, dense, k.target, k.row_budget_elements))
    return uses * as_it_is <= plan_copy(whole).nanoseconds + uses * copied


def _reshaped(k: Kernel, value: SSAValue, window: DramTensor) -> tuple[SSAValue, DramTensor]:
    """What the readers of `value` see, where that is another shape of its window."""
    while value.has_one_use() and isinstance(reshape := next(iter(value.uses)).operation, ReshapeOp):
        shaped = window.reshape(shape_of(reshape.result))
        if shaped is None or reshape.result in k.destinations or layout_of(reshape.result) is not None:
            break
        value, window = reshape.result, shaped
    return value, window


def readers(value: SSAValue) -> Iterable[Operation]:
    """Operations that read `value`, those inside fused groups instead of the group."""
    for use in value.uses:
        if isinstance(use.operation, FusedOp):
            yield from readers(use.operation.body.block.args[use.index])
        else:
            yield use.operation


def load_resident(k: Kernel, window: DramTensor, resident: SbufTensor, axis: int = 0, first: int = 0) -> None:
    """Load `window` into the part of a resident tensor that starts at position `first` of dimension `axis`."""
    partition = resident.partition
    order = [partition, *(d for d in range(len(window.shape)) if d != partition)]
    start = first if axis == partition else 0
    elsewhere = {} if axis == partition else {axis: (Affine(first), window.shape[axis])}

    def one(position: Affine, size: int) -> None:
        lane = (start + position.constant) % LANES
        tile = resident.view({**elsewhere, partition: (position + (start - lane), lane + size)})
        transfer(k.b, k.b.load, tile.slice(0, lane, size), window.view({partition: (position, size)}, order))

    size = window.shape[partition]
    head = min(size, -start % LANES)
    if head:
        one(Affine(0), head)
    if size > head:
        k.b.tiles(size - head, LANES, lambda position, count: one(position + head, count))


def brought(k: Kernel, window: DramTensor) -> SbufTensor:
    """A copy of a feature map on chip, channels on partitions, without a halo."""
    shape = window.shape
    resident = SbufTensor(k.b.alloc_outer(SbufTensor.buffer_shape(shape, 1), window.dtype, "sbuf", "brought"), shape, 1)
    load_resident(k, window, resident)
    return resident


def copy_resident(k: Kernel, source: SbufTensor, resident: SbufTensor, axis: int, first: int) -> None:
    """Copy a resident tensor into the part of another one, of the same lanes, that starts at `first` of `axis`."""
    partition = resident.partition
    assert source.partition == partition != axis

    def one(start: Affine, size: int) -> None:
        lanes = {partition: (start, size)}
        k.b.copy(resident.view({**lanes, axis: (Affine(first), source.shape[axis])}), source.view(lanes))

    k.b.tiles(resident.shape[partition], LANES, one)


# Windows


def lower_reshape(k: Kernel, op: ReshapeOp) -> None:
    """Another window where strides can express the shape, else a window on a dense copy."""
    shape = shape_of(op.result)
    tensor = k.tensor(op.x)
    if isinstance(tensor, SbufTensor) and op.result not in k.destinations:
        resident = reshape_resident(tensor, shape)
        if resident is not None and _fits_layout(k, op.result, resident):
            k.alias(op.result, resident)
            return
    if isinstance(tensor, SbufTensor) and op.result in k.destinations and reads(op, op.x, tensor.partition) is not None:
        _store_images(k, tensor, op)
        return
    source = k.dram(op.x)
    window = source.reshape(shape)
    if window is None and op.result in k.destinations:
        output = k.destinations[op.result].reshape(source.shape)
        if output is not None:
            k.output(op.result)
            copy_window(k, source, output)
            return
    if window is None:
        dense = k.scratch(op.x)
        copy_window(k, source, dense)
        window = dense.reshape(shape)
        assert window is not None, "a dense tensor has any shape"
    settle(k, op.result, window)


def lower_transpose(k: Kernel, op: TransposeOp) -> None:
    """Another window, or a copy where that would be read slowly."""
    permutation = ints(op.permutation)
    tensor = k.tensor(op.x)
    if isinstance(tensor, SbufTensor) and op.result not in k.destinations:
        resident = transpose_resident(tensor, permutation)
        if resident is not None and _fits_layout(k, op.result, resident):
            k.alias(op.result, resident)
            return
    settle_readable(k, op.result, k.dram(op.x).transpose(permutation))


def lower_slice(k: Kernel, op: SliceOp) -> None:
    """Another window, or a copy where that would be read slowly."""
    tensor = k.tensor(op.x)
    if isinstance(tensor, SbufTensor):
        resident = slice_resident(tensor, op) if op.result not in k.destinations else None
        if resident is not None and _fits_layout(k, op.result, resident):
            k.alias(op.result, resident)
            return
    if (
        isinstance(tensor, SbufTensor)
        and op.result not in k.residents
        and reads(op, op.x, tensor.partition) is not None
    ):
        _store_part(k, tensor, op)
        return
    window = k.dram(op.x).slice(ints(op.starts), ints(op.sizes), ints(op.steps))
    settle_readable(k, op.result, window)


def lower_broadcast(k: Kernel, op: BroadcastOp) -> None:
    """A window that repeats; on chip, a copy."""
    x, place = k.tensor(op.x), k.residents.get(op.result)
    if op.result not in k.destinations and place is not None and reads(op, op.x, place[0]) is not None:
        if isinstance(x, SbufTensor) and x.partition != place[0]:
            x = k.dram(op.x)
        _repeat_on_chip(k, op, x, place[0])
        return
    settle(k, op.result, k.dram(op.x).broadcast(shape_of(op.result)))


def _repeat_on_chip(k: Kernel, op: BroadcastOp, x: Tensor, partition: int) -> None:
    """Copy each image to where it is repeated, one of its rows at a time where an engine has too few dimensions."""
    output, shape = k.output(op.result), shape_of(op.result)
    assert isinstance(output, SbufTensor)

    def repeat(dst: View, src: View) -> None:
        src = src.broadcast(dst.shape[1:])
        if max(len(merge_dims(dst.dims)), len(merge_dims(src.dims))) <= MAX_ON_CHIP_DIMS:
            k.b.copy(dst, src)
            return
        with k.b.loop(dst.shape[1]) as i:
            repeat(dst.at(1, i), src.at(1, i))

    def one(start: Affine, size: int) -> None:
        with k.b.loop(shape[0]) as image:
            piece = {partition: (start, size), 0: (image, 1)}
            repeat(output.view(piece), x.load(k.b, partition, piece, None, k.b.rotation))

    k.b.tiles(shape[partition], LANES, one)


def lower_relayout(k: Kernel, op: RelayoutOp) -> None:
    """The same tensor where its layout wants it."""
    if relayout_pairs(k, op.x, op.result):
        return
    x = k.tensor(op.x)
    if wants_turning(k, op):
        lower_turned(k, op)
    elif isinstance(x, SbufTensor) and op.result in k.destinations:
        output = k.output(op.result)
        assert isinstance(output, DramTensor)
        materialize(k, x, output)
    else:
        settle(k, op.result, k.dram(op.x))


def reshape_resident(tensor: SbufTensor, shape: Sequence[int]) -> SbufTensor | None:
    """The same resident buffer with another shape; None where the partition dimension does not survive as it is."""
    if tensor.halo:
        return None
    before, size = prod(tensor.shape[: tensor.partition]), tensor.shape[tensor.partition]
    for d, n in enumerate(shape):
        if n == size and prod(shape[:d]) == before:
            return tensor.seen_as(shape, d)
    return None


def transpose_resident(tensor: SbufTensor, permutation: Sequence[int]) -> SbufTensor | None:
    """The same resident buffer transposed, or None where the other dimensions change their order."""
    others = [d for d in permutation if d != tensor.partition and tensor.shape[d] != 1]
    if tensor.halo or others != sorted(others):
        return None
    return tensor.seen_as([tensor.shape[d] for d in permutation], list(permutation).index(tensor.partition))


def _store_part(k: Kernel, tensor: SbufTensor, op: SliceOp) -> None:
    """A part of a resident tensor, within one tile of lanes, in DRAM; the tensor stays where it is."""
    output, partition = k.output(op.result), tensor.partition
    assert isinstance(output, DramTensor)
    starts, sizes = ints(op.starts), ints(op.sizes)
    lane = starts[partition] % LANES
    ranges = {d: (Affine(start), size) for d, (start, size) in enumerate(zip(starts, sizes, strict=True))}
    ranges[partition] = (Affine(starts[partition] - lane), lane + sizes[partition])
    order = [partition, *(d for d in range(len(sizes)) if d != partition)]
    transfer(k.b, k.b.store, output.view(order=order), tensor.view(ranges).slice(0, lane, sizes[partition]))


def _store_images(k: Kernel, tensor: SbufTensor, op: ReshapeOp) -> None:
    """Images that lie beside each other on the partitions, each into its place in DRAM."""
    output, together = k.output(op.result), images_apart(op)
    assert isinstance(output, DramTensor)
    assert together is not None
    (images, channels, *rest), spatial = output.shape, range(2, len(output.shape))
    pairs: list[tuple[View, View]] = []
    for first in range(together):
        window = output.slice(
            [first, 0, *(0 for _ in rest)],
            [images // together, channels, *rest],
            [together, *(1 for _ in output.shape[1:])],
        )
        source = tensor.view({}).slice(0, first * channels, channels)
        pairs.append((window.view(order=[1, 0, *spatial]), source))
    store_in_pieces(k.b, pairs)


def slice_resident(tensor: SbufTensor, op: SliceOp) -> SbufTensor | None:
    """Whole tiles of the partition dimension of a resident tensor; None for any other part of it."""
    starts, sizes, partition = ints(op.starts), ints(op.sizes), tensor.partition
    others = [d for d in range(len(sizes)) if d != partition]
    whole = all(sizes[d] == tensor.shape[d] for d in others) and all(step == 1 for step in ints(op.steps))
    if not whole or starts[partition] % LANES or sizes[partition] % LANES or tensor.halo or tensor.first_lane:
        return None
    first = tensor.first_tile + starts[partition] // LANES
    return replace(tensor, shape=tuple(sizes), first_tile=first)


def _fits_layout(k: Kernel, value: SSAValue, resident: SbufTensor) -> bool:
    """Whether a resident tensor has the layout that was decided for the value, if one was."""
    return k.residents.get(value, (resident.partition, resident.halo)) == (resident.partition, resident.halo)


# Concatenation


def lower_concat(k: Kernel, op: ConcatOp) -> None:
    """Each operand copied to its slice of the result, unless it was computed there."""
    axis = int(op.axis.value.data)
    if op.result in k.joined:
        _complete(k, op)
        return
    output = k.output(op.result)
    first = 0
    for x in op.xs:
        tensor = k.tensor(x)
        if isinstance(output, SbufTensor) and isinstance(tensor, SbufTensor) and output.partition != axis:
            copy_resident(k, tensor, output, axis, first)
        elif isinstance(output, SbufTensor):
            load_resident(k, k.dram(x), output, axis, first)
        else:
            materialize(k, tensor, output.part(axis, first, tensor.shape[axis]))
        first += tensor.shape[axis]


def _complete(k: Kernel, op: ConcatOp) -> None:
    """Load the operands of a concatenation in place that were not computed there."""
    output, first = k.part_of_whole(op.result), 0
    for x in op.xs:
        tensor = k.tensor(x)
        there = isinstance(tensor, SbufTensor) and tensor.buffer.key == output.buffer.key
        if not there and (output.buffer.key, first) not in k.filled:
            load_resident(k, k.dram(x), output, 1, first)
            k.filled.add((output.buffer.key, first))
        first += shape_of(x)[1]
    k.alias(op.result, output)


# Writing straight into place


def forward_destinations(k: Kernel, ops: Sequence[Operation]) -> None:
    """Give operands of reshapes and concatenations the place that they would be copied to, before anything is lowered.

    A value that is reshaped into a function output is computed in that output; the operands of a concatenation whose
    parts lie apart in memory, or in long runs, are computed in their parts. Only results of kernels that write
    somewhere anyway are placed. Readers of a placed value read it there.
    """
    for op in reversed(ops):
        if isinstance(op, ReshapeOp) and op.result in k.destinations:
            window = k.destinations[op.result].reshape(shape_of(op.x))
            if window is not None:
                _forward(k, op.x, window)
        elif isinstance(op, ConcatOp) and layout_of(op.result) is None:
            axis = int(op.axis.value.data)
            runs = sorted(prod(shape_of(x)[axis:]) * spec_of(x)[0].size_bytes for x in op.xs)
            # Where one part is most of the result, what the others take hardly matters.
            most = runs[-1] >= max(LEAST_RUN_BYTES, MOST_SHARE * sum(runs))
            if prod(shape_of(op.result)[:axis]) == 1 or runs[0] >= LEAST_RUN_BYTES or most:
                _forward_concat(k, op, axis)


def _forward_concat(k: Kernel, op: ConcatOp, axis: int) -> None:
    if not any(_writes(k, x) for x in op.xs):
        return
    if op.result not in k.destinations:
        k.b.location = op.location
        k.destinations[op.result] = k.scratch(op.result)
    output, first = k.destinations[op.result], 0
    for x in op.xs:
        size = shape_of(x)[axis]
        _forward(k, x, output.part(axis, first, size))
        first += size


def _forward(k: Kernel, value: SSAValue, window: DramTensor) -> None:
    if _writes(k, value):
        k.destinations[value] = window


def _writes(k: Kernel, value: SSAValue) -> bool:
    """Whether the value comes from a kernel that writes its result to DRAM scratch, maybe behind a reshape."""
    if value in k.destinations or layout_of(value) is not None:
        return False
    owner = value.owner
    windows = (TransposeOp, SliceOp, BroadcastOp)
    return isinstance(owner, Operation) and len(owner.operands) > 0 and not isinstance(owner, windows)


KERNELS: dict[type[Operation], Callable[[Kernel, Any], None]] = {
    RelayoutOp: lower_relayout,
    ReorderRowsOp: lower_reorder_rows,
    ReshapeOp: lower_reshape,
    TransposeOp: lower_transpose,
    SliceOp: lower_slice,
    BroadcastOp: lower_broadcast,
    ConcatOp: lower_concat,
}
