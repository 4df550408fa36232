"""`graph-canonicalize`: one way to write what can be written in several.

Given graph-level functions, leaves them without operators that change nothing, without dead code and without the same
computation twice. The identities stand in `movement_identities`, `elementwise_identities` and `pool_identities`.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass
from xdsl.transforms.common_subexpression_elimination import cse

from passes.graph.elementwise_identities import ELEMENTWISE_IDENTITIES
from passes.graph.movement_identities import MOVEMENT_IDENTITIES
from passes.graph.pool_identities import POOL_IDENTITIES
from passes.rewriting import apply_rewrites

IDENTITIES = (*MOVEMENT_IDENTITIES, *ELEMENTWISE_IDENTITIES, *POOL_IDENTITIES)


@dataclass(frozen=True)
class GraphCanonicalizePass(ModulePass):
    """Remove operators that change nothing, dead code, and computations that are there already.

        %0 = graph.reshape %x : (tensor<2x6xf32>) -> tensor<12xf32>
        %1 = graph.reshape %0 : (tensor<12xf32>) -> tensor<3x4xf32>
        %2 = graph.transpose %1 permutation [1, 0] : (tensor<3x4xf32>) -> tensor<4x3xf32>
        %3 = graph.matmul %2, %w : (tensor<4x3xf32>, tensor<3x8xf32>) -> tensor<4x8xf32>

    becomes

        %1 = graph.reshape %x : (tensor<2x6xf32>) -> tensor<3x4xf32>
        %3 = graph.matmul %1, %w transpose_a : (tensor<3x4xf32>, tensor<3x8xf32>) -> tensor<4x8xf32>
    """

    name = "graph-canonicalize"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Apply all identities until none applies."""
        canonicalize(op)


def canonicalize(module: ModuleOp) -> None:
    """Apply all identities, and merge equal computations, until nothing changes."""
    apply_rewrites(module, IDENTITIES)
    cse(module)
    # Merged values can be equal operands of one operator.
    while apply_rewrites(module, IDENTITIES):
        cse(module)
