"""What passes tell of their decisions: through neuron-opt and neuron-cc, to whoever listens and to nobody else."""

import re
from pathlib import Path

import pytest

from neuron_dialects.remarks import Remark, collect, in_pass, listening, remark
from tests.numerics.models import model_path
from tools.in_process import run_in_process
from tools.neuron_cc import main as neuron_cc
from tools.neuron_opt import run_in_process as neuron_opt

NET = """\
builtin.module attributes {neuron.target = #neuron.target<"trn1">} {
  func.func @main(%x: tensor<4x8xf32>, %y: tensor<4x8xf32>) -> (tensor<4x16xf32>, tensor<4xi64>) {
    %w = graph.weight @w : tensor<8x16xf32>
    %0 = graph.reshape %x : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("same")
    %1 = graph.matmul %0, %w : (tensor<4x8xf32>, tensor<8x16xf32>) -> tensor<4x16xf32> loc("fc")
    %2 = graph.unary relu %1 : (tensor<4x16xf32>) -> tensor<4x16xf32> loc("relu")
    %3 = graph.unary exp %y : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("exp")
    %4 = graph.onnx_node "Odd"(%3) domain "mine" opset 1 node "" : (tensor<4x8xf32>) -> tensor<4xi64> loc("odd")
    func.return %2, %4 : tensor<4x16xf32>, tensor<4xi64>
  }
}
"""


def remarks_of(passes: str, *options: str) -> list[str]:
    """The first lines of the remarks, without places."""
    result = neuron_opt(["-p", passes, "--remarks", *options], NET)
    assert result.exit_code == 0, result.stderr
    return re.findall(r"remark: (.*)", result.stderr)


# A pattern that applied is named with the identity that it states, at the node that it changed.
def test_patterns():
    (told,) = remarks_of("graph-canonicalize")
    assert told.startswith("node 'same': [graph-canonicalize] passed same_shape: reshape(x) ")


# What runs on the host, and why; how many operators run where.
def test_partition():
    result = neuron_opt(["-p", "graph-partition", "--remarks"], NET)
    assert "stdin:8:5: remark: node 'odd': [graph-partition] missed core: Odd runs on the host\n" in result.stderr
    assert re.search(r"note: reason: .*\n  help: neuron-cc list-operators", result.stderr)
    assert "operators_on_core = 4, operators_on_host = 1" in result.stderr


# What computes in another type, what became one kernel and what did not, and which kernel was taken.
def test_casts_and_kernels():
    told = remarks_of("to-tile,convert-tile-to-nisa,nisa-allocate")
    assert "node 'fc': [graph-auto-cast] passed cast: computes in bf16 instead of f32" in told
    assert "node 'fc': [graph-fuse] passed fuse: graph.matmul, graph.unary become one kernel, operators = 2" in told
    assert "node 'exp': [graph-fuse] missed fuse: graph.unary stays a kernel of its own" in told
    kernel = "node 'exp': [convert-graph-to-tile] analysis kernel: graph.unary is lowered by lower_pointwise"
    assert any(line.startswith(kernel) for line in told)
    assert any(re.search(r"analysis memory: .*peak_sbuf_bytes = [1-9]\d*", line) for line in told)


# What stays on chip between two kernels, and what does not: where SBUF is as good as full, nothing does.
def test_layouts():
    text = NET.replace('%4 = graph.onnx_node "Odd"(%3) domain "mine" opset 1 node ""', "%4 = graph.softmax %3 axis 1")
    text = text.replace("tensor<4xi64>", "tensor<4x8xf32>")
    before = "graph-partition,graph-fuse,"
    roomy = neuron_opt(["-p", f"{before}graph-layout", "--remarks", "--remarks-filter=layout"], text).stderr
    assert "remark: node 'exp': [graph-layout] passed keep: a tensor stays in SBUF: #graph.layout<sbuf" in roomy
    full = f"{before}graph-layout{{budget-share=0.0001}}"
    crowded = neuron_opt(["-p", full, "--remarks", "--remarks-filter=layout"], text).stderr
    assert "remark: node 'exp': [graph-layout] missed keep: a tensor goes through DRAM" in crowded
    assert "note: reason: SBUF is full" in crowded and "help: a smaller batch" in crowded


# A buffer that has to wait in DRAM is a missed optimisation, with a reason and a cure.
def test_spills():
    big = "memref<128x30000xf32, #neuron.space<sbuf>>"
    text = "\n".join(
        [
            'builtin.module attributes {neuron.target = #neuron.target<"trn1">} {\n  func.func @neuron_0() {',
            f"    %a = nisa.alloc : {big}\n    nisa.memset on dve dst %a[0:128][0 : 30000]",
            f"    %b = nisa.alloc : {big}\n    nisa.memset on dve dst %b[0:128][0 : 30000]",
            "    nisa.activation on act dst %b[0:128][0 : 30000] data %b[0:128][0 : 30000]",
            "    nisa.activation on act dst %a[0:128][0 : 30000] data %a[0:128][0 : 30000]",
            "    func.return\n  }\n}\n",
        ]
    )
    result = neuron_opt(["-p", "nisa-allocate", "--remarks=missed"], text)
    assert "remark: [nisa-allocate] missed keep: spilled to DRAM: 15360000 bytes" in result.stderr
    assert "  help: use smaller tiles" in result.stderr


# neuron-cc has the same options; nothing is told when nothing is asked for.
def test_neuron_cc(tmp_path: Path):
    path = model_path("mnist_mlp")
    if not path.is_file():
        pytest.skip("mnist_mlp.onnx is not beside the clone")
    command = ["compile", str(path), "-o", str(tmp_path / "m.neff"), "--target", "trn1"]
    assert run_in_process(neuron_cc, command).stderr == ""
    done = run_in_process(neuron_cc, [*command, "--remarks=passed", "--remarks-filter=fuse"])
    assert done.exit_code == 0
    assert {line.split("]")[0].split("[")[1] for line in done.stderr.splitlines()} == {"graph-fuse"}
    file = tmp_path / "remarks.yaml"
    assert run_in_process(neuron_cc, [*command, "--remarks-output", str(file)]).stderr == ""
    assert {"--- !Passed", "--- !Analysis"} <= set(file.read_text().splitlines())


# Listeners hear what is said while they listen, in the name of the pass that runs; inner ones first.
def test_listening():
    outer: list[Remark] = []
    inner: list[Remark] = []
    remark("passed", "nobody", "listens")
    with collect(outer.append), in_pass("a"):
        remark("passed", "one", "first", figure=1)
        with collect(inner.append), in_pass("b"):
            remark("missed", "two", "second", node="n", function="f")
        assert listening()
    assert not listening()
    assert [(r.pass_name, r.name, r.figures) for r in outer] == [("a", "one", {"figure": 1})]
    assert [(r.pass_name, r.node, r.function) for r in inner] == [("b", "n", "f")]
