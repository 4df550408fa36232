"""Reductions and normalisations: reduce, softmax, layer_norm, batch_norm."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import BoolAttr, DenseArrayBase, FloatAttr, IntegerAttr, TensorType, i64
from xdsl.irdl import (
    AttrSizedOperandSegments,
    irdl_op_definition,
    operand_def,
    opt_operand_def,
    prop_def,
    result_def,
    traits_def,
)
from xdsl.traits import Pure

from neuron_dialects.dtypes import I1
from neuron_dialects.graph.assembly import DIRECTIVES
from neuron_dialects.graph.attrs import ReduceKind, ReduceKindAttr, f32_attr, flag_attr, int_attr, ints, ints_attr
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
from neuron_dialects.graph.shapes import ShapeError, check_axis, check_batch_norm, check_layer_norm, reduce_shape

_REDUCE_ON_FLOATS = (ReduceKind.LOG_SUM, ReduceKind.LOG_SUM_EXP)


@irdl_op_definition
class ReduceOp(ComputeOp):
    """`graph.reduce kind %x axes [2, 3] keep_dims`: the function `kind` of all elements along the axes.

    x: float or integer, any shape. axes: strictly increasing, from the front; none means no reduction at all, though
    kinds with an inner function (l1, l2, sum_square, log_sum, log_sum_exp) still apply it. result: x's element type;
    the reduced dimensions are 1 with keep_dims and absent without.

    l1 is sum(|x|), l2 sqrt(sum(x*x)), sum_square sum(x*x), log_sum log(sum(x)), log_sum_exp log(sum(exp(x))).
    """

    name = "graph.reduce"
    x = operand_def(TensorType)
    kind = prop_def(ReduceKindAttr)
    axes = prop_def(DenseArrayBase.constr(i64))
    keep_dims = prop_def(BoolAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$kind $x custom<Integers>($axes) custom<Flag>($keep_dims) attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, kind: ReduceKind, x: Value, axes: Sequence[int], *, keep_dims: bool) -> None:
        super().__init__(
            operands=[x],
            properties={
                "kind": ReduceKindAttr(kind),
                "axes": ints_attr(axes),
                "keep_dims": flag_attr(keep_dims),
            },
            result_types=[tensor_type(*self.infer(kind, spec_of(x), axes, keep_dims))],
        )

    @staticmethod
    def infer(kind: ReduceKind, x: TensorSpec, axes: Sequence[int], keep_dims: bool) -> TensorSpec:
        """Result of reducing x."""
        dtype, shape = x
        require_dtype(dtype.is_float or (dtype is not I1 and kind not in _REDUCE_ON_FLOATS), kind, dtype)
        if kind in (ReduceKind.MAX, ReduceKind.MIN, ReduceKind.MEAN) and any(
            shape[axis] == 0 for axis in axes if 0 <= axis < len(shape)
        ):
            raise ShapeError(f"{kind} over an empty dimension is not defined")
        return dtype, reduce_shape(shape, axes, keep_dims)

    def inferred(self) -> TensorSpec:
        return self.infer(self.kind.data, spec_of(self.x), ints(self.axes), bool(self.keep_dims))


@irdl_op_definition
class SoftmaxOp(ComputeOp):
    """`graph.softmax %x axis 3`: exp(x - max) / sum(exp(x - max)) along one axis; with `log` its logarithm.

    x, result: float, any shape of rank >= 1. axis: from the front.
    """

    name = "graph.softmax"
    x = operand_def(TensorType)
    axis = prop_def(IntegerAttr)
    log = prop_def(BoolAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = "$x custom<Integer>($axis) custom<Flag>($log) attr-dict `:` functional-type(operands, results)"

    def __init__(self, x: Value, axis: int, *, log: bool = False) -> None:
        super().__init__(
            operands=[x],
            properties={"axis": int_attr(axis), "log": flag_attr(log)},
            result_types=[tensor_type(*self.infer(spec_of(x), axis))],
        )

    @staticmethod
    def infer(x: TensorSpec, axis: int) -> TensorSpec:
        """Result of the softmax of x."""
        require_dtype(x[0].is_float, "softmax", x[0])
        check_axis(axis, len(x[1]))
        return x

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), self.axis.value.data)


@irdl_op_definition
class LayerNormOp(ComputeOp):
    """`graph.layer_norm %x scale %s : .. bias %b : .. axis 2 epsilon 1.0e-05`: zero mean and unit variance.

    (x - mean) / sqrt(variance + epsilon) * scale + bias, with mean and variance over dimensions axis to the last.
    `uncentred`: x / sqrt(mean(x * x) + epsilon) * scale + bias, root mean square normalisation.
    x, result: float, rank >= 1. scale, bias: x's element type, of shape x.shape[axis:]; either may be absent.
    """

    name = "graph.layer_norm"
    x = operand_def(TensorType)
    scale = opt_operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    axis = prop_def(IntegerAttr)
    epsilon = prop_def(FloatAttr)
    uncentred = prop_def(BoolAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = (*GRAPH_OPTIONS, AttrSizedOperandSegments(as_property=True))
    custom_directives = DIRECTIVES
    assembly_format = (
        "$x (`scale` $scale^ `:` type($scale))? (`bias` $bias^ `:` type($bias))? custom<Integer>($axis)"
        " custom<Number>($epsilon) custom<Flag>($uncentred) attr-dict `:` functional-type($x, $result)"
    )

    def __init__(
        self,
        x: Value,
        scale: Value | None = None,
        bias: Value | None = None,
        *,
        axis: int,
        epsilon: float,
        uncentred: bool = False,
    ) -> None:
        parameters = [spec_of(value) for value in (scale, bias) if value is not None]
        super().__init__(
            operands=[x, scale, bias],
            properties={"axis": int_attr(axis), "epsilon": f32_attr(epsilon), "uncentred": flag_attr(uncentred)},
            result_types=[tensor_type(*self.infer(spec_of(x), parameters, axis))],
        )

    @staticmethod
    def infer(x: TensorSpec, parameters: Sequence[TensorSpec], axis: int) -> TensorSpec:
        """Result of normalising x; `parameters` are those of scale and bias that are present."""
        require_dtype(x[0].is_float, "layer_norm", x[0])
        require_same_dtype(x[0], *(dtype for dtype, _ in parameters))
        check_layer_norm(x[1], axis, [shape for _, shape in parameters])
        return x

    def inferred(self) -> TensorSpec:
        parameters = [spec_of(value) for value in (self.scale, self.bias) if value is not None]
        return self.infer(spec_of(self.x), parameters, self.axis.value.data)


@irdl_op_definition
class BatchNormOp(ComputeOp):
    """`graph.batch_norm %x, %scale, %bias, %mean, %variance epsilon 1.0e-05`: normalisation with given statistics.

    (x - mean) / sqrt(variance + epsilon) * scale + bias for every channel. x, result: [N, C, ...], float. scale, bias,
    mean, variance: [C], x's element type.
    """

    name = "graph.batch_norm"
    x = operand_def(TensorType)
    scale = operand_def(TensorType)
    bias = operand_def(TensorType)
    mean = operand_def(TensorType)
    variance = operand_def(TensorType)
    epsilon = prop_def(FloatAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$x `,` $scale `,` $bias `,` $mean `,` $variance custom<Number>($epsilon) attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(self, x: Value, scale: Value, bias: Value, mean: Value, variance: Value, *, epsilon: float) -> None:
        parameters = [spec_of(value) for value in (scale, bias, mean, variance)]
        super().__init__(
            operands=[x, scale, bias, mean, variance],
            properties={"epsilon": f32_attr(epsilon)},
            result_types=[tensor_type(*self.infer(spec_of(x), parameters))],
        )

    @staticmethod
    def infer(x: TensorSpec, parameters: Sequence[TensorSpec]) -> TensorSpec:
        """Result of normalising x; `parameters` are scale, bias, mean and variance."""
        require_dtype(x[0].is_float, "batch_norm", x[0])
        require_same_dtype(x[0], *(dtype for dtype, _ in parameters))
        check_batch_norm(x[1], [shape for _, shape in parameters])
        return x

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x), [spec_of(value) for value in self.operands[1:]])
