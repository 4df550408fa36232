"""Elementwise operators: unary, clip, binary, compare, select, cast.

Binary operators, comparisons and select broadcast as numpy does; operand element types are equal, so that every
conversion is a visible `graph.cast`.
"""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import FloatAttr, TensorType
from xdsl.irdl import irdl_op_definition, operand_def, opt_prop_def, prop_def, result_def, traits_def
from xdsl.traits import Pure

from neuron_dialects.dtypes import I1, DType
from neuron_dialects.graph.assembly import DIRECTIVES
from neuron_dialects.graph.attrs import (
    BinaryKind,
    BinaryKindAttr,
    CompareKind,
    CompareKindAttr,
    UnaryKind,
    UnaryKindAttr,
    optional_f32_attr,
)
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
from neuron_dialects.graph.shapes import ShapeError, broadcast_shapes, text

UNARY_PARAMETERS: dict[UnaryKind, tuple[str, ...]] = {
    UnaryKind.ELU: ("alpha",),
    UnaryKind.CELU: ("alpha",),
    UnaryKind.LEAKY_RELU: ("alpha",),
    UnaryKind.THRESHOLDED_RELU: ("alpha",),
    UnaryKind.SELU: ("alpha", "beta"),
    UnaryKind.HARD_SIGMOID: ("alpha", "beta"),
}
"""The parameters that a unary kind needs; all other kinds take none."""

_UNARY_ON_INTEGERS = (UnaryKind.ABS, UnaryKind.NEG, UnaryKind.SIGN, UnaryKind.RELU, UnaryKind.SQUARE)
_LOGICAL = (BinaryKind.AND, BinaryKind.OR, BinaryKind.XOR)
_BITWISE = (
    BinaryKind.BIT_AND,
    BinaryKind.BIT_OR,
    BinaryKind.BIT_XOR,
    BinaryKind.SHIFT_LEFT,
    BinaryKind.SHIFT_RIGHT,
)
_EQUALITY = (CompareKind.EQ, CompareKind.NE)


@irdl_op_definition
class UnaryOp(ComputeOp):
    """`graph.unary kind %x`: the function `kind` of every element, computed as ONNX defines it.

    x: any shape; float, or integer for abs, neg, sign, relu and square; i1 for not. result: x's type, i1 for is_nan.

    Parameters: elu `x < 0 ? alpha*(exp(x)-1) : x`; celu `max(0,x) + min(0, alpha*(exp(x/alpha)-1))`; leaky_relu
    `x < 0 ? alpha*x : x`; thresholded_relu `x > alpha ? x : 0`; selu `beta*(x < 0 ? alpha*(exp(x)-1) : x)`;
    hard_sigmoid `max(0, min(1, alpha*x + beta))`. hard_swish is `x*max(0, min(1, x/6 + 0.5))`. round goes half to even.
    """

    name = "graph.unary"
    x = operand_def(TensorType)
    kind = prop_def(UnaryKindAttr)
    alpha = opt_prop_def(FloatAttr)
    beta = opt_prop_def(FloatAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$kind $x custom<Number>($alpha) custom<Number>($beta) attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, kind: UnaryKind, x: Value, *, alpha: float | None = None, beta: float | None = None) -> None:
        given = [name for name, value in (("alpha", alpha), ("beta", beta)) if value is not None]
        super().__init__(
            operands=[x],
            properties={
                "kind": UnaryKindAttr(kind),
                "alpha": optional_f32_attr(alpha),
                "beta": optional_f32_attr(beta),
            },
            result_types=[tensor_type(*self.infer(kind, spec_of(x), given))],
        )

    @staticmethod
    def infer(kind: UnaryKind, x: TensorSpec, parameters: Sequence[str]) -> TensorSpec:
        """Result of `kind` on x; `parameters` names the parameters that are given."""
        needed = UNARY_PARAMETERS.get(kind, ())
        if tuple(parameters) != needed:
            raise ShapeError(
                f"{kind} takes {', '.join(needed) or 'no parameter'}, not {', '.join(parameters) or 'none'}"
            )
        dtype, shape = x
        allowed = (
            dtype is I1
            if kind is UnaryKind.NOT
            else dtype.is_float or (kind in _UNARY_ON_INTEGERS and dtype.is_integer)
        )
        require_dtype(allowed, kind, dtype)
        return (I1 if kind is UnaryKind.IS_NAN else dtype), shape

    def inferred(self) -> TensorSpec:
        return self.infer(self.kind.data, spec_of(self.x), [n for n in ("alpha", "beta") if n in self.properties])


@irdl_op_definition
class ClipOp(ComputeOp):
    """`graph.clip %x minimum 0.0 maximum 6.0`: min(max(x, minimum), maximum); an absent bound does not bind. NaN stays.

    x, result: any shape; float or integer. The bounds are f32; a bound that f32 cannot hold is written as max and min.
    """

    name = "graph.clip"
    x = operand_def(TensorType)
    minimum = opt_prop_def(FloatAttr)
    maximum = opt_prop_def(FloatAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    custom_directives = DIRECTIVES
    assembly_format = (
        "$x custom<Number>($minimum) custom<Number>($maximum) attr-dict `:` functional-type(operands, results)"
    )

    def __init__(self, x: Value, *, minimum: float | None = None, maximum: float | None = None) -> None:
        super().__init__(
            operands=[x],
            properties={"minimum": optional_f32_attr(minimum), "maximum": optional_f32_attr(maximum)},
            result_types=[tensor_type(*self.infer(spec_of(x)))],
        )

    @staticmethod
    def infer(x: TensorSpec) -> TensorSpec:
        """Result of clipping x."""
        require_dtype(x[0] is not I1, "clip", x[0])
        return x

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.x))


@irdl_op_definition
class BinaryOp(ComputeOp):
    """`graph.binary kind %a, %b`: the function `kind` of every pair of elements, with numpy broadcasting.

    a, b, result: one element type; i1 for and, or, xor; integer for bit_and, bit_or, bit_xor, shift_left, shift_right;
    float or integer otherwise. Integer div truncates towards zero. Shifts are arithmetic; by a count that is negative
    or not below the number of bits they move every bit out: what is left is 0, or the sign of a shift to the right.
    mod takes the sign of b, fmod the sign of a. max and min give NaN when either operand is NaN. prelu is
    `a < 0 ? a*b : a`.
    """

    name = "graph.binary"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    kind = prop_def(BinaryKindAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    assembly_format = "$kind $a `,` $b attr-dict `:` functional-type(operands, results)"

    def __init__(self, kind: BinaryKind, a: Value, b: Value) -> None:
        super().__init__(
            operands=[a, b],
            properties={"kind": BinaryKindAttr(kind)},
            result_types=[tensor_type(*self.infer(kind, spec_of(a), spec_of(b)))],
        )

    @staticmethod
    def infer(kind: BinaryKind, a: TensorSpec, b: TensorSpec) -> TensorSpec:
        """Result of `kind` on a and b."""
        dtype = require_same_dtype(a[0], b[0])
        require_dtype((dtype is I1) == (kind in _LOGICAL) and (dtype.is_integer or kind not in _BITWISE), kind, dtype)
        shape = broadcast_shapes(a[1], b[1])
        if kind is BinaryKind.PRELU and shape != a[1]:
            raise ShapeError(f"slope {text(b[1])} does not broadcast to {text(a[1])}")
        return dtype, shape

    def inferred(self) -> TensorSpec:
        return self.infer(self.kind.data, spec_of(self.a), spec_of(self.b))


@irdl_op_definition
class CompareOp(ComputeOp):
    """`graph.compare kind %a, %b`: whether a and b are in the relation `kind`, with numpy broadcasting.

    a, b: one element type; i1 only for eq and ne. result: i1. A comparison with NaN is false, except ne.
    """

    name = "graph.compare"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    kind = prop_def(CompareKindAttr)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    assembly_format = "$kind $a `,` $b attr-dict `:` functional-type(operands, results)"

    def __init__(self, kind: CompareKind, a: Value, b: Value) -> None:
        super().__init__(
            operands=[a, b],
            properties={"kind": CompareKindAttr(kind)},
            result_types=[tensor_type(*self.infer(kind, spec_of(a), spec_of(b)))],
        )

    @staticmethod
    def infer(kind: CompareKind, a: TensorSpec, b: TensorSpec) -> TensorSpec:
        """Result of comparing a and b."""
        dtype = require_same_dtype(a[0], b[0])
        require_dtype(dtype is not I1 or kind in _EQUALITY, kind, dtype)
        return I1, broadcast_shapes(a[1], b[1])

    def inferred(self) -> TensorSpec:
        return self.infer(self.kind.data, spec_of(self.a), spec_of(self.b))


@irdl_op_definition
class SelectOp(ComputeOp):
    """`graph.select %condition, %a, %b`: a where the condition holds, else b, with numpy broadcasting of all three.

    condition: i1. a, b, result: one element type.
    """

    name = "graph.select"
    condition = operand_def(TensorType)
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    assembly_format = "$condition `,` $a `,` $b attr-dict `:` functional-type(operands, results)"

    def __init__(self, condition: Value, a: Value, b: Value) -> None:
        super().__init__(
            operands=[condition, a, b],
            result_types=[tensor_type(*self.infer(spec_of(condition), spec_of(a), spec_of(b)))],
        )

    @staticmethod
    def infer(condition: TensorSpec, a: TensorSpec, b: TensorSpec) -> TensorSpec:
        """Result of selecting between a and b."""
        require_dtype(condition[0] is I1, "a select condition", condition[0])
        return require_same_dtype(a[0], b[0]), broadcast_shapes(condition[1], a[1], b[1])

    def inferred(self) -> TensorSpec:
        return self.infer(spec_of(self.condition), spec_of(self.a), spec_of(self.b))


@irdl_op_definition
class CastOp(ComputeOp):
    """`graph.cast %x : (tensor<4xf32>) -> tensor<4xbf16>`: every element converted to the result's element type.

    Float to float rounds to nearest even, float to integer truncates towards zero, anything to i1 is `x != 0`.
    """

    name = "graph.cast"
    x = operand_def(TensorType)
    result = result_def(TensorType)
    traits = traits_def(Pure())
    irdl_options = GRAPH_OPTIONS
    assembly_format = "$x attr-dict `:` functional-type(operands, results)"

    def __init__(self, x: Value, dtype: DType) -> None:
        super().__init__(operands=[x], result_types=[tensor_type(dtype, spec_of(x)[1])])

    def inferred(self) -> TensorSpec:
        return spec_of(self.result)[0], spec_of(self.x)[1]
