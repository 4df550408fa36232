"""`graph-raise-composites`: formulas as the operators that they spell.

Exporters write gelu, silu, layer normalisation and attention in elementary operators. Given canonical graph-level
functions, leaves them with one operator each, for which there are kernels that keep what lies between on chip.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.transforms.common_subexpression_elimination import cse

from passes.graph.movement_identities import MOVEMENT_IDENTITIES
from passes.graph.raise_activations import ACTIVATION_FORMULAS
from passes.graph.raise_attention import ATTENTION_FORMULAS
from passes.graph.raise_layer_norm import LAYER_NORM_FORMULAS
from passes.rewriting import apply_rewrites

FORMULAS = (*ACTIVATION_FORMULAS, *LAYER_NORM_FORMULAS, *ATTENTION_FORMULAS)


@dataclass(frozen=True)
class GraphRaiseCompositesPass(ModulePass):
    """Recognise gelu, silu, layer normalisation and attention.

        %0 = graph.unary sigmoid %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
        %1 = graph.binary mul %x, %0 : (tensor<4x8xf32>, tensor<4x8xf32>) -> tensor<4x8xf32>

    becomes

        %1 = graph.unary silu %x : (tensor<4x8xf32>) -> tensor<4x8xf32>
    """

    name = "graph-raise-composites"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Rewrite everywhere, with the movements that attention leaves behind cancelled."""
        apply_rewrites(op, (*FORMULAS, *MOVEMENT_IDENTITIES))
        cse(op)
