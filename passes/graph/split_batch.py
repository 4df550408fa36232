"""`graph-split-batch`: run the first layers of an image network for a few images at a time.

Given core functions after `graph-fuse`. The feature maps of the first layers are the largest, in convolutional networks
and in those that attend in windows: of a whole batch they do not fit on chip, of some of its images they do. The pass
finds the run of layers from the inputs to the last one whose live tensors exceed the budget, and leaves one copy of it
for each part of the batch, between slices of the inputs and concatenations of what later layers read. Concatenations of
channels may be among the layers: all that they put together lies in one place, as `joined` has it. `plan_split` is the
choice as plain arithmetic; the pass applies it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import AttentionOp, CastOp, ConcatOp, ConvOp, ReduceOp, SliceOp, shape_of, spec_of
from neuron_dialects.neuron import core_functions, target_of
from passes.graph.fold_images import folded_bytes, folds_of, keeps_images_apart
from passes.graph.image_copies import ImageCopies
from passes.graph.image_rows import keeps_rows_apart, live_row_bytes
from passes.graph.joined import CHANNELS, joins, source_of
from passes.graph.kernel_layouts import merge_halo, reads
from passes.graph.layout import BUDGET_SHARE
from passes.graph.pieces import ring_bytes, rows_of_piece
from passes.graph.residence import Halo, Interval, inheritance, live_profile

Apart = Callable[[Operation, set[SSAValue], int], bool]
"""Whether an operator keeps the images of a batch apart, given the values that have one part for each image."""

Room = Callable[[Sequence[Operation], int], tuple[list[int], list[int]]]
"""Bytes of a partition that are live at each layer for one of so many parts of the batch, and that cross its end."""

MAX_PARTS = 5
"""Most parts of a batch: each is a copy of the code."""

WEIGHED_SIZE = 8 / 7
"""A map that is weighed by what its mean gives counts as so many: in bands of rows (`graph-depth-first`) nothing of it
would stay on chip, so that there has to be room for it however its images are folded."""

SAME_SHARE = 6
"""What crosses the end of a layer is the same as before if it changes by one part in so many at most: layers on the
mean of a map, and what weighs the map by their results, stand between it and the convolution that makes it narrow."""


@dataclass(frozen=True)
class Split:
    """The first `layers` layers run for `images` images at a time."""

    layers: int
    images: int


def plan_split(batch: int, live: Mapping[int, Sequence[float]], crossing: Sequence[int], capacity: int) -> Split | None:
    """How to split a run of layers, given the bytes of a partition that are live at each layer for one of so many parts
    of the batch, and those that later layers read, for the whole batch.

    The run ends behind the last layer that is over `capacity`, or further on as long as layers halve what crosses their
    ends. Parts are as large as all of its layers allow. None where nothing has to be split, or no part is small
    enough.
    """
    over = [i for i, size in enumerate(live[1]) if size > capacity]
    for parts in sorted(live) if over else ():
        if all(live[parts][i] <= capacity for i in over):
            last = over[-1]
            return Split(_end(crossing, last) + 1, batch // parts)
    return None


def _end(crossing: Sequence[int], last: int) -> int:
    """The last layer of a run that goes on behind `last` as long as the next layer, or the first one behind layers that
    leave what crosses as it is, halves that.
    """
    following = last + 1
    while following < len(crossing):
        if 2 * crossing[following] <= crossing[last]:
            last = following
        elif SAME_SHARE * abs(crossing[following] - crossing[last]) > crossing[last]:
            break
        following += 1
    return last


@dataclass(frozen=True)
class GraphSplitBatchPass(ModulePass):
    """Split the batch of the first layers of core functions.

        %1 = graph.conv %x, %w ... : (tensor<8x3x224x224xbf16>, ...) -> tensor<8x64x224x224xbf16>
        %2 = graph.pool max %1 ... : (tensor<8x64x224x224xbf16>) -> tensor<8x64x56x56xbf16>

    becomes, where a feature map of four images fits on chip,

        %a = graph.slice %x starts [0, 0, 0, 0] sizes [4, 3, 224, 224] ...
        %b = graph.conv %a, %w ... -> tensor<4x64x224x224xbf16>
        %c = graph.pool max %b ... -> tensor<4x64x56x56xbf16>
        ...
        %2 = graph.concat %c, %f axis 0 : ... -> tensor<8x64x56x56xbf16>
    """

    name = "graph-split-batch"

    budget_share: float | int = BUDGET_SHARE

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Split in every core function."""
        capacity = int(int(target_of(op).sbuf_bytes_per_partition) * self.budget_share)
        for function in core_functions(op):
            split_block(function.body.block, capacity)


def split_block(block: Block, capacity: int) -> None:
    """Split the first layers of one block."""
    batches = {shape_of(argument)[0] for argument in block.args if shape_of(argument)}
    if len(batches) != 1 or (batch := batches.pop()) < 2:
        return
    parts = [count for count in range(1, min(batch, MAX_PARTS) + 1) if batch % count == 0]
    for mark, apart, room in KINDS:
        layers, inside = _leading_layers(block, batch, apart)
        if not any(isinstance(inner, mark) for layer in layers for inner in layer.walk()):
            continue
        live = {count: room(layers, count)[0] for count in parts}
        plan = plan_split(batch, live, room(layers, 1)[1], capacity)
        if plan is not None:
            split_layers(layers[: plan.layers], batch, plan.images, inside)
            return


def _leading_layers(block: Block, batch: int, apart: Apart) -> tuple[list[Operation], set[SSAValue]]:
    """The ops, up to the first that mixes images, that compute on the function's arguments; and what they read and make
    of each image.
    """
    inside: set[SSAValue] = {*block.args}
    layers: list[Operation] = []
    for op in block.ops:
        if any(operand in inside for operand in op.operands):
            if not apart(op, inside, batch):
                break
            layers.append(op)
            inside.update(op.results)
    return layers, inside


def _joins_channels(op: Operation, inside: set[SSAValue], batch: int) -> bool:
    """Whether `op` puts channels of the same images together."""
    if not isinstance(op, ConcatOp) or op.axis.value.data < 1:
        return False
    return all(x in inside and shape_of(x)[0] == batch for x in op.xs)


def _live_bytes(layers: Sequence[Operation], parts: int) -> tuple[list[int], list[int]]:
    """Bytes of a partition, with channels on the partitions, that results of layers take at each layer for one of so
    many parts of the batch; and of those the bytes that later ops read.

    Images may be folded later on. A cast of an argument takes none: it is part of the loads of its result.
    """
    number = {op: i for i, op in enumerate(layers)}
    intervals: list[Interval] = []
    joined = set[SSAValue]()
    for join in joins(layers):
        # What is put together shares the place of the whole.
        values = {source_of(value) for value in (*join.leaves, *(op.result for op in join.all))}
        made = {value for value in values if value.owner in number}
        joined |= made
        users = [use.operation for value in made for use in value.uses]
        first = min(number[value.owner] for value in made if isinstance(value.owner, Operation))
        last = max((number.get(user, len(layers)) for user in users), default=first)
        intervals.append(Interval(first, last, _part_bytes(join.whole.result, join.whole, parts)))
    for first, op in enumerate(layers):
        for value in () if isinstance(op, CastOp) and isinstance(op.x, BlockArgument) else op.results:
            if value in joined:
                continue
            users = [use.operation for use in value.uses]
            last = max((number.get(user, len(layers)) for user in users), default=first)
            # A sum takes the place of a residual that nobody reads afterwards.
            residual = inheritance(op, value)
            gone = residual is not None and all(
                number.get(use.operation, len(layers)) <= first for use in residual.uses
            )
            intervals.append(Interval(first + int(gone), last, _part_bytes(value, op, parts)))
    return live_profile(len(layers), intervals)


def _part_bytes(value: SSAValue, op: Operation, parts: int) -> int:
    """Bytes of a partition of one of so many parts of a result of `op`, with what is padding for its readers."""
    if (rows := rows_of_piece(value)) is not None:
        return ring_bytes(value, rows)
    halo: Halo = ()
    for use in value.uses:
        halo = merge_halo(halo, reads(use.operation, value, CHANNELS) or ())
    dtype, shape = spec_of(value)
    part = (shape[0] // parts, *shape[1:])
    size = min(folded_bytes(part, halo, dtype.size_bytes, fold) for fold in folds_of(op, parts))
    users = {use.operation for use in value.uses}
    weighed = len(users) > 1 and any(isinstance(user, ReduceOp) for user in users)
    return int(size * WEIGHED_SIZE) if weighed else size


def _keeps_images(op: Operation, inside: set[SSAValue], batch: int) -> bool:
    """Whether `op` keeps images apart, or puts their channels together."""
    return _joins_channels(op, inside, batch) or keeps_images_apart(op, inside, batch)


def _keeps_apart(op: Operation, inside: set[SSAValue], batch: int) -> bool:
    """Whether `op` keeps images apart, or rows of them."""
    return keeps_images_apart(op, inside, batch) or keeps_rows_apart(op, inside, batch)


KINDS: tuple[tuple[type[Operation], Apart, Room], ...] = (
    (ConvOp, _keeps_images, _live_bytes),
    (AttentionOp, _keeps_apart, live_row_bytes),
)
"""For each kind of network: what it has among its layers, which of them keep images apart, what room these take."""


def split_layers(layers: Sequence[Operation], batch: int, images: int, inside: Collection[SSAValue]) -> None:
    """Replace `layers`, which keep images apart, by a copy for every `images` images of `batch`.

    `inside`: values with a part for each image; those that the layers only read have one position for each.
    """
    block, last = layers[0].parent_block(), layers[-1]
    assert block is not None
    made = {value for op in layers for value in op.results}
    inputs = list(dict.fromkeys(x for op in layers for x in op.operands if x in inside and x not in made))
    chosen = set(layers)
    outputs = [value for value in made_in_order(layers) if any(use.operation not in chosen for use in value.uses)]
    parts: dict[SSAValue, list[SSAValue]] = {value: [] for value in outputs}
    copies = ImageCopies(block, batch // images)
    place = last
    for first in range(0, batch, images):
        mapping: dict[SSAValue, SSAValue] = {}
        new: list[Operation] = []
        for value in inputs:
            rest = shape_of(value)[1:]
            cut = SliceOp(value, (first, *(0 for _ in rest)), (images, *rest), (1,) * (1 + len(rest)))
            cut.location = layers[0].location
            new.append(cut)
            mapping[value] = cut.result
        new += [copies.clone(op, mapping) for op in layers]
        for value in outputs:
            parts[value].append(mapping[value])
        block.insert_ops_after(new, place)
        place = new[-1]
    for value in outputs:
        whole = ConcatOp(parts[value], 0)
        whole.location = last.location
        whole.result.name_hint = value.name_hint
        block.insert_op_after(whole, place)
        place = whole
        value.replace_uses_with_if(whole.result, lambda use: use.operation not in chosen)
    for op in reversed(layers):
        block.erase_op(op)


def made_in_order(layers: Sequence[Operation]) -> list[SSAValue]:
    """The results of the layers, in program order."""
    return [value for op in layers for value in op.results]
