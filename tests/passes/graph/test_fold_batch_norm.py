"""Folded batch normalisations compute what they computed before."""

from __future__ import annotations

import re

import pytest

from neuron_dialects.graph import BatchNormOp, BinaryOp, ConvOp, ConvTransposeOp, MatMulOp
from passes.graph.fold_batch_norm import GraphFoldBatchNormPass
from passes.graph.fold_weights import GraphFoldWeightsPass
from tests.graph_level import check_same_results, main_of, parse
from tests.run_lines import ROOT

FILECHECK = ROOT / "tests" / "filecheck" / "passes" / "graph-fold-batch-norm.mlir"

PARAMETERS = """
  %scale = graph.weight @scale : tensor<CxT>
  %bias = graph.weight @bias : tensor<CxT>
  %mean = graph.weight @mean : tensor<CxT>
  %variance = graph.weight @variance : tensor<CxT>
"""


def shown_programs() -> list[str]:
    functions = FILECHECK.read_text(encoding="utf-8").split("\nfunc.func @")[1:]
    return [f"func.func @main{text[text.index('(') :]}".partition("\n}")[0] + "\n}" for text in functions]


@pytest.mark.parametrize("text", shown_programs())
def test_shown_cases_keep_their_results(text: str):
    module = parse(text)
    check_same_results(module, GraphFoldBatchNormPass(), GraphFoldWeightsPass())
    assert not any(isinstance(op, BatchNormOp) for op in module.walk())


def program(x: str, lines: str, result: str, normalized: str, channels: int, dtype: str) -> str:
    parameter = f"tensor<{channels}x{dtype}>"
    parameters = PARAMETERS.replace("tensor<CxT>", parameter)
    return f"""
    func.func @main(%x: {x}) -> {result} {{
      {parameters}
      {lines}
      %z = graph.batch_norm {normalized}, %scale, %bias, %mean, %variance epsilon 1.0e-05
        : ({result}, {parameter}, {parameter}, {parameter}, {parameter}) -> {result}
      func.return %z : {result}
    }}"""


# A grouped and a 16-bit convolution; one whose 16-bit products are summed in f32.
@pytest.mark.parametrize(
    ("x", "w", "y", "groups"),
    [
        ("tensor<1x4x5x5xf32>", "tensor<6x2x3x3xf32>", "tensor<1x6x3x3xf32>", 2),
        ("tensor<1x6x5x5xf32>", "tensor<6x1x3x3xf32>", "tensor<1x6x3x3xf32>", 6),
        ("tensor<1x4x5x5xf16>", "tensor<6x4x3x3xf16>", "tensor<1x6x3x3xf16>", 1),
        ("tensor<1x4x5x5xbf16>", "tensor<6x4x3x3xbf16>", "tensor<1x6x3x3xf32>", 1),
    ],
)
def test_convolutions(x: str, w: str, y: str, groups: int):
    w_dtype, dtype = (re.sub(r".*x(\w+)>$", r"\1", type_) for type_ in (w, y))
    lines = f"""
      %w = graph.weight @w : {w}
      %y = graph.conv %x, %w strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups {groups} : ({x}, {w}) -> {y}"""
    module = parse(program(x, lines, y, "%y", 6, dtype))
    # Rounding a 16-bit weight after scaling it is another rounding than rounding the normalised result.
    tolerance = 2e-6 if w_dtype == "f32" else 1e-2
    check_same_results(module, GraphFoldBatchNormPass(), GraphFoldWeightsPass(), tolerance=tolerance)
    assert [type(op) for op in main_of(module).body.block.ops if isinstance(op, ConvOp | BinaryOp)] == [ConvOp]


# Without a layer in front, for every rank; in 16 bits factor and shift are computed in f32.
@pytest.mark.parametrize("shape", ["2x3", "2x3x4", "2x3x4x4", "1x3x2x2x2"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_scale_and_shift(shape: str, dtype: str):
    x = f"tensor<{shape}x{dtype}>"
    module = parse(program(x, "", x, "%x", 3, dtype))
    tolerance = 2e-6 if dtype == "f32" else 4e-3
    check_same_results(module, GraphFoldBatchNormPass(), GraphFoldWeightsPass(), tolerance=tolerance)
    assert sum(isinstance(op, BinaryOp) for op in main_of(module).body.block.ops) == 2


# Parameters, or the layer's weight, that are computed at run time.
@pytest.mark.parametrize("dynamic", ["%scale", "%w"])
def test_values_known_at_run_time_only(dynamic: str):
    names = {"%scale": "tensor<4xf32>", "%w": "tensor<3x4xf32>"}
    weight = {name: f"{name} = graph.weight @{name[1:]} : {type_}" for name, type_ in names.items() if name != dynamic}
    module = parse(
        f"""
        func.func @main(%x: tensor<2x3xf32>, {dynamic}: {names[dynamic]}) -> tensor<2x4xf32> {{
          {" ".join(weight.values())}
          %bias = graph.weight @bias : tensor<4xf32>
          %mean = graph.weight @mean : tensor<4xf32>
          %variance = graph.weight @variance : tensor<4xf32>
          %y = graph.matmul %x, %w : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
          %z = graph.batch_norm %y, %scale, %bias, %mean, %variance epsilon 1.0e-05
            : (tensor<2x4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<2x4xf32>
          func.return %z : tensor<2x4xf32>
        }}"""
    )
    check_same_results(module, GraphFoldBatchNormPass(), GraphFoldWeightsPass())
    matmul = next(op for op in module.walk() if isinstance(op, MatMulOp))
    following = [type(use.operation) for use in matmul.result.uses]
    assert following == [BinaryOp]


# Channels of a batched product are not its columns, even where the numbers agree.
def test_batched_product_is_not_a_layer():
    lines = """
      %w = graph.weight @w : tensor<5x4xf32>
      %b = graph.weight @b : tensor<1x4xf32>
      %m = graph.matmul %x, %w : (tensor<2x4x5xf32>, tensor<5x4xf32>) -> tensor<2x4x4xf32>
      %y = graph.binary add %m, %b : (tensor<2x4x4xf32>, tensor<1x4xf32>) -> tensor<2x4x4xf32>"""
    module = parse(program("tensor<2x4x5xf32>", lines, "tensor<2x4x4xf32>", "%y", 4, "f32"))
    check_same_results(module, GraphFoldBatchNormPass(), GraphFoldWeightsPass())
    assert sum(isinstance(op, BinaryOp) for op in main_of(module).body.block.ops) == 3


# One normalisation after another: both end up in the weights.
def test_two_in_a_row():
    lines = """
      %w = graph.weight @w : tensor<3x4x2xf32>
      %y0 = graph.conv_transpose %x, %w strides [1] pads [0, 0] dilations [1] output_padding [0] groups 1
        : (tensor<1x3x5xf32>, tensor<3x4x2xf32>) -> tensor<1x4x6xf32>
      %y = graph.batch_norm %y0, %bias, %scale, %mean, %variance epsilon 1.0e-03
        : (tensor<1x4x6xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) -> tensor<1x4x6xf32>"""
    module = parse(program("tensor<1x3x5xf32>", lines, "tensor<1x4x6xf32>", "%y", 4, "f32"))
    check_same_results(module, GraphFoldBatchNormPass(), GraphFoldWeightsPass())
    computing = [op for op in main_of(module).body.block.ops if isinstance(op, BinaryOp | ConvTransposeOp)]
    assert [type(op) for op in computing] == [ConvTransposeOp]
