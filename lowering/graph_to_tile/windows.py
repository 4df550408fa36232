"""Pure arithmetic of sliding windows: which input positions an output tile reads, and how tiles group into loops.

Along one spatial dimension, output position o reads input positions o * stride + tap - pad_low for each tap offset.
Output is cut into tiles; tiles at the border read padding, those inside do not. `segments` groups consecutive tiles
that look alike into one loop, so that code size does not depend on the extent.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Segment:
    """`count` consecutive tiles of `size` outputs that look alike.

    Tile i starts at output `start + i * size`. It reads input positions from `input_start + i * size * stride`,
    `extent` of them, of which the first `low` and the last `high` are padding (so the first real one is input_start +
    low).
    """

    start: int
    count: int
    size: int
    input_start: int
    extent: int
    low: int
    high: int


def tile_extent(size: int, stride: int, reach: int) -> int:
    """Input positions that `size` outputs read when a window reaches over `reach` positions."""
    return (size - 1) * stride + reach


def segments(output: int, tile: int, stride: int, reach: int, pad_low: int, inputs: int) -> list[Segment]:
    """Cut `output` positions into tiles of `tile` (the last may be smaller) and group those that look alike.

    `reach` is (taps - 1) * dilation + 1; `inputs` the input positions that exist. Padding is what a tile reads below 0
    or at `inputs` and above.
    """
    grouped: list[Segment] = []
    for start in range(0, output, tile):
        size = min(tile, output - start)
        first = start * stride - pad_low
        extent = tile_extent(size, stride, reach)
        low = min(extent, max(0, -first))
        high = min(extent - low, max(0, first + extent - inputs))
        last = grouped[-1] if grouped else None
        plain = low == high == 0
        if last and plain and (last.size, last.low, last.high) == (size, 0, 0):
            grouped[-1] = Segment(last.start, last.count + 1, size, last.input_start, extent, 0, 0)
        else:
            grouped.append(Segment(start, 1, size, first, extent, low, high))
    return grouped


def without_padding(cut: list[Segment]) -> list[Segment]:
    """The same tiles, where padding is memory like any other: those of one size are all alike."""
    merged: list[Segment] = []
    for segment in cut:
        last = merged[-1] if merged else None
        if last and last.size == segment.size:
            merged[-1] = replace(last, count=last.count + segment.count)
        else:
            merged.append(replace(segment, low=0, high=0))
    return merged


def with_first_apart(cut: list[Segment], stride: int) -> list[Segment]:
    """The same tiles, the first one in a segment of its own."""
    first, *behind = cut
    if first.count == 1:
        return cut
    start, begin = first.start + first.size, first.input_start + first.size * stride
    rest = replace(first, start=start, count=first.count - 1, input_start=begin)
    return [replace(first, count=1), rest, *behind]


def with_last_apart(cut: list[Segment], strides: int) -> list[Segment]:
    """The same tiles, the last one in a segment of its own."""
    *before, last = cut
    if last.count == 1:
        return cut
    done = last.count - 1
    start, first = last.start + done * last.size, last.input_start + done * last.size * strides
    return [*before, replace(last, count=done), replace(last, start=start, count=1, input_start=first)]


def output_tile(sizes: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Tile of an output of `sizes` with at most `most` elements: innermost dimensions first, as whole as possible.

    A dimension that does not fit whole is cut into equal parts where that wastes nothing.
    """
    tile: list[int] = []
    for size in reversed(sizes):
        fit = max(1, min(size, most))
        if fit < size:
            fit = -(-size // -(-size // fit))
        tile.append(fit)
        most = max(1, most // fit)
    return tuple(reversed(tile))
