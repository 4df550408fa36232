"""A fusion pass: hard-swish, as exporters spell it, becomes the operator that there is a kernel for."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import PatternRewriter

from neuron_dialects.graph import BinaryKind, BinaryOp, ClipOp, UnaryKind, UnaryOp
from neuron_toolkit import Plugin
from passes.graph.known_numbers import factors_of, plus_number, precision_of
from passes.rewriting import apply_rewrites, rewrites


@rewrites(BinaryOp)
def hard_swish_formula(op: BinaryOp, rewriter: PatternRewriter) -> None:
    """x * clip(x + 3, 0, 6) / 6 -> hard_swish(x)"""
    if op.kind.data not in (BinaryKind.MUL, BinaryKind.DIV):
        return
    number, factors = factors_of(op.result)
    if len(factors) != 2 or not isclose(number, 1 / 6, rel_tol=precision_of(op.result)):
        return
    for x, other in (factors, factors[::-1]):
        if is_clip_of(other, x) and x.type == op.result.type:
            rewriter.replace(op, UnaryOp(UnaryKind.HARD_SWISH, x))
            return


def is_clip_of(value: SSAValue, x: SSAValue) -> bool:
    """Whether `value` is clip(x + 3, 0, 6)."""
    clip = value.owner
    if not isinstance(clip, ClipOp) or clip.minimum is None or clip.maximum is None:
        return False
    bounds = (clip.minimum.value.data, clip.maximum.value.data)
    return bounds == (0.0, 6.0) and plus_number(clip.x, 3.0) is x


@dataclass(frozen=True)
class RaiseHardSwishPass(ModulePass):
    """Recognise hard-swish.

        %0 = graph.constant 3.0 : tensor<f32>
        %1 = graph.binary add %x, %0 : (tensor<4x8xf32>, tensor<f32>) -> tensor<4x8xf32>
        %2 = graph.clip %1 minimum 0.0 maximum 6.0 : (tensor<4x8xf32>) -> tensor<4x8xf32>
        %3 = graph.binary mul %x, %2 : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>
        %4 = graph.constant 6.0 : tensor<f32>
        %5 = graph.binary div %3, %4 : (tensor<4x8xf32>, tensor<f32>) -> tensor<4x8xf32>

    becomes

        %5 = graph.unary hard_swish %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
    """

    name = "raise-hard-swish"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite everywhere; what nobody uses any more goes."""
        apply_rewrites(op, [hard_swish_formula])


PLUGIN = Plugin(passes=[RaiseHardSwishPass], pipeline=[("raise-hard-swish", "graph-canonicalize")])
