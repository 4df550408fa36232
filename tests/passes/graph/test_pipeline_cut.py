"""Cutting chains into pipeline stages: against trying every cut."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from passes.graph.pipeline_cut import INFINITE, Chain, Costs, Cutter, Node, Stage, Value, misfit


def random_chain(rng: random.Random) -> tuple[Chain, Costs]:
    """Up to six nodes, each reading up to two earlier values, some of which can be cut."""
    count, levels = rng.randint(1, 6), rng.randint(1, 3)
    values = [Value(rng.randint(1, 100)) for _ in range(count)] + [Value(rng.randint(1, 9), is_returned=True)]
    nodes = [
        Node(
            tuple((rng.randint(1, 50) * (1 + level), rng.randint(0, 5 - level)) for level in range(levels)),
            rng.randint(0, 20),
            tuple(sorted({rng.randint(0, i) for _ in range(2)})),
            (i + 1,),
            rng.choice([1, 1, 2, 3]),
        )
        for i in range(count)
    ]
    costs = Costs(rng.randint(15, 60), rng.choice([1.0, 10.0]), rng.randint(0, 4), tuple(range(levels)))
    return Chain(nodes, values), costs


def plain_stage(chain: Chain, costs: Costs, first: int, last: int) -> Stage:
    """A stage whose transfers are counted from its atoms alone, to compare with the running counts."""
    (stage,) = [stage for stage in chain.stages_ending_at(last, costs, INFINITE) if stage.first == first]
    stage = stage.within(costs.capacity_bytes - stage.pinned_bytes) or stage
    taken: set[int] = set()
    made: set[int] = set()
    for atom in chain.atoms[first:last]:
        taken |= set(atom.inputs) - made
        made |= set(atom.outputs)
    assert stage.bytes_in == sum(chain.sizes[value] for value in taken)
    assert stage.bytes_out == sum(chain.sizes[value] for value in made if chain.last_use[value] >= last)
    assert stage.pinned_bytes == sum(atom.pinned_bytes for atom in chain.atoms[first:last])
    return stage


@pytest.mark.parametrize("seed", range(60))
def test_every_cut_was_considered(seed: int) -> None:
    """For each number of stages: as fast as the best of all cuts that fit, and with no more work in all than it."""
    chain, costs = random_chain(random.Random(seed))
    count = len(chain.atoms)
    cutter = Cutter(chain, costs, 8)
    for stages in range(1, min(8, count) + 1):
        fitting: list[tuple[float, float]] = []
        for places in itertools.combinations(range(1, count), stages - 1):
            ends = (0, *places, count)
            cut = [plain_stage(chain, costs, first, last) for first, last in itertools.pairwise(ends)]
            if all(stage.needed_bytes <= costs.capacity_bytes for stage in cut):
                fitting.append((max(s.time_ns for s in cut), sum(s.time_ns for s in cut)))
        found = cutter.stages(stages)
        if not fitting:
            assert found is None
            assert cutter.slowest_ns[stages] == INFINITE
            continue
        assert found is not None
        assert [stage.first for stage in found[1:]] == [stage.last for stage in found[:-1]]
        times = [stage.time_ns for stage in found]
        assert (max(times), sum(times)) == pytest.approx(min(fitting))


@pytest.mark.parametrize("seed", range(20))
def test_misfit_names_the_least_capacity_that_would_do(seed: int) -> None:
    """A chain that does not fit: with the bytes that are said to be needed it does, with one less it does not."""
    chain, costs = random_chain(random.Random(seed))
    for stages in range(1, len(chain.atoms) + 1):
        needed = misfit(chain, costs, stages).needed_bytes
        enough, short = (replace(costs, capacity_bytes=size) for size in (needed, needed - 1))
        assert any(time < INFINITE for time in Cutter(chain, enough, stages).slowest_ns[1:])
        assert all(time == INFINITE for time in Cutter(chain, short, stages).slowest_ns[1:])


def test_a_large_node_is_cut_where_nothing_else_balances() -> None:
    """One node does nearly all of the work: cut in two, although its operand and parts must be passed on."""
    nodes = [Node(((10, 0),), 1, (0,), (1,)), Node(((1000, 0),), 1, (1,), (2,), 4), Node(((10, 0),), 1, (2,), (3,))]
    chain = Chain(nodes, [Value(8), Value(8), Value(8), Value(8, is_returned=True)])
    stages = Cutter(chain, Costs(100, 1.0, 1.0), 2).stages(2)
    assert stages is not None
    assert [(stage.first, stage.last) for stage in stages] == [(0, 3), (3, 6)]


def test_fewest_and_best_per_core() -> None:
    """Four nodes of which two fit on a core: two cores at least; per core they are also the best, as transfers cost."""
    nodes = [Node(((10, 10),), 40, (i,), (i + 1,)) for i in range(4)]
    chain = Chain(nodes, [*(Value(10) for _ in range(4)), Value(10, is_returned=True)])
    cutter = Cutter(chain, Costs(90, 10.0, 1.0), 4)
    assert (cutter.fewest, cutter.best_per_core) == (2, 2)
