"""Quantities over time: DRAM traffic and pending transfers, as steps or in windows of equal length."""

from __future__ import annotations

import numpy as np

from runtime.profile.columns import Array
from runtime.profile.model import ProgramProfile


def window_sums(start: Array, end: Array, amount: Array, edges: Array) -> Array:
    """How much of the amounts, each spread evenly from its start to its end, falls between neighbouring edges."""
    length = np.maximum(end - start, 1e-3)
    rate = amount / length
    times = np.concatenate([start, start + length])
    order = np.argsort(times, kind="stable")
    times = times[order]
    rates = np.cumsum(np.concatenate([rate, -rate])[order])
    if not len(times):
        return np.zeros(len(edges) - 1)
    sums = np.concatenate([[0.0], np.cumsum(rates[:-1] * np.diff(times))])
    return np.diff(np.interp(edges, times, sums))


def dram_rates(program: ProgramProfile, windows: int) -> tuple[Array, Array, Array]:
    """(edges of the windows in ns, bytes per ns read from DRAM in each, bytes per ns written)."""
    edges = np.linspace(0.0, max(program.total_ns, 1.0), windows + 1)
    own = np.flatnonzero(program.is_transfer())
    start, end = program.events.start[own], program.events.end[own]
    instruction, table = program.events.instruction[own], program.instructions
    width = edges[1] - edges[0]
    read, written = (
        window_sums(start, end, column[instruction].astype(np.float64), edges) / width
        for column in (table.hbm_read_bytes, table.hbm_write_bytes)
    )
    return edges, read, written


def pending_transfers(program: ProgramProfile) -> tuple[Array, Array]:
    """(times in ns, transfers from each of them on that were triggered and have not completed)."""
    own = program.is_transfer()
    times = np.concatenate([program.events.dispatched[own], program.events.done[own]])
    change = np.concatenate([np.ones(int(own.sum()), np.int64), -np.ones(int(own.sum()), np.int64)])
    order = np.argsort(times, kind="stable")
    times, count = times[order], np.cumsum(change[order])
    last = np.append(times[1:] != times[:-1], True) if len(times) else np.zeros(0, bool)
    return times[last], count[last]
