"""How random models use operators that move elements, describe shapes or select by index."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from tests.random_models.builder import ModelBuilder, Value
from tests.random_models.elementwise import Use, axes_of, axis_of

ANY = "fffiub"
"""Kinds of elements that are only moved: mostly floats."""


def _identity(b: ModelBuilder, op_type: str) -> None:
    b.add(op_type, b.pick(dtypes=ANY if op_type == "Identity" else "f"))


def _transpose(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes=ANY)
    order = list(range(x.rank))
    for place in range(x.rank - 1):
        other = b.integer(place, x.rank - 1)
        order[place], order[other] = order[other], order[place]
    b.add(op_type, x, perm=order)


def _factors(b: ModelBuilder, count: int) -> list[int]:
    """A shape of `count` elements."""
    shape: list[int] = []
    for _ in range(b.integer(0, 3)):
        size = b.one_of(*(size for size in (1, 2, 3, 4, 5, 7, 13) if count % size == 0))
        shape.append(size)
        count //= size
    return [*shape, count]


def _reshape(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(dtypes=ANY)
    shape = _factors(b, x.array.size)
    if b.flag():
        shape[b.integer(0, len(shape) - 1)] = -1
    elif x.rank and shape[0] == x.shape[0] and b.flag():
        shape[0] = 0
    b.add(op_type, x, b.ints(shape))


def _flatten(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(dtypes="f")
    b.add(op_type, x, axis=b.integer(0, x.rank))


def _squeeze(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(lambda v: 1 in v.shape, low=1, dtypes=ANY)
    axes = [axis for axis, dim in enumerate(x.shape) if dim == 1 and b.flag()]
    _with_axes(b, op_type, x, axes)


def _unsqueeze(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(high=3, dtypes=ANY)
    _with_axes(b, op_type, x, axes_of(b, x.rank + 1)[:2] or [0])


def _with_axes(b: ModelBuilder, op_type: str, x: Value, axes: list[int]) -> None:
    """Axes as an input from opset 13 on, as an attribute before; none at all if there are none."""
    if b.opset < 13:
        attributes: dict[str, Any] = {"axes": axes} if axes else {}
        b.add(op_type, x, **attributes)
    else:
        b.add(op_type, x, *([b.ints(axes)] if axes else []))


def _expand(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(dtypes=ANY)
    wide = [b.one_of(3, 1, 5) if dim == 1 else b.one_of(dim, 1) for dim in x.shape]
    b.add(op_type, x, b.ints([*([b.integer(1, 3)] if b.flag() else []), *wide]))


def _tile(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes="fffi")
    b.add(op_type, x, b.ints([b.one_of(1, 2, 3) for _ in x.shape]))


def _depth_to_space(b: ModelBuilder, op_type: str) -> None:
    block, channels, height = b.one_of(2, 3), b.integer(1, 5), b.integer(1, 5)
    if op_type == "DepthToSpace":
        x = b.tensor(np.float32, (b.integer(1, 2), channels * block * block, height, b.integer(1, 5)))
        b.add(op_type, x, blocksize=block, mode=b.one_of("DCR", "CRD"))
    else:
        x = b.tensor(np.float32, (b.integer(1, 2), channels, height * block, b.integer(1, 5) * block))
        b.add(op_type, x, blocksize=block)


def _concat(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes=ANY)
    axis = axis_of(b, x.rank)
    parts = [x]
    for _ in range(b.integer(0, 2)):
        shape = list(x.shape)
        shape[axis] = b.one_of(x.shape[axis], 1, 2, 5)
        parts.append(b.like(x, shape))
    b.add(op_type, *(parts if b.flag() else reversed(parts)), axis=axis)


def _split(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes="fffi")
    axis = axis_of(b, x.rank)
    size = x.shape[axis]
    cuts = sorted({b.integer(0, size) for _ in range(b.integer(0, 2))} - {0, size})
    sizes = np.diff([0, *cuts, size]).tolist()
    if b.opset < 13:
        b.add(op_type, x, outputs=len(sizes), axis=axis, split=sizes)
    elif size % len(sizes) == 0 and b.flag():
        b.add(op_type, x, outputs=len(sizes), axis=axis, **({"num_outputs": len(sizes)} if b.opset >= 18 else {}))
    else:
        b.add(op_type, x, b.ints(sizes), outputs=len(sizes), axis=axis)


def _slice(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes=ANY)
    axes = axes_of(b, x.rank) or [0]
    starts, ends, steps = [], [], []
    for axis in axes:
        size, step = x.shape[axis], b.one_of(1, 2, -1, 3, -2)
        first, last = sorted((b.integer(0, size - 1), b.integer(0, size - 1)))
        start, end = (first, last + 1) if step > 0 else (last, first - 1)
        if end == -1:
            end = -(2**31)
        elif end == size and b.flag():
            end = 2**31 - 1
        elif start > 0 and b.flag():
            start -= size
        starts.append(start)
        ends.append(end)
        steps.append(step)
    b.add(op_type, x, b.ints(starts), b.ints(ends), b.ints(axes), b.ints(steps))


def _pad(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, high=4, dtypes="fffi")
    mode = b.one_of("constant", "constant", "edge", "reflect")
    widths = [
        b.integer(0, min(3, dim - 1) if mode == "reflect" else 3) if b.flag() else 0 for dim in (*x.shape, *x.shape)
    ]
    inputs = [x, b.ints(widths)]
    if mode == "constant" and b.flag():
        inputs.append(b.constant(np.array(b.one_of(1, -2), x.array.dtype)))
    b.add(op_type, *inputs, mode=mode)


def _trilu(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=2, dtypes="fffi")
    offset = [b.constant(np.array(b.integer(-3, 3), np.int64))] if b.flag() else []
    b.add(op_type, x, *offset, upper=int(b.flag()))


# By index


def _indices(b: ModelBuilder, size: int, shape: tuple[int, ...]) -> Value:
    """Indices into a dimension, some of them from its end, as an input or a constant."""
    rng = np.random.default_rng((b.seed, len(b.constants), size))
    low = -size if b.flag() else 0
    array = rng.integers(low, size, shape).astype(b.one_of(np.int64, np.int32))
    return b.input(array) if b.flag() else b.constant(array)


def _gather(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes="fffi")
    axis = axis_of(b, x.rank)
    b.add(op_type, x, _indices(b, x.shape[axis], b.shape(0, 2, 33)), axis=axis)


def _gather_elements(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes="fffi")
    axis = axis_of(b, x.rank)
    shape = [b.integer(1, dim) for dim in x.shape]
    shape[axis] = b.integer(1, 7)
    b.add(op_type, x, _indices(b, x.shape[axis], tuple(shape)), axis=axis)


def _gather_nd(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, dtypes="fffi")
    batch = b.integer(0, min(1, x.rank - 1)) if b.opset >= 12 else 0
    depth = b.integer(1, x.rank - batch)
    shape = (*x.shape[:batch], *b.shape(0, 1, 7), depth)
    rng = np.random.default_rng((b.seed, len(b.constants)))
    array = np.stack([rng.integers(-size, size, shape[:-1]) for size in x.shape[batch : batch + depth]], -1)
    indices = b.input(array) if b.flag() else b.constant(array)
    b.add(op_type, x, indices, **({"batch_dims": batch} if b.opset >= 12 else {}))


def _reduction(b: ModelBuilder) -> dict[str, Any]:
    """What happens to the element that is there, where the version of the operator has a choice."""
    choices = ("none", "add", "mul") if b.opset < 18 else ("none", "add", "mul", "max", "min")
    return {"reduction": b.one_of(*choices)} if b.opset >= 16 and b.flag() else {}


def _scatter_elements(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, high=4, dtypes="fffi")
    axis = axis_of(b, x.rank)
    reduction = _reduction(b)
    shape = [b.integer(1, dim) for dim in x.shape]
    rng = np.random.default_rng((b.seed, len(b.constants)))
    order = rng.permuted(np.broadcast_to(_column(x.shape[axis], axis % x.rank, x.rank), x.shape), axis=axis)
    # No element is written twice, unless what is written is combined.
    array = order[tuple(slice(size) for size in shape)] if not reduction else rng.integers(0, x.shape[axis], shape)
    array = array - x.shape[axis] * rng.integers(0, 2, array.shape)
    indices = b.input(array) if b.flag() else b.constant(array)
    b.add(op_type, x, indices, b.tensor(x.array.dtype, shape, "unit"), axis=axis, **reduction)


def _column(size: int, axis: int, rank: int) -> np.ndarray[Any, np.dtype[Any]]:
    """0, 1, 2, ... along one of `rank` dimensions."""
    return np.arange(size).reshape(size, *[1] * (rank - axis - 1))


def _scatter_nd(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=1, high=4, dtypes="fffi")
    depth = b.integer(1, x.rank)
    reduction = _reduction(b)
    rows = int(np.prod(x.shape[:depth]))
    count = b.integer(1, min(rows, 20))
    rng = np.random.default_rng((b.seed, len(b.constants)))
    flat = rng.integers(0, rows, count) if reduction else rng.permutation(rows)[:count]
    array = np.stack(np.unravel_index(flat, x.shape[:depth]), -1)
    indices = b.input(array) if b.flag() else b.constant(array)
    b.add(op_type, x, indices, b.tensor(x.array.dtype, (count, *x.shape[depth:]), "unit"), **reduction)


def _one_hot(b: ModelBuilder, op_type: str) -> None:
    depth = b.integer(1, 9)
    indices = b.input(b.numbers(np.int64, b.shape(0, 2, 33)) % (2 * depth) - depth)
    values = b.constant(np.array([b.one_of(0, -1), b.one_of(1, 3)], b.one_of(np.float32, np.int64)))
    b.add(op_type, indices, b.constant(np.array(depth, np.int64)), values, axis=axis_of(b, indices.rank + 1))


# Descriptions of shapes


def _shape(b: ModelBuilder, op_type: str) -> None:
    b.add(op_type, b.pick(low=1, dtypes=ANY))


def _constant_of_shape(b: ModelBuilder, op_type: str) -> None:
    fill = numpy_helper.from_array(np.array([b.one_of(1, 0, 3)], b.one_of(np.float32, np.int64)))
    b.add(op_type, b.ints(b.shape(0, 3, 13)), value=fill)


def _eye_like(b: ModelBuilder, op_type: str) -> None:
    x = b.pick(low=2, high=2, dtypes="f")
    b.add(op_type, x, k=b.integer(-2, 2), dtype=helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)))


# Interpolation


def _resize(b: ModelBuilder, op_type: str) -> None:
    shape = (b.integer(1, 2), b.integer(1, 4), b.integer(1, 9), b.integer(1, 9))
    x = b.input(b.numbers(np.float32, shape))
    mode = b.one_of("nearest", "linear", "cubic")
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": b.one_of("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"),
    }
    if mode == "nearest":
        attributes["nearest_mode"] = b.one_of("floor", "round_prefer_floor", "ceil", "round_prefer_ceil")
    if b.flag():
        scales = b.constant(np.array([1, 1, b.one_of(2, 1, 0.5, 1.5), b.one_of(2, 3, 1)], np.float32))
        b.add(op_type, x, b.constant(np.zeros(0, np.float32)), scales, **attributes)
    else:
        sizes = b.ints([*shape[:2], b.integer(1, 12), b.integer(1, 12)])
        b.add(op_type, x, b.constant(np.zeros(0, np.float32)), b.constant(np.zeros(0, np.float32)), sizes, **attributes)


USES: dict[str, Use] = {
    "Identity": _identity,
    "Dropout": _identity,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "Tile": _tile,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
    "Trilu": _trilu,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "OneHot": _one_hot,
    "Shape": _shape,
    "Size": _shape,
    "ConstantOfShape": _constant_of_shape,
    "EyeLike": _eye_like,
    "Resize": _resize,
}
"""ONNX operator -> how a random model uses it."""
