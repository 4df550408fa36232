"""`neuron-profile`: see where the time of a compiled model goes.

    neuron-profile capture model.neff -o profile
    neuron-profile view profile
    neuron-profile view profile --output-format html --output-file report.html
    neuron-profile view profile --what-if dma=inf --output-format summary-json
    neuron-profile diff before after --fail-if 'total_time>+2%'
    neuron-profile what-if profile clock=2x dma=inf

A profile is a folder that `capture`, or `neuron-run --profile`, writes. Figures have the names of Neuron Explorer's
profile schema. Times are those of the simulated machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from neuron_dialects.atomic_file import write_bytes, write_text
from neuron_dialects.errors import NeuronError
from tools.diagnostics import add_common_arguments
from tools.errors import run_main

if TYPE_CHECKING:
    from runtime.profile.analysis import Analysis

FORMATS = {
    "summary": "",
    "summary-text": "",
    "summary-json": "",
    "perfetto": "trace.pftrace",
    "html": "report.html",
    "csv": "tables",
    "parquet": "tables",
}
"""Output format -> what it is written to, inside the profile's folder, unless --output-file says otherwise."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neuron-profile", description="See where the time of a compiled model goes.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    capture = _verb(verbs, "capture", "time a NEFF and write its profile; needs no inputs")
    capture.add_argument("neff", type=Path, help="a compiled model")
    capture.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write")
    capture.add_argument("--bucket", type=int, default=0, metavar="N", help="which of the model's shapes (default 0)")
    capture.set_defaults(run=_capture)
    view = _verb(verbs, "view", "show a profile, or write it in another format")
    view.add_argument("profile", type=Path, metavar="DIR", help="folder of a profile")
    view.add_argument("--output-format", choices=tuple(FORMATS), default="summary", help="default: summary")
    view.add_argument("--output-file", type=Path, metavar="FILE", help="where to write (csv, parquet: a folder)")
    view.add_argument(
        "--show-perfetto-flows", action="store_true", help="perfetto: arrows from waits to what ended them"
    )
    _add_what_if(view)
    view.set_defaults(run=_view)
    diff = _verb(verbs, "diff", "compare two profiles")
    diff.add_argument("before", type=Path, metavar="A", help="folder of a profile")
    diff.add_argument("after", type=Path, metavar="B", help="folder of another one")
    diff.add_argument(
        "--fail-if", action="append", default=[], metavar="FIGURE>+2%", help="exit with 1 on such a change; repeatable"
    )
    diff.add_argument("--json", action="store_true", help="print one JSON object")
    diff.set_defaults(run=_diff)
    what_if = _verb(verbs, "what-if", "time the same programs on a machine with other figures")
    what_if.add_argument("profile", type=Path, metavar="DIR", help="folder of a profile")
    what_if.add_argument("changes", nargs="*", metavar="FIGURE=VALUE", help="each asked alone, then all together")
    what_if.add_argument("--json", action="store_true", help="print one JSON object")
    what_if.set_defaults(run=_what_if)
    return parser


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],  # pyright: ignore[reportPrivateUsage]
    name: str,
    about: str,
) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    add_common_arguments(verb)
    return verb


def _add_what_if(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--what-if",
        action="append",
        default=[],
        metavar="FIGURE=VALUE",
        help="as if the machine had another clock, dma=inf, bandwidth=2x or any other figure; repeatable",
    )


def _run(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    return options.run(options)


def _capture(options: argparse.Namespace) -> int:
    from neuron_dialects.target import load_target
    from runtime.neff import read_neff
    from runtime.profile.record import neff_programs, record_neff
    from runtime.profile.store import write_profile

    neff = read_neff(options.neff)
    if not 0 <= options.bucket < len(neff.buckets):
        raise NeuronError("NX-ARG-002", f"bucket {options.bucket}: the model has {len(neff.buckets)}")
    profile = record_neff(neff, load_target(neff.target), options.bucket)
    write_profile(profile, neff_programs(neff, options.bucket), options.output)
    print(f"{options.output}: {sum(len(program.events) for program in profile.programs)} events")
    return 0


def _analysis(folder: Path, changes: Sequence[str]) -> Analysis:
    """The profile in a folder, timed again if figures are changed."""
    from runtime.profile.analysis import Analysis
    from runtime.profile.store import read_profile, read_programs
    from runtime.profile.what_if import retimed

    profile = read_profile(folder)
    return Analysis(retimed(profile, read_programs(folder), changes) if changes else profile)


def _view(options: argparse.Namespace) -> int:
    analysis = _analysis(options.profile, options.what_if)
    output = options.output_file
    if FORMATS[options.output_format]:
        output = output or options.profile / FORMATS[options.output_format]
        print(f"{output}: {_write(analysis, options.output_format, output, options.show_perfetto_flows)}")
        return 0
    if output is None and options.output_format == "summary":
        from tools.profile.terminal import print_report, printed

        printed(lambda out: print_report(analysis, out))
        return 0
    text = _summary(analysis, options.output_format)
    if output is not None:
        write_text(output, text)
    else:
        sys.stdout.write(text)
    return 0


def _summary(analysis: Analysis, output_format: str) -> str:
    from runtime.profile.summary import summary_of
    from tools.profile.terminal import print_report, summary_text, text_of

    if output_format == "summary-json":
        return json.dumps(summary_of(analysis.profile), indent=2) + "\n"
    if output_format == "summary-text":
        return summary_text(summary_of(analysis.profile)) + "\n"
    return text_of(lambda out: print_report(analysis, out))


def _write(analysis: Analysis, output_format: str, output: Path, flows: bool) -> str:
    """Write a file or folder of tables; what to say of it."""
    if output_format == "perfetto":
        from tools.profile.perfetto import perfetto_trace

        data = perfetto_trace(analysis, flows=flows)
        write_bytes(output, data)
        return f"{len(data)} bytes; open it in the Perfetto UI"
    if output_format == "html":
        from tools.profile.html import html_report

        page = html_report(analysis).encode()
        write_bytes(output, page)
        return f"{len(page)} bytes; open it in a browser"
    from tools.profile.tables import write_tables

    return f"{write_tables(analysis, output, output_format)} tables"


def _diff(options: argparse.Namespace) -> int:
    from runtime.profile.diff import broken_limits, figure_differences, operator_differences, parse_limit
    from runtime.profile.operators import operators_of
    from runtime.profile.summary import summary_of
    from tools.profile.terminal import print_differences, printed

    limits = [parse_limit(text) for text in options.fail_if]
    before, after = _analysis(options.before, ()), _analysis(options.after, ())
    figures = figure_differences(summary_of(before.profile), summary_of(after.profile))
    operators = operator_differences(operators_of(before), operators_of(after))
    broken = broken_limits(limits, figures)
    if options.json:
        rows = {
            name: [{"name": d.name, "before": d.before, "after": d.after, "change": d.change} for d in differences]
            for name, differences in (("figures", figures), ("operators", operators))
        }
        print(json.dumps({**rows, "broken": [limit.text for limit, _ in broken]}, indent=2))
    else:
        printed(lambda out: print_differences(figures, operators, out))
    if broken:
        limit, difference = broken[0]
        more = f" (and {len(broken) - 1} more limits)" if len(broken) > 1 else ""
        change = f"{difference.relative:+.2%}" if difference.relative is not None else f"{difference.change:+.6g}"
        raise NeuronError(
            "NX-PROF-004",
            f"{limit.text}: it went from {difference.before:.6g} to {difference.after:.6g}, {change}{more}",
        )
    return 0


def _what_if(options: argparse.Namespace) -> int:
    from runtime.profile.store import read_profile, read_programs
    from runtime.profile.summary import summary_of
    from runtime.profile.what_if import DEFAULT_QUESTIONS, retimed
    from tools.profile.terminal import time_text

    profile, programs = read_profile(options.profile), read_programs(options.profile)
    changes: list[str] = options.changes or list(DEFAULT_QUESTIONS)
    questions: list[tuple[str, ...]] = [(change,) for change in changes]
    if len(options.changes) > 1:
        questions.append(tuple(changes))
    before = float(summary_of(profile)["total_time"])
    rows = [(question, float(summary_of(retimed(profile, programs, question))["total_time"])) for question in questions]
    if options.json:
        found = [{"changes": list(question), "total_time": after} for question, after in rows]
        print(json.dumps({"total_time": before, "what_if": found}, indent=2))
        return 0
    width = max(len(" ".join(question)) for question, _ in rows)
    print(f"{'as it is':<{width}}  {time_text(before * 1e9):>12}")
    for question, after in rows:
        change = f"{after / before - 1:+8.1%}" if before else ""
        print(f"{' '.join(question):<{width}}  {time_text(after * 1e9):>12}  {change}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
