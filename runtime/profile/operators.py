"""Where the time goes by framework node and by layer.

A node's time on the critical path is its share of the run: these shares add up to the whole. Its active time is that in
which any of its instructions or transfers ran; nodes overlap, so active times do not add up. A layer is a group of
nodes that share the beginning of their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from runtime.profile.analysis import Analysis, ProgramAnalysis, union_ns
from runtime.profile.columns import Array
from runtime.profile.critical_path import Step
from runtime.profile.idle import DMA, streams_of

STREAMS = ("tensor", "vector", "scalar", "gpsimd", "sync", "dma")
"""Streams of a row's `busy_ns`, in the order of their numbers."""
UNNAMED = "(no node)"
_NUMBERED = re.compile(r".*[._]?\d+")


@dataclass
class OperatorRow:
    """One node or layer, over all launches. Times in ns; `first_ns` and `last_ns` of its first launch.

    `critical_ns`: time on the critical path; `active_ns`: time in which something of it ran; `busy_ns` by stream.
    """

    name: str
    layer: str
    first_ns: float
    last_ns: float
    critical_ns: float = 0.0
    active_ns: float = 0.0
    busy_ns: list[float] = field(default_factory=lambda: [0.0] * len(STREAMS))
    instructions: int = 0
    transfers: int = 0
    macs: int = 0
    hbm_bytes: int = 0

    @property
    def flops(self) -> int:
        """Operations of its matmuls."""
        return 2 * self.macs

    @property
    def bound(self) -> str:
        """The stream that is busiest with it."""
        return STREAMS[int(np.argmax(self.busy_ns))]


def operators_of(analysis: Analysis) -> list[OperatorRow]:
    """One row for each framework node that has instructions, in the order of their first event."""
    return _rows(analysis, lambda name: name)


def layers_of(analysis: Analysis) -> list[OperatorRow]:
    """One row for each layer, in the order of their first event."""
    return _rows(analysis, layer_of)


def layer_of(name: str) -> str:
    """The layer of a node: its name up to the first part that is numbered (`encoder/layer.0`), else its scope.

    >>> layer_of("/m/encoder/layer.0/attention/self/query/MatMul")
    '/m/encoder/layer.0'
    >>> layer_of("/m/embeddings/LayerNorm/Add_1")
    '/m/embeddings'
    """
    parts = name.split("/")
    scope = parts[:-1]
    for position, part in enumerate(scope):
        # `layer1/layer1.0`: a part that only opens a numbered one says less than that.
        opens = position + 1 < len(scope) and scope[position + 1].startswith(f"{part}.")
        if _NUMBERED.fullmatch(part) and not opens:
            return "/".join(scope[: position + 1])
    named = [position for position, part in enumerate(scope) if part]
    return "/".join(scope[: named[min(1, len(named) - 1)] + 1]) if named else name


def _rows(analysis: Analysis, group: Callable[[str], str]) -> list[OperatorRow]:
    rows: dict[str, OperatorRow] = {}
    for program in analysis.programs:
        names = [name or UNNAMED for name in program.profile.origins]
        groups = [group(name) for name in names]
        keys = list(dict.fromkeys(groups))
        number = np.array([keys.index(key) for key in groups], dtype=np.int64)
        layer = dict(zip(groups, (layer_of(name) for name in names), strict=True))
        of_event = number[program.profile.origin]
        for position, key in enumerate(keys):
            own = np.flatnonzero(of_event == position)
            if len(own):
                _add(rows, OperatorRow(key, layer[key], np.inf, 0.0), program, own)
        _add_path(rows, program.path, [keys[n] for n in of_event.tolist()], len(program.starts_ns))
    return sorted(rows.values(), key=lambda row: row.first_ns)


def _add(rows: dict[str, OperatorRow], empty: OperatorRow, program: ProgramAnalysis, own: Array) -> None:
    """Add events of one group."""
    row = rows.setdefault(empty.name, empty)
    profile, times, offset = program.profile, len(program.starts_ns), program.starts_ns[0]
    start, end = profile.events.start[own], profile.events.end[own]
    row.first_ns = min(row.first_ns, offset + float(start.min()))
    row.last_ns = max(row.last_ns, offset + float(end.max()))
    row.active_ns += union_ns(start, end) * times
    stream, instruction = streams_of(profile)[own], profile.events.instruction[own]
    # The DMA engines are busy for less than a transfer spans.
    busy = np.where(stream == DMA, profile.instructions.busy_ns[instruction], end - start)
    for position, length in enumerate(np.bincount(stream, busy, len(STREAMS)).tolist()):
        row.busy_ns[position] += length * times
    transfers = int((stream == DMA).sum())
    row.transfers += transfers * times
    row.instructions += (len(own) - transfers) * times
    table = profile.instructions
    row.macs += int(table.macs[instruction].sum()) * times
    row.hbm_bytes += int((table.hbm_read_bytes + table.hbm_write_bytes)[instruction].sum()) * times


def _add_path(rows: dict[str, OperatorRow], path: Sequence[Step], keys: Sequence[str], launches: int) -> None:
    """Add the time on the critical path."""
    for step in path:
        if step.event >= 0:
            rows[keys[step.event]].critical_ns += (step.end - step.start) * launches
