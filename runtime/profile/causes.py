"""Why every event started when it did: the one thing, of all that it needed, that came last.

Given a program's profile, `causes_of` leaves two answers for each event. An event *started* when its sequencer had
handed it over (and its weights were loaded, or its transfer had reached the ring), its engine was free, a shared port
was free, and earlier instructions of its engine had completed what it reads. It was *handed over* when a semaphore had
the awaited value, when the queue in front of the engine had room, or when the sequencer had done what stands before
it. `critical_path` follows the answers back from the end of the run, `idle` looks at the gaps of each engine. Pure
functions on columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from neuron_dialects.target import Target
from runtime.profile.columns import Array
from runtime.profile.model import ENGINES, ProgramProfile

NOTHING = -1
"""In place of an event: there is none."""
_EXACT_NS = 1e-6
"""Times that the machine computed as the maximum of others are equal to one of them up to this."""


class Cause(IntEnum):
    """What an event, or its sequencer, waited for last."""

    DISPATCH = 0  # to be handed over: start = dispatched + preparation
    ENGINE = 1  # the engine, or the DMA engines, were busy with the event before
    PORT = 2  # another engine held the memory port that both use
    RESULT = 3  # the result of an earlier event of the same stream
    SEMAPHORE = 4  # a semaphore, incremented by an event
    QUEUE = 5  # room in the queue in front of the engine
    CONTROL = 6  # control instructions of the sequencer


@dataclass(frozen=True)
class Causes:
    """For each event: `start` (a `Cause`) and the event `start_event` behind it; `dispatch` and `dispatch_event` for
    its hand-over, and `wait`, the row of `Waits` if that was a semaphore. NOTHING where there is none: the run began.
    `producers`: for each row of `Waits`, the event whose completion was waited for.
    """

    start: Array
    start_event: Array
    dispatch: Array
    dispatch_event: Array
    wait: Array
    producers: Array


def causes_of(program: ProgramProfile, target: Target) -> Causes:
    """The causes of every event."""
    producers = _producers(program)
    dispatch, dispatch_event, wait = _dispatch_causes(program, producers, int(target.dispatch_depth))
    start, start_event = _start_causes(program, float(target.dma_start_ns))
    return Causes(start, start_event, dispatch, dispatch_event, wait, producers)


def _producers(program: ProgramProfile) -> Array:
    """Event behind each wait: increment number `value` of its semaphore; NOTHING if a control instruction made it."""
    events, signals, waits = program.events, program.signals, program.waits
    semaphore = np.concatenate([program.instructions.signal[events.instruction], signals.semaphore])
    time = np.concatenate([events.done, signals.time])
    number = np.concatenate([np.arange(len(events)), np.full(len(signals), NOTHING)])
    order = np.lexsort((time, semaphore))
    semaphore, number = semaphore[order], number[order]
    first = np.searchsorted(semaphore, waits.semaphore)
    return np.asarray(number[first + waits.value - 1], dtype=np.int64)


def _dispatch_causes(program: ProgramProfile, producers: Array, depth: int) -> tuple[Array, Array, Array]:
    """Cause, event and wait of every hand-over."""
    count = len(program.events)
    cause = np.full(count, Cause.CONTROL, dtype=np.int8)
    event = np.full(count, NOTHING, dtype=np.int64)
    wait = np.full(count, NOTHING, dtype=np.int64)
    ended = np.full(count, -np.inf)
    queue = program.instructions.queue[program.events.instruction]
    dispatched, started, waits = program.events.dispatched, program.events.start, program.waits
    on_engine = ~program.is_transfer()
    for engine in range(len(ENGINES)):
        own = np.flatnonzero(queue == engine)
        own = own[np.argsort(dispatched[own], kind="stable")]
        # The wait that ended last before each hand-over, if nothing was handed over since.
        rows = np.flatnonzero(waits.queue == engine)
        rows = rows[np.argsort(waits.until[rows], kind="stable")]
        last = np.searchsorted(waits.until[rows], dispatched[own], side="right") - 1
        before = np.concatenate([[-np.inf], dispatched[own][:-1]])
        event[own[1:]] = own[:-1]
        held = last >= 0
        held[held] = waits.until[rows][last[held]] > before[held]
        cause[own[held]] = Cause.SEMAPHORE
        wait[own[held]], ended[own[held]] = rows[last[held]], waits.until[rows[last[held]]]
        event[own[held]] = producers[rows[last[held]]]
        # An instruction had to stay in the sequencer until the one `depth` before it had started.
        local = own[on_engine[own]]
        later, earlier = local[depth:], local[:-depth]
        full = (dispatched[later] == started[earlier]) & (started[earlier] > 0)
        full &= ended[later] < dispatched[later]
        cause[later[full]] = Cause.QUEUE
        event[later[full]] = earlier[full]
        wait[later[full]] = NOTHING
    return cause, event, wait


def _start_causes(program: ProgramProfile, dma_start_ns: float) -> tuple[Array, Array]:
    """Cause and event of every start."""
    events, instructions = program.events, program.instructions
    count = len(events)
    cause = np.full(count, Cause.DISPATCH, dtype=np.int8)
    event = np.full(count, NOTHING, dtype=np.int64)
    transfer = program.is_transfer()
    prepare = np.where(transfer, dma_start_ns, instructions.prepare_ns[events.instruction])
    late = events.start > events.dispatched + prepare + _EXACT_NS
    free = np.where(transfer, events.start + instructions.busy_ns[events.instruction], events.end)
    # All rings share the DMA engines, which therefore are one stream here.
    stream = np.where(transfer, len(ENGINES), program.stream)
    for number in range(len(ENGINES) + 1):
        own = np.flatnonzero(stream == number)
        if not len(own):
            continue
        later, earlier = own[1:], own[:-1]
        # What is busy is found first: whoever waits for a result as well waits for it in any case.
        busy = late[later] & (np.abs(free[earlier] - events.start[later]) < _EXACT_NS)
        cause[later[busy]] = Cause.ENGINE
        event[later[busy]] = earlier[busy]
        rest = own[late[own] & (cause[own] == Cause.DISPATCH)]
        # A transfer may read what its ring has written before the completion is reported.
        written = events.done - instructions.latency_ns[events.instruction] if number == len(ENGINES) else events.done
        results = _ending(own, written, events.start[rest])
        found = results != NOTHING
        cause[rest[found]], event[rest[found]] = Cause.RESULT, results[found]
        rest = rest[~found]
        if number == len(ENGINES):
            continue
        others = np.flatnonzero((stream != number) & ~transfer)
        holders = _ending(others, events.end, events.start[rest])
        cause[rest], event[rest] = np.where(holders == NOTHING, Cause.ENGINE, Cause.PORT), holders
    return cause, event


def _ending(candidates: Array, times: Array, wanted: Array) -> Array:
    """For each wanted time a candidate whose time is that, or NOTHING."""
    found = np.full(len(wanted), NOTHING, dtype=np.int64)
    if not len(candidates) or not len(wanted):
        return found
    order = candidates[np.argsort(times[candidates], kind="stable")]
    place = np.searchsorted(times[order], wanted - _EXACT_NS)
    inside = place < len(order)
    hit = np.zeros(len(wanted), dtype=bool)
    hit[inside] = np.abs(times[order[place[inside]]] - wanted[inside]) < _EXACT_NS
    found[hit] = order[place[hit]]
    return found
