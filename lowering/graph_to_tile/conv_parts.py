"""Sums of 1x1 convolutions: what the tensor engine adds to those of the first, while they are still in PSUM.

A group that `graph-part-sums` made has a convolution of each of several maps of one shape, and their sum. The kernel of
the first makes the tiles of the result; the others give it further pairs of operands.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from xdsl.ir import Operation

from lowering.graph_to_tile.conv_weights import WeightPacking, is_packable
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, Ranges, SbufTensor, Tensor, transfer
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine
from neuron_dialects.graph import BinaryOp, ConvOp, shape_of
from passes.graph.conv_groups import plan_groups
from passes.graph.part_sums import PART_SUM


@dataclass(frozen=True)
class Part:
    """One more map `x`, and its filters on chip, [c, c tiles, o]."""

    x: Tensor
    weights: View

    def operands(self, k: Kernel, ranges: Ranges, start: Affine, lanes: int) -> Iterator[tuple[View, View]]:
        """(stationary, moving) of the `lanes` results from `start` on of the piece that `ranges` names."""
        channels = self.x.shape[1]
        for tile in range(ceil(channels / LANES)):
            count = min(LANES, channels - tile * LANES)
            piece = {**ranges, 1: (Affine(tile * LANES), count)}
            moving = self.x.load(k.b, 1, piece, name="part")
            yield self.weights.slice(0, 0, count).at(1, tile).slice(1, start, lanes), moving


def take_parts(k: Kernel, ops: Sequence[Operation]) -> tuple[list[Part], Sequence[Operation]]:
    """The further convolutions among the operators behind an anchor, and the operators without them and their sums.

    The group's body loses the additions.
    """
    parts = [_part(k, op) for op in ops if isinstance(op, ConvOp)]
    sums = [op for op in ops if isinstance(op, BinaryOp) and PART_SUM in op.attributes]
    for addition in sums:
        k.hand_place(addition.result, addition.a)
        addition.result.replace_all_uses_with(addition.a)
    return parts, [op for op in ops if op not in sums and not isinstance(op, ConvOp)]


def _part(k: Kernel, op: ConvOp) -> Part:
    """A convolution with its filters loaded."""
    channels, outputs = shape_of(op.x)[1], shape_of(op.result)[1]
    groups = plan_groups(channels, outputs, op.groups.value.data, is_packable(k, op.w))
    assert groups.blocks == 1, "images that are taken as one fill a tile of lanes at most"
    packing, tiles = WeightPacking(k, op.w, groups, 1, False), ceil(channels / LANES)
    weights = k.b.alloc((min(LANES, channels), tiles, outputs), packing.dtype, "sbuf", 1, "weights").view()
    for tile in range(tiles):
        count = min(LANES, channels - tile * LANES)
        source = packing.view(Affine(0), tile * LANES, count, Affine(0), outputs).at(3, 0).at(1, 0)
        transfer(k.b, k.b.load, weights.slice(0, 0, count).at(1, tile), source)
    x = k.tensor(op.x)
    if isinstance(x, SbufTensor) and x.partition != 1:
        x = k.dram(op.x)
    return Part(x, weights)
