"""Cast programs compute nearly what they computed before: as nearly as the type they were cast to allows."""

from __future__ import annotations

import numpy as np
import pytest
from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.dtypes import F32, dtype_by_name
from neuron_dialects.errors import NeuronError
from neuron_dialects.graph import CastOp, ComputeOp, ConvOp, ConvTransposeOp, MatMulOp, ShapeError, spec_of
from passes.graph.auto_cast import GraphAutoCastPass, casts_of
from passes.graph.canonicalize import GraphCanonicalizePass
from passes.graph.fold_weights import GraphFoldWeightsPass
from passes.graph.fuse import GraphFusePass
from passes.graph.narrow_integers import GraphNarrowIntegersPass
from passes.graph.partition import GraphPartitionPass
from tests.graph_level import Array, check_same_results, check_valid, main_of, make_context, onnx_node, parse

UNIT = {"bf16": 2.0**-8, "f16": 2.0**-11, "tf32": 2.0**-11}
"""Largest relative rounding error of a type."""


def network(target: str) -> ModuleOp:
    """A convolution, its transpose, attention-like products, a normalisation, a mask: one of each kind of operator."""
    return parse(
        f"""
        builtin.module attributes {{neuron.target = #neuron.target<"{target}">}} {{
          func.func @main(%x: tensor<2x3x8x8xf32>, %mask: tensor<2x16xi64>)
              -> (tensor<2x16x16xf32>, tensor<2x6x8x8xf32>) {{
            %w = graph.weight @w : tensor<4x3x3x3xf32>
            %b = graph.weight @b : tensor<4xf32>
            %u = graph.weight @u : tensor<4x6x2x2xf32>
            %s = graph.weight @s : tensor<16xf32>
            %one = graph.constant 1.0 : tensor<f32>
            %low = graph.constant -1.0e9 : tensor<f32>
            %0 = graph.conv %x, %w, %b strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1] groups 1
              : (tensor<2x3x8x8xf32>, tensor<4x3x3x3xf32>, tensor<4xf32>) -> tensor<2x4x4x4xf32>
            %1 = graph.unary gelu %0 : (tensor<2x4x4x4xf32>) -> tensor<2x4x4x4xf32>
            %2 = graph.conv_transpose %1, %u
                strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] output_padding [0, 0] groups 1
              : (tensor<2x4x4x4xf32>, tensor<4x6x2x2xf32>) -> tensor<2x6x8x8xf32>
            %3 = graph.reshape %1 : (tensor<2x4x4x4xf32>) -> tensor<2x4x16xf32>
            %4 = graph.layer_norm %3 scale %s : tensor<16xf32> axis 2 epsilon 1.0e-05
              : (tensor<2x4x16xf32>) -> tensor<2x4x16xf32>
            %5 = graph.matmul %4, %4 transpose_a : (tensor<2x4x16xf32>, tensor<2x4x16xf32>) -> tensor<2x16x16xf32>
            %6 = graph.cast %mask : (tensor<2x16xi64>) -> tensor<2x16xf32>
            %7 = graph.binary sub %one, %6 : (tensor<f32>, tensor<2x16xf32>) -> tensor<2x16xf32>
            %8 = graph.binary mul %7, %low : (tensor<2x16xf32>, tensor<f32>) -> tensor<2x16xf32>
            %9 = graph.reshape %8 : (tensor<2x16xf32>) -> tensor<2x1x16xf32>
            %10 = graph.binary add %5, %9 : (tensor<2x16x16xf32>, tensor<2x1x16xf32>) -> tensor<2x16x16xf32>
            %11 = graph.softmax %10 axis 2 : (tensor<2x16x16xf32>) -> tensor<2x16x16xf32>
            func.return %11, %2 : tensor<2x16x16xf32>, tensor<2x6x8x8xf32>
          }}
        }}"""
    )


def inputs() -> list[Array]:
    rng = np.random.default_rng(0)
    mask = np.ones((2, 16), np.int64)
    mask[:, 12:] = 0
    return [rng.standard_normal((2, 3, 8, 8)).astype(np.float32), mask]


LAYERS = (ConvOp, ConvTransposeOp, MatMulOp)


@pytest.mark.parametrize("mode", ["matmult", "all"])
@pytest.mark.parametrize("type_", ["bf16", "f16", "tf32"])
def test_results_are_near(mode: str, type_: str):
    module = network("trn1")
    cast = GraphAutoCastPass(mode=mode, type=type_)  # pyright: ignore[reportArgumentType]
    # Errors of several layers add up.
    tolerance = (40 if mode == "all" else 20) * UNIT[type_]
    check_same_results(
        module, cast, GraphCanonicalizePass(), GraphFoldWeightsPass(), tolerance=tolerance, inputs=inputs()
    )
    layers = [op for op in module.walk() if isinstance(op, LAYERS)]
    assert {spec_of(op.operands[0])[0] for op in layers} == {dtype_by_name(type_)}
    kept = type_ == "tf32" or mode == "matmult"
    assert {spec_of(op.result)[0] for op in layers} == {F32 if kept else dtype_by_name(type_)}
    if not kept:
        computing = [op for op in main_of(module).body.block.ops if isinstance(op, ComputeOp)]
        assert not [op for op in computing if spec_of(op.results[0])[0] is F32 and not isinstance(op, CastOp)]


# The whole order of passes: partition first, so that values cross to the host as the model has them.
@pytest.mark.parametrize("mode", ["matmult", "all"])
def test_after_partitioning(mode: str):
    text = f"""
    builtin.module attributes {{neuron.target = #neuron.target<"trn1">}} {{
      func.func @main(%x: tensor<4x8xf32>, %i: tensor<4xi64>) -> (tensor<4x8xf32>, tensor<4x8xi64>) {{
        %w = graph.weight @w : tensor<8x8xf32>
        %t = graph.weight @table : tensor<16x8xf32>
        %e = graph.gather %t, %i axis 0 : (tensor<16x8xf32>, tensor<4xi64>) -> tensor<4x8xf32>
        %0 = graph.matmul %e, %w : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32>
        %k = graph.constant 8 : tensor<1xi64>
        %v, %o = graph.onnx_node "TopK"(%0, %k) domain "" opset 13 {onnx_node("TopK", 2, 2)}
          : (tensor<4x8xf32>, tensor<1xi64>) -> (tensor<4x8xf32>, tensor<4x8xi64>)
        %1 = graph.binary add %v, %x : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
        func.return %1, %o : tensor<4x8xf32>, tensor<4x8xi64>
      }}
    }}"""
    module = parse(text)
    given = [np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32), np.array([3, 0, -1, 5])]
    cast = GraphAutoCastPass(mode=mode)  # pyright: ignore[reportArgumentType]
    passes = [GraphPartitionPass(), GraphNarrowIntegersPass(), cast, GraphCanonicalizePass(), GraphFoldWeightsPass()]
    check_same_results(module, *passes, tolerance=2e-2, inputs=given)


# On a target that does not multiply f32, none means that products are cast all the same, to bf16.
def test_none_on_a_target_without_f32_products():
    module = network("inf1")
    check_same_results(module, GraphAutoCastPass(mode="none", type="f16"), tolerance=0.1, inputs=inputs())
    assert {after for _, _, after in casts_of(main_of(module))} == {"bf16"}
    module = network("trn1")
    GraphAutoCastPass(mode="none").apply(make_context(), module)
    assert casts_of(main_of(module)) == []


def test_a_type_that_the_target_does_not_multiply():
    with pytest.raises(NeuronError, match="inf1 does not multiply tf32") as caught:
        GraphAutoCastPass(type="tf32").apply(make_context(), network("inf1"))
    assert caught.value.help == "it multiplies bf16, f16"


def test_casts_are_recorded_once_for_each_layer():
    module = network("trn1")
    GraphAutoCastPass().apply(make_context(), module)
    names = ["graph.conv", "graph.conv_transpose", "graph.matmul"]
    assert casts_of(main_of(module)) == [(name, "f32", "bf16") for name in names]
    # Casting what is cast changes nothing.
    GraphAutoCastPass().apply(make_context(), module)
    assert len(casts_of(main_of(module))) == 3


# What a model itself computes of narrow floats with f32 sums stays as the model has it.
def test_models_that_mix_types():
    module = parse(
        """
        builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
          func.func @main(%a: tensor<4x8xbf16>, %b: tensor<8x4xbf16>) -> tensor<4x4xf32> {
            %0 = graph.matmul %a, %b : (tensor<4x8xbf16>, tensor<8x4xbf16>) -> tensor<4x4xf32>
            %1 = graph.cast %a : (tensor<4x8xbf16>) -> tensor<4x8xf32>
            %2 = graph.slice %1 starts [0, 0] sizes [4, 4] steps [1, 1] : (tensor<4x8xf32>) -> tensor<4x4xf32>
            %3 = graph.binary mul %0, %2 : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
            func.return %3 : tensor<4x4xf32>
          }
        }"""
    )
    check_same_results(module, GraphAutoCastPass(mode="all", type="f16"), GraphCanonicalizePass(), tolerance=1e-2)
    matmul = next(op for op in module.walk() if isinstance(op, MatMulOp))
    assert [spec_of(value)[0].name for value in (matmul.a, matmul.result)] == ["bf16", "f32"]


# Products inside a group are cast inside it; casting everything has to come before grouping.
def test_groups():
    text = """
    builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
      func.func @main(%a: tensor<4x8xf32>) -> tensor<4x4xf32> {
        %0 = graph.matmul %a, %a transpose_b : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x4xf32>
        %1 = graph.unary relu %0 : (tensor<4x4xf32>) -> tensor<4x4xf32>
        func.return %1 : tensor<4x4xf32>
      }
    }"""
    module = parse(text)
    for module_pass in (GraphPartitionPass(), GraphFusePass()):
        module_pass.apply(make_context(), module)
    check_same_results(module, GraphAutoCastPass(), tolerance=2e-2)
    module = parse(text)
    for module_pass in (GraphPartitionPass(), GraphFusePass()):
        module_pass.apply(make_context(), module)
    with pytest.raises(NeuronError, match="mode all must run before graph-fuse"):
        GraphAutoCastPass(mode="all").apply(make_context(), module)
    check_valid(module)


# Only the result type says that sums are kept in f32: it must be possible where the operands are narrow floats only.
@pytest.mark.parametrize(
    ("operands", "result", "message"),
    [
        ("i32", "f32", "an f32 sum of products is not defined on i32"),
        ("f64", "f32", "an f32 sum of products is not defined on f64"),
        ("f32", "bf16", "result is 4x4 of bf16 but the operands give 4x4 of f32"),
    ],
)
def test_sums_that_are_not_possible(operands: str, result: str, message: str):
    text = f"""
    func.func @main(%a: tensor<4x4x{operands}>) -> tensor<4x4x{result}> {{
      %0 = graph.matmul %a, %a : (tensor<4x4x{operands}>, tensor<4x4x{operands}>) -> tensor<4x4x{result}>
      func.return %0 : tensor<4x4x{result}>
    }}"""
    with pytest.raises(Exception, match=message):
        parse(text)


def test_constructors_keep_f32_sums():
    module = parse("func.func @main(%x: tensor<1x4x4xbf16>, %w: tensor<4x4x1xbf16>, %b: tensor<4xf32>) { func.return }")
    x, w, b = main_of(module).body.block.args
    strides, pads, dilations = [1], [0, 0], [1]
    made = [
        MatMulOp(x, x, accumulate_f32=True),
        ConvOp(x, w, b, strides=strides, pads=pads, dilations=dilations, accumulate_f32=True),
        ConvTransposeOp(
            x, w, b, strides=strides, pads=pads, dilations=dilations, output_padding=[0], accumulate_f32=True
        ),
    ]
    for op in made:
        assert spec_of(op.result) == (F32, (1, 4, 4))
        op.verify()
    # A bias is added to the sums: it has their type.
    with pytest.raises(ShapeError, match="element types bf16 and f32 differ"):
        ConvOp(x, w, b, strides=strides, pads=pads, dilations=dilations)
