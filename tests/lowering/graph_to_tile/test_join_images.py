"""Images that were computed apart and come together on chip: numbers, and where their parts lie."""

from collections.abc import Callable, Mapping, Sequence

import ml_dtypes
import numpy as np
import pytest
from xdsl.ir import Block, SSAValue

from neuron_dialects.graph import (
    ConcatOp,
    RelayoutOp,
    SliceOp,
    UnaryKind,
    UnaryOp,
    layout_of,
    shape_of,
)
from passes.graph.layout import choose_layouts
from tests.core_kernels import add, conv, lowered_error

Make = Callable[[Block, SSAValue, Mapping[str, SSAValue]], list[SSAValue]]

CAPACITY = 100_000
"""Bytes of a partition: room for all maps here."""


def parts(block: Block, x: SSAValue, w: SSAValue, sizes: Sequence[int]) -> list[SSAValue]:
    """A convolution of some images after the other."""
    made: list[SSAValue] = []
    for first, size in zip(np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
        cut = SliceOp(x, (int(first), 0, 0, 0), (size, *shape_of(x)[1:]), (1, 1, 1, 1))
        made.append(conv(block, add(block, cut), w))
    return made


def together(block: Block, x: SSAValue, w: Mapping[str, SSAValue]) -> list[SSAValue]:
    """Two parts, read with a halo."""
    whole = add(block, ConcatOp(parts(block, x, w["136x8x1x1"], (2, 1)), 0))
    return [conv(block, whole, w["8x136x3x3"])]


def read_twice(block: Block, x: SSAValue, w: Mapping[str, SSAValue]) -> list[SSAValue]:
    """A part that has a reader of its own, with a halo that the whole does not have."""
    made = parts(block, x, w["136x8x1x1"], (1, 2))
    whole = add(block, ConcatOp(made, 0))
    return [conv(block, whole, w["8x136x1x1"]), conv(block, made[0], w["8x136x3x3"])]


def repeated(block: Block, x: SSAValue, w: Mapping[str, SSAValue]) -> list[SSAValue]:
    """The same images twice."""
    (made,) = parts(block, x, w["136x8x1x1"], (3,))
    return [conv(block, add(block, ConcatOp([made, made], 0)), w["8x136x1x1"])]


def returned(block: Block, x: SSAValue, w: Mapping[str, SSAValue]) -> list[SSAValue]:
    """A result of the function: stored where it is computed."""
    return [add(block, ConcatOp(parts(block, x, w["136x8x1x1"], (2, 1)), 0))]


def cut_again(block: Block, x: SSAValue, w: Mapping[str, SSAValue]) -> list[SSAValue]:
    """One that is taken apart again elsewhere."""
    whole = add(block, ConcatOp(parts(block, x, w["136x8x1x1"], (2, 1)), 0))
    cut = add(block, SliceOp(whole, (1, 0, 0, 0), (2, *shape_of(whole)[1:]), (1, 1, 1, 1)))
    return [add(block, UnaryOp(UnaryKind.RELU, cut))]


def outcome(make: Make, capacity: int, target: str = "trn1") -> tuple[float, list[bool], int]:
    """The error, whether each operand of the concatenation lies on chip, and forms that are stored apart."""
    rng = np.random.default_rng(3)
    shapes = ("136x8x1x1", "8x136x3x3", "8x136x1x1")
    weights = {
        name: (rng.standard_normal([int(n) for n in name.split("x")]) * 0.2).astype(ml_dtypes.bfloat16)
        for name in shapes
    }
    found: list[bool] = []
    stored = 0

    def layouts(block: Block) -> None:
        nonlocal stored
        choose_layouts(block, capacity)
        for op in block.ops:
            if isinstance(op, ConcatOp):
                found.extend(layout_of(x) is not None for x in op.xs)
            stored += isinstance(op, RelayoutOp)

    error = lowered_error(target, [("bf16", (3, 8, 6, 5))], weights, lambda block, x, w: make(block, x[0], w), layouts)
    return error, found, stored


@pytest.mark.parametrize(
    ("make", "on_chip"),
    [(together, [True] * 2), (read_twice, [True] * 2), (repeated, [True] * 2), (returned, [False] * 2)],
)
@pytest.mark.parametrize("target", ["trn1", "inf1"])
def test_images_come_together_on_chip(make: Make, on_chip: Sequence[bool], target: str) -> None:
    error, found, stored = outcome(make, CAPACITY, target)
    assert found == list(on_chip)
    assert stored == 0
    assert error < 2e-2


# Where the whole has no room beside its parts, or is read apart again, these are stored: once, if others read them too.
@pytest.mark.parametrize(
    ("make", "capacity", "stored"), [(together, 700, 0), (read_twice, 700, 1), (cut_again, 10**5, 0)]
)
def test_parts_are_stored(make: Make, capacity: int, stored: int) -> None:
    error, found, forms = outcome(make, capacity)
    assert not any(found)
    assert forms == stored
    assert error < 2e-2
