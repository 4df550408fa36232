"""neuron-profile and neuron-run --profile as a user types them."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.tutorial import EXP_TILES
from runtime.neff import write_neff
from runtime.profile.advice import RULES
from runtime.profile.summary import summary_of
from runtime.profile.what_if import DEFAULT_QUESTIONS, KNOBS
from tests.run_lines import ROOT
from tests.runtime.profile.profiles import small_analysis, small_neff
from tools.in_process import Completed, run_in_process
from tools.neuron_opt import run_in_process as neuron_opt
from tools.neuron_profile import main
from tools.neuron_run import main as neuron_run
from tools.profile.html import MAX_BLOCKS


def profile(*arguments: str | Path) -> Completed:
    return run_in_process(main, [str(argument) for argument in arguments])


def succeeded(*arguments: str | Path) -> str:
    done = profile(*arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile of the small model."""
    place = tmp_path_factory.mktemp("profile")
    write_neff(small_neff(), place / "small.neff")
    done = run_in_process(neuron_run, [str(place / "small.neff"), "--profile", str(place / "a"), "--mode", "both"])
    assert done.exit_code == 0, done.stderr
    assert succeeded("capture", place / "small.neff", "-o", place / "b").endswith("events\n")
    for file in (place / "a").iterdir():
        assert file.read_bytes() == (place / "b" / file.name).read_bytes()
    return place / "a"


def test_summaries(folder: Path, tmp_path: Path):
    figures = json.loads(succeeded("view", folder, "--output-format", "summary-json"))
    assert figures == summary_of(small_analysis().profile)
    lines = dict(line.split() for line in succeeded("view", folder, "--output-format", "summary-text").splitlines())
    assert lines.keys() == figures.keys()
    assert float(lines["total_time"]) == pytest.approx(figures["total_time"])
    assert lines["is_simulation"] == "true"
    assert succeeded("view", folder, "--output-format", "summary-json", "--output-file", tmp_path / "s.json") == ""
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == figures


# The report names the model, every engine, the slowest layers, and what to do.
def test_report(folder: Path):
    report = succeeded("view", folder)
    first, *_ = report.splitlines()
    assert first.startswith(f"{small_neff().name} on trn1: ")
    for text in ("tensor", "vector", "scalar", "dma", "Critical path: ", "/net/layer.0", "/net/layer.1", "MFU"):
        assert text in report
    assert "small-payload: runs below 4 KiB" in report
    assert max(map(len, report.splitlines())) <= 120


def test_what_if(folder: Path):
    before = json.loads(succeeded("view", folder, "--output-format", "summary-json"))["total_time"]
    changed = json.loads(succeeded("view", folder, "--what-if", "dma=inf", "--output-format", "summary-json"))
    assert changed["total_time"] < before
    assert "what if dma=inf" in succeeded("view", folder, "--what-if", "dma=inf")
    answers = json.loads(succeeded("what-if", folder, "dma=inf", "clock=2x", "--json"))
    assert answers["total_time"] == before
    alone, clock, both = answers["what_if"]
    assert alone == {"changes": ["dma=inf"], "total_time": changed["total_time"]}
    assert both["changes"] == ["dma=inf", "clock=2x"]
    assert both["total_time"] < min(alone["total_time"], clock["total_time"])
    asked = [line.split()[0] for line in succeeded("what-if", folder).splitlines()]
    assert asked == ["as", *DEFAULT_QUESTIONS]
    done = profile("what-if", folder, "speed=2x")
    assert done.exit_code == 1 and "error[NX-PROF-002]: target trn1 has no figure 'speed'" in done.stderr


# A profile against itself passes every limit; against that of a faster machine it fails.
def test_diff(folder: Path, tmp_path: Path):
    assert succeeded("diff", folder, folder, "--fail-if", "total_time>+0%") == "No figure differs.\n"
    data = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
    slower = tmp_path / "slower"
    slower.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (slower / file.name).write_bytes(file.read_bytes())
    data["programs"][0]["timing"]["total_time"] *= 1.5
    (slower / "profile.json").write_text(json.dumps(data), encoding="utf-8")
    done = profile("diff", folder, slower, "--fail-if", "total_time>+2%", "--fail-if", "total_time>+60%")
    assert done.exit_code == 1
    assert "error[NX-PROF-004]: total_time>+2%: it went from" in done.stderr and "+50.00%" in done.stderr
    assert "total_time" in done.stdout
    assert profile("diff", folder, slower, "--fail-if", "total_time>+60%").exit_code == 0
    compared: dict[str, Any] = json.loads(succeeded("diff", folder, slower, "--json"))
    (total,) = [row for row in compared["figures"] if row["name"] == "total_time"]
    assert total["after"] == pytest.approx(1.5 * total["before"])
    assert compared["broken"] == []


def test_csv(folder: Path, tmp_path: Path):
    assert succeeded("view", folder, "--output-format", "csv", "--output-file", tmp_path) == f"{tmp_path}: 10 tables\n"
    tables = {
        file.stem: list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        for file in tmp_path.glob("*.csv")
    }
    figures = summary_of(small_analysis().profile)
    instructions, transfers = tables["Instruction"], tables["DmaPacketAggregated"]
    assert len(transfers) == figures["dma_transfer_count"]
    assert sum(int(row["transfer_bytes"]) for row in transfers) == figures["dma_transfer_total_bytes"]
    tensor = [row for row in instructions if row["engine"] == "tensor"]
    assert sum(float(row["duration_ns"]) for row in tensor) == pytest.approx(
        float(figures["tensor_engine_active_time"]) * 1e9
    )
    regular = sum(int(row["raw_flops"]) for row in tensor if row["tensor_instruction_type"] == "REGULAR")
    assert regular == figures["hardware_flops"]
    assert {row["layer"] for row in instructions} >= {"/net/layer.0", "/net/layer.1"}
    ids = {int(row["id"]) for row in (*instructions, *transfers)}
    assert {int(row[side]) for row in tables["Flow"] for side in ("in_id", "out_id")} <= ids
    assert tables["Metadata"][0]["is_simulation"] == "True"
    described = {(row["table"], row["field"]) for row in tables["SchemaFields"]}
    assert {(name, field) for name in ("Instruction", "Flow", "Summary") for field in tables[name][0]} <= described


def test_parquet(folder: Path, tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    succeeded("view", folder, "--output-format", "parquet", "--output-file", tmp_path)
    table = parquet.read_table(tmp_path / "DmaPacketAggregated.parquet")
    assert table.num_rows == summary_of(small_analysis().profile)["dma_transfer_count"]


def test_parquet_without_pyarrow(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = profile("view", folder, "--output-format", "parquet", "--output-file", tmp_path / "t")
    assert done.exit_code == 1
    assert "error[NX-PROF-003]" in done.stderr
    assert not (tmp_path / "t").exists()


# Text in queues can be profiled like a NEFF.
def test_profile_of_text(tmp_path: Path):
    queues = tmp_path / "queues.mlir"
    pipeline = "nisa-verify,nisa-allocate,nisa-synchronize,nisa-split-queues"
    assert neuron_opt([str(EXP_TILES), "-p", pipeline, "-o", str(queues)]).exit_code == 0
    done = run_in_process(neuron_run, [str(queues), "--mode", "timing", "--json", "--profile", str(tmp_path / "p")])
    assert done.exit_code == 0, done.stderr
    figures = json.loads(succeeded("view", tmp_path / "p", "--output-format", "summary-json"))
    assert figures["total_time"] == json.loads(done.stdout)["total_time"]


@pytest.mark.parametrize("arguments", [["view"], ["diff"], ["what-if"], ["capture"]])
def test_what_is_no_profile(arguments: list[str], tmp_path: Path):
    folders = [str(tmp_path)] * (2 if arguments == ["diff"] else 1)
    rest = ["-o", str(tmp_path)] if arguments == ["capture"] else []
    done = profile(*arguments, *folders, *rest)
    assert done.exit_code == 1
    assert done.stderr.startswith("error[NX-FILE-001]")


# The manual's tables name every rule with its threshold, and every knob.
def test_manual():
    page = (ROOT / "docs" / "profiling.md").read_text(encoding="utf-8")
    for rule in RULES.values():
        (row,) = [line for line in page.splitlines() if line.startswith("|") and f"`{rule.name}`" in line]
        assert row.rstrip(" |").endswith(" E") == rule.documented
        if 0 < rule.threshold < 1 and rule.threshold != 0.5:
            assert f"{rule.threshold:.0%}" in row
    assert all(f"| `{name}` |" in page for name in KNOBS)
    assert f"{MAX_BLOCKS:,} events" in page


def test_bucket_that_is_not_there(tmp_path: Path):
    write_neff(small_neff(), tmp_path / "small.neff")
    done = profile("capture", tmp_path / "small.neff", "-o", tmp_path / "p", "--bucket", "1")
    assert "error[NX-ARG-002]: bucket 1: the model has 1" in done.stderr
