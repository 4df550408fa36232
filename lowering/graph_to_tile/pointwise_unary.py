"""Recipes for unary operators on floating point tiles: which engine ops compute which `graph.unary` kind.

Each recipe is given an `Emitter`, a source view and a destination view of one shape, and the operator's parameters.
What the scalar engine has as a function, or one ALU op can do, stands in a table (`FUNCTIONS`, `alu_steps`); the fusion
patterns of pointwise_chain.py read the same tables. Everything else is a short sequence in `RECIPES`.
"""

from collections.abc import Callable
from math import pi

from lowering.graph_to_tile.emitter import Emitter, Operand
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import UnaryKind

Recipe = Callable[[Emitter, View, View, float, float], None]
"""(emitter, dst, x, alpha, beta)."""

FUNCTIONS: dict[UnaryKind, str] = {
    UnaryKind.ABS: "abs",
    UnaryKind.EXP: "exp",
    UnaryKind.LOG: "log",
    UnaryKind.SQRT: "sqrt",
    UnaryKind.RSQRT: "rsqrt",
    UnaryKind.SQUARE: "square",
    UnaryKind.SIGMOID: "sigmoid",
    UnaryKind.TANH: "tanh",
    UnaryKind.ERF: "erf",
    UnaryKind.GELU: "gelu",
    UnaryKind.GELU_TANH: "gelu_apprx_tanh",
    UnaryKind.SILU: "silu",
    UnaryKind.SOFTPLUS: "softplus",
    UnaryKind.MISH: "mish",
    UnaryKind.ATAN: "arctan",
    UnaryKind.SIGN: "sign",
    UnaryKind.LEAKY_RELU: "prelu",
}
"""Kinds that are one function of the scalar engine; the slope of leaky_relu is the function's alpha."""

EXACT_INTEGER = 2.0**23
"""From this magnitude on every f32 is an integer, and below it the cast to i32 is exact."""

# 2 pi in three parts. The first two have few bits, so that their products with up to 2^13 turns are exact in f32 and
# the reduced argument keeps its precision (Cody and Waite).
_TURN_HIGH = 6.28125
_TURN_MIDDLE = 0.0019350051879882812
_TURN_LOW = 2 * pi - _TURN_HIGH - _TURN_MIDDLE


def alu_steps(kind: UnaryKind, alpha: float, beta: float) -> tuple[tuple[str, Operand], ...] | None:
    """The kind as ALU steps `running op number`, None where it is none."""
    match kind:
        case UnaryKind.RELU:
            return (("maximum", 0.0),)
        case UnaryKind.NEG:
            return (("multiply", -1.0),)
        case UnaryKind.HARD_SIGMOID:
            return (("multiply", alpha), ("add", beta), ("maximum", 0.0), ("minimum", 1.0))
        case _:
            return None


def _softsign(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """x / (1 + |x|)."""
    magnitude = e.temp(x)
    e.function(magnitude, x, "abs")
    e.scalar(magnitude, magnitude, "add", 1.0)
    e.reciprocal(magnitude, magnitude)
    e.alu(dst, x, magnitude, "multiply")


def _hard_swish(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """x * max(0, min(1, x / 6 + 0.5))."""
    gate = e.temp(x)
    e.scalar(gate, x, "multiply", 1.0 / 6.0, "add", 0.5)
    e.scalar(gate, gate, "maximum", 0.0, "minimum", 1.0)
    e.alu(dst, gate, x, "multiply")


def exponential_below_zero(e: Emitter, x: View, scale: float, factor: float) -> View:
    """factor * (exp(scale * min(x, 0)) - 1): zero where x >= 0."""
    tail = e.temp(x)
    e.scalar(tail, x, "minimum", 0.0)
    e.function(tail, tail, "exp", scale)
    e.scalar(tail, tail, "add", -1.0, "multiply", factor)
    return tail


def _elu(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """max(x, 0) + alpha * (exp(min(x, 0)) - 1)."""
    e.scalar_tensor(dst, x, "maximum", 0.0, "add", exponential_below_zero(e, x, 1.0, alpha))


def _celu(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """max(x, 0) + alpha * (exp(min(x, 0) / alpha) - 1)."""
    e.scalar_tensor(dst, x, "maximum", 0.0, "add", exponential_below_zero(e, x, 1.0 / alpha, alpha))


def _selu(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """beta * (max(x, 0) + alpha * (exp(min(x, 0)) - 1))."""
    tail = exponential_below_zero(e, x, 1.0, alpha * beta)
    head = e.temp(x)
    e.scalar(head, x, "maximum", 0.0, "multiply", beta)
    e.alu(dst, head, tail, "add")


def _thresholded_relu(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """x where x > alpha, else 0; a select, because 0 * inf would not be 0."""
    above = e.temp(x, "i1")
    e.scalar(above, x, "greater", alpha)
    e.assign(dst, 0.0)
    e.select(dst, x, above)


def _turned_sine(e: Emitter, dst: View, x: View, quarter_turns: int) -> None:
    """sin(x + quarter_turns * pi / 2): the nearest whole turns come off, then the table serves.

    Of a large angle the number of turns may be one off near a half, so that the rest lies a little beyond +-pi. Folding
    at +-pi / 2, which keeps the sine, brings it back.
    """
    turns = e.temp(x, "i32")
    e.scalar(turns, x, "multiply", 1.0 / (2 * pi), "add", quarter_turns / 4)
    angle, folded = e.temp(x), e.temp(x)
    e.scalar_tensor(angle, turns, "multiply", -_TURN_HIGH, "add", x)
    e.scalar_tensor(angle, turns, "multiply", -_TURN_MIDDLE, "add", angle)
    e.scalar_tensor(angle, turns, "multiply", -_TURN_LOW, "add", angle)
    if quarter_turns:
        e.scalar(angle, angle, "add", quarter_turns * pi / 2)
    e.scalar_tensor(folded, angle, "subtract", pi, "minimum", angle, reverse0=True)
    e.scalar_tensor(folded, angle, "subtract", -pi, "maximum", folded, reverse0=True)
    e.function(dst, folded, "sin")


def _sin(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """sin(x)."""
    _turned_sine(e, dst, x, 0)


def _cos(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """cos(x) = sin(x + pi / 2)."""
    _turned_sine(e, dst, x, 1)


def rounded(e: Emitter, dst: View, x: View, correction: str | None) -> None:
    """x rounded to an integer: half to even (None), down ("greater"), or up ("less").

    The cast to i32 rounds half to even; where its result is `correction` than x it went too far by one. Values beyond
    2^23, infinities and NaN are integers already (or none): what a clamp cuts off them is added back.
    """
    with e.scope():
        clamped, beyond, whole = e.temp(x), e.temp(x), e.temp(x, "i32")
        e.scalar(clamped, x, "minimum", EXACT_INTEGER, "maximum", -EXACT_INTEGER)
        e.alu(beyond, x, clamped, "subtract")
        e.assign(whole, clamped)
        if correction is None:
            e.alu(dst, whole, beyond, "add")
            return
        excess = e.temp(x)
        e.alu(excess, whole, clamped, correction)
        e.alu(excess, whole, excess, "subtract" if correction == "greater" else "add")
        e.alu(dst, excess, beyond, "add")


def _floor(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """The largest integer not above x."""
    rounded(e, dst, x, "greater")


def _ceil(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """The smallest integer not below x."""
    rounded(e, dst, x, "less")


def _round(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """The nearest integer, half to even."""
    rounded(e, dst, x, None)


def _is_nan(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """x != x."""
    e.tensors(dst, x, x, "not_equal")


def _reciprocal(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """1 / x on the vector engine: the scalar engine's table ends at 2^42."""
    e.reciprocal(dst, x)


def _not(e: Emitter, dst: View, x: View, alpha: float, beta: float) -> None:
    """x == 0."""
    e.scalar(dst, x, "equal", 0.0)


RECIPES: dict[UnaryKind, Recipe] = {
    UnaryKind.SOFTSIGN: _softsign,
    UnaryKind.HARD_SWISH: _hard_swish,
    UnaryKind.ELU: _elu,
    UnaryKind.CELU: _celu,
    UnaryKind.SELU: _selu,
    UnaryKind.THRESHOLDED_RELU: _thresholded_relu,
    UnaryKind.SIN: _sin,
    UnaryKind.COS: _cos,
    UnaryKind.FLOOR: _floor,
    UnaryKind.CEIL: _ceil,
    UnaryKind.ROUND: _round,
    UnaryKind.IS_NAN: _is_nan,
    UnaryKind.RECIPROCAL: _reciprocal,
    UnaryKind.NOT: _not,
}
"""Kinds that take more than one function or ALU step."""


def emit_unary(e: Emitter, kind: UnaryKind, dst: View, x: View, alpha: float = 0.0, beta: float = 0.0) -> None:
    """dst = kind(x) for a floating point or boolean x."""
    if kind in FUNCTIONS:
        e.function(dst, x, FUNCTIONS[kind], alpha=alpha)
        return
    steps = alu_steps(kind, alpha, beta)
    if steps is not None:
        e.run(dst, x, steps)
    else:
        RECIPES[kind](e, dst, x, alpha, beta)
