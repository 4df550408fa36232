"""`graph.unary` in ONNX operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi, sqrt
from typing import TypeAlias

from lowering.nisa_to_neff.host_model.arithmetic import Arithmetic
from lowering.nisa_to_neff.host_model.writer import ModelWriter, held_dtype
from neuron_dialects.dtypes import F64
from neuron_dialects.graph import UnaryKind, UnaryOp, spec_of

_PLAIN: dict[UnaryKind, str] = {
    UnaryKind.ABS: "Abs",
    UnaryKind.NEG: "Neg",
    UnaryKind.EXP: "Exp",
    UnaryKind.LOG: "Log",
    UnaryKind.SQRT: "Sqrt",
    UnaryKind.RECIPROCAL: "Reciprocal",
    UnaryKind.SIGMOID: "Sigmoid",
    UnaryKind.TANH: "Tanh",
    UnaryKind.RELU: "Relu",
    UnaryKind.ERF: "Erf",
    UnaryKind.GELU: "Gelu",
    UnaryKind.SOFTPLUS: "Softplus",
    UnaryKind.SOFTSIGN: "Softsign",
    UnaryKind.MISH: "Mish",
    UnaryKind.HARD_SWISH: "HardSwish",
    UnaryKind.SIN: "Sin",
    UnaryKind.COS: "Cos",
    UnaryKind.ATAN: "Atan",
    UnaryKind.SIGN: "Sign",
    UnaryKind.FLOOR: "Floor",
    UnaryKind.CEIL: "Ceil",
    UnaryKind.ROUND: "Round",
    UnaryKind.NOT: "Not",
    UnaryKind.IS_NAN: "IsNaN",
}
"""Kinds that are ONNX operators without attributes."""

_Form: TypeAlias = Callable[[Arithmetic, str, float, float], str]
"""Writes a function of x; the numbers are alpha and beta."""

_FORMS: dict[UnaryKind, _Form] = {
    UnaryKind.RSQRT: lambda math, x, alpha, beta: math("Reciprocal", math("Sqrt", x)),
    UnaryKind.SQUARE: lambda math, x, alpha, beta: math("Mul", x, x),
    UnaryKind.SILU: lambda math, x, alpha, beta: math("Mul", x, math("Sigmoid", x)),
    UnaryKind.GELU_TANH: lambda math, x, alpha, beta: math("Gelu", x, approximate="tanh"),
    UnaryKind.ELU: lambda math, x, alpha, beta: math("Elu", x, alpha=alpha),
    UnaryKind.CELU: lambda math, x, alpha, beta: math("Celu", x, alpha=alpha),
    UnaryKind.LEAKY_RELU: lambda math, x, alpha, beta: math("LeakyRelu", x, alpha=alpha),
    UnaryKind.THRESHOLDED_RELU: lambda math, x, alpha, beta: math("ThresholdedRelu", x, alpha=alpha),
    UnaryKind.SELU: lambda math, x, alpha, beta: math("Selu", x, alpha=alpha, gamma=beta),
    UnaryKind.HARD_SIGMOID: lambda math, x, alpha, beta: math("HardSigmoid", x, alpha=alpha, beta=beta),
}


def _softplus(math: Arithmetic, x: str) -> str:
    """max(x, 0) + log(1 + exp(-|x|))."""
    return math("Add", math("Max", x, 0), math("Log", math("Add", math("Exp", math("Neg", math("Abs", x))), 1)))


def _elu(math: Arithmetic, x: str, alpha: float) -> str:
    """max(x, 0) + alpha * (exp(min(x, 0)) - 1)."""
    negative = math("Sub", math("Exp", math("Min", x, 0)), 1)
    return math("Add", math("Max", x, 0), math("Mul", negative, alpha))


def _celu(math: Arithmetic, x: str, alpha: float) -> str:
    """max(x, 0) + min(0, alpha * (exp(x / alpha) - 1))."""
    negative = math("Sub", math("Exp", math("Div", x, alpha)), 1)
    return math("Add", math("Max", x, 0), math("Min", math("Mul", negative, alpha), 0))


def leaky_relu(math: Arithmetic, x: str, slope: str | float) -> str:
    """max(x, 0) + slope * min(x, 0)."""
    return math("Add", math("Max", x, 0), math("Mul", math("Min", x, 0), slope))


def _hard_sigmoid(math: Arithmetic, x: str, alpha: float, beta: float) -> str:
    """max(0, min(1, alpha * x + beta))."""
    return math("Max", math("Min", math("Add", math("Mul", x, alpha), beta), 1), 0)


def _gelu_tanh(math: Arithmetic, x: str) -> str:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))."""
    inner = math("Add", x, math("Mul", math("Mul", math("Mul", x, x), x), 0.044715))
    curve = math("Tanh", math("Mul", inner, sqrt(2 / pi)))
    return math("Mul", math("Mul", x, 0.5), math("Add", curve, 1))


_F64_FORMS: dict[UnaryKind, _Form] = {
    UnaryKind.GELU_TANH: lambda math, x, alpha, beta: _gelu_tanh(math, x),
    UnaryKind.SOFTPLUS: lambda math, x, alpha, beta: _softplus(math, x),
    UnaryKind.SOFTSIGN: lambda math, x, alpha, beta: math("Div", x, math("Add", math("Abs", x), 1)),
    UnaryKind.MISH: lambda math, x, alpha, beta: math("Mul", x, math("Tanh", _softplus(math, x))),
    UnaryKind.HARD_SWISH: lambda math, x, alpha, beta: math("Mul", x, _hard_sigmoid(math, x, 1 / 6, 0.5)),
    UnaryKind.ELU: lambda math, x, alpha, beta: _elu(math, x, alpha),
    UnaryKind.CELU: lambda math, x, alpha, beta: _celu(math, x, alpha),
    UnaryKind.LEAKY_RELU: lambda math, x, alpha, beta: leaky_relu(math, x, alpha),
    UnaryKind.THRESHOLDED_RELU: lambda math, x, alpha, beta: math(
        "Where", math("Greater", x, alpha), x, 0, untyped=(0,)
    ),
    UnaryKind.SELU: lambda math, x, alpha, beta: math("Mul", _elu(math, x, alpha), beta),
    UnaryKind.HARD_SIGMOID: _hard_sigmoid,
}
"""Kinds that onnxruntime computes in f32 only, or in f64 with constants that are rounded to f32."""


def unary(writer: ModelWriter, op: UnaryOp, names: Sequence[str]) -> str:
    """`graph.unary`."""
    kind, (x,) = op.kind.data, names
    math = Arithmetic(writer, held_dtype(spec_of(op.x)[0]))
    if kind is UnaryKind.RELU and math.dtype.is_integer:
        return math("Max", x, 0)
    form = (_F64_FORMS.get(kind) if math.dtype is F64 else None) or _FORMS.get(kind)
    if form is None:
        return math(_PLAIN[kind], x)
    alpha, beta = (attr.value.data if attr is not None else 0.0 for attr in (op.alpha, op.beta))
    return form(math, x, alpha, beta)
