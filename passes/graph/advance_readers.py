"""`graph-advance-readers`: the last reader of a feature map follows the one before it.

Given core functions in front of `graph-layout`. Two convolutions often read one map, and a branch of many layers stands
between them: the map takes room on chip all the while, or goes through DRAM twice. Where the second one leaves less
than it reads, it is computed as soon as the first one has been, so that the map ends there.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation
from xdsl.passes import ModulePass

from neuron_dialects.graph import ConvOp, ints
from neuron_dialects.graph.work import bytes_of
from neuron_dialects.neuron import core_functions
from passes.graph.fold_images import is_constant
from passes.graph.kernel_layouts import anchor_of


@dataclass(frozen=True)
class GraphAdvanceReadersPass(ModulePass):
    """Compute the last convolution of a feature map behind the one before it.

        %1 = graph.conv %x, %u ... : (tensor<1x64x56x56xbf16>, ...) -> tensor<1x32x56x56xbf16>
        %2 = graph.conv %1, %v ... : (tensor<1x32x56x56xbf16>, ...) -> tensor<1x32x56x56xbf16>
        %3 = graph.conv %x, %w ... : (tensor<1x64x56x56xbf16>, ...) -> tensor<1x32x56x56xbf16>

    becomes

        %1 = graph.conv %x, %u ...
        %3 = graph.conv %x, %w ...
        %2 = graph.conv %1, %v ...
    """

    name = "graph-advance-readers"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Move convolutions of every core function."""
        for function in core_functions(op):
            advance_block(function.body.block)


def advance_block(block: Block) -> None:
    """Move the convolutions of one block."""
    number = {op: i for i, op in enumerate(block.ops)}
    for op in list(number):
        before = _reader_before(op, number)
        if before is None:
            continue
        owners = dict.fromkeys(x.owner for x in op.operands if isinstance(x.owner, Operation) and is_constant(x))
        late = [constant for constant in owners if number[constant] > number[before]]
        if any(constant.operands for constant in late):
            continue
        op.detach()
        block.insert_op_after(op, before)
        for constant in late:
            constant.detach()
            block.insert_op_before(constant, before)
            number[constant] = number[before]


def _reader_before(op: Operation, number: dict[Operation, int]) -> Operation | None:
    """The last but one of the convolutions that read a feature map, where `op` is the last one, reads nothing else, and
    makes as many pixels that take no more room.
    """
    read = list(dict.fromkeys(x for x in op.operands if not is_constant(x)))
    conv = anchor_of(op)
    if not isinstance(conv, ConvOp) or set(ints(conv.strides)) != {1} or len(op.results) != 1 or len(read) != 1:
        return None
    users = {use.operation for use in read[0].uses}
    if len(users) < 2 or not all(user in number and isinstance(anchor_of(user), ConvOp) for user in users):
        return None
    *_, before, last = sorted(users, key=lambda user: number[user])
    return before if last is op and bytes_of(op.results[0].type) <= bytes_of(read[0].type) else None
