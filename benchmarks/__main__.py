"""`python -m benchmarks`: measure, print tables, write JSON, compare with another revision, leave passes out.

    python -m benchmarks --model resnet50 --target trn1 --batch 8
    python -m benchmarks --quick --against main
    python -m benchmarks --ablate --page

The exit code is 1 when an output is wrong, a case fails, or `--against` finds a regression.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import performance
from benchmarks.ablation import ablate, keep, show_ablation
from benchmarks.cases import ABLATED, Case, select
from benchmarks.compare import changes, load_records, worktree
from benchmarks.iree import add_iree
from benchmarks.models import ROOT, cache_folder
from benchmarks.runner import Settings, measure
from benchmarks.scaling import layer_scaling, show_scaling
from benchmarks.table import show, show_changes

WIDTH = 240
"""Characters of a line that is written to a file."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure models, compiler and interpreter.")
    many: dict[str, Any] = {"action": "append", "default": []}
    parser.add_argument("--model", **many, metavar="NAME", help="only models that match this shell pattern (repeats)")
    parser.add_argument("--target", **many, help="only this target (repeats)")
    parser.add_argument("--batch", **many, type=int, help="only this batch; with --model, any batch (repeats)")
    parser.add_argument("--quick", action="store_true", help="a few models at their smallest batch")
    parser.add_argument("--throughput", action="store_true", help="each model at its last batch only")
    parser.add_argument("--no-check", action="store_true", help="do not run on data: no outputs to compare")
    parser.add_argument("--scaling", action="store_true", help="also compile 12 and 48 equal layers")
    parser.add_argument("--ablate", action="store_true", help="measure with each optimisation left out instead")
    parser.add_argument("--page", action="store_true", help="keep the figures in the clone, write the manual's page")
    parser.add_argument("--against", metavar="REV|FILE.json", help="compare with a revision or a stored run")
    parser.add_argument("--iree", type=Path, metavar="BIN", help="folder with iree-import-onnx and iree-compile")
    parser.add_argument("--cache", type=Path, default=cache_folder(), help="folder of models (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "benchmarks.json", help="where the figures go")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    # Tables are wide: where nobody watches, lines are as long as they need to be.
    options, console = _parser().parse_args(argv), Console(width=None if sys.stdout.isatty() else WIDTH)
    cases = select(options.model, options.target, options.batch, options.quick, options.throughput)
    if options.ablate and not options.model:
        cases = [case for case in ABLATED if not options.target or case.target in options.target]
    if not cases:
        console.print("no case matches")
        return 2
    settings = Settings(cache=options.cache, check=not options.no_check)
    if options.ablate:
        rows = ablate(cases, settings, console)
        found: dict[str, Any] = {"revision": _revision(), "ablation": rows}
        show_ablation(rows, console)
        if options.page:
            keep(found)
        return _written(options.json, found, 0)
    records = _measured(cases, settings, console)
    if options.iree is not None:
        add_iree(cases, records, settings, options.iree)
    show(records, console)
    failed = any(record["status"] in ("failed", "wrong") for record in records)
    found = {"revision": _revision(), "records": records}
    if options.page:
        performance.keep(found)
    if options.scaling:
        found["scaling"] = layer_scaling(settings)
        show_scaling(found["scaling"], console)
    if options.against is not None:
        moved = changes(_other(options.against, cases, settings, console), records)
        show_changes(moved, console)
        failed |= any(change.is_regression for change in moved)
    return _written(options.json, found, int(failed))


def _measured(cases: Sequence[Case], settings: Settings, console: Console) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for case in cases:
        with console.status(case.name):
            records.append(measure(case, settings))
    return records


def _other(against: str, cases: Sequence[Case], settings: Settings, console: Console) -> list[dict[str, Any]]:
    """The records of a stored run, or of another revision measured now."""
    if against.endswith(".json"):
        return load_records(Path(against))
    with worktree(against) as root:
        return _measured(cases, replace(settings, root=root), console)


def _revision() -> str:
    """The revision that is checked out, "-dirty" where code was changed; "unknown" outside of a clone."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!docs", ":!benchmarks/results")
    return (git("describe", "--always") or "unknown") + ("-dirty" if changed else "")


def _written(path: Path, found: dict[str, Any], code: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
