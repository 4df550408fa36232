"""Layers over turned images, on channels in dimension 1: the same numbers, and what is left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from xdsl.context import Context
from xdsl.ir import Block, Operation, SSAValue

from lowering.compiler import CompileOptions, compile_model
from neuron_dialects.dtypes import BF16, F32
from neuron_dialects.graph import (
    BinaryKind,
    BinaryOp,
    ClipOp,
    ConvOp,
    LayerNormOp,
    MatMulOp,
    TransposeOp,
    UnaryKind,
    UnaryOp,
    shape_of,
    spec_of,
)
from neuron_dialects.graph.work import model_macs
from neuron_dialects.ssa_order import check_ssa_order
from passes.graph.auto_cast import GraphAutoCastPass, products_of
from passes.graph.channels_first import GraphChannelsFirstPass
from runtime.graph_interpreter import run_graph
from runtime.session import Session
from tests.core_kernels import Array, core_function, core_module, random_inputs

SHAPE = ("f32", (2, 6, 3, 5))


def block_of_layers(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
    """A residual block: normalise, widen, activate, narrow, scale, add."""

    def add(op: Operation) -> SSAValue:
        block.add_op(op)
        return op.results[0]

    (x,) = arguments
    rows = add(TransposeOp(x, (0, 2, 3, 1)))
    rows = add(LayerNormOp(rows, weights["scale"], weights["bias"], axis=3, epsilon=1e-5))
    rows = add(BinaryOp(BinaryKind.ADD, add(MatMulOp(rows, weights["wide"])), weights["b"]))
    rows = add(ClipOp(add(UnaryOp(UnaryKind.GELU, rows)), minimum=-0.1, maximum=2.0))
    rows = add(MatMulOp(rows, weights["narrow"], transpose_b=True))
    rows = add(BinaryOp(BinaryKind.MUL, weights["gamma"], add(BinaryOp(BinaryKind.ADD, weights["c"], rows))))
    return [add(BinaryOp(BinaryKind.ADD, add(TransposeOp(rows, (0, 3, 1, 2))), x))]


def normalised(block: Block, arguments: Sequence[SSAValue], weights: Mapping[str, SSAValue]) -> list[SSAValue]:
    """A normalisation over the channels of images alone."""
    rows = TransposeOp(arguments[0], (0, 2, 3, 1))
    norm = LayerNormOp(rows.result, weights["scale"], weights["bias"], axis=3, epsilon=1e-5)
    back = TransposeOp(norm.result, (0, 3, 1, 2))
    block.add_ops([rows, norm, back])
    return [back.result]


@pytest.fixture
def weights() -> dict[str, Array]:
    random = np.random.default_rng(0)
    shapes = {"scale": (6,), "bias": (6,), "wide": (6, 8), "b": (8,), "narrow": (6, 8), "c": (6,), "gamma": (6,)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


# What is computed of the images stays the same, without transpositions; sums for the mean are no work of the model.
def test_the_numbers_are_the_same(weights: dict[str, Array]) -> None:
    module = core_module("trn1", [SHAPE], weights, block_of_layers)
    inputs = random_inputs([SHAPE])
    (want,) = run_graph(core_function(module), inputs, weights.__getitem__)
    macs = sum(map(model_macs, module.walk()))
    GraphChannelsFirstPass().apply(Context(), module)
    module.verify()
    check_ssa_order(module)
    (got,) = run_graph(core_function(module), inputs, weights.__getitem__)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert not any(isinstance(op, LayerNormOp | MatMulOp) for op in module.walk())
    assert not any(isinstance(op, TransposeOp) and len(shape_of(op.x)) > 2 for op in module.walk())
    convolutions = [op for op in module.walk() if isinstance(op, ConvOp)]
    assert len(convolutions) == 4 and all(op.bias is not None for op in convolutions[2:])
    assert sum(map(model_macs, module.walk())) == macs


# What stays f32 is summed in f32, whatever is multiplied otherwise: a mean far beyond the deviation is still exact.
# Without products of f32, two parts of each value are summed.
@pytest.mark.parametrize(("target", "types"), [("trn1", ["f32"] * 2), ("inf1", ["bf16"] * 4)])
@pytest.mark.parametrize("mode", ["matmult", "none"])
def test_sums_of_what_stays_f32_are_exact(
    weights: dict[str, Array], mode: Literal["matmult", "none"], target: str, types: list[str]
) -> None:
    module = core_module(target, [SHAPE], weights, normalised)
    inputs = [x + 1000.0 for x in random_inputs([SHAPE])]
    (want,) = run_graph(core_function(module), inputs, weights.__getitem__)
    GraphChannelsFirstPass(mode=mode).apply(Context(), module)
    GraphAutoCastPass(mode=mode).apply(Context(), module)
    module.verify()
    (got,) = run_graph(core_function(module), inputs, weights.__getitem__)
    np.testing.assert_allclose(got, want, rtol=1e-2, atol=1e-2)
    sums = [op for op in module.walk() if isinstance(op, ConvOp)]
    assert [spec_of(op.x)[0].name for op in sums] == types
    assert [entry.dtype for entry in products_of(core_function(module))] == types
    assert all(spec_of(op.result)[0] is F32 for op in sums)


# Where everything is cast, the sums are of 16-bit values.
def test_sums_of_what_is_cast_are_cast(weights: dict[str, Array]) -> None:
    module = core_module("trn1", [SHAPE], weights, normalised)
    GraphChannelsFirstPass().apply(Context(), module)
    GraphAutoCastPass(mode="all").apply(Context(), module)
    assert all(spec_of(op.x)[0] is BF16 for op in module.walk() if isinstance(op, ConvOp))


# The same of a whole program with default casts: fusion keeps what the two parts of a value are rounded to.
@pytest.mark.parametrize("target", ["trn1", "inf1"])
def test_a_program_sums_exactly(target: str) -> None:
    random = np.random.default_rng(0)
    x = (random.standard_normal((2, 40, 6, 5)) + 1000.0).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["x"], ["rows"], perm=[0, 2, 3, 1]),
        helper.make_node("LayerNormalization", ["rows", "scale"], ["norm"], axis=-1),
        helper.make_node("Transpose", ["norm"], ["y"], perm=[0, 3, 1, 2]),
    ]
    scale = numpy_helper.from_array(np.ones(40, np.float32), "scale")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], [scale]))
    compiled = compile_model(model, CompileOptions(target=target))
    assert compiled.neff is not None
    got = Session(compiled.neff).run({"x": x}).outputs["y"]
    centred = x - x.mean(axis=1, keepdims=True, dtype=np.float64)
    want = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, want, atol=1e-2)
