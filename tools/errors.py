"""How every command line of the toolkit ends: what it tells of an exception, and its exit code.

A mistake of the user's is one error with a code, with the place in the file where it is known; exit 1. Anything else is
a bug: one `internal error:`, exit 70. Tracebacks appear only under `--debug`. tools/diagnostics.py says in which
formats this is written.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from xdsl.utils.exceptions import ArgSpecParseError, DiagnosticException, ParseError
from xdsl.utils.lexer import Span

from neuron_dialects.errors import NeuronError
from tools.diagnostics import INTERNAL, Diagnostic, Place, Reporter, install, requested_format

EXIT_OK = 0
EXIT_USER_ERROR = 1
EXIT_INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class SourceError(Exception):
    """A user's mistake at a known place of a file."""

    error: NeuronError
    place: Place

    def __init__(self, error: NeuronError, place: Place) -> None:
        super().__init__(error.message)
        self.error = error
        self.place = place


class InternalError(Exception):
    """A bug that we could describe: its text is the line that is printed after `internal error:`."""


def run_main(
    run: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None, tool: str = "neuron-toolkit"
) -> int:
    """Run a command line and return its exit code, having told of whatever exception it raised.

    Args:
        run: takes the arguments without the program's name, returns the exit code; may raise anything.
        argv: the arguments, those of the process by default. `--debug` among them asks for tracebacks,
            `--diagnostics-format` for another format than text.
        tool: name of the command line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    reporter = Reporter(tool, requested_format(arguments))
    previous = install(reporter)
    try:
        exit_code = run(arguments)
        sys.stdout.flush()
        reporter.finish()
        return exit_code
    except SystemExit:
        raise
    except BrokenPipeError:
        # The reader (`| head`) went away. Python flushes once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BaseException as error:  # xDSL's ArgSpecParseError is not an Exception.
        sys.stdout.flush()
        if "--debug" in arguments:
            traceback.print_exc()
        diagnostic = user_diagnostic(error)
        reporter.report(diagnostic or _internal_diagnostic(error))
        reporter.finish()
        return EXIT_USER_ERROR if diagnostic else EXIT_INTERNAL_ERROR
    finally:
        install(previous)


@contextmanager
def of_model(path: str | os.PathLike[str]) -> Generator[None]:
    """Errors raised inside that name a framework node are told as those of the model file `path`."""
    try:
        yield
    except NeuronError as error:
        if error.node is None:
            raise
        raise SourceError(error, Place(os.fspath(path))) from error


def user_diagnostic(error: BaseException) -> Diagnostic | None:
    """What to tell if the user can have caused `error`, None if it is a bug."""
    match error:
        case SourceError():
            return diagnostic_of(error.error, error.place)
        case NeuronError():
            return diagnostic_of(error)
        case ParseError():
            return diagnostic_of(NeuronError("NX-IR-001", one_line(error.msg)), place_of(error.span))
        case DiagnosticException():
            return diagnostic_of(NeuronError("NX-IR-001", one_line(str(error))))
        case ArgSpecParseError():
            return diagnostic_of(NeuronError("NX-PASS-001", spec_problem(error)))
        case OSError():
            reason = error.strerror or str(error)
            return diagnostic_of(
                NeuronError("NX-FILE-001", f"{error.filename}: {reason}" if error.filename else reason)
            )
        case MemoryError():
            return diagnostic_of(NeuronError("NX-MEM-001", "this machine has too little memory for the input"))
        case RecursionError():
            return diagnostic_of(NeuronError("NX-IR-001", "the input is nested too deeply"))
        case _:
            return None


def diagnostic_of(error: NeuronError, place: Place | None = None) -> Diagnostic:
    """A user's mistake as a diagnostic."""
    return Diagnostic("error", error.message, error.code, place, error.node, tuple(error.notes), error.help)


def place_of(span: Span[str] | Span[bytes], line_offset: int | None = None) -> Place:
    """A place in what xDSL's lexer has read, `line_offset` lines further down than it knows."""
    location = span.get_location()
    lines = span.input.content.split("\n") if isinstance(span.input.content, str) else []
    number = location.line - span.line_offset
    line = lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else None
    shown = location.line if line_offset is None else number + line_offset
    return Place(location.file, shown, location.col, line, max(span.len, 1))


def spec_problem(error: ArgSpecParseError) -> str:
    """What is wrong with the text of a pass or target, and in which column; xDSL draws it over five lines."""
    _, place, *_, reason = str(error).strip().split("\n")
    return f"{reason.strip()} (column {place.rpartition(':')[2]})"


def one_line(text: str) -> str:
    """`text` with its line breaks and runs of blanks made single blanks."""
    return " ".join(text.split())


def _internal_diagnostic(error: BaseException) -> Diagnostic:
    text = str(error) if isinstance(error, InternalError) else f"{type(error).__name__}: {error}"
    help_ = "this is a bug in the toolkit; --debug shows the traceback"
    return Diagnostic("error", one_line(text), INTERNAL, help=help_)
