"""The report: one HTML file with the whole profile in it, which needs no network and no server.

Columns are whole numbers of ticks, delta-coded, compressed and written as base64 into the page; the browser unpacks
them. The page may run its own script and nothing else: its content security policy forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from neuron_dialects.version import VERSION
from runtime.profile.advice import RULES, advice_of
from runtime.profile.analysis import Analysis, ProgramAnalysis
from runtime.profile.causes import NOTHING, Cause
from runtime.profile.coarse import Blocks, blocks_of
from runtime.profile.columns import Array
from runtime.profile.critical_path import STEP_KINDS
from runtime.profile.idle import Reason
from runtime.profile.memory import Usage, Values
from runtime.profile.operators import STREAMS, UNNAMED, OperatorRow, layer_of, layers_of, operators_of
from runtime.profile.series import dram_rates
from runtime.profile.summary import summary_of

MAX_BLOCKS = 200_000
"""Events of a program that are shown one by one; more are joined."""
MAX_ROWS = 100_000
"""Rows of any other table: the longest are kept."""
INSIDE = -2
"""In place of the event after a gap: the gap lies between events that are shown as one."""
_WINDOWS = 1500
_SCRIPTS = ("data.js", "canvas.js", "timeline.js", "memory.js", "roofline.js", "tables.js", "main.js")


def html_report(analysis: Analysis) -> str:
    """The page."""
    pages = resources.files("tools.profile") / "page"
    script = "\n".join((pages / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "{{title}}": html.escape(f"{analysis.profile.model} on {analysis.profile.target.name}"),
        "{{policy}}": f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:",
        "{{style}}": (pages / "page.css").read_text(encoding="utf-8"),
        "{{script}}": script,
        "{{data}}": base64.b64encode(_payload(analysis)).decode(),
    }
    page = (pages / "page.html").read_text(encoding="utf-8")
    for mark, text in parts.items():
        before, _, after = page.partition(mark)
        page = before + text + after
    return page


class _Packer:
    """Collects columns of all programs behind each other: each is described by kind, offset and length."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.size = 0

    def add(self, kind: str, array: Array) -> dict[str, Any]:
        data = np.ascontiguousarray(array.astype(DTYPES[kind])).tobytes()
        data += bytes(-len(data) % 8)
        place = {"kind": kind, "offset": self.size, "length": len(array)}
        self.parts.append(data)
        self.size += len(data)
        return place


DTYPES = {"u8": np.uint8, "i32": np.int32, "u32": np.uint32, "f32": np.float32, "ticks": np.uint32, "delta": np.int32}
"""Kinds of columns; ticks are times, a delta column holds the differences of such."""


def _payload(analysis: Analysis) -> bytes:
    """Length of the description, the description as JSON, then the columns; compressed."""
    packer = _Packer()
    description = _description(analysis) | {
        "programs": [_program(program, packer) for program in analysis.programs],
    }
    text = json.dumps(description, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(len(text) + 8) % 8)
    return zlib.compress(len(text).to_bytes(8, "little") + text + b"".join(packer.parts), 9)


def _description(analysis: Analysis) -> dict[str, Any]:
    """What is about the whole profile."""
    profile, target = analysis.profile, analysis.profile.target
    return {
        "version": VERSION,
        "model": profile.model,
        "target": target.name,
        "changes": list(profile.changes),
        "total": analysis.total_ns,
        "assumed": list(target.assumptions),
        "peak_flops_per_ns": 2 * target.peak_macs_per_ns,
        "dram_bytes_per_ns": float(target.dram_bytes_per_ns),
        "summary": summary_of(profile),
        "streams": list(STREAMS),
        "reasons": [reason.text for reason in Reason],
        "kinds": list(STEP_KINDS),
        "kind_texts": list(STEP_KINDS.values()),
        "causes": [cause.name.lower() for cause in Cause],
        "rows": {"layers": _rows(layers_of(analysis)), "operators": _rows(operators_of(analysis))},
        "advice": [
            {
                "rule": advice.rule.name,
                "figure": advice.rule.figure,
                "value": advice.value,
                "threshold": advice.rule.threshold,
                "above": advice.rule.above,
                "documented": advice.rule.documented,
                "text": advice.text,
                "help": advice.rule.help,
                "saving": advice.saving_ns,
            }
            for advice in advice_of(analysis)
        ],
        "rules": len(RULES),
    }


def _rows(rows: Sequence[OperatorRow]) -> list[dict[str, Any]]:
    return [
        {
            "name": row.name,
            "layer": row.layer,
            "first": row.first_ns,
            "last": row.last_ns,
            "critical": row.critical_ns,
            "active": row.active_ns,
            "busy": row.busy_ns,
            "instructions": row.instructions,
            "transfers": row.transfers,
            "flops": row.flops,
            "bytes": row.hbm_bytes,
            "bound": row.bound,
        }
        for row in rows
    ]


def _program(program: ProgramAnalysis, packer: _Packer) -> dict[str, Any]:
    """One program: its names and its columns. Times in ticks of `tick` ns, so that they fit in 31 bits."""
    profile = program.profile
    tick = max(0.1, profile.total_ns / (1 << 30))
    blocks = blocks_of(profile, MAX_BLOCKS)
    origins = [name or UNNAMED for name in profile.origins]
    layers = list(dict.fromkeys(layer_of(name) for name in origins))
    edges, read, written = dram_rates(profile, _WINDOWS)
    memory = program.memory
    columns = {
        "events": _events(program, blocks, tick),
        "instructions": _instructions(program),
        "idle": _idle(program, blocks, tick),
        "path": _path(program, blocks, tick),
        "sbuf": _values(memory.sbuf, blocks, tick),
        "psum": _values(memory.psum, blocks, tick),
        "series": {
            "read": ("f32", read),
            "write": ("f32", written),
            "sbuf": ("f32", _peaks(memory.sbuf_usage, edges)),
            "psum": ("f32", _peaks(memory.psum_usage, edges)),
        },
    }
    return {
        "name": profile.name,
        "launches": len(program.starts_ns),
        "offset": program.starts_ns[0] if program.starts_ns else 0.0,
        "total": profile.total_ns,
        "tick": tick,
        "events": len(profile.events),
        "streams": list(profile.streams),
        "opcodes": list(profile.opcodes),
        "semaphores": list(profile.semaphores),
        "origins": origins,
        "layers": layers,
        "layer_of": [layers.index(layer_of(name)) for name in origins],
        "texts": list(profile.texts),
        "sbuf_bytes": memory.sbuf_bytes,
        "psum_bytes": memory.psum_bytes,
        "partitions": int(program.target.partitions),
        "tables": {
            name: {key: packer.add(*column) for key, column in table.items()} for name, table in columns.items()
        },
    }


Columns = Mapping[str, tuple[str, Array]]


def _ticks(times: Array, tick: float) -> Array:
    return np.rint(times / tick).astype(np.int64)


def _deltas(times: Array, tick: float) -> Array:
    return np.diff(_ticks(times, tick), prepend=0)


def _mapped(events: Array, blocks: Blocks) -> Array:
    """The blocks of events; NOTHING stays."""
    found = np.full(len(events), NOTHING, dtype=np.int64)
    found[events >= 0] = blocks.block_of[events[events >= 0]]
    return found


def _events(program: ProgramAnalysis, blocks: Blocks, tick: float) -> Columns:
    """The blocks, and why each began when it did: `why` is a Cause, `before` the block behind it."""
    causes, events = program.causes, program.profile.events
    handed = causes.start == Cause.DISPATCH
    why = np.where(handed, causes.dispatch, causes.start)[blocks.first]
    before = np.where(handed, causes.dispatch_event, causes.start_event)[blocks.first]
    starts = _ticks(blocks.start, tick)
    return {
        "start": ("delta", np.diff(starts, prepend=0)),
        "length": ("ticks", _ticks(blocks.end, tick) - starts),
        "busy": ("ticks", _ticks(blocks.busy, tick)),
        "count": ("u32", blocks.count),
        "instruction": ("i32", events.instruction[blocks.first]),
        "why": ("u8", why),
        "before": ("i32", _mapped(before, blocks)),
    }


def _instructions(program: ProgramAnalysis) -> Columns:
    table = program.profile.instructions
    return {
        "stream": ("u8", table.stream),
        "queue": ("u8", table.queue),
        "position": ("i32", table.position),
        "opcode": ("u8", table.opcode),
        "origin": ("i32", table.origin),
        "bytes": ("u32", np.minimum(table.bytes, (1 << 32) - 1)),
        "run": ("u32", np.minimum(table.run_bytes, (1 << 32) - 1)),
        "descriptors": ("u32", table.descriptors),
        "macs": ("f32", table.macs),
        "rows": ("i32", table.rows),
        "columns": ("i32", table.columns),
    }


def _longest(length: Array) -> Array:
    """Rows in their order, at most `MAX_ROWS`: the longest."""
    if len(length) <= MAX_ROWS:
        return np.arange(len(length))
    return np.sort(np.argsort(-length, kind="stable")[:MAX_ROWS])


def _idle(program: ProgramAnalysis, blocks: Blocks, tick: float) -> Columns:
    """Pieces of idle time. Those inside of a block of joined events have the event `INSIDE`."""
    idle, waits = program.idle, program.profile.waits
    own = _longest(idle.until - idle.since)
    wait, event = idle.wait[own], idle.event[own]
    blocks_after = _mapped(event, blocks)
    blocks_after[(event >= 0) & (blocks.first[blocks_after] != event)] = INSIDE
    semaphore, value = np.full(len(own), NOTHING, dtype=np.int64), np.zeros(len(own), dtype=np.int64)
    semaphore[wait >= 0], value[wait >= 0] = waits.semaphore[wait[wait >= 0]], waits.value[wait[wait >= 0]]
    since = _ticks(idle.since[own], tick)
    return {
        "since": ("delta", np.diff(since, prepend=0)),
        "length": ("ticks", _ticks(idle.until[own], tick) - since),
        "stream": ("u8", idle.stream[own]),
        "reason": ("u8", idle.reason[own]),
        "event": ("i32", blocks_after),
        "producer": ("i32", _mapped(idle.producer[own], blocks)),
        "semaphore": ("i32", semaphore),
        "value": ("i32", value),
    }


def _path(program: ProgramAnalysis, blocks: Blocks, tick: float) -> Columns:
    """The critical path; neighbouring steps of one kind in one block are one."""
    kinds = list(STEP_KINDS)
    kind = np.array([kinds.index(step.kind) for step in program.path], dtype=np.int64)
    block = _mapped(np.array([step.event for step in program.path], dtype=np.int64), blocks)
    start = np.array([step.start for step in program.path])
    begins = np.ones(len(kind), dtype=bool)
    begins[1:] = (kind[1:] != kind[:-1]) | (block[1:] != block[:-1])
    return {
        "start": ("delta", _deltas(start[begins], tick)),
        "kind": ("u8", kind[begins]),
        "event": ("i32", block[begins]),
    }


def _values(values: Values, blocks: Blocks, tick: float) -> Columns:
    """The rectangles of a memory map; with too many, those that cover most are kept."""
    own = _longest((values.until - values.since) * (values.high - values.low) * values.partitions)
    since = _ticks(values.since[own], tick)
    return {
        "since": ("delta", np.diff(since, prepend=0)),
        "length": ("ticks", _ticks(values.until[own], tick) - since),
        "low": ("i32", values.low[own]),
        "high": ("i32", values.high[own]),
        "first": ("u8", np.minimum(values.first_partition[own], 255)),
        "partitions": ("u8", np.minimum(values.partitions[own], 255)),
        "reads": ("i32", values.reads[own]),
        "event": ("i32", _mapped(values.event[own], blocks)),
    }


def _peaks(usage: Usage, edges: Array) -> Array:
    """The largest number of bytes in each window."""
    peaks = np.zeros(len(edges) - 1)
    if len(usage):
        held = np.searchsorted(usage.time, edges[:-1], side="right") - 1
        peaks = np.where(held >= 0, usage.bytes[np.maximum(held, 0)], 0).astype(np.float64)
        window = np.clip(np.searchsorted(edges, usage.time, side="right") - 1, 0, len(peaks) - 1)
        np.maximum.at(peaks, window, usage.bytes)
    return peaks
