"""`neuron-as`: assemble a text of nisa programs into a NEFF that `neuron-run` runs.

    neuron-as kernel.nasm -o kernel.neff
    neuron-objdump -d model.neff > model.nasm; neuron-as model.nasm --base model.neff -o again.neff

A text by itself is one kernel whose DRAM variables of kind input and output are the model's. With `--base` its programs
take the place of those of a compiled model. Every mistake is printed with its line and a caret below the word.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuron_dialects.errors import NeuronError
from neuron_dialects.target import load_target
from neuron_dialects.version import VERSION
from tools.diagnostics import Diagnostic, Place, add_common_arguments, report
from tools.errors import EXIT_OK, EXIT_USER_ERROR, run_main
from tools.plugins import add_plugin_argument, load_plugins

if TYPE_CHECKING:
    from runtime.assembly import Assembly

MAX_TEXT_BYTES = 256 << 20
"""Longest text that is read."""
MAX_PROBLEMS = 20
"""Races that are printed."""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script: exit code 0, or as tools/errors.py says."""
    return run_main(_run, argv, "neuron-as")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("neuron-as", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", type=Path, metavar="FILE.nasm", help="the text, as neuron-objdump -d prints it")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.neff", help="default: FILE.neff")
    parser.add_argument(
        "--base", type=Path, metavar="FILE.neff", help="the compiled model whose core programs are replaced"
    )
    parser.add_argument("--parameters", type=Path, metavar="FILE.npz", help="values of the parameters by name")
    parser.add_argument("--check-races", action="store_true", help="refuse a program whose streams can race or block")
    add_plugin_argument(parser)
    add_common_arguments(parser)
    parser.add_argument("--version", action="version", version=f"neuron-as {VERSION}")
    return parser


def _run(arguments: Sequence[str]) -> int:
    from runtime.assembly import AssemblyError, assemble, assembled_model
    from runtime.neff import read_neff, write_neff
    from tools.neuron_run import read_npz

    load_plugins(arguments)
    options = _parser().parse_args(arguments)
    text = _read(options.file)
    base = None if options.base is None else read_neff(options.base)
    parameters = {} if options.parameters is None else read_npz(options.parameters)
    try:
        assembly = assemble(text)
        if options.check_races:
            refuse_races(assembly, text)
    except AssemblyError as error:
        for problem in error.problems:
            place = Place(str(options.file), problem.line, problem.column, _line(text, problem.line), problem.length)
            report(Diagnostic("error", problem.message, error.code, place, help=problem.help))
        return EXIT_USER_ERROR
    model = assembled_model(assembly, base=base, parameters=parameters, name=options.file.stem)
    output = options.output or options.file.with_suffix(".neff")
    write_neff(model, output)
    programs = assembly.programs
    entries = sum(len(entries) for program in programs for entries in program.queues.values())
    queues = sum(len(program.queues) for program in programs)
    print(f"{output}: {entries} entries in {queues} queues for {programs[0].target}")
    return EXIT_OK


def refuse_races(assembly: Assembly, text: str) -> None:
    """Raise AssemblyError NX-RUN-007 at the lines of accesses that no wait orders, of `text`."""
    from runtime.assembly import AssemblyError, Problem
    from runtime.races import check_races

    source = text.split("\n")
    problems: list[Problem] = []
    for program, lines in zip(assembly.programs, assembly.lines, strict=True):
        for race in check_races(program, load_target(program.target), limit=MAX_PROBLEMS):
            # The later access is the one that a wait is missing from.
            party = race.second or race.first
            line = lines[party.engine][party.index]
            start = len(source[line - 1]) - len(source[line - 1].lstrip())
            problems.append(Problem(line, start + 1, len(source[line - 1]), race.message))
    if problems:
        raise AssemblyError(problems[:MAX_PROBLEMS], "NX-RUN-007")


def _line(text: str, number: int) -> str:
    lines = text.split("\n")
    return lines[number - 1].rstrip() if number <= len(lines) else ""


def _read(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise NeuronError("NX-FILE-002", f"{path}: {size} bytes, limit {MAX_TEXT_BYTES}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NeuronError("NX-FILE-002", f"{path}: not a text: byte {error.start} is not UTF-8") from None


if __name__ == "__main__":
    sys.exit(main())
