"""MXNet's elementwise operators and reductions in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnx import TensorProto

from lowering.frontends.mxnet.builder import Call

Translate = Callable[[Call], list[str]]

_ELEMENT_TYPES = {
    "float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE,
    "int32": TensorProto.INT32, "int64": TensorProto.INT64, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8,
}  # fmt: skip


def _unary(op: str) -> Translate:
    return lambda call: [call.add(op, call.x)]


def _binary(op: str) -> Translate:
    return lambda call: [call.add(op, call.x, call.argument(1))]


def _scalar(op: str, is_reversed: bool = False) -> Translate:
    """x op scalar; scalar op x for the reversed ones."""

    def translate(call: Call) -> list[str]:
        scalar = call.scalar(call.node.number("scalar"))
        return [call.add(op, scalar, call.x) if is_reversed else call.add(op, call.x, scalar)]

    return translate


def _compare(op: str, is_scalar: bool = False) -> Translate:
    """A comparison; MXNet's give 0 and 1 in the type of their operands."""

    def translate(call: Call) -> list[str]:
        other = call.scalar(call.node.number("scalar")) if is_scalar else call.argument(1)
        names = ("Equal", call.x, other) if op == "NotEqual" else (op, call.x, other)
        result = call.add(*names)
        if op == "NotEqual":
            result = call.add("Not", result)
        return [call.add("CastLike", result, call.x)]

    return translate


def _reduction(op: str) -> Translate:
    """A reduction over axes; all of them by default."""

    def translate(call: Call) -> list[str]:
        node = call.node
        if node.flag("exclude", False):
            raise node.error("exclude is not supported: name the axes that are reduced")
        keep = int(node.flag("keepdims", False))
        axes = node.integers("axis")
        if op == "ReduceSum":  # its axes are an input since opset 13
            return [call.add(op, call.x, *([call.integers(*axes)] if axes else []), keepdims=keep)]
        return [call.add(op, call.x, keepdims=keep, **({"axes": axes} if axes else {}))]

    return translate


def _norm(call: Call) -> list[str]:
    order = call.node.integer("ord", 2)
    if order not in (1, 2):
        raise call.node.error(f"ord {order} is not supported")
    return _reduction(f"ReduceL{order}")(call)


def _arg(op: str) -> Translate:
    """Positions of extremes, as floating-point numbers."""

    def translate(call: Call) -> list[str]:
        keep = int(call.node.flag("keepdims", False))
        if not call.node.has("axis"):
            raise call.node.error("axis is missing")
        positions = call.add(op, call.x, axis=call.node.integer("axis"), keepdims=keep)
        return [call.add("CastLike", positions, call.x)]

    return translate


def _activation(call: Call) -> list[str]:
    kinds = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softrelu": "Softplus", "softsign": "Softsign"}
    kind = call.node.text("act_type", "")
    if kind not in kinds:
        raise call.node.error(f"act_type '{kind}' is not supported")
    return [call.add(kinds[kind], call.x)]


def _leaky_relu(call: Call) -> list[str]:
    """`rrelu` uses the mean of its bounds when it predicts."""
    node = call.node
    kind = node.text("act_type", "leaky")
    slope = node.number("slope", 0.25)
    match kind:
        case "leaky":
            return [call.add("LeakyRelu", call.x, alpha=slope)]
        case "elu":
            return [call.add("Elu", call.x, alpha=slope)]
        case "selu":
            return [call.add("Selu", call.x)]
        case "rrelu":
            mean = (node.number("lower_bound", 0.125) + node.number("upper_bound", 0.334)) / 2
            return [call.add("LeakyRelu", call.x, alpha=mean)]
        case "prelu":
            return [_prelu(call)]
        case "gelu":
            return [_gelu(call)]
        case _:
            raise node.error(f"act_type '{kind}' is not supported")


def _prelu(call: Call) -> str:
    """max(x, 0) + slope · min(x, 0), the slopes along dimension 1, for any rank: channels moved last and back."""
    slopes = call.parameter(1)
    if slopes.size == 1:
        return call.add("PRelu", call.x, call.argument(1))
    shape = call.add("Shape", call.x)
    rows = call.add("Reshape", call.x, call.integers(0, slopes.size, -1))
    column = call.add("Reshape", call.argument(1), call.integers(slopes.size, 1))
    return call.add("Reshape", call.add("PRelu", rows, column), shape)


def _gelu(call: Call) -> str:
    """x/2 · (1 + erf(x/√2))"""
    erf = call.add("Erf", call.add("Mul", call.x, call.scalar(0.5**0.5)))
    half = call.add("Mul", call.x, call.scalar(0.5))
    return call.add("Mul", half, call.add("Add", erf, call.scalar(1.0)))


def _clip(call: Call) -> list[str]:
    low, high = (call.scalar(call.node.number(key)) for key in ("a_min", "a_max"))
    return [call.add("Clip", call.x, low, high)]


def _hard_sigmoid(call: Call) -> list[str]:
    node = call.node
    return [call.add("HardSigmoid", call.x, alpha=node.number("alpha", 0.2), beta=node.number("beta", 0.5))]


def _sum_of_all(call: Call) -> list[str]:
    return [call.add("Sum", *call.arguments)]


def _square(call: Call) -> list[str]:
    return [call.add("Mul", call.x, call.x)]


def _reciprocal_root(call: Call) -> list[str]:
    return [call.add("Reciprocal", call.add("Sqrt", call.x))]


def _exp_minus_one(call: Call) -> list[str]:
    return [call.add("Sub", call.add("Exp", call.x), call.scalar(1.0))]


def _log_of_one_plus(call: Call) -> list[str]:
    return [call.add("Log", call.add("Add", call.x, call.scalar(1.0)))]


def _cast(call: Call) -> list[str]:
    kind = call.node.text("dtype", "")
    if kind not in _ELEMENT_TYPES:
        raise call.node.error(f"dtype '{kind}' is not supported")
    return [call.add("Cast", call.x, to=_ELEMENT_TYPES[kind])]


def _where(call: Call) -> list[str]:
    """The condition is a tensor of numbers: true where it is not zero."""
    condition = call.add("Cast", call.x, to=TensorProto.BOOL)
    return [call.add("Where", condition, call.argument(1), call.argument(2))]


def _filled_like(value: float) -> Translate:
    """A constant of the operand's shape and type."""
    return lambda call: [
        call.add("CastLike", call.add("Expand", call.scalar(value), call.add("Shape", call.x)), call.x)
    ]


_UNARY = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign", "exp": "Exp", "log": "Log",
    "sqrt": "Sqrt", "abs": "Abs", "negative": "Neg", "_negative": "Neg", "floor": "Floor", "ceil": "Ceil",
    "rint": "Round", "sign": "Sign", "erf": "Erf", "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos",
    "tan": "Tan", "arcsin": "Asin", "arccos": "Acos", "arctan": "Atan", "sinh": "Sinh", "cosh": "Cosh",
    "identity": "Identity", "_copy": "Identity",
}  # fmt: skip
_BINARY = {
    "Add": ("elemwise_add", "broadcast_add", "broadcast_plus", "_plus", "_Plus", "_add", "_grad_add"),
    "Sub": ("elemwise_sub", "broadcast_sub", "broadcast_minus", "_minus", "_Minus", "_sub"),
    "Mul": ("elemwise_mul", "broadcast_mul", "_mul", "_Mul"),
    "Div": ("elemwise_div", "broadcast_div", "_div", "_Div"),
    "Pow": ("broadcast_power", "_power", "_Power"),
    "Max": ("broadcast_maximum", "_maximum", "_Maximum"),
    "Min": ("broadcast_minimum", "_minimum", "_Minimum"),
}
_SCALAR = {
    "Add": ("_plus_scalar", "_PlusScalar"),
    "Sub": ("_minus_scalar", "_MinusScalar"),
    "Mul": ("_mul_scalar", "_MulScalar"),
    "Div": ("_div_scalar", "_DivScalar"),
    "Pow": ("_power_scalar", "_PowerScalar"),
    "Max": ("_maximum_scalar", "_MaximumScalar"),
    "Min": ("_minimum_scalar", "_MinimumScalar"),
}
_REVERSED_SCALAR = {
    "Sub": ("_rminus_scalar", "_RMinusScalar"),
    "Div": ("_rdiv_scalar", "_RDivScalar"),
    "Pow": ("_rpower_scalar", "_RPowerScalar"),
}
_COMPARISONS = {
    "equal": "Equal", "not_equal": "NotEqual", "greater": "Greater", "lesser": "Less",
    "greater_equal": "GreaterOrEqual", "lesser_equal": "LessOrEqual",
}  # fmt: skip
_REDUCTIONS = {
    "mean": "ReduceMean", "sum": "ReduceSum", "sum_axis": "ReduceSum", "max": "ReduceMax", "max_axis": "ReduceMax",
    "min": "ReduceMin", "min_axis": "ReduceMin", "prod": "ReduceProd",
}  # fmt: skip

ELEMENTWISE: Mapping[str, Translate] = {
    **{name: _unary(op) for name, op in _UNARY.items()},
    **{name: _binary(op) for op, names in _BINARY.items() for name in names},
    **{name: _scalar(op) for op, names in _SCALAR.items() for name in names},
    **{name: _scalar(op, is_reversed=True) for op, names in _REVERSED_SCALAR.items() for name in names},
    **{f"broadcast_{name}": _compare(op) for name, op in _COMPARISONS.items()},
    **{f"_{name}": _compare(op) for name, op in _COMPARISONS.items()},
    **{f"_{name}_scalar": _compare(op, is_scalar=True) for name, op in _COMPARISONS.items()},
    **{name: _reduction(op) for name, op in _REDUCTIONS.items()},
    "norm": _norm,
    "argmax": _arg("ArgMax"),
    "argmin": _arg("ArgMin"),
    "Activation": _activation,
    "LeakyReLU": _leaky_relu,
    "clip": _clip,
    "hard_sigmoid": _hard_sigmoid,
    "add_n": _sum_of_all,
    "ElementWiseSum": _sum_of_all,
    "square": _square,
    "rsqrt": _reciprocal_root,
    "expm1": _exp_minus_one,
    "log1p": _log_of_one_plus,
    "Cast": _cast,
    "cast": _cast,
    "amp_cast": _cast,
    "where": _where,
    "zeros_like": _filled_like(0.0),
    "ones_like": _filled_like(1.0),
}
