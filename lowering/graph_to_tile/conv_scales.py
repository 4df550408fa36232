"""Maps that are multiplied by a number for each image and channel, in front of a pointwise convolution.

    conv(x * s, w)[n]  =  conv(x, w * s[n])[n]

The weights of one image are fewer than its pixels where a map is large: then the multiplication is not lowered where it
stands, but handed to the convolution, which multiplies its weights for each image before its loops.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from xdsl.ir import BlockArgument, Operation, SSAValue

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_ahead import CHANNELS, is_one_block
from lowering.graph_to_tile.conv_weights import Stationary, all_tiles
from lowering.graph_to_tile.neighbours import neighbours_with_room
from lowering.graph_to_tile.tensors import LANES, SbufTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConvOp,
    FusedOp,
    WeightOp,
    layout_of,
    shape_of,
    spec_of,
)
from neuron_dialects.target import Target
from passes.graph.aliases import readers
from passes.graph.kernel_layouts import anchor_of
from passes.graph.pieces import CHAINED
from passes.graph.residence import Halo


@dataclass(frozen=True)
class Scaled:
    """A multiplication of the map `x` by `scale`, which `conv` makes up for."""

    x: SSAValue
    scale: SSAValue
    conv: ConvOp


def scaled_maps(ops: Sequence[Operation], profile: Sequence[int], target: Target) -> dict[Operation, Scaled]:
    """The multiplications that the convolution behind each takes to its weights; `profile`: resident bytes by op."""
    return neighbours_with_room(ops, profile, target, _scaled, lambda _, scaled: _weight_bytes(scaled.conv))


def _weight_bytes(conv: ConvOp) -> int:
    """Bytes per partition of the weights of all images."""
    dtype, (images, channels, *_) = spec_of(conv.x)
    return images * ceil(channels / LANES) * shape_of(conv.result)[CHANNELS] * dtype.size_bytes


def _scaled(op: Operation, following: Operation) -> Scaled | None:
    """The multiplication of `op`, where the pointwise convolution of `following` alone reads its result."""
    if not isinstance(op, BinaryOp) or op.kind.data != BinaryKind.MUL or not isinstance(following, ConvOp | FusedOp):
        return None
    if CHAINED in following.attributes:
        # Pieces of all images are multiplied by the same weights.
        return None
    conv = anchor_of(following)
    if not isinstance(conv, ConvOp) or not (_stays(op.result, ()) and _reads_alone(following, conv, op.result)):
        return None
    images, channels, *spatial = shape_of(op.result)
    for x, scale in ((op.a, op.b), (op.b, op.a)):
        column = shape_of(scale) == (images, channels, *(1 for _ in spatial))
        if not column or shape_of(x) != shape_of(op.result) or not (_stays(x, None) and _stays(scale, None)):
            continue
        if spec_of(x)[0] is spec_of(op.result)[0] and _has_few_weights(conv, prod(spatial)):
            return Scaled(x, scale, conv)
    return None


def _stays(value: SSAValue, halo: Halo | None) -> bool:
    """Whether a map stays on chip with channels on partitions, and with that halo if one is given."""
    layout = layout_of(value)
    if layout is None or layout.partition_dimension != CHANNELS:
        return False
    return halo is None or not any(any(pair) for pair in layout.halo_pairs)


def _reads_alone(following: Operation, conv: ConvOp, value: SSAValue) -> bool:
    """Whether `value` is what the convolution multiplies, and read by nothing else."""
    if [user for user, _ in readers(value, CHANNELS)] != [following] or value not in following.operands:
        return False
    if not isinstance(following, FusedOp):
        return conv.x is value and conv.w is not value
    arguments = [
        a for a, operand in zip(following.body.block.args, following.operands, strict=True) if operand is value
    ]
    return arguments == [conv.x] and all(use.operation is conv for use in conv.x.uses) and conv.w is not conv.x


def _has_few_weights(conv: ConvOp, pixels: int) -> bool:
    """Whether a convolution has one tap, constant weights, and fewer outputs than an image has pixels."""
    weight: SSAValue = conv.w
    if isinstance(weight, BlockArgument) and isinstance(group := weight.block.parent_op(), FusedOp):
        weight = group.operands[weight.index]
    return isinstance(weight.owner, WeightOp) and is_one_block(conv) and shape_of(conv.result)[CHANNELS] < pixels


@dataclass(frozen=True)
class ImageWeights:
    """Weights [lanes, images, channel tiles, outputs] that were multiplied for each image."""

    weights: View

    def stationary(self, image: Affine) -> Stationary:
        """The weights of one image."""
        own = self.weights.at(1, image)

        def at(tile: Affine, lanes: int, _tap: int, start: Affine, outputs: int) -> View:
            return own.slice(0, 0, lanes).at(1, tile).slice(1, start, outputs)

        return at


def weigh(
    b: KernelBuilder, weights: Stationary, scale: SbufTensor, channels: int, outputs: int, dtype: str
) -> ImageWeights:
    """Multiply the weights [channels, outputs] by `scale` [images, channels, 1...], for one image after the other.

    The vector and the scalar engine share the tiles of channels: products of the first image wait for both.
    """
    images, lanes = scale.shape[0], min(LANES, channels)
    full, rest = divmod(channels, lanes)
    tiles = full + (rest > 0)
    made = b.alloc((lanes, images, tiles, outputs), dtype, "sbuf", 1, "weights").view()
    factors = scale.single_pixels
    # The scalar engine has half of the tiles, the last ones.
    split = full - tiles // 2 + (rest > 0)
    columns: dict[int, View] = {}
    for first, count, width in ((split, full - split, lanes), (full, tiles - full, rest)):
        if count:
            column = b.alloc((width, count, images), "f32", "sbuf", 1, "scales").view()
            b.copy(column, factors.slice(0, 0, width).slice(1, first, count))
            columns |= {first + i: column.at(1, i) for i in range(count)}
    with b.loop(images) as image:
        own = made.at(1, image)
        given = all_tiles(weights, split, lanes, outputs)
        b.tensor_tensor(
            own.slice(1, 0, split), given, factors.slice(1, 0, split).at(2, image).insert(1, outputs), "multiply"
        )
        for tile, column in columns.items():
            width = column.partitions
            given = weights(Affine(tile), width, 0, Affine(0), outputs)
            b.activation(own.slice(0, 0, width).at(1, tile), given, "copy", scale=column.slice(1, image, 1))
    return ImageWeights(made)
