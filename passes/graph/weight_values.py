"""Which values of a graph-level program are known when it is compiled: weights, constants, what is computed of them."""

from __future__ import annotations

from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import ComputeOp, ConstantOp, WeightOp


def is_known(value: SSAValue) -> bool:
    """Whether a value depends on weights and constants only. Takes time in proportion to what it is computed of."""
    pending: list[SSAValue] = [value]
    seen: set[Operation] = set()
    while pending:
        owner = pending.pop().owner
        if not isinstance(owner, ComputeOp | WeightOp | ConstantOp):
            return False
        if owner not in seen:
            seen.add(owner)
            pending.extend(owner.operands)
    return True
