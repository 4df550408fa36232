"""What each pass is worth: the same cases with the pass left out of the default pipeline.

A pass without which nothing compiles is needed, not an optimisation; it is listed as such. Results are simulated times,
so they do not vary from run to run. `python -m benchmarks --ablate --page` keeps the figures in `RESULTS` and writes
the manual's page from them; `python -m benchmarks.ablation` writes the page again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import Case
from benchmarks.models import ROOT
from benchmarks.runner import Settings, measure
from lowering.pipeline import PHASES, pass_name

Rows = list[dict[str, Any]]
RESULTS = ROOT / "benchmarks" / "results" / "ablation.json"
PAGE = ROOT / "docs" / "ablation.md"
PREFACE = """<!-- Made by `python -m benchmarks.ablation` from benchmarks/results/ablation.json. -->

# What each pass is worth

Simulated time of a model with one pass of the graph phase left out, against the whole pipeline (revision {revision}).
A pass that is needed is one without which the model does not compile.

"""
FIGURES = ("total_time", "dram_bytes", "compile_cpu_seconds", "instruction_bytes")


def optional_passes() -> list[str]:
    """Passes of the graph phase, by name: those that later passes may do without."""
    return list(dict.fromkeys(pass_name(spec) for spec in PHASES[0].passes))


def ablate(cases: Sequence[Case], settings: Settings, console: Console) -> Rows:
    """One row for each case and each pass that is left out, the first with none left out."""
    rows: Rows = []
    for case in cases:
        for name in ("", *optional_passes()):
            with console.status(f"{case.name} without {name or 'nothing'}"):
                record = measure(case, replace(settings, without=(name,) if name else ()))
            row = {"case": case.name, "without": name, "status": record["status"], "message": record["message"]}
            rows.append(row | {figure: record[figure] for figure in FIGURES if figure in record})
            if record["status"] == "missing":
                break
    return rows


def relative(rows: Rows) -> Rows:
    """The rows with a pass left out, each with `slowdown`: its time over that of the whole pipeline, less one."""
    whole = {row["case"]: row["total_time"] for row in rows if not row["without"] and "total_time" in row}
    return [
        row | ({"slowdown": row["total_time"] / whole[row["case"]] - 1} if "total_time" in row else {})
        for row in rows
        if row["without"] and row["case"] in whole
    ]


def show_ablation(rows: Rows, console: Console) -> None:
    """Print what leaving out each pass costs."""
    table = Table("case", "without", title="Passes left out", title_justify="left")
    for name in ("time us", "slower", "DRAM MB", "compile cpu s"):
        table.add_column(name, justify="right")
    for row in relative(rows):
        if "slowdown" not in row:
            table.add_row(row["case"], row["without"], "needed", "", "", "")
            continue
        table.add_row(
            row["case"], row["without"], f"{row['total_time'] * 1e6:,.1f}", f"{100 * row['slowdown']:+.1f} %",
            f"{row['dram_bytes'] / 1e6:,.1f}", f"{row['compile_cpu_seconds']:.1f}",
        )  # fmt: skip
    console.print(table)


def page(stored: dict[str, Any]) -> str:
    """The manual's page of stored figures."""
    whole = [
        f"- {row['case']}: {row['total_time'] * 1e6:,.1f} us with the whole pipeline"
        for row in stored["ablation"]
        if not row["without"] and "total_time" in row
    ]
    listed = "\n".join(whole)
    return f"{PREFACE.format(revision=stored['revision'])}{listed}\n\n{markdown(stored['ablation'])}"


def keep(stored: dict[str, Any]) -> None:
    """Keep the figures in the clone and write the page."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    write_page()


def write_page() -> None:
    """Write the manual's page from the figures that are kept."""
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def markdown(rows: Rows) -> str:
    """The same as a table for the manual."""
    lines = ["| case | without | time | slower | DRAM |", "|---|---|---:|---:|---:|"]
    for row in relative(rows):
        cells = ["needed", "", ""]
        if "slowdown" in row:
            cells = [
                f"{row['total_time'] * 1e6:,.1f} us", f"{100 * row['slowdown']:+.1f} %",
                f"{row['dram_bytes'] / 1e6:,.1f} MB",
            ]  # fmt: skip
        lines.append(f"| {row['case']} | `{row['without']}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_page()
