"""The driver of rewrite patterns."""

from __future__ import annotations

import pytest
from xdsl.dialects.builtin import NameLoc, NoneAttr, StringAttr
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.graph import BinaryKind, BinaryOp, UnaryKind, UnaryKindAttr, UnaryOp
from passes.rewriting import RewriteLimitExceeded, apply_rewrites, rewrites
from tests.graph_level import main_of, parse

PROGRAM = """
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  %unused = graph.unary exp %x : (tensor<4xf32>) -> tensor<4xf32>
  %0 = graph.unary square %x : (tensor<4xf32>) -> tensor<4xf32> loc("square node")
  %1 = graph.unary neg %0 : (tensor<4xf32>) -> tensor<4xf32> loc("neg node")
  func.return %1 : tensor<4xf32>
}"""


@rewrites(UnaryOp)
def square_is_product(op: UnaryOp, rewriter: PatternRewriter) -> None:
    if op.kind.data is UnaryKind.SQUARE:
        rewriter.replace(op, BinaryOp(BinaryKind.MUL, op.x, op.x))


@rewrites(UnaryOp)
def neg_to_abs(op: UnaryOp, rewriter: PatternRewriter) -> None:
    if op.kind.data is UnaryKind.NEG:
        op.kind = UnaryKindAttr(UnaryKind.ABS)
        rewriter.notify_op_modified(op)


@rewrites(UnaryOp)
def abs_to_neg(op: UnaryOp, rewriter: PatternRewriter) -> None:
    if op.kind.data is UnaryKind.ABS:
        rewriter.replace(op, UnaryOp(UnaryKind.NEG, op.x))


def names(text: str, *patterns: object, erase_dead: bool = True) -> list[str]:
    module = parse(text)
    apply_rewrites(module, [square_is_product], erase_dead=erase_dead)
    return [op.name for op in main_of(module).body.block.ops]


# What a pattern makes has the location of what it matched.
def test_locations_are_carried():
    module = parse(PROGRAM)
    assert apply_rewrites(module, [square_is_product])
    product = next(op for op in module.walk() if isinstance(op, BinaryOp))
    assert product.location == NameLoc(StringAttr("square node"), NoneAttr())
    assert not apply_rewrites(module, [square_is_product])


def test_dead_operations_are_erased_on_request():
    assert names(PROGRAM) == ["graph.binary", "graph.unary", "func.return"]
    assert names(PROGRAM, erase_dead=False) == ["graph.unary", "graph.binary", "graph.unary", "func.return"]


# Two patterns that undo each other end with an error that names them.
def test_endless_rewriting_is_reported():
    with pytest.raises(RewriteLimitExceeded, match=r"rewrites: .*(neg_to_abs|abs_to_neg)"):
        apply_rewrites(parse(PROGRAM), [neg_to_abs, abs_to_neg])
