"""Residuals that the tensor engine adds: one more product, with an identity matrix, while the sum is still in PSUM.

A convolution of few input channels and one tap takes the tensor engine less time than the vector engine needs to add a
residual to each result. Then the residual, which lies on chip like the result, is one more moving operand, and what is
left of the epilogue is a bias and an activation, which are one instruction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from xdsl.ir import Operation, SSAValue

from lowering.graph_to_tile.conv_weights import identity_ops
from lowering.graph_to_tile.kernel import Kernel
from lowering.graph_to_tile.tensors import LANES, Ranges, SbufTensor
from lowering.graph_to_tile.view import View
from neuron_dialects.graph import BinaryKind, BinaryOp, ConvOp, spec_of
from passes.graph.conv_groups import ConvGroups


@dataclass(frozen=True)
class Residual:
    """A resident tensor of the result's shape that is added in PSUM; `identity` [128, 128] is on chip."""

    tensor: SbufTensor
    identity: View

    def operands(self, ranges: Ranges, lane: int, lanes: int) -> tuple[View, View]:
        """(stationary, moving) for `lanes` results from `lane` on of the piece that `ranges` names."""
        identity = self.identity.slice(0, lane, lanes).slice(1, lane, lanes)
        return identity, self.tensor.view(ranges).slice(0, lane, lanes)


def take_residual(
    k: Kernel, op: Operation, ops: Sequence[Operation], results: Sequence[SSAValue], groups: ConvGroups, taps: int
) -> tuple[Residual | None, Sequence[Operation]]:
    """The residual that the tensor engine adds, if it should, and the pointwise ops without that addition.

    It is added first, or right behind a bias, to what nothing else reads, and something follows: the group's body loses
    the addition.
    """
    products = ceil(groups.block_inputs / LANES) * taps
    spare = k.takes("residual-products") and (products + 1) / k.target.clock_ghz("pe") <= 1 / k.target.clock_ghz("dve")
    if not isinstance(op, ConvOp) or groups.blocks > 1 or not spare:
        return None, ops
    total: SSAValue = op.result
    dtype, _ = spec_of(op.w)
    for added in ops[:2]:
        if not isinstance(added, BinaryOp) or added.kind.data != BinaryKind.ADD or added.result in results:
            return None, ops
        other = added.b if added.a is total else added.a
        tensor = k.tensors.get(other)
        # Whoever else reads what is added to would read the sum.
        alone = total in (added.a, added.b) and total.has_one_use()
        if not alone or spec_of(added.result) != spec_of(op.result):
            return None, ops
        if isinstance(tensor, SbufTensor):
            plain = tensor.partition == 1 and tensor.shape == spec_of(op.result)[1] and tensor.dtype == dtype.name
            if not plain:
                return None, ops
            ones = k.derive(f"identity.{LANES}.{dtype.name}", [], lambda _: identity_ops(dtype, LANES))
            identity = k.b.alloc((LANES, LANES), dtype.name, "sbuf", 1, "identity").view()
            k.b.load(identity, ones.view())
            added.result.replace_all_uses_with(total)
            return Residual(tensor, identity), [left for left in ops if left is not added]
        total = added.result
    return None, ops
