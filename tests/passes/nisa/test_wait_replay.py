"""Short cuts of the search for redundant waits find what the long way finds."""

from __future__ import annotations

from collections.abc import Set
from unittest.mock import patch

from hypothesis import given, settings
from xdsl.context import Context
from xdsl.dialects.func import FuncOp

from passes.nisa.allocate import NisaAllocatePass
from passes.nisa.dependence import Dependences
from passes.nisa.memory_access import accesses_of
from passes.nisa.program_tree import ProgramTree, read_function
from passes.nisa.progress import Progress
from passes.nisa.trace import Trace
from passes.nisa.wait_generation import generate_waits
from passes.nisa.wait_reduction import minimal_waits
from passes.nisa.wait_replay import History, WaitReplay
from tests.passes.nisa.random_programs import parse, programs


def tree_of(text: str) -> ProgramTree:
    """The tree of an allocated program."""
    module = parse(text)
    NisaAllocatePass().apply(Context(), module)
    function = module.body.block.first_op
    assert isinstance(function, FuncOp)
    return read_function(function)[0]


# A replay that goes on where the last one stood, or begins at the waits in question, gives the same answer.
@settings(max_examples=60)
@given(programs(instructions=10))
def test_a_replay_goes_on(text: str) -> None:
    whole = WaitReplay.orders_all

    def both(
        self: WaitReplay, watched: Set[int], active: Set[int], history: History | None = None,
        fresh: Set[int] | None = None,
    ) -> bool:  # fmt: skip
        answer = whole(self, watched, active, history, fresh)
        assert answer == whole(self, watched, active)
        return answer

    tree = tree_of(text)
    progress, accesses = Progress(tree), accesses_of(tree)
    with patch.object(WaitReplay, "orders_all", both):
        minimal_waits(Trace(tree, progress), generate_waits(tree, progress, accesses), accesses)


# What is known of pairs of accesses that stood to each other alike is what each pair would have to wait for by itself.
@settings(max_examples=60)
@given(programs(instructions=10))
def test_equal_pairs_are_looked_at_once(text: str) -> None:
    tree = tree_of(text)
    progress = Progress(tree)
    every = [access for accesses in accesses_of(tree) for access in accesses]
    together = Dependences(progress)
    for producer in every:
        for consumer in every:
            if producer is not consumer and producer.memory == consumer.memory:
                alone = Dependences(progress).required_counts(producer, consumer)
                assert together.required_counts(producer, consumer) == alone
