"""The manual's page of measured programs: written from figures that are kept in the clone.

`python -m benchmarks --throughput --page` measures, keeps the figures in `RESULTS`, adding to those of the same
revision, and writes the page; `python -m benchmarks.performance` writes the page again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from benchmarks.models import ROOT
from benchmarks.table import PROGRAM, TOOLS, Column, means

Record = dict[str, Any]
RESULTS = ROOT / "benchmarks" / "results" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"
PREFACE = """<!-- Made by `python -m benchmarks.performance` from benchmarks/results/performance.json. -->

# Measured programs

Full-size models on one simulated core, revision {revision}. Where the last column has an error, outputs were compared
with onnxruntime in the same run (`--no-check` leaves that out). The columns are explained in
[benchmarks.md](benchmarks.md). Times of programs do not vary from run to run. Seconds are processor seconds of one
thread on the machine that measured; other work on it makes them longer.

`python -m benchmarks --throughput --page` measures again; `--model`, `--target` and `--batch` choose.
"""
DROPPED_COLUMNS = ("cast", "DRAM bound /s", "compile s", "code B", "iree cpu s")


def keep(stored: dict[str, Any]) -> None:
    """Keep figures in the clone and write the page; those of other cases stay if they are of the same revision."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    records = {record["case"]: record for record in stored["records"]}
    if RESULTS.is_file():
        before = json.loads(RESULTS.read_text(encoding="utf-8"))
        if before["revision"] == stored["revision"]:
            records = {record["case"]: record for record in before["records"]} | records
    found = {"revision": stored["revision"], "records": list(records.values())}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_page()


def write_page() -> None:
    """Write the page from the figures that are kept."""
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


def page(stored: dict[str, Any]) -> str:
    """The page of stored figures."""
    measured = [record for record in stored["records"] if "total_time" in record]
    parts = [PREFACE.format(revision=stored["revision"])]
    for title, columns in (("Programs", PROGRAM), ("Compiler and interpreter", TOOLS)):
        parts += [f"## {title}", "", *_table(measured, columns), ""]
    for target in dict.fromkeys(record["target"] for record in measured):
        own = [record for record in measured if record["target"] == target]
        parts.append(f"{target}: {means(own)}.")
        if any("published_ratio" in record for record in own):
            parts.append(f"\nAssumed figures of the machine: {', '.join(own[0]['assumptions'])}.\n")
    parts += [f"{r['case']}: {r['status']}: {r['message']}." for r in stored["records"] if r["status"] != "ok"]
    return "\n".join(parts).rstrip() + "\n"


def _table(records: Sequence[Record], columns: Sequence[Column]) -> list[str]:
    shown = [column for column in columns if column[0] not in DROPPED_COLUMNS]
    lines = [f"| case | {' | '.join(name for name, _ in shown)} |", f"|---|{'---:|' * len(shown)}"]
    return lines + [f"| {r['case']} | {' | '.join(cell(r) for _, cell in shown)} |" for r in records]


if __name__ == "__main__":
    write_page()
