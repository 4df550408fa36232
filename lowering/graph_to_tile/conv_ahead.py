"""Pointwise convolutions that stay one block of channels ahead of the depthwise convolution that reads them.

A 1x1 convolution to many channels keeps the engines busy that empty PSUM, and the tensor engine waits for them; the
depthwise convolution behind it multiplies for long and leaves little in PSUM. A block of 128 channels of the second
needs the same block of the first alone. So the first is not lowered where it stands, but handed to the second, which
emits the next block's tiles between its own:

    first of block 0
    for i: for all tiles of pixels: [first of block i + 1, second of block i]
    second of the last block
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xdsl.dialects.builtin import LocationAttr
from xdsl.ir import Operation

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.conv_pixels import Range
from lowering.graph_to_tile.neighbours import neighbours_with_room
from lowering.graph_to_tile.windows import output_tile
from neuron_dialects.access import Affine
from neuron_dialects.graph import ConvOp, ints, layout_of, shape_of, spec_of
from neuron_dialects.target import Target
from passes.graph.aliases import readers
from passes.graph.conv_groups import LANES, plan_groups
from passes.graph.kernel_layouts import BANDS, anchor_of
from passes.graph.residence import resident_bytes

CHANNELS = 1
"""Dimension of a feature map."""


def followed_blocks(ops: Sequence[Operation], profile: Sequence[int], target: Target) -> dict[Operation, ConvOp]:
    """Kernel of a pointwise convolution -> the depthwise one that emits it; `profile`: resident bytes by op."""
    return neighbours_with_room(ops, profile, target, _reader, lambda op, _: _operand_bytes(op))


def _reader(op: Operation, following: Operation) -> ConvOp | None:
    """The depthwise convolution of `following`, where it alone reads what the pointwise one of `op` leaves on chip."""
    if not op.results or not following.results:
        return None
    first, second = anchor_of(op), anchor_of(following)
    if not isinstance(first, ConvOp) or not isinstance(second, ConvOp) or len(op.results) != 1:
        return None
    result = op.results[0]
    layout = layout_of(result)
    if layout is None or layout.partition_dimension != CHANNELS:
        return None
    if [user for user, _ in readers(result, CHANNELS)] != [following] or BANDS in second.attributes:
        return None
    return second if is_one_block(first) and works_in_blocks(second) else None


def works_in_blocks(op: ConvOp) -> bool:
    """Whether a convolution makes each of several blocks of 128 channels of the same block of its operand."""
    outputs, groups = shape_of(op.result)[CHANNELS], op.groups.value.data
    if shape_of(op.x)[CHANNELS] != outputs or outputs <= LANES:
        return False
    plan = plan_groups(outputs, outputs, groups)
    return plan.block_inputs == plan.block_outputs == LANES


def is_one_block(conv: ConvOp) -> bool:
    """Whether a convolution is pointwise, and has its weights in one block."""
    channels, outputs = shape_of(conv.x)[CHANNELS], shape_of(conv.result)[CHANNELS]
    return conv.is_pointwise and plan_groups(channels, outputs, conv.groups.value.data).blocks == 1


def covers(op: ConvOp) -> bool:
    """Whether tiles of the result, times the strides, are all of the operand."""
    inputs, outputs = shape_of(op.x)[2:], shape_of(op.result)[2:]
    return all(n == m * s for n, m, s in zip(inputs, outputs, ints(op.strides), strict=True))


def _operand_bytes(op: Operation) -> int:
    """Bytes per partition of what the convolution reads, which is brought on chip if it is not there."""
    conv = anchor_of(op)
    assert isinstance(conv, ConvOp)
    dtype, shape = spec_of(conv.x)
    return resident_bytes(shape, CHANNELS, (), dtype.size_bytes)


@dataclass(frozen=True)
class BlocksAhead:
    """A pointwise convolution whose weights are on chip, to be emitted for some channels and pixels at a time.

    `sizes`: images, depth, rows and columns of its result; `emit(channels, images, ranges)`: one tile that fits into a
    bank of `bank` elements; `whole`: all of it, as if it had not been put off.
    """

    b: KernelBuilder
    location: LocationAttr
    sizes: tuple[int, ...]
    bank: int
    emit: Callable[[Range, Range, Sequence[Range]], None]
    whole: Callable[[], None]

    def all(self) -> None:
        """Emit everything."""
        self._located(self.whole)

    def block(self, channels: Range) -> None:
        """Emit some channels of all pixels."""
        self.images(channels, (Affine(0), self.sizes[0]))

    def images(self, channels: Range, images: Range) -> None:
        """Emit some channels of all pixels of some images."""
        self.pixels(channels, [images, *((Affine(0), size) for size in self.sizes[1:])])

    def pixels(self, channels: Range, ranges: Sequence[Range]) -> None:
        """Emit some channels of the images, depths, rows and columns that `ranges` name."""
        tile = output_tile(tuple(size for _, size in ranges), self.bank)

        def cut(at: list[Range]) -> None:
            if len(at) == len(ranges):
                self.emit(channels, at[0], at[1:])
                return
            first, size = ranges[len(at)]
            self.b.tiles(size, tile[len(at)], lambda start, count: cut([*at, (first + start, count)]))

        self._located(lambda: cut([]))

    def _located(self, emit: Callable[[], None]) -> None:
        """Emit under the location of the convolution itself."""
        location, self.b.location = self.b.location, self.location
        emit()
        self.b.location = location


def with_following(
    b: KernelBuilder, extent: int, size: int, left: int, wanted: bool, body: Callable[[Affine, int, int], None]
) -> None:
    """`body(start, count, following)` for every tile of `extent`, the first of `left` channels.

    `following`: the channels of the tile behind it, 0 where none is, or if not `wanted`.
    """
    if not wanted:
        b.tiles(extent, size, lambda start, count: body(start, count, 0))
        return
    # Tiles in the loop are full, and followed by full ones.
    looped = min(extent, left - size) // size
    if looped:
        with b.loop(looped) as i:
            body(i * size, size, size)
    for start in range(looped * size, extent, size):
        count = min(size, extent - start)
        body(Affine(start), count, min(size, left - start - count))
