"""1x1 convolutions whose channels are put last: numbers of the kernel, and which runs of operators become one."""

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from neuron_dialects.dtypes import dtype_by_name
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConcatOp,
    ConstantOp,
    ConvOp,
    FusedOp,
    ReshapeOp,
    SliceOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    spec_of,
)
from neuron_dialects.target import load_target
from passes.graph.pixel_rows import outline_rows, pixel_lanes
from tests.core_kernels import Make, add, lowered_error


def part(block: Block, x: SSAValue, start: int, size: int) -> SSAValue:
    """Positions of the last dimension."""
    _, shape = spec_of(x)
    zeros = (0,) * (len(shape) - 1)
    return add(block, SliceOp(x, (*zeros, start), (*shape[:-1], size), (1,) * len(shape)))


def head(parts: int) -> Make:
    """A detection head: sigmoid, a grid added to two of the channels, two more squared and scaled."""

    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        (x,) = arguments
        dtype, (images, _, height, width) = spec_of(x)
        conv = ConvOp(x, weights["w"], bias=weights["b"], strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), groups=1)
        y = add(block, conv)
        channels = spec_of(y)[1][1] // parts
        split = add(block, ReshapeOp(y, (images, parts, channels, height, width)))
        last = add(block, TransposeOp(split, (0, 1, 3, 4, 2)))
        row = add(block, UnaryOp(UnaryKind.SIGMOID, last))
        two = add(block, ConstantOp(2.0, dtype, ()))
        doubled = add(block, BinaryOp(BinaryKind.MUL, part(block, row, 0, 2), two))
        centre = add(block, BinaryOp(BinaryKind.ADD, doubled, weights["grid"]))
        square = add(block, BinaryOp(BinaryKind.POW, part(block, row, 2, 2), two))
        size = add(block, BinaryOp(BinaryKind.MUL, square, weights["anchors"]))
        whole = add(block, ConcatOp([centre, size, part(block, row, 4, channels - 4)], 4))
        flat = add(block, ReshapeOp(whole, (images, parts * height * width, channels)))
        return [flat]

    return make


def head_weights(dtype: str, channels: int, outputs: int, parts: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Random filters, bias, grid and anchors."""
    rng, numpy_type = np.random.default_rng(1), dtype_by_name(dtype).numpy
    shapes = {
        "w": (outputs, channels, 1, 1),
        "b": (outputs,),
        "grid": (1, parts, *size, 2),
        "anchors": (1, parts, *size, 2),
    }
    return {name: (rng.standard_normal(shape) * 0.5).astype(numpy_type) for name, shape in shapes.items()}


# Channels beyond a tile of lanes, of one tile, and of part of one; whole rows of pixels on a lane, and parts of one;
# one image, whose slices have the shape of the grid.
@pytest.mark.parametrize(
    ("dtype", "images", "channels", "outputs", "parts", "size"),
    [
        ("bf16", 2, 160, 21, 3, (10, 12)),
        ("f32", 2, 128, 14, 2, (64, 2)),
        ("bf16", 2, 24, 30, 3, (160, 4)),
        ("bf16", 1, 24, 21, 3, (10, 12)),
    ],
)
def test_head_is_one_kernel(
    dtype: str, images: int, channels: int, outputs: int, parts: int, size: tuple[int, int]
) -> None:
    weights = head_weights(dtype, channels, outputs, parts, size)
    made: list[int] = []

    def layouts(block: Block) -> None:
        outline_rows(block, load_target("trn1"))
        made.extend(len(list(op.body.block.ops)) for op in block.ops if isinstance(op, FusedOp))

    error = lowered_error("trn1", [(dtype, (images, channels, *size))], weights, head(parts), layouts)
    assert made == [14]
    assert error < (2e-2 if dtype == "bf16" else 1e-5)


# What another operator reads keeps its place: only the operators in front of it go into the kernel.
def test_row_that_is_read_outside_ends_the_run() -> None:
    def make(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        y = add(block, ConvOp(arguments[0], weights["w"], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), groups=1))
        row = add(block, UnaryOp(UnaryKind.RELU, add(block, TransposeOp(y, (0, 2, 3, 1)))))
        return [row, add(block, UnaryOp(UnaryKind.EXP, row))]

    weights = {"w": np.random.default_rng(2).standard_normal((6, 8, 1, 1)).astype(ml_dtypes.bfloat16)}
    made: list[int] = []

    def layouts(block: Block) -> None:
        outline_rows(block, load_target("trn1"))
        made.extend(len(list(op.body.block.ops)) for op in block.ops if isinstance(op, FusedOp))

    assert lowered_error("trn1", [("bf16", (1, 8, 8, 8))], weights, make, layouts) < 1e-2
    assert made == [4]


# A lane has a part of a row of pixels, or several whole rows: as many lanes as there are columns, if that divides.
def test_pixels_fill_lanes() -> None:
    assert (pixel_lanes(80, 80, 128).lanes, pixel_lanes(40, 40, 128).lanes, pixel_lanes(20, 20, 128).lanes) == (
        80,
        80,
        100,
    )
    assert pixel_lanes(400, 4, 128).rows == 4
    assert pixel_lanes(7, 131, 128).lanes == 7
