"""Converters of ONNX operators that multiply and accumulate: Conv, ConvTranspose, Col2Im, MatMul, Gemm."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Value
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ConvOp,
    ConvTransposeOp,
    MatMulOp,
    ReshapeOp,
    TransposeOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import ShapeError, resolve_auto_pad, window_extent


def spatial_attr(node: Node, name: str, count: int, default: int) -> list[int]:
    """An attribute with one value per spatial dimension (`count` values), `default` everywhere when it is absent."""
    values = node.ints_attr(name, [default] * count)
    if len(values) != count:
        raise ShapeError(f"{name} has {len(values)} values instead of {count}")
    return values


def window_pads(
    node: Node, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Sequence[int]:
    """Explicit pads of a convolution or a pool over spatial dimensions `size`, with `auto_pad` resolved."""
    mode = node.string_attr("auto_pad", "NOTSET")
    if mode not in ("NOTSET", ""):
        return resolve_auto_pad(mode, size, kernel, strides, dilations)
    pads = spatial_attr(node, "pads", 2 * len(size), 0)
    if any(pad < 0 for pad in pads):
        raise Unsupported(f"pads {pads} are negative")
    return pads


def convolution(node: Node, x: SSAValue, w: SSAValue, bias: SSAValue | None = None) -> SSAValue:
    """The convolution of x and w with the attributes that the node has in common with Conv."""
    kernel = shape_of(w)[2:]
    strides = spatial_attr(node, "strides", len(kernel), 1)
    dilations = spatial_attr(node, "dilations", len(kernel), 1)
    size = shape_of(x)[2:]
    if len(size) != len(kernel):
        raise ShapeError(f"{len(size)} spatial dimensions but a kernel of {len(kernel)}")
    op = ConvOp(
        x,
        w,
        bias,
        strides=strides,
        pads=window_pads(node, size, kernel, strides, dilations),
        dilations=dilations,
        groups=node.int_attr("group", 1),
    )
    return node.emit(op)


def _conv(node: Node) -> Sequence[Value]:
    return [convolution(node, node.operand(0), node.operand(1), node.optional_operand(2))]


def _conv_transpose(node: Node) -> Sequence[Value]:
    x, w = node.operand(0), node.operand(1)
    size, kernel = shape_of(x)[2:], shape_of(w)[2:]
    if len(size) != len(kernel):
        raise ShapeError(f"{len(size)} spatial dimensions but a kernel of {len(kernel)}")
    strides = spatial_attr(node, "strides", len(kernel), 1)
    dilations = spatial_attr(node, "dilations", len(kernel), 1)
    output_padding = spatial_attr(node, "output_padding", len(kernel), 0)
    op = ConvTransposeOp(
        x,
        w,
        node.optional_operand(2),
        strides=strides,
        pads=_transpose_pads(node, size, kernel, strides, dilations, output_padding),
        dilations=dilations,
        output_padding=output_padding,
        groups=node.int_attr("group", 1),
    )
    return [node.emit(op)]


def _transpose_pads(
    node: Node,
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    output_padding: Sequence[int],
) -> Sequence[int]:
    """Pads of a ConvTranspose: given, or those that lead to the output shape that is asked for."""
    mode = node.string_attr("auto_pad", "NOTSET")
    rank = len(size)
    if mode == "VALID":
        return [0] * (2 * rank)
    if "output_shape" in node.attributes:
        wanted = node.ints_attr("output_shape")[-rank:]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [dim * stride for dim, stride in zip(size, strides, strict=True)]
    else:
        return window_pads(node, size, kernel, strides, dilations)
    if len(wanted) != rank:
        raise ShapeError(f"output_shape has {len(wanted)} values for {rank} spatial dimensions")
    low: list[int] = []
    high: list[int] = []
    for d in range(rank):
        full = (size[d] - 1) * strides[d] + window_extent(kernel[d], dilations[d]) + output_padding[d]
        total = full - wanted[d]
        if total < 0:
            raise Unsupported(f"output_shape {wanted[d]} exceeds the {full} elements that the windows reach")
        smaller, larger = total // 2, total - total // 2
        low.append(smaller if mode == "SAME_UPPER" else larger)
        high.append(larger if mode == "SAME_UPPER" else smaller)
    return [*low, *high]


_MAX_SPREADING_ELEMENTS = 1 << 24
"""Largest kernel of zeros and ones that a Col2Im is worth."""


def _col2im(node: Node) -> Sequence[Value]:
    """Blocks back to the image that they were cut from; what overlaps is added.

    Blocks that tile the image are moved. Others are spread by a transposed convolution, whose kernel takes each row of
    a channel's columns to the element of the block that it stands for.
    """
    x = node.operand(0)
    image, block = node.constant_ints(1), node.constant_ints(2)
    rank, taps = len(image), prod(block)
    if len(block) != rank or len(shape_of(x)) != 3 or taps <= 0 or shape_of(x)[1] % taps:
        raise ShapeError(f"columns of shape {shape_of(x)} do not fit blocks {block} of an image {image}")
    strides = spatial_attr(node, "strides", rank, 1)
    dilations = spatial_attr(node, "dilations", rank, 1)
    pads = spatial_attr(node, "pads", 2 * rank, 0)
    if min(*strides, *dilations) < 1 or min(pads) < 0:
        raise ShapeError(f"strides {strides}, dilations {dilations} or pads {pads} are out of range")
    extents = [window_extent(*window) for window in zip(block, dilations, strict=True)]
    rests = [image[d] + pads[d] + pads[d + rank] - extents[d] for d in range(rank)]
    counts = [rest // stride + 1 for rest, stride in zip(rests, strides, strict=True)]
    batch, rows, columns = shape_of(x)
    if min(rests) < 0 or prod(counts) != columns:
        raise ShapeError(f"{columns} columns for {counts} blocks")
    channels = rows // taps
    if strides == block and not any(pads) and image == [c * b for c, b in zip(counts, block, strict=True)]:
        blocks = node.emit(ReshapeOp(x, (batch, channels, *block, *counts)))
        order = [axis for d in range(rank) for axis in (2 + rank + d, 2 + d)]
        return [node.emit(ReshapeOp(node.emit(TransposeOp(blocks, (0, 1, *order))), (batch, channels, *image)))]
    dtype = spec_of(x)[0]
    if not dtype.is_float or rows * taps > _MAX_SPREADING_ELEMENTS:
        raise Unsupported(f"overlapping blocks of {taps} elements in {channels} channels of type {dtype}")
    kernel = np.tile(np.eye(taps), (channels, 1)).reshape(rows, 1, *block)
    op = ConvTransposeOp(
        node.emit(ReshapeOp(x, (batch, rows, *counts))),
        node.constant_value("spread", kernel, dtype),
        None,
        strides=strides,
        pads=pads,
        dilations=dilations,
        output_padding=[rest % stride for rest, stride in zip(rests, strides, strict=True)],
        groups=channels,
    )
    return [node.emit(op)]


def matrix_product(node: Node, a: SSAValue, b: SSAValue) -> SSAValue:
    """As numpy.matmul: an operand of rank 1 is a row or a column, whose added dimension goes again."""
    a_shape, b_shape = shape_of(a), shape_of(b)
    if not a_shape or not b_shape:
        raise ShapeError("a scalar cannot be multiplied as a matrix")
    if len(a_shape) == 1:
        a = node.emit(ReshapeOp(a, (1, *a_shape)))
    if len(b_shape) == 1:
        b = node.emit(ReshapeOp(b, (*b_shape, 1)))
    product = node.emit(MatMulOp(a, b))
    shape = list(shape_of(product))
    if len(b_shape) == 1:
        del shape[-1]
    if len(a_shape) == 1:
        del shape[len(shape) - 1 if len(b_shape) == 1 else len(shape) - 2]
    return product if len(shape) == len(shape_of(product)) else node.emit(ReshapeOp(product, shape))


def _matmul(node: Node) -> Sequence[Value]:
    return [matrix_product(node, node.operand(0), node.operand(1))]


def _gemm(node: Node) -> Sequence[Value]:
    """alpha * A' * B' + beta * C, where C broadcasts to the product."""
    a, b = node.operand(0), node.operand(1)
    if len(shape_of(a)) != 2 or len(shape_of(b)) != 2:
        raise ShapeError("Gemm operands must be matrices")
    transpose_a, transpose_b = bool(node.int_attr("transA", 0)), bool(node.int_attr("transB", 0))
    product = node.emit(MatMulOp(a, b, transpose_a=transpose_a, transpose_b=transpose_b))
    result = _scaled(node, product, "alpha")
    if not node.has(2) or node.float_attr("beta", 1.0) == 0.0:
        return [result]
    c = _scaled(node, node.operand(2), "beta")
    total = node.emit(BinaryOp(BinaryKind.ADD, result, c))
    if shape_of(total) != shape_of(product):
        raise ShapeError("the bias of Gemm does not broadcast to the product")
    return [total]


def _scaled(node: Node, x: SSAValue, factor_name: str) -> SSAValue:
    factor = node.float_attr(factor_name, 1.0)
    if factor == 1.0:
        return x
    dtype = spec_of(x)[0]
    if not dtype.is_float and factor != int(factor):
        raise Unsupported(f"{factor_name} {factor} does not fit element type {dtype}")
    return node.emit(BinaryOp(BinaryKind.MUL, x, node.constant_value(factor_name, factor, dtype)))


CONVERTERS: dict[str, Row] = {
    "Conv": Row(_conv, since=1),
    "ConvTranspose": Row(_conv_transpose, since=1),
    "Col2Im": Row(_col2im),
    "MatMul": Row(_matmul, since=1),
    "Gemm": Row(_gemm, since=1),
}
