"""Operators that only move elements: transpose, reshape, broadcast, concat, slice, pad, gather, scatter.

They accept every element type of the table. Attributes are canonical: axes count from the front, slices name their
first element and size, paddings are not negative.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import DenseArrayBase, FloatAttr, IntegerAttr, TensorType, i64
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def, traits_def, var_operand_def
from xdsl.traits import Pure

from neuron_dialects.dtypes import I32, I64
from neuron_dialects.graph.assembly import DIRECTIVES
from neuron_dialects.graph.attrs import PadMode, PadModeAttr, f32_attr, int_attr, ints, ints_attr
from neuron_dialects.graph.base import (
    GRAPH_OPTIONS,
    ComputeOp,
    TensorSpec,
    Value,
    require_dtype,
    require_same_dtype,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.shapes import (
    ShapeError,
    check_broadcast,
    check_reshape,
    concat_shape,
    gather_shape,
    pad_shape,
    slice_shape,
    text,
    transpose_shape,
)

_INTS = DenseArrayBase.constr(i64)


@irdl_op_definition
class TransposeOp(ComputeOp):
    """`graph.transpose %x permutation [0, 2, 1]`: result dimension i is operand dimension permutation[i]."""

    name = "graph.transpose"
    x = operand_def(TensorType)
    permutation = prop_def(_INTS)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = "$x custom<Integers>($permutation) attr-dict `:` functional-type(operands, results)"

    def __init__(self, x: Value, permutation: Sequence[int]) -> None:
        super().__init__(
            operands=[x],
            properties={"permutation": ints_attr(permutation)},
            result_types=[tensor_type(*self.infer(spec_of(x), permutation))],
        )

    @staticmethod
    def infer(x: TensorSpec, permutation: Sequence[int]) -> TensorSpec:
        """Result of transposing x."""
        return x[0], transpose_shape(x[1], permutation)

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), ints(self.permutation))


@irdl_op_definition
class ReshapeOp(ComputeOp):
    """`graph.reshape %x`: the same elements in row-major order, with the result's shape."""

    name = "graph.reshape"
    x = operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    assembly_format = "$x attr-dict `:` functional-type(operands, results)"

    def __init__(self, x: Value, shape: Sequence[int]) -> None:
        super().__init__(operands=[x], result_types=[tensor_type(*self.infer(spec_of(x), shape))])

    @staticmethod
    def infer(x: TensorSpec, shape: Sequence[int]) -> TensorSpec:
        """Result of reshaping x to `shape`."""
        check_reshape(x[1], shape)
        return x[0], tuple(shape)

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), spec_of(self.result)[1])


@irdl_op_definition
class RelayoutOp(ComputeOp):
    """`graph.relayout %x`: the same tensor, lying as the result's layout says."""

    name = "graph.relayout"
    x = operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    assembly_format = "$x attr-dict `:` functional-type(operands, results)"

    def __init__(self, x: Value) -> None:
        super().__init__(operands=[x], result_types=[tensor_type(*spec_of(x))])

    def inferred(self) -> TensorSpec:
        return spec_of(self.x)


@irdl_op_definition
class BroadcastOp(ComputeOp):
    """`graph.broadcast %x`: x repeated along dimensions of 1 and along new leading ones, to the result's shape."""

    name = "graph.broadcast"
    x = operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    assembly_format = "$x attr-dict `:` functional-type(operands, results)"

    def __init__(self, x: Value, shape: Sequence[int]) -> None:
        super().__init__(operands=[x], result_types=[tensor_type(*self.infer(spec_of(x), shape))])

    @staticmethod
    def infer(x: TensorSpec, shape: Sequence[int]) -> TensorSpec:
        """Result of broadcasting x to `shape`."""
        check_broadcast(x[1], shape)
        return x[0], tuple(shape)

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), spec_of(self.result)[1])


@irdl_op_definition
class ConcatOp(ComputeOp):
    """`graph.concat %a, %b axis 1`: the operands one after the other along the axis; other dimensions agree."""

    name = "graph.concat"
    xs = var_operand_def(TensorType)
    axis = prop_def(IntegerAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = "$xs custom<Integer>($axis) attr-dict `:` functional-type(operands, results)"

    def __init__(self, xs: Sequence[Value], axis: int) -> None:
        super().__init__(
            operands=[list(xs)],
            properties={"axis": int_attr(axis)},
            result_types=[tensor_type(*self.infer([spec_of(x) for x in xs], axis))],
        )

    @staticmethod
    def infer(xs: Sequence[TensorSpec], axis: int) -> TensorSpec:
        """Result of concatenating xs."""
        shape = concat_shape([shape for _, shape in xs], axis)
        return require_same_dtype(*(dtype for dtype, _ in xs)), shape

    def inferred(self) -> TensorSpec:
        return self.infer([spec_of(x) for x in self.xs], self.axis.value.data)


@irdl_op_definition
class SliceOp(ComputeOp):
    """`graph.slice %x starts [0, 4] sizes [1, 2] steps [1, -2]`: regularly spaced elements of every dimension.

    Along dimension d the elements starts[d] + i * steps[d] for i in [0, sizes[d]), all of which exist. Steps may be
    negative. result: shape `sizes`.
    """

    name = "graph.slice"
    x = operand_def(TensorType)
    starts = prop_def(_INTS)
    sizes = prop_def(_INTS)
    steps = prop_def(_INTS)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$x custom<Integers>($starts) custom<Integers>($sizes) custom<Integers>($steps) attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(self, x: Value, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> None:
        super().__init__(
            operands=[x],
            properties={"starts": ints_attr(starts), "sizes": ints_attr(sizes), "steps": ints_attr(steps)},
            result_types=[tensor_type(*self.infer(spec_of(x), starts, sizes, steps))],
        )

    @staticmethod
    def infer(x: TensorSpec, starts: Sequence[int], sizes: Sequence[int], steps: Sequence[int]) -> TensorSpec:
        """Result of slicing x."""
        return x[0], slice_shape(x[1], starts, sizes, steps)

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), ints(self.starts), ints(self.sizes), ints(self.steps))


@irdl_op_definition
class PadOp(ComputeOp):
    """`graph.pad constant %x low [0, 1] high [0, 1] value 0.0`: elements added before and after each dimension.

    They hold `value` (constant), the mirror image without the edge itself (reflect), the edge element (edge), or the
    elements of the opposite end (wrap). low, high: not negative; below the dimension for reflect, at most it for wrap.
    """

    name = "graph.pad"
    x = operand_def(TensorType)
    mode = prop_def(PadModeAttr)
    low = prop_def(_INTS)
    high = prop_def(_INTS)
    value = prop_def(FloatAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$mode $x custom<Integers>($low) custom<Integers>($high) custom<Number>($value) attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        x: Value,
        low: Sequence[int],
        high: Sequence[int],
        *,
        mode: PadMode = PadMode.CONSTANT,
        value: float = 0.0,
    ) -> None:
        super().__init__(
            operands=[x],
            properties={
                "mode": PadModeAttr(mode),
                "low": ints_attr(low),
                "high": ints_attr(high),
                "value": f32_attr(value),
            },
            result_types=[tensor_type(*self.infer(spec_of(x), low, high, mode))],
        )

    @staticmethod
    def infer(x: TensorSpec, low: Sequence[int], high: Sequence[int], mode: PadMode) -> TensorSpec:
        """Result of padding x."""
        return x[0], pad_shape(x[1], low, high, mode)

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), ints(self.low), ints(self.high), self.mode.data)


@irdl_op_definition
class GatherOp(ComputeOp):
    """`graph.gather %data, %indices axis 0`: the slices of data along the axis that the indices name.

    data: rank >= 1. indices: i32 or i64, any shape, each within [-dim, dim). result: data's shape with dimension `axis`
    replaced by the dimensions of indices.
    """

    name = "graph.gather"
    data = operand_def(TensorType)
    indices = operand_def(TensorType)
    axis = prop_def(IntegerAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = "$data `,` $indices custom<Integer>($axis) attr-dict `:` functional-type(operands, results)"

    def __init__(self, data: Value, indices: Value, axis: int) -> None:
        super().__init__(
            operands=[data, indices],
            properties={"axis": int_attr(axis)},
            result_types=[tensor_type(*self.infer(spec_of(data), spec_of(indices), axis))],
        )

    @staticmethod
    def infer(data: TensorSpec, indices: TensorSpec, axis: int) -> TensorSpec:
        """Result of gathering from data."""
        require_dtype(indices[0] in (I32, I64), "a gather index", indices[0])
        if not data[1]:
            raise ShapeError("a scalar cannot be gathered from")
        return data[0], gather_shape(data[1], indices[1], axis)

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.data), spec_of(self.indices), self.axis.value.data)


@irdl_op_definition
class ScatterOp(ComputeOp):
    """`graph.scatter %data, %indices, %updates axis 0`: data with the slices that the indices name replaced by updates.

    The reverse of gather. data: rank >= 1. indices: i32 or i64, any shape, each within [-dim, dim). updates: data's
    element type, data's shape with dimension `axis` replaced by the dimensions of indices. Where two indices are equal,
    the later update stays. result: data's type.
    """

    name = "graph.scatter"
    data = operand_def(TensorType)
    indices = operand_def(TensorType)
    updates = operand_def(TensorType)
    axis = prop_def(IntegerAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$data `,` $indices `,` $updates custom<Integer>($axis) attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, data: Value, indices: Value, updates: Value, axis: int) -> None:
        super().__init__(
            operands=[data, indices, updates],
            properties={"axis": int_attr(axis)},
            result_types=[tensor_type(*self.infer(spec_of(data), spec_of(indices), spec_of(updates), axis))],
        )

    @staticmethod
    def infer(data: TensorSpec, indices: TensorSpec, updates: TensorSpec, axis: int) -> TensorSpec:
        """Result of scattering updates into data."""
        require_dtype(indices[0] in (I32, I64), "a scatter index", indices[0])
        if not data[1]:
            raise ShapeError("nothing can be scattered into a scalar")
        require_same_dtype(data[0], updates[0])
        wanted = gather_shape(data[1], indices[1], axis)
        if updates[1] != wanted:
            raise ShapeError(f"updates are {text(updates[1])}, the indices name {text(wanted)}")
        return data

    def inferred(self) -> TensorSpec:
        operands = spec_of(self.data), spec_of(self.indices), spec_of(self.updates)
        return self.infer(*operands, self.axis.value.data)
