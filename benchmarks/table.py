"""Records as tables for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, log
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cases import FULL_SIZE
from benchmarks.compare import Change

Record = dict[str, Any]
Column = tuple[str, Callable[[Record], str]]


def _share(value: float) -> str:
    return f"{100 * value:.0f}"


def _error(record: Record) -> str:
    return f"{record['rel_l2_error']:.1e} / {record['rel_l2_limit']:.0e}" if "rel_l2_error" in record else "-"


def _published(record: Record) -> str:
    return f"{record['published_ratio']:.2f}" if "published_ratio" in record else "-"


PROGRAM: tuple[Column, ...] = (
    ("cast", lambda r: r["auto_cast"]),
    ("time us", lambda r: f"{r['total_time'] * 1e6:,.1f}"),
    ("roof us", lambda r: f"{r['roofline_time'] * 1e6:,.1f}"),
    ("eff", lambda r: f"{r['efficiency']:.2f}"),
    ("MFU %", lambda r: _share(r["mfu"])),
    ("pe/dve/act/pool/dma %", lambda r: "/".join(_share(v) for v in r["activity"].values())),
    ("DRAM MB", lambda r: f"{r['dram_bytes'] / 1e6:,.1f}"),
    ("x least", lambda r: f"{r['dram_ratio']:.2f}"),
    ("spill B", lambda r: f"{r['spill_bytes']:,}"),
    ("host", lambda r: str(len(r["host_operators"]))),
    ("chip /s", lambda r: f"{r['samples_per_second_per_chip']:,.0f}"),
    ("DRAM bound /s", lambda r: f"{r['dram_bound_samples_per_second']:,.0f}"),
    ("x published", _published),
)
TOOLS: tuple[Column, ...] = (
    ("compile s", lambda r: f"{r['compile_seconds']:.1f}"),
    ("cpu s", lambda r: f"{r['compile_cpu_seconds']:.1f}"),
    ("iree cpu s", lambda r: f"{r['iree_cpu_seconds']:.1f}" if "iree_cpu_seconds" in r else "not measured"),
    ("peak MB", lambda r: f"{r['compile_peak_bytes'] / 1e6:,.0f}"),
    ("code B", lambda r: f"{r['instruction_bytes']:,}"),
    ("timing s", lambda r: f"{r['timing_seconds']:.2f}"),
    ("k instr/s", lambda r: f"{r['timing_instructions_per_second'] / 1e3:,.0f}"),
    ("data s", lambda r: f"{r['interpreter_seconds']:.2f}" if "interpreter_seconds" in r else "-"),
    ("ort s", lambda r: f"{r['onnxruntime_seconds']:.3f}" if "onnxruntime_seconds" in r else "-"),
    ("x ort", lambda r: f"{r['interpreter_ratio']:.1f}" if "interpreter_ratio" in r else "-"),
    ("error / limit", _error),
)


def show(records: Sequence[Record], console: Console) -> None:
    """Print both tables, the cases without figures, the mean efficiency and the assumptions behind the results."""
    measured = [record for record in records if "total_time" in record]
    for title, columns in (("Compiled programs (simulated)", PROGRAM), ("Compiler and interpreter", TOOLS)):
        table = Table("case", title=title, title_justify="left")
        for name, _ in columns:
            table.add_column(name, justify="right")
        for record in measured:
            table.add_row(record["case"], *(cell(record) for _, cell in columns))
        console.print(table)
    for record in records:
        if record["status"] != "ok":
            console.print(f"{record['case']}: {record['status']}: {record['message']}", highlight=False, markup=False)
    for target in dict.fromkeys(record["target"] for record in measured):
        own = [record for record in measured if record["target"] == target]
        console.print(f"{target}: {means(own)}", highlight=False)
        if any("published_ratio" in record for record in own):
            console.print(f"  published: {'; '.join(_sources(own))}", highlight=False)
            console.print(f"  assumed: {', '.join(own[0]['assumptions'])}", highlight=False)


def _sources(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(
        f"{r['model']} {r['published_samples_per_second']:,.0f}/s ({r['published_how']})"
        for r in records if "published_how" in r
    ))  # fmt: skip


def means(records: Sequence[Record]) -> str:
    """Geometric means of efficiency in words: of the full-size models, each at its largest batch, and of all cases."""
    largest: dict[str, Record] = {}
    for record in sorted((r for r in records if r["source"] == FULL_SIZE), key=lambda r: r["batch"]):
        largest[record["model"]] = record
    every = f"{mean_efficiency(records):.3f} over {len(records)} cases"
    if not largest:
        return f"geometric mean of efficiency {every}"
    full_size = f"{mean_efficiency(list(largest.values())):.3f} over {len(largest)} full-size models"
    return f"geometric mean of efficiency {full_size}, {every}"


def mean_efficiency(records: Sequence[Record]) -> float:
    """Geometric mean; 0 without records or with one that has no roofline."""
    values = [record["efficiency"] for record in records]
    return exp(sum(map(log, values)) / len(values)) if values and min(values) > 0 else 0.0


def show_changes(found: Sequence[Change], console: Console) -> None:
    """Print every figure that moved by more than 1 %, regressions marked."""
    table = Table("case", "figure", title="Against the other revision", title_justify="left")
    for name in ("before", "now", "ratio", ""):
        table.add_column(name, justify="right")
    for change in found:
        if abs(change.ratio - 1) > 0.01 and change.before != change.now:
            mark = "regression" if change.is_regression else ""
            table.add_row(
                change.case, change.figure, f"{change.before:.4g}", f"{change.now:.4g}", f"{change.ratio:.3f}", mark
            )
    console.print(table)
