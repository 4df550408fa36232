"""How every command line of the toolkit ends: what it prints for an exception, and its exit code.

A mistake of the user's is one `error[CODE]:` line, with the place in the file in front where it is known, and perhaps a
`help:` line; exit 1. Anything else is a bug: one `internal error:` line, exit 70. Tracebacks appear only under
`--debug`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from xdsl.utils.exceptions import ArgSpecParseError, DiagnosticException, ParseError

from neuron_dialects.errors import NeuronError

EXIT_OK = 0
EXIT_USER_ERROR = 1
EXIT_INTERNAL_ERROR = 70
"""EX_SOFTWARE of sysexits.h."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
_LONGEST_LINE = 1000
"""Characters of a message's line that are printed."""


class SourceError(Exception):
    """A user's mistake at a known place of a file, printed as `place: error[CODE]: ...`.

    Args:
        error: what is wrong.
        place: "file" or "file:line:column".
    """

    error: NeuronError
    place: str

    def __init__(self, error: NeuronError, place: str) -> None:
        super().__init__(error.message)
        self.error = error
        self.place = place


class InternalError(Exception):
    """A bug that we could describe: its text is the line that is printed after `internal error:`."""


def run_main(run: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code, having printed one line for whatever exception it raised.

    Args:
        run: takes the arguments without the program's name, returns the exit code; may raise anything.
        argv: the arguments, those of the process by default. `--debug` among them asks for tracebacks.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        exit_code = run(arguments)
        sys.stdout.flush()
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
        message = user_message(error)
        print(_printable(message or _internal_message(error)), file=sys.stderr)
        return EXIT_USER_ERROR if message else EXIT_INTERNAL_ERROR


def user_message(error: BaseException) -> str | None:
    """The lines to print if the user can have caused `error`, None if it is a bug."""
    match error:
        case SourceError():
            return f"{error.place}: {error.error.format()}"
        case NeuronError():
            return error.format()
        case ParseError():
            return f"{error.span.get_location()}: {NeuronError('NX-IR-001', one_line(error.msg)).format()}"
        case DiagnosticException():
            return NeuronError("NX-IR-001", one_line(str(error))).format()
        case ArgSpecParseError():
            return NeuronError("NX-PASS-001", spec_problem(error)).format()
        case OSError():
            reason = error.strerror or str(error)
            return NeuronError("NX-FILE-001", f"{error.filename}: {reason}" if error.filename else reason).format()
        case MemoryError():
            return NeuronError("NX-MEM-001", "this machine has too little memory for the input").format()
        case RecursionError():
            return NeuronError("NX-IR-001", "the input is nested too deeply").format()
        case _:
            return None


def spec_problem(error: ArgSpecParseError) -> str:
    """What is wrong with the text of a pass or target, and in which column; xDSL draws it over five lines."""
    _, place, *_, reason = str(error).strip().split("\n")
    return f"{reason.strip()} (column {place.rpartition(':')[2]})"


def one_line(text: str) -> str:
    """`text` with its line breaks and runs of blanks made single blanks."""
    return " ".join(text.split())


def _internal_message(error: BaseException) -> str:
    text = str(error) if isinstance(error, InternalError) else f"{type(error).__name__}: {error}"
    return f"internal error: {one_line(text)}\n  help: this is a bug in the toolkit; --debug shows the traceback"


def _printable(message: str) -> str:
    """`message` shortened, and without control characters: names taken from a file may have any length and hold any."""
    lines = message.split("\n")
    message = "\n".join(line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..." for line in lines)
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in message)
