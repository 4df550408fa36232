"""The critical path: the chain of events and waits that takes the whole run, found by following the causes back.

The steps cover the run without gaps, so their lengths add up to its time, by kind, by engine and by framework node
alike: whatever is not on the path could be faster without the run becoming shorter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from neuron_dialects.errors import NeuronError
from runtime.profile.causes import NOTHING, Cause, Causes
from runtime.profile.columns import Array
from runtime.profile.model import ENGINES, ProgramProfile

_EXACT_NS = 1e-6

STEP_KINDS = {
    "execute": "the event runs",
    "latency": "its result is under way",
    "semaphore": "the waiting engine learns of it",
    "control": "the sequencer executes control instructions",
    "weights": "the tensor engine loads weights that it could not load earlier",
    "trigger": "the transfer is on its way to its ring",
}
"""Kind of a step -> what happens in it."""


class Step(NamedTuple):
    """A piece of the critical path, from `start` to `end` in ns, of a kind of `STEP_KINDS`, for an event or NOTHING."""

    start: float
    end: float
    kind: str
    event: int


class _Place(NamedTuple):
    """Where the walk is: before `time`, `event` runs ("running"), or its result is under way ("done")."""

    event: int
    time: float
    state: str


def critical_path(program: ProgramProfile, causes: Causes) -> list[Step]:
    """The steps from the start of the run to its end."""
    return [step for step in _Walk(program, causes).steps() if step.end > step.start][::-1]


class _Walk:
    """The walk from the end of a run back to its start."""

    def __init__(self, program: ProgramProfile, causes: Causes) -> None:
        self.program, self.events, self.causes = program, program.events, causes
        self.transfer = program.is_transfer()
        latency = program.instructions.latency_ns[self.events.instruction]
        self.written = self.events.done - latency
        self.ring_before = _previous(program.stream)

    def steps(self) -> Iterator[Step]:
        """The steps, last one first."""
        total = self.program.total_ns
        if not len(self.events):
            yield Step(0.0, total, "control", NOTHING)
            return
        last = int(np.argmax(self.events.done))
        done = float(self.events.done[last])
        yield Step(done, total, "control", last)
        place: _Place | None = _Place(last, done, "done")
        # Each event is passed at most once while it runs and once when it is done: more is no run of a machine.
        for _ in range(2 * len(self.events) + 2):
            if place is None:
                return
            place = yield from self._completion(place) if place.state == "done" else self._execution(place)
        raise NeuronError("NX-PROF-001", "the events wait for each other in a circle", help="profile the model again")

    def _completion(self, place: _Place) -> Iterator[Step]:  # returns the next place
        """From the completion of an event back to the end of what completed it."""
        event = place.event
        written = float(self.written[event])
        yield Step(written, place.time, "latency", event)
        # A transfer completes after those before it on its ring: the last one of them to move its bytes decides.
        while written - self.events.end[event] > _EXACT_NS and self.ring_before[event] != NOTHING:
            event = int(self.ring_before[event])
        return _Place(event, written, "running")

    def _execution(self, place: _Place) -> Iterator[Step]:
        """From an event that runs back to what its start waited for."""
        event, start = place.event, float(self.events.start[place.event])
        yield Step(start, place.time, "execute", event)
        cause, before = Cause(int(self.causes.start[event])), int(self.causes.start_event[event])
        if before != NOTHING and cause == Cause.RESULT and self.transfer[event]:
            return _Place(before, start, "running")
        if before != NOTHING and cause != Cause.DISPATCH:
            return _Place(before, start, "done" if cause == Cause.RESULT else "running")
        handed = float(self.events.dispatched[event])
        yield Step(handed, start, "trigger" if self.transfer[event] else "weights", event)
        return (yield from self._sequencer(event))

    def _sequencer(self, event: int) -> Iterator[Step]:
        """From the hand-over of an event back to the event that the sequencer waited for."""
        time = float(self.events.dispatched[event])
        while True:
            cause, before = Cause(int(self.causes.dispatch[event])), int(self.causes.dispatch_event[event])
            since = float(self.program.waits.until[self.causes.wait[event]]) if cause == Cause.SEMAPHORE else 0.0
            if cause == Cause.SEMAPHORE and before != NOTHING:
                yield Step(since, time, "control", event)
                done = float(self.events.done[before])
                yield Step(done, since, "semaphore", event)
                return _Place(before, done, "done")
            if before == NOTHING:
                yield Step(0.0, time, "control", event)
                return None
            if cause == Cause.QUEUE:
                return _Place(before, time, "running")
            handed = float(self.events.dispatched[before])
            yield Step(handed, time, "control", event)
            event, time = before, handed


def _previous(stream: Array) -> Array:
    """For each event the one before it on its stream."""
    before = np.full(len(stream), NOTHING, dtype=np.int64)
    for number in range(len(ENGINES), int(stream.max(initial=-1)) + 1):
        own = np.flatnonzero(stream == number)
        before[own[1:]] = own[:-1]
    return before
