"""Semaphores: every conflict is ordered, nothing blocks, and no wait is there in vain."""

from hypothesis import given, settings
from xdsl.context import Context
from xdsl.dialects.func import FuncOp

from neuron_dialects.nisa import NisaOp
from passes.nisa.allocate import NisaAllocatePass
from passes.nisa.synchronize import NisaSynchronizePass
from tests.passes.nisa.abstract_machine import Ordering, program_order
from tests.passes.nisa.random_programs import parse, programs


def synchronized(text: str, **options: int) -> FuncOp:
    module = parse(text)
    NisaAllocatePass().apply(Context(), module)
    NisaSynchronizePass(**options).apply(Context(), module)
    module.verify()
    function = module.body.block.first_op
    assert isinstance(function, FuncOp)
    return function


# Any program: all conflicting accesses are ordered, no wait is for something that comes later.
@settings(max_examples=200)
@given(programs())
def test_every_conflict_is_ordered(text: str) -> None:
    function = synchronized(text)
    assert Ordering(program_order(function)).races() == []


# Any program: without any single one of its waits some conflict is not ordered.
@settings(max_examples=200)
@given(programs())
def test_no_wait_is_redundant(text: str) -> None:
    function = synchronized(text)
    steps = program_order(function)
    for op in function.walk():
        if isinstance(op, NisaOp) and op.sync is not None:
            for index in range(len(op.sync.data.waits)):
                assert Ordering(steps, removed=(op, index)).races(), f"wait {index} of {op} guards nothing"


# Without the replay there may be redundant waits, but none is missing.
@settings(max_examples=200)
@given(programs())
def test_without_replay_every_conflict_is_ordered(text: str) -> None:
    function = synchronized(text, replay_limit=0)
    assert Ordering(program_order(function)).races() == []
