"""Remarks of `graph-layout`: which tensors stay on chip between kernels, and why others go through DRAM."""

from __future__ import annotations

from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from neuron_dialects.graph import LayoutAttr
from neuron_dialects.remarks import remark


def tell_layout(value: SSAValue, layout: LayoutAttr | None, why_not: str) -> None:
    """Say where a tensor lies that one kernel hands to another.

    `layout`: the one that was chosen, None for DRAM. `why_not`: why none was, empty where that is no loss.
    """
    owner = value.owner
    if not isinstance(owner, Operation) or all(isinstance(use.operation, ReturnOp) for use in value.uses):
        return
    if layout is not None:
        remark("passed", "keep", f"a tensor stays in SBUF: {layout}", op=owner)
    elif why_not and owner.operands:
        suggestion = "a smaller batch or a narrower type makes room" if "full" in why_not else None
        remark("missed", "keep", "a tensor goes through DRAM", op=owner, reason=why_not, suggestion=suggestion)
