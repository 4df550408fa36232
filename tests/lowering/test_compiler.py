"""The compiler as a function: options, what each level leaves behind, the report, and the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowering.compiler import AUTO_CAST, AUTO_CAST_TYPES, CompileOptions, compile_model, decisions
from lowering.onnx_to_graph import import_onnx
from lowering.pipeline import LEVELS, pass_specs
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import Executor, functions_of
from neuron_dialects.target import load_target, target_names
from tests.numerics.models import SHIPPED

LENET, MLP = SHIPPED / "lenet5.onnx", SHIPPED / "mnist_mlp.onnx"


@pytest.mark.parametrize("target", target_names())
@pytest.mark.parametrize("auto_cast", AUTO_CAST)
@pytest.mark.parametrize("auto_cast_type", AUTO_CAST_TYPES)
def test_allowed_options_pass(target: str, auto_cast: str, auto_cast_type: str) -> None:
    CompileOptions(target, auto_cast, auto_cast_type).check()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (CompileOptions(target="trn9"), "NX-TARGET-001", "unknown target 'trn9'"),
        (CompileOptions(target="../trn1"), "NX-TARGET-001", "unknown target '../trn1'"),
        (CompileOptions(auto_cast="some"), "NX-ARG-001", "--auto-cast some: choose one of none, matmult, all"),
        (CompileOptions(auto_cast_type="f16"), "NX-ARG-001", "--auto-cast-type f16: choose one of bf16, fp16, tf32"),
        (CompileOptions(emit="elf"), "NX-ARG-001", "--emit elf: choose one of"),
    ],
)
def test_other_options_are_refused_before_any_work(options: CompileOptions, code: str, message: str) -> None:
    with pytest.raises(NeuronError) as caught:
        compile_model("there is no such file.onnx", options)
    assert caught.value.code == code
    assert message in caught.value.message


# inf1 does not multiply tf32: this is said by the pass that would cast, with what the target has.
def test_a_cast_type_that_the_target_lacks_is_refused() -> None:
    with pytest.raises(NeuronError, match=r"inf1 does not multiply tf32\n  help: it multiplies bf16"):
        compile_model(MLP, CompileOptions(target="inf1", auto_cast_type="tf32"))


@pytest.mark.parametrize(
    ("emit", "inside", "outside"),
    [
        ("import", "graph.conv", "neuron.launch"),
        ("graph", "graph.fused", "tile.matmul"),
        ("tile", "tile.matmul", "nisa.nc_matmul"),
        ("nisa", "nisa.queue", "scf.for"),
    ],
)
def test_a_level_stops_with_its_ops(emit: str, inside: str, outside: str) -> None:
    result = compile_model(LENET, CompileOptions(target="trn1", emit=emit))
    result.module.verify()
    text = str(result.module)
    assert inside in text
    assert outside not in text
    assert result.neff is None
    assert len(result.weights) > 0


def test_the_neff_holds_every_segment() -> None:
    result = compile_model(LENET, CompileOptions(target="trn1"))
    assert result.neff is not None
    assert len(result.neff.subgraphs) == len(functions_of(result.module, Executor.CORE)) == 1
    assert (result.neff.name, result.neff.target) == ("lenet5", "trn1")
    assert [spec.name for spec in result.neff.inputs] == ["input"]


def test_the_report_says_what_was_decided() -> None:
    told: list[str] = []
    result = compile_model(LENET, CompileOptions(target="trn1"), told.append)
    report = result.report
    assert {row["node"] for row in report["partition"]} >= {"/0/Conv", "/2/AveragePool", "/12/Softmax"}
    for row in report["partition"]:
        assert set(row) == {"node", "op", "where", "segment", "why"}
        assert row["where"] in ("core", "host") and row["why"]
    assert "/0/Conv|f32|bf16" in report["casts"]
    product = {"node": "/0/Conv", "type": "bf16", "arithmetic": "float", "largest_sum": None}
    assert product in report["products"]
    assert report["spills"] == []
    assert 0 < report["peak_sbuf_bytes"] <= load_target("trn1").sbuf_bytes_per_partition
    assert report["instruction_bytes"] > 1000
    assert (report["target"], report["auto_cast"], report["auto_cast_type"]) == ("trn1", "matmult", "bf16")
    target = load_target("trn1")
    assert [text.partition(" = ")[0] for text in report["assumptions"]] == list(target.assumptions)
    assert report["import"]["opset"] >= 8

    seconds = report["compile_seconds"]
    passes = [spec.partition("{")[0] for spec in pass_specs()]
    assert set(seconds) == {"import", *passes, "emit", "total"}
    assert all(value >= 0 for value in seconds.values())
    assert seconds["total"] >= sum(value for name, value in seconds.items() if name != "total")
    assert told == ["import", *passes, "emit"]
    # What the file carries is the report less the compile times, which would change its bytes.
    assert result.neff is not None
    assert result.neff.report == {key: value for key, value in report.items() if key != "compile_seconds"}


# The decisions are read off the module, so they are also there for one that was read from text.
@pytest.mark.parametrize("level", LEVELS)
def test_decisions_stay_in_the_module(level: str) -> None:
    result = compile_model(MLP, CompileOptions(target="inf1", auto_cast="none", emit=level))
    found = decisions(result.module)
    assert found == {key: result.report[key] for key in ("partition", "casts", "products", "spills", "peak_sbuf_bytes")}
    assert found["casts"]  # inf1 does not multiply f32, whatever was asked for.
    assert (found["peak_sbuf_bytes"] > 0) == (level == "nisa")


def test_nothing_is_decided_for_an_imported_module() -> None:
    module = import_onnx(MLP).module
    assert decisions(module) == {"partition": [], "casts": [], "products": [], "spills": [], "peak_sbuf_bytes": 0}


@pytest.mark.parametrize("name", ["no such file.onnx", "pyproject.toml"])
def test_what_is_no_model_is_a_users_mistake(name: str) -> None:
    with pytest.raises(NeuronError) as caught:
        compile_model(SHIPPED.parents[1] / name)
    assert caught.value.code == "NX-ONNX-001"


# Iteration over sets of strings differs between processes; the bytes of a NEFF must not.
def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / "1.neff", tmp_path / "2.neff"]
    for seed, file in enumerate(files):
        arguments = ["compile", str(LENET), "-o", str(file), "--target", "trn1"]
        command = [sys.executable, "-m", "tools.neuron_cc", *arguments]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        subprocess.run(command, check=True, capture_output=True, env=environment, cwd=SHIPPED.parents[1])
    assert files[0].read_bytes() == files[1].read_bytes()
