"""The benchmark harness on models of a few milliseconds: measuring, selecting, comparing, batching."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks import ablation, performance
from benchmarks.__main__ import main
from benchmarks.ablation import ablate, markdown, page, relative, variants
from benchmarks.cases import FULL_SIZE, MODELS, Case, Model, select
from benchmarks.compare import Change, changes
from benchmarks.models import MODELS_VARIABLE, ROOT, decoder, prepare
from benchmarks.performance import page as page_of_figures
from benchmarks.runner import Settings, measure
from benchmarks.table import mean_efficiency, means, show
from runtime.reference import run_onnxruntime

TINY = Case(Model("matmul128", "square_matmul"), 1, "trn1")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A matmul of 128: compiled, timed, run and compared in processes of its own."""
    return measure(TINY, Settings(cache=tmp_path_factory.mktemp("cache")))


# Every figure of a case is there, and its tables can be printed.
def test_measuring_a_case(record: dict[str, Any]) -> None:
    assert record["status"] == "ok", record["message"]
    assert record["rel_l2_error"] < record["rel_l2_limit"]
    assert record["efficiency"] == pytest.approx(record["roofline_time"] / record["total_time"])
    assert record["dram_bytes"] == record["compulsory_bytes"] == 3 * 128 * 128 * 2
    assert record["samples_per_second_per_chip"] == pytest.approx(2 / record["total_time"])
    assert record["compile_peak_bytes"] > 10e6
    assert record["dynamic_instructions"] > 0
    console = Console(record=True, width=250)
    show([record, {"case": "absent", "status": "missing", "message": "no file"}], console)
    text = console.export_text()
    assert "matmul128-b1-trn1" in text
    assert "absent: missing: no file" in text
    assert "not measured" in text


# A pass left out that everything needs: the case fails and says why, nothing is raised.
def test_a_case_that_fails(tmp_path: Path) -> None:
    record = measure(TINY, Settings(cache=tmp_path, check=False, without=("nisa-allocate",)))
    assert record["status"] == "failed"
    assert record["message"]


def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path))
    record = measure(Case(Model("resnet50"), 1, "trn1"), Settings(cache=tmp_path / "cache"))
    assert (record["status"], record["message"]) == (
        "missing",
        f"no resnet50.onnx in {tmp_path} (set {MODELS_VARIABLE})",
    )
    assert main(["--model", "resnet50", "--json", str(tmp_path / "out.json"), "--cache", str(tmp_path / "cache")]) == 0


def test_selection() -> None:
    assert {case.model.name for case in select()} == {model.name for model in MODELS}
    assert [c.name for c in select(["resnet50"], ["inf1"])] == [f"resnet50-b{b}-inf1" for b in (1, 10, 8)]
    assert [c.name for c in select(["resnet50"], ["inf1"], [4])] == ["resnet50-b4-inf1"]
    assert {c.batch for c in select(batches=[8])} == {8}
    matmuls = [f"matmul{n}-b1-trn1" for n in ("1024", "1024_at", "2048", "4096")]
    assert [c.name for c in select(["matmul*"], quick=True)] == matmuls
    assert all(case.model.quick for case in select(quick=True))
    assert [c.name for c in select(["resnet50"], ["trn1"], throughput=True)] == ["resnet50-b8-trn1"]


# A slower program is a regression, within the tolerance it is none; seconds need a difference that is no noise.
@pytest.mark.parametrize(
    ("figure", "before", "now", "expected"),
    [
        ("total_time", 1e-3, 1.02e-3, True),
        ("total_time", 1e-3, 1.005e-3, False),
        ("total_time", 1e-3, 0.5e-3, False),
        ("spill_bytes", 0, 1, True),
        ("compile_cpu_seconds", 0.1, 0.2, False),
        ("compile_cpu_seconds", 1.0, 2.0, True),
    ],
)
def test_regressions(figure: str, before: float, now: float, expected: bool) -> None:
    assert Change("case", figure, before, now).is_regression is expected


# Cases are matched by name; one that was right and is wrong now is a regression, one that is new is none.
def test_changes() -> None:
    old = [{"case": "a", "status": "ok", "total_time": 1.0}, {"case": "b", "status": "ok", "total_time": 1.0}]
    new = [
        {"case": "a", "status": "wrong", "total_time": 1.0}, {"case": "b", "status": "ok", "total_time": 0.9},
        {"case": "c", "status": "ok", "total_time": 5.0},
    ]  # fmt: skip
    assert [(c.case, c.is_regression) for c in changes(old, new)] == [("a", True), ("b", False)]


# Another revision is checked out and measured by the same code; where this one takes longer, the exit code says so.
@pytest.mark.parametrize(("factor", "code"), [(1.02, 1), (0.5, 0)])
def test_against_a_revision(
    record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, code: int
) -> None:
    other = tmp_path / "tree"
    measured: list[Path] = []

    @contextmanager
    def checked_out(revision: str) -> Generator[Path]:
        assert revision == "main~1"
        yield other

    def stub(case: Case, settings: Settings) -> dict[str, Any]:
        measured.append(settings.root)
        scale = 1.0 if settings.root == other else factor
        return record | {"case": case.name, "total_time": record["total_time"] * scale}

    monkeypatch.setattr("benchmarks.__main__.worktree", checked_out)
    monkeypatch.setattr("benchmarks.__main__.measure", stub)
    arguments = ["--model", "matmul1024", "--against", "main~1", "--json", str(tmp_path / "out.json")]
    assert main(arguments) == code
    assert measured == [ROOT, other]
    assert main([*arguments[:2], "--against", str(tmp_path / "out.json"), "--json", str(tmp_path / "again.json")]) == 0


# The manual's page: a row for the case in both tables, the mean, and why another case has no figures.
def test_performance_page(record: dict[str, Any]) -> None:
    absent = {"case": "absent", "target": "trn1", "status": "missing", "message": "no file"}
    text = page_of_figures({"revision": "abc", "records": [record, absent]})
    assert text.count("| matmul128-b1-trn1 |") == 2
    assert f"geometric mean of efficiency {record['efficiency']:.3f} over 1 cases" in text
    assert "absent: missing: no file." in text


def test_mean_efficiency() -> None:
    assert mean_efficiency([{"efficiency": 0.25}, {"efficiency": 1.0}]) == pytest.approx(0.5)
    assert mean_efficiency([]) == 0.0


# The mean over the full-size models counts each of them once, at its largest batch.
def test_means() -> None:
    def case(model: str, source: str, batch: int, efficiency: float) -> dict[str, Any]:
        return {"model": model, "source": source, "batch": batch, "efficiency": efficiency}

    square = case("square", "square_matmul", 1, 1.0)
    models = [case("a", FULL_SIZE, 8, 0.25), case("a", FULL_SIZE, 1, 0.0625), case("b", FULL_SIZE, 1, 1.0)]
    assert means([square, *models]) == "geometric mean of efficiency 0.500 over 2 full-size models, 0.354 over 4 cases"
    assert means([square]) == "geometric mean of efficiency 1.000 over 1 cases"


def _row(without: str, **figures: Any) -> dict[str, Any]:
    return {"case": "a", "without": without, "status": "ok", "message": "", **figures}


# Cases can be measured one by one: those of the same revision stay on the page, those of another one go.
def test_kept_ablations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "RESULTS", tmp_path / "results" / "ablation.json")
    monkeypatch.setattr(ablation, "PAGE", tmp_path / "ablation.md")
    for revision, cases in (("r1", "a"), ("r2", "b"), ("r2", "c"), ("r2", "b")):
        rows = [_row("", total_time=1e-6, host_operators=0) | {"case": case} for case in cases]
        ablation.keep({"revision": revision, "ablation": rows})
    kept = json.loads((tmp_path / "results" / "ablation.json").read_text())
    assert (kept["revision"], [row["case"] for row in kept["ablation"]]) == ("r2", ["c", "b"])
    assert "| | c | b | |" in (tmp_path / "ablation.md").read_text()


# A thing left out: slower pays, faster costs, equal makes no difference; what does not compile or needs the host is
# needed.
def test_ablation_table() -> None:
    rows = [
        _row("", total_time=1e-6, host_operators=0),
        _row("p", total_time=1.5e-6, host_operators=0),
        _row("q", total_time=0.5e-6, host_operators=0),
        _row("r", total_time=1.0001e-6, host_operators=0),
        _row("s", total_time=0.5e-6, host_operators=2),
        _row("t", status="failed"),
        _row("u", total_time=0.0, host_operators=0),
    ]
    assert [row["slowdown"] for row in relative(rows)] == [
        pytest.approx(0.5),
        -0.5,
        pytest.approx(1e-4),
        None,
        None,
        None,
    ]
    text = markdown(rows)
    for line in (
        "| everything | 1.0 us | |", "| `p` | 1.500 | pays |", "| `q` | 0.500 | costs |",
        "| `r` | = | no difference |", "| `s` | host | needed |", "| `t` | fails | needed |",
        "| `u` | fails | needed |",
    ):  # fmt: skip
        assert line in text
    assert "(revision abc" in page({"revision": "abc", "ablation": rows})


# The pages are those of the figures that are kept.
@pytest.mark.parametrize(
    ("path", "results", "make"),
    [(ablation.PAGE, ablation.RESULTS, page), (performance.PAGE, performance.RESULTS, page_of_figures)],
)
def test_kept_pages(path: Path, results: Path, make: Callable[[dict[str, Any]], str]) -> None:
    assert path.read_text(encoding="utf-8") == make(json.loads(results.read_text(encoding="utf-8")))


# A matmul: what changes nothing is not compiled again, and a program without copies of its
# buffers is slower.
def test_ablation(tmp_path: Path) -> None:
    case = Case(Model("matmul512", "square_matmul"), 1, "trn1")
    rows = {row["without"]: row for row in ablate([case], Settings(cache=tmp_path), Console())}
    whole = rows[""]
    assert list(rows) == [variant.name for variant in variants()]
    assert rows["graph-fold-batch-norm"]["total_time"] == whole["total_time"]
    assert rows["rotation (kernels)"]["total_time"] > whole["total_time"]


# The generated decoder runs, is finite, and is made once.
def test_decoder(tmp_path: Path) -> None:
    inputs = decoder("decoder1", tmp_path / "d.onnx")
    (y,) = run_onnxruntime(tmp_path / "d.onnx", inputs).values()
    assert y.shape == (1, 128, 768)
    assert np.isfinite(y).all()
    assert prepare(TINY.model, 1, tmp_path) == prepare(TINY.model, 1, tmp_path)
