"""What the statements of a program take and touch: given its tree, leaves the tasks that schedules are made of.

A statement is an instruction or a whole loop nest of the function's body. Which streams it keeps busy and for how long
comes from the cost model; what it touches, from its access patterns over all iterations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

from neuron_dialects.cost import dma_cost, issue_ns, latency_ns
from neuron_dialects.isa import INSTRUCTIONS
from neuron_dialects.target import Target
from passes.nisa.list_schedule import Task, Touch
from passes.nisa.program_tree import Loop, Node, ProgramTree, Statement


def statement_tasks(tree: ProgramTree, target: Target) -> list[Task]:
    """A task for each node of the function's body, in program order."""
    return [_task(node, tree, target) for node in tree.body]


def _task(node: Node, tree: ProgramTree, target: Target) -> Task:
    streams: defaultdict[str, float] = defaultdict(float)
    transfers, latency = 0.0, 0.0
    touches: list[Touch] = []
    row_bytes: dict[int, int] = {}
    fixed = False
    for statement in _statements(node):
        executions = prod(loop.trip_count for loop in statement.loops)
        instruction = statement.instruction
        if statement.ring is not None:
            cost = dma_cost(instruction, target)
            streams[statement.engine] += float(target.control_ns) * executions
            transfers += cost.busy_ns * executions
            fixed_ns = float(target.dma_start_ns + target.dma_completion_ns)
            latency = max(latency, fixed_ns + cost.span_ns - cost.busy_ns)
        else:
            streams[statement.engine] += issue_ns(instruction, target) * executions
            latency = max(latency, latency_ns(statement.engine, target))
        for touch in _touches(statement):
            touches.append(touch)
            buffer = tree.buffers[touch.buffer]
            fixed = fixed or buffer.space == "psum"
            if buffer.space == "sbuf":
                row_bytes[touch.buffer] = buffer.row_elements * buffer.element_bytes * buffer.copies
    return Task(dict(streams), transfers, latency, touches, row_bytes, fixed)


def _touches(statement: Statement) -> Iterator[Touch]:
    definition = INSTRUCTIONS[statement.instruction.name]
    for role, operand in statement.instruction.operands.items():
        assert operand.buffer is not None
        pattern = operand.pattern
        low, high = pattern.extent
        first, last = pattern.offset.bounds(statement.trips)
        if role == "table":
            reach = int(statement.instruction.field("row_stride")) * (int(statement.instruction.field("rows")) - 1)
            low, high = low + min(0, reach), high + max(0, reach)
        yield Touch(operand.buffer, first + low, last + high, definition.operand(role).writes)


def _statements(node: Node) -> Iterator[Statement]:
    if isinstance(node, Statement):
        yield node
    elif isinstance(node, Loop):
        for inner in node.body:
            yield from _statements(inner)
