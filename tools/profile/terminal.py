"""The summary that `neuron-profile view` prints: where the time went, on which engine, in which layer, and why.

Text with colours on a terminal, the same text without them elsewhere. `summary_text` is the plain list of all figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import IO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.profile.advice import Advice, advice_of
from runtime.profile.analysis import Analysis
from runtime.profile.diff import Difference
from runtime.profile.idle import Idle
from runtime.profile.model import Profile
from runtime.profile.operators import STREAMS, OperatorRow, layers_of
from runtime.profile.summary import Figures, summary_of

WIDTH = 120
"""Columns of text that does not go to a terminal."""
_BAR = 24


def console(stream: IO[str] | None = None) -> Console:
    """A console on a stream, standard output by default."""
    plain = Console(file=stream, highlight=False, soft_wrap=False)
    return plain if plain.is_terminal else Console(file=stream, highlight=False, width=WIDTH)


def printed(print_to: Callable[[Console], None]) -> None:
    """Print to standard output: with colours on a terminal, elsewhere without blanks at the ends of lines."""
    if sys.stdout.isatty():
        print_to(console())
    else:
        sys.stdout.write(text_of(print_to))


def text_of(print_to: Callable[[Console], None]) -> str:
    """What is printed, as plain text."""
    text = StringIO()
    print_to(console(text))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def time_text(ns: float) -> str:
    """A time with a unit that suits it: `1.23 ms`."""
    size = abs(ns)
    if size >= 1e9:
        return f"{ns / 1e9:.3f} s"
    if size >= 1e6:
        return f"{ns / 1e6:.3f} ms"
    return f"{ns / 1e3:.2f} us" if size >= 1e3 else f"{ns:.0f} ns"


def bytes_text(size: float) -> str:
    """A size with a unit that suits it: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024 or unit == "GiB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def summary_text(figures: Mapping[str, float | int | bool]) -> str:
    """One line for each figure, names aligned."""
    width = max(map(len, figures), default=0)
    return "\n".join(f"{name:<{width}}  {_plain(value)}" for name, value in figures.items())


def _plain(value: float | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def print_report(analysis: Analysis, out: Console, rows: int = 12) -> None:
    """The whole report: head, engines, idle time, layers (the `rows` slowest), advice."""
    figures, profile = summary_of(analysis.profile), analysis.profile
    out.print(_head(profile, figures))
    out.print(_engines(analysis, figures))
    out.print(_critical(analysis))
    layers = sorted(layers_of(analysis), key=lambda row: -row.critical_ns)
    out.print(_layers(layers[:rows], analysis.total_ns, len(layers)))
    advice = advice_of(analysis)
    for item in advice:
        out.print(_advice(item))
    if not advice:
        out.print("No rule of advice applies.")


def _head(profile: Profile, figures: Figures) -> Text:
    text = Text()
    changes = f", what if {', '.join(profile.changes)}" if profile.changes else ""
    text.append(f"{profile.model} on {profile.target.name}{changes}: ", "bold")
    text.append(time_text(float(figures["total_time"]) * 1e9), "bold green")
    text.append(f" (simulated; roofline {time_text(float(figures['roofline_time']) * 1e9)})\n")
    text.append(
        f"MFU {figures['mfu_estimated_percent']:.1%}, MBU {figures['mbu_estimated_percent']:.1%}, "
        f"{bytes_text(float(figures['hbm_read_bytes']))} read from and "
        f"{bytes_text(float(figures['hbm_write_bytes']))} written to DRAM, {figures['dma_transfer_count']} transfers"
    )
    return text


def _engines(analysis: Analysis, figures: Figures) -> Table:
    table = Table(title="Engines", title_justify="left", box=None, pad_edge=False)
    for name in ("engine", "active", "", "instructions", "mostly idle for"):
        table.add_column(name, justify="right" if name in ("active", "instructions") else "left")
    for stream in STREAMS:
        prefix = f"{stream}_engine" if stream != "dma" else "dma"
        share = float(figures[f"{prefix}_active_time_percent"])
        count = figures["dma_transfer_count" if stream == "dma" else f"{prefix}_instruction_count"]
        bar = "█" * round(share * _BAR)
        table.add_row(stream, f"{share:.1%}", Text(f"{bar:<{_BAR}}", "cyan"), f"{count}", idle_text(analysis, stream))
    return table


def idle_text(analysis: Analysis, stream: str) -> str:
    """What a stream waited for most, with the time."""
    total: dict[tuple[str, str], float] = {}
    for program in analysis.programs:
        idle: Idle = program.idle
        for (own, reason, producer), ns in idle.by_reason(program.profile).items():
            if STREAMS[own] == stream:
                key = reason.text, STREAMS[producer] if producer >= 0 else ""
                total[key] = total.get(key, 0.0) + ns * len(program.starts_ns)
    if not total:
        return ""
    reason, producer = max(total, key=lambda key: total[key])
    ns = total[reason, producer]
    reason = f"a result of {producer}" if producer and reason.startswith("a result of") else reason
    return f"{reason} ({ns / analysis.total_ns:.0%})" if analysis.total_ns else reason


def _critical(analysis: Analysis) -> Text:
    total: dict[str, float] = {}
    for program in analysis.programs:
        streams = program.profile.streams
        for step in program.path:
            runs = step.kind == "execute" and step.event >= 0
            stream = streams[program.profile.stream[step.event]] if runs else step.kind
            name = ("dma" if stream not in STREAMS else stream) if runs else stream
            total[name] = total.get(name, 0.0) + (step.end - step.start) * len(program.starts_ns)
    whole = sum(total.values()) or 1.0
    parts = sorted(total.items(), key=lambda item: -item[1])
    text = Text("\nCritical path: ", "bold")
    text.append(", ".join(f"{name} {ns / whole:.1%}" for name, ns in parts if ns / whole >= 0.0005), "not bold")
    text.append("\n")
    return text


def _layers(rows: Sequence[OperatorRow], total_ns: float, count: int) -> Table:
    title = f"Layers on the critical path ({len(rows)} of {count})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("layer", "time", "share", "busiest", "FLOPs", "DRAM"):
        table.add_column(name, justify="left" if name in ("layer", "busiest") else "right", no_wrap=name != "layer")
    for row in rows:
        share = row.critical_ns / total_ns if total_ns else 0.0
        flops = f"{row.flops / 1e9:.2f} G" if row.flops else ""
        table.add_row(
            Text(row.name), time_text(row.critical_ns), f"{share:.1%}", row.bound, flops, bytes_text(row.hbm_bytes)
        )
    return table


def _advice(advice: Advice) -> Text:
    text = Text(f"\n{advice.rule.name}: ", "bold yellow")
    text.append(advice.text, "not bold default")
    if advice.saving_ns:
        text.append(f" (at most {time_text(advice.saving_ns)})", "not bold default")
    text.append(f"\n  {advice.rule.help}", "not bold default")
    return text


def print_differences(
    figures: Sequence[Difference], operators: Sequence[Difference], out: Console, rows: int = 15
) -> None:
    """The figures that differ, and the operators whose time on the critical path changed most."""
    changed = [row for row in figures if not row.is_equal]
    out.print(_differences("Figures", changed) if changed else "No figure differs.")
    moved = [row for row in operators if not row.is_equal][:rows]
    if moved:
        out.print(_differences(f"Seconds on the critical path ({len(moved)} of {len(operators)} nodes)", moved))


def _differences(title: str, rows: Sequence[Difference]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("name", "before", "after", "change", ""):
        table.add_column(name, justify="left" if name == "name" else "right")
    for row in rows:
        relative = f"{row.relative:+.1%}" if row.relative is not None else ""
        table.add_row(Text(row.name), f"{row.before:.6g}", f"{row.after:.6g}", f"{row.change:+.6g}", relative)
    return table
