"""Zeros beside a map whose blocks of pixels begin before it.

A depthwise convolution makes something of the zeros beside its operand in such pixels too. Weights of zero leave it
out behind a convolution of one tap; the mean of the map is to have zeros there. Their sums are moved so far down that
an activation makes zero of them: the first and the last rows and columns of a result have a weight added, which kernels
of convolutions know by a mark (`conv_border.py`).
"""

from __future__ import annotations

from xdsl.dialects.builtin import UnitAttr
from xdsl.ir import Operation, SSAValue

from neuron_dialects.dtypes import BF16, F32, DType
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ClipOp,
    ConcatOp,
    ConstantOp,
    PadMode,
    PadOp,
    ReshapeOp,
    UnaryKind,
    UnaryOp,
    spec_of,
)
from passes.graph.pixel_grid import PIXELS, SIDE, Lines

BORDER = "graph.border"
"""Attribute of an addition of numbers that are zero but in the first and the last position of one dimension."""

DOWN = -(2.0**64)
"""What is added to pixels beside a map, some of them twice."""

VANISHING = (UnaryKind.RELU, UnaryKind.SILU)
"""Functions that make zero of such a sum."""


def vanishes(op: Operation) -> bool:
    """Whether an activation makes zero of sums that are as far down, which its type has to hold."""
    if not isinstance(op, UnaryOp | ClipOp) or spec_of(op.x)[0] not in (BF16, F32):
        return False
    if isinstance(op, UnaryOp):
        return op.kind.data in VANISHING
    return op.minimum is not None and op.minimum.value.data == 0.0


def is_border(op: Operation) -> bool:
    """Whether an operator adds to the first and the last rows or columns alone."""
    return isinstance(op, BinaryOp) and BORDER in op.attributes


def border_weights(lines: Lines, channels: int, dtype: DType) -> tuple[list[Operation], list[Operation]]:
    """Graph ops that make what is added to rows, [channels * pixels, rows, 1], and to columns, [.., 1, columns].

    `lines`: blocks of a map of an even number of rows and columns that begin a pixel before it, and end one behind it.
    """
    made: list[list[Operation]] = []
    for axis, (line, pixels) in enumerate(zip(lines, ((0, 0, 1, 1), (0, 1, 0, 1)), strict=True), 2):
        down = ConstantOp(DOWN, dtype, (channels, 1, 1, 1))
        others = [line.count - 1 if d == axis else 0 for d in range(4)]
        none = (0,) * 4
        ends = [
            PadOp(down.result, low=low, high=high, mode=PadMode.CONSTANT, value=0.0)
            for low, high in ((none, others), (others, none))
        ]
        assert len(pixels) == PIXELS and SIDE == len(ends)
        whole = ConcatOp([ends[pixel].results[0] for pixel in pixels], 1)
        shape = [channels * PIXELS, *(line.count if d == axis else 1 for d in (2, 3))]
        made.append([down, *ends, whole, ReshapeOp(whole.result, shape=shape)])
    return made[0], made[1]


def add_border(value: SSAValue, weight: SSAValue) -> BinaryOp:
    """The marked addition."""
    op = BinaryOp(BinaryKind.ADD, value, weight)
    op.attributes[BORDER] = UnitAttr()
    return op
