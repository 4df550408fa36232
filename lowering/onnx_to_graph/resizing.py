"""Converters of ONNX's Resize and Upsample, dimension by dimension.

A nearest resize by a whole factor repeats elements (reshape and broadcast), any other nearest resize gathers constant
positions; linear and cubic resizes multiply by a constant interpolation matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.arithmetic import Arithmetic
from lowering.onnx_to_graph.interpolation import (
    COORDINATE_MODES,
    NEAREST_MODES,
    Axis,
    antialiased_matrix,
    cubic_matrix,
    is_extrapolated,
    linear_matrix,
    nearest_positions,
    proportional,
)
from lowering.onnx_to_graph.limits import MAX_COMPUTED_ELEMENTS, require_computable
from lowering.onnx_to_graph.movement import repeat_blocks, reshaped
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.positions import along
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.dtypes import I1, I64
from neuron_dialects.graph import GatherOp, MatMulOp, shape_of, spec_of
from neuron_dialects.graph.shapes import ShapeError, element_count, normalize_axis


def _scaled_axes(shape: Sequence[int], scales: Sequence[float]) -> list[Axis]:
    """One Axis per dimension, for given scales."""
    if len(scales) != len(shape) or any(not scale > 0 for scale in scales):
        raise ShapeError(f"scales {list(scales)} do not fit rank {len(shape)}")
    return [Axis(dim, int(np.floor(dim * scale)), scale) for dim, scale in zip(shape, scales, strict=True)]


def _resize_axes(node: Node, shape: Sequence[int]) -> list[Axis]:
    """What happens to each dimension, from the scales or sizes and the optional axes of a Resize node."""
    scales_input = 1 if node.opset < 11 else 2
    axes = [normalize_axis(axis, len(shape)) for axis in node.ints_attr("axes", list(range(len(shape))))]
    result = [Axis(dim, dim, 1.0) for dim in shape]
    chosen = [shape[axis] for axis in axes]
    if node.has(3) and node.shape(3) != (0,):
        resized = _sized_axes(node, chosen)
    else:
        resized = _scaled_axes(chosen, [float(scale) for scale in node.constant(scales_input).reshape(-1)])
    regions = _regions(node, len(axes))
    for axis, made, region in zip(axes, resized, regions, strict=True):
        result[axis] = replace(made, region=region)
    return result


def _sized_axes(node: Node, dims: Sequence[int]) -> list[Axis]:
    """One Axis per dimension, for the sizes of input 3."""
    sizes = node.constant_ints(3)
    if len(sizes) != len(dims):
        raise ShapeError(f"{len(sizes)} sizes for {len(dims)} axes")
    policy = node.string_attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch" or 0 in dims:
        return [Axis(dim, size, size / dim if dim else 1.0) for dim, size in zip(dims, sizes, strict=True)]
    scale, kept = proportional(list(dims), sizes, policy)
    return [Axis(dim, size, scale) for dim, size in zip(dims, kept, strict=True)]


def _regions(node: Node, count: int) -> list[tuple[float, float]]:
    """Start and end of the region of interest along each axis; only tf_crop_and_resize has one."""
    if node.string_attr("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        return [(0.0, 1.0)] * count
    bounds = [float(bound) for bound in node.constant(1).reshape(-1)]
    if len(bounds) != 2 * count:
        raise ShapeError(f"{len(bounds)} bounds of a region for {count} axes")
    return list(zip(bounds[:count], bounds[count:], strict=True))


def _resize(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    coordinates = node.string_attr("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    nearest = node.string_attr("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
    axes = _resize_axes(node, shape_of(x))
    if node.opset < 11 and any(axis.scale < 1 for axis in axes):
        raise Unsupported("downsampling before opset 11")
    resized = _resized(node, x, axes, coordinates, nearest)
    if coordinates == "tf_crop_and_resize":
        require_computable(element_count(shape_of(resized)))
    outside = np.zeros((), np.bool_)
    for position, axis in enumerate(axes):
        outside = outside | along(is_extrapolated(axis, coordinates), position, len(axes))
    if outside.any():
        filler = node.float_attr("extrapolation_value", 0.0)
        resized = Arithmetic(node).where(node.constant_value("outside", outside, I1), filler, resized)
    return [resized]


def _upsample(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    scales = node.constant(1).reshape(-1).tolist() if node.opset >= 9 else node.attributes.get("scales")
    if scales is None:
        raise Unsupported("scales given in an old form")
    return [_resized(node, x, _scaled_axes(shape_of(x), scales), "asymmetric", "floor")]


def _resized(node: Node, x: SSAValue, axes: Sequence[Axis], coordinates: str, nearest: str) -> SSAValue:
    """`x` resized along every dimension whose size or scale changes."""
    mode = node.string_attr("mode", "nearest")
    if coordinates not in COORDINATE_MODES or nearest not in NEAREST_MODES:
        raise Unsupported(f"coordinates {coordinates} with {nearest}")
    if any(axis.size < 1 or axis.resized < 1 for axis in axes):
        raise Unsupported("an empty dimension")
    if any(axis.resized > MAX_COMPUTED_ELEMENTS for axis in axes):
        raise Unsupported(f"a dimension of {max(axis.resized for axis in axes)}")
    if mode == "nearest":
        return _nearest(node, x, [nearest_positions(axis, coordinates, nearest) for axis in axes])
    if mode not in ("linear", "cubic") or not spec_of(x)[0].is_float:
        raise Unsupported(f"mode {mode} on {spec_of(x)[0]}")
    for position, axis in enumerate(axes):
        if axis.size == axis.resized and axis.scale == 1.0:
            continue
        if axis.size * axis.resized > MAX_COMPUTED_ELEMENTS:
            raise Unsupported(f"an interpolation matrix of {axis.resized}x{axis.size}")
        excluded = bool(node.int_attr("exclude_outside", 0))
        coefficient = node.float_attr("cubic_coeff_a", -0.75)
        if node.int_attr("antialias", 0):
            matrix = antialiased_matrix(axis, coordinates, coefficient if mode == "cubic" else None, excluded)
        elif mode == "linear":
            matrix = linear_matrix(axis, coordinates)
        else:
            matrix = cubic_matrix(axis, coordinates, coefficient, excluded)
        weights = node.constant_value(f"interpolation_{position}", matrix, spec_of(x)[0])
        x = _combined(node, x, position, weights)
    return x


def _nearest(node: Node, x: SSAValue, positions: Sequence[np.ndarray]) -> SSAValue:
    """Copies of elements: repeated in place where every element is repeated equally often, else gathered."""
    repeats = [1] * len(positions)
    for axis, taken in enumerate(positions):
        size = shape_of(x)[axis]
        repeat = len(taken) // size
        if np.array_equal(taken, np.repeat(np.arange(size), max(repeat, 1))):
            repeats[axis] = repeat
        else:
            indices = node.constant_value(f"positions_{axis}", taken, I64)
            x = node.emit(GatherOp(x, indices, axis))
    return repeat_blocks(node, x, repeats, outer=False)


def _combined(node: Node, x: SSAValue, axis: int, weights: SSAValue) -> SSAValue:
    """Dimension `axis` of x multiplied by `weights` [resized, size]."""
    shape = shape_of(x)
    resized = shape_of(weights)[0]
    if axis == len(shape) - 1 and len(shape) >= 2:
        return node.emit(MatMulOp(x, weights, transpose_b=True))
    if axis == len(shape) - 2:
        return node.emit(MatMulOp(weights, x))
    apart = (element_count(shape[:axis]), shape[axis], element_count(shape[axis + 1 :]))
    product = node.emit(MatMulOp(weights, reshaped(node, x, apart)))
    return reshaped(node, product, (*shape[:axis], resized, *shape[axis + 1 :]))


CONVERTERS: dict[str, Row] = {
    "Resize": Row(_resize, since=10),
    "Upsample": Row(_upsample, since=7, until=9),
}
