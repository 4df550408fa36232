"""What kernels can do with tensors in SBUF: which dimension they read or leave on partitions, with which halo.

`graph-layout` asks this for every operator before it keeps a tensor on chip; kernels ask the same of their operands.
"""

from collections.abc import Callable, Sequence
from math import prod

from xdsl.ir import BlockArgument, Operation, SSAValue, Use

from neuron_dialects.dtypes import BF16, F16, DType
from neuron_dialects.graph import (
    AttentionOp,
    BinaryOp,
    BroadcastOp,
    CastOp,
    ClipOp,
    CompareOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    ConvTransposeOp,
    FusedOp,
    GatherOp,
    LayerNormOp,
    MatMulOp,
    PoolOp,
    ReduceOp,
    RelayoutOp,
    ReorderRowsOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    SoftmaxOp,
    TransposeOp,
    UnaryOp,
    YieldOp,
    ints,
    layout_of,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.attention import packs_heads
from passes.graph.conv_groups import LANES, plan_groups
from passes.graph.gathered_sums import sums_of_group
from passes.graph.residence import Halo
from passes.graph.row_pairs import halo_for_pairs
from passes.graph.sample_products import features_of_group, is_sample_products

ROWS, FEATURES = 0, 1
"""Dimensions of a matrix."""

BANDS = "graph.bands"
"""Attribute of a depthwise convolution whose kernel brings rows of channels on partitions, and makes its border."""

KEEPS_WEIGHTS = "graph.keeps_weights"
"""Attribute of a convolution whose weights stay on chip for other kernels with them, which compute other images."""

POINTWISE = (UnaryOp, BinaryOp, CompareOp, SelectOp, ClipOp, CastOp)

THIN_CHANNELS = 16
"""Most input channels of a convolution whose taps are put beside each other on partitions."""


SMALL_PART = 4
"""A slice is stored apart from what it is a part of where that is so many times as large."""


SHORT_ROW = 256
"""The longest rows of which normalisation works on several in a lane where they lie on chip."""


def conv_halo(op: ConvOp) -> Halo:
    """Zeros that a convolution reads around its input, for batch and spatial dimensions."""
    spatial = len(shape_of(op.x)) - 2
    pads, strides, dilations = ints(op.pads), ints(op.strides), ints(op.dilations)
    pairs: list[tuple[int, int]] = [(0, 0)]
    for d in range(spatial):
        size, output, taps = shape_of(op.x)[2 + d], shape_of(op.result)[2 + d], shape_of(op.w)[2 + d]
        reach = (output - 1) * strides[d] + (taps - 1) * dilations[d] + 1
        pairs.append((pads[d], max(0, reach - size - pads[d])))
    return tuple(pairs)


def transposed_halo(op: ConvTransposeOp) -> Halo:
    """Zeros that the phases of a transposed convolution read around its input, for batch and spatial dimensions.

    Output o takes tap t from input (o + pad - t * dilation) / stride where that has no remainder.
    """
    pairs: list[tuple[int, int]] = [(0, 0)]
    for d in range(len(shape_of(op.x)) - 2):
        size, output, taps = shape_of(op.x)[2 + d], shape_of(op.result)[2 + d], shape_of(op.w)[2 + d]
        stride, pad, dilation = ints(op.strides)[d], ints(op.pads)[d], ints(op.dilations)[d]
        shifts = [pad - t * dilation for t in range(taps)]
        least = min((o + s) // stride for o in range(min(stride, output)) for s in shifts)
        most = max((o + s) // stride for o in range(max(0, output - stride), output) for s in shifts)
        pairs.append((max(0, -least), max(0, most - size + 1)))
    return tuple(pairs)


def spreads_taps(op: Operation) -> bool:
    """Whether the anchor of `op` is a convolution of so few channels that, from DRAM, its taps go on partitions."""
    anchor = anchor_of(op)
    if not isinstance(anchor, ConvOp):
        return False
    if plan_groups(shape_of(anchor.x)[1], shape_of(anchor.result)[1], anchor.groups.value.data).blocks > 1:
        return False
    channels, taps = shape_of(anchor.x)[1], shape_of(anchor.w)[2:]
    outer = prod(taps if len(taps) == 1 else taps[:-1])
    return outer > 1 and channels <= THIN_CHANNELS and channels * outer <= LANES


def merge_halo(first: Halo, second: Halo) -> Halo:
    """The larger of two halos, dimension by dimension; an empty one is all zeros."""
    if not first or not second:
        return first or second
    return tuple((max(a, c), max(b, d)) for (a, b), (c, d) in zip(first, second, strict=True))


def reads(op: Operation, operand: SSAValue, partition: int) -> Halo | None:
    """The halo with which `op` reads `operand` resident with `partition` on partitions; None when it cannot."""
    shape = shape_of(operand)
    if isinstance(op, FusedOp):
        return _fused_reads(op, operand, partition)
    if isinstance(op, ConvOp) and BANDS in op.attributes:
        return () if operand is op.x and partition == 1 else None
    if isinstance(op, ConvOp):
        groups = plan_groups(shape_of(op.x)[1], shape_of(op.result)[1], op.groups.value.data)
        aligned = groups.blocks == 1 or groups.block_inputs % LANES == 0
        plain = operand is op.x and operand is not op.w and partition == 1
        return halo_for_pairs(op, conv_halo(op)) if plain and aligned else None
    if isinstance(op, ConvTransposeOp):
        plain = operand is op.x and operand is not op.w and partition == 1 and op.groups.value.data == 1
        return transposed_halo(op) if plain else None
    if isinstance(op, AttentionOp):
        if operand is op.mask:
            return () if partition == 2 and _is_shared_mask(op) else None
        return () if partition == 2 and packs_heads(op.head_size) else None
    if isinstance(op, RelayoutOp):
        return ()
    if isinstance(op, TransposeOp):
        return () if partition == 1 and is_normalised_last(op) else None
    if isinstance(op, ReorderRowsOp):
        return () if partition == FEATURES else None
    if isinstance(op, ReshapeOp):
        return () if partition == 1 and images_apart(op) is not None and _is_part(op.result) else None
    if isinstance(op, SliceOp):
        return () if _stores_part(op, partition) else None
    if isinstance(op, ConcatOp):
        return () if _joins_columns(op, partition) or (partition == 1 and joins_images(op)) else None
    if isinstance(op, MatMulOp):
        if is_sample_products(op):
            return () if partition == 0 else None
        plain = operand is op.a and operand is not op.b and not op.transpose_a
        if plain and is_matrix_product(op) and partition in (ROWS, FEATURES):
            return ()
        rows = partition == matmul_rows(op) and shape[:-2] == shape_of(op.result)[:-2]
        return () if plain and rows else None
    if isinstance(op, PoolOp):
        return () if partition == 1 else None
    if isinstance(op, BroadcastOp):
        return () if _repeats_beside(op, partition) else None
    if isinstance(op, SoftmaxOp):
        return () if partition != op.axis.value.data else None
    if isinstance(op, LayerNormOp):
        return () if operand is op.x and partition < op.axis.value.data else None
    if isinstance(op, ReduceOp):
        return () if _reduces_beside(op, partition) else None
    if isinstance(op, POINTWISE):
        return () if _sweeps_along(shape, shape_of(op.results[0]), partition) else None
    return None


def is_normalised_last(op: TransposeOp) -> bool:
    """Whether the channels of feature maps are put last for a layer normalisation alone, of the matrix of all pixels.

    Its kernel turns tiles of pixels that lie on chip with channels on partitions.
    """
    rank, dtype = len(shape_of(op.x)), spec_of(op.x)[0]
    if rank < 3 or ints(op.permutation) != (0, *range(2, rank), 1) or not op.result.has_one_use():
        return False
    user = next(iter(op.result.uses)).operation
    return isinstance(user, ReshapeOp) and all(
        isinstance(use.operation, LayerNormOp) and normalises_turned(shape_of(user.result), dtype, use)
        for use in user.result.uses
    )


def normalises_turned(shape: Sequence[int], dtype: DType, use: Use) -> bool:
    """Whether a layer normalisation of a matrix can read it with features on partitions: whole tiles of short rows."""
    plain = len(shape) == 2 and use.index == 0 and isinstance(use.operation, LayerNormOp)
    short = plain and 0 < shape[1] <= SHORT_ROW and shape[0] > LANES and shape[0] % LANES == 0
    return short and dtype in (BF16, F16)


def _repeats_beside(op: BroadcastOp, partition: int) -> bool:
    """Whether a tensor of images, with channels on partitions, is repeated along other dimensions, as by a resize."""
    before, after = shape_of(op.x), shape_of(op.result)
    return partition == 1 and len(before) == len(after) > 3 and before[:2] == after[:2]


def _joins_columns(op: ConcatOp, partition: int) -> bool:
    """Whether matrices that are put together side by side lie with rows on partitions: parts from other stages, which
    come on chip either way.
    """
    arrives = any(isinstance(x, BlockArgument) for x in op.xs)
    return arrives and len(shape_of(op.result)) == 2 and op.axis.value.data == FEATURES and partition == ROWS


def joins_images(op: Operation) -> bool:
    """Whether an operator puts feature maps of some images each together: by copies, where the whole stays on chip."""
    return isinstance(op, ConcatOp) and op.axis.value.data == 0 and len(shape_of(op.result)) > 2


def images_apart(op: ReshapeOp) -> int | None:
    """How many images that lay beside each other as channels of one a reshape takes apart; None for any other one."""
    before, after = shape_of(op.x), shape_of(op.result)
    if len(before) < 3 or before[2:] != after[2:] or before[1] % after[1]:
        return None
    together = before[1] // after[1]
    return together if together > 1 and before[1] <= LANES else None


def _is_part(value: SSAValue) -> bool:
    """Whether a value is only read to be put together with others."""
    users = [use.operation for use in value.uses]
    return bool(users) and all(isinstance(user, ConcatOp) for user in users)


def _stores_part(op: SliceOp, partition: int) -> bool:
    """Whether a slice is a small part of a tensor that the DMA stores from SBUF in runs, of one tile of lanes."""
    shape, starts, sizes = shape_of(op.x), ints(op.starts), ints(op.sizes)
    first, last = starts[partition], starts[partition] + sizes[partition] - 1
    small = SMALL_PART * prod(sizes) <= prod(shape) and partition != len(shape) - 1
    return small and first // LANES == last // LANES and all(step == 1 for step in ints(op.steps))


def _is_shared_mask(op: AttentionOp) -> bool:
    """Whether an attention reads its mask in tiles of 128 queries that serve all heads."""
    assert op.mask is not None
    shape, queries, keys = shape_of(op.mask), shape_of(op.q)[1], shape_of(op.k)[1]
    tiled = queries <= LANES or queries % LANES == 0
    own = len(shape) == 4 and shape[0] in (1, shape_of(op.q)[0])
    return own and shape[1:] == (1, queries, keys) and tiled


def _reduces_beside(op: ReduceOp, partition: int) -> bool:
    """Whether a reduction keeps a dimension, under the same number in its result."""
    axes = ints(op.axes)
    return partition not in axes and (bool(op.keep_dims) or all(axis > partition for axis in axes))


def _sweeps_along(shape: Sequence[int], result: Sequence[int], partition: int) -> bool:
    """Whether a sweep over `result` reads an operand of `shape` lane by lane; it may be repeated along other
    dimensions.
    """
    return len(shape) == len(result) and shape[partition] == result[partition]


def is_matrix_product(op: Operation) -> bool:
    """Whether a product of two matrices can have the rows of its first operand, and its result, either way round."""
    return isinstance(op, MatMulOp) and len(shape_of(op.result)) == len(shape_of(op.b)) == 2 and not op.transpose_a


def anchor_of(op: Operation) -> Operation:
    """The op that decides about a kernel: the first of a fused group."""
    first = op.body.block.first_op if isinstance(op, FusedOp) else op
    assert first is not None
    return first


def outer_value(op: Operation, value: SSAValue) -> SSAValue:
    """The value outside of a fused group that stands for an argument of its body."""
    return op.operands[value.index] if isinstance(op, FusedOp) and isinstance(value, BlockArgument) else value


def holds_in_group(group: FusedOp, inside: set[SSAValue], holds: Callable[[Operation, set[SSAValue]], bool]) -> bool:
    """Whether what is true of the values `inside` is true of the results of a fused group.

    `holds` tells whether it is true of an operator's results, given the values of which it is true.
    """
    true: set[SSAValue] = {a for a, x in zip(group.body.block.args, group.operands, strict=True) if x in inside}
    for inner in group.body.block.ops:
        if isinstance(inner, YieldOp):
            return all(value in true for value in inner.values)
        if any(operand in true for operand in inner.operands):
            if not holds(inner, true):
                return False
            true.update(inner.results)
    return False


def sweeps_channels(op: Operation, conv: ConvOp, shape: Sequence[int]) -> bool:
    """Whether an operator of the group of a convolution with a result of `shape` [images, channels, ...] takes nothing
    but what is made there, numbers, and one for each channel.
    """
    if op is conv or isinstance(op, YieldOp):
        return True
    if not isinstance(op, POINTWISE) or shape_of(op.results[0]) != shape:
        return False
    return all(
        not isinstance(value, BlockArgument)
        or prod(shape_of(value)) == 1
        or (prod(shape_of(value)) == shape[1] and shape_of(value)[-3:] == (shape[1], 1, 1))
        for value in op.operands
    )


def multiplied(op: Operation, operand: SSAValue) -> bool:
    """Whether a kernel reads `operand` only as what the tensor engine contracts, however its result lies."""
    if isinstance(op, AttentionOp) or (isinstance(op, FusedOp) and _turned_for_group(op, operand)):
        return True
    anchor = anchor_of(op)
    if not isinstance(anchor, MatMulOp) or not (is_matrix_product(anchor) or is_sample_products(anchor)):
        return False
    sides = (0, 1) if is_sample_products(anchor) else (0,)
    if not isinstance(op, FusedOp):
        return any(operand is op.operands[side] for side in sides)
    inner = [a for a, value in zip(op.body.block.args, op.operands, strict=True) if value is operand]
    return all(list(a.uses) and all(use.operation is anchor and use.index in sides for use in a.uses) for a in inner)


def turns(op: Operation) -> bool:
    """Whether a kernel reads rows and writes features."""
    return isinstance(op, CastOp | RelayoutOp) and len(shape_of(op.results[0])) == 2


def _turned_for_group(op: FusedOp, operand: SSAValue) -> bool:
    """Whether a group of gathered sums or of features of samples joins what it makes with `operand`, [samples, ...]:
    the tensor engine turns it there where it lies otherwise.
    """
    features = features_of_group(op)
    if features is not None and features.other is not None and outer_value(op, features.other) is operand:
        return True
    shape = shape_of(operand)
    sums = features.sums if features is not None else sums_of_group(op)
    if sums is None or len(shape) < 2 or prod(shape[1:-1]) != 1 or shape[-1] > LANES:
        return False
    return any(isinstance(part, SSAValue) and outer_value(op, part) is operand for part in sums.parts)


def _fused_reads(op: FusedOp, operand: SSAValue, partition: int) -> Halo | None:
    if _turned_for_group(op, operand):
        return () if partition == len(shape_of(operand)) - 1 else None
    if kernel_partition(op) not in (None, partition) and not multiplied(op, operand):
        return None
    halo: Halo = ()
    for argument, value in zip(op.body.block.args, op.operands, strict=True):
        if value is not operand:
            continue
        for use in argument.uses:
            user = use.operation
            needed = None if isinstance(user, YieldOp) else reads(user, argument, partition)
            # An eviction from PSUM takes operands of its own shape.
            repeated = isinstance(user, POINTWISE) and shape_of(argument) != shape_of(user.results[0])
            if needed is None or (repeated and isinstance(anchor_of(op), ConvOp | ConvTransposeOp | MatMulOp)):
                return None
            halo = merge_halo(halo, needed)
    return halo


def matmul_rows(op: MatMulOp) -> int:
    """The dimension of a matmul's result that lies on the partitions: its rows.

    Where there is one row, it is the largest of the batch dimensions that share b: single rows would use one column of
    the tensor engine's array.
    """
    shape, b = shape_of(op.result), shape_of(op.b)
    rows, lead = len(shape) - 2, len(shape) - len(b)
    if shape[rows] != 1:
        return rows
    return max((d for d in range(rows) if d < lead or b[d - lead] == 1), key=lambda d: shape[d], default=rows)


def kernel_partition(op: Operation) -> int | None:
    """The partition dimension that an anchor imposes on its group's result; None where the kernel is free to choose."""
    anchor = anchor_of(op)
    if isinstance(anchor, ConvOp | ConvTransposeOp | PoolOp):
        return 1
    if features_of_group(op) is not None:
        return FEATURES
    if isinstance(anchor, MatMulOp) and not is_matrix_product(anchor):
        return matmul_rows(anchor)
    return None


def writes(op: Operation, partition: int) -> bool:
    """Whether the kernel of `op` can leave its result in SBUF with dimension `partition` on partitions."""
    anchor = anchor_of(op)
    if isinstance(op, FusedOp) and sums_of_group(op) is not None:
        return partition == 0
    if features_of_group(op) is not None:
        return partition == FEATURES
    if isinstance(op, FusedOp) and any(isinstance(inner, TransposeOp) for inner in op.body.block.ops):
        return False  # rows of pixels leave as runs that the DMA stores
    if isinstance(anchor, ConvOp | ConvTransposeOp):
        groups = plan_groups(shape_of(anchor.x)[1], shape_of(anchor.result)[1], anchor.groups.value.data)
        return partition == 1 and groups.lane_step == LANES
    if is_matrix_product(anchor):
        return True
    if isinstance(anchor, AttentionOp):
        return partition == 2
    if isinstance(anchor, GatherOp):
        listed = len(shape_of(anchor.indices)) == 1 and not isinstance(anchor.indices.owner, ConstantOp)
        return partition == ROWS and anchor.axis.value.data == 0 and len(shape_of(anchor.data)) == 2 and listed
    if isinstance(anchor, BroadcastOp):
        return _repeats_beside(anchor, partition)
    if isinstance(anchor, PoolOp | MatMulOp):
        return partition == kernel_partition(op)
    if isinstance(anchor, ReorderRowsOp):
        source = layout_of(anchor.x)
        return partition == FEATURES and source is not None and source.partition_dimension == FEATURES
    if isinstance(anchor, SoftmaxOp):
        return partition != anchor.axis.value.data
    if isinstance(anchor, LayerNormOp):
        return partition < anchor.axis.value.data
    if isinstance(anchor, ReduceOp):
        return _reduces_beside(anchor, partition)
    if isinstance(anchor, ConcatOp):
        if _joins_columns(anchor, partition):
            return True
        if all(isinstance(use.operation, SliceOp) for use in anchor.result.uses):
            return False  # parts of it are read apart again
        # Parts of a batch, which were computed apart, come back for all their readers at once.
        return partition == 1 and joins_images(anchor)
    return isinstance(anchor, (*POINTWISE, RelayoutOp))
