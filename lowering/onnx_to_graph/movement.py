"""Converters of ONNX operators that move elements or describe shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx.numpy_helper
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.limits import MAX_COMPUTED_ELEMENTS, require_computable
from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import Constant, HostConstant, Value, constant_of, readonly
from neuron_dialects.dtypes import I1, I32, I64, DType, dtype_of_onnx
from neuron_dialects.graph import (
    BroadcastOp,
    CastOp,
    CompareKind,
    CompareOp,
    ConcatOp,
    ConstantOp,
    GatherOp,
    PadMode,
    PadOp,
    ReshapeOp,
    SelectOp,
    SliceOp,
    TransposeOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import (
    Shape,
    ShapeError,
    broadcast_shapes,
    element_count,
    normalize_axes,
    normalize_axis,
)

# The same value


def _pass_through(node: Node) -> Sequence[Value]:
    return [node.value(0)]


def _dropout(node: Node) -> Sequence[Value]:
    """Inference keeps every element; a mask that is asked for is all true."""
    training = not node.int_attr("is_test", 0) if node.opset < 7 else node.opset >= 12 and node.has(2)
    if training and (node.opset < 7 or node.constant(2).any()):
        raise Unsupported("training mode")
    if not node.uses(1):
        return [node.value(0)]
    dtype, shape = node.spec(0)
    mask_dtype = I1 if node.opset >= 10 else dtype
    return [node.value(0), node.emit(ConstantOp(1, mask_dtype, shape))]


# Shapes


def _transpose(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    rank = len(shape_of(x))
    return [node.emit(TransposeOp(x, node.ints_attr("perm", list(reversed(range(rank))))))]


def reshaped(node: Node, x: SSAValue, shape: Sequence[int]) -> SSAValue:
    """`x` with another shape; x itself when it has it already."""
    return x if shape_of(x) == tuple(shape) else node.emit(ReshapeOp(x, shape))


def resolve_reshape(source: Sequence[int], wanted: Sequence[int], allow_zero: bool) -> list[int]:
    """The shape that ONNX's Reshape means: 0 copies a dimension unless `allow_zero`, one -1 is what is left over."""
    result = list(wanted)
    for position, dim in enumerate(wanted):
        if dim == 0 and not allow_zero:
            if position >= len(source):
                raise ShapeError(f"dimension {position} to copy does not exist in rank {len(source)}")
            result[position] = source[position]
    if result.count(-1) > 1 or any(dim < -1 for dim in result):
        raise ShapeError(f"shape {list(wanted)} has more than one unknown dimension or a negative one")
    if -1 in result:
        known = element_count([dim for dim in result if dim != -1])
        count = element_count(source)
        if known == 0 or count % known:
            raise ShapeError(f"{count} elements do not divide by the {known} of shape {list(wanted)}")
        result[result.index(-1)] = count // known
    return result


def _reshape(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    wanted = node.ints_attr("shape") if node.opset < 5 else node.constant_ints(1)
    shape = resolve_reshape(shape_of(x), wanted, allow_zero=bool(node.int_attr("allowzero", 0)))
    return [node.emit(ReshapeOp(x, shape))]


def _flatten(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    shape = shape_of(x)
    axis = node.int_attr("axis", 1)
    axis = len(shape) if axis == len(shape) else normalize_axis(axis, len(shape))
    return [node.emit(ReshapeOp(x, (element_count(shape[:axis]), element_count(shape[axis:]))))]


def _squeeze(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    shape = shape_of(x)
    axes = node.axes(13, len(shape))
    if axes is None:
        axes = tuple(axis for axis, dim in enumerate(shape) if dim == 1)
    if any(shape[axis] != 1 for axis in axes):
        raise ShapeError(f"axes {list(axes)} of {list(shape)} are not all 1")
    return [node.emit(ReshapeOp(x, [dim for axis, dim in enumerate(shape) if axis not in axes]))]


def _unsqueeze(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    given = node.constant_ints(1) if node.opset >= 13 else node.ints_attr("axes")
    shape = list(shape_of(x))
    for axis in normalize_axes(given, len(shape) + len(given)):
        shape.insert(axis, 1)
    return [node.emit(ReshapeOp(x, shape))]


def _expand(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    shape = broadcast_shapes(shape_of(x), node.constant_ints(1))
    return [node.value(0) if shape == shape_of(x) else node.emit(BroadcastOp(x, shape))]


def _tile(node: Node) -> Sequence[Value]:
    """Every dimension d becomes [repeats, d], broadcast over the repeats."""
    x = node.operand(0)
    shape, repeats = shape_of(x), node.constant_ints(1)
    if len(repeats) != len(shape) or any(count < 0 for count in repeats):
        raise ShapeError(f"repeats {repeats} do not fit rank {len(shape)}")
    return [repeat_blocks(node, x, repeats, outer=True)]


def repeat_blocks(node: Node, x: SSAValue, repeats: Sequence[int], *, outer: bool) -> SSAValue:
    """Every dimension repeated: as a whole (`outer`: a b a b), or element by element (a a b b)."""
    shape = shape_of(x)
    apart: list[int] = []
    wide: list[int] = []
    for dim, count in zip(shape, repeats, strict=True):
        if count == 1:
            apart.append(dim)
            wide.append(dim)
        else:
            apart += [1, dim] if outer else [dim, 1]
            wide += [count, dim] if outer else [dim, count]
    repeated = reshaped(node, x, apart)
    if apart != wide:
        repeated = node.emit(BroadcastOp(repeated, wide))
    return reshaped(node, repeated, [dim * count for dim, count in zip(shape, repeats, strict=True)])


def _depth_to_space(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    n, c, h, w = _rank_4(shape_of(x))
    block = node.int_attr("blocksize")
    if block < 1 or c % (block * block):
        raise ShapeError(f"{c} channels do not divide into blocks of {block}x{block}")
    deep = c // (block * block)
    if node.string_attr("mode", "DCR") == "DCR":
        apart, order = (n, block, block, deep, h, w), (0, 3, 4, 1, 5, 2)
    else:
        apart, order = (n, deep, block, block, h, w), (0, 1, 4, 2, 5, 3)
    moved = node.emit(TransposeOp(node.emit(ReshapeOp(x, apart)), order))
    return [node.emit(ReshapeOp(moved, (n, deep, h * block, w * block)))]


def _space_to_depth(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    n, c, h, w = _rank_4(shape_of(x))
    block = node.int_attr("blocksize")
    if block < 1 or h % block or w % block:
        raise ShapeError(f"{h}x{w} does not divide into blocks of {block}x{block}")
    apart = node.emit(ReshapeOp(x, (n, c, h // block, block, w // block, block)))
    order = (0, 3, 5, 1, 2, 4) if node.string_attr("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = node.emit(TransposeOp(apart, order))
    return [node.emit(ReshapeOp(moved, (n, c * block * block, h // block, w // block)))]


def _rank_4(shape: Sequence[int]) -> tuple[int, int, int, int]:
    if len(shape) != 4:
        raise ShapeError(f"rank {len(shape)} is not 4")
    n, c, h, w = shape
    return n, c, h, w


# Parts


def _concat(node: Node) -> Sequence[Value]:
    operands = node.operands()
    axis = normalize_axis(node.int_attr("axis", 1 if node.opset < 4 else None), len(shape_of(operands[0])))
    parts = [x for x in operands if shape_of(x)[axis : axis + 1] != (0,)] or operands[:1]
    return [parts[0] if len(parts) == 1 else node.emit(ConcatOp(parts, axis))]


def _sliced(node: Node, x: SSAValue, axis: int, start: int, size: int, step: int = 1) -> SSAValue:
    """`size` slices of x along one axis."""
    shape = shape_of(x)
    starts, sizes, steps = [0] * len(shape), list(shape), [1] * len(shape)
    starts[axis], sizes[axis], steps[axis] = start, size, step
    return node.emit(SliceOp(x, starts, sizes, steps))


def _split(node: Node) -> Sequence[Value]:
    """Sizes are given, by attribute or input, or equal; a last part of unequal division is smaller."""
    x = node.operand(0)
    shape = shape_of(x)
    axis = node.axis(0, len(shape))
    parts = len(node.proto.output)
    if node.opset >= 13 and node.has(1):
        sizes = node.constant_ints(1)
    elif "split" in node.attributes:
        sizes = node.ints_attr("split")
    else:
        each = -(-shape[axis] // parts)
        sizes = [max(0, min(each, shape[axis] - each * part)) for part in range(parts)]
    if sum(sizes) != shape[axis] or len(sizes) != parts:
        raise ShapeError(f"sizes {sizes} do not split {shape[axis]} into {parts}")
    starts = [sum(sizes[:part]) for part in range(parts)]
    return [_sliced(node, x, axis, start if size else 0, size) for start, size in zip(starts, sizes, strict=True)]


def _slice(node: Node) -> Sequence[Value]:
    """Bounds are clamped to the dimension as Python's slices are."""
    x = node.operand(0)
    shape = shape_of(x)
    if node.opset < 10:
        starts, ends = node.ints_attr("starts"), node.ints_attr("ends")
        axes = node.ints_attr("axes", list(range(len(starts))))
        steps = [1] * len(starts)
    else:
        starts, ends = node.constant_ints(1), node.constant_ints(2)
        axes = node.constant_ints(3) if node.has(3) else list(range(len(starts)))
        steps = node.constant_ints(4) if node.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ShapeError(f"starts {starts}, ends {ends}, axes {axes} and steps {steps} do not fit together")
    first, size, stride = [0] * len(shape), list(shape), [1] * len(shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = normalize_axis(axis, len(shape))
        taken = range(*slice(start, end, step).indices(shape[axis]))
        first[axis], size[axis], stride[axis] = (taken.start if taken else 0), len(taken), step
    if size == list(shape) and all(step == 1 for step in stride):
        return [node.value(0)]
    return [node.emit(SliceOp(x, first, size, stride))]


def _pad_widths(node: Node, rank: int) -> list[int]:
    """[low of every dimension..., high of every dimension...]; negative widths crop."""
    if node.opset < 11:
        widths = node.ints_attr("pads" if "pads" in node.attributes else "paddings")
    else:
        widths = node.constant_ints(1)
    if node.opset >= 18 and node.has(3):
        axes = [normalize_axis(axis, rank) for axis in node.constant_ints(3)]
        if len(widths) != 2 * len(axes):
            raise ShapeError(f"{len(widths)} widths for {len(axes)} axes")
        full = [0] * (2 * rank)
        for position, axis in enumerate(axes):
            full[axis], full[rank + axis] = widths[position], widths[len(axes) + position]
        return full
    if len(widths) != 2 * rank:
        raise ShapeError(f"{len(widths)} widths for rank {rank}")
    return widths


def _pad_value(node: Node, dtype: DType) -> float:
    """The fill value; Unsupported when f32, in which the operator keeps it, cannot hold it."""
    if node.opset < 11:
        return node.float_attr("value", 0.0)
    if not node.has(2):
        return 0.0
    value = node.constant(2).astype(dtype.numpy).item()
    if value == value and float(np.float32(value)) != value:
        raise Unsupported(f"fill value {value} is not an f32 number")
    return float(value)


def _pad(node: Node) -> Sequence[Value]:
    x = node.operand(0)
    dtype, shape = spec_of(x)
    widths = _pad_widths(node, len(shape))
    mode = node.string_attr("mode", "constant")
    if mode not in tuple(PadMode):
        raise Unsupported(f"mode {mode}")
    low, high = widths[: len(shape)], widths[len(shape) :]
    if any(width < 0 for width in widths):
        starts = [max(0, -before) for before in low]
        ends = [dim - max(0, -after) for dim, after in zip(shape, high, strict=True)]
        sizes = [max(0, end - start) for start, end in zip(starts, ends, strict=True)]
        x = node.emit(SliceOp(x, starts, sizes, [1] * len(shape)))
        low, high = [max(0, before) for before in low], [max(0, after) for after in high]
    if not any(low) and not any(high):
        return [x]
    if mode == "constant" and node.opset >= 11 and node.has(2) and not isinstance(node.value(2), Constant):
        return [_filled_around(node, x, low, high)]
    value = _pad_value(node, dtype) if mode == "constant" else 0.0
    return [node.emit(PadOp(x, low, high, mode=PadMode(mode), value=value))]


def _filled_around(node: Node, x: SSAValue, low: Sequence[int], high: Sequence[int]) -> SSAValue:
    """x padded with a value that is known only at run time: input 2."""
    padded = node.emit(PadOp(x, low, high))
    require_computable(element_count(shape_of(padded)))
    inside = np.zeros(shape_of(padded), np.bool_)
    inside[tuple(slice(before, before + dim) for before, dim in zip(low, shape_of(x), strict=True))] = True
    return node.emit(SelectOp(node.constant_value("inside", inside, I1), padded, reshaped(node, node.operand(2), ())))


# Selection by index


def _index(node: Node, index: int) -> SSAValue:
    """An operand with indices, as i32 or i64."""
    indices = node.operand(index)
    return indices if spec_of(indices)[0] in (I32, I64) else node.emit(CastOp(indices, I64))


def _gather(node: Node) -> Sequence[Value]:
    """A single constant index takes a slice, of which a scalar index drops the dimension."""
    data = node.operand(0)
    shape = shape_of(data)
    axis = node.axis(0, len(shape))
    indices = node.value(1)
    if not isinstance(indices, Constant) or indices.size != 1:
        return [node.emit(GatherOp(data, _index(node, 1), axis))]
    position = normalize_axis(node.constant_ints(1)[0], shape[axis])
    taken = _sliced(node, data, axis, position, 1)
    return [reshaped(node, taken, (*shape[:axis], *indices.shape, *shape[axis + 1 :]))]


def _trilu(node: Node) -> Sequence[Value]:
    """The upper or lower triangle of the last two dimensions; zero elsewhere."""
    x = node.operand(0)
    dtype, shape = spec_of(x)
    if len(shape) < 2:
        raise ShapeError(f"rank {len(shape)} is below 2")
    zero = node.constant_value("zero", 0, dtype)
    if node.has(1) and not isinstance(node.value(1), Constant):
        return [node.emit(SelectOp(_diagonal_mask(node, shape), x, zero))]
    if element_count(shape[-2:]) > MAX_COMPUTED_ELEMENTS:
        raise Unsupported(f"a triangle of {shape[-2]}x{shape[-1]}")
    offset = node.constant_ints(1)[0] if node.has(1) else 0
    ones = np.ones(shape[-2:], np.bool_)
    kept = np.triu(ones, offset) if node.int_attr("upper", 1) else np.tril(ones, offset)
    mask = node.constant_value("triangle", kept, I1)
    return [node.emit(SelectOp(mask, x, zero))]


def _diagonal_mask(node: Node, shape: Shape) -> SSAValue:
    """Which elements of a matrix a Trilu keeps whose diagonal is known only at run time: those on its side of it."""
    rows, columns = shape[-2:]
    diagonals = node.constant_value("diagonals", np.arange(columns) - np.arange(rows)[:, np.newaxis], I64)
    kind = CompareKind.GE if node.int_attr("upper", 1) else CompareKind.LE
    return node.emit(CompareOp(kind, diagonals, reshaped(node, node.operand(1), ())))


# Descriptions of shapes, and constants


def _shape(node: Node) -> Sequence[Value]:
    shape = node.shape(0)
    if node.opset >= 15:
        start, end = node.int_attr("start", 0), node.int_attr("end", len(shape))
        shape = shape[slice(*slice(start, end).indices(len(shape)))]
    return [constant_of(_output_name(node), readonly(np.array(shape, np.int64)))]


def _size(node: Node) -> Sequence[Value]:
    return [constant_of(_output_name(node), readonly(np.array(element_count(node.shape(0)), np.int64)))]


def _output_name(node: Node) -> str:
    return f"{node.scope.prefix}{node.proto.output[0]}"


def _constant_of_shape(node: Node) -> Sequence[Value]:
    shape = node.constant_ints(0)
    value = np.zeros(1, np.float32)
    if "value" in node.attributes:
        value = onnx.numpy_helper.to_array(node.tensor_attr("value"))
    if value.size != 1 or any(dim < 0 for dim in shape):
        raise ShapeError(f"shape {shape} or a fill of {value.size} elements is malformed")
    return [node.emit(ConstantOp(value, shape=shape))]


def _constant(node: Node) -> Sequence[Value]:
    attributes = node.attributes
    if "value" in attributes:
        tensor = node.tensor_attr("value")
        dtype = dtype_of_onnx(tensor.data_type)
        if dtype is None:
            return [HostConstant(tensor)]
        return [Constant(_output_name(node), dtype, tuple(tensor.dims), lambda: readonly(_array(tensor, dtype)))]
    for name, dtype, is_list in (
        ("value_float", np.float32, False),
        ("value_floats", np.float32, True),
        ("value_int", np.int64, False),
        ("value_ints", np.int64, True),
    ):
        if name in attributes:
            array = np.array(attributes[name], dtype)
            return [constant_of(_output_name(node), readonly(array.reshape(-1) if is_list else array))]
    raise Unsupported(f"a constant given as {', '.join(attributes) or 'nothing'}")


def _array(tensor: onnx.TensorProto, dtype: DType) -> np.ndarray:
    return onnx.numpy_helper.to_array(tensor).astype(dtype.numpy, copy=False)


CONVERTERS: dict[str, Row] = {
    "Identity": Row(_pass_through, since=1),
    "Dropout": Row(_dropout, since=1),
    "Transpose": Row(_transpose, since=1),
    "Reshape": Row(_reshape, since=1),
    "Flatten": Row(_flatten, since=1),
    "Squeeze": Row(_squeeze, since=1),
    "Unsqueeze": Row(_unsqueeze, since=1),
    "Expand": Row(_expand),
    "Tile": Row(_tile),
    "DepthToSpace": Row(_depth_to_space, since=1),
    "SpaceToDepth": Row(_space_to_depth, since=1),
    "Concat": Row(_concat, since=1),
    "Split": Row(_split, since=2),
    "Slice": Row(_slice, since=1),
    "Pad": Row(_pad, since=1),
    "Gather": Row(_gather, since=1),
    "Trilu": Row(_trilu),
    "Shape": Row(_shape, since=1),
    "Size": Row(_size, since=1),
    "ConstantOfShape": Row(_constant_of_shape),
    "Constant": Row(_constant, since=1),
}
