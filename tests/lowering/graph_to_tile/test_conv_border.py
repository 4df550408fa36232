"""What is added to the first and last rows and columns of a convolution's result: numbers, and who adds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from lowering.graph_to_tile import conv
from lowering.graph_to_tile.windows import Segment, with_first_apart, with_last_apart
from neuron_dialects.graph import BinaryKind, BinaryOp, ConvOp, ReduceKind, ReduceOp, UnaryKind, UnaryOp, shape_of
from passes.graph.fuse import fuse_block
from passes.graph.layout import choose_layouts
from passes.graph.pixel_border import add_border
from tests.core_kernels import lowered_error

TOLERANCE = 1e-2


def border(channels: int, size: int, axis: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Far down for every other channel at the first position, for the others at the last one."""
    weight = np.zeros((channels, size, 1), np.float32)
    weight[::2, 0] = weight[1::2, -1] = -(2.0**64)
    return weight if axis == 1 else weight.transpose(0, 2, 1)


def error(
    shape: tuple[int, ...], channels: int, capacity: int, monkeypatch: pytest.MonkeyPatch, *, depthwise: bool = False
) -> tuple[float, int]:
    """The error of a convolution with a border, an activation and a mean; how many additions the tensor engine does."""
    images, inputs, rows, columns = shape
    pad = int(depthwise)
    taken = 0

    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        before = UnaryOp(UnaryKind.TANH, arguments[0])
        groups = channels if depthwise else 1
        made = ConvOp(
            before.result, values["w"], values["b"], strides=(1, 1), pads=(pad,) * 4, dilations=(1, 1), groups=groups
        )
        first = add_border(made.result, values["rows"])
        second = add_border(first.result, values["columns"])
        last = UnaryOp(UnaryKind.SILU, second.result)
        mean = ReduceOp(ReduceKind.MEAN, last.result, (2, 3), keep_dims=True)
        product = BinaryOp(BinaryKind.MUL, last.result, mean.result)
        block.add_ops([before, made, first, second, last, mean, product])
        return [product.result]

    def lay_out(block: Block) -> None:
        fuse_block(block)
        choose_layouts(block, capacity)

    known = conv.take_border

    def counted(*arguments: object) -> object:
        nonlocal taken
        found, ops = known(*arguments)  # pyright: ignore[reportArgumentType]
        taken += len(found.ends)
        return found, ops

    monkeypatch.setattr(conv, "take_border", counted)
    rng = np.random.default_rng(0)
    taps = (channels, 1, 3, 3) if depthwise else (channels, inputs, 1, 1)
    weights = {"w": rng.standard_normal(taps), "b": rng.standard_normal(channels)}
    weights |= {"rows": border(channels, rows, 1), "columns": border(channels, columns, 2)}
    cast = {name: value.astype(ml_dtypes.bfloat16) for name, value in weights.items()}
    return lowered_error("trn1", [("bf16", (images, inputs, rows, columns))], cast, make, lay_out), taken


# All rows in one tile; several tiles, of which those at the ends have a border; two of them; single rows and columns.
@pytest.mark.parametrize("size", [(7, 5), (57, 57), (30, 30), (1, 9), (9, 1), (2, 2)])
@pytest.mark.parametrize("capacity", [100_000, 0])
def test_borders(size: tuple[int, int], capacity: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found, taken = error((2, 12, *size), 20, capacity, monkeypatch)
    assert found < TOLERANCE
    assert taken == sum(n > 1 for n in size)


# A block of channels after the other, with the filters of a depthwise convolution.
@pytest.mark.parametrize(("channels", "images"), [(160, 3), (256, 1)])
def test_borders_of_depthwise_convolutions(channels: int, images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found, taken = error((images, channels, 26, 21), channels, 100_000, monkeypatch, depthwise=True)
    assert found < TOLERANCE
    assert taken == 2


# One tile, three tiles, and one size behind another.
def test_ends_are_apart() -> None:
    def sizes(cut: list[Segment]) -> list[tuple[int, int, int, int]]:
        parts = with_last_apart(with_first_apart(cut, 2), 2)
        return [(part.start, part.count, part.size, part.input_start) for part in parts]

    assert sizes([Segment(0, 1, 4, 0, 7, 0, 0)]) == [(0, 1, 4, 0)]
    assert sizes([Segment(0, 3, 4, 0, 7, 0, 0)]) == [(0, 1, 4, 0), (4, 1, 4, 8), (8, 1, 4, 16)]
    two = [Segment(0, 3, 4, 0, 7, 0, 0), Segment(12, 1, 2, 24, 3, 0, 0)]
    assert sizes(two) == [(0, 1, 4, 0), (4, 2, 4, 8), (12, 1, 2, 24)]


# A weight of another shape than a border has is added like any other, mark or not.
def test_marks_on_other_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(block: Block, arguments: Sequence[SSAValue], values: Mapping[str, SSAValue]) -> Sequence[SSAValue]:
        made = ConvOp(arguments[0], values["w"], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1))
        total = add_border(made.result, values["map"])
        last = UnaryOp(UnaryKind.RELU, total.result)
        block.add_ops([made, total, last])
        assert shape_of(last.result) == (1, 8, 5, 6)
        return [last.result]

    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((8, 4, 1, 1)), "map": rng.standard_normal((8, 5, 6))}
    cast = {name: value.astype(ml_dtypes.bfloat16) for name, value in weights.items()}
    assert lowered_error("trn1", [("bf16", (1, 4, 5, 6))], cast, make, fuse_block) < TOLERANCE
