"""Converters of elementwise ONNX operators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from xdsl.ir import SSAValue

from lowering.onnx_to_graph.node import Node, Unsupported
from lowering.onnx_to_graph.registry import Row
from lowering.onnx_to_graph.values import MAX_FOLDED_ELEMENTS, Constant, Value, constant_of, readonly
from neuron_dialects.dtypes import DType, dtype_of_onnx
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    CastOp,
    ClipOp,
    CompareKind,
    CompareOp,
    ReshapeOp,
    SelectOp,
    UnaryKind,
    UnaryOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.shapes import ShapeError

EIGHT_BIT_FLOATS = ("f8e4m3", "f8e4m3fn", "f8e5m2", "f8e3m4")


def _unary(node: Node, kind: UnaryKind) -> Sequence[Value]:
    return [node.emit(UnaryOp(kind, node.operand(0)))]


def _unary_alpha(node: Node, kind: UnaryKind, alpha: float) -> Sequence[Value]:
    return [node.emit(UnaryOp(kind, node.operand(0), alpha=node.float_attr("alpha", alpha)))]


def _unary_alpha_beta(node: Node, kind: UnaryKind, alpha: float, beta_name: str, beta: float) -> Sequence[Value]:
    given = {"alpha": node.float_attr("alpha", alpha), "beta": node.float_attr(beta_name, beta)}
    return [node.emit(UnaryOp(kind, node.operand(0), **given))]


def _gelu(node: Node) -> Sequence[Value]:
    kind = UnaryKind.GELU_TANH if node.string_attr("approximate", "none") == "tanh" else UnaryKind.GELU
    return [node.emit(UnaryOp(kind, node.operand(0)))]


def _swish(node: Node) -> Sequence[Value]:
    """x * sigmoid(alpha * x)."""
    x = node.operand(0)
    alpha = node.float_attr("alpha", 1.0)
    if alpha == 1.0:
        return [node.emit(UnaryOp(UnaryKind.SILU, x))]
    scaled = node.emit(BinaryOp(BinaryKind.MUL, x, node.constant_value("alpha", alpha, spec_of(x)[0])))
    gate = node.emit(UnaryOp(UnaryKind.SIGMOID, scaled))
    return [node.emit(BinaryOp(BinaryKind.MUL, x, gate))]


def _is_inf(node: Node) -> Sequence[Value]:
    """x equals +inf, or -inf, or either, as the attributes ask."""
    x = node.operand(0)
    positive, negative = node.int_attr("detect_positive", 1), node.int_attr("detect_negative", 1)
    if not positive and not negative:
        raise Unsupported("IsInf detects neither infinity")
    if positive and negative:
        x = node.emit(UnaryOp(UnaryKind.ABS, x))
    bound = node.constant_value("infinity", np.inf if positive else -np.inf, spec_of(x)[0])
    return [node.emit(CompareOp(CompareKind.EQ, x, bound))]


def _operands(node: Node) -> tuple[SSAValue, SSAValue]:
    """Two operands that broadcast as in numpy.

    Before opset 7 the second one is broadcast only on demand, and then from the dimension `axis` of the first one on.
    """
    a, b = node.operand(0), node.operand(1)
    if node.opset >= 7 or not node.int_attr("broadcast", 0):
        return a, b
    a_rank, b_shape = len(shape_of(a)), shape_of(b)
    trailing = a_rank - len(b_shape) - node.int_attr("axis", a_rank - len(b_shape))
    if trailing < 0:
        raise ShapeError(f"{len(b_shape)} dimensions do not fit from axis {node.int_attr('axis')} of {a_rank} on")
    return a, node.emit(ReshapeOp(b, (*b_shape, *[1] * trailing))) if trailing else b


def _binary(node: Node, kind: BinaryKind) -> Sequence[Value]:
    return [node.emit(BinaryOp(kind, *_operands(node)))]


def _mod(node: Node) -> Sequence[Value]:
    kind = BinaryKind.FMOD if node.int_attr("fmod", 0) else BinaryKind.MOD
    return [node.emit(BinaryOp(kind, node.operand(0), node.operand(1)))]


def _pow(node: Node) -> Sequence[Value]:
    """Base and exponent may differ in element type; the result has the base's."""
    base, exponent = _operands(node)
    base_dtype, exponent_dtype = spec_of(base)[0], spec_of(exponent)[0]
    if base_dtype is exponent_dtype or base_dtype.is_float:
        return [node.emit(BinaryOp(BinaryKind.POW, base, node.cast(exponent, base_dtype)))]
    power = node.emit(BinaryOp(BinaryKind.POW, node.cast(base, exponent_dtype), exponent))
    return [node.cast(power, base_dtype)]


def _prelu(node: Node) -> Sequence[Value]:
    """The slope broadcasts to x; a list of one slope per channel is an old form of it."""
    x, slope = node.operand(0), node.operand(1)
    x_shape, slope_shape = shape_of(x), shape_of(slope)
    per_channel = slope_shape == x_shape[1:2] and slope_shape not in ((1,), x_shape[-1:])
    if per_channel:
        slope = node.emit(ReshapeOp(slope, (*slope_shape, *(1 for _ in x_shape[2:]))))
    return [node.emit(BinaryOp(BinaryKind.PRELU, x, slope))]


def _variadic(node: Node, kind: BinaryKind, *, mean: bool = False) -> Sequence[Value]:
    """Max, Min, Sum and Mean of any number of operands, from the left."""
    first, *others = node.operands()
    result = first
    for other in others:
        result = node.emit(BinaryOp(kind, result, other))
    if mean and others:
        count = node.constant_value("count", 1 + len(others), spec_of(result)[0])
        result = node.emit(BinaryOp(BinaryKind.DIV, result, count))
    return [result]


def _compare(node: Node, kind: CompareKind) -> Sequence[Value]:
    return [node.emit(CompareOp(kind, *_operands(node)))]


def _where(node: Node) -> Sequence[Value]:
    return [node.emit(SelectOp(node.operand(0), node.operand(1), node.operand(2)))]


def convert_cast(node: Node, dtype: DType | None) -> Sequence[Value]:
    """Input 0 cast to `dtype`; None stands for a type that only the host understands."""
    if dtype is None:
        raise Unsupported("the target type is understood only by the host")
    if node.dtype(0) is dtype:
        return [node.value(0)]
    if dtype.name in EIGHT_BIT_FLOATS:
        raise Unsupported(f"a cast to {dtype} saturates")
    value = node.value(0)
    if isinstance(value, Constant) and value.size <= MAX_FOLDED_ELEMENTS:
        with np.errstate(all="ignore"):
            array = readonly(value.read().astype(dtype.numpy))
        return [constant_of(f"{node.scope.prefix}{node.proto.output[0]}", array)]
    return [node.emit(CastOp(node.operand(0), dtype))]


def _convert_cast(node: Node) -> Sequence[Value]:
    return convert_cast(node, dtype_of_onnx(node.int_attr("to")))


def _cast_like(node: Node) -> Sequence[Value]:
    return convert_cast(node, node.dtype(1))


def _clip(node: Node) -> Sequence[Value]:
    """Bounds that f32 holds exactly become graph.clip; others, and bounds known only at run time, max and min."""
    x = node.operand(0)
    if node.opset < 11:
        bounds = {key: node.float_attr(name) if name in node.attributes else None for key, name in _CLIP_BOUNDS.items()}
        return [node.emit(ClipOp(x, **bounds))]
    exact = {key: _exact_f32(node, index) for key, index in (("minimum", 1), ("maximum", 2)) if node.has(index)}
    if all(value is not None for value in exact.values()):
        return [node.emit(ClipOp(x, **exact))]
    for index, kind in ((1, BinaryKind.MAX), (2, BinaryKind.MIN)):
        if node.has(index):
            x = node.emit(BinaryOp(kind, x, node.operand(index)))
    return [x]


_CLIP_BOUNDS = {"minimum": "min", "maximum": "max"}


def _exact_f32(node: Node, index: int) -> float | None:
    """A constant scalar input as a number that f32 holds exactly, else None."""
    value = node.value(index)
    if not isinstance(value, Constant) or value.size != 1:
        return None
    number = value.read().item()
    return float(number) if float(np.float32(number)) == number or number != number else None


_UNARY = {
    "Abs": UnaryKind.ABS,
    "Neg": UnaryKind.NEG,
    "Exp": UnaryKind.EXP,
    "Log": UnaryKind.LOG,
    "Sqrt": UnaryKind.SQRT,
    "Reciprocal": UnaryKind.RECIPROCAL,
    "Sigmoid": UnaryKind.SIGMOID,
    "Tanh": UnaryKind.TANH,
    "Relu": UnaryKind.RELU,
    "Erf": UnaryKind.ERF,
    "Softplus": UnaryKind.SOFTPLUS,
    "Softsign": UnaryKind.SOFTSIGN,
    "Mish": UnaryKind.MISH,
    "HardSwish": UnaryKind.HARD_SWISH,
    "Sin": UnaryKind.SIN,
    "Cos": UnaryKind.COS,
    "Sign": UnaryKind.SIGN,
    "Floor": UnaryKind.FLOOR,
    "Ceil": UnaryKind.CEIL,
    "Round": UnaryKind.ROUND,
    "Not": UnaryKind.NOT,
    "IsNaN": UnaryKind.IS_NAN,
}
_BINARY = {
    "Add": BinaryKind.ADD,
    "Sub": BinaryKind.SUB,
    "Mul": BinaryKind.MUL,
    "Div": BinaryKind.DIV,
    "And": BinaryKind.AND,
    "Or": BinaryKind.OR,
    "Xor": BinaryKind.XOR,
}
_COMPARE = {
    "Equal": CompareKind.EQ,
    "Less": CompareKind.LT,
    "LessOrEqual": CompareKind.LE,
    "Greater": CompareKind.GT,
    "GreaterOrEqual": CompareKind.GE,
}
_SELU_ALPHA, _SELU_GAMMA = 1.6732632423543772, 1.0507009873554805


CONVERTERS: dict[str, Row] = {
    **{op_type: Row(partial(_unary, kind=kind), since=1) for op_type, kind in _UNARY.items()},
    **{op_type: Row(partial(_binary, kind=kind), since=1) for op_type, kind in _BINARY.items()},
    **{op_type: Row(partial(_compare, kind=kind), since=1) for op_type, kind in _COMPARE.items()},
    "Elu": Row(partial(_unary_alpha, kind=UnaryKind.ELU, alpha=1.0), since=1),
    "Celu": Row(partial(_unary_alpha, kind=UnaryKind.CELU, alpha=1.0)),
    "LeakyRelu": Row(partial(_unary_alpha, kind=UnaryKind.LEAKY_RELU, alpha=0.01), since=1),
    "ThresholdedRelu": Row(partial(_unary_alpha, kind=UnaryKind.THRESHOLDED_RELU, alpha=1.0), since=1),
    "Selu": Row(
        partial(_unary_alpha_beta, kind=UnaryKind.SELU, alpha=_SELU_ALPHA, beta_name="gamma", beta=_SELU_GAMMA),
        since=6,
    ),
    "HardSigmoid": Row(
        partial(_unary_alpha_beta, kind=UnaryKind.HARD_SIGMOID, alpha=0.2, beta_name="beta", beta=0.5), since=1
    ),
    "Gelu": Row(_gelu),
    "Swish": Row(_swish),
    "IsInf": Row(_is_inf),
    "Mod": Row(_mod),
    "Pow": Row(_pow, since=1),
    "PRelu": Row(_prelu, since=1),
    "Max": Row(partial(_variadic, kind=BinaryKind.MAX), since=1),
    "Min": Row(partial(_variadic, kind=BinaryKind.MIN), since=1),
    "Sum": Row(partial(_variadic, kind=BinaryKind.ADD), since=1),
    "Mean": Row(partial(_variadic, kind=BinaryKind.ADD, mean=True), since=1),
    "Where": Row(_where),
    "Cast": Row(_convert_cast, since=6),
    "CastLike": Row(_cast_like),
    "Clip": Row(_clip, since=6),
}
