"""Products of all columns give what those of the picked ones gave."""

from __future__ import annotations

import pytest

from neuron_dialects.graph import GatherOp, MatMulOp
from neuron_dialects.graph.work import model_macs
from passes.graph.absorb_gathers import GraphAbsorbGathersPass
from tests.graph_level import check_same_results, main_of, make_context, parse, shown_programs


@pytest.mark.parametrize("text", shown_programs("graph-absorb-gathers"))
def test_shown_cases_keep_their_results(text: str):
    check_same_results(parse(text), GraphAbsorbGathersPass(), tolerance=1e-6)


# More columns than one constant counts; the product stays as large as the model's.
def test_many_columns():
    picked = [
        f"%{n} = graph.constant dense [{', '.join(str(i) for i in range(n, 300, 3))}] : tensor<{100}xi32>"
        for n in (0, 1)
    ]
    text = "\n".join(
        [
            "func.func @main(%x: tensor<4x300xf32>, %y: tensor<4x300xf32>) -> tensor<4x3xf32> {",
            *picked,
            "%w = graph.weight @w : tensor<200x3xf32>",
            "%a = graph.gather %x, %0 axis 1 : (tensor<4x300xf32>, tensor<100xi32>) -> tensor<4x100xf32>",
            "%b = graph.gather %y, %1 axis 1 : (tensor<4x300xf32>, tensor<100xi32>) -> tensor<4x100xf32>",
            "%c = graph.concat %a, %b axis 1 : (tensor<4x100xf32>, tensor<4x100xf32>) -> tensor<4x200xf32>",
            "%d = graph.matmul %c, %w : (tensor<4x200xf32>, tensor<200x3xf32>) -> tensor<4x3xf32>",
            "func.return %d : tensor<4x3xf32>",
            "}",
        ]
    )
    module = parse(text)
    check_same_results(module, GraphAbsorbGathersPass(), tolerance=1e-6)
    ops = list(main_of(module).body.block.ops)
    assert not any(isinstance(op, GatherOp) for op in ops)
    assert [model_macs(op) for op in ops if isinstance(op, MatMulOp)] == [4 * 3 * 200]


# One row: its elements are picked sooner than the weights of all others are loaded.
def test_one_row_stays_picked():
    text = """
    func.func @main(%x: tensor<1x300xf32>) -> tensor<1x1000xf32> {
      %j = graph.weight @j {neuron.range = [0 : i64, 299 : i64]} : tensor<100xi64>
      %w = graph.weight @w : tensor<100x1000xf32>
      %0 = graph.gather %x, %j axis 1 : (tensor<1x300xf32>, tensor<100xi64>) -> tensor<1x100xf32>
      %1 = graph.matmul %0, %w : (tensor<1x100xf32>, tensor<100x1000xf32>) -> tensor<1x1000xf32>
      func.return %1 : tensor<1x1000xf32>
    }
    """
    for rows, stays in ((1, True), (64, False)):
        module = parse(text.replace("1x300x", f"{rows}x300x").replace("<1x1", f"<{rows}x1"))
        GraphAbsorbGathersPass().apply(make_context(), module)
        assert any(isinstance(op, GatherOp) for op in main_of(module).body.block.ops) == stays
