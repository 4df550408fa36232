"""`graph-split-batch`: run the first layers of a convolutional network for a few images at a time.

Given core functions after `graph-fuse`. The feature maps of the first layers are the largest: of a whole batch they do
not fit on chip, of some of its images they do. The pass finds the run of layers from the inputs to the last one whose
live tensors exceed the budget, and leaves one copy of it for each part of the batch, between slices of the inputs and
concatenations of what later layers read. `plan_split` is the choice as plain arithmetic; the pass applies it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import func
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import CastOp, ConcatOp, ConvOp, FusedOp, PoolOp, SliceOp, YieldOp, shape_of, spec_of
from neuron_dialects.neuron import Executor, ExecutorAttr, target_of
from passes.graph.fold_images import FoldedImages, images_together
from passes.graph.kernel_layouts import POINTWISE, merge_halo, reads
from passes.graph.layout import BUDGET_SHARE
from passes.graph.residence import Halo, inheritance, resident_bytes

MAX_PARTS = 5
"""Most parts of a batch: each is a copy of the code."""


@dataclass(frozen=True)
class Split:
    """The first `layers` layers run for `images` images at a time."""

    layers: int
    images: int


def plan_split(batch: int, live: Sequence[int], crossing: Sequence[int], capacity: int) -> Split | None:
    """How to split a run of layers, given the bytes of a partition that are live at each layer, and those that later
    layers read, for the whole batch.

    The run ends behind the last layer that is over `capacity`, or further on as long as each layer halves what crosses
    its end. Parts are as large as all of its layers allow. None where nothing has to be split, or no part is small
    enough.
    """
    over = [i for i, size in enumerate(live) if size > capacity]
    for parts in range(2, min(batch, MAX_PARTS) + 1) if over else ():
        if batch % parts == 0 and all(live[i] <= capacity * parts for i in over):
            last = over[-1]
            while last + 1 < len(live) and 2 * crossing[last + 1] <= crossing[last]:
                last += 1
            return Split(last + 1, batch // parts)
    return None


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
        core = ExecutorAttr(Executor.CORE)
        capacity = int(int(target_of(op).sbuf_bytes_per_partition) * self.budget_share)
        columns = int(target_of(op).pe_columns)
        for function in op.body.block.ops:
            if isinstance(function, func.FuncOp) and function.attributes.get("neuron.executor") == core:
                split_block(function.body.block, capacity, columns)


def split_block(block: Block, capacity: int, columns: int = 0) -> None:
    """Split the first layers of one block, for a tensor engine whose array has so many columns."""
    batches = {shape_of(argument)[0] for argument in block.args if shape_of(argument)}
    if len(batches) != 1 or (batch := batches.pop()) < 2:
        return
    layers, inside = _leading_layers(block, batch)
    if not any(isinstance(inner, ConvOp) for layer in layers for inner in layer.walk()):
        return
    plan = plan_split(batch, *_live_bytes(layers), capacity)
    if plan is not None:
        _apply(layers[: plan.layers], inside, batch, plan.images, columns)


def _leading_layers(block: Block, batch: int) -> tuple[list[Operation], set[SSAValue]]:
    """The ops, up to the first that mixes images, that compute on the function's arguments; and what they read and make
    of each image.
    """
    inside: set[SSAValue] = {*block.args}
    layers: list[Operation] = []
    for op in block.ops:
        if any(operand in inside for operand in op.operands):
            if not _keeps_images_apart(op, inside, batch):
                break
            layers.append(op)
            inside.update(op.results)
    return layers, inside


def _keeps_images_apart(op: Operation, inside: set[SSAValue], batch: int) -> bool:
    """Whether the results of `op` have one position for each image, which depends on that image alone.

    `inside`: the values that have one position for each image.
    """
    if isinstance(op, FusedOp):
        below: set[SSAValue] = {a for a, x in zip(op.body.block.args, op.operands, strict=True) if x in inside}
        for inner in op.body.block.ops:
            if isinstance(inner, YieldOp):
                return all(value in below for value in inner.values)
            if any(operand in below for operand in inner.operands):
                if not _keeps_images_apart(inner, below, batch):
                    return False
                below.update(inner.results)
        return False
    if any(shape_of(v)[:1] != (batch,) for v in (*op.results, *(x for x in op.operands if x in inside))):
        return False
    if isinstance(op, ConvOp):
        return op.w not in inside
    if isinstance(op, PoolOp):
        return True
    if not isinstance(op, POINTWISE):
        return False
    rank = len(shape_of(op.results[0]))
    return all(
        len(shape_of(x)) == rank if x in inside else len(shape_of(x)) < rank or shape_of(x)[0] == 1 for x in op.operands
    )


def _live_bytes(layers: Sequence[Operation]) -> tuple[list[int], list[int]]:
    """Bytes of a partition, with channels on the partitions, that results of layers take at each layer; and of those
    the bytes that later ops read.

    A cast of an argument takes none: it is part of the loads of its result.
    """
    number = {op: i for i, op in enumerate(layers)}
    live, crossing = [0] * len(layers), [0] * len(layers)
    for first, op in enumerate(layers):
        for value in () if isinstance(op, CastOp) and isinstance(op.x, BlockArgument) else op.results:
            users = [use.operation for use in value.uses]
            halo: Halo = ()
            for user in users:
                halo = merge_halo(halo, reads(user, value, 1) or ())
            dtype, shape = spec_of(value)
            size = resident_bytes(shape, 1, halo, dtype.size_bytes) if len(shape) > 1 else 0
            last = max((number.get(user, len(layers)) for user in users), default=first)
            # A sum takes the place of a residual that nobody reads afterwards.
            residual = inheritance(op, value)
            gone = residual is not None and all(
                number.get(use.operation, len(layers)) <= first for use in residual.uses
            )
            for i in range(first + int(gone), min(last + 1, len(layers))):
                live[i] += size
                crossing[i] += size if i < last else 0
    return live, crossing


def _apply(layers: Sequence[Operation], inside: set[SSAValue], batch: int, images: int, columns: int) -> None:
    """Replace `layers` by a copy for every `images` images, for an array of so many columns."""
    block, last = layers[0].parent_block(), layers[-1]
    assert block is not None
    made = {value for op in layers for value in op.results}
    inputs = list(dict.fromkeys(x for op in layers for x in op.operands if x in inside and x not in made))
    chosen = set(layers)
    outputs = [value for value in made_in_order(layers) if any(use.operation not in chosen for use in value.uses)]
    parts: dict[SSAValue, list[SSAValue]] = {value: [] for value in outputs}
    together = images_together(layers, inside, images, columns)
    copies = FoldedImages(block, inside, images, together)
    place = last
    for first in range(0, batch, images):
        mapping: dict[SSAValue, SSAValue] = {}
        new: list[Operation] = []
        for value in inputs:
            rest = shape_of(value)[1:]
            cut = SliceOp(value, (first, *(0 for _ in rest)), (images, *rest), (1,) * (1 + len(rest)))
            new.append(cut)
            if together > 1:
                new.append(copies.fold(cut.result))
            mapping[value] = new[-1].results[0]
        for cut in new:
            cut.location = layers[0].location
        new += [copies.clone(op, mapping) for op in layers]
        for value in outputs:
            if together > 1:
                new.append(copies.unfold(mapping[value]))
                new[-1].location = last.location
                mapping[value] = new[-1].results[0]
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
