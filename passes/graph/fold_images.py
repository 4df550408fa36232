"""`graph-fold-images`: neighbouring images as more channels of one, so that few channels fill the tensor engine.

Two images of 64 channels are one of 128, and a convolution of either is a convolution of both in two groups with the
same filters twice. What it costs the engines is columns, of which there are half as many. Given core functions after
`graph-split-batch`, the pass folds the layers that keep images apart, each as `fold_plan` finds best for the whole
function; a reshape leads there and back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, prod

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, BlockArgument, Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.graph import (
    CastOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    PoolOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    WeightOp,
    YieldOp,
    ints,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.work import bytes_of
from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.remarks import listening, remark
from neuron_dialects.target import Target
from passes.graph.conv_groups import LANES
from passes.graph.fold_plan import (
    FOLDS,
    Convolution,
    Sweep,
    convolution_ns,
    plan_folds,
    round_trip_ns,
    stays_in_place,
    sweep_ns,
)
from passes.graph.image_copies import ImageCopies
from passes.graph.kernel_layouts import POINTWISE, anchor_of, holds_in_group
from passes.graph.pieces import rows_of_piece
from passes.graph.pixel_border import is_border
from passes.graph.residence import Halo, resident_bytes
from passes.graph.row_pairs import paired_layout

RESIDENT_SHARE = 0.52
"""Part of SBUF above which a tensor is taken to lie in DRAM, however its images are folded."""


@dataclass(frozen=True)
class GraphFoldImagesPass(ModulePass):
    """Fold images of core functions where that is estimated to be faster.

        %1 = graph.conv %x, %w ... groups 32 : (tensor<8x32x56x56xbf16>, ...) -> tensor<8x32x56x56xbf16>

    becomes

        %0 = graph.concat %w, %w, %w, %w axis 0 : ...
        %2 = graph.reshape %x : (tensor<8x32x56x56xbf16>) -> tensor<2x128x56x56xbf16>
        %3 = graph.conv %2, %0 ... groups 128 : (tensor<2x128x56x56xbf16>, ...) -> tensor<2x128x56x56xbf16>
        %1 = graph.reshape %3 : (tensor<2x128x56x56xbf16>) -> tensor<8x32x56x56xbf16>
    """

    name = "graph-fold-images"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Fold in every core function."""
        for function in core_functions(op):
            fold_block(function.body.block, target_of(op))


def fold_block(block: Block, target: Target) -> None:
    """Fold images in one block."""
    folded = {op: fold for op in block.ops if _has_pairs(op) and (fold := _fold_of(op)) > 1}
    apart = {value.owner for op in folded for value in _taken_apart(op)}
    kept = (op for op in block.ops if op in folded or not (_has_pairs(op) or op in apart))
    layers = [op for op in kept if is_layer(op) and not _moves_images(op, target)]
    if not any(images_of(op) > 1 for op in layers):
        return
    costs = [{folded[op]: 0.0} if op in folded else _costs(op, target) for op in layers]
    chosen = plan_folds(costs, _switches(layers, target))
    fold_layers(block, {op: fold for op, fold in zip(layers, chosen, strict=True) if fold > 1 and op not in folded})


def is_layer(op: Operation) -> bool:
    """Whether an op computes on something else than constants, and does more than to move rows of it."""
    return is_computed(op) and not _moves_rows(op)


def is_computed(op: Operation) -> bool:
    """Whether what an op makes depends on something else than constants."""
    return bool(op.results) and not all(is_constant(operand) for operand in op.operands)


def _has_pairs(op: Operation) -> bool:
    """Whether rows of what an op reads or makes lie in pairs on partitions, instead of images; or it makes an operand
    of such ops alone.
    """
    if any(paired_layout(value) is not None for value in (*op.operands, *op.results)):
        return True
    users = {use.operation for result in op.results for use in result.uses}
    return isinstance(op, CastOp) and bool(users) and all(_has_pairs(user) for user in users)


def _fold_of(op: Operation) -> int:
    """How many images lie beside each other in what an op makes, if these are taken apart behind it."""
    for result in op.results:
        whole = shape_of(result)
        for shape in map(shape_of, _taken_apart(op)):
            if shape[2:] == whole[2:] and shape[0] > whole[0] > 0:
                return shape[0] // whole[0]
    return 1


def _taken_apart(op: Operation) -> list[SSAValue]:
    """What an op makes in other shapes."""
    users = (use.operation for result in op.results for use in result.uses)
    return [user.result for user in users if isinstance(user, ReshapeOp)]


def _moves_rows(op: Operation) -> bool:
    """Whether an op takes bands of rows apart or puts them together: they lie in DRAM there, in any fold."""
    if isinstance(op, SliceOp):
        return len(shape_of(op.x)) > 2 and shape_of(op.x)[2] != shape_of(op.result)[2]
    return isinstance(op, ConcatOp) and op.axis.value.data == 2


def _moves_images(op: Operation, target: Target) -> bool:
    """Whether an op takes images apart or puts them together that are too large for the chip: any fold will do."""
    if isinstance(op, SliceOp):
        before, after, whole = shape_of(op.x), shape_of(op.result), op.x
    elif isinstance(op, ConcatOp) and op.axis.value.data == 0:
        before, after, whole = shape_of(op.xs[0]), shape_of(op.result), op.result
    else:
        return False
    if len(before) < 3 or before[1:] != after[1:]:
        return False
    images = shape_of(whole)[0]
    return not any(_fits_on_chip(whole, fold, target) for fold in FOLDS if images % fold == 0)


def images_of(op: Operation) -> int:
    """The images that `op` computes apart from each other, from as many; 1 where it does not, or cannot be folded."""
    shape = shape_of(op.results[0]) if op.results else ()
    if len(shape) < 3 or shape[0] < 2:
        return 1
    inside = {value for value in op.operands if not is_constant(value)}
    return shape[0] if keeps_images_apart(op, inside, shape[0]) and _has_channels(op, inside) else 1


def folds_of(op: Operation, parts: int = 1) -> list[int]:
    """How many images `op` can take as one, where it computes one of so many parts of them."""
    images = images_of(op) // parts
    return [1, *(fold for fold in FOLDS[1:] if images % fold == 0 and images)]


def _has_channels(op: Operation, inside: set[SSAValue]) -> bool:
    """Whether what `op` reads and makes of images has channels, the same ones in every pointwise operator."""
    if isinstance(op, FusedOp):
        below: set[SSAValue] = {a for a, x in zip(op.body.block.args, op.operands, strict=True) if x in inside}
        for inner in op.body.block.ops:
            if any(operand in below for operand in inner.operands):
                if not isinstance(inner, YieldOp) and not _has_channels(inner, below):
                    return False
                below.update(inner.results)
        return True
    shapes = [shape_of(value) for value in (*op.results, *(x for x in op.operands if x in inside))]
    same = not isinstance(op, POINTWISE) or len({shape[1:2] for shape in shapes}) == 1
    return same and all(len(shape) > 2 for shape in shapes)


def keeps_images_apart(op: Operation, inside: set[SSAValue], batch: int) -> bool:
    """Whether the results of `op` have one position for each image, which depends on that image alone.

    `inside`: the values that have one position for each image.
    """
    if isinstance(op, FusedOp):
        return holds_in_group(op, inside, lambda inner, below: keeps_images_apart(inner, below, batch))
    if any(shape_of(v)[:1] != (batch,) for v in (*op.results, *(x for x in op.operands if x in inside))):
        return False
    if isinstance(op, ConvOp):
        return op.w not in inside
    if isinstance(op, PoolOp):
        return True
    if isinstance(op, ReduceOp):
        return bool(op.keep_dims) and all(axis > 1 for axis in ints(op.axes))
    if not isinstance(op, POINTWISE):
        return False
    rank = len(shape_of(op.results[0]))
    return all(
        len(shape_of(x)) == rank if x in inside else len(shape_of(x)) < rank or shape_of(x)[0] == 1 for x in op.operands
    )


def is_constant(value: SSAValue) -> bool:
    """Whether a value is a weight or a constant, maybe in another shape."""
    owner = value.owner
    if isinstance(owner, ReshapeOp):
        return is_constant(owner.x)
    return isinstance(owner, WeightOp | ConstantOp)


# -- estimates ---------------------------------------------------------------------------------------------------------


def _costs(op: Operation, target: Target) -> dict[int, float]:
    """Estimated time of a kernel by the number of images that it takes as one."""
    # A chain takes images one by one.
    chained = any(rows_of_piece(value) is not None for value in (*op.operands, *op.results))
    if images_of(op) == 1 or chained:
        return {1: 0.0}
    anchor, result = anchor_of(op), op.results[0]
    sweep = _sweep(op)
    convolution = _convolution(anchor) if isinstance(anchor, ConvOp) else None
    costs: dict[int, float] = {}
    for fold in folds_of(op):
        stored = sweep.passes > 0 and not _fits_on_chip(result, fold, target)
        cost = sweep_ns(sweep, fold, target, stored)
        if convolution is not None:
            cost = max(cost, convolution_ns(convolution, fold, target))
            if not stored and not stays_in_place(convolution, fold):
                cost += round_trip_ns(bytes_of(result.type), target)
        costs[fold] = cost
    return costs


def _sweep(op: Operation) -> Sweep:
    """The elementwise work of a kernel on its result."""
    anchor, result = anchor_of(op), op.results[0]
    dtype, (images, channels, *spatial) = spec_of(result)
    inner = [op]
    if isinstance(op, FusedOp):
        inner = [x for x in op.body.block.ops if isinstance(x, POINTWISE) and not is_border(x)]
    passes = max(1.0, len(inner) - isinstance(anchor, ConvOp))
    if isinstance(anchor, PoolOp):
        passes = float(prod(ints(anchor.kernel)))
    if isinstance(op, CastOp) and comes_from_dram(op.x):
        passes = 0.0  # part of the loads of its result
    pixels = prod(spatial)
    if isinstance(anchor, ReduceOp):
        pixels = prod(shape_of(anchor.x)[2:])
    return Sweep(images, channels, pixels, passes, dtype.size_bytes)


def engine_ns(op: Operation, target: Target, parts: int = 1) -> float:
    """Estimated time of the busiest engine for a kernel on feature maps, with images folded as it is fastest.

    `parts`: the kernel computes so many equal parts of the images one after the other.
    """
    anchor, sweep = anchor_of(op), _sweep(op)
    folds = folds_of(op, parts)
    sweep = replace(sweep, images=sweep.images // parts)
    least = parts * min(sweep_ns(sweep, fold, target, stored=False) for fold in folds)
    if isinstance(anchor, ConvOp):
        whole = _convolution(anchor)
        part = replace(whole, images=whole.images // parts)
        return max(least, parts * min(convolution_ns(part, fold, target) for fold in folds))
    if isinstance(anchor, ConvTransposeOp):
        channels, outputs, *window = shape_of(anchor.w)
        tiles = ceil(channels / LANES) * ceil(outputs / LANES)
        moving = shape_of(anchor.x)[0] * prod(shape_of(anchor.x)[2:])
        return max(least, tiles * prod(window) * moving / target.clock_ghz("pe"))
    return least


def _convolution(op: ConvOp) -> Convolution:
    images, outputs, *spatial = shape_of(op.result)
    window = shape_of(op.w)[2:]
    return Convolution(
        images,
        shape_of(op.x)[1],
        outputs,
        op.groups.value.data,
        prod(spatial),
        prod(window),
        prod(window if len(window) == 1 else window[:-1]),
        comes_from_dram(op.x),
        spec_of(op.w)[0].size_bytes,
    )


def comes_from_dram(value: SSAValue) -> bool:
    """Whether a value is an input of the function, in whatever part, shape or type."""
    if isinstance(value, BlockArgument):
        parent = value.block.parent_op()
        if isinstance(parent, FusedOp):
            return comes_from_dram(parent.operands[value.index])
        return True
    return isinstance(value.owner, CastOp | SliceOp | ReshapeOp) and comes_from_dram(value.owner.operands[0])


def _fits_on_chip(value: SSAValue, fold: int, target: Target) -> bool:
    """Whether a tensor with so many images taken as one is small enough to be kept on chip."""
    dtype, shape = spec_of(value)
    return folded_bytes(shape, (), dtype.size_bytes, fold) <= RESIDENT_SHARE * int(target.sbuf_bytes_per_partition)


def folded_bytes(shape: Sequence[int], halo: Halo, element_bytes: int, fold: int) -> int:
    """SBUF bytes per partition of a tensor with channels on partitions and so many images taken as one."""
    if len(shape) < 2:
        return 0
    images, channels, *rest = shape
    return resident_bytes((images // fold, channels * fold, *rest), 1, halo, element_bytes)


def _switches(layers: Sequence[Operation], target: Target) -> list[float]:
    """What it costs to change the fold in front of each layer: all that crosses there and could stay on chip."""
    number = {op: i for i, op in enumerate(layers)}
    changes = [0.0] * (len(layers) + 1)
    for first, op in enumerate(layers):
        for value in _taken_apart(op) if _has_pairs(op) else op.results:
            shape = shape_of(value)
            if comes_from_dram(value) or len(shape) < 3:
                continue
            if not any(shape[0] % fold == 0 and _fits_on_chip(value, fold, target) for fold in FOLDS):
                continue
            last = max((number.get(use.operation, first) for use in value.uses), default=first)
            cost = round_trip_ns(bytes_of(value.type), target)
            changes[first + 1] += cost
            changes[last + 1] -= cost
    return list(accumulate(changes[:-1]))


# -- rewriting ---------------------------------------------------------------------------------------------------------


def fold_layers(block: Block, folds: dict[Operation, int]) -> dict[SSAValue, SSAValue]:
    """Replace layers by copies that take as many images as one; what they made -> what the copies make."""
    copies = {fold: ImageCopies(block, fold, fold) for fold in set(folds.values())}
    made: dict[SSAValue, SSAValue] = {}  # value with images apart -> the folded one that it was made of
    folded: dict[SSAValue, SSAValue] = {}
    for op, fold in folds.items():
        copy = copies[fold]
        mapping: dict[SSAValue, SSAValue] = {}
        for value in dict.fromkeys(x for x in op.operands if not is_constant(x)):
            source = made.get(value, value.owner.x if isinstance(value.owner, ReshapeOp) else None)
            if source is None or shape_of(source) != copy.shape(shape_of(value)):
                reshape = ReshapeOp(value, copy.shape(shape_of(value)))
                reshape.location = op.location
                block.insert_op_before(reshape, op)
                source = reshape.result
            mapping[value] = source
        results = list(op.results)
        clone = copy.clone(op, mapping)
        block.insert_op_before(clone, op)
        for old, new in zip(results, clone.results, strict=True):
            back = ReshapeOp(new, shape_of(old))
            back.location = op.location
            back.result.name_hint = old.name_hint
            block.insert_op_before(back, op)
            made[back.result] = folded[old] = new
            old.replace_all_uses_with(back.result)
        block.erase_op(op)
        if listening():
            remark("passed", "fold", f"{fold} images are taken as one of more channels", op=clone, images=fold)
    for value in made:
        if value.first_use is None:
            assert isinstance(value.owner, Operation)
            block.erase_op(value.owner)
    return folded
