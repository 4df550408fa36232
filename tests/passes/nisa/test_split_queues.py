"""Queues: every engine executes exactly its own instructions, as in program order."""

from hypothesis import given, settings
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from neuron_dialects.ssa_order import ssa_order_problems
from passes.nisa.split_queues import NisaSplitQueuesPass
from tests.passes.nisa.abstract_machine import Step, program_order, queue_traces
from tests.passes.nisa.random_programs import programs
from tests.passes.nisa.test_synchronize import synchronized


def by_engine(steps: list[Step]) -> dict[str, list[tuple[object, ...]]]:
    """What each engine executes, in its order."""
    traces: dict[str, list[tuple[object, ...]]] = {}
    for step in steps:
        traces.setdefault(step.engine, []).append(step.content)
    return traces


# Any program: each queue executes, with the same addresses and waits, what its engine executed before the split.
@settings(max_examples=100)
@given(programs())
def test_queues_execute_their_part_of_the_program(text: str) -> None:
    function = synchronized(text)
    expected = by_engine(program_order(function))
    module = function.parent_op()
    assert isinstance(module, ModuleOp)
    NisaSplitQueuesPass().apply(Context(), module)
    module.verify()
    assert ssa_order_problems(module) == []
    assert {e: [step.content for step in steps] for e, steps in queue_traces(function).items()} == expected
