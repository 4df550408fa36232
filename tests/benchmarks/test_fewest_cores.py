"""`auto` takes as few cores as hold a model, and a pipeline of them is worth more than each of its cores alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.cases import Model
from benchmarks.fewest_cores import AUTO_CAST, MODELS, TARGET, measure, table
from benchmarks.models import Missing, prepare
from benchmarks.pipeline import stream
from lowering.compiler import CompileOptions, compile_model


def prepared(name: str, folder: Path) -> Path:
    """The file of a full-size model; skips where it is not here."""
    try:
        return prepare(MODELS[name], 1, folder)[0]
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["mobilenet_v2", "bert_base"])
def test_one_core_fewer_does_not_hold_a_model(name: str, tmp_path: Path) -> None:
    row = measure(name, prepared(name, tmp_path))
    assert row.report["cores"] == row.report["fewest"]
    assert row.refusal


@pytest.mark.nightly
def test_cores_of_a_pipeline_are_worth_more_than_one_alone(tmp_path: Path) -> None:
    """resnet50: at least three times the throughput of one core, and more for each core."""
    path = prepared("resnet50", tmp_path)
    row = measure("resnet50", path)
    assert row.refusal
    alone = compile_model(path, CompileOptions(TARGET, AUTO_CAST)).neff
    assert alone is not None
    single = stream(alone)["throughput"]
    assert row.figures["throughput"] >= 3 * single
    assert row.figures["throughput"] / row.report["cores"] > single
    assert f"| resnet50 | 25.5 M | {row.report['cores']} | 4 |" in table([row])


@pytest.mark.nightly
def test_a_generated_encoder(tmp_path: Path) -> None:
    """One layer of BERT's large size: 25 MB of weights in bf16 beside a table that stays in DRAM."""
    path, _ = prepare(Model("encoder1", "encoder"), 1, tmp_path)
    row = measure("encoder1", path)
    assert row.report["cores"] >= 3
    assert row.refusal
