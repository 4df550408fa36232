"""`nisa-schedule`: statements in an order in which engines and transfers wait for each other less.

Given functions in form 1: program order, symbolic buffers. Leaves the same statements of the function's body in another
order, each buffer declared before its first use; loop nests stay whole. `list_schedule` decides, this module tells it
what each statement takes and touches, and moves the operations. Where no other order is faster nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Operation, SSAValue
from xdsl.passes import ModulePass

from neuron_dialects.errors import in_segment
from neuron_dialects.neuron import target_of, working_target
from neuron_dialects.nisa import AllocOp, NisaOp
from neuron_dialects.target import Target
from passes.nisa.list_schedule import list_schedule
from passes.nisa.live_ranges import pinned_buffers, top_level_statements
from passes.nisa.program_tree import nisa_functions, read_function
from passes.nisa.statement_tasks import statement_tasks

EARLY_SHARE = 1 / 16
"""Share of SBUF that statements which were brought forward may hold until their old turn."""


@dataclass(frozen=True)
class NisaSchedulePass(ModulePass):
    """Bring statements forward that can start while the next one waits.

        nisa.dma_copy on sp ring load0 dst %i ... src %indices ...
        nisa.dma_gather on sp ring load1 dst %r ... table %t ... indices %i ...
        nisa.dma_copy on sp ring load2 dst %j ... src %indices ...
        nisa.dma_gather on sp ring load3 dst %s ... table %t ... indices %j ...

    becomes, as the gather would hold up the stream that triggers the loads,

        nisa.dma_copy on sp ring load0 dst %i ... src %indices ...
        nisa.dma_copy on sp ring load2 dst %j ... src %indices ...
        nisa.dma_gather on sp ring load1 dst %r ... table %t ... indices %i ...
        nisa.dma_gather on sp ring load3 dst %s ... table %t ... indices %j ...
    """

    name = "nisa-schedule"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Order the statements of every function at the nisa level."""
        for function in nisa_functions(op):
            with in_segment(function.sym_name.data):
                schedule_function(function, target_of(op))


def schedule_function(function: FuncOp, target: Target) -> None:
    """Order the statements of one function."""
    tree, _ = read_function(function)
    tasks = statement_tasks(tree, target)
    early_bytes = int(int(working_target(function, target).sbuf_bytes_per_partition) * EARLY_SHARE)
    order = list_schedule(tasks, early_bytes).order
    if order != list(range(len(tasks))):
        _reorder(function, order)


def _reorder(function: FuncOp, order: list[int]) -> None:
    """Put the statements of the body in this order, buffers before their first use, everything else first."""
    block = function.body.block
    statements = top_level_statements(function)
    moved = set(statements)
    others = [op for op in block.ops if op not in moved and op is not block.last_op]
    pinned = set(pinned_buffers(function))
    movable = (op for op in others if isinstance(op, AllocOp) and op not in pinned)
    allocs: dict[SSAValue, AllocOp] = {op.buffer: op for op in movable}
    sequence: list[Operation] = [op for op in others if not isinstance(op, AllocOp) or op in pinned]
    for number in order:
        statement = statements[number]
        for value in _used_values(statement):
            alloc = allocs.pop(value, None)
            if alloc is not None:
                sequence.append(alloc)
        sequence.append(statement)
    sequence += allocs.values()
    last = block.last_op
    assert last is not None
    for op in sequence:
        op.detach()
        block.insert_op_before(op, last)


def _used_values(op: Operation) -> Iterator[SSAValue]:
    for inner in op.walk() if isinstance(op, ForOp) else (op,):
        if isinstance(inner, NisaOp):
            yield from inner.buffers
