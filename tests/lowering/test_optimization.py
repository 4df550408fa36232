"""Optimisation levels and settings of passes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from xdsl.dialects.builtin import ModuleOp

from lowering import optimization
from lowering.compiler import CompileOptions, compile_model
from lowering.optimization import SPEED_ONLY, after_graph, check_settings, parse_settings, with_settings
from lowering.pipeline import pass_name, pass_specs
from neuron_dialects.errors import NeuronError
from runtime.neff import Neff, neff_bytes

TRN1 = CompileOptions(target="trn1")
LEVEL_1, LEVEL_3 = replace(TRN1, optimization_level=1), replace(TRN1, optimization_level=3)
PAGE = Path(__file__).parents[2] / "docs" / "optimization-levels.md"
MODEL = Path(__file__).parents[1] / "models" / "digits_cnn.onnx"


def compiled(options: CompileOptions = TRN1) -> tuple[Neff, dict[str, Any]]:
    result = compile_model(MODEL, options)
    assert result.neff is not None
    return result.neff, result.report


def test_settings_are_set_where_their_pass_stands() -> None:
    specs = with_settings(pass_specs(), {"graph-layout.budget-share": "0.5", "graph-auto-cast.type": "f16"})
    assert "graph-layout{budget-share=0.5}" in specs
    assert any(spec.startswith("graph-auto-cast{") and 'type="f16"' in spec for spec in specs)
    assert [pass_name(spec) for spec in specs] == [pass_name(spec) for spec in pass_specs()]


def test_a_pass_can_be_left_out() -> None:
    specs = with_settings(pass_specs(), {"graph-split-batch": "off"})
    assert [s for s in map(pass_name, pass_specs()) if s != "graph-split-batch"] == list(map(pass_name, specs))


def test_the_form_of_settings() -> None:
    assert parse_settings(["graph-layout.budget-share=0.5", "graph-split-batch=off"]) == {
        "graph-layout.budget-share": "0.5",
        "graph-split-batch": "off",
    }


@pytest.mark.parametrize("text", ["graph-layout", "graph-layout.budget-share=", "=1", "graph-split-batch=on"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(NeuronError, match="expected PASS") as caught:
        parse_settings([text])
    assert caught.value.code == "NX-ARG-002"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no-such-pass.x", "1"),
        ("graph-layout.no-such-option", "1"),
        ("graph-layout.budget-share", "much"),
        ("graph-partition", "off"),
    ],
)
def test_unknown_settings_are_refused(name: str, value: str) -> None:
    with pytest.raises(NeuronError) as caught:
        check_settings({name: value})
    assert caught.value.code == "NX-ARG-001"
    assert name in caught.value.message


@pytest.mark.parametrize("options", [CompileOptions(optimization_level=4), CompileOptions(search_seconds=0.0)])
def test_levels_and_times_are_checked(options: CompileOptions) -> None:
    with pytest.raises(NeuronError) as caught:
        options.check()
    assert caught.value.code == "NX-ARG-001"


def test_level_1_leaves_out_what_is_only_for_speed() -> None:
    _, quick = compiled(LEVEL_1)
    _, default = compiled()
    assert default["compile_seconds"].keys() - quick["compile_seconds"].keys() == set(SPEED_ONLY)


# The manual lists all of them.
def test_the_manual_says_what_level_1_leaves_out() -> None:
    page = PAGE.read_text("utf-8")
    paragraph = page.partition("- `-O1` leaves out")[2].partition("- `-O2`")[0]
    assert sorted(re.findall("`([a-z-]+)`", paragraph)) == sorted(SPEED_ONLY)


def instructions(module: ModuleOp) -> float:
    """A cost that some settings lower for sure: the length of the program's text, taken as seconds."""
    return float(len(str(module)))


def test_level_3_keeps_the_fastest_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimization, "simulated_seconds", lambda module: -instructions(module))
    monkeypatch.setattr(optimization, "KNOBS", (optimization.Knob("graph-layout.budget-share", ("0.8", "0.001")),))
    neff, report = compiled(LEVEL_3)
    search = report["search"]
    # Without room on chip every tensor passes through DRAM: a longer program, which this cost prefers.
    assert search["choice"] == {"graph-layout.budget-share": "0.001"}
    assert search["seconds"] < search["default_seconds"]
    assert search["complete"]
    again, _ = compiled(replace(TRN1, settings=search["choice"]))
    assert programs(again) == programs(neff)
    assert programs(compiled()[0]) != programs(neff)


def programs(neff: Neff) -> list[object]:
    return [subgraph.program for subgraph in neff.subgraphs]


# What changes behind the graph level is told apart, though the graph level's text is the same.
def test_settings_of_later_passes_are_programs_of_their_own() -> None:
    settings = {"nisa-schedule": "off", "graph-layout.budget-share": "0.8", "nisa-allocate.placement": "greedy"}
    assert list(after_graph(settings).items()) == [("nisa-allocate.placement", "greedy"), ("nisa-schedule", "off")]
    assert after_graph({"graph-split-batch": "off"}) == {}


# Without the solver the search says that it could do more, and goes on.
def test_level_3_tells_that_there_is_no_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(optimization, "KNOBS", ())
    monkeypatch.setattr(optimization, "has_solver", lambda: False)
    assert compile_model(MODEL, LEVEL_3, told.append).report["search"]["tried"] == []
    assert sum("neuron-toolkit[solve]" in line for line in told) == 1


def test_level_3_never_ends_behind_the_default() -> None:
    told: list[str] = []
    result = compile_model(MODEL, replace(LEVEL_3, search_seconds=1000), told.append)
    search = result.report["search"]
    assert search["complete"]
    assert search["seconds"] <= search["default_seconds"]
    assert sum(line.startswith("trial ") for line in told) == len(search["tried"]) > 5
    assert result.neff is not None
    assert neff_bytes(result.neff)


def test_a_search_that_is_interrupted_gives_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def interrupted(module: ModuleOp) -> float:
        calls.append(1)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return instructions(module)

    monkeypatch.setattr(optimization, "simulated_seconds", interrupted)
    monkeypatch.setattr(optimization, "KNOBS", (optimization.Knob("graph-layout.budget-share", ("0.001",)),))
    neff, report = compiled(LEVEL_3)
    assert report["search"]["choice"] == {}
    assert programs(neff) == programs(compiled()[0])
