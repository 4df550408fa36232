"""The default pipeline as data: every spec parses and names a registered pass, levels and named pipelines agree."""

from __future__ import annotations

import contextlib
import gc
from itertools import pairwise

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.arg_spec import parse_pipeline

from lowering.compiler import AUTO_CAST
from lowering.pipeline import LEVELS, PHASES, PIPELINES, make_pass, no_collection, pass_specs, run_passes
from passes.registry import PASSES
from tests.core_kernels import core_module


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_parses_and_its_passes_are_registered(name: str) -> None:
    specs = list(parse_pipeline(PIPELINES[name]))
    assert specs
    assert [spec.name for spec in specs if spec.name not in PASSES] == []


@pytest.mark.parametrize("name", PASSES)
def test_a_registered_name_leads_to_the_pass_of_that_name(name: str) -> None:
    made = make_pass(name)
    assert made.name == name
    assert type(made).__doc__


# Every pass of ours has its place: there is none that only neuron-opt could reach.
def test_the_default_pipeline_uses_every_registered_pass() -> None:
    assert {spec.name for spec in parse_pipeline(PIPELINES["default"])} == set(PASSES)


def test_phases_are_the_levels_in_order() -> None:
    assert LEVELS == ("graph", "tile", "nisa")
    for phase in PHASES:
        assert phase.passes and phase.summary
    # A conversion opens its level; no other pass of the level leaves it.
    assert PHASES[1].passes[0] == "convert-graph-to-tile"
    assert PHASES[2].passes[0] == "convert-tile-to-nisa"
    assert all(spec.startswith("graph-") for spec in PHASES[0].passes)
    assert all(spec.startswith("nisa-") for spec in PHASES[2].passes[1:])


def test_a_level_ends_where_the_next_begins() -> None:
    specs = [pass_specs(until=level) for level in LEVELS]
    for shorter, longer in pairwise(specs):
        assert longer[: len(shorter)] == shorter
        assert len(longer) > len(shorter)
    assert ",".join(specs[-1]) == PIPELINES["default"]
    # The pipelines from level to level, one after the other, are the default one.
    assert ",".join(PIPELINES[p] for p in ("to-graph", "graph-to-tile", "tile-to-nisa")) == PIPELINES["default"]


@pytest.mark.parametrize("mode", AUTO_CAST)
@pytest.mark.parametrize("dtype", ["bf16", "f16", "tf32"])
def test_cast_options_reach_their_pass(mode: str, dtype: str) -> None:
    (cast,) = [made for made in map(make_pass, pass_specs(mode, dtype)) if made.name == "graph-auto-cast"]
    assert (vars(cast)["mode"], vars(cast)["type"]) == (mode, dtype)


def test_passes_run_in_order_and_report_their_time() -> None:
    module = core_module("trn1", [("f32", (4, 8))], {}, lambda block, arguments, weights: arguments)
    seen: list[tuple[str, bool]] = []

    def done(name: str, seconds: float, after: ModuleOp) -> None:
        assert after is module
        seen.append((name, seconds >= 0))

    specs = ["graph-canonicalize", "graph-fuse", "convert-graph-to-tile"]
    run_passes(Context(), module, specs, done)
    assert seen == [(name, True) for name in specs]
    assert "tile.load" in str(module)


# The collector is off inside and as it was afterwards, also behind an error.
@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_rests(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with no_collection():
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with contextlib.suppress(ZeroDivisionError), no_collection():
            raise ZeroDivisionError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
