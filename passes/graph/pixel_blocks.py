"""Blocks of output pixels that a convolution of few output channels makes at once; plain arithmetic.

A product of 128 input channels with the filters of 32 output channels uses a quarter of the tensor engine's columns.
The filters of a block of neighbouring pixels fill it: each column of the array has the filter of one pixel, shifted
to where that pixel stands in the block, with zeros elsewhere in the window that all of them read together. For 3 x 3
taps and blocks of 2 x 2 pixels these windows have 16 positions, 4 products for each pixel instead of 9.
"""

from dataclasses import dataclass
from math import ceil

from passes.graph.conv_groups import QUADRANT

WORTH = 0.9
"""Blocks are made where they leave less than this share of the tensor engine's time."""


@dataclass(frozen=True)
class PixelWindow:
    """A filter of `taps` (rows, columns) that is moved by `stride` over `images` images to yield `sizes` pixels."""

    taps: tuple[int, int]
    stride: tuple[int, int]
    sizes: tuple[int, int]
    images: int


@dataclass(frozen=True)
class PixelBlock:
    """`rows` x `columns` pixels at once; lanes row * columns * slot + column * slot + output channel."""

    rows: int
    columns: int
    slot: int

    @property
    def pixels(self) -> int:
        """Pixels of a block."""
        return self.rows * self.columns

    @property
    def lanes(self) -> int:
        """Columns of the array that a block takes, those without a channel among them."""
        return self.pixels * self.slot

    def taps(self, window: PixelWindow) -> tuple[int, int]:
        """Rows and columns of the window that all pixels of a block read together."""
        (rows, columns), (down, right) = window.taps, window.stride
        return rows + (self.rows - 1) * down, columns + (self.columns - 1) * right


def product_cycles(window: PixelWindow, block: PixelBlock, moving_columns: int, least_cycles: int) -> int:
    """Cycles of the tensor engine for all pixels of one tile of input channels."""
    rows, columns = block.taps(window)
    moving = window.images * window.sizes[0] * window.sizes[1] // block.pixels
    return rows * columns * max(moving, ceil(moving / moving_columns) * least_cycles)


def plan_pixel_block(
    window: PixelWindow, outputs: int, array_columns: int, moving_columns: int, least_cycles: int
) -> PixelBlock | None:
    """The block that takes the tensor engine the least time; None where single pixels are (almost) as good."""
    slot = next((QUADRANT << n for n in range(8) if QUADRANT << n >= outputs), outputs)
    single = PixelBlock(1, 1, slot)
    least = WORTH * product_cycles(window, single, moving_columns, least_cycles)
    best: PixelBlock | None = None
    for rows in range(1, array_columns // slot + 1):
        for columns in range(1, array_columns // (slot * rows) + 1):
            if window.sizes[0] % rows or window.sizes[1] % columns:
                continue
            block = PixelBlock(rows, columns, slot)
            cycles = product_cycles(window, block, moving_columns, least_cycles)
            if cycles < least:
                best, least = block, cycles
    return best
