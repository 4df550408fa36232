import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Attribute
from xdsl.passes import ModulePass
from xdsl.utils.diagnostic import Diagnostic
from xdsl.utils.exceptions import PassFailedException

from lowering.pipeline import PIPELINES
from neuron_dialects.errors import NeuronError
from neuron_dialects.neuron import weights_path
from neuron_dialects.universe import NEURON_UNIVERSE
from tools.neuron_opt import run_in_process

TWICE = """\
func.func @twice() -> (i32, i32) {
  %a = arith.constant 1 : i32
  %b = arith.constant 1 : i32
  func.return %a, %b : i32, i32
}
"""
ONCE = """\
builtin.module {
  func.func @twice() -> (i32, i32) {
    %a = arith.constant 1 : i32
    func.return %a, %a : i32, i32
  }
}
"""


def use_pass(monkeypatch: pytest.MonkeyPatch, pass_class: type[ModulePass]) -> None:
    monkeypatch.setitem(NEURON_UNIVERSE.all_passes, pass_class.name, lambda: pass_class)


class RefusePass(ModulePass):
    """Refuse every program."""

    name = "test-refuse"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise NeuronError("NX-OP-001", "Conv with 7 groups", node="Conv_3", help="use 1 or 8 groups")


class FailPass(ModulePass):
    """Fail in the way that xDSL's own passes do."""

    name = "test-fail"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise PassFailedException("no loop\nto unroll")


class CrashPass(ModulePass):
    """Contain a bug."""

    name = "test-crash"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        raise KeyError("layout")


class MisorderPass(ModulePass):
    """Move the first operation of each function to its end, as a broken scheduler might."""

    name = "test-misorder"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in op.ops:
            block = function.regions[0].block
            first, last = block.first_op, block.last_op
            assert first is not None and last is not None
            first.detach()
            block.insert_op_before(first, last)


class FindWeightsPass(ModulePass):
    """Look where the module's weights are."""

    name = "test-find-weights"
    found: ClassVar[list[Path | None]] = []

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.found.append(weights_path(op))


# Passes run in order, on standard input too; the result goes to standard output and can be read again.
def test_runs_passes():
    assert run_in_process(["-p", "cse,dce"], TWICE) == (0, ONCE, "")
    assert run_in_process([], ONCE) == (0, ONCE, "")


# The file is written when all went well, and left alone when something failed.
def test_output_file(tmp_path: Path):
    path = tmp_path / "out.mlir"
    assert run_in_process(["-p", "cse", "-o", str(path)], TWICE) == (0, "", "")
    assert path.read_text() == ONCE
    assert run_in_process(["-o", str(path)], "func.func").exit_code == 1
    assert path.read_text() == ONCE


# The name of a pipeline stands for its passes, among other passes too.
def test_named_pipeline(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PIPELINES, "test-clean", "cse,dce")
    result = run_in_process(["-p", "canonicalize,test-clean", "--print-ir-after-all"], TWICE)
    assert result.stdout == ONCE
    assert re.findall(r"IR Dump After \S+ \((\S+)\)", result.stderr) == ["canonicalize", "cse", "dce"]
    refused = run_in_process(["-p", "test-clean{level=2}"], TWICE)
    assert refused == (1, "", "error[NX-PASS-001]: pipeline 'test-clean' takes no options\n")


# Every pipeline that ships names passes that exist, with options that they have, and hides no pass.
def test_shipped_pipelines():
    assert "default" in PIPELINES
    for name in PIPELINES:
        result = run_in_process(["-p", name], 'builtin.module attributes {neuron.target = #neuron.target<"inf1">} {}')
        assert "NX-PASS-001" not in result.stderr
        assert name not in NEURON_UNIVERSE.all_passes


# A misspelt pass: the nearest one is offered first.
def test_unknown_pass(monkeypatch: pytest.MonkeyPatch):
    use_pass(monkeypatch, RefusePass)
    result = run_in_process(["-p", "cse,test-refuze"], TWICE)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error[NX-PASS-001]: unknown pass 'test-refuze'\n  help: did you mean test-refuse")


# A text that is not a list of passes, and an option of the wrong type: one line each, with the column or the options.
def test_malformed_pass_options():
    syntax = run_in_process(["-p", "cse{a"], TWICE)
    assert syntax.exit_code == 1
    assert syntax.stderr.startswith("error[NX-PASS-001]: Expected equals, space or end of arguments here (column 6)\n")
    typed = run_in_process(["-p", "canonicalize,printf-to-llvm{x=1}"], TWICE)
    assert (typed.exit_code, typed.stderr.count("\n")) == (1, 2)
    assert typed.stderr.startswith("error[NX-PASS-001]: pass 'printf-to-llvm': ")
    target = run_in_process(["-t", "mlir{"], TWICE)
    assert (target.exit_code, target.stderr) == (1, "error[NX-PASS-001]: Expected argument name here (column 6)\n")


# Where a mistake in the text is said with file, line and column; parts of a split file count from the file's top.
def test_parse_error_names_the_place(tmp_path: Path):
    path = tmp_path / "model.mlir"
    path.write_text(TWICE + "// -----\nfunc.func @f() {\n  test.nothing %a\n}\n")
    result = run_in_process([str(path), "--split-input-file"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{path}:8:16: error[NX-IR-001]: Operation test.nothing is not registered")
    assert result.stderr.endswith("\n      test.nothing %a\n                   ^~\n")


# An operation that breaks its rules is found at its own line; its ONNX node is named if it has one.
def test_verifier_error_names_place_and_node():
    text = """\
func.func @f(%a: i64) -> i32 {
  %b = "arith.addi"(%a, %a) : (i64, i64) -> i32 loc("Add_7")
  func.return %b : i32
}
"""
    result = run_in_process([], text)
    assert result.exit_code == 1
    assert result.stderr.startswith("stdin:2:3: error[NX-IR-001]: 'arith.addi' (node 'Add_7') ")
    line, marker = result.stderr.splitlines()[1:]
    assert line.startswith('      %b = "arith.addi"') and marker == "      ^"


# With --parsing-diagnostics errors are output, and the other parts still run.
def test_parsing_diagnostics():
    text = f"""\
func.func @f() -> i32 {{
  func.return %a : i32
}}
// -----
{TWICE}"""
    result = run_in_process(["--split-input-file", "--parsing-diagnostics", "-p", "cse"], text)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.split("// -----\n")
    assert first.startswith("stdin:") and "error[NX-IR-001]: values used but not defined: [%a]" in first
    assert second == ONCE


# What a pass refuses is the user's business: the message as the pass wrote it, on as few lines as it needs.
def test_pass_refuses_the_program(monkeypatch: pytest.MonkeyPatch):
    use_pass(monkeypatch, RefusePass)
    use_pass(monkeypatch, FailPass)
    refused = run_in_process(["-p", "test-refuse"], TWICE)
    assert refused == (1, "", "error[NX-OP-001]: node 'Conv_3': Conv with 7 groups\n  help: use 1 or 8 groups\n")
    failed = run_in_process(["-p", "test-fail"], TWICE)
    assert failed == (1, "", "error[NX-PASS-002]: pass 'test-fail': no loop to unroll\n")
    shown = run_in_process(["-p", "test-refuse", "--parsing-diagnostics"], TWICE)
    assert (shown.exit_code, shown.stdout) == (0, refused.stderr)


# A bug in a pass is exit 70 and names the pass; the traceback comes under --debug only; diagnostics do not hide it.
def test_crash_of_a_pass(monkeypatch: pytest.MonkeyPatch):
    use_pass(monkeypatch, CrashPass)
    message = (
        "internal error: pass 'test-crash': KeyError: 'layout'\n"
        "  help: this is a bug in the toolkit; --debug shows the traceback\n"
    )
    assert run_in_process(["-p", "test-crash"], TWICE) == (70, "", message)
    assert run_in_process(["-p", "test-crash", "--verify-diagnostics"], TWICE) == (70, "", message)
    debugged = run_in_process(["-p", "test-crash", "--debug"], TWICE)
    assert debugged.exit_code == 70
    assert debugged.stderr.startswith("Traceback") and debugged.stderr.endswith(message)


# A pass that leaves a use before its definition is caught right after it ran; its dump says that it failed.
def test_order_is_checked_after_every_pass(monkeypatch: pytest.MonkeyPatch):
    use_pass(monkeypatch, MisorderPass)
    text = """\
func.func @f() -> i32 {
  %a = arith.constant 1 : i32
  %b = arith.addi %a, %a : i32
  func.return %b : i32
}
"""
    result = run_in_process(["-p", "test-misorder,canonicalize", "--print-ir-after-all"], text)
    assert (result.exit_code, result.stdout) == (70, "")
    assert "// -----// IR Dump After MisorderPass Failed (test-misorder) //----- //" in result.stderr
    assert (
        "internal error: after pass 'test-misorder': 'arith.addi' uses operand 0 (%a) before it is defined"
        " (and 1 more like it)\n" in result.stderr
    )
    assert "canonicalize" not in result.stderr


# Weights are looked for beside the file; nobody opens them unless a pass does (here the file does not exist at all).
def test_weights_are_found_beside_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    use_pass(monkeypatch, FindWeightsPass)
    path = tmp_path / "model.mlir"
    path.write_text('builtin.module attributes {neuron.weights = "model.safetensors"} {}\n')
    FindWeightsPass.found.clear()
    assert run_in_process([str(path), "-p", "test-find-weights"]).exit_code == 0
    assert FindWeightsPass.found == [tmp_path / "model.safetensors"]


# Files that are missing, folders, not text, or of a kind that we do not read.
def test_unreadable_input(tmp_path: Path):
    binary = tmp_path / "program.mlir"
    binary.write_bytes(b"\x7fELF\xff")
    missing = tmp_path / "missing.mlir"
    unknown = tmp_path / "model.onnx"
    unknown.touch()
    cases = {
        missing: f"error[NX-FILE-001]: {missing}: No such file or directory\n",
        tmp_path: f"error[NX-FILE-001]: {tmp_path}: Is a directory\n",
        binary: f"{binary}: error[NX-IR-001]: the file is not UTF-8 text (byte 4 is 0xff)\n",
        unknown: "error[NX-FILE-001]: Unrecognized file extension 'onnx'\n  help: -f mlir reads it as textual IR\n",
    }
    for path, message in cases.items():
        assert run_in_process([str(path)]) == (1, "", message)


# Regions nested too deeply for the parser are refused, not a crash.
def test_deep_nesting_is_refused():
    depth = 20_000
    text = '"builtin.module"() ({' * depth + "}) : () -> ()" * depth
    result = run_in_process([], text)
    assert result == (1, "", "error[NX-IR-001]: the input is nested too deeply\n")


# A name out of a file cannot send control sequences to the terminal.
def test_control_characters_are_not_printed():
    result = run_in_process([], '"test.op"() {a = #neuron.target<"\x1b[31mred">} : () -> ()')
    assert result.exit_code == 1
    assert "\x1b" not in result.stderr and "[31mred" in result.stderr


# --disable-verify and --syntax-highlight switch things for the whole process in xDSL; here they end with the run.
def test_runs_do_not_affect_each_other():
    wrong = '"test.op"() {a = #neuron.target<"nowhere">} : () -> ()'
    before = (Attribute.__post_init__, Diagnostic.colored)
    assert run_in_process(["--disable-verify", "--syntax-highlight"], wrong).exit_code == 0
    assert (Attribute.__post_init__, Diagnostic.colored) == before
    assert run_in_process([], wrong).exit_code == 1


# --mlir-timing has a line for each step, to stderr, that adds up.
@pytest.mark.parametrize("flag", ["--mlir-timing", "--timing", "--time-passes"])
def test_timing(flag: str):
    result = run_in_process(["-p", "cse,dce", flag], TWICE)
    assert result.stdout == ONCE
    rows = re.findall(r"^ +([\d.]+) \( *[\d.]+%\)  (.*)$", result.stderr, re.MULTILINE)
    steps = ["Parser", "Verifier", "CommonSubexpressionElimination (cse)", "DeadCodeElimination (dce)", "Output"]
    assert [row for _, row in rows] == [*steps, "Rest", "Total"]
    seconds = [float(number) for number, _ in rows]
    assert sum(seconds[:-1]) == pytest.approx(seconds[-1], abs=1e-3)


# --list-passes names the pipelines, our passes with options and summary, and xDSL's passes.
def test_list_passes(monkeypatch: pytest.MonkeyPatch):
    use_pass(monkeypatch, RefusePass)
    result = run_in_process(["--list-passes"])
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.search(r"^Pipelines:\n(?:.*\n)*?  default\n", result.stdout)
    assert "  test-refuse\n      Refuse every program.\n" in result.stdout
    assert re.search(r"^Passes of xDSL:\n(?:.*\n)*.*\bcanonicalize\b", result.stdout, re.MULTILINE)


# Asking for help loads no dialect of ours and none of the slow libraries.
def test_starts_without_loading_everything():
    code = "import sys, tools.neuron_opt as n\ntry: n.main(['--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "tools.neuron_opt" in loaded and "usage: neuron-opt" in done.stdout
    slow = {"numpy", "onnx", "onnxruntime", "neuron_dialects.graph", "neuron_dialects.nisa", "lowering.pipeline"}
    assert loaded & slow == set()
