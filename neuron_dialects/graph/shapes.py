"""Shape rules of the graph operators, as pure functions on plain tuples.

Each function is given operand shapes and attributes of one operator family and returns the result shape, or raises
`ShapeError` with the figure that is wrong and the limit it breaks. No IR is involved: builders, verifiers and the
importer all call these same functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TypeAlias

Shape: TypeAlias = tuple[int, ...]


class ShapeError(ValueError):
    """Operand shapes and attributes of an operator contradict each other."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ShapeError(message)


def text(shape: Sequence[int]) -> str:
    """A shape as people write it: `1x64x56x56`; `scalar` for rank 0."""
    return "x".join(str(dim) for dim in shape) or "scalar"


def element_count(shape: Sequence[int]) -> int:
    """Number of elements of a tensor of this shape."""
    return prod(shape)


def normalize_axis(axis: int, rank: int) -> int:
    """`axis` counted from the front; ShapeError when it is outside [-rank, rank-1]."""
    _require(-rank <= axis < rank, f"axis {axis} is outside [{-rank}, {rank - 1}]")
    return axis + rank if axis < 0 else axis


def normalize_axes(axes: Sequence[int], rank: int) -> Shape:
    """Sorted axes counted from the front; ShapeError for one outside the rank or given twice."""
    normalized = sorted(normalize_axis(axis, rank) for axis in axes)
    _require(len(set(normalized)) == len(normalized), f"axes {list(axes)} name a dimension twice")
    return tuple(normalized)


# Elementwise


def broadcast_shapes(*shapes: Sequence[int]) -> Shape:
    """The numpy broadcast of the shapes: aligned at the back, a dimension of 1 stretches."""
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[int] = []
    for position in range(-rank, 0):
        dims = {shape[position] for shape in shapes if len(shape) >= -position} - {1}
        _require(len(dims) <= 1, f"shapes {' and '.join(text(shape) for shape in shapes)} do not broadcast")
        result.append(dims.pop() if dims else 1)
    return tuple(result)


def check_broadcast(source: Sequence[int], target: Sequence[int]) -> None:
    """ShapeError unless `source` stretches to exactly `target` under numpy broadcasting."""
    fits = len(source) <= len(target) and all(
        have in (1, want) for have, want in zip(reversed(source), reversed(target), strict=False)
    )
    _require(fits, f"shape {text(source)} does not broadcast to {text(target)}")


# Reductions and normalisations


def reduce_shape(shape: Sequence[int], axes: Sequence[int], keep_dims: bool) -> Shape:
    """Shape after reducing over `axes` (sorted, from the front): reduced dimensions become 1 or disappear."""
    reduced = check_axes(axes, len(shape))
    if keep_dims:
        return tuple(1 if axis in reduced else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in reduced)


def check_axes(axes: Sequence[int], rank: int) -> frozenset[int]:
    """The axes as a set; ShapeError unless they are strictly increasing and within [0, rank)."""
    _require(
        list(axes) == sorted(set(axes)) and all(0 <= axis < rank for axis in axes),
        f"axes {list(axes)} must be strictly increasing and within [0, {rank})",
    )
    return frozenset(axes)


def check_axis(axis: int, rank: int) -> None:
    """ShapeError unless `axis` is within [0, rank)."""
    _require(0 <= axis < rank, f"axis {axis} is outside [0, {rank})")


def check_layer_norm(shape: Sequence[int], axis: int, parameters: Sequence[Sequence[int]]) -> None:
    """ShapeError unless every parameter has the shape of the normalised dimensions `shape[axis:]`."""
    check_axis(axis, len(shape))
    normalized = tuple(shape[axis:])
    for parameter in parameters:
        _require(
            tuple(parameter) == normalized,
            f"parameter shape {text(parameter)} differs from the normalised dimensions {text(normalized)}",
        )


def check_batch_norm(shape: Sequence[int], parameters: Sequence[Sequence[int]]) -> None:
    """ShapeError unless x has a channel dimension (dimension 1) and every parameter has one value per channel."""
    _require(len(shape) >= 2, f"rank {len(shape)} is below 2: there is no channel dimension")
    for parameter in parameters:
        _require(
            tuple(parameter) == (shape[1],),
            f"parameter shape {text(parameter)} differs from the number of channels {shape[1]}",
        )


# Matrix multiplication


def matmul_shape(a: Sequence[int], b: Sequence[int], transpose_a: bool, transpose_b: bool) -> Shape:
    """[..., M, K] times [..., K, N] is [..., M, N]; the transposed forms are [..., K, M] and [..., N, K]."""
    _require(len(a) >= 2 and len(b) >= 2, f"ranks {len(a)} and {len(b)} must both be at least 2")
    rows, inner_a = (a[-1], a[-2]) if transpose_a else (a[-2], a[-1])
    inner_b, columns = (b[-1], b[-2]) if transpose_b else (b[-2], b[-1])
    _require(inner_a == inner_b, f"inner dimensions {inner_a} and {inner_b} differ")
    return (*broadcast_shapes(a[:-2], b[:-2]), rows, columns)


# Windows: convolution and pooling


def _check_window(spatial_rank: int, **attributes: Sequence[int]) -> None:
    _require(1 <= spatial_rank <= 3, f"{spatial_rank} spatial dimensions; 1 to 3 are supported")
    for name, values in attributes.items():
        expected = 2 * spatial_rank if name == "pads" else spatial_rank
        _require(len(values) == expected, f"{name} has {len(values)} values instead of {expected}")
        least = 0 if name in ("pads", "output_padding") else 1
        _require(all(value >= least for value in values), f"{name} {list(values)} has a value below {least}")


def window_extent(kernel: int, dilation: int) -> int:
    """Input elements that one window spans along a dimension."""
    return (kernel - 1) * dilation + 1


def _window_count(size: int, kernel: int, stride: int, low: int, high: int, dilation: int, ceil_mode: bool) -> int:
    """Number of window positions along one dimension.

    With `ceil_mode` a last, partial window counts too, unless it would start beyond the input and its low padding.
    """
    span = size + low + high - window_extent(kernel, dilation)
    _require(
        span >= 0,
        f"window of {window_extent(kernel, dilation)} elements exceeds the padded input of {size + low + high}",
    )
    count = span // stride + 1
    if ceil_mode and span % stride and count * stride < size + low:
        count += 1
    return count


def resolve_auto_pad(
    mode: str, size: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> Shape:
    """Explicit pads [begin..., end...] for the ONNX `auto_pad` modes VALID, SAME_UPPER and SAME_LOWER."""
    _require(mode in ("VALID", "SAME_UPPER", "SAME_LOWER"), f"auto_pad mode '{mode}' is unknown")
    low: list[int] = []
    high: list[int] = []
    for dim, window, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        total = 0
        if mode != "VALID":
            windows = -(-dim // stride)
            total = max(0, (windows - 1) * stride + window_extent(window, dilation) - dim)
        smaller, larger = total // 2, total - total // 2
        low.append(larger if mode == "SAME_LOWER" else smaller)
        high.append(smaller if mode == "SAME_LOWER" else larger)
    return (*low, *high)


def conv_shape(
    x: Sequence[int],
    w: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
) -> Shape:
    """Shape of the convolution of x [N, C, spatial...] with w [M, C/groups, kernel...]: [N, M, windows...]."""
    spatial = len(x) - 2
    _require(len(w) == len(x), f"rank {len(w)} of the weight differs from rank {len(x)} of the input")
    _check_window(spatial, strides=strides, pads=pads, dilations=dilations)
    _require(groups >= 1, f"groups {groups} is below 1")
    _require(x[1] == w[1] * groups, f"{x[1]} input channels differ from {w[1]} weight channels x {groups} groups")
    _require(w[0] % groups == 0, f"{w[0]} output channels do not divide into {groups} groups")
    windows = (
        _window_count(x[2 + d], w[2 + d], strides[d], pads[d], pads[spatial + d], dilations[d], ceil_mode=False)
        for d in range(spatial)
    )
    return (x[0], w[0], *windows)


def conv_transpose_shape(
    x: Sequence[int],
    w: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
) -> Shape:
    """Shape of the transposed convolution of x [N, C, spatial...] with w [C, M/groups, kernel...].

    [N, M, ...], where a spatial dimension is (in - 1) * stride + window extent + output_padding - pads.
    """
    spatial = len(x) - 2
    _require(len(w) == len(x), f"rank {len(w)} of the weight differs from rank {len(x)} of the input")
    _check_window(spatial, strides=strides, pads=pads, dilations=dilations, output_padding=output_padding)
    _require(groups >= 1, f"groups {groups} is below 1")
    _require(x[1] == w[0], f"{x[1]} input channels differ from {w[0]} weight channels")
    _require(x[1] % groups == 0, f"{x[1]} input channels do not divide into {groups} groups")
    result = [x[0], w[1] * groups]
    for d in range(spatial):
        full = (x[2 + d] - 1) * strides[d] + window_extent(w[2 + d], dilations[d]) + output_padding[d]
        size = full - pads[d] - pads[spatial + d]
        _require(size >= 1, f"pads {pads[d]} and {pads[spatial + d]} leave nothing of {full} elements")
        result.append(size)
    return tuple(result)


def pool_shape(
    x: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool,
) -> Shape:
    """Shape of pooling x [N, C, spatial...]: [N, C, windows...]; `ceil_mode` counts a last, partial window."""
    spatial = len(x) - 2
    _check_window(spatial, kernel=kernel, strides=strides, pads=pads, dilations=dilations)
    windows: list[int] = []
    for d in range(spatial):
        low, high = pads[d], pads[spatial + d]
        extent = window_extent(kernel[d], dilations[d])
        _require(max(low, high) < extent, f"padding {max(low, high)} holds a whole window of {extent} elements")
        windows.append(_window_count(x[2 + d], kernel[d], strides[d], low, high, dilations[d], ceil_mode))
    return (x[0], x[1], *windows)


# Movement


def transpose_shape(shape: Sequence[int], permutation: Sequence[int]) -> Shape:
    """Result dimension i is operand dimension permutation[i]."""
    _require(
        sorted(permutation) == list(range(len(shape))),
        f"permutation {list(permutation)} is not one of {len(shape)} dimensions",
    )
    return tuple(shape[axis] for axis in permutation)


def check_reshape(source: Sequence[int], target: Sequence[int]) -> None:
    """ShapeError unless both shapes hold equally many elements."""
    have, want = element_count(source), element_count(target)
    _require(have == want, f"{text(source)} has {have} elements but {text(target)} has {want}")


def concat_shape(shapes: Sequence[Sequence[int]], axis: int) -> Shape:
    """All dimensions but `axis` agree; the sizes along `axis` add up."""
    _require(len(shapes) >= 1, "nothing to concatenate")
    first = shapes[0]
    check_axis(axis, len(first))
    for shape in shapes[1:]:
        agrees = len(shape) == len(first) and all(
            have == want for d, (have, want) in enumerate(zip(shape, first, strict=True)) if d != axis
        )
        _require(agrees, f"shapes {text(first)} and {text(shape)} differ outside axis {axis}")
    return (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :])


def slice_shape(shape: Sequence[int], starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> Shape:
    """Along each dimension the elements start, start+step, ... (size of them), all inside the operand."""
    for name, values in (("starts", starts), ("sizes", sizes), ("steps", steps)):
        _require(len(values) == len(shape), f"{name} has {len(values)} values for rank {len(shape)}")
    for d, (dim, start, size, step) in enumerate(zip(shape, starts, sizes, steps, strict=True)):
        _require(step != 0, f"step of dimension {d} is 0")
        _require(size >= 0, f"size {size} of dimension {d} is negative")
        last = start + (size - 1) * step
        inside = size == 0 or (0 <= start < dim and 0 <= last < dim)
        _require(inside, f"elements {start} to {last} of dimension {d} are outside its size {dim}")
    return tuple(sizes)


def pad_shape(shape: Sequence[int], low: Sequence[int], high: Sequence[int], mode: str) -> Shape:
    """`low` and `high` elements are added before and after each dimension; what they hold depends on `mode`."""
    for name, values in (("low", low), ("high", high)):
        _require(len(values) == len(shape), f"{name} has {len(values)} values for rank {len(shape)}")
        _require(all(value >= 0 for value in values), f"{name} padding {list(values)} is negative")
    for d, (dim, before, after) in enumerate(zip(shape, low, high, strict=True)):
        widest = max(before, after)
        if mode == "reflect":
            _require(widest == 0 or widest < dim, f"reflect padding {widest} of dimension {d} exceeds {dim - 1}")
        elif mode == "wrap":
            _require(widest <= dim, f"wrap padding {widest} of dimension {d} exceeds its size {dim}")
        elif mode == "edge":
            _require(widest == 0 or dim >= 1, f"edge padding of dimension {d}, which is empty")
    return tuple(before + dim + after for dim, before, after in zip(shape, low, high, strict=True))


def gather_shape(data: Sequence[int], indices: Sequence[int], axis: int) -> Shape:
    """Dimension `axis` of `data` is replaced by all dimensions of `indices`."""
    check_axis(axis, len(data))
    _require(data[axis] >= 1 or element_count(indices) == 0, f"dimension {axis}, which is empty, cannot be gathered")
    return (*data[:axis], *indices, *data[axis + 1 :])
