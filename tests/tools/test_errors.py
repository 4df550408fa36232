import io
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from xdsl.utils.exceptions import ParseError, VerifyException
from xdsl.utils.lexer import Input, Span

from neuron_dialects.errors import NeuronError
from tools.diagnostics import Place
from tools.errors import SourceError, run_main
from tools.in_process import run_in_process


def run_raising(error: BaseException, *arguments: str) -> tuple[int, str, str]:
    def run(argv: Sequence[str]) -> int:
        print("before")
        raise error

    return run_in_process(lambda argv: run_main(run, argv), arguments)


# Each kind of exception: its exit code and its lines.
@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (NeuronError("NX-MEM-001", "too large", node="Conv_1"), 1, "error[NX-MEM-001]: node 'Conv_1': too large\n"),
        (NeuronError("NX-MEM-001", "a", help="b"), 1, "error[NX-MEM-001]: a\n  help: b\n"),
        (SourceError(NeuronError("NX-IR-001", "bad"), Place("a.mlir", 1, 2)), 1, "a.mlir:1:2: error[NX-IR-001]: bad\n"),
        (
            ParseError(Span(4, 7, Input("a\nb can", "x.mlir")), "no\n c"),
            1,
            "x.mlir:2:3: error[NX-IR-001]: no c\n    b can\n      ^~~\n",
        ),
        (
            NeuronError("NX-MEM-001", "a", help="b", notes=["c", "d"]),
            1,
            "error[NX-MEM-001]: a\n  note: c\n  note: d\n  help: b\n",
        ),
        (VerifyException("wrong\nshape"), 1, "error[NX-IR-001]: wrong shape\n"),
        (FileNotFoundError(2, "No such file", "a.onnx"), 1, "error[NX-FILE-001]: a.onnx: No such file\n"),
        (OSError(28, "No space left on device"), 1, "error[NX-FILE-001]: No space left on device\n"),
        (RecursionError("deep"), 1, "error[NX-IR-001]: the input is nested too deeply\n"),
        (MemoryError(), 1, "error[NX-MEM-001]: this machine has too little memory for the input\n"),
        (NeuronError("NX-OP-001", "x" * 5000), 1, f"error[NX-OP-001]: {'x' * 982}...\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            ValueError("two\nlines"),
            70,
            "internal error: ValueError: two lines\n"
            "  help: this is a bug in the toolkit; --debug shows the traceback\n",
        ),
    ],
)
def test_exceptions(error: BaseException, exit_code: int, message: str):
    assert run_raising(error) == (exit_code, "before\n", message)


# --debug puts the traceback in front, for a user's mistake as for a bug; the last lines stay the same.
@pytest.mark.parametrize("error", [NeuronError("NX-MEM-001", "too large"), ValueError("bug")])
def test_debug_shows_the_traceback(error: Exception):
    plain = run_raising(error)
    exit_code, _, stderr = run_raising(error, "--debug")
    assert exit_code == plain[0]
    assert stderr.startswith("Traceback (most recent call last)")
    assert stderr.endswith(plain[2])


# argparse ends with SystemExit: it passes, with its code.
def test_system_exit_passes():
    assert run_raising(SystemExit(2)).exit_code == 2  # pyright: ignore[reportAttributeAccessIssue]


# `neuron-... | head`: when the reader goes away the tool ends quietly.
def test_reader_goes_away():
    code = "import sys; from tools.errors import run_main; sys.exit(run_main(lambda argv: print('x' * 10**6) or 0))"
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run([sys.executable, "-c", code], stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


# Streams of a tool run in this process: text and bytes, in and out, merged where asked for, and put back afterwards.
def test_streams_in_process():
    def echo(argv: Sequence[str]) -> int:
        sys.stdout.write(sys.stdin.readline())
        print(*argv, file=sys.stderr)
        sys.stdout.flush()
        sys.stdout.buffer.write(sys.stdin.buffer.read())
        return 3

    streams = sys.stdin, sys.stdout, sys.stderr
    assert run_in_process(echo, ["a", "b"], "é\n") == (3, "é\n", "a b\n")
    assert run_in_process(echo, ["a"], "1\n", merge_stderr=True) == (3, "1\na\n", "")
    assert (sys.stdin, sys.stdout, sys.stderr) == streams


# sys.exit with a message prints it and means 1, as in a process; None means 0.
def test_exit_codes_in_process():
    assert run_in_process(lambda argv: sys.exit("gone"), []) == (1, "", "gone\n")
    assert run_in_process(lambda argv: sys.exit(), []).exit_code == 0
    assert run_in_process(lambda argv: None, []).exit_code == 0
    assert isinstance(sys.stdout, io.TextIOBase)
