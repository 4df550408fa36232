"""`python -m tools.backend_suite`: ONNX's own backend test suite, case by case, on our backend.

Gives an outcome for every case of `onnx.backend.test`: passed, failed or skipped, whether it ran without a host segment
and whether inputs had to be specialised. `--update` writes the list of cases that do not pass, `--report FILE.json`
the outcomes, and the shares by category are printed as the table that docs/onnx-backend.md shows.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import unittest
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from os import environ
from pathlib import Path
from typing import Any, ClassVar

from onnx import ModelProto

from lowering.onnx_backend import Compiled, NeuronBackend, NeuronRep
from neuron_dialects.errors import NeuronError
from tools.errors import run_main
from tools.reference_pages.markdown import table

CATEGORIES = ("Node", "Simple", "PyTorchConverted", "PyTorchOperator", "Real")
"""The suite's own categories; Real are the nine light models."""

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class SuiteRep(NeuronRep):
    """As the suite expects it: what is not supported is a SkipTest with the reason."""

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        try:
            return super().run(inputs, **kwargs)
        except NeuronError as error:
            raise unittest.SkipTest(f"{error.code}: {error.message}") from error


class SuiteBackend(NeuronBackend):
    """The backend under test; `latest` is the model of the case that ran last."""

    latest: ClassVar[NeuronRep | None] = None

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> NeuronRep:
        made = super().prepare(model, device, **kwargs)
        SuiteBackend.latest = SuiteRep(made.model, made.options)
        return SuiteBackend.latest


@dataclass(frozen=True)
class Outcome:
    """What became of a case."""

    name: str
    category: str
    result: str
    reason: str
    """Why it did not pass; empty if it did."""
    host_segments: int
    """Segments that ran on the host; 0 if it was not compiled."""
    host_operators: str
    """What ran on the host, and why, one reason for each operator."""
    specialised: bool
    """Whether the values of inputs became part of the program."""
    element_types: str
    """ONNX names of the element types of inputs and outputs."""


Case = Callable[[unittest.TestCase], None]


@cache
def suite() -> Mapping[str, Mapping[str, Case]]:
    """Category -> case name (without the device) -> the official test function, in order of names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test import BackendTest

        classes = BackendTest(SuiteBackend, __name__).test_cases
    return {
        category: {
            name.removesuffix("_cpu"): getattr(classes[f"OnnxBackend{category}ModelTest"], name)
            for name in sorted(vars(classes[f"OnnxBackend{category}ModelTest"]))
            if name.startswith("test_") and name.endswith("_cpu")
        }
        for category in CATEGORIES
    }


@contextmanager
def private_onnx_home() -> Generator[None]:
    """The light models' data are written to and read from $ONNX_HOME: a folder of our own for one case."""
    before = environ.get("ONNX_HOME")
    with tempfile.TemporaryDirectory() as folder:
        environ["ONNX_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del environ["ONNX_HOME"]
            else:
                environ["ONNX_HOME"] = before


def run_case(category: str, name: str) -> Outcome:
    """Run one official case. Whatever it raises is part of the outcome."""
    SuiteBackend.latest = None
    result, reason = PASSED, ""
    try:
        with private_onnx_home(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            suite()[category][name](unittest.TestCase())
    except unittest.SkipTest as skipped:
        result, reason = SKIPPED, str(skipped)
    except AssertionError as different:
        result, reason = FAILED, mismatch(str(different))
    except Exception as crash:  # one case that breaks the compiler must not hide the others
        result, reason = FAILED, f"{type(crash).__name__}: {_first_line(str(crash))}"
    rep = SuiteBackend.latest
    compiled = rep.compiled if rep is not None else None
    return Outcome(
        name,
        category,
        result,
        reason,
        compiled.host_segments if compiled is not None else 0,
        host_reasons(compiled) if compiled is not None else "",
        bool(compiled is not None and compiled.specialised),
        _element_types(rep.model) if rep is not None else "",
    )


def host_reasons(compiled: Compiled) -> str:
    """What a compiled model leaves to the host and why, without repetition."""
    rows = compiled.result.report["partition"]
    return "; ".join(dict.fromkeys(f"{row['op']}: {row['why']}" for row in rows if row["where"] == "host"))


def mismatch(message: str) -> str:
    """The figures of a failed comparison on one line."""
    figures = re.findall(r"Mismatched elements: [^\n]*|Max (?:absolute|relative) difference[^\n]*", message)
    return "; ".join(" ".join(figure.split()) for figure in figures) or _first_line(message)


def _first_line(text: str) -> str:
    return next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")


def _element_types(model: ModelProto) -> str:
    """Element types of the model's inputs and outputs, sorted; `other` for what is no tensor."""
    from onnx import TensorProto

    names = {
        TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        if value.type.WhichOneof("value") == "tensor_type"
        else "other"
        for value in (*model.graph.input, *model.graph.output)
    }
    return " ".join(sorted(names))


EXCLUDED_FILE = Path(__file__).parent.parent / "tests" / "onnx_backend" / "excluded.txt"
"""The cases that do not pass: one on a line, `Category name: reason`."""

RANDOM = "random"
"""How the reason begins for a case that is not run because it passes or fails by chance."""

CORE_TYPES = frozenset(("FLOAT", "FLOAT16", "BFLOAT16", "INT64", "INT32", "INT16", "INT8", "UINT16", "UINT8", "BOOL"))
"""ONNX element types that a core can hold; INT64 as 32 bits."""


def excluded(path: Path = EXCLUDED_FILE) -> dict[tuple[str, str], str]:
    """(category, case) -> why it is not expected to pass."""
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    entries: dict[tuple[str, str], str] = {}
    for row in rows:
        case, _, reason = row.partition(": ")
        category, _, name = case.partition(" ")
        entries[category, name] = reason
    return entries


def excluded_text(outcomes: Sequence[Outcome], path: Path = EXCLUDED_FILE) -> str:
    """The file of excluded cases for these outcomes; a reason that is there already stays."""
    known = excluded(path) if path.exists() else {}
    lines = [
        "# Cases of ONNX's backend test suite that do not pass, and why. Category name: reason",
        f'# A reason that begins with "{RANDOM}" keeps the case from being run: it would pass now and then.',
        "",
    ]
    lines += [
        f"{outcome.category} {outcome.name}: "
        f"{known.get((outcome.category, outcome.name), f'{outcome.result}: {outcome.reason}')}"
        for outcome in outcomes
        if outcome.result != PASSED or known.get((outcome.category, outcome.name), "").startswith(RANDOM)
    ]
    return "\n".join(lines) + "\n"


def share_rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """Rows of the table of shares: group, cases, passed, on the core, of these specialised, skipped, failed."""
    groups: dict[str, list[Outcome]] = {category: [] for category in CATEGORIES}
    for outcome in outcomes:
        groups[outcome.category].append(outcome)
    node = groups["Node"]
    groups["Node, types that a core holds"] = [o for o in node if set(o.element_types.split()) <= CORE_TYPES]
    rows: list[tuple[str, ...]] = []
    for label, group in groups.items():
        passed = [outcome for outcome in group if outcome.result == PASSED]
        core = [outcome for outcome in passed if not outcome.host_segments]
        if not group:
            continue
        figures = (
            len(group),
            len(passed),
            f"{len(core)} ({len(core) / len(group):.1%})",
            sum(outcome.specialised for outcome in core),
            sum(outcome.result == SKIPPED for outcome in group),
            sum(outcome.result == FAILED for outcome in group),
        )
        rows.append((label, *(str(figure) for figure in figures)))
    return rows


COLUMNS = ("cases", "all", "passed", "passed without a host segment", "of these specialised", "skipped", "failed")


def host_share_rows(outcomes: Sequence[Outcome], limit: int = 25) -> list[tuple[str, ...]]:
    """What most often keeps a passing case off the core: reason and number of cases, most frequent first."""
    counts: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.result == PASSED and outcome.host_operators:
            first = outcome.host_operators.partition(";")[0]
            counts[first] = counts.get(first, 0) + 1
    return [(reason, str(count)) for reason, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:limit]]


def selected(categories: Sequence[str], part: int = 0, parts: int = 1) -> list[tuple[str, str]]:
    """Every `parts`-th case of the categories in order of names, from the `part`-th on."""
    cases = [(category, name) for category in categories for name in suite()[category]]
    return cases[part::parts]


def _run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.backend_suite", description=__doc__)
    parser.add_argument("--category", action="append", choices=CATEGORIES, help="run this category only; repeatable")
    parser.add_argument("--part", default="0/1", metavar="K/N", help="run every N-th case from the K-th on")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write the outcome of every case")
    parser.add_argument("--update", action="store_true", help="rewrite the list of excluded cases and the page of docs")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(argv)
    part = re.fullmatch(r"(\d+)/([1-9]\d*)", options.part)
    if part is None:
        raise NeuronError("NX-ARG-002", f"--part {options.part}: expected K/N, such as 0/8")
    if options.update and (options.category or options.part != "0/1"):
        raise NeuronError("NX-ARG-002", "--update needs the whole suite: leave out --category and --part")
    cases = selected(options.category or CATEGORIES, int(part[1]), int(part[2]))
    outcomes = [run_case(category, name) for category, name in cases]
    if options.report is not None:
        rows = [asdict(outcome) for outcome in outcomes]
        options.report.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.update:
        EXCLUDED_FILE.write_text(excluded_text(outcomes), encoding="utf-8")
        page = EXCLUDED_FILE.parent.parent.parent / "docs" / "onnx-backend.md"
        page.write_text(filled_page(page.read_text(encoding="utf-8"), outcomes), encoding="utf-8")
    print(table(COLUMNS, share_rows(outcomes)))
    for outcome in outcomes:
        if outcome.result != PASSED:
            print(f"{outcome.category} {outcome.name}: {outcome.result}: {outcome.reason}")
    return 0


def filled_page(text: str, outcomes: Sequence[Outcome]) -> str:
    """A page whose parts between `<!-- NAME -->` and `<!-- end NAME -->` are made from outcomes."""
    tables = {
        "shares": table(COLUMNS, share_rows(outcomes)),
        "host": table(("what the host runs, and why", "passing cases"), host_share_rows(outcomes)),
        "excluded": table(
            ("case", "why"),
            [(name, reason) for (_, name), reason in excluded().items()],
        ),
    }
    for name, made in tables.items():
        block = f"<!-- {name} -->\n\n{made}\n\n<!-- end {name} -->"
        text = re.sub(f"<!-- {name} -->.*?<!-- end {name} -->", lambda _, b=block: b, text, flags=re.DOTALL)
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_main(_run, argv)


if __name__ == "__main__":
    sys.exit(main())
