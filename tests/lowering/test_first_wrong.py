"""The first operator that the machine computes wrongly, found by bisection; bugs are planted in the back end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from lowering.compiler import CompileOptions
from lowering.first_wrong import first_wrong
from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from tools.in_process import run_in_process
from tools.neuron_cc import main as neuron_cc
from tools.neuron_run import main as neuron_run
from tools.neuron_run import write_npz

MODEL = """
<ir_version: 9, opset_import: ["" : 18]>
net (float[4,16] x) => (float[4,16] y, float[4,16] other)
<float[16,16] w>
{
    [first] a = Relu(x)
    [second] b = MatMul(a, w)
    [third] c = Exp(b)
    [fourth] d = Add(c, x)
    [fifth] e = Sigmoid(d)
    [sixth] f = MatMul(e, w)
    [seventh] y = Tanh(f)
    [side] other = Sqrt(a)
}
"""
NODES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "side")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    made = onnx.parser.parse_model(MODEL)
    weights = (np.random.default_rng(1).standard_normal((16, 16)) / 8).astype(np.float32)
    made.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    for node, name in zip(made.graph.node, NODES, strict=True):
        node.name = name
    path.write_bytes(made.SerializeToString())
    return path


def feeds() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((4, 16)).astype(np.float32)}


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Let the lowering compute another function instead of one."""
    correct = ConvertGraphToTilePass.apply

    def install(right: str, wrong: str) -> None:
        def apply(self: ConvertGraphToTilePass, ctx: Context, op: ModuleOp) -> None:
            correct(self, ctx, op)
            for inner in op.walk():
                _exchange(inner, right, wrong)

        monkeypatch.setattr(ConvertGraphToTilePass, "apply", apply)

    return install


def _exchange(op: Operation, right: str, wrong: str) -> None:
    fields = op.properties.get("fields")
    if op.name == "tile.activation" and fields is not None:
        pairs = [(name, wrong if value == right else value) for name, value in fields.data]  # pyright: ignore
        op.properties["fields"] = type(fields)(tuple(pairs))  # pyright: ignore


@pytest.mark.parametrize(
    ("right", "wrong", "node", "op"), [("exp", "sigmoid", "third", "Exp"), ("tanh", "exp", "seventh", "Tanh")]
)
def test_the_operator_is_named(
    model: Path, plant: Callable[[str, str], None], right: str, wrong: str, node: str, op: str
) -> None:
    options = CompileOptions("trn1", "none")
    assert first_wrong(model, feeds(), options, 1e-3, "y") is None
    plant(right, wrong)
    found = first_wrong(model, feeds(), options, 1e-3, "y")
    assert found is not None
    assert (found.node, found.op) == (node, op)
    assert found.rel_l2_error > 1e-3 and found.compilations <= 4
    # The other output is computed beside the fault.
    assert first_wrong(model, feeds(), options, 1e-3, "other") is None


def test_command_line(model: Path, plant: Callable[[str, str], None], tmp_path: Path) -> None:
    neff, inputs = tmp_path / "m.neff", tmp_path / "x.npz"
    write_npz(inputs, feeds())
    compile_ = ["compile", str(model), "-o", str(neff), "--target", "trn1", "--auto-cast", "none", "--no-cache"]
    run = [str(neff), "--inputs", str(inputs), "--check", str(model), "--per-op"]
    assert run_in_process(neuron_cc, compile_).exit_code == 0
    assert "first wrong" not in run_in_process(neuron_run, run).stdout
    plant("exp", "sigmoid")
    assert run_in_process(neuron_cc, compile_).exit_code == 0
    done = run_in_process(neuron_run, run)
    assert "first wrong on the machine: c (Exp of node 'third'), rel_l2_error " in done.stdout
    found = json.loads(run_in_process(neuron_run, [*run, "--json"]).stdout)["per_op"]["first_wrong_on_machine"]
    assert (found["tensor"], found["op"]) == ("c", "Exp")
