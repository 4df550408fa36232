"""Stages of a pipeline wait for each other themselves: what a NEFF says of it, and that every wait is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.program import CoreProgram, HandOver
from neuron_dialects.target import load_target
from runtime.assembly.assembler import assemble
from runtime.neff import Neff, neff_bytes, open_neff, read_neff
from runtime.neff.text import program_text
from runtime.races import check_pipeline_races, check_races
from tests.runtime.stages import pipeline

Programs = list[CoreProgram]
CHAINS = (("inf1", 2, 4), ("inf1", 3, 6), ("trn1", 3, 6))
"""Target, cores, layers."""


def programs_of(neff: Neff) -> Programs:
    return [image.program for image in neff.subgraphs]


def with_program(neff: Neff, number: int, program: CoreProgram) -> Neff:
    images = list(neff.subgraphs)
    images[number] = replace(images[number], program=program)
    return replace(neff, subgraphs=images)


def hand_over_waits(programs: Sequence[CoreProgram]) -> list[tuple[int, str, int]]:
    """Every entry that waits for another core: (core, engine, entry)."""
    return [
        (core, engine, index)
        for core, program in enumerate(programs)
        for engine, entries in program.queues.items()
        for index, entry in enumerate(entries)
        if any(semaphore in program.hand_over_counts for semaphore, _ in entry.waits)
    ]


def without(programs: Sequence[CoreProgram], core: int, engine: str, index: int) -> Programs:
    """The programs less one entry's waits for other cores."""
    changed = list(programs)
    entries = list(changed[core].queues[engine])
    counts = changed[core].hand_over_counts
    entries[index] = replace(entries[index], waits=tuple(w for w in entries[index].waits if w[0] not in counts))
    changed[core] = replace(changed[core], queues={**changed[core].queues, engine: entries})
    return changed


@pytest.mark.parametrize(("target_name", "cores", "count"), CHAINS)
def test_every_wait_for_another_core_is_needed(target_name: str, cores: int, count: int) -> None:
    neff = pipeline(cores, count, target=target_name)
    programs, target = programs_of(neff), load_target(neff.target)
    assert check_pipeline_races(programs, target) == []
    for program in programs:
        # A stage alone finds all that it waits for.
        assert check_races(program, target) == []
    waits = hand_over_waits(programs)
    assert len(waits) >= 2 * (cores - 1)
    for removed in waits:
        races = check_pipeline_races(without(programs, *removed), target)
        assert any(r.first.core != r.second.core for r in races if r.second is not None), removed


def test_a_peer_that_never_stores_is_a_deadlock() -> None:
    """The first stage waits for a buffer more than there are."""
    neff = pipeline(2)
    programs, target = programs_of(neff), load_target(neff.target)
    ((core, engine, index), *_) = hand_over_waits(programs)
    entries = list(programs[core].queues[engine])
    *others, (semaphore, value) = entries[index].waits
    entries[index] = replace(entries[index], waits=(*others, (semaphore, value + 100)))
    stuck = [replace(programs[0], queues={**programs[0].queues, engine: entries}), programs[1]]
    (race,) = check_pipeline_races(stuck, target)
    assert race.kind == "deadlock"
    assert "core 0 pool at entry 0 for free0 >= 101; " in str(race)
    assert "core 1 sp at entry 0 for ready0 >= 1" in str(race)


def test_a_longer_way_has_more_buffers() -> None:
    """The first stage's result goes to both others; what one of them waits for may imply the other's wait."""
    neff = pipeline(3, 6, target="trn1", skip=True)
    programs, target = programs_of(neff), load_target(neff.target)
    assert check_pipeline_races(programs, target) == []
    unordered = programs
    for removed in hand_over_waits(programs):
        unordered = without(unordered, *removed)
    races = check_pipeline_races(unordered, target)
    pairs = {frozenset((race.first.core, race.second.core)) for race in races if race.second is not None}
    assert {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))} <= pairs
    first, second, last = programs
    assert {row.buffers for row in first.hand_overs} == {3}
    assert {row.peer for row in first.hand_overs} == {1, 2}
    assert {row.peer: row.buffers for row in last.hand_overs} == {0: 3, 1: 2}
    assert {row.peer: row.buffers for row in second.hand_overs} == {0: 3, 2: 2}


def test_file_and_text_tell_all_of_it() -> None:
    neff = pipeline(3, 6, target="trn1")
    data = neff_bytes(neff)
    again = read_neff(data)
    assert neff_bytes(again) == data
    assert [p.hand_overs for p in programs_of(again)] == [p.hand_overs for p in programs_of(neff)]
    lines = [line for i, p in enumerate(programs_of(neff)) for line in (f".subgraph sg{i:02d}", *program_text(p))]
    assert [p.hand_overs for p in assemble("\n".join(lines)).programs] == [p.hand_overs for p in programs_of(neff)]
    definition = json.loads(bytes(open_neff(data).view("sg01/def.json")))
    # Two cores a chip: the second stage takes from its own chip and stores to the next one.
    peers = [(row["peer"], row["core"], row["chip"]) for row in definition["neuron_toolkit"]["hand_over"]]
    assert peers == [("sg00", 0, 0), ("sg02", 2, 1)]
    remote = {name: queue.get("remote_semaphores") for name, queue in definition["dma_queue"].items()}
    assert [{"core": 2, "chip": 1, "semaphore": 0}] in remote.values()
    assert [{"core": 0, "chip": 0, "semaphore": 0}] in remote.values()


def changed(**values: int) -> Callable[[HandOver], HandOver]:
    return lambda row: replace(row, **values)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (changed(peer=7), "NX-NEFF-007", "which does not say so"),
        (changed(peer_variable=1), "NX-NEFF-007", "which does not say so"),
        (changed(buffers=3), "NX-NEFF-007", "has 3 buffers, that of its peer 2"),
        (changed(buffers=0), "NX-NEFF-007", "in 1 transfers and 0 buffers"),
        (changed(count=1 << 20), "NX-NEFF-007", "limit 1048576"),
        (changed(variable=2), "NX-NEFF-007", "no input or output"),
        (changed(semaphore=3), "NX-NEFF-007", "which its own queues increment"),
    ],
)
def test_hand_overs_that_do_not_fit(change: Callable[[HandOver], HandOver], code: str, message: str) -> None:
    neff = pipeline(2)
    program = neff.subgraphs[0].program
    broken = with_program(neff, 0, replace(program, hand_overs=tuple(map(change, program.hand_overs))))
    with pytest.raises(NeuronError, match=message) as caught:
        neff_bytes(broken)
    assert caught.value.code == code


def test_other_tensors_than_the_graph_passes() -> None:
    """The second node takes the model's input in place of what the first one makes."""
    neff = pipeline(2, target="trn1")
    first, second = neff.graph
    with pytest.raises(NeuronError, match="is another tensor"):
        neff_bytes(replace(neff, graph=[first, replace(second, inputs=first.inputs)]))


def test_a_count_that_is_not_what_the_peer_does() -> None:
    neff = pipeline(2)
    programs = programs_of(neff)
    rows = tuple(replace(row, count=2) for row in programs[1].hand_overs)
    wrong = [programs[0], replace(programs[1], hand_overs=rows)]
    with pytest.raises(NeuronError, match="hands over in 1 transfers what other cores expect in 2") as caught:
        check_pipeline_races(wrong, load_target(neff.target))
    assert caught.value.code == "NX-RUN-004"
