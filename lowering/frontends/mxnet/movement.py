"""MXNet's operators that move data in ONNX: shapes, cuts, joins, padding, gathering."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx import TensorProto

from lowering.frontends.mxnet.builder import Call

_END = (1 << 63) - 1


def _flatten(call: Call) -> list[str]:
    return [call.add("Flatten", call.x, axis=1)]


def _reshape(call: Call) -> list[str]:
    """MXNet's codes besides sizes: 0 keeps a dimension, -1 is the rest, -2 all dimensions that are left, -3 the product
    of two, -4 splits one into the two that follow. The operand's shape is computed with; it folds away at import.
    """
    node = call.node
    codes = node.integers("shape")
    if node.flag("reverse", False) or not codes:
        raise node.error("reverse, and the old attribute target_shape, are not supported")
    shape = call.add("Shape", call.x)
    pieces: list[str] = []
    at, position = 0, 0
    while position < len(codes):
        code = codes[position]
        position += 1
        if code >= -1 and code != 0:
            pieces.append(call.integers(code))
            at += 1
        elif code == 0:
            pieces.append(_part(call, shape, at, at + 1))
            at += 1
        elif code == -2:
            pieces.append(_part(call, shape, at, _END))
        elif code == -3:
            pieces.append(call.add("Mul", _part(call, shape, at, at + 1), _part(call, shape, at + 1, at + 2)))
            at += 2
        elif code == -4 and position + 2 <= len(codes):
            pieces += _split_dimension(call, _part(call, shape, at, at + 1), codes[position], codes[position + 1])
            at, position = at + 1, position + 2
        else:
            raise node.error(f"shape {codes} is not understood at {code}")
    return [call.add("Reshape", call.x, call.add("Concat", *pieces, axis=0), allowzero=0)]


def _part(call: Call, shape: str, begin: int, end: int) -> str:
    return call.add("Slice", shape, call.integers(begin), call.integers(end))


def _split_dimension(call: Call, size: str, first: int, second: int) -> list[str]:
    """The two factors of a dimension, of which one may be -1."""
    if first < 0 and second < 0:
        raise call.node.error("a dimension is split into two unknown ones")
    if first < 0:
        return [call.add("Div", size, call.integers(second)), call.integers(second)]
    return [call.integers(first), call.add("Div", size, call.integers(first)) if second < 0 else call.integers(second)]


def _transpose(call: Call) -> list[str]:
    axes = call.node.integers("axes")
    return [call.add("Transpose", call.x, **({"perm": axes} if axes else {}))]


def _concat(call: Call) -> list[str]:
    return [call.add("Concat", *call.arguments, axis=call.node.integer("dim", 1))]


def _stack(call: Call) -> list[str]:
    axis = call.node.integer("axis", 0)
    rows = [call.add("Unsqueeze", argument, call.integers(axis)) for argument in call.arguments]
    return [call.add("Concat", *rows, axis=axis)]


def _slice_channel(call: Call) -> list[str]:
    """Equal parts along an axis, which is dropped with `squeeze_axis`."""
    node = call.node
    count, axis = node.integer("num_outputs"), node.integer("axis", 1)
    if not 1 <= count <= 65536:
        raise node.error(f"num_outputs is {count}")
    if count == 1:
        parts = [call.x]
    else:
        parts = call.add_many("Split", [call.x], count, axis=axis)
    if node.flag("squeeze_axis", False):
        parts = [call.add("Squeeze", part, call.integers(axis)) for part in parts]
    return parts


def _slice(call: Call) -> list[str]:
    """begin, end and step by dimension; None is the whole of it."""
    node = call.node
    begins, ends, steps = (node.optional_integers(key) for key in ("begin", "end", "step"))
    if len(begins) != len(ends):
        raise node.error(f"begin has {len(begins)} entries, end {len(ends)}")
    steps = (*steps, *(None for _ in begins[len(steps) :]))
    starts: list[int] = []
    stops: list[int] = []
    for begin, end, step in zip(begins, ends, steps, strict=True):
        backwards = step is not None and step < 0
        starts.append(begin if begin is not None else (_END if backwards else 0))
        stops.append(end if end is not None else (-_END if backwards else _END))
    strides = [1 if step is None else step for step in steps]
    axes = range(len(starts))
    arrays = (call.integers(*values) for values in (starts, stops, axes, strides))
    return [call.add("Slice", call.x, *arrays)]


def _slice_axis(call: Call) -> list[str]:
    node = call.node
    end = node.integer("end") if node.has("end") else _END
    bounds = (node.integer("begin"), end, node.integer("axis"))
    return [call.add("Slice", call.x, *(call.integers(value) for value in bounds))]


def _pad(call: Call) -> list[str]:
    """Widths come as pairs by dimension."""
    node = call.node
    widths = node.integers("pad_width")
    mode = node.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect") or len(widths) % 2:
        raise node.error(f"mode {mode} with {len(widths)} widths is not supported")
    pads = call.integers(*widths[::2], *widths[1::2])
    if mode == "constant":
        return [call.add("Pad", call.x, pads, call.scalar(node.number("constant_value", 0.0)), mode=mode)]
    return [call.add("Pad", call.x, pads, mode=mode)]


def _expand_dims(call: Call) -> list[str]:
    return [call.add("Unsqueeze", call.x, call.integers(call.node.integer("axis")))]


def _squeeze(call: Call) -> list[str]:
    axes = call.node.integers("axis")
    return [call.add("Squeeze", call.x, *([call.integers(*axes)] if axes else []))]


def _take(call: Call) -> list[str]:
    """Slices by index. MXNet moves indices that are out of range to the nearest end, as we do."""
    node = call.node
    if node.text("mode", "clip") != "clip":
        raise node.error(f"mode {node.text('mode', '')} is not supported")
    axis = node.integer("axis", 0)
    indices = call.add("Cast", call.argument(1), to=TensorProto.INT64)
    size = call.add("Slice", call.add("Shape", call.x), call.integers(axis), call.integers(axis + 1 or _END))
    indices = call.add("Min", indices, call.add("Sub", size, call.integers(1)))
    return [call.add("Gather", call.x, call.add("Max", indices, call.integers(0)), axis=axis)]


def _tile(call: Call) -> list[str]:
    return [call.add("Tile", call.x, call.integers(*call.node.integers("reps")))]


def _broadcast_to(call: Call) -> list[str]:
    """Sizes of 0 stay as they are."""
    sizes = call.node.integers("shape")
    return [call.add("Expand", call.x, call.integers(*(size or 1 for size in sizes)))]


def _broadcast_like(call: Call) -> list[str]:
    if call.node.has("lhs_axes") or call.node.has("rhs_axes"):
        raise call.node.error("lhs_axes and rhs_axes are not supported")
    return [call.add("Expand", call.x, call.add("Shape", call.argument(1)))]


def _depth_to_space(call: Call) -> list[str]:
    return [call.add("DepthToSpace", call.x, blocksize=call.node.integer("block_size"), mode="DCR")]


def _space_to_depth(call: Call) -> list[str]:
    return [call.add("SpaceToDepth", call.x, blocksize=call.node.integer("block_size"))]


MOVEMENT: Mapping[str, Callable[[Call], list[str]]] = {
    "Flatten": _flatten,
    "flatten": _flatten,
    "Reshape": _reshape,
    "reshape": _reshape,
    "transpose": _transpose,
    "Concat": _concat,
    "concat": _concat,
    "stack": _stack,
    "SliceChannel": _slice_channel,
    "split": _slice_channel,
    "slice": _slice,
    "crop": _slice,
    "slice_axis": _slice_axis,
    "Pad": _pad,
    "pad": _pad,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "take": _take,
    "tile": _tile,
    "broadcast_to": _broadcast_to,
    "broadcast_like": _broadcast_like,
    "depth_to_space": _depth_to_space,
    "space_to_depth": _space_to_depth,
}
