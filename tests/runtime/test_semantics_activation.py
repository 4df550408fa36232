import math
from collections.abc import Callable

import numpy as np
import pytest

from runtime.semantics.functions import FUNCTIONS, erf, prelu
from tests.runtime.meanings import empty, run, typed


def _softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


EXACT: dict[str, Callable[[float], float]] = {
    "copy": lambda x: x,
    "square": lambda x: x * x,
    "sigmoid": _sigmoid,
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))),
    "gelu_apprx_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x * _sigmoid(x),
    "tanh": math.tanh,
    "softplus": _softplus,
    "mish": lambda x: x * math.tanh(_softplus(x)),
    "erf": math.erf,
    "exp": math.exp,
    "sign": lambda x: math.copysign(1, x) if x else 0.0,
    "abs": abs,
    "log": math.log,
    "sin": math.sin,
    "arctan": math.atan,
    "sqrt": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}
POSITIVE = {"log", "sqrt", "rsqrt", "reciprocal"}


# Every function of the table against the standard library's, to float32 accuracy, with and without an output array.
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str):
    limit = math.pi if name == "sin" else 20.0
    x = np.linspace(1e-3 if name in POSITIVE else -limit, limit, 4001).astype(np.float32)
    expected = np.array([EXACT[name](v) for v in x.tolist()])
    result = FUNCTIONS[name](x, None)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=4e-7)
    own = x.copy()
    assert FUNCTIONS[name](own, own) is own
    assert np.array_equal(own, result)


def test_erf_error_is_below_one_in_ten_million():
    x = np.linspace(-6, 6, 100_001).astype(np.float32)
    exact = np.array([math.erf(v) for v in x.tolist()])
    assert np.abs(erf(x).astype(np.float64) - exact).max() < 1e-7


# Far out functions reach their limits quietly: warnings are errors in tests.
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("sigmoid", 0, 1), ("exp", 0, np.inf), ("tanh", -1, 1), ("erf", -1, 1), ("gelu", 0, 1e4), ("silu", 0, 1e4),
        ("softplus", 0, 1e4), ("mish", 0, 1e4),
    ],
)  # fmt: skip
def test_limits(name: str, low: float, high: float):
    out = run("activation", empty("f32", 1, 2), "act", {"func": name}, data=typed("f32", [[-1e4, 1e4]]))
    np.testing.assert_allclose(out, [[low, high]], atol=1e-30)


# The sine table has no range reduction: beyond pi it goes on as a cubic; the published figure is sin(9) = 27.65.
def test_sine_beyond_pi():
    out = run("activation", empty("f32", 1, 2), "act", {"func": "sin"}, data=typed("f32", [[9.0, -9.0]]))
    np.testing.assert_allclose(out, [[27.65, -27.65]], atol=0.01)


def test_prelu():
    x = np.array([-2, 0, 3], np.float32)
    assert prelu(0.25)(x, None).tolist() == [-0.5, 0.0, 3.0]
    out = run("activation", empty("f32", 1, 3), "act", {"func": "prelu", "alpha": -1.0}, data=("f32", x[np.newaxis]))
    assert out.tolist() == [[2.0, 0.0, 3.0]]


# func(data * scale + bias) with scale and bias per partition, and the sum of the result before it is rounded to bf16.
def test_scale_bias_and_sum():
    rng = np.random.default_rng(3)
    data, bias = typed("bf16", rng.normal(size=(4, 3, 5))), typed("f32", rng.normal(size=(4, 1)))
    scale, total = typed("f32", rng.normal(size=(4, 1))), empty("f32", 4, 1)
    out = run(
        "activation", empty("bf16", 4, 15), "act", {"func": "exp"},
        data=data, bias=bias, scale_column=scale, sum=total,
    )  # fmt: skip
    exact = np.exp(data[1].astype(np.float32).reshape(4, 15) * scale[1] + bias[1])
    assert np.array_equal(out, exact.astype(out.dtype))
    np.testing.assert_allclose(total[1][:, 0], exact.sum(axis=1), rtol=1e-6)


def test_immediate_scale():
    data = typed("i32", [[1, -2]])
    assert run("activation", empty("f32", 1, 2), "act", {"scale": -0.5}, data=data).tolist() == [[-0.5, 1.0]]
    assert data[1].tolist() == [[1, -2]]
