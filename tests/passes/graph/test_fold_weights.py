"""Recipes give what the operators that they replace gave."""

from __future__ import annotations

import pytest

from neuron_dialects.graph import ComputeOp, DerivedWeightOp, UnaryOp, WeightOp
from passes.graph.fold_weights import GraphFoldWeightsPass
from tests.graph_level import check_same_results, main_of, make_context, parse
from tests.run_lines import ROOT

FILECHECK = ROOT / "tests" / "filecheck" / "passes" / "graph-fold-weights.mlir"


def shown_programs() -> list[str]:
    """Each function of the regression test; the recipes follow the function that they are about."""
    functions = FILECHECK.read_text(encoding="utf-8").split("\nfunc.func @")[1:]
    return [f"func.func @main{text[text.index('(') :]}".partition("\n//")[0] for text in functions]


@pytest.mark.parametrize("text", shown_programs())
def test_shown_cases_keep_their_results(text: str):
    check_same_results(parse(text), GraphFoldWeightsPass(), tolerance=0.0)


# Folding what is folded changes nothing: names are stable from one run to the next.
@pytest.mark.parametrize("text", shown_programs())
def test_folding_twice(text: str):
    module = parse(text)
    GraphFoldWeightsPass().apply(make_context(), module)
    once = str(module)
    GraphFoldWeightsPass().apply(make_context(), module)
    assert str(module) == once


# Values of many users in a long chain: recipes refer to each other, so that the program does not double at each step.
def test_shared_values_do_not_multiply():
    lines = ["%v0 = graph.weight @w : tensor<4xf32>"]
    for number in range(40):
        lines.append(
            f"%v{number + 1} = graph.binary mul %v{number}, %u{number}"
            " : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>"
        )
        lines.insert(-1, f"%u{number} = graph.unary sigmoid %v{number} : (tensor<4xf32>) -> tensor<4xf32>")
    body = "\n".join(lines)
    module = parse(f"func.func @main() -> tensor<4xf32> {{\n{body}\nfunc.return %v40 : tensor<4xf32>\n}}")
    check_same_results(module, GraphFoldWeightsPass(), tolerance=0.0)
    recipes = [op for op in module.ops if isinstance(op, DerivedWeightOp)]
    assert len(recipes) == 40
    assert all(sum(isinstance(op, ComputeOp) for op in recipe.body.block.ops) == 2 for recipe in recipes)


# A value that is folded on the way to a broadcast is stored before it grows.
def test_what_feeds_a_broadcast_is_folded():
    module = parse(
        """
        func.func @main(%x: tensor<32x64xf32>) -> tensor<32x64xf32> {
          %w = graph.weight @w : tensor<64xf32>
          %0 = graph.unary exp %w : (tensor<64xf32>) -> tensor<64xf32>
          %1 = graph.broadcast %0 : (tensor<64xf32>) -> tensor<32x64xf32>
          %2 = graph.unary neg %1 : (tensor<32x64xf32>) -> tensor<32x64xf32>
          %3 = graph.binary add %x, %2 : (tensor<32x64xf32>, tensor<32x64xf32>) -> tensor<32x64xf32>
          func.return %3 : tensor<32x64xf32>
        }"""
    )
    check_same_results(module, GraphFoldWeightsPass(), tolerance=0.0)
    ops = list(main_of(module).body.block.ops)
    assert [op.name for op in ops] == ["graph.weight", "graph.broadcast", "graph.unary", "graph.binary", "func.return"]
    assert isinstance(ops[0], WeightOp)
    assert ops[0].weight_name == "w$exp"


# Biases of positions, gathered from a small table: stored whole, although they are many times as large.
def test_what_is_gathered_from_a_small_table_is_stored():
    module = parse(
        """
        func.func @main(%x: tensor<40000x8xf32>) -> tensor<40000x8xf32> {
          %w = graph.weight @w : tensor<32x8xf32>
          %i = graph.constant 3 : tensor<40000xi32>
          %0 = graph.gather %w, %i axis 0 : (tensor<32x8xf32>, tensor<40000xi32>) -> tensor<40000x8xf32>
          %1 = graph.binary add %x, %0 : (tensor<40000x8xf32>, tensor<40000x8xf32>) -> tensor<40000x8xf32>
          func.return %1 : tensor<40000x8xf32>
        }"""
    )
    check_same_results(module, GraphFoldWeightsPass(), tolerance=0.0)
    assert [op.name for op in main_of(module).body.block.ops] == ["graph.weight", "graph.binary", "func.return"]


# Nothing refers to what nobody uses.
def test_unused_values_leave_no_recipe():
    module = parse(
        """
        func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
          %w = graph.weight @w : tensor<4xf32>
          %0 = graph.unary exp %w : (tensor<4xf32>) -> tensor<4xf32>
          func.return %x : tensor<4xf32>
        }"""
    )
    GraphFoldWeightsPass().apply(make_context(), module)
    assert not any(isinstance(op, DerivedWeightOp | UnaryOp | WeightOp) for op in module.walk())
