"""Converters of ONNX's Fourier transforms, which are linear: a matrix product, or a convolution over windows.

Complex numbers are pairs in the last dimension. A DFT multiplies the pairs of all elements along the axis by one
constant matrix; an STFT is a convolution whose filters are the rows of that matrix, times the window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lowering.onnx_to_graph.arithmetic import Arithmetic
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Constant, Value
from neuron_dialects.graph import ConvOp, shape_of, spec_of
from neuron_dialects.graph.shapes import ShapeError, element_count, normalize_axis

_LARGEST_MATRIX = 2**24
"""Most elements of the matrix of a transform: beyond this a fast transform on the host is better."""

Matrix = npt.NDArray[np.float64]


def _angles(rows: int, columns: int, length: int) -> Matrix:
    """2 pi i k / length for row i and column k, reduced to one turn before it is rounded."""
    return 2 * np.pi * ((np.arange(rows)[:, np.newaxis] * np.arange(columns)) % length) / length


def transform_matrix(given: int, parts: int, length: int, *, inverse: bool, onesided: bool) -> Matrix:
    """[given, parts, results, result parts]: what each part of each given element adds to each part of each result.

    `given` elements of `parts` parts (2 of complex numbers, 1 of real ones) are cut, or filled up with zeros, to what a
    transform of `length` takes. Onesided gives length // 2 + 1 results; inverse and onesided takes as many, and gives
    `length` real results. The results of an inverse transform are still to be divided by `length`: whole numbers in the
    matrix stay whole, and what cancels out cancels out.
    """
    if inverse and onesided:
        return _real_inverse(given, length)
    used = min(given, length)
    angles = _angles(used, length // 2 + 1 if onesided else length, length)
    cosine, sine = np.cos(angles), np.sin(angles) * (1 if inverse else -1)
    matrix = np.zeros((given, parts, angles.shape[1], 2))
    matrix[:used, 0, :, 0], matrix[:used, 0, :, 1] = cosine, sine
    if parts == 2:
        matrix[:used, 1, :, 0], matrix[:used, 1, :, 1] = -sine, cosine
    return matrix


def _real_inverse(given: int, length: int) -> Matrix:
    """The inverse of a onesided transform: frequencies that are not given are conjugates of given ones."""
    used = min(given, length // 2 + 1)
    angles = _angles(used, length, length)
    # All but the first frequency, and the last one of an even length, stand for two.
    counted = np.array([1 if 2 * k in (0, length) else 2 for k in range(used)])[:, np.newaxis]
    matrix = np.zeros((given, 2, length, 1))
    matrix[:used, 0, :, 0] = counted * np.cos(angles)
    # The imaginary part of what stands for itself is not looked at.
    matrix[:used, 1, :, 0] = np.where(counted == 1, 0, -counted * np.sin(angles))
    return matrix


def _dft_axis(node: Node, rank: int) -> int:
    """The dimension that is transformed; the last one has the parts of complex numbers."""
    if node.opset < 20:
        axis = node.int_attr("axis", 1)
    else:
        axis = node.constant_ints(2)[0] if node.has(2) else -2
    axis = normalize_axis(axis, rank)
    if axis == rank - 1:
        raise ShapeError("the last dimension has the parts of complex numbers")
    return axis


def _dft(node: Node) -> Sequence[Value]:
    """The discrete Fourier transform along one axis, or its inverse."""
    x = node.operand(0)
    dtype, shape = spec_of(x)
    axis = _dft_axis(node, len(shape))
    inverse, onesided = bool(node.int_attr("inverse", 0)), bool(node.int_attr("onesided", 0))
    given, parts = shape[axis], shape[-1]
    if parts not in (1, 2) or (parts == 2 and onesided and not inverse) or (inverse and onesided and parts == 1):
        raise Unsupported(f"a transform of {parts} parts, onesided {onesided}, inverse {inverse}")
    length = 2 * (given - 1) if inverse and onesided else given
    if node.has(1):
        length = node.constant_ints(1)[0]
    if length < 1 or 0 in shape or not dtype.is_float:
        raise Unsupported(f"a transform of length {length} of {list(shape)} of {dtype}")
    if given * parts * length * 2 > _LARGEST_MATRIX:
        raise Unsupported(f"a matrix of {given * parts} by {2 * length}, limit {_LARGEST_MATRIX} elements")
    matrix = transform_matrix(given, parts, length, inverse=inverse, onesided=onesided)
    results, result_parts = matrix.shape[2:]
    ops = Arithmetic(node)
    order = [*(d for d in range(len(shape) - 1) if d != axis), axis, len(shape) - 1]
    others = [shape[d] for d in order[:-2]]
    rows = ops.reshape(ops.transpose(x, order), (element_count(others), given * parts))
    flat = node.constant_value("transform", matrix.reshape(given * parts, results * result_parts), dtype)
    product = ops.matmul(rows, flat)
    if inverse:
        product = ops.div(product, length)
    product = ops.reshape(product, (*others, results, result_parts))
    return [ops.transpose(product, [order.index(d) for d in range(len(shape))])]


def _stft(node: Node) -> Sequence[Value]:
    """The transform of windows of a signal [N, length, parts] that begin `frame_step` after each other."""
    signal = node.operand(0)
    dtype, shape = spec_of(signal)
    step = node.constant_ints(1)[0]
    windowed = node.has(2)
    if node.has(3):
        length = node.constant_ints(3)[0]
    else:
        length = node.shape(2)[0] if windowed else shape[1]
    onesided = bool(node.int_attr("onesided", 1))
    if len(shape) != 3 or shape[2] not in (1, 2) or (shape[2] == 2 and onesided) or not dtype.is_float:
        raise Unsupported(f"a signal of {list(shape)} of {dtype}, onesided {onesided}")
    if not 1 <= length <= shape[1] or step < 1 or (windowed and node.shape(2) != (length,)):
        raise ShapeError(f"windows of {length}, {step} apart, do not fit a signal of {shape[1]}")
    if 4 * length * length > _LARGEST_MATRIX:
        raise Unsupported(f"a matrix of {2 * length} by {2 * length}, limit {_LARGEST_MATRIX} elements")
    matrix = transform_matrix(length, shape[2], length, inverse=False, onesided=onesided)
    bins = matrix.shape[2]
    # One filter for each part of each bin: [parts of bins, parts of the signal, length].
    filters = matrix.transpose(3, 2, 1, 0).reshape(2 * bins, shape[2], length)
    ops, window = Arithmetic(node), node.value(2) if windowed else None
    if isinstance(window, Constant):
        filters = filters * window.read().astype(np.float64)
    weights = node.constant_value("filters", filters, dtype)
    if windowed and not isinstance(window, Constant):
        weights = ops.mul(weights, ops.reshape(node.operand(2), (1, 1, length)))
    frames = node.emit(ConvOp(ops.transpose(signal, (0, 2, 1)), weights, strides=(step,), pads=(0, 0), dilations=(1,)))
    apart = ops.reshape(frames, (shape[0], 2, bins, shape_of(frames)[2]))
    return [ops.transpose(apart, (0, 3, 2, 1))]


CONVERTERS: dict[str, Row] = {
    "DFT": Row(_dft, since=17),
    "STFT": Row(_stft, since=17),
}
"""ONNX operator type -> row."""
