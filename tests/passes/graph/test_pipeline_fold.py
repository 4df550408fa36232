"""Cutting chains into folded pipelines: against trying every way to fill the cores from both ends."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

import pytest

from passes.graph.pipeline_cut import INFINITE, Chain, Costs, Cutter, Node, Stage, Value
from passes.graph.pipeline_fold import (
    FOLD_GAIN,
    MISFIT_PRECISION_BYTES,
    PRECISION,
    Cut,
    Cuts,
    Folder,
    chosen_places,
    unfolded,
)
from tests.passes.graph.test_pipeline_cut import random_chain


def best_folded(chain: Chain, costs: Costs, cores: int) -> float:
    """The time of the slowest core of the best folded cut, infinite where none fits."""
    count = len(chain.atoms)
    stages = {
        (stage.first, stage.last): stage
        for last in range(count + 1)
        for stage in chain.stages_ending_at(last, costs, costs.capacity_bytes)
    }

    def core_time(*places: tuple[int, int]) -> float:
        held = [stages.get(place) for place in places if place[0] < place[1]]
        if not held or None in held:
            return INFINITE
        own = [stage for stage in held if stage is not None]
        room = costs.capacity_bytes - sum(stage.pinned_bytes for stage in own)
        times = [min((time for time, working in stage.levels if working <= room), default=INFINITE) for stage in own]
        return sum(times)

    @cache
    def rest(first: int, last: int, cores: int) -> float:
        if cores == 1:
            return core_time((first, last))
        ways = [(a, b) for a in range(first, last) for b in range(a + 1, last + 1)]
        return min(
            (max(core_time((first, a), (b, last)), rest(a, b, cores - 1)) for a, b in ways if (a, b) != (first, last)),
            default=INFINITE,
        )

    return rest(0, count, cores)


def check_cut(chain: Chain, costs: Costs, cut: Cut) -> None:
    """All of the chain in order, in the pattern of a fold, each core within its capacity."""
    assert cut.stages[0].first == 0
    assert cut.stages[-1].last == len(chain.atoms)
    assert [stage.first for stage in cut.stages[1:]] == [stage.last for stage in cut.stages[:-1]]
    assert sorted(set(cut.core_of)) == list(range(cut.cores))
    assert all(cut.needed_bytes(core) <= costs.capacity_bytes for core in range(cut.cores))
    assert all(len(cut.on_core(core)) <= 2 for core in range(cut.cores))


@pytest.mark.parametrize("is_free", [True, False], ids=["free transfers", "transfers"])
@pytest.mark.parametrize("seed", range(30))
def test_every_fold_was_considered(seed: int, is_free: bool) -> None:
    """As fast as the best of all, but for the precision of the search and what a plain pipeline is preferred by."""
    chain, costs = random_chain(random.Random(seed))
    if is_free:
        costs = replace(costs, bytes_per_ns=1e12, transfer_ns=0.0)
    cuts = Cuts(chain, costs, 5)
    for cores in range(1, min(5, len(chain.atoms)) + 1):
        best, cut = best_folded(chain, costs, cores), cuts.cut(cores)
        assert (cut is None) == (best == INFINITE)
        if cut is not None:
            check_cut(chain, costs, cut)
            assert cut.cores == cores
            # What lies in between was kept by its length alone, which transfers make a little wrong at times.
            assert best * (1 - 1e-9) <= cut.slowest_ns <= best * PRECISION / FOLD_GAIN + 1e-6
    fewest = cuts.fewest
    assert fewest == next((k for k in range(1, 6) if cuts.cut(k) is not None), None)


def work_first(count: int) -> Chain:
    """The first half has nine times the work, the second half nine times the weights."""
    nodes = [
        Node(((90.0, 0),), 1, (i,), (i + 1,)) if i < count // 2 else Node(((10.0, 0),), 9, (i,), (i + 1,))
        for i in range(count)
    ]
    return Chain(nodes, [*(Value(1) for _ in range(count)), Value(1, is_returned=True)])


def test_folding_balances_what_neighbours_cannot() -> None:
    """Sixteen nodes on four cores that hold 21 bytes: the last 72 bytes of weights alone fill nearly four cores."""
    chain, costs = work_first(16), Costs(21, 100.0, 0.0)
    plain = Cutter(chain, costs, 4).slowest_ns[4]
    cut = Cuts(chain, costs, 4).cut(4)
    assert cut is not None
    check_cut(chain, costs, cut)
    # 800 ns of work in all; with stages of neighbours one core has nearly all of the early nodes.
    assert plain > 700
    assert cut.slowest_ns < 220
    # The chain goes through the cores and back.
    assert cut.core_of == (0, 1, 2, 3, 2, 1, 0)


def test_plain_pipelines_are_preferred() -> None:
    """Equal nodes: nothing is gained by folding."""
    nodes = [Node(((10.0, 0),), 10, (i,), (i + 1,)) for i in range(8)]
    chain = Chain(nodes, [*(Value(1) for _ in range(8)), Value(1, is_returned=True)])
    cut = Cuts(chain, Costs(20, 100.0, 0.0), 4).cut(4)
    assert cut is not None
    assert len(cut.stages) == cut.cores


def test_shared_cores_are_parted_for_more_cores() -> None:
    """Three cores for a folded cut into two: the slowest core's later stage gets its own."""
    stages = [Stage(i, i + 1, 1, 0, 0, ((time, 0),)) for i, time in enumerate((5.0, 9.0, 3.0))]
    cut = unfolded(Cut(tuple(stages), (0, 1, 0)), 3)
    assert cut == Cut(tuple(stages), (0, 1, 2))
    assert unfolded(Cut(tuple(stages), (0, 1, 0)), 4) is None


def test_long_chains_are_cut_at_some_of_their_places() -> None:
    """Many atoms: places lie evenly in work and weights, and do not split a node where it can be helped."""
    nodes = [Node(((10.0, 0),), 10, (i,), (i + 1,), 4) for i in range(150)]
    chain = Chain(nodes, [*(Value(1) for _ in range(150)), Value(1, is_returned=True)])
    places = chosen_places(chain, 101)
    assert (places[0], places[-1], len(places)) == (0, 600, 101)
    assert all(place % 4 == 0 for place in places)
    folder = Folder(Cutter(chain, Costs(210, 100.0, 0.0), 10), 10)
    cut = folder.cut(10)
    assert cut is not None
    assert cut.slowest_ns < 190


def test_misfit_is_that_of_the_best_fold() -> None:
    """Four nodes on two cores, which need 900 bytes each, folded or not."""
    sizes = (100, 800, 800, 100)
    nodes = [Node(((10.0, 0),), size, (i,), (i + 1,)) for i, size in enumerate(sizes)]
    chain = Chain(nodes, [*(Value(1) for _ in range(4)), Value(1, is_returned=True)])
    cuts = Cuts(chain, Costs(500, 100.0, 0.0), 2)
    assert cuts.cut(2) is None
    problem = cuts.misfit(2)
    assert 900 <= problem.needed_bytes <= 900 + MISFIT_PRECISION_BYTES
    assert Cuts(chain, Costs(problem.needed_bytes, 100.0, 0.0), 2).cut(2) is not None
