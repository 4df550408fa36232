"""Layers give what they gave when the products that they read are filled up."""

from __future__ import annotations

import pytest

from neuron_dialects.graph import ConcatOp, MatMulOp, PadOp, shape_of
from neuron_dialects.graph.work import model_macs
from passes.graph.sample_features import GraphSampleFeaturesPass
from tests.graph_level import check_same_results, main_of, make_context, parse, shown_programs


@pytest.mark.parametrize("text", shown_programs("graph-sample-features"))
def test_shown_cases_keep_their_results(text: str):
    check_same_results(parse(text), GraphSampleFeaturesPass(), tolerance=1e-5)


def program(samples: int, sides: tuple[int, int], others: int, returned: str = "") -> str:
    """A layer behind products, with so many other parts of three features around them."""
    m, n = sides
    flat, wide = f"tensor<{samples}x{m * n}xf32>", m * n + 3 * others
    parts = ["%y"] * min(others, 1) + ["%1"] + ["%z"] * max(0, others - 1)
    types = ", ".join(flat if part == "%1" else f"tensor<{samples}x3xf32>" for part in parts)
    product = f"tensor<{samples}x{m}x{n}xf32>"
    given = f"(tensor<{samples}x{m}x4xf32>, tensor<{samples}x{n}x4xf32>)"
    result, type_ = (f"%3, {returned}", f"({product})") if returned else ("%3", "")
    both = f"(tensor<{samples}x5xf32>, {product})" if type_ else f"tensor<{samples}x5xf32>"
    kind = f"tensor<{samples}x5xf32>, {product}" if type_ else f"tensor<{samples}x5xf32>"
    return f"""
    builtin.module attributes {{neuron.target = #neuron.target<"trn1">}} {{
      func.func @main(%a: tensor<{samples}x{m}x4xf32>, %b: tensor<{samples}x{n}x4xf32>, %y: tensor<{samples}x3xf32>,
                      %z: tensor<{samples}x3xf32>) -> {both} attributes {{neuron.executor = #neuron.executor<core>}} {{
        %w = graph.weight @w : tensor<{wide}x5xf32>
        %0 = graph.matmul %a, %b transpose_b : {given} -> {product}
        %1 = graph.reshape %0 : ({product}) -> {flat}
        %2 = graph.concat {", ".join(parts)} axis 1 : ({types}) -> tensor<{samples}x{wide}xf32>
        %3 = graph.matmul %2, %w : (tensor<{samples}x{wide}xf32>, tensor<{wide}x5xf32>) -> tensor<{samples}x5xf32>
        func.return {result} : {kind}
      }}
    }}
    """


# Other features on both sides of the products are one part behind them; the layer counts as it did.
@pytest.mark.parametrize(("sides", "others"), [((27, 27), 1), ((3, 40), 2), ((64, 1), 2)])
def test_others_come_behind(sides: tuple[int, int], others: int):
    module = parse(program(130, sides, others))
    macs = [model_macs(op) for op in main_of(module).body.block.ops if isinstance(op, MatMulOp)]
    check_same_results(module, GraphSampleFeaturesPass(), tolerance=1e-5)
    ops = list(main_of(module).body.block.ops)
    assert [model_macs(op) for op in ops if isinstance(op, MatMulOp)] == macs
    last = [op for op in ops if isinstance(op, ConcatOp)][-1]
    assert shape_of(last.xs[0])[1] % 128 == 0
    assert len(last.xs) == 2


# Few samples, and products that something else reads, stay as they are.
@pytest.mark.parametrize("text", [program(100, (9, 9), 1), program(130, (9, 9), 1, returned="%0")])
def test_what_stays(text: str):
    module = parse(text)
    GraphSampleFeaturesPass().apply(make_context(), module)
    assert not any(isinstance(op, PadOp) for op in main_of(module).body.block.ops)
