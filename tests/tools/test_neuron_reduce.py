"""`neuron-reduce`: failing programs of hundreds of operators become a handful, and still fail."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

import tools.reduce.interest
from lowering.graph_to_tile.convert import ConvertGraphToTilePass
from neuron_dialects.graph import BinaryKind, BinaryOp, SoftmaxOp, UnaryKind, UnaryKindAttr, UnaryOp
from neuron_dialects.universe import NEURON_UNIVERSE
from tools.in_process import Completed, run_in_process
from tools.module_file import read_module
from tools.neuron_opt import run_in_process as neuron_opt
from tools.neuron_reduce import main
from tools.reduce.search import Choice, Fate, Search


def reduce(*arguments: object) -> Completed:
    return run_in_process(main, [str(argument) for argument in arguments])


# The search


def minimized(parts: int, needed: set[int], *, may_bypass: bool = True) -> tuple[Choice, int]:
    """Parts that `needed` is left of, when nothing else matters."""

    def test(choice: Choice) -> bool:
        kept = {part for part, fate in choice.items() if fate is Fate.KEPT}
        return needed <= kept and (may_bypass or kept == set(choice))

    search = Search(test, 10_000)
    return search.minimize(parts), search.tests


@pytest.mark.parametrize("needed", [{0}, {299}, {150}, {3, 200}, {0, 1, 2, 150, 298, 299}])
def test_search_finds_what_is_needed(needed: set[int]):
    choice, tests = minimized(300, needed)
    assert set(choice) == needed
    assert tests < 60 * len(needed)


# A thousand times as many parts take a few times as many tests.
def test_search_is_logarithmic():
    assert minimized(100_000, {77_777})[1] < 4 * minimized(100, {77})[1]


def test_search_stops():
    tried: list[Choice] = []

    def test(choice: Choice) -> bool:
        tried.append(choice)
        return 5 in choice

    choice = Search(test, max_tests=4).minimize(64)
    assert len(tried) == 4 and 5 in choice


# What cannot be cut because something behind it needs its result can be bypassed.
def test_search_bypasses():
    def test(choice: Choice) -> bool:
        return set(choice) == set(range(20)) and choice[3] is choice[17] is Fate.KEPT

    choice = Search(test, 1000).minimize(20)
    assert [part for part, fate in choice.items() if fate is Fate.KEPT] == [3, 17]


# ONNX models


def chain(length: int) -> ModelProto:
    """A long chain of elementwise nodes, with a MatMul, a Reshape and a node that cannot be compiled far inside."""
    nodes: list[onnx.NodeProto] = []
    name = "x"
    kinds = ("Relu", "Tanh", "Add", "Sigmoid", "Mul")
    for number in range(length):
        kind = kinds[number % len(kinds)]
        operands = [name, "w"] if kind in ("Add", "Mul") else [name]
        name = f"t{number}"
        nodes.append(helper.make_node(kind, operands, [name], name=f"node{number}"))
        if number == length // 2:
            nodes.append(helper.make_node("MatMul", [name, "m"], ["product"], name="product"))
            nodes.append(helper.make_node("Reshape", ["product", "shape"], ["flat"], name="flat"))
            nodes.append(helper.make_node("NoSuchOperator", ["flat"], ["odd"], name="odd", domain="mine"))
            nodes.append(helper.make_node("Reshape", ["odd", "back"], ["again"], name="again"))
            name = "again"
    initializers = {
        "w": np.full((4, 8), 0.5, np.float32),
        "m": np.eye(8, dtype=np.float32),
        "shape": np.array([32], np.int64),
        "back": np.array([4, 8], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 8])],
        [numpy_helper.from_array(value, key) for key, value in initializers.items()],
        value_info=[helper.make_tensor_value_info("odd", onnx.TensorProto.FLOAT, [32])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


# 300 operators, of which one must run on the core and cannot: that one is left, and the file still fails alike.
def test_onnx_model_by_error(tmp_path: Path):
    path, output = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(chain(296), path)
    assert len(onnx.load(path).graph.node) == 300
    options = ["--", "--must-compile", "--emit", "graph"]
    done = reduce(path, "--interesting", "error=NX-PART-002", "-o", output, *options)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{output}: 300 -> 1 operators in ")
    (node,) = onnx.load(output).graph.node
    assert node.op_type == "NoSuchOperator"
    assert [value.name for value in onnx.load(output).graph.input] == ["flat"]


# A script decides, with the candidate's path as its argument; what is between the two nodes that it asks for goes.
def test_onnx_model_by_script(tmp_path: Path):
    path, script = tmp_path / "model.onnx", tmp_path / "check.sh"
    onnx.save(chain(40), path)
    script.write_text('grep -q MatMul "$1" && grep -q NoSuchOperator "$1"\n')
    done = reduce(path, "--test", f"sh {script}")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{tmp_path / 'model.reduced.onnx'}: 44 -> 2 operators in ")
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.reduced.onnx").graph.node]
    assert kinds == ["MatMul", "NoSuchOperator"]


def planted(monkeypatch: pytest.MonkeyPatch, name: str, module_pass: type[ModulePass]) -> None:
    monkeypatch.setitem(NEURON_UNIVERSE.all_passes, name, lambda: module_pass)


class CrashOnSoftmax(ModulePass):
    """Crash where a softmax reads a product, at whatever distance."""

    name = "test-crash"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for softmax in op.walk():
            pending = [softmax] if isinstance(softmax, SoftmaxOp) else []
            while pending:
                maker = pending.pop()
                if isinstance(maker, BinaryOp) and maker.kind.data == BinaryKind.MUL:
                    raise KeyError("product")
                pending += [v.owner for v in maker.operands if isinstance(v.owner, UnaryOp | BinaryOp)]


class WrongTanh(ModulePass):
    """Replace the last of several tanhs by an erf."""

    name = "test-wrong"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        tanhs = [u for u in op.walk() if isinstance(u, UnaryOp) and u.kind.data == UnaryKind.TANH]
        for unary in tanhs[1:][-1:]:
            block = unary.parent
            assert block is not None
            wrong = UnaryOp(UnaryKind.ERF, unary.operands[0])
            block.insert_op_before(wrong, unary)
            unary.results[0].replace_all_uses_with(wrong.results[0])
            block.erase_op(unary)


def long_module(path: Path, operators: int) -> None:
    """Unary and binary operators in a row, a product at a third, a softmax at two thirds."""
    kind = "tensor<4x8xf32>"
    lines = ["func.func @main(%v0: tensor<4x8xf32>) -> tensor<4x8xf32> {", f"  %w = graph.weight @w : {kind}"]
    for n in range(operators):
        if n == operators // 3:
            op = f"graph.binary mul %v{n}, %w : ({kind}, {kind}) -> {kind}"
        elif n == 2 * operators // 3:
            op = f"graph.softmax %v{n} axis 1 : ({kind}) -> {kind}"
        elif n % 3 == 0:
            op = f"graph.binary add %v{n}, %w : ({kind}, {kind}) -> {kind}"
        else:
            op = f"graph.unary {('relu', 'tanh')[n % 2]} %v{n} : ({kind}) -> {kind}"
        lines.append(f'  %v{n + 1} = {op} loc("node{n}")')
    lines += [f"  func.return %v{operators} : {kind}", "}", ""]
    path.write_text("\n".join(lines))


# A crash that needs two operators which stand 20 apart: those two are left.
def test_ir_by_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    planted(monkeypatch, "test-crash", CrashOnSoftmax)
    path, output = tmp_path / "net.mlir", tmp_path / "small.mlir"
    long_module(path, 60)
    done = reduce(path, "--interesting", "crash", "-o", output, "--", "-p", "test-crash")
    assert done.exit_code == 0 and done.stdout.startswith(f"{output}: 62 -> 2 operators in ")
    kinds = [op.name for op in read_module(output).walk() if op.name.startswith("graph.")]
    assert kinds == ["graph.binary", "graph.softmax"]
    assert neuron_opt(["-p", "test-crash", str(output)]).exit_code == 70


# A pass that changes numbers where there are two tanhs: those are left.
def test_ir_by_mismatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    planted(monkeypatch, "test-wrong", WrongTanh)
    path, output = tmp_path / "net.mlir", tmp_path / "small.mlir"
    long_module(path, 45)
    done = reduce(path, "--interesting", "mismatch", "-o", output, "--", "-p", "test-wrong")
    assert done.exit_code == 0
    unaries = [op for op in read_module(output).walk() if op.name.startswith("graph.")]
    assert [op.name for op in unaries] == ["graph.unary"] * 2
    assert "NX-PASS-003" in neuron_opt(["-p", "test-wrong", "--verify-numerics", str(output)]).stderr


class SlowOnSoftmax(ModulePass):
    """Let ten seconds of a clock pass for each softmax."""

    name = "test-slow"
    seconds: ClassVar[float] = 0.0

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        SlowOnSoftmax.seconds += 10 * sum(isinstance(child, SoftmaxOp) for child in op.walk())


# A pass that takes long for one operator: the time counts, on a clock that the pass moves.
def test_ir_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    planted(monkeypatch, "test-slow", SlowOnSoftmax)
    monkeypatch.setattr(tools.reduce.interest, "perf_counter", lambda: SlowOnSoftmax.seconds)
    path, output = tmp_path / "net.mlir", tmp_path / "small.mlir"
    long_module(path, 30)
    done = reduce(path, "--interesting", "slow=9.5", "-o", output, "--", "-p", "test-slow")
    assert done.exit_code == 0
    assert [op.name for op in read_module(output).walk() if op.name.startswith("graph.")] == ["graph.softmax"]


# A model whose compiled form computes something else than onnxruntime: the operator that is lowered wrongly is left.
def test_onnx_model_by_mismatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    correct = ConvertGraphToTilePass.apply

    def wrong(self: ConvertGraphToTilePass, ctx: Context, op: ModuleOp) -> None:
        tanh = UnaryKindAttr(UnaryKind.TANH)
        for child in op.walk():
            if isinstance(child, UnaryOp) and child.properties["kind"] == tanh:
                child.properties["kind"] = UnaryKindAttr(UnaryKind.ERF)
        correct(self, ctx, op)

    monkeypatch.setattr(ConvertGraphToTilePass, "apply", wrong)
    path, output = tmp_path / "model.onnx", tmp_path / "small.onnx"
    model = chain(7)
    odd = next(n for n, node in enumerate(model.graph.node) if node.op_type == "NoSuchOperator")
    model.graph.node[odd].op_type, model.graph.node[odd].domain = "Relu", ""
    onnx.save(model, path)
    options = ["--", "--target", "trn1", "--auto-cast", "none"]
    done = reduce(path, "--interesting", "mismatch", "--tolerance", "0.001", "-o", output, *options)
    assert done.exit_code == 0, done.stderr
    assert [node.op_type for node in onnx.load(output).graph.node] == ["Tanh"]


# Below the graph level there are no tensors to cut at: operations go with their users, in loops too.
def test_ir_of_instructions(tmp_path: Path):
    lines = ['builtin.module attributes {neuron.target = #neuron.target<"trn1">} {', "  func.func @neuron_0() {"]
    for n in range(40):
        lines.append(f"    %a{n} = nisa.alloc : memref<128x{65536 if n == 23 else 16}xf32, #neuron.space<sbuf>>")
        lines.append(f"    nisa.memset on dve dst %a{n}[0:128][0 : 16]")
    path, output = tmp_path / "program.mlir", tmp_path / "small.mlir"
    path.write_text("\n".join([*lines, "    func.return", "  }", "}", ""]))
    done = reduce(path, "--interesting", "error=NX-MEM-001", "-o", output, "--", "-p", "nisa-allocate")
    assert done.exit_code == 0 and ": 81 -> 2 operators" in done.stdout
    assert "65536" in output.read_text()


# What is refused: files that are missing or of another kind, unknown tests, and files that have no fault.
def test_refusals(tmp_path: Path):
    path = tmp_path / "net.mlir"
    long_module(path, 3)
    other = tmp_path / "model.txt"
    other.touch()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 40)
    for arguments, code in (
        ([tmp_path / "none.mlir", "--interesting", "crash"], "NX-FILE-001"),
        ([other, "--interesting", "crash"], "NX-FILE-002"),
        ([broken, "--interesting", "crash"], "NX-ONNX-001"),
        ([path, "--interesting", "crash"], "NX-ARG-002"),
        ([path, "--interesting", "error=NX-NONE"], "NX-ARG-001"),
        ([path, "--interesting", "slow=quick"], "NX-ARG-001"),
        ([path, "--interesting", "slow=100", "--", "-p", "cse"], "NX-ARG-002"),
    ):
        done = reduce(*arguments)
        assert (done.exit_code, done.stderr.startswith(f"error[{code}]: ")) == (1, True), done.stderr
    assert not (tmp_path / "net.reduced.mlir").exists()
