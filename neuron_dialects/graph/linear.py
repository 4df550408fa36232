"""Operators that multiply and accumulate over windows or rows: matmul, conv, conv_transpose; and pool.

Tensors are in ONNX's channel-first order: [N, C, spatial...] with one to three spatial dimensions. Padding is explicit,
[begin of each spatial dimension..., end of each...]; ONNX's `auto_pad` is resolved before an operator is built.

matmul, conv and conv_transpose accumulate floats narrower than f32 in f32. The result has the operands' element type,
or is f32: then the sums are kept as they are, not rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import BoolAttr, DenseArrayBase, IntegerAttr, TensorType, i64
from xdsl.irdl import irdl_op_definition, operand_def, opt_operand_def, prop_def, result_def, traits_def
from xdsl.traits import Pure

from neuron_dialects.dtypes import F32, F64, I1, DType
from neuron_dialects.graph.assembly import DIRECTIVES
from neuron_dialects.graph.attrs import PoolKind, PoolKindAttr, flag_attr, int_attr, ints, ints_attr
from neuron_dialects.graph.base import (
    GRAPH_OPTIONS,
    ComputeOp,
    TensorSpec,
    Value,
    require_dtype,
    require_same_dtype,
    shape_of,
    spec_of,
    tensor_type,
)
from neuron_dialects.graph.shapes import ShapeError, conv_shape, conv_transpose_shape, matmul_shape, pool_shape, text

_INTS = DenseArrayBase.constr(i64)


def _result_dtype(operand: DType, accumulate_f32: bool) -> DType:
    """Element type of a sum of products: that of the operands, or f32 if asked for and the operands are narrower."""
    if not accumulate_f32 or operand is F32:
        return operand
    require_dtype(operand.is_float and operand is not F64, "an f32 sum of products", operand)
    return F32


def _convolved_dtype(channels: int, operands: Sequence[TensorSpec], accumulate_f32: bool) -> DType:
    """Element type of a convolution; `operands` are x, w and possibly a bias of one value per output channel.

    x and w have one float element type; the bias has the result's, since it is added to the sums.
    """
    dtype = require_same_dtype(operands[0][0], operands[1][0])
    require_dtype(dtype.is_float, "convolution", dtype)
    result = _result_dtype(dtype, accumulate_f32)
    for bias_dtype, shape in operands[2:]:
        require_same_dtype(result, bias_dtype)
        if shape != (channels,):
            raise ShapeError(f"bias shape {text(shape)} differs from the number of output channels {channels}")
    return result


def _sums_in_f32(op: MatMulOp | ConvOp | ConvTransposeOp) -> bool:
    """Whether the result of a parsed operator is said to be f32."""
    return spec_of(op.result)[0] is F32


@irdl_op_definition
class MatMulOp(ComputeOp):
    """`graph.matmul %a, %b transpose_b`: the product of the last two dimensions, batched over the others.

    a: [..., M, K], or [..., K, M] with transpose_a. b: [..., K, N], or [..., N, K] with transpose_b.
    result: [..., M, N]. Leading dimensions broadcast as in numpy. One element type, float or integer; the result may be
    f32 where the operands are narrower floats.
    """

    name = "graph.matmul"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    transpose_a = prop_def(BoolAttr)
    transpose_b = prop_def(BoolAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$a `,` $b custom<Flag>($transpose_a) custom<Flag>($transpose_b) attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        a: Value,
        b: Value,
        *,
        transpose_a: bool = False,
        transpose_b: bool = False,
        accumulate_f32: bool = False,
    ) -> None:
        spec = self.infer(spec_of(a), spec_of(b), transpose_a, transpose_b, accumulate_f32)
        super().__init__(
            operands=[a, b],
            properties={"transpose_a": flag_attr(transpose_a), "transpose_b": flag_attr(transpose_b)},
            result_types=[tensor_type(*spec)],
        )

    @staticmethod
    def infer(
        a: TensorSpec, b: TensorSpec, transpose_a: bool, transpose_b: bool, accumulate_f32: bool = False
    ) -> TensorSpec:
        """Result of a times b; `accumulate_f32` keeps the f32 sums of narrower floats."""
        dtype = require_same_dtype(a[0], b[0])
        require_dtype(dtype is not I1, "matmul", dtype)
        return _result_dtype(dtype, accumulate_f32), matmul_shape(a[1], b[1], transpose_a, transpose_b)

    def inferred(self) -> TensorSpec:
        flags = bool(self.transpose_a), bool(self.transpose_b)
        return self.infer(spec_of(self.a), spec_of(self.b), *flags, _sums_in_f32(self))


@irdl_op_definition
class ConvOp(ComputeOp):
    """`graph.conv %x, %w, %bias strides [..] pads [..] dilations [..] groups 1`: convolution (ONNX: cross-correlation).

    x: [N, C, spatial...]. w: [M, C/groups, kernel...]. bias: [M], optional. result: [N, M, windows...]. One float
    element type; bias and result may be f32 where x and w are narrower. pads hold zeros.
    """

    name = "graph.conv"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    strides = prop_def(_INTS)
    pads = prop_def(_INTS)
    dilations = prop_def(_INTS)
    groups = prop_def(IntegerAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$x `,` $w (`,` $bias^)? custom<Integers>($strides) custom<Integers>($pads) custom<Integers>($dilations)"
        " custom<Integer>($groups) attr-dict `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        x: Value,
        w: Value,
        bias: Value | None = None,
        *,
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        groups: int = 1,
        accumulate_f32: bool = False,
    ) -> None:
        operands = [spec_of(value) for value in (x, w, bias) if value is not None]
        super().__init__(
            operands=[x, w, bias],
            properties={
                "strides": ints_attr(strides),
                "pads": ints_attr(pads),
                "dilations": ints_attr(dilations),
                "groups": int_attr(groups),
            },
            result_types=[tensor_type(*self.infer(operands, strides, pads, dilations, groups, accumulate_f32))],
        )

    @property
    def is_pointwise(self) -> bool:
        """Whether it has one tap, no padding, and a result for each pixel."""
        ones = (*shape_of(self.w)[2:], *ints(self.strides))
        return all(n == 1 for n in ones) and not any(ints(self.pads))

    @staticmethod
    def infer(
        operands: Sequence[TensorSpec],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        groups: int,
        accumulate_f32: bool = False,
    ) -> TensorSpec:
        """Result of the convolution; `operands` are x, w and possibly a bias."""
        shape = conv_shape(operands[0][1], operands[1][1], strides, pads, dilations, groups)
        return _convolved_dtype(shape[1], operands, accumulate_f32), shape

    def inferred(self) -> TensorSpec:
        operands = [spec_of(value) for value in self.operands]
        windows = (ints(self.strides), ints(self.pads), ints(self.dilations))
        return self.infer(operands, *windows, self.groups.value.data, _sums_in_f32(self))


@irdl_op_definition
class ConvTransposeOp(ComputeOp):
    """`graph.conv_transpose %x, %w, %bias strides ... output_padding [..] groups 1`: the transpose of a convolution.

    x: [N, C, spatial...]. w: [C, M/groups, kernel...]. bias: [M], optional. result: [N, M, spatial...], each dimension
    (in - 1) * stride + (kernel - 1) * dilation + 1 + output_padding - pads. One float element type; bias and result may
    be f32 where x and w are narrower.
    """

    name = "graph.conv_transpose"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    bias = opt_operand_def(TensorType)
    strides = prop_def(_INTS)
    pads = prop_def(_INTS)
    dilations = prop_def(_INTS)
    output_padding = prop_def(_INTS)
    groups = prop_def(IntegerAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$x `,` $w (`,` $bias^)? custom<Integers>($strides) custom<Integers>($pads) custom<Integers>($dilations)"
        " custom<Integers>($output_padding) custom<Integer>($groups) attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        x: Value,
        w: Value,
        bias: Value | None = None,
        *,
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        output_padding: Sequence[int],
        groups: int = 1,
        accumulate_f32: bool = False,
    ) -> None:
        operands = [spec_of(value) for value in (x, w, bias) if value is not None]
        spec = self.infer(operands, strides, pads, dilations, output_padding, groups, accumulate_f32)
        super().__init__(
            operands=[x, w, bias],
            properties={
                "strides": ints_attr(strides),
                "pads": ints_attr(pads),
                "dilations": ints_attr(dilations),
                "output_padding": ints_attr(output_padding),
                "groups": int_attr(groups),
            },
            result_types=[tensor_type(*spec)],
        )

    @staticmethod
    def infer(
        operands: Sequence[TensorSpec],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        output_padding: Sequence[int],
        groups: int,
        accumulate_f32: bool = False,
    ) -> TensorSpec:
        """Result of the transposed convolution; `operands` are x, w and possibly a bias."""
        x, w = operands[0][1], operands[1][1]
        shape = conv_transpose_shape(x, w, strides, pads, dilations, output_padding, groups)
        return _convolved_dtype(shape[1], operands, accumulate_f32), shape

    def inferred(self) -> TensorSpec:
        return self.infer(
            [spec_of(value) for value in self.operands],
            ints(self.strides),
            ints(self.pads),
            ints(self.dilations),
            ints(self.output_padding),
            self.groups.value.data,
            _sums_in_f32(self),
        )


@irdl_op_definition
class PoolOp(ComputeOp):
    """`graph.pool max %x kernel [..] strides [..] pads [..] dilations [..]`: maximum or mean over windows.

    x: [N, C, spatial...]; float, or 8-bit integer for max. result: [N, C, windows...]. The result shape says whether a
    last, partial window counts (ONNX's ceil_mode). Padding never wins a maximum. A mean divides by the number of window
    elements inside the input, with count_include_pad inside the padded input; elements of a partial window beyond the
    padded input never count.
    """

    name = "graph.pool"
    x = operand_def(TensorType)
    kind = prop_def(PoolKindAttr)
    kernel = prop_def(_INTS)
    strides = prop_def(_INTS)
    pads = prop_def(_INTS)
    dilations = prop_def(_INTS)
    count_include_pad = prop_def(BoolAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$kind $x custom<Integers>($kernel) custom<Integers>($strides) custom<Integers>($pads)"
        " custom<Integers>($dilations) custom<Flag>($count_include_pad) attr-dict"
        " `:` functional-type(operands, results)"
    )

    def __init__(
        self,
        kind: PoolKind,
        x: Value,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        ceil_mode: bool = False,
        count_include_pad: bool = False,
    ) -> None:
        super().__init__(
            operands=[x],
            properties={
                "kind": PoolKindAttr(kind),
                "kernel": ints_attr(kernel),
                "strides": ints_attr(strides),
                "pads": ints_attr(pads),
                "dilations": ints_attr(dilations),
                "count_include_pad": flag_attr(count_include_pad),
            },
            result_types=[tensor_type(*self.infer(kind, spec_of(x), kernel, strides, pads, dilations, ceil_mode))],
        )

    @staticmethod
    def infer(
        kind: PoolKind,
        x: TensorSpec,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int],
        dilations: Sequence[int],
        ceil_mode: bool,
    ) -> TensorSpec:
        """Result of pooling x; `ceil_mode` counts last, partial windows."""
        dtype, shape = x
        require_dtype(dtype.is_float or (kind is PoolKind.MAX and dtype.name in ("i8", "ui8")), f"{kind} pool", dtype)
        return dtype, pool_shape(shape, kernel, strides, pads, dilations, ceil_mode)

    def inferred(self) -> TensorSpec:
        windows = (ints(self.kernel), ints(self.strides), ints(self.pads), ints(self.dilations))
        full = self.infer(self.kind.data, spec_of(self.x), *windows, ceil_mode=False)
        partial = self.infer(self.kind.data, spec_of(self.x), *windows, ceil_mode=True)
        return partial if spec_of(self.result)[1] == partial[1] else full
