"""Which feature maps are summed up while they leave PSUM, and where their sums lie.

Plain data for the kernels: `conv_sums.py` makes and reads it, the epilogue of a convolution fills it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.tensors import LANES, Ranges
from lowering.graph_to_tile.view import View, as_affine
from neuron_dialects.access import Affine
from neuron_dialects.graph import ConvOp, FusedOp, ReduceKind, ReduceOp, ints, layout_of, shape_of, spec_of
from passes.graph.kernel_layouts import anchor_of

CHANNELS = 1
"""Dimension of a feature map."""

LEAST_PIXELS = 128
"""Pixels of an image in a tile from which on the image is evicted by an instruction of its own, which has its sum."""


@dataclass(frozen=True)
class MapSums:
    """Sums of parts of the channels of a map: `parts` [lanes, channel tiles, images, tiles of an image] in f32.

    `tile`: images, and positions in each spatial dimension, of a tile; `tiles`: tiles in each spatial dimension.
    """

    parts: View
    tile: tuple[int, ...]
    tiles: tuple[int, ...]

    def columns(self, ranges: Ranges) -> View:
        """[lanes, images] for the sums of the tile that `ranges` names."""
        number = Affine()
        for dim, (size, count) in enumerate(zip(self.tile[1:], self.tiles, strict=True), 2):
            start = as_affine(ranges.get(dim, (0, 0))[0])
            number = number * count + start.divided(size)
        start, lanes = ranges[CHANNELS]
        image, images = ranges[0]
        own = self.parts.slice(0, 0, lanes).at(1, as_affine(start).divided(LANES))
        return own.slice(1, image, images).at(2, number)

    @property
    def single_images(self) -> bool:
        """Whether each image of a tile is evicted by itself."""
        return prod(self.tile[1:]) >= LEAST_PIXELS or self.tile[0] == 1


def summed_maps(ops: Sequence[Operation]) -> set[SSAValue]:
    """The maps that convolutions leave on chip, and of which a later op needs sums or means over all pixels."""
    return {op.x for op in ops if isinstance(op, ReduceOp) and takes_sums(op)}


def takes_sums(op: ReduceOp) -> bool:
    """Whether a reduction is a sum or mean of all pixels of each channel of a convolution's result, on chip."""
    shape, owner = shape_of(op.x), op.x.owner
    if op.kind.data not in (ReduceKind.SUM, ReduceKind.MEAN) or not prod(shape) or not spec_of(op.x)[0].is_float:
        return False
    if not isinstance(owner, ConvOp | FusedOp) or not isinstance(anchor_of(owner), ConvOp):
        return False
    # The vector engine would add to what keeps products waiting, for a sum that nothing but later layers waits for.
    if prod(shape[2:]) < LEAST_PIXELS and op.x.has_one_use():
        return False
    layouts = [layout_of(value) for value in (op.x, op.result)]
    on_chip = all(layout is not None and layout.partition_dimension == CHANNELS for layout in layouts)
    return on_chip and len(shape) > 2 and sorted(ints(op.axes)) == list(range(2, len(shape)))
