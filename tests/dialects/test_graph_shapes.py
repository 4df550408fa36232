"""Shape rules of the graph operators: against numpy where numpy has the rule, by worked examples elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_dialects.graph import shapes
from neuron_dialects.graph.shapes import ShapeError

DIMS = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@given(DIMS, DIMS, DIMS)
def test_broadcast_agrees_with_numpy(a: tuple[int, ...], b: tuple[int, ...], c: tuple[int, ...]) -> None:
    try:
        expected = np.broadcast_shapes(a, b, c)
    except ValueError:
        with pytest.raises(ShapeError, match="do not broadcast"):
            shapes.broadcast_shapes(a, b, c)
        return
    assert shapes.broadcast_shapes(a, b, c) == expected


@given(DIMS, DIMS)
def test_broadcast_to_agrees_with_numpy(source: tuple[int, ...], target: tuple[int, ...]) -> None:
    try:
        np.broadcast_to(np.zeros(source), target)
    except ValueError:
        with pytest.raises(ShapeError, match="does not broadcast to"):
            shapes.check_broadcast(source, target)
        return
    shapes.check_broadcast(source, target)


def test_broadcast_of_empty_dimensions() -> None:
    assert shapes.broadcast_shapes((0, 3), (1, 3)) == (0, 3)
    with pytest.raises(ShapeError):
        shapes.broadcast_shapes((0,), (2,))


@given(st.lists(st.integers(1, 3), min_size=2, max_size=4), st.lists(st.integers(1, 3), min_size=2, max_size=4))
def test_matmul_agrees_with_numpy(a: list[int], b: list[int]) -> None:
    try:
        expected = np.matmul(np.zeros(a), np.zeros(b)).shape
    except ValueError:
        with pytest.raises(ShapeError):
            shapes.matmul_shape(a, b, False, False)
        return
    assert shapes.matmul_shape(a, b, False, False) == expected
    turned_a, turned_b = [*a[:-2], a[-1], a[-2]], [*b[:-2], b[-1], b[-2]]
    assert shapes.matmul_shape(turned_a, turned_b, True, True) == expected


@given(st.integers(1, 9), st.integers(-12, 12), st.integers(-12, 12), st.sampled_from([-3, -2, -1, 1, 2, 3]))
def test_slices_that_python_takes_are_inside(size: int, start: int, stop: int, step: int) -> None:
    taken = range(*slice(start, stop, step).indices(size))
    first = taken.start if taken else 0
    assert shapes.slice_shape((size,), (first,), (len(taken),), (step,)) == (len(taken),)


# (size, kernel, stride, low, high, dilation) -> windows without and with partial ones, counted by hand.
@pytest.mark.parametrize(
    ("window", "whole", "partial"),
    [
        ((9, 2, 2, 0, 0, 1), 4, 5),
        ((8, 2, 2, 0, 0, 1), 4, 4),
        ((112, 3, 2, 1, 1, 1), 56, 57),
        # The last partial window would start at 4, beyond the input and its low padding: it does not count.
        ((3, 1, 4, 0, 2, 1), 2, 2),
        ((3, 2, 3, 0, 1, 1), 1, 1),
        ((8, 3, 1, 0, 0, 2), 4, 4),
    ],
)
def test_windows(window: tuple[int, int, int, int, int, int], whole: int, partial: int) -> None:
    size, kernel, stride, low, high, dilation = window
    arguments = ((1, 1, size), (kernel,), (stride,), (low, high), (dilation,))
    if max(low, high) < shapes.window_extent(kernel, dilation):
        assert shapes.pool_shape(*arguments, ceil_mode=False) == (1, 1, whole)
        assert shapes.pool_shape(*arguments, ceil_mode=True) == (1, 1, partial)
    assert shapes.conv_shape((1, 1, size), (1, 1, kernel), (stride,), (low, high), (dilation,), 1) == (1, 1, whole)


# SAME gives ceil(size / stride) windows; of an odd total padding the larger half is at the end, or at the begin.
def test_auto_pad() -> None:
    assert shapes.resolve_auto_pad("VALID", (9,), (4,), (2,), (1,)) == (0, 0)
    assert shapes.resolve_auto_pad("SAME_UPPER", (9,), (4,), (2,), (1,)) == (1, 2)
    assert shapes.resolve_auto_pad("SAME_LOWER", (9,), (4,), (2,), (1,)) == (2, 1)
    assert shapes.resolve_auto_pad("SAME_UPPER", (9, 8), (3, 1), (1, 2), (2, 1)) == (2, 0, 2, 0)
    with pytest.raises(ShapeError, match="'SAME' is unknown"):
        shapes.resolve_auto_pad("SAME", (9,), (4,), (2,), (1,))


# (4 - 1) * 2 + (3 - 1) * 1 + 1 + 1 - 1 - 1 = 8
def test_conv_transpose_undoes_the_shape_of_conv() -> None:
    shape = shapes.conv_transpose_shape((1, 8, 4, 4), (8, 3, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), (1, 1), 1)
    assert shape == (1, 3, 8, 8)
    assert shapes.conv_shape(shape, (8, 3, 3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1) == (1, 8, 4, 4)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.data())
def test_pad_agrees_with_numpy(shape: list[int], data: st.DataObject) -> None:
    widths = [(data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))) for _ in shape]
    low, high = [before for before, _ in widths], [after for _, after in widths]
    expected = np.pad(np.zeros(shape), widths).shape
    assert shapes.pad_shape(shape, low, high, "constant") == expected
    for dim, before, after in zip(shape, low, high, strict=True):
        if before and before >= dim:
            with pytest.raises(ShapeError, match="reflect padding"):
                shapes.pad_shape((dim,), (before,), (after,), "reflect")


def test_axes_are_counted_from_the_front() -> None:
    assert shapes.normalize_axes([-1, 0], 3) == (0, 2)
    with pytest.raises(ShapeError, match="name a dimension twice"):
        shapes.normalize_axes([2, -1], 3)
    with pytest.raises(ShapeError, match=r"axis 3 is outside \[-3, 2\]"):
        shapes.normalize_axis(3, 3)


def test_shapes_as_text() -> None:
    assert shapes.text((1, 64, 56)) == "1x64x56"
    assert shapes.text(()) == "scalar"
