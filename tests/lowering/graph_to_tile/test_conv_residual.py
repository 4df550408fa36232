"""Residuals that the tensor engine adds, where something else reads what they are added to, against the graph level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from neuron_dialects.graph import BinaryKind, BinaryOp, ConvOp, UnaryKind, UnaryOp
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from tests.core_kernels import lowered_error

TOLERANCE = 1e-2
BUDGET = 100_000
CHANNELS = 20


def lay_out(block: Block) -> None:
    fuse_block(block)
    choose_layouts(block, BUDGET)


# The sum before its residual is read by another operator of the group, without and with a bias, or by another kernel.
@pytest.mark.parametrize(("biased", "given_out"), [(False, False), (True, False), (False, True)])
def test_what_a_residual_is_added_to_is_read_again(biased: bool, given_out: bool) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        x = UnaryOp(UnaryKind.TANH, arguments[0])
        conv = ConvOp(x.result, values["w"], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
        block.add_ops([x, conv])
        before = conv.result
        if biased:
            bias = BinaryOp(BinaryKind.ADD, before, values["b"])
            block.add_op(bias)
            before = bias.result
        total = BinaryOp(BinaryKind.ADD, before, x.result)
        block.add_op(total)
        if given_out:
            last = UnaryOp(UnaryKind.RELU, total.result)
            block.add_op(last)
            return [last.result, before]
        other = UnaryOp(UnaryKind.RELU, before)
        last = BinaryOp(BinaryKind.MUL, total.result, other.result)
        block.add_ops([other, last])
        return [last.result]

    rng = np.random.default_rng(0)
    shapes = {"w": (CHANNELS, CHANNELS, 1, 1), "b": (CHANNELS, 1, 1)}
    weights = {name: rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for name, shape in shapes.items()}
    inputs = [("bf16", (2, CHANNELS, 9, 13))]
    assert lowered_error("trn1", inputs, weights, make, lay_out) < TOLERANCE
