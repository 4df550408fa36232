"""Errors against a reference, and how far rounding alone takes a model."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from neuron_dialects.errors import NeuronError
from runtime.reference import errors, rounded, rounded_model, run_onnxruntime

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("actual", "expected", "max_abs", "rel_l2"),
    [
        # 3-4-5: the difference is (0, 0.5), the expected norm 5.
        ([3.0, 4.5], [3.0, 4.0], 0.5, 0.1),
        ([1.0, 2.0], [1.0, 2.0], 0.0, 0.0),
        # Nothing to be relative to: no error, or an infinite one.
        ([0.0, 0.0], [0.0, -0.0], 0.0, 0.0),
        ([1e-9, 0.0], [0.0, 0.0], 1e-9, INF),
        # Infinities that agree are no error; the norm is that of the finite values.
        ([INF, -INF, 3.0], [INF, -INF, 4.0], 1.0, 0.25),
        ([INF, 1.0], [-INF, 1.0], INF, INF),
        ([1.0, 1.0], [INF, 1.0], INF, INF),
        # A NaN is wrong, wherever it comes from.
        ([NAN, 1.0], [1.0, 1.0], INF, INF),
        ([1.0, 1.0], [NAN, 1.0], INF, INF),
        ([NAN], [NAN], INF, INF),
        ([], [], 0.0, 0.0),
    ],
)
def test_errors(actual: list[float], expected: list[float], max_abs: float, rel_l2: float) -> None:
    found = errors(np.array(actual, np.float32), np.array(expected, np.float32))
    assert found == {"max_abs_error": pytest.approx(max_abs), "rel_l2_error": pytest.approx(rel_l2)}


# Element types that numpy does not know, integers and truth values have errors like any others.
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.int64, np.uint8, np.bool_])
def test_errors_of_other_types(dtype: type) -> None:
    values = np.array([[1, 0], [1, 1]]).astype(dtype)
    assert errors(values, values.astype(np.float64)) == {"max_abs_error": 0.0, "rel_l2_error": 0.0}
    assert errors(values, np.ones((2, 2)))["max_abs_error"] == 1.0


# Texts are the same or they are not.
@pytest.mark.parametrize(("actual", "distance"), [(["a", "bc"], 0.0), (["a", "b"], INF)])
def test_errors_of_texts(actual: list[str], distance: float) -> None:
    found = errors(np.array(actual, object), np.array(["a", "bc"], object))
    assert found == {"max_abs_error": distance, "rel_l2_error": distance}


# The largest finite numbers do not overflow on the way.
def test_errors_of_large_values_are_finite() -> None:
    large = np.full(4, 3e38, np.float32)
    assert errors(large, -large)["rel_l2_error"] == pytest.approx(2.0)


FLOAT32 = st.floats(width=32, allow_nan=False)


# tf32 has float32's range and 10 bits of mantissa, rounded to nearest, ties to even.
@given(FLOAT32)
def test_tf32_is_the_nearest_of_its_numbers(value: float) -> None:
    (result,) = rounded(np.array([value], np.float32), "tf32").tolist()
    if not math.isfinite(value):
        assert result == value
        return
    mantissa, exponent = math.frexp(value)
    step = math.ldexp(1.0, max(exponent, -125) - 11)
    nearest = math.copysign(round(abs(math.ldexp(mantissa, exponent)) / step) * step, value)
    # Beyond the largest number lies infinity.
    assert result == (nearest if abs(nearest) < 2.0**128 else math.copysign(INF, value))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("tf32", 1 + 2.0**-11, 1.0),
        ("tf32", 1 + 3 * 2.0**-11, 1 + 2 * 2.0**-10),
        ("tf32", 1 + 2.0**-10, 1 + 2.0**-10),
        ("bf16", 1 + 2.0**-8, 1.0),
        ("bf16", 1 + 3 * 2.0**-8, 1 + 2 * 2.0**-7),
        ("bf16", 3.4e38, INF),
        ("f16", 65519.0, 65504.0),
        ("f16", 65520.0, INF),
        ("f16", 2.0**-25, 0.0),
    ],
)
def test_rounding_goes_to_the_nearest(dtype: str, value: float, expected: float) -> None:
    result = rounded(np.array([value, -value], np.float32), dtype)
    assert result.dtype == np.float32
    assert result.tolist() == [expected, -expected]


@pytest.mark.parametrize("dtype", ["tf32", "bf16", "f16"])
def test_rounding_keeps_nan_and_infinity(dtype: str) -> None:
    assert math.isnan(rounded(np.array([NAN], np.float32), dtype)[0])
    np.testing.assert_array_equal(rounded(np.array([INF, -INF], np.float32), dtype), [INF, -INF])


# The bits of a NaN with a full mantissa must not carry over into another number.
def test_a_nan_of_any_bits_stays_one_in_tf32() -> None:
    bits = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32)
    assert np.isnan(rounded(bits.view(np.float32), "tf32")).all()


@given(st.lists(FLOAT32, max_size=8), st.sampled_from(("tf32", "bf16", "f16")))
def test_rounding_twice_changes_nothing(values: list[float], dtype: str) -> None:
    once = rounded(np.array(values, np.float32), dtype)
    np.testing.assert_array_equal(rounded(once, dtype), once)


WEIGHT = np.array([[1 + 2.0**-9, 3.0], [1e-3, -7.0]], np.float32)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = x · w + ids, of which w is float32 and ids int64."""
    inputs = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 2])]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Cast", ["ids"], ["c"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Add", ["p", "c"], ["y"]),
    ]
    weights = [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.array([5, 300]), "ids")]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


X = np.array([[1.0, 2.0]], np.float32)


def test_onnxruntime_gives_outputs_by_name(model: Path) -> None:
    outputs = run_onnxruntime(model, {"x": X})
    assert list(outputs) == ["y"]
    np.testing.assert_allclose(outputs["y"], X @ WEIGHT + [5, 300], rtol=1e-6)


# Only float weights are rounded: to 1.0, 3, 1e-3 (nearest bf16) and -7, while 300 stays though bf16 has it not.
def test_a_rounded_model_has_rounded_weights(model: Path) -> None:
    outputs = run_onnxruntime(rounded_model(model, "bf16"), {"x": X})
    near = WEIGHT.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert (near != WEIGHT).sum() == 2
    np.testing.assert_allclose(outputs["y"], X @ near + [5, 300], rtol=1e-6)


def test_what_onnxruntime_cannot_run_is_a_users_mistake(model: Path, tmp_path: Path) -> None:
    with pytest.raises(NeuronError, match="input 'x' of the reference model is missing") as missing:
        run_onnxruntime(model, {})
    assert missing.value.code == "NX-RUN-011"
    with pytest.raises(NeuronError) as shape:
        run_onnxruntime(model, {"x": np.zeros((1, 3), np.float32)})
    assert shape.value.code == "NX-RUN-020"
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(NeuronError, match="onnxruntime cannot run the reference model") as bad:
        run_onnxruntime(tmp_path / "bad.onnx", {"x": X})
    assert bad.value.code == "NX-RUN-020"
    assert "\n" not in bad.value.message


def test_a_file_that_is_no_model_cannot_be_rounded(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(NeuronError) as bad:
        rounded_model(tmp_path / "bad.onnx", "bf16")
    assert bad.value.code == "NX-RUN-020"
