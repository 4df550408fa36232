"""The command line of `neuron-opt`: every flag with its help text, in groups.

Flags are spelled as MLIR's and as xDSL's tools spell them; where the two differ both work, and the shorter one is shown
first. The names under which values arrive (`output_file`, `print_op_generic`, ...) are those that xDSL's driver reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from tools.diagnostics import FORMAT_OPTION, FORMATS
from tools.plugins import add_plugin_argument
from tools.remarks import add_remark_arguments

ELIDED_ELEMENTS = 16
"""Elements of the largest constant that --elide-weights leaves."""


def add_arguments(parser: argparse.ArgumentParser, frontends: Sequence[str], targets: Sequence[str]) -> None:
    """Add everything; `frontends` and `targets` are the names that -f and -t take."""
    parser.prog = "neuron-opt"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "neuron-opt --list-passes shows the passes with their options; docs/neuron-opt.md is the manual."
    parser.add_argument("input_file", nargs="?", metavar="FILE", help="textual IR (standard input by default)")
    _add_input(parser.add_argument_group("input and output"), frontends, targets)
    _add_passes(parser.add_argument_group("passes"))
    _add_checks(parser.add_argument_group("checks"))
    _add_printing(parser.add_argument_group("how the program is printed"))
    _add_dumps(parser.add_argument_group("the program between passes, on standard error"))
    _add_reports(parser.add_argument_group("reports, on standard error"))
    _add_information(parser.add_argument_group("information"))


def _add_input(group: Any, frontends: Sequence[str], targets: Sequence[str]) -> None:
    group.add_argument("-o", "--output-file", metavar="FILE", help="write the program to FILE, when all went well")
    group.add_argument("-f", "--frontend", choices=frontends, help="read the input as this, whatever its name")
    group.add_argument("-t", "--target", default="mlir", help=f"how to write the program: {', '.join(targets)}")
    _flag(group, "--split-input-file", "process the parts between `// -----` lines one by one")
    _flag(group, "--allow-unregistered-dialect", "accept operations and attributes of unknown dialects")
    _flag(group, "--no-implicit-module", "the file must hold a module itself")


def _add_passes(group: Any) -> None:
    group.add_argument(
        "-p",
        "--passes",
        "--pass-pipeline",
        default="",
        metavar="'a,b{option=1}'",
        help="passes and pipelines to run, in order; MLIR's 'builtin.module(a,b)' works too",
    )
    add_plugin_argument(group)
    _flag(group, "--dump-pass-pipeline", "print the passes that will run, as text that -p takes")
    _flag(group, "--run-reproducer", "run the passes that a crash reproducer names")
    group.add_argument(
        "--mlir-pass-pipeline-crash-reproducer",
        "--crash-reproducer",
        dest="crash_reproducer",
        metavar="FILE",
        help="when a pass fails, write the program and the passes to FILE, for --run-reproducer",
    )
    _flag(
        group,
        "--mlir-pass-pipeline-local-reproducer",
        "the reproducer holds the program in front of the failing pass, and that pass alone",
        dest="local_reproducer",
    )
    _flag(group, "--shrink", "exit 0 if a pass raised ShrinkException (for Shrink Ray; see neuron-reduce)")


def _add_checks(group: Any) -> None:
    group.add_argument(
        "--verify-each",
        nargs="?",
        const=True,
        default=True,
        type=_truth,
        metavar="0|1",
        help="verify the program after every pass (default 1; with 0 before the first and after the last one only)",
    )
    _flag(group, "--disable-verify", "never verify")
    group.add_argument(
        "--verify-diagnostics",
        nargs="?",
        const="all",
        choices=("all", "only-expected"),
        help="compare what is told with the file's `// expected-error {{...}}` comments; with only-expected others may"
        " be told too",
    )
    _flag(group, "--parsing-diagnostics", "print errors to standard output and go on with the next part")
    _flag(
        group,
        "--verify-numerics",
        "run the program on random inputs before and after each pass, and name the first pass that changes results",
    )
    group.add_argument(
        "--numerics-tolerance",
        type=float,
        metavar="X",
        help="rel_l2_error that a pass may cause (by default it depends on the element types of the program)",
    )
    group.add_argument("--numerics-seed", type=int, default=0, metavar="N", help="seed of the inputs (default 0)")


def _add_printing(group: Any) -> None:
    _flag(group, "--print-op-generic", "print operations in their generic form", "--mlir-print-op-generic")
    _flag(group, "--print-debuginfo", "print locations", "--mlir-print-debuginfo")
    _flag(group, "--print-no-properties", "print properties among the attributes")
    _flag(group, "--syntax-highlight", "print in colors")
    group.add_argument(
        "--mlir-elide-elementsattrs-if-larger",
        dest="elide_above",
        type=int,
        metavar="N",
        help="do not print the values of constants of more than N elements (what is printed cannot be read again)",
    )
    group.add_argument(
        "--elide-weights",
        dest="elide_above",
        action="store_const",
        const=ELIDED_ELEMENTS,
        help=f"the same with N = {ELIDED_ELEMENTS}",
    )


def _add_dumps(group: Any) -> None:
    for when in ("before", "after"):
        group.add_argument(
            f"--print-ir-{when}",
            f"--mlir-print-ir-{when}",
            action="append",
            default=[],
            metavar="PASS",
            help=f"print the program {when} this pass; repeatable, or several with commas",
        )
        _flag(group, f"--print-ir-{when}-all", f"print it {when} every pass", f"--mlir-print-ir-{when}-all")
    _flag(group, "--print-ir-after-change", "print it after passes that changed it", "--mlir-print-ir-after-change")
    _flag(group, "--print-ir-after-failure", "print it after a pass that fails", "--mlir-print-ir-after-failure")
    _flag(group, "--mlir-print-ir-module-scope", "whole modules are always printed; accepted for MLIR's sake")
    _flag(group, "--mlir-disable-threading", "passes always run one after the other; accepted for MLIR's sake")
    _flag(group, "--print-between-passes", "as --print-ir-after-all")
    group.add_argument(
        "--print-ir-tree-dir",
        "--mlir-print-ir-tree-dir",
        metavar="DIR",
        help="write these programs to files in DIR instead; alone, after every pass",
    )


def _add_reports(group: Any) -> None:
    _flag(group, "--timing", "how long each step took", "--mlir-timing", "--time-passes")
    _flag(group, "--pass-statistics", "what each pass did to the program", "--mlir-pass-statistics")
    group.add_argument(
        "--pass-statistics-display",
        "--mlir-pass-statistics-display",
        choices=("list", "pipeline"),
        default="pipeline",
        help="passes by name, summed, or in the order in which they ran (default)",
    )
    add_remark_arguments(group)
    group.add_argument(FORMAT_OPTION, choices=FORMATS, default="text", help="how errors and remarks are written")


def _add_information(group: Any) -> None:
    _flag(group, "--list-passes", "print the pipelines and passes with their options, and exit")
    group.add_argument("--explain", metavar="CODE", help="tell what an error code means and what to do, and exit")
    _flag(group, "--show-dialects", "print the names of all dialects, and exit")
    _flag(group, "--debug", "print a traceback for an error")


def _flag(group: Any, name: str, text: str, *aliases: str, dest: str | None = None) -> None:
    named = {"dest": dest} if dest else {}
    group.add_argument(name, *aliases, action="store_true", help=text, **named)


def _truth(text: str) -> bool:
    if text.lower() in ("1", "true"):
        return True
    if text.lower() in ("0", "false"):
        return False
    return _refuse(f"'{text}' is neither 0 nor 1")


def _refuse(message: str) -> NoReturn:
    raise argparse.ArgumentTypeError(message)
