"""`nisa-allocate-registers`: loops and loop-dependent numbers become scalar registers, labels and branches.

Given engine queues (nisa form 4), leaves flat queues (form 5) in which every number of an instruction is a constant
plus at most one register. What is held in registers is decided by `register_values`, the code is written by
`queue_code`; this module puts both back into the IR. Instructions stay the same operations, so they keep their
locations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from xdsl.context import Context
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import LocationAttr, ModuleOp
from xdsl.dialects.func import FuncOp
from xdsl.dialects.scf import ForOp
from xdsl.ir import Block, Region
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.access import AccessPattern, Affine
from neuron_dialects.access_ops import AccessAttr, FieldsAttr
from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.neuron import location_name, target_of
from neuron_dialects.nisa import ControlOp, NisaOp, QueueOp, Sync, SyncAttr
from neuron_dialects.target import Target
from passes.nisa.program_tree import nisa_functions, read_queue
from passes.nisa.queue_code import Control, Issue, queue_code
from passes.nisa.register_values import RegistersExceeded, plan_registers


@dataclass(frozen=True)
class NisaAllocateRegistersPass(ModulePass):
    """Turn the loops of every queue into branches, and what depends on loops into scalar registers.

        nisa.queue act {
          scf.for %i = %c0 to %c8 step %c1 {
            nisa.activation on act dst %y[0:128][512*%i : 512] data %x[0:128][0 : 512] wait(load0 >= %i + 1)
          }
        }

    becomes

        nisa.queue act {
          nisa.control reg_move r0, 0
          nisa.control reg_move r1, 0
          nisa.control label L0
          nisa.activation on act dst %y[0:128][r1 : 512] data %x[0:128][0 : 512] wait(load0 >= r0 + 1)
          nisa.control reg_add r0, r0, 1
          nisa.control reg_add r1, r1, 512
          nisa.control branch_less r0, 8, L0
        }

    Every distinct linear part has a register that advances by constants. Where more are live than the target has
    registers, the least useful ones are computed from loop counters just before they are needed; NX-REG-001 if even
    that does not do.
    """

    name = "nisa-allocate-registers"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Flatten the queues of every function at the nisa level."""
        for function in nisa_functions(op):
            with in_segment(function.sym_name.data):
                allocate_registers(function, target_of(op))


def allocate_registers(function: FuncOp, target: Target) -> None:
    """Flatten the queues of one function."""
    for op in list(function.body.block.ops):
        if isinstance(op, QueueOp):
            flatten_queue(op, target)
        elif isinstance(op, NisaOp | ForOp):
            raise NeuronError(
                "NX-PASS-002",
                f"function @{function.sym_name.data} has instructions outside of queues",
                node=location_name(op.location),
                help="run nisa-split-queues first",
            )
    for op in list(function.body.block.ops):
        if isinstance(op, ConstantOp) and op.result.first_use is None:
            Rewriter.erase_op(op)


def flatten_queue(queue: QueueOp, target: Target) -> None:
    """Replace the body of one queue by flat code."""
    tree, binding = read_queue(queue)
    try:
        plan = plan_registers(tree, int(target.scalar_registers))
    except RegistersExceeded as error:
        raise NeuronError(
            "NX-REG-001",
            f"queue {queue.engine.data} needs {error.needed} scalar registers at once, limit {target.scalar_registers}",
            node=next((name for s in tree.statements if (name := binding.node_name(s))), None),
            help="nest fewer loops, or give fewer buffers rotating copies in one loop",
        ) from None
    block = Block()
    for item in queue_code(plan):
        if isinstance(item, Control):
            control = ControlOp(item.kind, *item.numbers)
            control.location = cast(LocationAttr, item.location)
            block.add_op(control)
        else:
            op = binding.operations[item.statement.number]
            op.detach()
            _set_numbers(op, item)
            block.add_op(op)
    flat = QueueOp(queue.engine.data, Region(block))
    flat.location = queue.location
    Rewriter.insert_op(flat, InsertPoint.before(queue))
    Rewriter.erase_op(queue, safe_erase=False)


def _set_numbers(op: NisaOp, issue: Issue) -> None:
    """Put the numbers of an issued instruction into its operation, and drop its index operands."""
    numbers = iter(issue.expressions)
    views = tuple((role, _at(pattern, next(numbers))) for role, pattern in op.access.data)
    fields = tuple((name, next(numbers) if isinstance(value, Affine) else value) for name, value in op.fields.data)
    op.set_operands(op.buffers, ())
    op.properties["access"] = AccessAttr(views)
    op.properties["fields"] = FieldsAttr(fields)
    if op.sync is not None:
        waits = tuple((name, count) for (name, _), count in zip(op.sync.data.waits, list(numbers), strict=True))
        op.properties["sync"] = SyncAttr(Sync(waits, op.sync.data.signal))


def _at(pattern: AccessPattern, offset: Affine) -> AccessPattern:
    return AccessPattern(pattern.partition, pattern.partitions, offset, pattern.dims)
