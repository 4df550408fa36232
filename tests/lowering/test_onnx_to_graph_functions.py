"""Trigonometric and hyperbolic functions, and operators on bits: in the graph and on the core."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from lowering.onnx_to_graph import import_onnx
from tests.graph_level import Array, assert_close
from tests.lowering.onnx_cases import Case, bools, case, check, floats, ints, model_and_feeds
from tests.onnx_models import core_results, onnxruntime_results, results_of

SMALL = np.array([0, 1e-20, -1e-6, 3e-4, -0.01], np.float32)
WIDE = np.concatenate([SMALL, floats(40) * 3])
UNIT = np.concatenate([SMALL, np.linspace(-1, 1, 41, dtype=np.float32), [0.9999, -0.9999]]).astype(np.float32)

FUNCTIONS: dict[str, Array] = {
    **dict.fromkeys(("tan", "arctan", "sinh", "cosh", "arcsinh"), WIDE),
    **dict.fromkeys(("arcsin", "arccos"), UNIT),
    "arccosh": 1 + np.abs(WIDE),
    "arctanh": UNIT[np.abs(UNIT) < 1],
}


def onnx_name(name: str) -> str:
    """arcsinh is Asinh."""
    return f"A{name.removeprefix('arc')}" if name.startswith("arc") else name.capitalize()


# Every result agrees to a few units in its own last place, near zero too.
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("on_core", [False, True], ids=["graph", "core"])
def test_functions(name: str, on_core: bool) -> None:
    x = FUNCTIONS[name]
    model, feeds = model_and_feeds(case(onnx_name(name), x, opset=17))
    result = import_onnx(model)
    assert not result.info.onnx_nodes
    (have,) = core_results(model, feeds) if on_core else results_of(result, feeds)
    expected = getattr(np, name)(x.astype(np.float64))
    np.testing.assert_allclose(have, expected, rtol=5e-6, atol=1e-7 if name == "tan" else 0)


@pytest.mark.parametrize("made", [case("Shrink", floats(30), lambd=0.4, bias=0.2), case("Shrink", ints(20), lambd=3.0)])
def test_shrink(made: Case) -> None:
    check(made)


def full(dtype: Any, *shape: int, seed: int = 0) -> Array:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


BITS = [
    *(
        case(name, full(dtype, 3, 20), full(dtype, 20, seed=1))
        for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
        for dtype in (np.int8, np.int32, np.uint8)
    ),
    *(case("BitwiseNot", full(dtype, 20)) for dtype in (np.int8, np.int32, np.uint8)),
    *(
        case("BitShift", full(np.uint8, 3, 20), ints(20, low=0, high=8, dtype=np.uint8), direction=direction)
        for direction in ("LEFT", "RIGHT")
    ),
]


@pytest.mark.parametrize("made", BITS, ids=str)
def test_bits(made: Case) -> None:
    model, feeds = model_and_feeds(made)
    check(made)
    assert_close(core_results(model, feeds)[0], onnxruntime_results(model, feeds)[0])


@pytest.mark.parametrize(
    ("x", "to"),
    [
        (full(np.int16, 3, 9), TensorProto.UINT16),
        (full(np.uint8, 3, 9), TensorProto.INT8),
        (bools(3, 9), TensorProto.UINT8),
    ],
)
def test_bit_casts(x: Array, to: int) -> None:
    model, feeds = model_and_feeds(case("BitCast", x, opset=26, to=to))
    (have,) = core_results(model, feeds)
    assert have.dtype != x.dtype and have.tobytes() == x.tobytes()


# The bits of a float are no integer that the core could compute.
def test_bits_of_floats_are_left_to_the_host() -> None:
    model, _ = model_and_feeds(case("BitCast", floats(4), opset=26, to=TensorProto.INT32))
    assert [node.op_type for node in import_onnx(model).info.onnx_nodes] == ["BitCast"]
