"""Filters of all blocks of groups that come on chip before the blocks: numbers, and when they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile import conv_kernel
from lowering.graph_to_tile.builder import KernelBuilder
from neuron_dialects.graph import ConvOp, UnaryKind, UnaryOp
from passes.graph.layout import choose_layouts
from tests.core_kernels import lowered_error


def error(groups: int, each: tuple[int, int], capacity: int, monkeypatch: pytest.MonkeyPatch) -> tuple[float, int]:
    """The error of a convolution in groups of so many channels in and out; how many times all filters were loaded."""
    inputs, outputs = (groups * channels for channels in each)

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        x = UnaryOp(UnaryKind.TANH, arguments[0])
        conv = ConvOp(x.result, values["w"], strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), groups=groups)
        block.add_ops([x, conv])
        return [conv.result]

    names: list[str] = []
    alloc = KernelBuilder.alloc

    def counted(self: KernelBuilder, *arguments: object) -> object:
        names.append(str(arguments[-1]))
        return alloc(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(KernelBuilder, "alloc", counted)
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((outputs, each[0], 3, 3)).astype(ml_dtypes.bfloat16)}
    shape = (2, inputs, 5, 6)
    found = lowered_error("trn1", [("bf16", shape)], weights, make, lambda block: choose_layouts(block, capacity))
    return found, names.count("filters")


# Whole blocks, a last block of fewer groups, more outputs than inputs, one group a block; on chip and from DRAM.
@pytest.mark.parametrize(("groups", "each"), [(96, (4, 4)), (72, (4, 4)), (40, (8, 16)), (3, (70, 100))])
@pytest.mark.parametrize("capacity", [100_000, 0])
def test_filters_of_all_blocks(
    groups: int, each: tuple[int, int], capacity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, loaded = error(groups, each, capacity, monkeypatch)
    assert found < 1e-2
    assert loaded == 1


# Two blocks, which have a buffer each anyway, and no room for those of several: block by block.
@pytest.mark.parametrize(("groups", "share"), [(64, 3), (96, 10**6)])
def test_filters_of_a_block(groups: int, share: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conv_kernel, "FILTERS_SHARE", share)
    found, loaded = error(groups, (4, 4), 100_000, monkeypatch)
    assert found < 1e-2
    assert loaded == 0
