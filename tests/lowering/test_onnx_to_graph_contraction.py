"""Einsum as transposes, sums and matrix products: what onnxruntime computes, in the graph and on the core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from lowering.compiler import CompileOptions, compile_model
from lowering.onnx_to_graph import import_onnx
from lowering.onnx_to_graph.contraction import parse_equation
from neuron_dialects.graph.shapes import ShapeError
from runtime.session import Session
from tests.graph_level import Array, assert_close
from tests.lowering.onnx_cases import case, check, floats, ints, model_and_feeds
from tests.onnx_models import onnxruntime_results, results_of

EQUATIONS: list[tuple[str, list[Array]]] = [
    # One operand: order, sums, diagonals.
    ("ij->ji", [floats(3, 4)]),
    ("ij->", [floats(3, 4)]),
    ("ijk->ik", [floats(3, 4, 5)]),
    ("ii->i", [floats(4, 4)]),
    ("ii", [floats(4, 4)]),
    ("bii->ib", [floats(2, 4, 4)]),
    ("...ij->...ji", [floats(2, 3, 4, 5)]),
    ("...ii->...i", [floats(3, 5, 5)]),
    ("ba", [floats(3, 4)]),
    # Two operands: matrix products in every order of dimensions.
    ("ij,jk->ik", [floats(3, 4), floats(4, 5)]),
    ("ij, jk", [floats(3, 4), floats(4, 5)]),
    ("ji,kj->ik", [floats(4, 3), floats(5, 4)]),
    ("bij,bjk->bik", [floats(2, 3, 4), floats(2, 4, 5)]),
    ("bhqd,bhkd->bhqk", [floats(2, 3, 4, 5), floats(2, 3, 6, 5)]),
    ("bqhd,bkhd->bhqk", [floats(2, 4, 3, 5), floats(2, 6, 3, 5)]),
    ("bhqk,bkhd->bqhd", [floats(2, 3, 4, 6), floats(2, 6, 3, 5)]),
    ("abc,cde->abde", [floats(2, 3, 4), floats(4, 5, 6)]),
    ("abcd,cdef->abef", [floats(2, 3, 4, 5), floats(4, 5, 2, 3)]),
    ("ijk,jil->kl", [floats(3, 4, 5), floats(4, 3, 2)]),
    # Sums of one operand before the product; no sum at all.
    ("ij,jk->k", [floats(3, 4), floats(4, 5)]),
    ("ij,kl->il", [floats(3, 4), floats(5, 2)]),
    ("i,j->ij", [floats(3), floats(4)]),
    ("i,i->", [floats(3), floats(3)]),
    ("i,i->i", [floats(3), floats(3)]),
    ("bi,i->ib", [floats(2, 3), floats(3)]),
    (",ij->ji", [floats(), floats(2, 3)]),
    ("iij,j->i", [floats(3, 3, 4), floats(4)]),
    # Dimensions that an ellipsis stands for broadcast, as do dimensions of 1.
    ("...ij,...jk->...ik", [floats(2, 3, 4), floats(2, 4, 5)]),
    ("...ij,...jk", [floats(2, 1, 3, 4), floats(2, 6, 4, 5)]),
    ("b...,b...->b...", [floats(2, 3, 4), floats(2, 3, 4)]),
    ("bij,bjk->bik", [floats(1, 3, 4), floats(2, 4, 5)]),
    ("ij,jk->ik", [floats(3, 1), floats(4, 5)]),
    # More operands are combined from the left.
    ("ij,jk,kl->il", [floats(3, 4), floats(4, 5), floats(5, 2)]),
    ("bi,ijk,bk->bj", [floats(2, 3), floats(3, 4, 5), floats(2, 5)]),
    ("ij,jk->ik", [ints(3, 4), ints(4, 5)]),
]


@pytest.mark.parametrize(("equation", "operands"), EQUATIONS, ids=[equation for equation, _ in EQUATIONS])
def test_as_onnxruntime(equation: str, operands: list[Array]) -> None:
    check(case("Einsum", *operands, equation=equation))


# onnxruntime wants an ellipsis to stand for equally many dimensions everywhere; numpy does not.
@pytest.mark.parametrize("equation", ["...ij,...jk->...ik", "...ij,...jk"])
def test_ellipsis_of_different_ranks(equation: str) -> None:
    operands = [floats(2, 1, 3, 4), floats(6, 4, 5)]
    model, feeds = model_and_feeds(case("Einsum", *operands, equation=equation))
    actual = results_of(import_onnx(model), feeds)[0]
    assert_close(actual, np.einsum(equation, *operands))


# Attention scores with the keys in the order of the model: one product, nothing is moved.
def test_transposed_operand_is_not_moved() -> None:
    made = case("Einsum", floats(2, 3, 4, 5), floats(2, 3, 6, 5), equation="bhqd,bhkd->bhqk")
    assert check(made) == ["graph.reshape", "graph.reshape", "graph.matmul", "graph.reshape"]


@pytest.mark.parametrize(
    ("equation", "ranks", "message"),
    [
        ("ij,jk->ik", [2], "2 operands instead of 1"),
        ("ij->i", [3], "does not fit rank 3"),
        ("...ij->i", [1], "does not fit rank 1"),
        ("ij->ik", [2], "has one that no operand has"),
        ("ij->ii", [2], "repeats a label"),
        ("i1->i", [2], "not made of letters"),
        ("...i->i", [2], "lacks an ellipsis"),
    ],
)
def test_malformed_equations(equation: str, ranks: list[int], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        parse_equation(equation, ranks)


# Without an arrow, letters that occur once are the result, in alphabetic order, after the ellipsis.
def test_implicit_result() -> None:
    assert parse_equation("...kb,...ka", [3, 3]) == ([("1", "k", "b"), ("1", "k", "a")], ("1", "a", "b"))


@pytest.mark.parametrize("number", [5, 14, 15, 17, 18, 21, 27, 32])
def test_on_the_core(number: int, tmp_path: Path) -> None:
    equation, operands = EQUATIONS[number]
    model, feeds = model_and_feeds(case("Einsum", *operands, equation=equation))
    onnx.save(model, tmp_path / "model.onnx")
    compiled = compile_model(tmp_path / "model.onnx", CompileOptions(target="trn1", auto_cast="none"))
    assert {row["where"] for row in compiled.report["partition"]} == {"core"}
    assert compiled.neff is not None
    actual = Session(compiled.neff).run(feeds).outputs["y0"]
    np.testing.assert_allclose(actual, onnxruntime_results(model, feeds)[0], rtol=1e-5, atol=1e-5)
