"""Run a command line inside this process, as tests and other programs do to save the start of an interpreter.

Given the `main` of a tool, its arguments and its input, `run_in_process` leaves the exit code and what it printed.
Standard streams belong to the whole process: do not run two tools in two threads.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple


class Completed(NamedTuple):
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


def run_in_process(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[str],
    stdin: str = "",
    *,
    merge_stderr: bool = False,
) -> Completed:
    """Call `main(argv)` with standard streams of its own.

    Args:
        main: takes the arguments without the program's name; returns the exit code (None is 0) or raises SystemExit.
        argv: the arguments.
        stdin: what it reads from standard input, as text or through `sys.stdin.buffer`.
        merge_stderr: as `2>&1`: errors go to `stdout`, in the order in which they were printed.
    """
    output = _text_stream(b"")
    errors = output if merge_stderr else _text_stream(b"")
    previous_stdin = sys.stdin
    sys.stdin = _text_stream(stdin.encode())
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            exit_code = _exit_code(main, argv)
    finally:
        sys.stdin = previous_stdin
    return Completed(exit_code, _text(output), "" if merge_stderr else _text(errors))


def _exit_code(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
    try:
        return main(argv) or 0
    except SystemExit as request:
        if request.code is None or isinstance(request.code, int):
            return request.code or 0
        print(request.code, file=sys.stderr)
        return 1


def _text_stream(content: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", newline="", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", "replace")
