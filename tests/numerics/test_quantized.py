"""Quantised layers on the machine: onnxruntime's integers, in every cast mode, on each generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import ModelProto, helper

from lowering.compiler import CompileOptions, CompileResult, compile_model
from runtime.session import Session
from tests.onnx_models import model_of

Array = np.ndarray[Any, np.dtype[Any]]
F32 = np.float32

MODES = [
    ("inf1", "matmult", "bf16"),
    ("inf1", "all", "bf16"),
    ("inf1", "all", "fp16"),
    ("trn1", "none", "bf16"),
    ("trn2", "matmult", "tf32"),
]


def onnxruntime_outputs(model: ModelProto, feeds: dict[str, Array], *, fused: bool) -> list[Any]:
    """onnxruntime's outputs: in floats as the model is written, or with its fusion of QDQ into integer operators."""
    options = onnxruntime.SessionOptions()
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if fused else level.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def quantized(name: str, dtype: Any, zero: int, scale: float, constants: dict[str, Array]) -> list[Any]:
    """QuantizeLinear and DequantizeLinear of a tensor: NAME -> NAME_q -> NAME_d."""
    constants |= {f"{name}_s": np.array(scale, F32), f"{name}_z": np.array(zero, dtype)}
    return [
        helper.make_node("QuantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_q"]),
        helper.make_node("DequantizeLinear", [f"{name}_q", f"{name}_s", f"{name}_z"], [f"{name}_d"]),
    ]


def weights(name: str, values: Array, scales: Array, axis: int, constants: dict[str, Array]) -> Any:
    """DequantizeLinear of a weight, per channel: NAME -> NAME_d."""
    constants |= {name: values, f"{name}_s": scales, f"{name}_z": np.zeros(scales.shape, values.dtype)}
    return helper.make_node("DequantizeLinear", [name, f"{name}_s", f"{name}_z"], [f"{name}_d"], axis=axis)


def qdq_conv(seed: int, x_type: Any, zero: int, groups: int = 1) -> tuple[ModelProto, dict[str, Array]]:
    """A quantised convolution with bias and relu, whose output is integers."""
    rng = np.random.default_rng(seed)
    constants: dict[str, Array] = {}
    w = rng.integers(-127, 128, (12, 8 // groups, 3, 3)).astype(np.int8)
    w_scales = rng.uniform(0.001, 0.01, 12).astype(F32)
    nodes = quantized("x", x_type, zero, 0.027, constants)
    nodes.append(weights("w", w, w_scales, 0, constants))
    bias_scales = (F32(0.027) * w_scales).astype(F32)
    constants |= {
        "b": rng.integers(-3000, 3000, 12).astype(np.int32),
        "b_s": bias_scales,
        "b_z": np.zeros(12, np.int32),
    }
    nodes.append(helper.make_node("DequantizeLinear", ["b", "b_s", "b_z"], ["b_d"], axis=0))
    nodes.append(helper.make_node("Conv", ["x_d", "w_d", "b_d"], ["c"], name="conv", pads=[1] * 4, group=groups))
    nodes.append(helper.make_node("Relu", ["c"], ["y"]))
    nodes += quantized("y", np.uint8, 0, 0.031, constants)[:1]
    x = (rng.standard_normal((1, 8, 9, 9)) * 2).astype(F32)
    return model_of(nodes, {"x": x}, ["y_q"], constants=constants, opset=17), {"x": x}


def qdq_gemm(seed: int, x_type: Any, zero: int, groups: int = 1) -> tuple[ModelProto, dict[str, Array]]:
    """A quantised Gemm behind a reshape, whose output is integers."""
    del groups
    rng = np.random.default_rng(seed)
    constants: dict[str, Array] = {"shape": np.array([6, 40], np.int64)}
    nodes = quantized("x", x_type, zero, 0.027, constants)
    nodes.append(helper.make_node("Reshape", ["x_d", "shape"], ["r"]))
    w = rng.integers(-127, 128, (10, 40)).astype(np.int8)
    nodes.append(weights("w", w, rng.uniform(0.001, 0.01, 10).astype(F32), 0, constants))
    nodes.append(helper.make_node("Gemm", ["r", "w_d"], ["y"], name="gemm", transB=1))
    nodes += quantized("y", np.int8, -7, 0.11, constants)[:1]
    x = (rng.standard_normal((6, 5, 8)) * 2).astype(F32)
    return model_of(nodes, {"x": x}, ["y_q"], constants=constants, opset=17), {"x": x}


def run(model: ModelProto, feeds: dict[str, Array], target: str, mode: str, type_: str) -> tuple[CompileResult, Array]:
    result = compile_model(model, CompileOptions(target, mode, type_))
    assert result.neff is not None
    return result, next(iter(Session(result.neff).run(feeds).outputs.values()))


# The integers are onnxruntime's, both of its float and of its integer execution: next to a tie these differ by one
# among themselves; on these numbers nothing does.
@pytest.mark.parametrize(("target", "mode", "type_"), MODES)
@pytest.mark.parametrize(
    ("made", "x_type", "zero", "groups"),
    [(qdq_conv, np.uint8, 128, 1), (qdq_conv, np.int8, 3, 2), (qdq_gemm, np.uint8, 120, 1), (qdq_gemm, np.int8, 0, 1)],
)
def test_qdq_layers_give_the_integers(
    made: Any, x_type: Any, zero: int, groups: int, target: str, mode: str, type_: str
) -> None:
    model, feeds = made(7, x_type, zero, groups)
    result, actual = run(model, feeds, target, mode, type_)
    for fused in (False, True):
        (expected,) = onnxruntime_outputs(model, feeds, fused=fused)
        assert len(np.unique(expected)) > 40
        np.testing.assert_array_equal(actual, expected)
    (product,) = result.report["products"]
    assert product["arithmetic"] == "exact"
    assert product["type"] == ("f16" if type_ == "fp16" else "bf16")
    assert 0 < product["largest_sum"] <= 2**24


# Over many seeds at most one value in a thousand is off, and by one: what lies within 1e-6 of a tie.
def test_off_by_one_share() -> None:
    off, count = 0, 0
    for seed in range(6):
        model, feeds = qdq_conv(seed, np.uint8, 120)
        _, actual = run(model, feeds, "inf1", "matmult", "bf16")
        (expected,) = onnxruntime_outputs(model, feeds, fused=True)
        difference = np.abs(actual.astype(np.int64) - expected.astype(np.int64))
        assert difference.max() <= 1
        off, count = off + int(difference.sum()), count + difference.size
    assert off <= count // 1000


# Without the lifted scales a product of rounded floats would be reported, and the integers would differ.
def test_what_is_not_quantised_is_reported_as_rounded() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 8)).astype(F32), rng.standard_normal((8, 3)).astype(F32)
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], {"x": x}, ["y"], constants={"w": w})
    rows = {t: compile_model(model, CompileOptions(t, "none")).report["products"] for t in ("inf1", "trn1")}
    expected = {"node": "m", "arithmetic": "float", "largest_sum": None}
    assert rows == {"inf1": [{**expected, "type": "bf16"}], "trn1": [{**expected, "type": "f32"}]}


# Sums of long products, in pieces, are exact on a core without and with an engine that adds 32-bit integers.
@pytest.mark.parametrize("target", ["inf1", "trn1"])
def test_long_integer_products_are_exact(target: str) -> None:
    rng = np.random.default_rng(3)
    a, b = (rng.integers(100, 256, shape).astype(np.uint8) for shape in ((3, 700), (700, 5)))
    node = helper.make_node("MatMulInteger", ["a", "b", "z"], ["y"])
    feeds = {"a": a, "b": b}
    model = model_of([node], feeds, ["y"], constants={"z": np.array(1, np.uint8)}, opset=18)
    result, actual = run(model, feeds, target, "matmult", "bf16")
    np.testing.assert_array_equal(actual, (a.astype(np.int64) - 1) @ b.astype(np.int64))
    assert actual.max() > 2**24
    assert {row["where"] for row in result.report["partition"]} == {"core"}
    assert [row["arithmetic"] for row in result.report["products"]] == ["exact"] * 4
