"""Blocks of pixels that a convolution makes at once: what is chosen, by numbers."""

from passes.graph.pixel_blocks import PixelBlock, PixelWindow, plan_pixel_block, product_cycles

ARRAY = 128, 512, 64


def planned(outputs: int, taps: int = 3, stride: int = 1, size: int = 56) -> PixelBlock | None:
    window = PixelWindow((taps, taps), (stride, stride), (size, size), 8)
    return plan_pixel_block(window, outputs, *ARRAY)


# 16 positions for 4 pixels are 4 products a pixel, 12 for 2 pixels are 6, instead of 9.
def test_blocks_fill_the_columns_of_the_array() -> None:
    assert planned(32) == PixelBlock(2, 2, 32)
    assert planned(20) == PixelBlock(2, 2, 32)
    assert planned(64) == PixelBlock(1, 2, 64)
    assert planned(65) is None
    window = PixelWindow((3, 3), (1, 1), (56, 56), 8)
    cycles = [product_cycles(window, block, *ARRAY[1:]) for block in (PixelBlock(1, 1, 32), PixelBlock(2, 2, 32))]
    assert cycles == [9 * 25_088, 4 * 25_088]


# One tap reads other positions for each pixel; of 2 x 2 taps that move by 2 none are shared.
def test_no_blocks_where_pixels_share_nothing() -> None:
    assert planned(32, taps=1) is None
    assert planned(32, taps=2, stride=2) is None


# 7 rows are no pairs; 4 images of 4 x 4 pixels are 64 columns, which no product is faster than.
def test_no_blocks_where_pixels_are_odd_or_few() -> None:
    assert planned(32, size=7) is None
    assert plan_pixel_block(PixelWindow((3, 3), (1, 1), (4, 4), 4), 32, *ARRAY) is None
