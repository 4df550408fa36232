import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.filecheck_collector import RunLinesFailed
from tests.run_lines import ROOT, RunLineError, read_run_lines, run_file

# Small tests in lit's format, and whether they pass: what both runners must agree on.
PASSING = {
    "plain": "// RUN: neuron-opt %s | filecheck %s\n// CHECK: test.op\n",
    "two_lines": "// RUN: neuron-opt %s\n// RUN: neuron-opt %s | filecheck %s\n// CHECK: test.op\n",
    "continued": "// RUN: neuron-opt %s | \\\n// RUN: filecheck %s\n// CHECK: test.op\n",
    "quoted": "// RUN: neuron-opt %s -p 'cse, dce' || neuron-opt %s -p 'cse,dce'\n",
    "not_wrong": "// RUN: not neuron-opt %s -p no-such-pass\n",
    "not_piped": "// RUN: not neuron-opt %s -p no-such-pass 2>&1 | filecheck %s\n// CHECK: error[NX-PASS-001]\n",
    "double_not": "// RUN: not not neuron-opt %s\n",
    "file": "// RUN: neuron-opt %s -o %t && neuron-opt -f mlir %t | filecheck %s\n// CHECK: test.op\n",
    "redirected": "// RUN: neuron-opt %s > %t\n// RUN: neuron-opt < %t | filecheck %s\n// CHECK: test.op\n",
    "stderr_file": "// RUN: neuron-opt %s --timing 2> %t\n// RUN: filecheck %s < %t\n// CHECK: Total\n",
    "folder": "// RUN: neuron-opt %S/plain.mlir | filecheck %s\n// CHECK: test.op\n",
    "percent": "// RUN: neuron-opt %s | filecheck %s --check-prefix=A%%B\n// A%B: test.op\n",
    "sequence": "// RUN: not neuron-opt %t ; neuron-opt %s\n",
}
FAILING = {
    "wrong_check": "// RUN: neuron-opt %s | filecheck %s\n// CHECK: test.other\n",
    "no_check": "// RUN: neuron-opt %s | filecheck %s\n",
    "first_line": "// RUN: neuron-opt %t\n// RUN: neuron-opt %s\n",
    "last_line": "// RUN: neuron-opt %s\n// RUN: neuron-opt %t\n",
    "not_right": "// RUN: not neuron-opt %s\n",
    "pipe_fails_early": "// RUN: neuron-opt %s -p no-such-pass 2>&1 | filecheck %s\n// CHECK: error\n",
    "bad_option": "// RUN: neuron-opt --no-such-option %s\n",
    "sequence_stops": "// RUN: neuron-opt %t && neuron-opt %s\n",
    "no_run_line": "",
}
BODY = '"test.op"() : () -> ()\n'


def passes(path: Path, folder: Path) -> bool:
    folder.mkdir()
    try:
        return run_file(path, folder).passed
    except RunLineError:
        return False


# The same files through lit, with its own shell and real processes, and through our runner: equal verdicts.
def test_agrees_with_lit(tmp_path: Path):
    suite = tmp_path / "suite"
    suite.mkdir()
    for name, lines in (PASSING | FAILING).items():
        (suite / f"{name}.mlir").write_text(lines + BODY)
    config = (ROOT / "tests" / "filecheck" / "lit.cfg").read_text()
    own_folders = f"config.test_source_root = {str(suite)!r}\nconfig.test_exec_root = {str(tmp_path / 'out')!r}\n"
    (suite / "lit.cfg").write_text(config.replace("os.path.abspath(__file__)", repr(str(ROOT / "a/b/c"))) + own_folders)
    lit = Path(sysconfig.get_path("scripts")) / "lit"
    report = tmp_path / "report.json"
    subprocess.run([lit, "-j2", "--output", report, suite], capture_output=True, check=False)
    tests = json.loads(report.read_text())["tests"]
    verdicts = {Path(test["name"].split()[-1]).stem: test["code"] == "PASS" for test in tests}

    assert verdicts == {name: name in PASSING for name in PASSING | FAILING}
    ours = {name: passes(suite / f"{name}.mlir", tmp_path / name) for name in PASSING | FAILING}
    assert ours == verdicts


# What we do not support is an error, never something left out in silence.
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("// XFAIL: *\n// RUN: neuron-opt %s\n", "keyword XFAIL: is not supported"),
        ("// RUN: grep x %s\n", "program 'grep' is not one of filecheck, neuron-as, "),
        ("// RUN: neuron-opt %{tool}\n", r"substitution %\{tool\} is not supported"),
        ("// RUN: neuron-opt %something\n", "substitution %something is not supported"),
        ("// RUN: neuron-opt *.mlir\n", r"quote \*\.mlir"),
        ("// RUN: neuron-opt %s >> %t\n", "redirection .*>>.* is not supported"),
        ("// RUN: neuron-opt %s & neuron-opt %s\n", "'&' is not supported"),
    ],
)
def test_unsupported_lines_are_refused(tmp_path: Path, text: str, message: str):
    path = tmp_path / "test.mlir"
    path.write_text(text + BODY)
    with pytest.raises(RunLineError, match=message):
        run_file(path, tmp_path)


# A tool that crashes fails the test even where it was expected to fail.
def test_internal_error_fails_behind_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def crash() -> None:
        raise KeyError("bug")

    monkeypatch.setattr("tools.neuron_opt.NeuronOpt.setup_pipeline", lambda self: crash())
    path = tmp_path / "test.mlir"
    path.write_text("// RUN: not neuron-opt %s\n" + BODY)
    outcome = run_file(path, tmp_path)
    assert not outcome.passed
    assert outcome.steps[0].exit_code == 70


# The report of a failure has the command, the head of its output and filecheck's message, of the failing line only.
def test_report(tmp_path: Path):
    path = tmp_path / "test.mlir"
    path.write_text(
        "// RUN: neuron-opt %s -p dce\n// RUN: neuron-opt %s | filecheck %s\n// CHECK: test.other\n" + BODY * 50
    )
    report = str(RunLinesFailed(run_file(path, tmp_path)))
    assert f"$ neuron-opt {path}\nexit code 0\n--- stdout ---\nbuiltin.module {{\n" in report
    assert "... 12 more lines" in report
    assert f'{path}:3: error: Couldn\'t match "test.other".' in report
    assert "dce" not in report


def test_continued_lines_are_joined(tmp_path: Path):
    path = tmp_path / "test.mlir"
    path.write_text("// RUN: a | \\\n// RUN:   b\n; RUN: c")
    assert read_run_lines(path) == ["a | b", "c"]
