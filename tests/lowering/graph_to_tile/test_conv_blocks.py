"""Convolutions that make blocks of pixels at once: numbers, and that blocks are made."""

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, Operation, SSAValue

from lowering.graph_to_tile import conv
from lowering.graph_to_tile.conv_blocks import PixelBlocks, take_blocks
from lowering.graph_to_tile.conv_phases import Phase
from lowering.graph_to_tile.conv_weights import WeightPacking
from lowering.graph_to_tile.epilogue import Epilogue
from lowering.graph_to_tile.kernel import Kernel
from neuron_dialects.graph import BinaryKind, BinaryOp, ConvOp, UnaryKind, UnaryOp, shape_of
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from tests.core_kernels import Array, Make, lowered_error


def between(stride: int, outputs: int, residual: bool) -> tuple[Make, dict[str, Array]]:
    """A convolution with bias, residual and activation whose operands and result stay on chip."""

    def make(block: Block, arguments: Sequence[SSAValue], w: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        def add(op: Operation) -> SSAValue:
            block.add_op(op)
            return op.results[0]

        def conv_of(x: SSAValue, weight: str, step: int = 1) -> SSAValue:
            pad = shape_of(w[weight])[2] // 2
            return add(ConvOp(x, w[weight], strides=(step, step), pads=(pad,) * 4, dilations=(1, 1), groups=1))

        y = conv_of(conv_of(arguments[0], "first"), "w", stride)
        y = add(BinaryOp(BinaryKind.ADD, y, w["bias"]))
        if residual:
            y = add(BinaryOp(BinaryKind.ADD, y, conv_of(arguments[0], "beside")))
        return [conv_of(add(UnaryOp(UnaryKind.RELU, y)), "last")]

    shapes = {
        "first": (136, 48, 1, 1),
        "w": (outputs, 136, 3, 3),
        "bias": (outputs, 1, 1),
        "beside": (outputs, 48, 1, 1),
        "last": (8, outputs, 1, 1),
    }
    rng = np.random.default_rng(0)
    return make, {name: (rng.standard_normal(shape) * 0.1).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}


# 128 lanes are 4 pixels of up to 32 channels or 2 of up to 64; more than one tile of inputs, and zeros around them.
@pytest.mark.parametrize(
    ("stride", "outputs", "residual", "pixels"), [(1, 32, False, 4), (1, 20, True, 4), (2, 64, False, 2)]
)
def test_blocks_of_pixels(
    monkeypatch: pytest.MonkeyPatch, stride: int, outputs: int, residual: bool, pixels: int
) -> None:
    made: list[int] = []

    def watched(
        k: Kernel, op: Operation, epilogue: Epilogue, packing: WeightPacking, phase: Phase
    ) -> PixelBlocks | None:
        found = take_blocks(k, op, epilogue, packing, phase)
        made.extend([found.block.pixels] if found else [])
        return found

    monkeypatch.setattr(conv, "take_blocks", watched)
    make, weights = between(stride, outputs, residual)

    def layouts(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, 100_000)

    error = lowered_error("trn1", [("bf16", (1, 48, 24, 24))], weights, make, layouts)
    assert made == [pixels]
    assert error < 2e-2
