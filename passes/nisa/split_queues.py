"""`nisa-split-queues`: one instruction stream for each engine.

Given synchronised functions in program order (nisa form 3), leaves one `nisa.queue` per engine (form 4). Each queue
gets the loops and slots that its instructions need, so that every engine runs ahead by itself until it must wait.
Instructions are moved, not copied: locations, waits and signals stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects.arith import ConstantOp
from xdsl.dialects.builtin import IndexType, IntegerAttr, ModuleOp
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.dialects.scf import ForOp, YieldOp
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter

from neuron_dialects.errors import NeuronError, in_segment
from neuron_dialects.hand_over import HandOverOp
from neuron_dialects.neuron import location_name, target_of
from neuron_dialects.nisa import AllocOp, NisaOp, ParamOp, PinnedOp, QueueOp, SlotOp
from neuron_dialects.target import Target
from passes.nisa.program_tree import nisa_functions, trip_count


@dataclass(frozen=True)
class NisaSplitQueuesPass(ModulePass):
    """Give every engine a queue with its own instructions and the loops around them.

        scf.for %i = %c0 to %c8 step %c1 {
          nisa.dma_copy on sp ring load0 dst ... src ... wait(act >= %i) signal(load0)
          nisa.activation on act dst ... data ... wait(load0 >= %i + 1) signal(act)
        }

    becomes

        nisa.queue act {
          scf.for %i = %c0 to %c8 step %c1 {
            nisa.activation on act dst ... data ... wait(load0 >= %i + 1) signal(act)
          }
        }
        nisa.queue sp {
          scf.for %i = %c0 to %c8 step %c1 {
            nisa.dma_copy on sp ring load0 dst ... src ... wait(act >= %i) signal(load0)
          }
        }

    A DMA is in the queue of the engine that triggers it. A slot is in every queue that uses it, in the loops that it
    stood in, so that it advances in each queue as often as before. Engines without instructions have no queue.
    """

    name = "nisa-split-queues"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        """Split every function at the nisa level."""
        for function in nisa_functions(op):
            with in_segment(function.sym_name.data):
                split_function(function, target_of(op))


def split_function(function: FuncOp, target: Target) -> None:
    """Replace the program of one function by queues, in the target's order of engines."""
    splitter = _Splitter(function, target)
    splitter.read(function.body.block, ())
    splitter.write()


@dataclass
class _Queue:
    """A queue being built: `blocks` are its open blocks, one for each of the open loops, and one around them."""

    engine: str
    blocks: list[Block]
    loops: list[ForOp]
    values: dict[SSAValue, SSAValue]


class _Splitter:
    """Deals the operations of a function to queues in one walk; a loop is opened in a queue when it is needed there."""

    def __init__(self, function: FuncOp, target: Target) -> None:
        self._function = function
        self._queues = {engine: _Queue(engine, [Block()], [], {}) for engine in target.engines}
        self._target = target
        self._constants: dict[int, ConstantOp] = {}
        self._slots: dict[SSAValue, tuple[SlotOp, tuple[ForOp, ...]]] = {}

    def read(self, block: Block, loops: tuple[ForOp, ...]) -> None:
        """Move what `block` holds to the queues; `loops` are those around it."""
        for op in list(block.ops):
            if isinstance(op, ForOp):
                if trip_count(op) > 0:
                    self.read(op.body.block, (*loops, op))
            elif isinstance(op, SlotOp):
                # Inserted into a queue when the first instruction uses it; nothing before that reads it.
                self._slots[op.slot] = (op, loops)
            elif isinstance(op, NisaOp):
                self._move(op, loops)
            elif not isinstance(op, AllocOp | ParamOp | PinnedOp | HandOverOp | ConstantOp | YieldOp | ReturnOp):
                raise NeuronError(
                    "NX-PASS-002", f"'{op.name}' cannot be split into queues", node=location_name(op.location)
                )

    def _move(self, op: NisaOp, loops: tuple[ForOp, ...]) -> None:
        queue = self._queues.get(op.engine.data)
        if queue is None:
            raise NeuronError(
                "NX-ISA-001",
                f"target {self._target.name} has no engine {op.engine.data}; it has {', '.join(self._target.engines)}",
                node=location_name(op.location),
            )
        self._open(queue, loops)
        buffers = len(op.buffers)
        operands = [*list(op.operands)[:buffers], *(self._value(queue, value) for value in op.indices)]
        op.detach()
        op.operands = operands
        queue.blocks[-1].add_op(op)

    def _open(self, queue: _Queue, loops: tuple[ForOp, ...]) -> None:
        """Make the queue's open loops those that stand for `loops`."""
        shared = next((i for i, (a, b) in enumerate(zip(queue.loops, loops, strict=False)) if a is not b), None)
        shared = min(len(queue.loops), len(loops)) if shared is None else shared
        self._close(queue, shared)
        for loop in loops[shared:]:
            index = loop.body.block.args[0]
            body = Block(arg_types=[IndexType()])
            body.args[0].name_hint = index.name_hint
            made = ForOp(self._constant(0), self._constant(trip_count(loop)), self._constant(1), [], Region(body))
            made.location = loop.location
            queue.blocks[-1].add_op(made)
            queue.values[index] = body.args[0]
            queue.loops.append(loop)
            queue.blocks.append(body)

    def _close(self, queue: _Queue, depth: int) -> None:
        """Close the queue's open loops but the outer `depth` ones."""
        while len(queue.loops) > depth:
            queue.blocks.pop().add_op(YieldOp())
            queue.loops.pop()

    def _value(self, queue: _Queue, value: SSAValue) -> SSAValue:
        """What stands for a loop variable or a slot in the queue."""
        if value not in queue.values:
            slot, loops = self._slots[value]
            made = SlotOp(slot.copies.value.data, slot.outer_loops)
            made.location = slot.location
            made.slot.name_hint = value.name_hint
            # The slot's loops are open, since they are around the instruction too: its place is at the block's start.
            block = queue.blocks[len(loops)]
            Rewriter.insert_op(made, InsertPoint.at_start(block))
            queue.values[value] = made.slot
        return queue.values[value]

    def _constant(self, value: int) -> SSAValue:
        if value not in self._constants:
            made = ConstantOp(IntegerAttr(value, IndexType()))
            made.result.name_hint = f"c{value}"
            self._constants[value] = made
        return self._constants[value].result

    def write(self) -> None:
        """Leave buffers, constants and queues in the function, and nothing else."""
        block = self._function.body.block
        end = block.last_op
        assert isinstance(end, ReturnOp)
        for op in reversed(list(block.ops)):
            if isinstance(op, ForOp | SlotOp | ConstantOp):
                Rewriter.erase_op(op, safe_erase=False)
        constants = [self._constants[value] for value in sorted(self._constants)]
        Rewriter.insert_op(constants, InsertPoint.before(end))
        Rewriter.insert_op(list(self._finished()), InsertPoint.before(end))

    def _finished(self) -> Iterator[Operation]:
        for queue in self._queues.values():
            self._close(queue, 0)
            if queue.blocks[0].first_op is not None:
                yield QueueOp(queue.engine, Region(queue.blocks[0]))
