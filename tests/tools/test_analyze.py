"""`neuron-cc analyze` and `list-operators`: figures that can be counted by hand, reasons and advice."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from lowering.compiler import CompileOptions
from lowering.onnx_to_graph.registry import converters
from tools.analyze import advice, analyze, rendered
from tools.fast_math import FP32_CASTS, auto_cast_of
from tools.in_process import run_in_process
from tools.list_operators import listed, operators
from tools.neuron_cc import main

OPTIONS = CompileOptions(target="trn1", auto_cast="none", force_core=("gate",))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """matmul on the core, Det on the host, sigmoid on the core."""
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["c"], "product"),
        helper.make_node("Det", ["c"], ["d"], "determinant"),
        helper.make_node("Sigmoid", ["d"], ["e"], "gate"),
    ]
    square = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, 4, 4]) for name in "ab"]
    outputs = [helper.make_tensor_value_info("e", TensorProto.FLOAT, [5])]
    graph = helper.make_graph(nodes, "g", square, outputs)
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


# 5 products of 4x4x4 are 320 multiply-adds; Det and Sigmoid count one for each of their 5 results.
def test_figures(model: Path):
    analysis = analyze(model, OPTIONS)
    assert (analysis.operators, analysis.operators_on_core) == (3, 2)
    assert (analysis.flops, analysis.flops_on_core) == (640 + 5 + 5, 640 + 5)
    assert [(s.executor, s.operators, s.flops) for s in analysis.segments] == [
        ("core", {"graph.matmul": 1}, 640),
        ("host", {"Det": 1}, 5),
        ("core", {"graph.unary": 1}, 5),
    ]
    # f32: two inputs of 80 elements, a product of 80, 5 determinants, 5 results.
    assert [(s.bytes_in, s.bytes_out) for s in analysis.segments] == [(640, 320), (320, 20), (20, 20)]
    assert analysis.boundary_bytes == 320 + 20


def test_reason_and_advice(model: Path):
    (host,) = analyze(model, OPTIONS).host_operators
    assert (host.node, host.op, host.reason) == ("determinant", "Det", "cores have no operator Det")
    assert "list-operators" in host.advice
    assert advice("the shape of tensor<?xf32> is not static") != advice("cores have no element type f64") != ""
    assert advice("something nobody has thought of") == ""


def test_text_and_json(model: Path, tmp_path: Path):
    file = tmp_path / "analysis.json"
    done = run_in_process(
        main, ["analyze", str(model), "--target", "trn1", "--force-core", "gate", "--json", str(file)]
    )
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("66.7% of operators on the core (2 of 3)\n99.2% of FLOPs on the core (645 of 650)\n")
    assert "Det 'determinant': cores have no operator Det\n" in done.stdout
    data = json.loads(file.read_text(encoding="utf-8"))
    assert (data["operators_on_core_percent"], data["flops_on_core_percent"]) == (66.67, 99.23)
    assert [segment["executor"] for segment in data["segments"]] == ["core", "host", "core"]


# A model that computes nothing has nothing on the host.
def test_nothing_to_compute(tmp_path: Path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    path = tmp_path / "identity.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert rendered(analyze(path, CompileOptions(target="trn1"))).startswith("100.0% of operators on the core")


# The list is the converter table and what is made of it; an operator with a loop in its body is not there.
def test_operators():
    rows = {row.name: row for row in operators()}
    assert set(converters()) == {name for name, row in rows.items() if row.how == "direct"}
    assert rows["MeanVarianceNormalization"].how == "function body"
    assert not {"Loop", "If", "Scan", "Bernoulli", "Det"}.intersection(rows)
    assert listed().splitlines() == sorted(rows)
    verbose = listed(verbose=True).splitlines()
    assert [line.split()[0] for line in verbose] == sorted(rows)
    assert run_in_process(main, ["list-operators"]).stdout.splitlines() == sorted(rows)


# Every spelling of the older option is one of the newer, with the same meaning.
@pytest.mark.parametrize("name", FP32_CASTS)
def test_spellings_agree(name: str):
    assert auto_cast_of(f"fp32-cast-{name}", None) == auto_cast_of(None, name) == FP32_CASTS[name]


@pytest.mark.parametrize(
    ("fast_math", "fp32_cast", "expected"),
    [
        (None, None, None),
        ("all", None, ("all", "bf16")),
        ("none", None, ("matmult", "bf16")),
        ("fast-relayout", None, None),
        ("fp32-cast-matmult-fp16,no-fast-relayout", None, ("matmult", "fp16")),
        ("no-fast-relayout fp32-cast-all", None, ("all", "bf16")),
        ("all", "matmult-fp16", ("matmult", "fp16")),
    ],
)
def test_fast_math(fast_math: str | None, fp32_cast: str | None, expected: tuple[str, str] | None):
    assert auto_cast_of(fast_math, fp32_cast) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fast-math", "all,fast-relayout"], "all excludes every other option"),
        (["--fast-math", "fp32-cast-all,fp32-cast-matmult"], "exclude each other"),
        (["--fast-math", "quick"], "--fast-math quick: choose among"),
        (["--fast-math", ""], "choose among"),
        (["--fp32-cast", "bf16"], "--fp32-cast bf16: choose one of"),
        (["--fp32-cast", "all", "--auto-cast", "none"], "--auto-cast cannot be given together with"),
    ],
)
def test_wrong_spellings(model: Path, arguments: list[str], message: str):
    done = run_in_process(main, ["analyze", str(model), *arguments])
    assert done.exit_code == 1 and message in done.stderr


# Compiled with neuron-cc's spelling, the report says what it means here.
def test_compile_with_fast_math(model: Path, tmp_path: Path):
    report = tmp_path / "report.json"
    command = ["compile", str(model), "-o", str(tmp_path / "m.neff"), "--report", str(report)]
    assert main([*command, "--fast-math", "fp32-cast-matmult-fp16"]) == 0
    data = json.loads(report.read_text(encoding="utf-8"))
    assert (data["auto_cast"], data["auto_cast_type"]) == ("matmult", "fp16")
