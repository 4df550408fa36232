"""neuron-run --requests: figures in simulated time, outputs that are computed and checked, options that cannot be."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from runtime.neff import write_neff
from runtime.serving import Runtime
from runtime.serving.simulation import Workload, simulate
from tests.runtime.serving.models import small_model
from tests.runtime.stages import pipeline
from tools.in_process import run_in_process
from tools.neuron_run import main
from tools.top_view import CoreRow, ModelRow, TopView, picture


@pytest.fixture
def neff(tmp_path: Path) -> Path:
    path = tmp_path / "relu.neff"
    write_neff(small_model().neff, path)
    return path


def served(*arguments: str | Path, exit_code: int = 0) -> dict[str, Any]:
    done = run_in_process(main, [*map(str, arguments), "--json"])
    assert done.exit_code == exit_code, done.stderr
    return json.loads(done.stdout)


def test_report(neff: Path):
    report = served(neff, "--requests", "400", "--concurrency", "64", "--instance", "inf1.6xlarge")
    assert (report["instance"], report["chips"], report["requests"], report["clients"]) == ("inf1.6xlarge", 4, 400, 64)
    (model,) = report["models"]
    assert (model["name"], model["instances"], model["cores_per_instance"]) == ("relu", 16, 1)
    assert [row["core"] for row in report["cores"]] == list(range(16))
    assert 0.0 < report["utilisation"] <= 1.0 and 0.0 <= report["bubble"] < 1.0
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    # Little's law, and 64 clients who never pause.
    assert report["mean_in_system"] == pytest.approx(report["throughput"] * latency["mean"] * 1e-3)
    assert report["mean_in_system"] == pytest.approx(64, rel=0.1)
    (check,) = report["checks"]
    assert (check["distinct"], check["checked"], check["wrong"], report["wrong"]) == (4, 4, 0, 0)
    assert len(report["device_memory"]) == 16 and "link_start_ns" in report["assumed_figures"]


# Sixteen cores serve as much as sixteen times one core: the links of the chips are not in the way.
def test_throughput_grows_with_the_instance(neff: Path):
    options = ("--requests", "2000", "--concurrency", "64", "--distinct", "0")
    one, four = (served(neff, *options, "--instance", name) for name in ("inf1.xlarge", "inf1.6xlarge"))
    assert four["steady_throughput"] == pytest.approx(4 * one["steady_throughput"], rel=0.05)


# Latency under few random arrivals is that of a request alone; under more than the cores can serve the queue grows.
def test_random_arrivals(neff: Path):
    options = (neff, "--requests", "500", "--instance", "inf1.xlarge", "--distinct", "0")
    quiet, loud = (served(*options, "--rate", rate) for rate in ("100", "1e7"))
    assert quiet["latency_ms"]["p90"] == pytest.approx(quiet["latency_ms"]["p50"])
    assert quiet["throughput"] == pytest.approx(100, rel=0.2)
    assert loud["throughput"] < 1e6 and loud["mean_waiting"] > 100
    assert served(*options, "--rate", "1e7") == loud


def test_several_models(neff: Path, tmp_path: Path):
    other = tmp_path / "host.neff"
    write_neff(small_model("host").neff, other)
    report = served(neff, other, "--requests", "100", "--instance", "inf1.xlarge")
    assert [(row["name"], row["instances"], row["requests"]) for row in report["models"]] == [
        ("relu", 2, 50), ("host", 2, 50),
    ]  # fmt: skip
    assert [row["models"] for row in report["cores"]] == [["relu"], ["relu"], ["host"], ["host"]]
    assert [check["checked"] for check in report["checks"]] == [4, 4]


def test_groups_of_the_environment(neff: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NEURONCORE_GROUP_SIZES", "3")
    report = served(neff, "--requests", "10")
    assert (report["owned_cores"], report["models"][0]["instances"]) == ([0, 3], 3)
    monkeypatch.setenv("NEURONCORE_GROUP_SIZES", "5")
    done = run_in_process(main, [str(neff), "--requests", "10", "--instance", "inf1.xlarge"])
    assert (done.exit_code, done.stderr.splitlines()[0]) == (
        1,
        "error[NX-NRT-004]: NRT_RESOURCE: 5 NeuronCores side by side are not available: the instance has 4, 4 are free",
    )


# Expected outputs of another model are noticed.
def test_wrong_outputs(neff: Path, tmp_path: Path):
    model = small_model()
    np.savez(tmp_path / "x.npz", x=model.inputs[0]["x"])
    options = (neff, "--requests", "5", "--inputs", tmp_path / "x.npz", "--check", tmp_path / "y.npz")
    np.savez(tmp_path / "y.npz", y=model.expected[0])
    assert served(*options)["checks"][0]["rel_l2_error"] == 0.0
    np.savez(tmp_path / "y.npz", y=model.expected[1])
    report = served(*options, exit_code=1)
    assert (report["wrong"], report["checks"][0]["checked"]) == (1, 1)
    done = run_in_process(main, [*map(str, options)])
    assert "relu: 1 distinct input computed and checked against y.npz: 1 WRONG" in done.stdout


def test_text(neff: Path):
    done = run_in_process(main, [str(neff), "--requests", "50", "--concurrency", "1"])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[:2] == ["inf1.xlarge: 4 cores of 1 chip", "relu: 4 instances of 1 core"]
    assert lines[2].startswith("50 requests of 1 client in 0.00") and lines[2].endswith(" s (simulated)")
    assert "4 distinct inputs computed and checked against a session alone: all right" in done.stdout


@pytest.mark.parametrize(
    "options",
    [
        ["--requests", "0"], ["--requests", "9999999"], ["--requests", "5", "--concurrency", "0"],
        ["--requests", "5", "--rate", "0"], ["--requests", "5", "--rate", "nan"],
        ["--requests", "5", "--rate", "5", "--concurrency", "5"], ["--requests", "5", "--distinct", "-1"],
        ["--requests", "5", "--mode", "timing"], ["--requests", "5", "--outputs", "y.npz"],
        ["--concurrency", "5"], ["--top"], ["--instance", "inf1.xlarge"],
    ],
)  # fmt: skip
def test_bad_options(neff: Path, options: list[str]):
    done = run_in_process(main, [str(neff), *options])
    assert done.exit_code == 1 and done.stderr.startswith("error[NX-ARG-002]")


def test_files_that_cannot_be_served(neff: Path, tmp_path: Path):
    five = ["--requests", "5"]
    for files in ([neff, neff], [tmp_path / "a.mlir", *five], [neff, neff, *five, "--check", neff]):
        done = run_in_process(main, [*map(str, files)])
        assert done.exit_code == 1 and done.stderr.startswith("error[NX-ARG-002]")
    done = run_in_process(main, [str(neff), "--requests", "5", "--instance", "inf9.large"])
    assert done.stderr.startswith("error[NX-TARGET-004]")


# -- the live view -----------------------------------------------------------------------------------------------------


def drawn(renderable: object) -> str:
    console = Console(file=StringIO(), width=120, color_system=None)
    console.print(renderable)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_picture():
    rows = drawn(picture("now", [CoreRow(5, 0.5, "m", 3 << 20, 2 << 30)], [ModelRow("m", 2, 7, 1, 40, 12.5)]))
    (core,) = [line for line in rows.splitlines() if line.startswith("│ 5")]
    assert "50%" in core and "3.00 of 2048 MiB" in core
    (model,) = [line for line in rows.splitlines() if line.startswith("│ m")]
    assert model.split("│")[1:7] == [" m     ", " 2         ", " 7       ", " 1       ", " 40   ", " 12.5       "]


# The last picture of the simulation shows all requests as done, and each core as busy as it was.
def test_live_view_of_a_simulation():
    model = small_model()
    console = Console(file=StringIO(), width=120, color_system=None, force_terminal=True)
    with Runtime("inf1.xlarge", {}) as runtime, TopView(runtime, console) as view:
        loaded = runtime.load(model.neff, core_count=2)
        loaded.run(model.inputs[0])
        services = [loaded.service()]
        simulate(services, runtime.instance.hardware, Workload([0] * 100, 8), observer=view.observer(services))
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "computing" in text and "ms simulated" in text
    assert "│ 0       │ 0       │ 100  │" in text


def test_all_cores_on_one_clock(tmp_path: Path):
    """A pipeline of two stages: its throughput on one clock is that of the queues, for launches keep nothing busy."""
    path = tmp_path / "stages.neff"
    write_neff(pipeline(2), path)
    report = served(path, "--requests", "200", "--concurrency", "64", "--distinct", "0", "--cosimulate", "20")
    (row,) = report["one_clock"]
    assert (row["model"], row["requests"], row["inside"]) == ("stages", 20, 5)
    text = run_in_process(main, [str(path), "--requests", "5", "--distinct", "0", "--cosimulate", "5"]).stdout
    assert "stages: all cores on one clock (5 requests, 5 inside): steady" in text
    assert served(path, "--requests", "5", "--distinct", "0")["one_clock"] == []
    checked = run_in_process(main, [str(path), "--check-races"])
    assert checked.exit_code == 0, checked.stderr
