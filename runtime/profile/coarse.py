"""Fewer events for a picture: neighbours of one stream that belong together become one block.

A screen has a few thousand columns, and a page must stay small: where there are more events than `limit`, events of one
stream that follow each other with the same operator and opcode are joined across gaps that grow until few enough are
left. Nothing is dropped: each block knows how many events it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.profile.columns import Array
from runtime.profile.model import ProgramProfile


@dataclass(frozen=True)
class Blocks:
    """`block_of`: the block of each event; `first`: the event that a block begins with; `start` and `end` of each
    block (ns), `busy` ns of its events and their `count`. Blocks are in the order of their start.
    """

    block_of: Array
    first: Array
    start: Array
    end: Array
    busy: Array
    count: Array


def blocks_of(program: ProgramProfile, limit: int) -> Blocks:
    """At most about `limit` blocks; one for each event if there are no more than that."""
    gap = -1.0 if len(program.events) <= limit else 1.0
    blocks = _joined(program, gap)
    while len(blocks.first) > limit and gap < program.total_ns:
        gap *= 4
        blocks = _joined(program, gap)
    return blocks


def _joined(program: ProgramProfile, gap: float) -> Blocks:
    """Neighbours with at most `gap` ns between them joined; a negative gap joins none."""
    events, table = program.events, program.instructions
    count = len(events)
    opcode, origin = table.opcode[events.instruction], program.origin
    order = np.lexsort((np.arange(count), program.stream))
    stream, start, end = program.stream[order], events.start[order], events.end[order]
    begins = np.ones(count, dtype=bool)
    if count > 1 and gap >= 0:
        same = (stream[1:] == stream[:-1]) & (opcode[order][1:] == opcode[order][:-1])
        same &= (origin[order][1:] == origin[order][:-1]) & (start[1:] - end[:-1] <= gap)
        begins[1:] = ~same
    number = np.cumsum(begins) - 1
    total = int(number[-1]) + 1 if count else 0
    first = order[np.flatnonzero(begins)]
    by_start = np.argsort(events.start[first], kind="stable")
    rank = np.empty(total, dtype=np.int64)
    rank[by_start] = np.arange(total)
    block_of = np.empty(count, dtype=np.int64)
    block_of[order] = rank[number]
    ends = np.zeros(total)
    np.maximum.at(ends, block_of, events.end)
    busy = np.bincount(block_of, program.duration, total)
    return Blocks(
        block_of, first[by_start], events.start[first][by_start], ends, busy, np.bincount(block_of, None, total)
    )
