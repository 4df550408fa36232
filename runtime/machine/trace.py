"""What happened in a run, as columns: every instruction and transfer, and every wait that held a sequencer up.

The simulator fills a `Trace` when it is given one; without one it takes shorter ways (see `runtime.machine.simulator`),
so that nobody pays for a trace who does not ask for it. Times are in ns from the start of the run.
"""

from dataclasses import dataclass, field

from runtime.machine.plan import Work


@dataclass
class Trace:
    """The events of a run in the order of their start, then what else is needed to say why they started when they did.

    Of an event: `start` and `end`; `engine`, the engine or ring that it ran on; `name` of its instruction; `origin`,
    the index of its framework node; `queue` and `position` of its entry; `dispatched`, when the sequencer handed it
    over; `done`, when its result can be used and its semaphore is incremented; `shifts`, for each of the entry's
    accesses the bytes by which registers moved it in this execution.

    Of a wait that took time: `wait_queue` and `wait_position` of the entry that waited, `wait_semaphore` (its number)
    for at least `wait_value`, from `wait_since` to `wait_until`. `signal_semaphore` and `signal_time` are the
    increments by control instructions, which are no events.
    """

    start: list[float] = field(default_factory=list)
    end: list[float] = field(default_factory=list)
    engine: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    origin: list[int] = field(default_factory=list)
    queue: list[str] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    dispatched: list[float] = field(default_factory=list)
    done: list[float] = field(default_factory=list)
    shifts: list[tuple[int, ...]] = field(default_factory=list)
    wait_queue: list[str] = field(default_factory=list)
    wait_position: list[int] = field(default_factory=list)
    wait_semaphore: list[int] = field(default_factory=list)
    wait_value: list[int] = field(default_factory=list)
    wait_since: list[float] = field(default_factory=list)
    wait_until: list[float] = field(default_factory=list)
    signal_semaphore: list[int] = field(default_factory=list)
    signal_time: list[float] = field(default_factory=list)

    def event(
        self, work: Work, dispatched: float, start: float, end: float, done: float, shifts: tuple[int, ...]
    ) -> None:
        """Append an instruction or transfer."""
        entry = work.entry
        self.start.append(start)
        self.end.append(end)
        self.engine.append(entry.ring or entry.engine)
        self.name.append(entry.name)
        self.origin.append(entry.origin)
        self.queue.append(entry.engine)
        self.position.append(entry.index)
        self.dispatched.append(dispatched)
        self.done.append(done)
        self.shifts.append(shifts)

    def wait(self, queue: str, position: int, semaphore: int, value: int, since: float, until: float) -> None:
        """Append a wait that held the sequencer of `queue` up."""
        self.wait_queue.append(queue)
        self.wait_position.append(position)
        self.wait_semaphore.append(semaphore)
        self.wait_value.append(value)
        self.wait_since.append(since)
        self.wait_until.append(until)

    def signal(self, semaphore: int, time: float) -> None:
        """Append an increment by a control instruction."""
        self.signal_semaphore.append(semaphore)
        self.signal_time.append(time)
