"""Hand-overs between stages: which semaphores count what, and that applying the pass again changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from lowering.pipeline import run_passes
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import target_of
from passes.nisa.hand_over import Edge, NisaHandOverPass, Side, assigned, evened
from tools.module_file import read_module

CASE = Path("tests/filecheck/passes/nisa-hand-over.mlir")
FIRST, LAST = Edge("a", 1, "b", 0, 3, 2, 2), Edge("a", 1, "c", 1, 3, 1, 3)
OTHER = Edge("a", 2, "b", 1, 1, 1, 2)


def module() -> ModuleOp:
    return read_module(CASE)


def test_a_tensor_has_the_buffers_that_its_last_reader_needs() -> None:
    assert [edge.buffers for edge in evened([FIRST, LAST, OTHER])] == [3, 3, 2]


def test_semaphores_are_shared_where_there_are_too_few() -> None:
    sides = [
        Side(FIRST, "to"),
        Side(LAST, "to"),
        Side(OTHER, "to"),
        Side(replace(OTHER, reader="a", maker="z"), "from"),
    ]
    assert assigned(sides, 4) == ["free0", "free1", "free2", "ready0"]
    # One for each peer and direction: those of b are counted together.
    assert assigned(sides, 3) == ["free0", "free1", "free0", "ready0"]
    assert assigned(sides, 2) is None


def test_a_second_application_changes_nothing() -> None:
    once = module()
    NisaHandOverPass().apply(Context(), once)
    text = str(once)
    assert "nisa.hand_over" in text
    NisaHandOverPass().apply(Context(), once)
    assert str(once) == text


def test_too_few_semaphores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams take all of the target's semaphores."""
    target = target_of(module())
    few = replace(target, figures={**target.figures, "semaphores": replace(target.figures["semaphores"], value=1)})
    monkeypatch.setattr("passes.nisa.hand_over.target_of", lambda _: few)
    with pytest.raises(NeuronError) as caught:
        NisaHandOverPass().apply(Context(), module())
    assert (caught.value.code, caught.value.segment) == ("NX-SEM-001", "stage_0")


def test_loops_must_be_there() -> None:
    flat = module()
    run_passes(Context(), flat, ("nisa-split-queues", "nisa-allocate-registers"))
    with pytest.raises(NeuronError) as caught:
        NisaHandOverPass().apply(Context(), flat)
    assert caught.value.code == "NX-PASS-002"
