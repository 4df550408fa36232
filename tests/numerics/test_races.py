"""Compiled programs are free of races, and every semaphore wait in them is needed: without any one they are not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import load_target
from runtime.races import check_races
from tests.numerics.models import compile_for_inputs, model_inputs, model_path

PROGRAMS = ("mnist_mlp", "lenet5", "squeezenet1_1", "distilbert")


def compiled(name: str, target: str) -> list[CoreProgram]:
    path = model_path(name)
    if not path.is_file():
        pytest.skip(f"{name}.onnx is not beside the clone")
    result = compile_for_inputs(path, model_inputs(path), target=target)
    assert result.neff is not None
    return [image.program for image in result.neff.subgraphs]


def waits_of(program: CoreProgram) -> list[tuple[str, int, int]]:
    """Every wait: (engine, entry, position among the entry's waits)."""
    return [
        (engine, index, position)
        for engine, entries in program.queues.items()
        for index, entry in enumerate(entries)
        for position in range(len(entry.waits))
    ]


def without(program: CoreProgram, engine: str, index: int, position: int) -> CoreProgram:
    """The program less one wait."""
    entries = list(program.queues[engine])
    waits = entries[index].waits
    entries[index] = replace(entries[index], waits=(*waits[:position], *waits[position + 1 :]))
    return replace(program, queues={**program.queues, engine: entries})


@pytest.fixture(scope="module")
def programs() -> list[CoreProgram]:
    return [p for name in PROGRAMS for target in ("trn1", "inf1") for p in compiled(name, target)]


def test_compiled_programs_have_no_race(programs: list[CoreProgram]) -> None:
    for program in programs:
        assert check_races(program, load_target(program.target)) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_deleting_any_wait_is_found(programs: list[CoreProgram], data: st.DataObject) -> None:
    program = data.draw(st.sampled_from(programs))
    removed = data.draw(st.sampled_from(waits_of(program)))
    assert check_races(without(program, *removed), load_target(program.target)), removed
