"""Quantised operators become float operators on the core and give onnxruntime's integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from lowering.compiler import CompileOptions, compile_model
from lowering.onnx_to_graph import import_onnx
from runtime.session import Session
from tests.graph_level import Array
from tests.lowering.onnx_cases import (
    Case,
    case,
    check,
    floats,
    ints,
    model_and_feeds,
    with_constants,
)
from tests.onnx_models import check_import, model_of, onnxruntime_results

F32 = np.float32


def bytes_(*shape: int, seed: int = 0, dtype: Any = np.uint8) -> Array:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


def scales(*shape: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).uniform(0.01, 0.1, shape).astype(F32)


def quantize(x: Array, scale: Any, zero: Array | np.generic, **attributes: Any) -> Case:
    opset = attributes.pop("opset", 21)
    return with_constants(case("QuantizeLinear", x, opset=opset, **attributes), at1=np.asarray(scale, F32), at2=zero)


X = floats(3, 4, 5) * F32(4)

QUANTIZE = [
    quantize(X, 0.05, np.uint8(128), opset=13),
    quantize(X, 0.05, np.int8(-3), opset=10),
    quantize(X, 0.05, np.int16(1000)),
    quantize(X, 0.0001, np.uint16(30000)),
    # Ties round to even; what is out of range, infinity too, saturates.
    quantize(np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1e9, -1e9, np.inf, -np.inf], F32), 1.0, np.int8(0)),
    quantize(X, scales(4), bytes_(4)),
    quantize(X, scales(5), np.zeros(5, np.int8), axis=-1, opset=13),
    quantize(X, scales(3, 2, 5), bytes_(3, 2, 5), axis=1, block_size=2),
    quantize(X, scales(3, 4, 2), bytes_(3, 4, 2, dtype=np.int8), axis=2, block_size=3),
    with_constants(case("QuantizeLinear", X, opset=13), at1=F32(0.1)),
    # Scale and zero point known only at run time.
    case("QuantizeLinear", X, np.array(0.07, F32), np.array(7, np.uint8), opset=13),
    quantize(np.array(0.3, F32), 0.05, np.uint8(3)),
]

DEQUANTIZE = [
    *(
        with_constants(case("DequantizeLinear", bytes_(3, 4, dtype=dtype), opset=21), at1=F32(0.3), at2=dtype(5))
        for dtype in (np.uint8, np.int8, np.int16, np.uint16)
    ),
    with_constants(case("DequantizeLinear", ints(3, 4, dtype=np.int32, high=10**6), opset=13), at1=F32(0.3)),
    with_constants(case("DequantizeLinear", bytes_(3, 4, 2), opset=13), at1=scales(4), at2=bytes_(4)),
    with_constants(case("DequantizeLinear", bytes_(3, 4, 2), opset=13, axis=0), at1=scales(3), at2=bytes_(3)),
    with_constants(
        case("DequantizeLinear", bytes_(4, 6), opset=21, axis=0, block_size=3), at1=scales(2, 6), at2=bytes_(2, 6)
    ),
    case("DequantizeLinear", bytes_(5), np.array(0.5, F32), np.array(9, np.uint8), opset=13),
    with_constants(case("DequantizeLinear", bytes_(3, 4), opset=19), at1=np.float16(0.3), at2=np.uint8(5)),
]

PRODUCTS = [
    case("MatMulInteger", bytes_(4, 6), bytes_(6, 5, seed=1)),
    case("MatMulInteger", bytes_(2, 4, 6), bytes_(6, 5, seed=1, dtype=np.int8), np.array(9, np.uint8)),
    case("MatMulInteger", bytes_(2, 4, 6), bytes_(2, 6, 5, seed=1), np.array(9, np.uint8), np.array([3], np.uint8)),
    with_constants(case("MatMulInteger", bytes_(4, 6)), at1=bytes_(6, 5), at2=np.uint8(100), at3=bytes_(5, seed=3)),
    case("ConvInteger", bytes_(1, 3, 6, 6), bytes_(4, 3, 3, 3), np.array(100, np.uint8), np.array(128, np.uint8)),
    case(
        "ConvInteger",
        bytes_(1, 4, 6, 6),
        bytes_(4, 2, 3, 3),
        np.array(100, np.uint8),
        group=2,
        pads=[1, 1, 1, 1],
        strides=[2, 2],
    ),
]


def qlinear_matmul(a: Array, b: Array, b_scale: Array, b_zero: Array) -> Case:
    zero = a.dtype.type
    made = case("QLinearMatMul", a)
    return with_constants(made, at1=F32(0.03), at2=zero(7), at3=b, at4=b_scale, at5=b_zero, at6=F32(0.2), at7=zero(60))


def qlinear_conv(x: Array, w: Array, w_scale: Array, w_zero: Array, bias: bool, **attributes: Any) -> Case:
    zero = x.dtype.type
    given: list[Array | np.generic] = [F32(0.02), zero(90), w, w_scale, w_zero, F32(0.15), zero(30)]
    if bias:
        given.append(ints(w.shape[0], low=-4000, high=4000, dtype=np.int32))
    constants = {f"at{position}": array for position, array in enumerate(given, start=1)}
    return with_constants(case("QLinearConv", x, **attributes), **constants)


U8, I8 = np.uint8, np.int8
REQUANTIZED = [
    qlinear_matmul(bytes_(4, 6), bytes_(6, 5, seed=1), np.array(0.01, F32), np.array(77, U8)),
    qlinear_matmul(bytes_(2, 4, 6), bytes_(6, 5, seed=1, dtype=I8), np.array(0.02, F32), np.array(0, I8)),
    qlinear_matmul(bytes_(4, 6, dtype=I8), bytes_(6, 5, seed=1, dtype=I8), scales(5), bytes_(5, dtype=I8)),
    qlinear_conv(bytes_(1, 3, 6, 6), bytes_(4, 3, 3, 3), np.array(0.01, F32), np.array(128, U8), bias=False),
    qlinear_conv(
        bytes_(2, 4, 6, 6), bytes_(6, 2, 3, 3, dtype=I8), scales(6), np.zeros(6, I8), bias=True, group=2, pads=[1] * 4
    ),
    qlinear_conv(bytes_(1, 4, 8), bytes_(6, 4, 3, dtype=I8), scales(6), np.zeros(6, I8), bias=True, dilations=[2]),
]


@pytest.mark.parametrize("made", [*QUANTIZE, *DEQUANTIZE, *PRODUCTS, *REQUANTIZED], ids=str)
def test_as_onnxruntime(made: Case) -> None:
    check(made)


# Scale, zero point and values; a tensor of zeros has scale one.
@pytest.mark.parametrize("x", [X, np.abs(X), -np.abs(X), np.zeros((3, 2), F32)], ids=["both", "above", "below", "zero"])
def test_dynamic_quantization(x: Array) -> None:
    check(case("DynamicQuantizeLinear", x, outputs=3))


# Sums of 2000 products of up to 255 * 255 do not fit f32's integers: they are cut into 8 pieces that do, and exact.
@pytest.mark.parametrize("rank_one", [False, True])
def test_large_sums_are_cut(rank_one: bool) -> None:
    a, b = (bytes_(2000), bytes_(2000, seed=1)) if rank_one else (bytes_(2, 2000), bytes_(2000, 3, seed=1))
    a[..., :] |= 192
    made = case("MatMulInteger", a, b | np.uint8(192))
    model, feeds = model_and_feeds(made)
    assert check_import(model, feeds).info.notes == ["the node: summed in 8 pieces, so that every sum is exact"]


# The same of a convolution over channels; a group's own window cannot be cut, which the report says.
def test_large_sums_of_windows() -> None:
    x, w = bytes_(1, 64, 9, 9) | np.uint8(192), bytes_(4, 64, 5, 5, seed=1) | np.uint8(192)
    model, feeds = model_and_feeds(case("ConvInteger", x, w))
    (note,) = check_import(model, feeds).info.notes
    assert "summed in 8 pieces" in note
    x, w = bytes_(1, 2, 17, 17) // 8, bytes_(2, 1, 17, 17, seed=1) // 8
    model, feeds = model_and_feeds(case("ConvInteger", x, w, group=2))
    (note,) = check_import(model, feeds).info.notes
    assert "integer sums may reach 18792225, beyond the 16777216" in note


# Weights known at import are summed: 2000 ones times at most 255 fit.
def test_known_weights_bound_the_sums() -> None:
    model, feeds = model_and_feeds(
        with_constants(case("MatMulInteger", bytes_(2, 2000)), at1=np.ones((2000, 3), np.int8))
    )
    assert check_import(model, feeds).info.notes == []


# 8-bit floats saturate, which casts do not: they stay on the host.
def test_eight_bit_floats_are_left_to_the_host() -> None:
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    zero = np.zeros((), dtype=helper.tensor_dtype_to_np_dtype(17))
    model = model_of([node], {"x": X}, ["y"], constants={"s": np.array(0.1, F32), "z": zero}, opset=19)
    assert [left.op_type for left in import_onnx(model).info.onnx_nodes] == ["QuantizeLinear"]


def on_core(made: Case, tmp_path: Path) -> tuple[list[Array], list[Array]]:
    """A case's outputs on the core and by onnxruntime; nothing of it runs on the host."""
    model, feeds = model_and_feeds(made)
    onnx.save(model, tmp_path / "model.onnx")
    compiled = compile_model(tmp_path / "model.onnx", CompileOptions(target="trn1", auto_cast="none"))
    assert {row["where"] for row in compiled.report["partition"]} == {"core"}, compiled.report["partition"]
    assert compiled.neff is not None
    outputs = Session(compiled.neff).run(feeds).outputs
    return [outputs[value.name] for value in model.graph.output], onnxruntime_results(model, feeds)


@pytest.mark.parametrize(
    "made",
    [
        QUANTIZE[0],
        QUANTIZE[5],
        QUANTIZE[7],
        DEQUANTIZE[0],
        DEQUANTIZE[5],
        *PRODUCTS[3:5],
        REQUANTIZED[0],
        REQUANTIZED[4],
        case("DynamicQuantizeLinear", X, outputs=3),
    ],
    ids=str,
)
def test_on_the_core(made: Case, tmp_path: Path) -> None:
    for have, want in zip(*on_core(made, tmp_path), strict=True):
        assert have.dtype == want.dtype
        if want.dtype.kind == "f":
            np.testing.assert_allclose(have, want, rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(have, want)


# Quotients next to a tie, where a product with the rounded reciprocal of the scale goes to the other side.
@pytest.mark.parametrize("scale", [5 / 255, 0.05, 0.1, 1 / 3, 0.75])
def test_quotients_next_to_ties_on_the_core(scale: float, tmp_path: Path) -> None:
    ties = (np.arange(-128, 128, dtype=F32) + F32(0.5)) * F32(scale)
    x = np.concatenate([ties, np.nextafter(ties, F32(9999)), np.nextafter(ties, F32(-9999))])
    (have,), (want,) = on_core(quantize(x, scale, np.int8(0)), tmp_path)
    np.testing.assert_array_equal(have, want)


# The example of ONNX's own suite: -2.5 / (5 / 255) lies just beside -127.5.
def test_dynamic_quotients_next_to_ties_on_the_core(tmp_path: Path) -> None:
    x = np.array([0, 2, -3, -2.5, 1.34, 0.5], F32)
    for have, want in zip(*on_core(case("DynamicQuantizeLinear", x, outputs=3), tmp_path), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-6 if want.dtype.kind == "f" else 0)
