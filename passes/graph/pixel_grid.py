"""Arithmetic of feature maps whose pixels lie on partitions in blocks of 2 x 2, beside the channels.

A depthwise filter is a diagonal matrix for each of its taps, a column of the tensor engine for one pixel of 128
channels. With the four pixels of a block beside each of 32 channels, a block of the result is made of few blocks of the
operand: 4 for a filter of 3 x 3 where the blocks of the result begin within those of the operand, 9 for one of 5 x 5.
So a convolution from blocks to blocks is one of fewer pixels and four times as many channels, with a filter of its own;
this module says which, one dimension at a time, and what its filter is made of.

Channels of blocks are numbered (channel, row, column), so groups of channels stay groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import ConcatOp, ConvOp, PadMode, PadOp, ReshapeOp, TransposeOp, ints, shape_of

SIDE = 2
"""Pixels of a block in each dimension."""

PIXELS = SIDE * SIDE
"""Pixels of a block."""


@dataclass(frozen=True)
class Line:
    """`count` blocks of `side` positions in one dimension, the first of which begins at position `origin`."""

    side: int
    origin: int
    count: int

    @classmethod
    def blocks(cls, size: int, origin: int) -> Line:
        """Blocks that hold an even number of positions, with up to one position more on both sides."""
        return cls(SIDE, origin, (size - 2 * origin) // SIDE)


Lines = tuple[Line, Line]
"""The rows and the columns of a feature map."""


@dataclass(frozen=True)
class Window:
    """A window over the blocks of one dimension: `taps` blocks, `stride` blocks apart, zeros at both ends.

    `offsets`: for each position of a block of the result, where in the window the filter's first tap lies.
    """

    taps: int
    stride: int
    low: int
    high: int
    offsets: tuple[int, ...]


def window_of(filter_taps: int, stride: int, pad: int, read: Line, made: Line) -> Window | None:
    """How a filter goes from blocks to blocks; None where no window of whole blocks does it.

    Position q of the result takes tap t from position q * stride - pad + t.
    """
    step, rest = divmod(stride * made.side, read.side)
    first = stride * made.origin - pad - read.origin
    before, inside = divmod(first, read.side)
    if rest or before > 0:
        return None
    taps = (inside + stride * (made.side - 1) + filter_taps - 1) // read.side + 1
    high = max(0, (made.count - 1) * step + taps + before - read.count)
    if (read.count - before + high - taps) // step + 1 != made.count:
        return None
    return Window(taps, step, -before, high, tuple(inside + stride * q for q in range(made.side)))


def filter_ops(weight: SSAValue, sides: tuple[int, int], windows: tuple[Window, Window]) -> list[Operation]:
    """Graph ops from filters [O, C, rows, columns] to those between blocks.

    `sides`: of the operand's and the result's blocks; the last op makes [O * result pixels, C * operand pixels, rows
    and columns of the window in blocks].
    """
    (read, made), (down, right) = sides, windows
    outputs, channels, rows, columns = shape_of(weight)
    height, width = down.taps * read, right.taps * read
    ops: list[Operation] = []

    def add(op: Operation) -> SSAValue:
        ops.append(op)
        return op.results[0]

    pixels: list[SSAValue] = []
    for top, left in product(down.offsets, right.offsets):
        after = (0, 0, height - rows - top, width - columns - left)
        filled = add(PadOp(weight, low=(0, 0, top, left), high=after, mode=PadMode.CONSTANT, value=0.0))
        pixels.append(add(ReshapeOp(filled, shape=(outputs, 1, channels, height, width))))
    made_of = add(ConcatOp(pixels, 1)) if made > 1 else pixels[0]
    split = add(ReshapeOp(made_of, shape=(outputs * made * made, channels, down.taps, read, right.taps, read)))
    beside = add(TransposeOp(split, permutation=(0, 1, 3, 5, 2, 4)))
    add(ReshapeOp(beside, shape=(outputs * made * made, channels * read * read, down.taps, right.taps)))
    return ops


def apart_ops(weight: SSAValue) -> list[Operation]:
    """Graph ops from filters [O, C, 1, 1] to those of a transposed convolution [C * pixels, O, 2, 2], which takes the
    pixels of blocks apart.
    """
    outputs, channels, *_ = shape_of(weight)
    ops: list[Operation] = [TransposeOp(weight, permutation=(1, 0, 2, 3))]
    turned = ops[0].results[0]
    pixels: list[SSAValue] = []
    for row, column in product(range(SIDE), range(SIDE)):
        after = (0, 0, SIDE - 1 - row, SIDE - 1 - column)
        ops.append(PadOp(turned, low=(0, 0, row, column), high=after, mode=PadMode.CONSTANT, value=0.0))
        ops.append(ReshapeOp(ops[-1].results[0], shape=(channels, 1, outputs, SIDE, SIDE)))
        pixels.append(ops[-1].results[0])
    ops.append(ConcatOp(pixels, 1))
    ops.append(ReshapeOp(ops[-1].results[0], shape=(channels * PIXELS, outputs, SIDE, SIDE)))
    return ops


def repeat_ops(weight: SSAValue, axis: int, times: int = PIXELS) -> list[Operation]:
    """Graph ops that repeat each position of an axis `times` times, one beside the other."""
    shape = shape_of(weight)
    ops: list[Operation] = [ReshapeOp(weight, shape=(*shape[: axis + 1], 1, *shape[axis + 1 :]))]
    ops.append(ConcatOp([ops[0].results[0]] * times, axis + 1))
    ops.append(ReshapeOp(ops[-1].results[0], shape=(*shape[:axis], shape[axis] * times, *shape[axis + 1 :])))
    return ops


def lines_of(shape: Sequence[int], origin: int | None) -> Lines:
    """How [images, channels, rows, columns] lie: as pixels (None), or in blocks that begin at `origin`."""
    rows, columns = shape[2:]
    if origin is None:
        return Line(1, 0, rows), Line(1, 0, columns)
    return Line.blocks(rows, origin), Line.blocks(columns, origin)


def shape_in(shape: Sequence[int], lines: Lines) -> tuple[int, ...]:
    """[images, channels of blocks, rows of blocks, columns of blocks] of a feature map."""
    down, right = lines
    return shape[0], shape[1] * down.side * right.side, down.count, right.count


def windows_of(op: ConvOp, read: Lines, made: Lines) -> tuple[Window, Window] | None:
    """How a convolution goes from blocks to blocks; None where no windows of whole blocks do it."""
    taps, strides, pads = shape_of(op.w)[2:], ints(op.strides), ints(op.pads)
    down, right = (window_of(taps[d], strides[d], pads[d], read[d], made[d]) for d in range(2))
    return (down, right) if down is not None and right is not None else None
