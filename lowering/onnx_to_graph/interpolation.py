"""The arithmetic of ONNX's Resize along one dimension, without any IR.

Resizing is separable: along each dimension an output element is a fixed combination of input elements. For the nearest
mode that combination is one input position, for the linear and cubic modes it is a row of an interpolation matrix.
Coordinates are computed in single precision, as onnxruntime does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Coordinates = npt.NDArray[np.float32]

COORDINATE_MODES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True, slots=True)
class Axis:
    """Resizing along one dimension."""

    size: int
    """Input elements."""
    resized: int
    """Output elements."""
    scale: float
    """Output elements per input element, as given or as the quotient of the sizes."""
    region: tuple[float, float] = (0.0, 1.0)
    """Start and end of the part that is resized, in units of the input; only tf_crop_and_resize looks at it."""


def source_coordinates(axis: Axis, mode: str) -> Coordinates:
    """Position in the input of every output element, for one of COORDINATE_MODES; may lie outside the input."""
    x = np.arange(axis.resized, dtype=np.float32)
    scale, half = np.float32(axis.scale), np.float32(0.5)
    if mode == "asymmetric":
        return x / scale
    if mode == "align_corners":
        last = np.float32(axis.resized - 1)
        return x * np.float32(axis.size - 1) / last if axis.resized > 1 else x
    if mode == "tf_crop_and_resize":
        return _cropped_coordinates(axis)
    if mode == "tf_half_pixel_for_nn":
        return (x + half) / scale
    if mode == "pytorch_half_pixel" and axis.resized == 1:
        return x
    centered = (x + half) / scale - half
    if mode == "half_pixel_symmetric":
        adjustment = np.float32(axis.resized) / (scale * np.float32(axis.size))
        return np.float32(axis.size) / np.float32(2) * (np.float32(1) - adjustment) + centered
    return centered


def _cropped_coordinates(axis: Axis) -> Coordinates:
    """As many coordinates as there are output elements, from the start of the region to its end."""
    start, end = (np.float32(bound) for bound in axis.region)
    last = np.float32(axis.size - 1)
    if axis.resized == 1:
        return np.full(1, (start + end) * last / np.float32(2), np.float32)
    x = np.arange(axis.resized, dtype=np.float32)
    return start * last + x * ((end - start) * last / np.float32(axis.resized - 1))


def is_extrapolated(axis: Axis, mode: str) -> npt.NDArray[np.bool_]:
    """Which output elements lie outside of the input, where the mode gives these a value of their own."""
    if mode != "tf_crop_and_resize":
        return np.zeros(axis.resized, np.bool_)
    x = source_coordinates(axis, mode)
    return (x < 0) | (x > axis.size - 1)


def proportional(sizes: list[int], wanted: list[int], policy: str) -> tuple[float, list[int]]:
    """The one scale of all dimensions that keeps their proportions, and the sizes that it gives.

    With policy `not_larger` no size exceeds what is wanted, with `not_smaller` none falls short of it.
    """
    scales = [want / size for size, want in zip(sizes, wanted, strict=True)]
    scale = min(scales) if policy == "not_larger" else max(scales)
    return scale, [int(scale * size + 0.5) for size in sizes]


def nearest_positions(axis: Axis, mode: str, nearest_mode: str) -> npt.NDArray[np.int64]:
    """Input position that every output element copies, for one of NEAREST_MODES."""
    x = source_coordinates(axis, mode)
    half = np.float32(0.5)
    if nearest_mode == "floor":
        rounded = np.floor(x)
    elif nearest_mode == "ceil":
        rounded = np.ceil(x)
    elif nearest_mode == "round_prefer_floor":
        rounded = np.ceil(x - half)
    else:
        rounded = np.floor(x + half)
    return np.clip(rounded.astype(np.int64), 0, axis.size - 1)


def linear_matrix(axis: Axis, mode: str) -> npt.NDArray[np.float32]:
    """[resized, size]: weights of linear interpolation; coordinates outside the input are moved to its edge."""
    x = np.clip(source_coordinates(axis, mode), 0, axis.size - 1).astype(np.float32)
    low = np.floor(x).astype(np.int64)
    high = np.minimum(low + 1, axis.size - 1)
    fraction = x - low.astype(np.float32)
    rows = np.arange(axis.resized)
    matrix = np.zeros((axis.resized, axis.size), np.float32)
    np.add.at(matrix, (rows, low), np.float32(1) - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix


def cubic_matrix(axis: Axis, mode: str, coefficient: float, exclude_outside: bool) -> npt.NDArray[np.float32]:
    """[resized, size]: weights of cubic convolution with the given `coefficient` (ONNX's cubic_coeff_a).

    Taps outside the input take the edge element, or with `exclude_outside` no part, the other weights being scaled up.
    """
    x = source_coordinates(axis, mode).astype(np.float64)
    base = np.floor(x).astype(np.int64)
    rows = np.arange(axis.resized)
    matrix = np.zeros((axis.resized, axis.size), np.float64)
    for tap in range(-1, 3):
        position = base + tap
        weight = _cubic_kernel(np.abs(x - position), coefficient)
        if exclude_outside:
            weight = np.where((position < 0) | (position >= axis.size), 0.0, weight)
        np.add.at(matrix, (rows, np.clip(position, 0, axis.size - 1)), weight)
    if exclude_outside:
        matrix /= matrix.sum(axis=1, keepdims=True)
    return matrix.astype(np.float32)


def antialiased_matrix(
    axis: Axis, mode: str, coefficient: float | None, exclude_outside: bool
) -> npt.NDArray[np.float32]:
    """[resized, size]: weights of an interpolation whose kernel is as wide as an output element, when shrinking.

    `coefficient` is that of the cubic kernel, None for the linear one. Taps outside the input as in `cubic_matrix`.
    """
    x = source_coordinates(axis, mode).astype(np.float64)
    narrowing = min(axis.scale, 1.0)
    reach = int(np.ceil((1 if coefficient is None else 2) / narrowing)) + 1
    taps = np.floor(x).astype(np.int64)[:, np.newaxis] + np.arange(-reach, reach + 1)
    distance = np.abs(taps - x[:, np.newaxis]) * narrowing
    if coefficient is None:
        weights = np.maximum(1 - distance, 0)
    else:
        weights = np.where(distance < 2, _cubic_kernel(distance, coefficient), 0)
    if exclude_outside:
        weights = np.where((taps < 0) | (taps >= axis.size), 0, weights)
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((axis.resized, axis.size), np.float64)
    np.add.at(matrix, (np.arange(axis.resized)[:, np.newaxis], np.clip(taps, 0, axis.size - 1)), weights)
    return matrix.astype(np.float32)


def _cubic_kernel(distance: npt.NDArray[np.float64], a: float) -> npt.NDArray[np.float64]:
    """Cubic convolution kernel at distances in [0, 2]."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, far)
