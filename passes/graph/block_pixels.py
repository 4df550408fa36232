"""`graph-block-pixels`: feature maps of depthwise convolutions with the pixels of blocks beside their channels.

Given core functions in front of `graph-fuse`. Four pixels of 32 channels fill the tensor engine's columns as 128
channels do, and a depthwise filter between blocks takes fewer columns of the array than one between pixels
(`pixel_grid`). A 1x1 convolution between blocks has four times as many channels on both sides, a quarter of the pixels,
and three quarters of its weights zero, which costs nothing where channels are few. `block_plan` chooses between pixels
and blocks, piece by piece of a function, and `pixel_copies` rewrites what is in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from neuron_dialects.neuron import core_functions, target_of
from neuron_dialects.remarks import listening, remark
from passes.graph.block_plan import choose_blocks
from passes.graph.fold_weights import Recipes
from passes.graph.pixel_copies import BlockCopies


@dataclass(frozen=True)
class GraphBlockPixelsPass(ModulePass):
    """Put the pixels of blocks of 2 x 2 beside their channels where that is estimated to be faster.

        %1 = graph.conv %x, %w ... pads [1, 1, 1, 1] ... groups 32 :
            (tensor<1x32x56x56xbf16>, tensor<32x1x3x3xbf16>) -> tensor<1x32x56x56xbf16>

    becomes, between other convolutions, with the blocks of the result a pixel before the first one,

        %1 = graph.conv %x, %v ... pads [1, 1, 1, 1] ... groups 32 :
            (tensor<1x128x28x28xbf16>, tensor<128x4x2x2xbf16>) -> tensor<1x128x29x29xbf16>
    """

    name = "graph-block-pixels"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Choose in every core function."""
        recipes: Recipes | None = None
        for function in core_functions(op):
            block = function.body.block
            chosen = choose_blocks(block, target_of(op))
            if not chosen:
                continue
            if listening():
                why = f"{len(chosen)} convolutions read or make blocks of pixels"
                remark("passed", "block-pixels", why, op=next(iter(chosen)))
            recipes = recipes or Recipes(op)
            BlockCopies(block, recipes, chosen).apply()
        if recipes is not None:
            recipes.drop_unused()
