"""Converters of ONNX operators that read an image between its elements: GridSample, RoiAlign, DeformConv, AffineGrid.

The image is laid out as one row of channels per position. A sample is a sum of weighted rows; each row is gathered at a
position that the core computes in f32, where whole numbers are exact below 2**24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.arithmetic import Arithmetic
from lowering.onnx_to_graph.limits import require_computable
from lowering.onnx_to_graph.linear import spatial_attr
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.positions import strides
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.dtypes import F32, I64
from neuron_dialects.graph import CompareKind, GatherOp, ReduceKind, UnaryKind, shape_of, spec_of
from neuron_dialects.graph.shapes import Shape, ShapeError, element_count
from neuron_dialects.graph.support import EXACT_INTEGERS

_CUBIC_COEFFICIENT = -0.75
"""The `a` of the cubic convolution kernel that GridSample uses."""


# Rows and taps


@dataclass(frozen=True)
class _Image:
    """Rows of channels, one per position of `count` images of the given size, in order."""

    rows: SSAValue
    """[count * prod(size), channels]."""
    count: int
    size: Shape

    @staticmethod
    def of(node: Node, x: SSAValue) -> _Image:
        """The images of x: [N, C, spatial...]."""
        n, channels, *size = shape_of(x)
        if n * prod(size) > EXACT_INTEGERS:
            raise Unsupported(f"{n * prod(size)} positions exceed the {EXACT_INTEGERS} that cores count to")
        ops = Arithmetic(node)
        last = ops.transpose(x, [0, *range(2, len(size) + 2), 1])
        return _Image(ops.reshape(last, (n * prod(size), channels)), n, tuple(size))


@dataclass(frozen=True)
class _Tap:
    """One element that a sample reads along one dimension."""

    index: SSAValue
    """Its position along the dimension as f32, within the image."""
    weight: SSAValue | None
    """Its share, 0 where it lies outside; None for all of it."""


def _gathered(node: Node, image: _Image, first: SSAValue, taps: Sequence[_Tap]) -> SSAValue:
    """[samples, channels] as f32: the row where one tap of every dimension meets, times its weights.

    `first` is the row at which the sample's image begins; it and the taps broadcast to the samples.
    """
    ops = Arithmetic(node)
    position, weight = first, None
    for tap, stride in zip(taps, strides(image.size), strict=True):
        position = ops.add(position, tap.index if stride == 1 else ops.mul(tap.index, stride))
        if tap.weight is not None:
            weight = tap.weight if weight is None else ops.mul(weight, tap.weight)
    samples = element_count(shape_of(position))
    rows = node.emit(GatherOp(image.rows, ops.reshape(ops.cast(position, I64), (samples,)), 0))
    rows = ops.cast(rows, F32)
    return rows if weight is None else ops.mul(rows, ops.reshape(weight, (samples, 1)))


def _sampled(node: Node, image: _Image, first: SSAValue, taps: Sequence[Sequence[_Tap]]) -> SSAValue:
    """[samples, channels] as f32: the sum over every combination of one tap per dimension."""
    ops = Arithmetic(node)
    corners = [_gathered(node, image, first, corner) for corner in product(*taps)]
    total = corners[0]
    for corner in corners[1:]:
        total = ops.add(total, corner)
    return total


def _first_rows(node: Node, image: _Image, rank: int) -> SSAValue:
    """The first row of every image, [N, 1, ...] of this rank."""
    starts = np.arange(image.count) * prod(image.size)
    return node.constant_value("first", starts.reshape(image.count, *[1] * (rank - 1)), F32)


def _zeroed(node: Node, index: SSAValue, weight: SSAValue | None, size: int) -> _Tap:
    """A tap that counts as 0 where it lies outside of the dimension; so does one whose position is NaN."""
    ops = Arithmetic(node)
    inside = ops.both(ops.compare(CompareKind.GE, index, 0), ops.compare(CompareKind.LE, index, size - 1))
    share = ops.cast(inside, F32) if weight is None else ops.where(inside, weight, 0)
    return _Tap(ops.where(inside, index, 0), share)


def _clamped(node: Node, index: SSAValue, weight: SSAValue | None, size: int) -> _Tap:
    """A tap that reads the nearest element of the dimension; where its position is NaN, the first one."""
    ops = Arithmetic(node)
    positive = ops.compare(CompareKind.GE, index, 0)
    return _Tap(ops.where(positive, ops.minimum(index, size - 1), 0), weight)


# Interpolation


def _linear_weights(ops: Arithmetic, fraction: SSAValue) -> list[tuple[int, SSAValue]]:
    """(offset from the element below, weight) of linear interpolation."""
    return [(0, ops.sub(1, fraction)), (1, fraction)]


def _cubic_weights(ops: Arithmetic, fraction: SSAValue) -> list[tuple[int, SSAValue]]:
    """The same of cubic convolution."""
    a = _CUBIC_COEFFICIENT

    def near(d: SSAValue) -> SSAValue:
        """((a + 2) d - (a + 3)) d d + 1"""
        return ops.add(ops.mul(ops.mul(ops.sub(ops.mul(d, a + 2), a + 3), d), d), 1)

    def far(d: SSAValue) -> SSAValue:
        """((a d - 5 a) d + 8 a) d - 4 a"""
        return ops.sub(ops.mul(ops.add(ops.mul(ops.sub(ops.mul(d, a), 5 * a), d), 8 * a), d), 4 * a)

    rest = ops.sub(1, fraction)
    return [(-1, far(ops.add(fraction, 1))), (0, near(fraction)), (1, near(rest)), (2, far(ops.add(rest, 1)))]


def _reflected(ops: Arithmetic, x: SSAValue, low: float, high: float) -> SSAValue:
    """x mirrored at both bounds until it lies between them: a wave of height `high - low` that rises from `low`."""
    width = high - low
    if width <= 0:
        return ops.add(ops.mul(x, 0), low)
    periods = ops.unary(UnaryKind.FLOOR, ops.mul(ops.sub(x, low), 1 / (2 * width)))
    phase = ops.sub(ops.sub(x, low), ops.mul(periods, 2 * width))
    return ops.sub(high, ops.unary(UnaryKind.ABS, ops.sub(phase, width)))


@dataclass(frozen=True)
class _Grid:
    """How GridSample reads along one dimension."""

    mode: str
    padding: str
    aligned: bool
    size: int

    @property
    def bounds(self) -> tuple[float, float]:
        """Where the image begins and ends: at the middle of its outermost elements, or half an element beyond."""
        return (0.0, self.size - 1.0) if self.aligned else (-0.5, self.size - 0.5)

    def taps(self, node: Node, normalized: SSAValue) -> list[_Tap]:
        """The taps for coordinates in [-1, 1]."""
        ops, (low, high) = Arithmetic(node), self.bounds
        # (n + 1) / 2 of the way from one bound to the other, in the order of operations of other implementations.
        shifted = ops.add(normalized, 1)
        if self.aligned:
            x = ops.mul(ops.mul(shifted, 0.5), self.size - 1)
        else:
            x = ops.mul(ops.sub(ops.mul(shifted, self.size), 1), 0.5)
        # Cubic convolution pads the elements that it reads, which for coordinates beyond the border is not the same.
        if self.padding == "border" and self.mode != "cubic":
            x = ops.clip(x, 0, self.size - 1)
        elif self.padding == "reflection":
            x = _reflected(ops, x, low, high)
        if self.mode == "nearest":
            return [self._tap(node, ops.unary(UnaryKind.ROUND, x), None)]
        base = ops.unary(UnaryKind.FLOOR, x)
        weights = (_linear_weights if self.mode == "linear" else _cubic_weights)(ops, ops.sub(x, base))
        return [self._tap(node, ops.add(base, offset) if offset else base, weight) for offset, weight in weights]

    def _tap(self, node: Node, index: SSAValue, weight: SSAValue | None) -> _Tap:
        if self.padding == "zeros":
            return _zeroed(node, index, weight, self.size)
        if self.padding == "reflection":
            index = _reflected(Arithmetic(node), index, *self.bounds)
        return _clamped(node, index, weight, self.size)


_GRID_MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}


def _grid_sample(node: Node) -> Sequence[Value]:
    """The image at the places that a grid of normalised coordinates names, the last dimension's coordinate first."""
    x, grid = node.operand(0), node.operand(1)
    dtype, shape = spec_of(x)
    places = shape_of(grid)
    if len(shape) < 3 or len(places) != len(shape) or places[0] != shape[0] or places[-1] != len(shape) - 2:
        raise ShapeError(f"a grid of {list(places)} does not fit an image of {list(shape)}")
    mode, padding = _GRID_MODES.get(node.string_attr("mode", "linear")), node.string_attr("padding_mode", "zeros")
    if mode is None or padding not in ("zeros", "border", "reflection"):
        raise Unsupported(f"mode {node.string_attr('mode', 'linear')} with padding {padding}")
    if not dtype.is_float or 0 in (*shape, *places):
        raise Unsupported(f"an image of {list(shape)} of {dtype}, a grid of {list(places)}")
    ops, image, aligned = Arithmetic(node), _Image.of(node, x), bool(node.int_attr("align_corners", 0))
    flat = ops.reshape(ops.cast(grid, F32), (shape[0], prod(places[1:-1]), len(image.size)))
    taps = [
        _Grid(mode, padding, aligned, size).taps(node, ops.position(flat, 2, len(image.size) - 1 - d))
        for d, size in enumerate(image.size)
    ]
    samples = _sampled(node, image, _first_rows(node, image, 2), taps)
    apart = ops.reshape(ops.cast(samples, dtype), (shape[0], *places[1:-1], shape[1]))
    return [ops.transpose(apart, [0, len(places) - 1, *range(1, len(places) - 1)])]


def _affine_grid(node: Node) -> Sequence[Value]:
    """The places that an affine map of a regular grid in [-1, 1] gives, as GridSample takes them."""
    theta, size = node.operand(0), node.constant_ints(1)
    dtype, shape = spec_of(theta)
    spatial = size[2:]
    rank = len(spatial)
    if shape != (size[0], rank, rank + 1) or rank not in (2, 3) or min(size) < 1:
        raise ShapeError(f"maps of {list(shape)} do not fit a size of {size}")
    require_computable(prod(spatial) * (rank + 1))
    aligned = bool(node.int_attr("align_corners", 0))
    axes = [regular_grid(count, aligned) for count in spatial]
    places = np.stack([*reversed(np.meshgrid(*axes, indexing="ij")), np.ones(spatial)], axis=-1)
    ops = Arithmetic(node)
    # Sums of three or four products: as a matrix product they would be rounded to the type that matrices are cast to.
    grid = node.constant_value("grid", places.reshape(1, prod(spatial), 1, rank + 1), F32)
    mapped = ops.sum(ops.mul(ops.reshape(ops.cast(theta, F32), (size[0], 1, rank, rank + 1)), grid), 3)
    return [ops.reshape(ops.cast(mapped, dtype), (size[0], *spatial, rank))]


def regular_grid(count: int, aligned: bool) -> np.ndarray:
    """`count` coordinates in [-1, 1]: from bound to bound if aligned, else the middles of equal parts."""
    if aligned:
        return np.linspace(-1, 1, count) if count > 1 else np.array([-1.0])
    return (2 * np.arange(count) + 1) / count - 1


# Boxes


def _box_taps(node: Node, start: SSAValue, extent: SSAValue, size: int, bins: int) -> list[_Tap]:
    """Taps of the samples of RoiAlign along one dimension: [boxes, bins * samples per bin]."""
    ops, ratio = Arithmetic(node), node.int_attr("sampling_ratio", 0)
    steps = (np.arange(bins * ratio) + 0.5) / ratio
    offsets = node.constant_value("steps", steps.reshape(1, -1), F32)
    y = ops.add(start, ops.mul(ops.mul(extent, 1 / bins), offsets))
    inside = ops.both(ops.compare(CompareKind.GE, y, -1), ops.compare(CompareKind.LE, y, size))
    y = ops.where(inside, ops.clip(y, 0, size - 1), 0)
    below = ops.unary(UnaryKind.FLOOR, y)
    fraction = ops.sub(y, below)
    above = ops.minimum(ops.add(below, 1), size - 1)
    share = ops.cast(inside, F32)
    return [_Tap(below, ops.mul(share, ops.sub(1, fraction))), _Tap(above, ops.mul(share, fraction))]


def _roi_align(node: Node) -> Sequence[Value]:
    """Every box of an image as bins of equal size, each the mean or the maximum of samples in it."""
    x, boxes = node.operand(0), node.operand(1)
    dtype, shape = spec_of(x)
    ratio, mode = node.int_attr("sampling_ratio", 0), node.string_attr("mode", "avg")
    bins = node.int_attr("output_height", 1), node.int_attr("output_width", 1)
    if len(shape) != 4 or len(shape_of(boxes)) != 2 or shape_of(boxes)[1] != 4 or min(bins) < 1:
        raise ShapeError(f"boxes of {list(shape_of(boxes))} do not fit images of {list(shape)}")
    if ratio < 1:
        raise Unsupported("a number of samples that depends on the box")
    if mode not in ("avg", "max") or not dtype.is_float:
        raise Unsupported(f"mode {mode} on {dtype}")
    ops, image, count = Arithmetic(node), _Image.of(node, x), shape_of(boxes)[0]
    half_pixel = node.opset >= 16 and node.string_attr("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    corners = ops.mul(ops.cast(boxes, F32), node.float_attr("spatial_scale", 1.0))
    if half_pixel:
        corners = ops.sub(corners, 0.5)
    taps: list[list[_Tap]] = []
    for d, column in enumerate((1, 0)):
        start = ops.part(corners, 1, column, 1)
        extent = ops.sub(ops.part(corners, 1, column + 2, 1), start)
        extent = extent if half_pixel else ops.maximum(extent, 1)
        made = _box_taps(node, start, extent, image.size[d], bins[d])
        apart = (count, bins[0] * ratio, 1) if d == 0 else (count, 1, bins[1] * ratio)
        taps.append([_Tap(ops.reshape(tap.index, apart), _reshaped(ops, tap.weight, apart)) for tap in made])
    numbers = ops.reshape(ops.cast(node.operand(2), F32), (count, 1, 1))
    first = ops.mul(numbers, prod(image.size))
    within = (count, bins[0], ratio, bins[1], ratio, shape[1])
    if mode == "avg":
        samples = _sampled(node, image, first, taps)
        pooled = ops.reduce(ReduceKind.MEAN, ops.reshape(samples, within), (2, 4))
    else:
        weighted = [_gathered(node, image, first, corner) for corner in product(*taps)]
        largest = weighted[0]
        for other in weighted[1:]:
            largest = ops.maximum(largest, other)
        pooled = ops.reduce(ReduceKind.MAX, ops.reshape(largest, within), (2, 4))
    return [ops.transpose(ops.cast(pooled, dtype), (0, 3, 1, 2))]


def _reshaped(ops: Arithmetic, weight: SSAValue | None, shape: Shape) -> SSAValue | None:
    return None if weight is None else ops.reshape(weight, shape)


# Deformable convolution


def _deform_conv(node: Node) -> Sequence[Value]:
    """A convolution each of whose taps reads the image at a place of its own, times a mask of its own."""
    x, weights = node.operand(0), node.operand(1)
    (dtype, shape), w_shape = spec_of(x), shape_of(weights)
    if len(shape) != 4 or len(w_shape) != 4:
        raise Unsupported(f"rank {len(shape)}")
    groups, image_groups = node.int_attr("group", 1), node.int_attr("offset_group", 1)
    kernel, out = w_shape[2:], node.shape(2)[2:]
    taps, count = prod(kernel), prod(out)
    if shape[1] % image_groups or shape[1] != w_shape[1] * groups or w_shape[0] % groups or not dtype.is_float:
        raise ShapeError(f"weights of {list(w_shape)} do not fit {list(shape)} in {groups} and {image_groups} groups")
    if node.shape(2)[:2] != (shape[0], image_groups * taps * 2) or 0 in (*shape, *w_shape, *out):
        raise ShapeError(f"offsets of {list(node.shape(2))} do not fit {image_groups} groups of {taps} taps")
    ops, parts = Arithmetic(node), shape[0] * image_groups
    image = _Image.of(node, ops.reshape(x, (parts, shape[1] // image_groups, *shape[2:])))
    offsets = ops.reshape(ops.cast(node.operand(2), F32), (parts, taps, 2, count))
    along_axes = [_deformed_taps(node, ops.position(offsets, 2, d), kernel, out, d, image.size[d]) for d in range(2)]
    samples = _sampled(node, image, _first_rows(node, image, 3), along_axes)
    columns = ops.reshape(samples, (parts, taps, count, shape[1] // image_groups))
    if node.has(4):
        columns = ops.mul(columns, ops.reshape(ops.cast(node.operand(4), F32), (parts, taps, count, 1)))
    # [image, its group, tap, place, channel] -> [image, place, channel, tap], whose channels are those of all groups.
    columns = ops.reshape(columns, (shape[0], image_groups, taps, count, shape[1] // image_groups))
    columns = ops.transpose(ops.cast(columns, dtype), (0, 3, 1, 4, 2))
    columns = ops.transpose(ops.reshape(columns, (shape[0], count, groups, w_shape[1] * taps)), (0, 2, 1, 3))
    matrix = ops.reshape(weights, (1, groups, w_shape[0] // groups, w_shape[1] * taps))
    product_ = ops.reshape(ops.matmul(matrix, columns, transpose_b=True), (shape[0], w_shape[0], *out))
    if node.has(3):
        product_ = ops.add(product_, ops.reshape(node.operand(3), (1, w_shape[0], 1, 1)))
    return [product_]


def _deformed_taps(
    node: Node, offset: SSAValue, kernel: Sequence[int], out: Sequence[int], axis: int, size: int
) -> list[_Tap]:
    """Taps of the samples along one axis, [images, kernel taps, places]: where a convolution reads, plus an offset."""
    stride = spatial_attr(node, "strides", 2, 1)[axis]
    dilation = spatial_attr(node, "dilations", 2, 1)[axis]
    pad = spatial_attr(node, "pads", 4, 0)[axis]
    in_kernel, in_result = (np.indices(sizes)[axis].reshape(-1) for sizes in (kernel, out))
    regular = in_kernel[:, np.newaxis] * dilation + in_result * stride - pad
    ops = Arithmetic(node)
    x = ops.add(offset, node.constant_value("regular", regular[np.newaxis], F32))
    base = ops.unary(UnaryKind.FLOOR, x)
    weights = _linear_weights(ops, ops.sub(x, base))
    return [_zeroed(node, ops.add(base, step) if step else base, weight, size) for step, weight in weights]


CONVERTERS: dict[str, Row] = {
    "GridSample": Row(_grid_sample, since=16),
    "AffineGrid": Row(_affine_grid, since=20),
    "RoiAlign": Row(_roi_align, since=10),
    "DeformConv": Row(_deform_conv, since=19),
}
"""ONNX operator type -> row."""
