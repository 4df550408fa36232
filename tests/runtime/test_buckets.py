"""Choosing a bucket, padding, cutting and putting together: on plain functions, against what numpy says directly."""

from __future__ import annotations

from math import ceil, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_dialects.errors import NeuronError
from runtime.buckets import Assembly, Shapes, cut, plan_run
from runtime.neff import DynamicDimension

Array = np.ndarray[Any, np.dtype[Any]]
ROWS = DynamicDimension("rows", True, (("x", 0), ("y", 1)), (("out", 0),))
LENGTH = DynamicDimension("length", False, (("x", 1),), (("out", 2),))


def buckets_of(*sizes: tuple[int, int]) -> list[Shapes]:
    """Inputs x [rows, length, 3] and y [2, rows]."""
    return [{"x": (rows, length, 3), "y": (2, rows)} for rows, length in sizes]


def row_wise(x: Array, y: Array) -> dict[str, Array]:
    """A model that is independent along rows and masks zeros along the length: out [rows, 3, length], total [2]."""
    out = x.transpose(0, 2, 1) * y[0][:, None, None] + y[1][:, None, None] * (x.transpose(0, 2, 1) != 0)
    return {"out": out, "constant": np.arange(2.0)}


def run(buckets: list[Shapes], dimensions: list[DynamicDimension], inputs: dict[str, Array]) -> dict[str, Array]:
    plan = plan_run(buckets, dimensions, {name: value.shape for name, value in inputs.items()})
    assembly = Assembly(dimensions, plan)
    for piece in plan.pieces:
        shapes = buckets[plan.bucket]
        parts = {name: cut(name, value, shapes[name], dimensions, piece, 0) for name, value in inputs.items()}
        assert {name: part.shape for name, part in parts.items()} == shapes
        assembly.add(piece, row_wise(**parts))
    return assembly.outputs


SIZES = st.integers(1, 7)


# Whatever the compiled sizes are, what comes out is what the model gives for the inputs as they are.
@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=4, unique=True), st.integers(0, 20), st.data())
def test_a_run_gives_what_the_model_gives(sizes: list[tuple[int, int]], rows: int, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, max(length for _, length in sizes)))
    generator = np.random.default_rng(rows * 31 + length)
    inputs = {"x": generator.uniform(1, 2, (rows, length, 3)), "y": generator.uniform(1, 2, (2, rows))}
    outputs = run(buckets_of(*sizes), [ROWS, LENGTH], inputs)
    for name, value in row_wise(**inputs).items():
        np.testing.assert_array_equal(outputs[name], value)


# The chosen bucket holds the inputs, and no other that does has fewer elements over all of its pieces.
@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=5, unique=True), st.integers(1, 20), SIZES)
def test_the_smallest_bucket_that_fits(sizes: list[tuple[int, int]], rows: int, length: int) -> None:
    buckets = buckets_of(*sizes)
    shapes = {"x": (rows, length, 3), "y": (2, rows)}
    fitting = [index for index, (_, compiled) in enumerate(sizes) if compiled >= length]
    if not fitting:
        with pytest.raises(NeuronError) as caught:
            plan_run(buckets, [ROWS, LENGTH], shapes)
        assert caught.value.code == "NX-RUN-012"
        return
    plan = plan_run(buckets, [ROWS, LENGTH], shapes)

    def elements(index: int) -> int:
        return ceil(rows / sizes[index][0]) * sum(prod(shape) for shape in buckets[index].values())

    assert plan.bucket in fitting
    assert elements(plan.bucket) == min(elements(index) for index in fitting)
    assert len(plan.pieces) == ceil(rows / sizes[plan.bucket][0])


# Inputs as they were compiled for run once, on the arrays themselves.
def test_an_exact_fit_copies_nothing() -> None:
    x = np.ones((4, 5, 3))
    plan = plan_run(buckets_of((4, 8), (4, 5)), [ROWS, LENGTH], {"x": x.shape, "y": (2, 4)})
    assert (plan.bucket, plan.pieces) == (1, [{"rows": (0, 4), "length": (0, 5)}])
    part = cut("x", x, (4, 5, 3), [ROWS, LENGTH], plan.pieces[0], 0)
    assert np.shares_memory(part, x)


# An input without axes stays an array: onnxruntime takes a scalar of numpy's for something else.
def test_no_axes() -> None:
    part = cut("scale", np.array(2.5, np.float32), (), [ROWS], {"rows": (0, 1)}, 0)
    assert (type(part), part.shape, part.dtype) == (np.ndarray, (), np.float32)


def test_padding_is_behind_the_end_and_has_its_value() -> None:
    part = cut("x", np.ones((1, 2, 3), np.int32), (1, 4, 3), [ROWS, LENGTH], {"rows": (0, 1), "length": (0, 2)}, -7)
    assert part.dtype == np.int32
    assert part[0, :, 0].tolist() == [1, 1, -7, -7]


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({"x": (4, 5, 3), "y": (2, 5)}, "dimension 'rows' is 5 in input 'y' but 4 in another"),
        ({"x": (4, 9, 3), "y": (2, 4)}, "compiled for 'x' [4, 5, 3], 'y' [2, 4]; 'x' [2, 8, 3], 'y' [2, 2]"),
        ({"x": (4, 5, 2), "y": (2, 4)}, "shapes 'x' [4, 5, 2]"),
        ({"x": (4,), "y": (2, 4)}, "have shapes 'x' [4], the model was compiled for 'x' [4, 5, 3]; 'x' [2, 8, 3]"),
        ({"x": (), "y": (2, 4)}, "have shapes 'x' []"),
    ],
)
def test_inputs_that_fit_nowhere(shapes: Shapes, text: str) -> None:
    with pytest.raises(NeuronError) as caught:
        plan_run(buckets_of((4, 5), (2, 8)), [ROWS, LENGTH], shapes)
    assert caught.value.code == "NX-RUN-012"
    assert text in caught.value.message
