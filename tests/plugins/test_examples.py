"""The plug-ins of the manual, used as a stranger would: copied out of the repository, run by the commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from neuron_dialects.errors import NeuronError
from runtime.neff import read_neff

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "writing-a-pass.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of somebody else's with the example files in it."""
    shutil.copytree(ROOT / "examples" / "plugins", tmp_path / "work", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "work"


_DRIVER = """
import importlib, json, sys
from tools.in_process import run_in_process
done = []
for tool, *arguments in json.loads(sys.stdin.read()):
    result = run_in_process(importlib.import_module(f"tools.{tool}").main, arguments)
    done.append([result.exit_code, result.stdout, result.stderr])
json.dump(done, sys.stdout)
"""
"""Runs commands one after the other: a process of its own for each would take longer than all that they do."""


def commands(folder: Path, *lines: tuple[str, ...]) -> list[str]:
    """What commands of the toolkit print, run in `folder` by a process of its own; each must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER],
        cwd=folder, env=environment, input=json.dumps(lines), capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed: list[str] = []
    for line, (exit_code, stdout, stderr) in zip(lines, json.loads(done.stdout), strict=True):
        assert exit_code == 0, f"{line}: {stderr}"
        printed.append(stdout)
    return printed


def write_model(path: Path, nodes: list[onnx.NodeProto], shape: list[int], **constants: object) -> None:
    """A model from x to y of this shape."""
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph(nodes, path.stem, [x], [y], values)
    opset = helper.make_opsetid("", 18)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)


def rms_norm_model(path: Path) -> None:
    """x / sqrt(mean(x ** 2) + 1e-5) * w, as exporters write it."""
    node = helper.make_node
    nodes = [
        node("Pow", ["x", "two"], ["squares"]),
        node("ReduceMean", ["squares", "last"], ["mean"], keepdims=1),
        node("Add", ["mean", "epsilon"], ["shifted"]),
        node("Sqrt", ["shifted"], ["root"]),
        node("Reciprocal", ["root"], ["inverse"]),
        node("Mul", ["x", "inverse"], ["normal"]),
        node("Mul", ["w", "normal"], ["y"], name="norm"),
    ]
    scale = np.random.default_rng(0).normal(size=64).astype(np.float32)
    write_model(path, nodes, [4, 48, 64], two=np.float32(2), last=np.array([-1]), epsilon=np.float32(1e-5), w=scale)


def relative_error(report: str) -> float:
    found = re.search(r"rel_l2_error (\S+)", report)
    assert found is not None, report
    return float(found[1])


# Step 1, a fusion pass: found by name, put into the default pipeline, and the numbers stay.
def test_fusion_pass(folder: Path) -> None:
    node = helper.make_node
    nodes = [
        node("Add", ["x", "three"], ["shifted"]),
        node("Clip", ["shifted", "zero", "six"], ["clipped"]),
        node("Mul", ["x", "clipped"], ["product"]),
        node("Div", ["product", "six"], ["y"]),
    ]
    constants = {name: np.float32(value) for name, value in (("zero", 0), ("three", 3), ("six", 6))}
    write_model(folder / "m.onnx", nodes, [4, 96], **constants)
    plugin = ("--load-pass-plugin", "hard_swish.py")
    _, fused, listed, _, _, checked = commands(
        folder,
        ("neuron_cc", "compile", "m.onnx", "--emit", "import"),
        ("neuron_opt", *plugin, "m.mlir", "-p", "raise-hard-swish"),
        ("neuron_opt", *plugin, "--list-passes"),
        ("neuron_cc", "compile", "m.onnx", *plugin, "--emit", "graph", "-o", "fused.mlir"),
        ("neuron_cc", "compile", "m.onnx", *plugin),
        ("neuron_run", "m.neff", "--check", "m.onnx"),
    )
    assert "graph.unary hard_swish %x" in fused
    assert "graph.clip" not in fused
    assert "raise-hard-swish" in listed
    assert "graph.unary hard_swish" in (folder / "fused.mlir").read_text(encoding="utf-8")
    assert relative_error(checked) < 1e-6


PLUGIN = ("--load-pass-plugin", "rms_norm.py")
BOTH = (*PLUGIN, "--load-pass-plugin", "mean_square.py")


def compile_and_check(name: str, *options: str) -> list[tuple[str, ...]]:
    """Commands that compile m.onnx for trn1 and compare it with onnxruntime; and print its code."""
    return [
        ("neuron_cc", "compile", "m.onnx", *options, "--target", "trn1", "-o", f"{name}.neff"),
        ("neuron_run", f"{name}.neff", "--check", "m.onnx", "--check-races"),
        ("neuron_objdump", f"{name}.neff", "-d"),
    ]


# Step 2, an operator with its lowering: right on the core, on the host, and as text.
def test_operator(folder: Path) -> None:
    rms_norm_model(folder / "m.onnx")
    _, _, checked, code, _, on_host, no_code = commands(
        folder,
        ("neuron_cc", "compile", "m.onnx", *PLUGIN, "--emit", "graph"),
        *compile_and_check("kernel", *PLUGIN),
        *compile_and_check("host", *PLUGIN, "--force-host", "Mul"),
    )
    assert "example.rms_norm" in (folder / "m.mlir").read_text(encoding="utf-8")
    assert relative_error(checked) < 1e-6
    assert relative_error(on_host) < 1e-6
    assert "{func = square}" in code
    assert ".queue" not in no_code


# A model that has the operator itself, in a domain that onnxruntime does not know: converted, and run at every level.
def test_converter(folder: Path) -> None:
    x, scale = (np.random.default_rng(1).normal(size=size).astype(np.float32) for size in ((48, 64), (64,)))
    root = np.sqrt((x * x).mean(1, keepdims=True) + np.float32(1e-3))
    np.savez(folder / "x.npz", x=x)
    np.savez(folder / "y.npz", y=x / root * scale)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [48, 64]) for name in "xy"]
    node = helper.make_node("RmsNorm", ["x", "w"], ["y"], name="norm", domain="com.example", epsilon=1e-3)
    graph = helper.make_graph([node], "m", ends[:1], ends[1:], [numpy_helper.from_array(scale, "w")])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), folder / "m.onnx")
    levels = {"graph": "mlir", "tile": "mlir", "nisa": "mlir", "neff": "neff"}
    lines: list[tuple[str, ...]] = []
    for level, ending in levels.items():
        file = f"{level}.{ending}"
        lines += [
            ("neuron_cc", "compile", "m.onnx", *PLUGIN, "--emit", level, "-o", file, "--must-compile"),
            ("neuron_run", file, *PLUGIN, "--inputs", "x.npz", "--check", "y.npz", "--tolerance", "1e-6"),
        ]
    # The second of each two commands compares its results with those of numpy.
    assert all(relative_error(checked) < 1e-6 for checked in commands(folder, *lines)[1::2])


# Step 3, an instruction that the kernel uses: as right. It can be written in assembly. A file with it is refused, not
# misread, where the plug-in is missing.
def test_instruction(folder: Path) -> None:
    rms_norm_model(folder / "m.onnx")
    kernel = """
    .target trn1
    .semaphore q
    .semaphore dve
    .variable "x" input f32 [32, 16]
    .variable "y" output f32 [32]
    .queue sp
      dma_copy ring q dst sbuf f32 [0:32][0 : 16] src dram f32 @x [0 : 32 step 16, 16] signal(q)
      wait(dve >= 1) dma_copy ring q dst dram f32 @y [0 : 32] src sbuf f32 [0:32][16 : 1] signal(q)
    .queue dve
      wait(q >= 1) mean_square dst sbuf f32 [0:32][16 : 1] data sbuf f32 [0:32][0 : 16] {bias = 1.0} signal(dve)
    """
    (folder / "k.nasm").write_text(kernel, encoding="utf-8")
    x = np.random.default_rng(0).normal(size=(32, 16)).astype(np.float32)
    np.savez(folder / "x.npz", x=x)
    np.savez(folder / "y.npz", y=(x * x).mean(1) + 1)
    _, checked, code, *_ = commands(
        folder,
        *compile_and_check("instruction", *BOTH),
        ("neuron_as", "k.nasm", "--check-races"),
        ("neuron_run", "k.neff", "--inputs", "x.npz", "--check", "y.npz", "--tolerance", "1e-6"),
    )
    assert relative_error(checked) < 1e-6
    assert " mean_square dst" in code
    assert "{func = square}" not in code
    with pytest.raises(NeuronError, match="unknown opcode 0x40, an instruction of a plug-in that is not loaded"):
        read_neff(folder / "instruction.neff")


# A target is a file: compiled for and timed by its figures.
def test_target(folder: Path) -> None:
    rms_norm_model(folder / "m.onnx")
    (folder / "targets.py").write_text(
        "from pathlib import Path\n"
        "from neuron_toolkit import Plugin\n"
        "PLUGIN = Plugin(targets=[Path(__file__).with_name('trn1_slow_dram.toml')])\n",
        encoding="utf-8",
    )
    plugin = ("--load-pass-plugin", "targets.py")
    lines = [
        line
        for target in ("trn1", "trn1_slow_dram")
        for line in (
            ("neuron_cc", "compile", "m.onnx", *plugin, "--target", target, "-o", f"{target}.neff"),
            ("neuron_run", f"{target}.neff", "--mode", "timing", "--json"),
        )
    ]
    printed = commands(folder, *lines)
    usual, slow = (float(re.findall(r'"total_time": ([0-9.e+-]+)', printed[at])[0]) for at in (1, 3))
    assert slow > 1.5 * usual


def without_layout(text: str) -> str:
    """A text without indentation and empty lines: a page shows methods by themselves."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


# Every piece of Python in the manual's page is a piece of the files that the tests above run.
def test_the_page_shows_the_files() -> None:
    files = (ROOT / "examples" / "plugins").glob("*.py")
    sources = [without_layout(path.read_text(encoding="utf-8")) for path in files]
    pieces = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(pieces) >= 8
    assert [piece for piece in pieces if not any(without_layout(piece) in source for source in sources)] == []
