"""Means over windows that became filters compute what they computed before; others stay as they are."""

from __future__ import annotations

import pytest

from neuron_dialects.graph import ConvOp, PoolOp, UnaryOp
from passes.graph.fold_mean_pool import GraphFoldMeanPoolPass
from passes.graph.fold_weights import GraphFoldWeightsPass
from tests.graph_level import check_same_results, main_of, parse


def program(
    *,
    size: str = "1x4x16x16",
    weights: str = "6x4x1x1",
    made: str = "1x6x16x16",
    result: str = "1x6x8x8",
    window: str = "kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1]",
    conv: str = "strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 1",
    kind: str = "average",
    arguments: str = "",
    behind: str = "",
    more: str = "",
) -> str:
    weight = "" if arguments else f"%w = graph.weight @w : tensor<{weights}xf32>"
    also = f", tensor<{made}xf32>" if more else ""
    return f"""
    builtin.module attributes {{neuron.target = #neuron.target<"trn1">}} {{
      func.func @main(%x: tensor<{size}xf32>{arguments}) -> (tensor<{result}xf32>{also}) {{
        {weight}
        %b = graph.weight @b : tensor<6xf32>
        %y = graph.conv %x, %w, %b {conv}
          : (tensor<{size}xf32>, tensor<{weights}xf32>, tensor<6xf32>) -> tensor<{made}xf32>
        {behind}
        %z = graph.pool {kind} {"%r" if behind else "%y"} {window} : (tensor<{made}xf32>) -> tensor<{result}xf32>
        func.return %z{more} : tensor<{result}xf32>{also}
      }}
    }}"""


# Squares, a last row and column that no window takes, windows that are no square, groups, one dimension and three.
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"size": "1x4x17x19", "made": "1x6x17x19", "result": "1x6x8x9"},
        {
            "result": "3x6x5x8",
            "window": "kernel [3, 2] strides [3, 2] pads [0, 0, 0, 0] dilations [1, 1]",
            "size": "3x4x16x16",
            "made": "3x6x16x16",
        },
        {"weights": "6x2x1x1", "conv": "strides [1, 1] pads [0, 0, 0, 0] dilations [1, 1] groups 2"},
        {
            "size": "2x4x128",
            "weights": "6x4x1",
            "made": "2x6x128",
            "result": "2x6x64",
            "window": "kernel [2] strides [2] pads [0, 0] dilations [1]",
            "conv": "strides [1] pads [0, 0] dilations [1] groups 1",
        },
        {
            "size": "1x4x8x8x8",
            "weights": "6x4x1x1x1",
            "made": "1x6x8x8x8",
            "result": "1x6x4x4x4",
            "window": "kernel [2, 2, 2] strides [2, 2, 2] pads [0, 0, 0, 0, 0, 0] dilations [1, 1, 1]",
            "conv": "strides [1, 1, 1] pads [0, 0, 0, 0, 0, 0] dilations [1, 1, 1] groups 1",
        },
    ],
)
def test_means_become_filters(case: dict[str, str]):
    module = parse(program(**case))
    check_same_results(module, GraphFoldMeanPoolPass(), GraphFoldWeightsPass())
    assert [type(op) for op in main_of(module).body.block.ops if isinstance(op, ConvOp | PoolOp)] == [ConvOp]


# A maximum; windows with gaps, over padding, or cut off; a result that is read again, a function in between; weights
# that come at run time; a convolution of more taps, with a stride; few pixels, and large filters for what they make.
@pytest.mark.parametrize(
    "case",
    [
        {"kind": "max"},
        {"window": "kernel [2, 2] strides [3, 3] pads [0, 0, 0, 0] dilations [1, 1]", "result": "1x6x5x5"},
        {"window": "kernel [2, 2] strides [2, 2] pads [1, 1, 1, 1] dilations [1, 1]", "result": "1x6x9x9"},
        {
            "window": "kernel [2, 2] strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1]",
            "size": "1x4x17x17",
            "made": "1x6x17x17",
            "result": "1x6x9x9",
        },
        {"more": ", %y"},
        {"behind": "%r = graph.unary relu %y : (tensor<1x6x16x16xf32>) -> tensor<1x6x16x16xf32>"},
        {"arguments": ", %w: tensor<6x4x1x1xf32>"},
        {
            "weights": "6x4x3x3",
            "conv": "strides [1, 1] pads [1, 1, 1, 1] dilations [1, 1] groups 1",
        },
        {"conv": "strides [2, 2] pads [0, 0, 0, 0] dilations [1, 1] groups 1", "size": "1x4x31x31"},
        {"size": "1x4x8x8", "made": "1x6x8x8", "result": "1x6x4x4"},
        {"size": "1x8192x16x16", "weights": "6x8192x1x1"},
    ],
)
def test_what_stays(case: dict[str, str]):
    module = parse(program(**case))
    check_same_results(module, GraphFoldMeanPoolPass())
    assert sum(isinstance(op, PoolOp) for op in main_of(module).body.block.ops) == 1
    assert sum(isinstance(op, UnaryOp) for op in main_of(module).body.block.ops) == int("behind" in case)
