"""`neuron-reduce`: make an IR file or an ONNX model smaller, as long as it still shows a fault.

    neuron-reduce model.onnx --interesting crash -- --target trn1
    neuron-reduce model.onnx --interesting mismatch -o small.onnx -- --auto-cast none
    neuron-reduce model.mlir --interesting error=NX-MEM-001 -- -p default
    neuron-reduce model.mlir --interesting mismatch -- -p graph-fuse,graph-layout
    neuron-reduce model.onnx --test ./still-fails.sh

What stands behind `--` are options of `neuron-cc compile` (ONNX models) or of `neuron-opt` (IR). A script is called
with a candidate's path as its last argument and says with exit code 0 that the fault is still there. The smallest file
found so far is always on disk, so that a run can be stopped at any time.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from neuron_dialects.errors import NeuronError
from tools.diagnostics import add_common_arguments
from tools.errors import run_main
from tools.reduce.interest import DEFAULT_TOLERANCE, KINDS, Interesting, built_in, script
from tools.reduce.search import Choice, Search

MOST_NAMED = 12
"""Operators that the summary names."""


class Parts(Protocol):
    """A program in parts, which can be written with some of them."""

    suffix: str

    def __len__(self) -> int: ...

    def write(self, choice: Choice, path: Path) -> bool:
        """Write the program of a choice; False when there is none."""
        ...

    def bypassable(self, part: int) -> bool:
        """Whether a part has an operand of its result's type."""
        ...

    def described(self, choice: Choice) -> list[str]:
        """The operators that are left."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_run, argv, "neuron-reduce")


def _parser() -> argparse.ArgumentParser:
    description = "Make an IR file or an ONNX model smaller, as long as it still shows a fault."
    parser = argparse.ArgumentParser(
        prog="neuron-reduce", description=description, epilog="Options behind -- go to neuron-cc compile or neuron-opt."
    )
    parser.add_argument("file", type=Path, help="a .onnx or .mlir file")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: the name with .reduced in it)")
    test = parser.add_mutually_exclusive_group(required=True)
    test.add_argument("--test", metavar="COMMAND", help="exit code 0 says that the file given last is interesting")
    test.add_argument("--interesting", metavar="KIND", help=f"{KINDS}")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        metavar="X",
        help=f"rel_l2_error against onnxruntime that is a mismatch (default {DEFAULT_TOLERANCE}, or 3 times the floor)",
    )
    parser.add_argument("--max-tests", type=int, default=2000, metavar="N", help="stop after N candidates")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="for each run of COMMAND")
    add_common_arguments(parser)
    return parser


def _run(arguments: Sequence[str]) -> int:
    own, options = _split(arguments)
    given = _parser().parse_args(own)
    path: Path = given.file
    output: Path = given.output or path.with_suffix(f".reduced{path.suffix}")
    if not path.is_file():
        raise NeuronError("NX-FILE-001", f"{path}: no such file")
    parts, options = parts_of(path, options)
    if given.test is not None:
        interesting = script(shlex.split(given.test), given.timeout)
    else:
        interesting = built_in(given.interesting, options, given.tolerance)
    choice, tests = reduce_file(parts, interesting, output, given.max_tests)
    left = parts.described(choice)
    named = ", ".join(left[:MOST_NAMED]) + (", ..." if len(left) > MOST_NAMED else "")
    print(f"{output}: {len(parts)} -> {len(left)} operators in {tests} tests: {named}")
    return 0


def parts_of(path: Path, options: Sequence[str]) -> tuple[Parts, list[str]]:
    """The parts of a file, and the options that are left: shapes of inputs are bound once and for all.

    NeuronError NX-FILE-002 for a file of another kind.
    """
    if path.suffix == ".mlir":
        from tools.reduce.ir import IrParts

        return IrParts(path), list(options)
    if path.suffix == ".onnx":
        from tools.neuron_cc import parse_input_shape
        from tools.reduce.onnx_model import OnnxParts

        shapes_only = argparse.ArgumentParser(add_help=False)
        shapes_only.add_argument("--input-shape", action="append", default=[])
        known, rest = shapes_only.parse_known_args(options)
        return OnnxParts(path, dict(parse_input_shape(text) for text in known.input_shape)), rest
    raise NeuronError("NX-FILE-002", f"{path}: neither .onnx nor .mlir")


def reduce_file(parts: Parts, interesting: Interesting, output: Path, max_tests: int = 2000) -> tuple[Choice, int]:
    """Search for a smaller program that is still interesting, and write the smallest to `output`.

    Returns what is left, and how many candidates were tried. NeuronError NX-ARG-002 when the whole program is not
    interesting: then the test is wrong, or the options behind --.
    """
    with tempfile.TemporaryDirectory() as folder:
        candidate = Path(folder) / f"candidate{parts.suffix}"

        def test(choice: Choice) -> bool:
            return parts.write(choice, candidate) and interesting(candidate)

        def improved(choice: Choice) -> None:
            output.write_bytes(candidate.read_bytes())
            _tell(parts, choice, search)

        search = Search(test, max_tests, improved)
        choice = search.minimize(len(parts), parts.bypassable) if search.holds(_all(len(parts))) else None
    if choice is None:
        raise NeuronError(
            "NX-ARG-002",
            "the file as it is does not have the property",
            help="run the test on it by hand; options of neuron-cc or neuron-opt stand behind --",
        )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return choice, search.tests


def _all(count: int) -> Choice:
    from tools.reduce.search import Fate

    return dict.fromkeys(range(count), Fate.KEPT)


def _tell(parts: Parts, choice: Choice, search: Search) -> None:
    """Progress, where somebody watches."""
    if sys.stderr.isatty():
        print(f"\r{len(parts.described(choice))} operators after {search.tests} tests ", end="", file=sys.stderr)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands in front of `--`, and behind."""
    given = list(arguments)
    if "--" not in given:
        return given, []
    position = given.index("--")
    return given[:position], given[position + 1 :]


if __name__ == "__main__":
    sys.exit(main())
