"""Convolutions of few output channels: the filters of a block of neighbouring pixels side by side in the array.

`passes.graph.pixel_blocks` chooses the block. The convolution then is one of fewer pixels and more channels, with a
filter over the window of a block and strides of whole blocks; its filters are packed to match at emission. The lanes of
each pixel of the block leave PSUM for themselves, to their places in the resident result.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.conv_phases import Phase
from lowering.graph_to_tile.conv_weights import WeightPacking, is_packable
from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import DramTensor, Ranges, SbufTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import ConcatOp, ConvOp, PadMode, PadOp, ReshapeOp, ints, shape_of
from passes.graph.conv_groups import ConvGroups
from passes.graph.kernel_layouts import THIN_CHANNELS
from passes.graph.pixel_blocks import PixelBlock, PixelWindow, plan_pixel_block


@dataclass(frozen=True)
class PixelBlocks:
    """A convolution that makes a block of pixels at once, as one of fewer pixels and more channels.

    `outputs`: channels of a pixel; `epilogues`: one for each pixel of a block, in the order of their lanes.
    """

    block: PixelBlock
    outputs: int
    epilogues: tuple[Epilogue, ...]
    groups: ConvGroups
    packing: WeightPacking
    phase: Phase

    def apply(self, sums: View, images_and_pixels: Ranges) -> None:
        """Evict a tile of sums [lanes, other dims of the result in order]; its place counts images and blocks."""
        ranges = {**images_and_pixels, 1: (0, self.outputs)}
        for pixel, epilogue in enumerate(self.epilogues):
            epilogue.apply([(0, sums.slice(0, pixel * self.block.slot, self.outputs))], ranges)


class BlockPacking(WeightPacking):
    """The filters of all pixels of a block as [1, c, tap of the block's window, lane]."""

    def __init__(self, plain: WeightPacking, window: PixelWindow, block: PixelBlock):
        super().__init__(plain.k, plain.weight, plain.groups, plain.taps, plain.transposed)
        self.window, self.block = window, block

    @cached_property
    def tensor(self) -> DramTensor:
        """Packed when a kernel asks for them."""
        block = self.block
        form = f"pixels{block.rows}x{block.columns}.{block.slot}"
        return self.packed_as(form, lambda packed: block_ops(packed, self.window, block))


def take_blocks(k: Kernel, op: Operation, epilogue: Epilogue, plain: WeightPacking, phase: Phase) -> PixelBlocks | None:
    """The blocks of a convolution whose epilogue is prepared; None where each pixel is made for itself.

    Results must stay on chip: the DMA would write pixels of a block one by one.
    """
    if not isinstance(op, ConvOp) or len(shape_of(op.result)) != 4 or not k.takes("pixel-blocks"):
        return None
    thin, dilated = shape_of(op.x)[1] <= THIN_CHANNELS, any(n > 1 for n in ints(op.dilations))
    if plain.groups.blocks > 1 or thin or dilated or k.scalar(op.w) is not None or not is_packable(k, op.w):
        return None
    if not all(isinstance(tensor, SbufTensor) for tensor in epilogue.outputs.values()):
        return None
    images, outputs, height, width = shape_of(op.result)
    window = PixelWindow(_pair(shape_of(op.w)[2:]), _pair(ints(op.strides)), (height, width), images)
    limits = int(k.target.pe_columns), int(k.target.pe_moving_elements), int(k.target.min_issue_cycles)
    block = plan_pixel_block(window, plain.groups.block_outputs, *limits)
    if block is None:
        return None
    sizes, steps = (images, outputs, height // block.rows, width // block.columns), (1, 1, block.rows, block.columns)
    places = product(range(block.rows), range(block.columns))
    epilogues = tuple(epilogue.windowed(((0, 0, row, column), sizes, steps)) for row, column in places)
    groups = ConvGroups(1, shape_of(op.x)[1], block.lanes, 1)
    packing = BlockPacking(plain, window, block)
    return PixelBlocks(block, outputs, epilogues, groups, packing, blocked_phase(phase, block, block.taps(window)))


def blocked_phase(phase: Phase, block: PixelBlock, taps: tuple[int, int]) -> Phase:
    """The plain convolution that makes whole blocks, with `taps` rows and columns in its window."""
    depth, height, width = phase.sizes
    offsets = enumerate(product(range(taps[0]), range(taps[1])))
    return replace(
        phase,
        sizes=(depth, height // block.rows, width // block.columns),
        stride=(phase.stride[0], phase.stride[1] * block.rows, phase.stride[2] * block.columns),
        reach=(phase.reach[0], *taps),
        taps=tuple((number, (0, row, column)) for number, (row, column) in offsets),
    )


def block_ops(packed: SSAValue, window: PixelWindow, block: PixelBlock) -> list[Operation]:
    """Graph ops from filters [1, c, tap, o] to [1, c, tap of a block's window, lane], zeros where a pixel has none."""
    _, channels, _, outputs = shape_of(packed)
    ops: list[Operation] = [ReshapeOp(packed, shape=(channels, *window.taps, outputs))]
    rows, columns = block.taps(window)
    pixels: list[SSAValue] = []
    for row, column in product(range(block.rows), range(block.columns)):
        down, right = row * window.stride[0], column * window.stride[1]
        below, beside = rows - window.taps[0] - down, columns - window.taps[1] - right
        low, high = (0, down, right, 0), (0, below, beside, block.slot - outputs)
        ops.append(PadOp(ops[0].results[0], low=low, high=high, mode=PadMode.CONSTANT, value=0.0))
        pixels.append(ops[-1].results[0])
    ops.append(ConcatOp(pixels, 3))
    ops.append(ReshapeOp(ops[-1].results[0], shape=(1, channels, rows * columns, block.lanes)))
    return ops


def _pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]
