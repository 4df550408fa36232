"""What matmul, conv, conv_transpose and pool compute.

Convolutions are matrix products: of the weight with a matrix of windows (im2col), or for a transposed one of the weight
with the input, whose columns are then added up where they belong. Depthwise convolutions and pools go over the window's
elements instead, each step one operation on whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import product
from math import prod

import numpy as np

from neuron_dialects.graph import ConvOp, ConvTransposeOp, MatMulOp, PoolKind, PoolOp, ints, spec_of
from neuron_dialects.graph.shapes import window_extent
from runtime.graph_interpreter.numerics import Array, rounded, widened

_WINDOW_MATRIX_BYTES = 1 << 25
"""Size that a matrix of windows should not exceed: larger ones are made and multiplied in slabs."""


def matmul(op: MatMulOp, a: Array, b: Array) -> Array:
    """`graph.matmul`; floats accumulate in f32 or wider, integers with wraparound."""
    a, b = widened(a), widened(b)
    a = a.swapaxes(-1, -2) if op.transpose_a else a
    b = b.swapaxes(-1, -2) if op.transpose_b else b
    return rounded(np.matmul(a, b), spec_of(op.result)[0])


# Convolution


def conv(op: ConvOp, x: Array, w: Array, bias: Array | None = None) -> Array:
    """`graph.conv`."""
    dtype, shape = spec_of(op.result)
    strides, dilations, groups = ints(op.strides), ints(op.dilations), op.groups.value.data
    x, w = widened(_padded(x, ints(op.pads))), widened(w)
    if 0 in shape or w.size == 0:
        values = np.zeros(shape, x.dtype)
    elif w.shape[1] == 1 and groups > 1:
        values = depthwise_conv(x, w, shape, strides, dilations)
    else:
        values = grouped_conv(x, w, shape, strides, dilations, groups)
    return rounded(_biased(values, bias), dtype)


def grouped_conv(
    x: Array, w: Array, shape: Sequence[int], strides: Sequence[int], dilations: Sequence[int], groups: int
) -> Array:
    """Convolution of a padded x by one matrix product per image, group and slab of windows; `shape` is the result's."""
    images, channels, *windows = shape
    result = np.empty((images, groups, channels // groups, *windows), x.dtype)
    per_group = x.shape[1] // groups
    weights = w.reshape(groups, channels // groups, -1)
    views = _windows(x, w.shape[2:], windows, strides, dilations)
    for image, group in product(range(images), range(groups)):
        # [C/groups, windows..., kernel...] -> [C/groups, kernel..., windows...], the columns of the window matrix.
        view = views[image, group * per_group : (group + 1) * per_group]
        rank = len(windows)
        view = view.transpose(0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))
        for slab in _slabs(windows, weights.shape[2] * x.itemsize):
            columns = view[(slice(None),) * (1 + rank) + (slab,)]
            product_ = weights[group] @ columns.reshape(weights.shape[2], -1)
            result[image, group, :, slab] = product_.reshape(-1, *columns.shape[1 + rank :])
    return result.reshape(shape)


def _slabs(windows: Sequence[int], column_bytes: int) -> Iterator[slice]:
    """Ranges of the first window dimension whose window matrices stay near `_WINDOW_MATRIX_BYTES`."""
    step = max(1, _WINDOW_MATRIX_BYTES // (column_bytes * prod(windows[1:])))
    for start in range(0, windows[0], step):
        yield slice(start, start + step)


def depthwise_conv(x: Array, w: Array, shape: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """Convolution of a padded x where every input channel gives M/C output channels of its own."""
    images, channels, *windows = shape
    per_channel = channels // x.shape[1]
    result = np.zeros((images, x.shape[1], per_channel, *windows), x.dtype)
    term = np.empty_like(result)
    factors = w.reshape(x.shape[1], per_channel, *w.shape[2:])
    for tap in product(*(range(size) for size in w.shape[2:])):
        shifted = x[(..., *_tap_slices(tap, windows, strides, dilations))]
        factor = factors[(..., *tap)].reshape(x.shape[1], per_channel, *(1,) * len(windows))
        np.multiply(shifted[:, :, None], factor, out=term)
        result += term
    return result.reshape(shape)


def conv_transpose(op: ConvTransposeOp, x: Array, w: Array, bias: Array | None = None) -> Array:
    """`graph.conv_transpose`."""
    dtype, shape = spec_of(op.result)
    strides, dilations, groups = ints(op.strides), ints(op.dilations), op.groups.value.data
    x, w = widened(x), widened(w)
    rank = len(strides)
    pads = ints(op.pads)
    full = [pads[d] + shape[2 + d] + pads[rank + d] for d in range(rank)]
    sums = np.zeros((shape[0], groups, shape[1] // groups, *full), x.dtype)
    images = x.reshape(x.shape[0], groups, x.shape[1] // groups, prod(x.shape[2:]))
    weights = w.reshape(groups, x.shape[1] // groups, w.shape[1], prod(w.shape[2:]))
    for number, tap in enumerate(product(*(range(size) for size in w.shape[2:]))):
        # [groups, M/groups, C/groups] x [N, groups, C/groups, positions]
        term = np.matmul(weights[:, :, :, number].swapaxes(1, 2), images)
        target = sums[(..., *_tap_slices(tap, x.shape[2:], strides, dilations))]
        target += term.reshape(target.shape)
    cropped = sums[(..., *(slice(pads[d], full[d] - pads[rank + d]) for d in range(rank)))]
    return rounded(_biased(cropped.reshape(shape), bias), dtype)


# Pools


def pool(op: PoolOp, x: Array) -> Array:
    """`graph.pool`. A maximum and a sum over a window are taken one dimension after the other."""
    dtype, shape = spec_of(op.result)
    kernel, strides, pads, dilations = (ints(attr) for attr in (op.kernel, op.strides, op.pads, op.dilations))
    is_max = op.kind.data is PoolKind.MAX
    combine: Callable[[Array, Array], Array] = np.maximum if is_max else np.add
    values = widened(x)
    fill = _smallest(values) if is_max else values.dtype.type(0)
    for d, (elements, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        axis = 2 + d
        padded = _padded_to_windows(values, axis, pads[d], shape[axis], elements, stride, dilation, fill)
        taps = (_along(padded, axis, k * dilation, shape[axis], stride) for k in range(elements))
        values = reduce(combine, taps)
    return rounded(values if is_max else values / _divisors(op, x.shape, values), dtype)


def _smallest(x: Array) -> Array:
    """What never wins a maximum against an element of x."""
    return np.array(-np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min, x.dtype)


def _divisors(op: PoolOp, x_shape: Sequence[int], sums: Array) -> Array:
    """What the sums of the windows are divided by, broadcasting to them."""
    kernel, strides, pads, dilations = (ints(attr) for attr in (op.kernel, op.strides, op.pads, op.dilations))
    rank = len(kernel)
    counts = np.ones((), sums.dtype)
    for d in range(rank):
        low, high = pads[d], pads[rank + d]
        inside = (0, low + x_shape[2 + d] + high) if op.count_include_pad else (low, low + x_shape[2 + d])
        along = window_counts(sums.shape[2 + d], kernel[d], strides[d], dilations[d], inside)
        counts = counts[..., None] * along.astype(sums.dtype)
    return counts


def window_counts(windows: int, kernel: int, stride: int, dilation: int, inside: tuple[int, int]) -> Array:
    """How many elements of each window along one dimension lie in [first, end), at least 1.

    Positions count from the first element of the first window. The sum of a window that lies outside, in padding alone,
    is 0 whatever it is divided by.
    """
    positions = np.arange(windows)[:, None] * stride + np.arange(kernel) * dilation
    first, end = inside
    return np.maximum(1, np.count_nonzero((positions >= first) & (positions < end), axis=1))


# Shared


def _padded(x: Array, pads: Sequence[int]) -> Array:
    """x with zeros around its spatial dimensions."""
    rank = x.ndim - 2
    if not any(pads):
        return x
    widths = [(0, 0), (0, 0), *((pads[d], pads[rank + d]) for d in range(rank))]
    return np.pad(x, widths)


def _padded_to_windows(
    x: Array, axis: int, low: int, windows: int, kernel: int, stride: int, dilation: int, fill: Array
) -> Array:
    """x with `fill` before and behind it along `axis`, as far as the last window reaches."""
    needed = (windows - 1) * stride + window_extent(kernel, dilation)
    high = max(0, needed - low - x.shape[axis])
    if low == 0 and high == 0:
        return x
    widths = [(low, high) if d == axis else (0, 0) for d in range(x.ndim)]
    return np.pad(x, widths, constant_values=fill)


def _along(x: Array, axis: int, start: int, count: int, step: int) -> Array:
    """`count` elements of `axis`, `step` apart."""
    return x[(slice(None),) * axis + (slice(start, start + (count - 1) * step + 1, step),)]


def _tap_slices(
    tap: Sequence[int], windows: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[slice, ...]:
    """The elements that element `tap` of each window falls on, for every spatial dimension."""
    starts = (element * dilation for element, dilation in zip(tap, dilations, strict=True))
    return tuple(
        slice(start, start + (count - 1) * stride + 1, stride)
        for start, count, stride in zip(starts, windows, strides, strict=True)
    )


def _windows(
    x: Array, kernel: Sequence[int], windows: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Array:
    """A view [N, C, windows..., kernel...] of a padded x."""
    extents = [window_extent(size, dilation) for size, dilation in zip(kernel, dilations, strict=True)]
    spatial = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, extents, axis=spatial)
    positions = (slice(0, (count - 1) * stride + 1, stride) for count, stride in zip(windows, strides, strict=True))
    elements = (slice(None, None, dilation) for dilation in dilations)
    return view[(slice(None), slice(None), *positions, *elements)]


def _biased(values: Array, bias: Array | None) -> Array:
    return values if bias is None else values + widened(bias).reshape(-1, *(1,) * (values.ndim - 2))
