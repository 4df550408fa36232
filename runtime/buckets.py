"""Inputs of any size on a model of fixed sizes: choosing a bucket, padding, cutting in pieces, and putting together.

Plain functions on shapes and arrays. Given the shapes that a model was compiled for and the shapes of a run's inputs,
`plan_run` leaves the bucket to use and the pieces to run it on; `cut` makes the inputs of a piece, `Assembly` the
outputs of the whole run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from neuron_dialects.errors import NeuronError
from runtime.neff import DynamicDimension

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
"""Shape of each input by name."""

Piece = Mapping[str, tuple[int, int]]
"""Dynamic dimension -> first position and number of positions that a piece covers."""


@dataclass(frozen=True)
class RunPlan:
    """How to run inputs: `bucket` (its index) once for each of the `pieces`; `sizes` of the dynamic dimensions."""

    bucket: int
    sizes: dict[str, int]
    pieces: list[Piece]


def plan_run(buckets: Sequence[Shapes], dimensions: Sequence[DynamicDimension], shapes: Shapes) -> RunPlan:
    """The bucket with the fewest input elements, over all its pieces, for inputs of these shapes.

    A bucket fits when inputs agree with it outside of the dynamic dimensions and are not larger along those that cannot
    be cut in pieces. Among equals the one with the fewest pieces wins, then the first.
    NeuronError NX-RUN-012 when inputs disagree about a dimension, or when no bucket fits.
    """
    sizes = _sizes(dimensions, shapes)
    candidates: list[tuple[int, int, int]] = []
    for index, bucket in enumerate(buckets):
        if _fits(bucket, dimensions, shapes, sizes):
            pieces = prod(_piece_count(sizes[d.name], _size_in(bucket, d)) for d in dimensions if d.independent)
            candidates.append((pieces * sum(prod(shape) for shape in bucket.values()), pieces, index))
    if not candidates:
        raise _no_bucket(buckets, shapes)
    index = min(candidates)[2]
    return RunPlan(index, sizes, _pieces(buckets[index], dimensions, sizes))


def _sizes(dimensions: Sequence[DynamicDimension], shapes: Shapes) -> dict[str, int]:
    """Size of every dynamic dimension."""
    sizes: dict[str, int] = {}
    for dimension in dimensions:
        for name, axis in dimension.inputs:
            if axis >= len(shapes[name]):
                continue  # Another rank: no bucket fits, which is said with all shapes.
            size = shapes[name][axis]
            if sizes.setdefault(dimension.name, size) != size:
                raise NeuronError(
                    "NX-RUN-012",
                    f"dimension '{dimension.name}' is {size} in input '{name}' but {sizes[dimension.name]} in another",
                )
    return sizes


def _fits(bucket: Shapes, dimensions: Sequence[DynamicDimension], shapes: Shapes, sizes: Mapping[str, int]) -> bool:
    dynamic = {axis for dimension in dimensions for axis in dimension.inputs}
    for name, compiled in bucket.items():
        given = shapes[name]
        if len(given) != len(compiled):
            return False
        if any(g != c and (name, axis) not in dynamic for axis, (g, c) in enumerate(zip(given, compiled, strict=True))):
            return False
    return all(d.independent or sizes[d.name] <= _size_in(bucket, d) for d in dimensions)


def _size_in(bucket: Shapes, dimension: DynamicDimension) -> int:
    name, axis = dimension.inputs[0]
    return bucket[name][axis]


def _piece_count(size: int, step: int) -> int:
    """Pieces of `step` positions that cover `size`; an empty run still takes one, which makes its empty outputs."""
    return max(1, -(-size // step))


def _pieces(bucket: Shapes, dimensions: Sequence[DynamicDimension], sizes: Mapping[str, int]) -> list[Piece]:
    """All combinations of ranges, the last dimension fastest."""
    ranges: list[list[tuple[int, int]]] = []
    for dimension in dimensions:
        size, step = sizes[dimension.name], _size_in(bucket, dimension)
        starts = [part * step for part in range(_piece_count(size, step))]
        ranges.append([(start, min(step, size - start)) for start in starts])
    names = [dimension.name for dimension in dimensions]
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*ranges)]


def _no_bucket(buckets: Sequence[Shapes], shapes: Shapes) -> NeuronError:
    """The refusal: it names an input that fits nowhere if there is one, else all of them."""
    odd = [name for name in shapes if all(len(bucket[name]) != len(shapes[name]) for bucket in buckets)]
    names = odd[:1] or list(shapes)
    given = ", ".join(f"'{name}' {list(shapes[name])}" for name in names)
    known = "; ".join(", ".join(f"'{name}' {list(bucket[name])}" for name in names) for bucket in buckets[:8])
    more = f" and {len(buckets) - 8} more" if len(buckets) > 8 else ""
    return NeuronError(
        "NX-RUN-012",
        f"the inputs have shapes {given}, the model was compiled for {known}{more}",
        help="recompile with another --input-shape or --bucket",
    )


def cut(
    name: str, value: Array, shape: Shape, dimensions: Sequence[DynamicDimension], piece: Piece, padding: float
) -> Array:
    """The part of an input that a piece covers, padded behind its end to a bucket's shape."""
    # The ellipsis keeps an array without axes an array; numpy would give a scalar, which onnxruntime takes for another.
    part = value[(..., *_window(name, len(shape), [(d.inputs, piece[d.name]) for d in dimensions]))]
    if part.shape == shape:
        return part
    padded = np.full(shape, padding, value.dtype)
    padded[tuple(slice(size) for size in part.shape)] = part
    return padded


def _window(
    name: str, rank: int, ranges: Sequence[tuple[Sequence[tuple[str, int]], tuple[int, int]]]
) -> tuple[slice, ...]:
    """Index of the ranges' positions in a tensor: `ranges` are the axes of a dimension, with (start, count)."""
    window = [slice(None)] * rank
    for axes, (start, count) in ranges:
        for tensor, axis in axes:
            if tensor == name:
                window[axis] = slice(start, start + count)
    return tuple(window)


@dataclass
class Assembly:
    """Outputs of a run, put together from those of its pieces.

    What lies behind the end of a dynamic dimension is cut off. An output without dynamic axes is the last piece's.
    """

    dimensions: Sequence[DynamicDimension]
    plan: RunPlan
    outputs: dict[str, Any] = field(default_factory=dict[str, Any])

    def add(self, piece: Piece, outputs: Mapping[str, Any]) -> None:
        """Take over the outputs of a piece."""
        for name, value in outputs.items():
            axes = [(d, axis) for d in self.dimensions for tensor, axis in d.outputs if tensor == name]
            if not isinstance(value, np.ndarray) or not axes:
                self.outputs[name] = value
                continue
            rank = value.ndim
            valid = value[_window(name, rank, [(d.outputs, (0, piece[d.name][1])) for d, _ in axes])]
            if len(self.plan.pieces) == 1:
                self.outputs[name] = np.ascontiguousarray(valid)
                continue
            if name not in self.outputs:
                whole = list(value.shape)
                for dimension, axis in axes:
                    whole[axis] = self.plan.sizes[dimension.name]
                self.outputs[name] = np.empty(whole, value.dtype)
            self.outputs[name][_window(name, rank, [(d.outputs, piece[d.name]) for d, _ in axes])] = valid
