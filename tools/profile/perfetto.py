"""A profile as a trace for the Perfetto UI: rows for engines and DMA queues, counters for memories and DRAM.

Rows stand in the profiler's order: DMA queues, engines, then counters. The transfers of a queue overlap, so a queue has
as many rows as transfers were under way at once. Names and framework nodes are interned, so that a trace is about as
large as its events. Field numbers are those of Perfetto's public trace format.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from runtime.profile.analysis import Analysis, ProgramAnalysis
from runtime.profile.causes import NOTHING, Cause
from runtime.profile.columns import Array
from runtime.profile.model import ENGINES
from runtime.profile.operators import UNNAMED
from runtime.profile.series import dram_rates, pending_transfers
from tools.profile.protobuf import double, fixed64, integer, message, text

SEQUENCE = 1
"""Writer of all packets: there is one."""
_WINDOWS = 2000
_BEGIN, _END, _COUNTER = 1, 2, 4
_CLEARED, _NEEDS_STATE = 1, 2
_EXPLICIT_ORDER = 3
_COUNT_UNIT, _BYTES_UNIT = 2, 3


@dataclass
class _Trace:
    """Packets so far, and what has been interned: text -> number, by kind."""

    packets: list[bytes] = field(default_factory=list)
    tracks: int = 0
    interned: dict[int, dict[str, int]] = field(default_factory=dict)
    fresh: list[bytes] = field(default_factory=list)

    def packet(self, *parts: bytes) -> None:
        self.packets.append(message(1, *parts))

    def iid(self, kind: int, name: str) -> int:
        """Number of an interned text; `kind` is the field of InternedData."""
        known = self.interned.setdefault(kind, {})
        if name not in known:
            known[name] = len(known) + 1
            self.fresh.append(message(kind, integer(1, known[name]), text(2, name)))
        return known[name]

    def track(self, name: str, parent: int = 0, counter: bytes | None = None, rank: int = 0) -> int:
        """Describe a row below another one; its number."""
        self.tracks += 1
        parts = [integer(1, self.tracks), text(2, name), integer(11, _EXPLICIT_ORDER), integer(12, rank)]
        if parent:
            parts.append(integer(5, parent))
        if counter is not None:
            parts.append(message(8, counter))
        self.packet(message(60, *parts), integer(10, SEQUENCE), integer(13, _CLEARED if self.tracks == 1 else 0))
        return self.tracks

    def event(self, time: float, kind: int, track: int, *parts: bytes) -> None:
        """A track event at a time in ns, with what was interned since the last one."""
        interned = [message(12, *self.fresh)] if self.fresh else []
        self.fresh = []
        event = message(11, integer(9, kind), integer(11, track), *parts)
        self.packet(integer(8, round(time)), *interned, event, integer(10, SEQUENCE), integer(13, _NEEDS_STATE))


_NAMES, _KEYS, _STRINGS = 2, 3, 29
"""Fields of InternedData: event names, names of annotations, their string values."""


def perfetto_trace(analysis: Analysis, *, flows: bool = False) -> bytes:
    """The trace of all launches, one behind the other. `flows`: an arrow for each wait, from what ended it."""
    trace = _Trace()
    root = trace.track(f"{analysis.profile.model} on {analysis.profile.target.name} (simulated)")
    rows = _Rows(trace, root, analysis)
    for program in analysis.programs:
        for number, offset in enumerate(program.starts_ns):
            rows.slices(program, offset, flows)
            rows.counters(program, offset, last=number + 1 == len(program.starts_ns))
    return b"".join(trace.packets)


class _Rows:
    """The rows of a trace, made when something is first put on them."""

    def __init__(self, trace: _Trace, root: int, analysis: Analysis) -> None:
        self.trace, self.root = trace, root
        self.numbers: dict[tuple[str, int], int] = {}
        rings = dict.fromkeys(ring for program in analysis.programs for ring in program.profile.rings)
        self.ranks = {name: rank for rank, name in enumerate((*rings, "sync", "tensor", "vector", "scalar", "gpsimd"))}
        self.flows = 0

    def row(self, stream: str, lane: int) -> int:
        """Number of a row. Rows of one name are shown as one."""
        if (stream, lane) not in self.numbers:
            self.numbers[stream, lane] = self.trace.track(stream, self.root, rank=self.ranks[stream])
        return self.numbers[stream, lane]

    def slices(self, program: ProgramAnalysis, offset: float, flows: bool) -> None:
        """One slice for each event, row after row."""
        profile = program.profile
        outgoing, incoming = _flows(program, self.flows) if flows else ({}, {})
        self.flows += len(incoming)
        for number, stream in enumerate(profile.streams):
            own = np.flatnonzero(profile.stream == number)
            if not len(own):
                continue
            lanes = _lanes(profile.events.start[own], profile.events.end[own]) if number >= len(ENGINES) else None
            for position, event in enumerate(own.tolist()):
                row = self.row(stream, lanes[position] if lanes else 0)
                arrows = (*outgoing.get(event, ()), *incoming.get(event, ()))
                parts = self._describe(program, event)
                begin, end = offset + profile.events.start[event], offset + profile.events.end[event]
                self.trace.event(begin, _BEGIN, row, *parts, *(fixed64(47, arrow) for arrow in arrows))
                self.trace.event(end, _END, row)

    def _describe(self, program: ProgramAnalysis, event: int) -> Iterator[bytes]:
        """Name and annotations of an event."""
        profile, trace = program.profile, self.trace
        instruction = int(profile.events.instruction[event])
        yield integer(10, trace.iid(_NAMES, profile.opcodes[profile.instructions.opcode[instruction]]))
        notes = {
            "op": profile.origins[profile.instructions.origin[instruction]] or UNNAMED,
            "operands": profile.texts[instruction],
            "program": profile.name,
        }
        for key, value in notes.items():
            yield message(4, integer(1, trace.iid(_KEYS, key)), integer(17, trace.iid(_STRINGS, value)))
        numbers = {"pc": int(profile.instructions.position[instruction]), "event": event}
        if profile.instructions.bytes[instruction]:
            numbers["bytes"] = int(profile.instructions.bytes[instruction])
        for key, number in numbers.items():
            yield message(4, integer(1, trace.iid(_KEYS, key)), integer(4, number))

    def counters(self, program: ProgramAnalysis, offset: float, *, last: bool) -> None:
        """Bytes in SBUF and PSUM, traffic of DRAM, transfers under way."""
        memory, profile = program.memory, program.profile
        edges, read, written = dram_rates(profile, _WINDOWS)
        size = integer(3, _BYTES_UNIT)
        series: tuple[tuple[str, bytes, tuple[Array, Array]], ...] = (
            ("SBUF usage", size, (memory.sbuf_usage.time, memory.sbuf_usage.bytes)),
            ("PSUM usage", size, (memory.psum_usage.time, memory.psum_usage.bytes)),
            ("DRAM read", text(6, "GB/s"), (edges[:-1], read)),
            ("DRAM write", text(6, "GB/s"), (edges[:-1], written)),
            ("Pending DMA", integer(3, _COUNT_UNIT), pending_transfers(profile)),
        )
        for rank, (name, unit, (times, values)) in enumerate(series):
            if (name, 0) not in self.numbers:
                self.numbers[name, 0] = self.trace.track(name, self.root, unit, rank=100 + rank)
            self._counter(self.numbers[name, 0], zip((times + offset).tolist(), values.tolist(), strict=True))
            if last:
                self._counter(self.numbers[name, 0], [(offset + profile.total_ns, 0)])

    def _counter(self, track: int, points: Iterable[tuple[float, float]]) -> None:
        for time, value in points:
            amount = integer(30, value) if isinstance(value, int) else double(44, value)
            self.trace.event(time, _COUNTER, track, amount)


def _lanes(start: Array, end: Array) -> list[int]:
    """For each interval, in the order of their starts, a lane in which it overlaps no other one; few lanes in all.

    Ends are compared as they are written, in whole ns.
    """
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    lanes: list[int] = []
    for begin, finish in zip(np.rint(start).tolist(), np.rint(end).tolist(), strict=True):
        while busy and busy[0][0] <= begin:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lane = heapq.heappop(free) if free else len(busy)
        lanes.append(lane)
        heapq.heappush(busy, (finish, lane))
    return lanes


def _flows(program: ProgramAnalysis, first: int) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Arrows from the events that ended waits to those that waited: event -> numbers, leaving and arriving."""
    causes = program.causes
    outgoing: dict[int, list[int]] = {}
    incoming: dict[int, list[int]] = {}
    waiting = np.flatnonzero((causes.dispatch == Cause.SEMAPHORE) & (causes.dispatch_event != NOTHING))
    for number, event in enumerate(waiting.tolist(), first + 1):
        outgoing.setdefault(int(causes.dispatch_event[event]), []).append(number)
        incoming.setdefault(event, []).append(number)
    return outgoing, incoming
