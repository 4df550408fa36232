"""Short cuts of the search for redundant waits find what the long way finds."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import cast
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
from passes.nisa.wait_reduction import minimal_waits, without_idle_waits
from passes.nisa.wait_replay import History, Verdicts, WaitReplay
from tests.passes.nisa.random_programs import programs
from tests.program_texts import parse


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


@dataclass
class Waits:
    """Waits that guard nothing by themselves. `relies`: wait -> the one that orders its conflicts when it is gone."""

    streams: list[int]
    relies: dict[int, int]

    @dataclass
    class Wait:
        number: int
        stream: int

    @property
    def waits(self) -> list[Wait]:
        return [self.Wait(number, stream) for number, stream in enumerate(self.streams)]

    def run(self, active: Set[int]) -> Verdicts:
        return Verdicts(needed=set(active))

    def history(self) -> None:
        return None

    def orders_all(self, watched: Set[int], active: Set[int], *_: object) -> bool:
        return all(self.relies[wait] in active - watched for wait in watched if wait in self.relies)


# Conflicts of the first wait rely on the third one, of another stream, whose own conflicts are ordered without it: it
# is removed, which shows at the end; then it stays, and those that were removed with it and behind it still go.
def test_a_wait_that_another_stream_relies_on_stays():
    replay = Waits([0, 1, 1, 1, 2], {0: 2})
    assert without_idle_waits(cast("WaitReplay", replay)).needed == {2}
    replay = Waits([0, 1, 1, 1, 2], {0: 2, 1: 4})
    assert without_idle_waits(cast("WaitReplay", replay)).needed == {2, 4}
