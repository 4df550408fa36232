"""Profiles on disk: the same bytes again, the same profile again, and nothing that was tampered with."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neuron_dialects.errors import NeuronError
from neuron_dialects.target import load_target
from runtime.profile.advice import advice_of
from runtime.profile.analysis import Analysis
from runtime.profile.columns import column_types
from runtime.profile.explorer_tables import explorer_tables
from runtime.profile.model import TABLES, Events
from runtime.profile.operators import operators_of
from runtime.profile.record import record_programs
from runtime.profile.store import read_profile, read_programs, write_profile
from runtime.profile.summary import summary_of
from runtime.profile.what_if import retimed
from tests.runtime.core_programs import matmul_relu, rotating_scale
from tests.runtime.profile.profiles import small_analysis, small_neff


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    programs = [("sg00", matmul_relu()), ("sg01", rotating_scale(4, 2))]
    profile = record_programs("two programs", programs, load_target("trn1"), [0, 1, 0])
    write_profile(profile, [program for _, program in programs], tmp_path / "profile")
    return tmp_path / "profile"


def test_a_profile_comes_back(tmp_path: Path):
    profile, programs = small_analysis().profile, [image.program for image in small_neff().subgraphs]
    for name in ("a", "b"):
        write_profile(profile, programs, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    back = read_profile(tmp_path / "a")
    assert summary_of(back) == summary_of(profile)
    assert (back.model, back.launches) == (profile.model, profile.launches)
    assert (back.target.name, back.target.figures) == (profile.target.name, profile.target.figures)
    for before, after in zip(profile.programs, back.programs, strict=True):
        assert (before.texts, before.origins, before.variables) == (after.texts, after.origins, after.variables)
        for name, kind in TABLES.items():
            for part in column_types(kind):
                assert np.array_equal(getattr(getattr(before, name), part), getattr(getattr(after, name), part))


# The programs that lie beside the columns take the same time again.
def test_programs_come_back(folder: Path):
    profile = read_profile(folder)
    again = retimed(profile, read_programs(folder), ())
    assert summary_of(again) == summary_of(profile)
    assert again.launches == (0, 1, 0)


# A profile whose target lacks a figure, or has another kind of one, can be looked at but not timed again.
@pytest.mark.parametrize(
    ("figure", "value"),
    [("act_latency_ns", None), ("act_latency_ns", "long"), ("engine_list", [1]), ("dma_rings", 1.5)],
)
def test_programs_need_every_figure(folder: Path, figure: str, value: Any):
    def change(data: dict[str, Any]) -> None:
        data["figures"][figure]["value"] = value
        if value is None:
            del data["figures"][figure]

    changed_json(folder, change)
    profile = read_profile(folder)
    assert summary_of(profile)["total_time"] > 0
    with pytest.raises(NeuronError, match=f"no figure {figure} like that of target trn1") as raised:
        retimed(profile, read_programs(folder), ())
    assert raised.value.code == "NX-PROF-001"


def refused(folder: Path, code: str = "NX-PROF-001") -> str:
    with pytest.raises(NeuronError) as raised:
        read_profile(folder)
    assert raised.value.code == code
    return raised.value.message


def test_what_is_no_profile(tmp_path: Path):
    assert "not the folder of a profile" in refused(tmp_path, "NX-FILE-001")


def changed_json(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "profile.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=2), "version 2"),
        (lambda d: d.update(format="other"), "format"),
        (lambda d: d.pop("launches"), "launches"),
        (lambda d: d.update(launches=[7]), "launch"),
        (lambda d: d["figures"].pop("dma_start_ns"), "dma_start_ns"),
        (lambda d: d["figures"]["sbuf_bytes_per_partition"].update(value=1 << 60), "sbuf_bytes_per_partition"),
        (lambda d: d["figures"]["scalar_registers"].update(value=1 << 60), "scalar_registers"),
        (lambda d: d["figures"]["pe_clock_ghz"].update(value="fast"), "pe_clock_ghz"),
        (lambda d: d["programs"][0].update(origins=[]), "origin"),
        (lambda d: d["programs"][0]["timing"].update(total_time="long"), "total_time"),
        (lambda d: d["programs"].append(d["programs"][0]), "program-02.npz"),
    ],
)
def test_changed_descriptions_are_refused(folder: Path, change: Callable[[dict[str, Any]], None], message: str):
    changed_json(folder, change)
    assert message in refused(folder)


def changed_column(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    path = folder / "program-00.npz"
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays[name] = change(arrays[name])
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("events.instruction", lambda a: a + 100, "events.instruction"),
        ("events.start", lambda a: -a - 1, "start"),
        ("events.start", lambda a: np.full_like(a, np.nan), "start"),
        ("events.start", lambda a: a[::-1], "order"),
        ("events.end", lambda a: a * 0, "ends before"),
        ("events.end", lambda a: a[:-1], "end"),
        ("events.done", lambda a: a.astype(np.float32), "done"),
        ("events.shift", lambda a: a + 1000, "shift"),
        ("instructions.stream", lambda a: a + 50, "stream"),
        ("instructions.signal", lambda a: a * 0 - 1, "never happened"),
        ("accesses.high", lambda a: a + (1 << 60), "bytes"),
        ("accesses.last_partition", lambda a: a * 0, "partitions"),
        ("waits.value", lambda a: a + 1000, "never happened"),
        ("waits.semaphore", lambda a: a + 9, "semaphore"),
        ("texts", lambda a: a[:3], "texts"),
        ("texts", lambda a: a * 0 + 255, "texts"),
        ("signals.time", lambda a: np.array([object()], dtype=object), "npz"),
    ],
)
def test_changed_columns_are_refused(folder: Path, column: str, change: Callable[[Any], Any], message: str):
    changed_column(folder, column, change)
    assert message in refused(folder)


def test_broken_archives_are_refused(folder: Path):
    path = folder / "program-00.npz"
    whole = path.read_bytes()
    for data in (b"", b"PK", whole[: len(whole) // 2]):
        path.write_bytes(data)
        assert "npz" in refused(folder)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("events.start.npy", b"\0" * (1 << 10))
    assert "no column" in refused(folder)
    path.unlink()
    assert "npz" in refused(folder)


# Columns that are each possible but no run of a machine: whatever is worked out from them ends, in words for a user.
@pytest.mark.parametrize("seed", range(12))
def test_impossible_runs_end(folder: Path, seed: int):
    rng = np.random.default_rng(seed)
    path = folder / "program-01.npz"
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    for name in rng.choice(["events.dispatched", "events.done", "waits.until", "waits.since", "shifts.bytes"], 2):
        arrays[name] = rng.permutation(arrays[name])
    for name in rng.choice(["instructions.signal", "instructions.queue", "accesses.low", "instructions.latency_ns"], 1):
        arrays[name] = rng.permutation(arrays[name])
    np.savez(path, **arrays)
    with contextlib.suppress(NeuronError):
        analysis = Analysis(read_profile(folder))
        assert len(operators_of(analysis)) >= 1
        assert len(explorer_tables(analysis)) == 10
        advice_of(analysis)


def test_columns_have_one_length():
    with pytest.raises(NeuronError, match="column dispatched"):
        Events.of(instruction=[0, 0], dispatched=[1.0])
