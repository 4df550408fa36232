"""Target descriptions: every figure says where it is from, every file loads, unknown and malformed ones are refused."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import neuron_dialects.target as target_module
from neuron_dialects.errors import NeuronError
from neuron_dialects.isa import INSTRUCTIONS
from neuron_dialects.target import SOURCES, Target, load_target, target_names

NAMES = ("inf1", "inf2", "trn1", "trn2")


def file_of(name: str) -> dict[str, Any]:
    """The raw contents of a target file."""
    return tomllib.loads((resources.files("neuron_dialects") / "targets" / f"{name}.toml").read_text("utf-8"))


def test_names():
    assert target_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_has_a_provenance(name: str):
    target = load_target(name)
    assert target.figures
    for key, figure in target.figures.items():
        assert figure.source in SOURCES, key
    assert set(target.assumptions) == {key for key, figure in target.figures.items() if figure.source == "assumed"}


# What is written in a file beside a value is only a source and a note: a misspelt key would otherwise be lost silently.
@pytest.mark.parametrize("name", NAMES)
def test_files_hold_nothing_else(name: str):
    data = file_of(name)
    assert set(data) <= {"generation", "inherits", "figures", "instances"}
    for key, entry in data.get("figures", {}).items():
        assert {"value", "source"} <= set(entry) <= {"value", "source", "note"}, key
    for key, entry in data.get("instances", {}).items():
        assert set(entry) == {"chips", "vcpus", "host_gib"}, key


# One set of figures describes all targets, so nothing needs to ask which one it is.
def test_targets_have_the_same_figures():
    assert len({frozenset(load_target(name).figures) for name in NAMES}) == 1


# Every assumption about v1 is labelled: its on-chip sizes and clocks other than the tensor engine's are not published.
def test_inf1_assumptions_are_labelled():
    assumptions = load_target("inf1").assumptions
    assert {"sbuf_bytes_per_partition", "psum_banks", "pe_rows", "pe_columns", "act_clock_ghz"} <= set(assumptions)
    assert "pe_clock_ghz" not in assumptions
    assert load_target("trn1").figures["sbuf_bytes_per_partition"].source == "documented"


@pytest.mark.parametrize("name", NAMES)
def test_figures_fit_together(name: str):
    target = load_target(name)
    assert set(target.compute_engines) <= set(target.engines)
    assert all(target.clock_ghz(engine) > 0 for engine in target.engines)
    assert set(target.unsupported_instructions) <= set(INSTRUCTIONS) | {"dma_transpose"}
    assert target.pe_rows <= target.partitions == 128
    assert target.pe_moving_elements * 4 <= target.psum_bank_bytes
    assert set(target.dma_trigger_list.values()) <= set(target.engines)
    assert target.dma_rate_bytes_per_ns == pytest.approx(target.dma_engines * target.dma_engine_bytes_per_ns)


# 92 TFLOPS (bf16) of a NeuronCore-v2 are its array times its clock; 16 of a v1.
def test_peak_rates():
    assert 2 * load_target("trn1").peak_macs_per_ns / 1000 == pytest.approx(92, rel=0.01)
    assert 2 * load_target("inf1").peak_macs_per_ns / 1000 == pytest.approx(16, rel=0.05)
    assert load_target("trn1").matmul_rate_factor("f32") == 4.0
    assert load_target("trn1").matmul_rate_factor("bf16") == 1.0


# inf2 and trn2 override some figures of trn1 and keep the others.
@pytest.mark.parametrize(("name", "generation"), [("inf2", 2), ("trn2", 3)])
def test_inheritance(name: str, generation: int):
    trn1, heir = load_target("trn1"), load_target(name)
    own = file_of(name)["figures"]
    assert (heir.name, heir.generation) == (name, generation)
    for key, entry in own.items():
        assert heir.figures[key].value == entry["value"], key
    assert any(heir.figures[key] != trn1.figures[key] for key in own)
    for key in set(trn1.figures) - set(own):
        assert heir.figures[key] == trn1.figures[key]


def test_unknown_target():
    with pytest.raises(NeuronError) as error:
        load_target("inf9")
    assert error.value.code == "NX-TARGET-001"
    assert error.value.message == "unknown target 'inf9'"
    assert error.value.help == "choose one of inf1, inf2, trn1, trn2"


def test_unknown_figure():
    with pytest.raises(AttributeError, match="target trn1 has no figure 'pe_colour'"):
        _ = load_target("trn1").pe_colour


# A figure without a source, with an unknown one, without a value; a file without a generation.
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("generation = 9\n[figures]\npe_rows = { value = 1 }", "figure 'pe_rows' needs a value and a source"),
        ("generation = 9\n[figures]\npe_rows = { value = 1, source = 'felt' }", "figure 'pe_rows' needs a value"),
        ("generation = 9\n[figures]\npe_rows = { source = 'assumed' }", "figure 'pe_rows' needs a value"),
        ("generation = 9\n[figures]\npe_rows = 128", "figure 'pe_rows' needs a value"),
        ("[figures]\n", "target odd: no generation"),
    ],
)
def test_malformed_target(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "odd.toml").write_text(text)
    monkeypatch.setattr(target_module.resources, "files", lambda package: tmp_path)  # pyright: ignore[reportUnknownArgumentType]
    load_target.cache_clear()
    try:
        with pytest.raises(NeuronError) as error:
            load_target("odd")
    finally:
        load_target.cache_clear()
    assert error.value.code == "NX-TARGET-002"
    assert message in error.value.message


def test_target_is_plain_frozen_data():
    target = load_target("trn1")
    assert isinstance(target, Target)
    with pytest.raises(AttributeError):
        target.name = "other"  # pyright: ignore[reportAttributeAccessIssue]
