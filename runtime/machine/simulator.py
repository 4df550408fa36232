"""The machine's clock: queues, semaphores and DMA rings as a discrete-event simulation, with or without data.

Every engine has a sequencer and a datapath. The sequencer takes the entries of its queue in order: it waits for the
entry's semaphores, then executes a control instruction (`control_ns`), triggers a DMA (`control_ns`), or hands an
instruction to the datapath, at most the target's `dispatch_depth` ahead of it. The datapath starts an instruction when
it is free, the ports it shares with other engines are free, earlier instructions of the same engine have completed
what it reads, and its weights have had the time to load since its dispatch (tensor engine only); it reads its operands
then, is busy for the issue time, and the result is written and the semaphore incremented after the latency. A transfer
reaches its ring `dma_start_ns` after the trigger; transfers of all rings are served in the order of their arrival. A
transfer begins when the DMA engines have time for it and earlier ones of its ring have written what it reads, reads
then, and has written when its last byte and those of the earlier ones have moved; the semaphore is incremented
`dma_completion_ns` later. A semaphore is the list of the times of its increments.

Data is read and written in the order of those times and no other, so what a missing wait lets through is seen in the
results. The simulator only tells a `Schedule` what is read and written next; data changes no time.

When no data is computed, the order in which things are worked out is free as long as their times are the same, and two
kinds of events need no place in the order of time: an instruction of an engine that shares nothing starts when it is
dispatched, and a semaphore that only one stream increments gets its increments, with their times, when those are known.
Whatever is shared (ports, DMA engines) is served in the order of time in every mode, equal times by engine.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from math import inf
from typing import Any, Protocol

from neuron_dialects.errors import NeuronError
from neuron_dialects.target import Target
from runtime.machine.execution import Operands
from runtime.machine.plan import Box, Work, boxes_of
from runtime.machine.schedule import NamedSchedule, Schedule
from runtime.machine.trace import Trace

STEP_LIMIT = 100_000_000
"""Control instructions that one queue may execute; a loop that never ends must not hang the machine."""

_COMPLETE, _START, _ARRIVE, _TRANSFER = range(4)
"""Kinds of events, in the order of events at the same time: what completes is written before anything is read."""

Bound = tuple[Operands | None, tuple[int, ...]]
"""Operands of one execution, and the bytes by which registers move each of its accesses; for a trace only these."""
Dispatched = tuple[Work, float, Bound | None, Sequence[Box], Sequence[Box]]
"""An instruction between its sequencer and its datapath: work, time of dispatch, operands, boxes it reads and writes.
Registers have been read then, memory has not."""
Transfer = tuple[float, Bound | None, Sequence[Box], Sequence[Box]]
"""A transfer between its trigger and its ring: time of the trigger, operands, boxes it reads and writes."""


class Neighbours(Protocol):
    """Other cores, as the simulation of one sees them."""

    def completed(self, work: Work, time: float) -> None:
        """A transfer of what is handed over will be complete at `time`."""
        ...

    def link(self, start: float, duration: float) -> float:
        """A transfer to another chip begins; gives when it has arrived there."""
        ...


class Engine:
    """State of one engine: its sequencer (position, registers, time) and its datapath."""

    __slots__ = (
        "active_ns", "blocked_on", "busy_until", "control_count", "dispatched", "full", "halted", "in_flight", "index",
        "instruction_count", "name", "position", "registers", "shares", "starts", "table", "time", "transfer_count",
        "works",
    )  # fmt: skip

    def __init__(self, name: str, index: int, works: list[Work], registers: int) -> None:
        self.name, self.index, self.works = name, index, works
        self.shares = any(work.ports or work.table or work.hazard_reads for work in works if work.ring < 0)
        self.starts: deque[float] = deque()
        self.position, self.registers, self.time = 0, [0] * registers, 0.0
        self.halted, self.full = False, False
        self.blocked_on: tuple[int, int] | None = None
        self.dispatched: deque[Dispatched] = deque()
        self.in_flight: deque[tuple[float, Sequence[Box]]] = deque()
        self.busy_until, self.active_ns = 0.0, 0.0
        self.instruction_count = self.transfer_count = self.control_count = 0
        self.table = ""


class Simulator:
    """One run of a program.

    Args:
        queues: the planned work of every queue.
        semaphores: names of the semaphores.
        target: whose times and sizes count.
        schedule: what computes the data, None if nothing does; the kernels and views of all works must then be set.
        trace: gets every instruction, transfer and wait.
        arrived: semaphores that other cores increment -> the times of increments so far; `signal` adds to them.
        start_ns: when the run begins.
        neighbours: what tells other cores of transfers that they wait for, None if there are none.

    After `run`, `engines` and the other attributes hold times in ns and counts; `Work.executions` counts executions.
    """

    def __init__(
        self,
        queues: dict[str, list[Work]],
        semaphores: tuple[str, ...],
        target: Target,
        schedule: Schedule | NamedSchedule | None,
        trace: Trace | None = None,
        step_limit: int = STEP_LIMIT,
        *,
        arrived: Mapping[int, list[float]] | None = None,
        start_ns: float = 0.0,
        neighbours: Neighbours | None = None,
    ) -> None:
        self.engines = {
            name: Engine(name, index, works, int(target.scalar_registers))
            for index, (name, works) in enumerate(queues.items())
        }
        for engine in self.engines.values():
            engine.time = start_ns
        self.end_ns, self.dma_active_ns = start_ns, 0.0
        self._neighbours = neighbours
        self._names, self._data, self._trace, self._step_limit = semaphores, schedule, trace, step_limit
        self._dispatch_depth = int(target.dispatch_depth)
        self._semaphore_ns, self._control_ns = float(target.semaphore_ns), float(target.control_ns)
        self._table_ns, self._dma_start_ns = float(target.act_table_load_ns), float(target.dma_start_ns)
        self._increments: list[list[float]] = [(arrived or {}).get(number, []) for number in range(len(semaphores))]
        self._waiting: list[list[tuple[int, Engine]]] = [[] for _ in semaphores]
        self._wanted: list[float] = [inf] * len(semaphores)  # the least count that anybody waits for
        self._events: list[tuple[float, int, int, int, Any, Any]] = []
        self._sequence = 0
        self._port_free = [0.0, 0.0]
        self._dma_free = 0.0
        self._ring_end: dict[int, float] = {}
        self._ring_writes: dict[int, deque[tuple[float, Sequence[Box]]]] = {}
        self._last_ns = start_ns
        self._handlers: tuple[Callable[[float, Any, Any], None], ...] = (
            self._complete, self._start, self._arrive, self._transfer,
        )  # fmt: skip
        self._known_early = [False] * len(semaphores) if schedule else _one_stream_each(queues, len(semaphores))

    def run(self) -> None:
        """Run until every queue has halted and everything has completed.

        Raises NX-RUN-001 and NX-RUN-002 for accesses, NX-RUN-003 when queues wait for ever, NX-RUN-006 for too many
        steps.
        """
        self.begin()
        events, handlers = self._events, self._handlers
        while events:
            time, kind, _, _, first, second = heappop(events)
            self._last_ns = time if time > self._last_ns else self._last_ns
            handlers[kind](time, first, second)
        self.finish()
        if stuck := self.stuck():
            node = next((e.works[e.position].entry.node for e in self.engines.values() if not e.halted), None)
            raise NeuronError("NX-RUN-003", f"streams wait for ever: {'; '.join(stuck)}", node=node)

    # -- one event at a time, beside other cores ----------------------------------------------------------------------

    def begin(self) -> None:
        """Let every sequencer go as far as it gets at once."""
        for engine in self.engines.values():
            self._advance(engine)

    @property
    def next_ns(self) -> float | None:
        """Time of the next event; None when nothing more happens, unless another core signals."""
        return self._events[0][0] if self._events else None

    @property
    def is_over(self) -> bool:
        """Whether all queues have halted and everything is complete."""
        return not self._events and all(engine.halted for engine in self.engines.values())

    def step(self) -> None:
        """Take the next event, of which there must be one."""
        time, kind, _, _, first, second = heappop(self._events)
        self._last_ns = time if time > self._last_ns else self._last_ns
        self._handlers[kind](time, first, second)

    def signal(self, semaphore: int, time: float) -> None:
        """A transfer of another core increments a semaphore; not earlier than events that were taken."""
        self._complete(time, semaphore, None)

    def finish(self) -> None:
        """Nothing happens any more: note the time."""
        self.end_ns = max([self._last_ns, *(engine.time for engine in self.engines.values())])

    def stuck(self) -> list[str]:
        """What each queue that has not halted waits for, in words."""
        parts: list[str] = []
        for engine in self.engines.values():
            if not engine.halted:
                semaphore, value = engine.blocked_on or (0, 0)
                count = len(self._increments[semaphore])
                place = f"{engine.name} at entry {engine.position}"
                parts.append(f"{place} for {self._names[semaphore]} >= {value} (it is {count})")
        return parts

    def _push(self, time: float, kind: int, first: Any, second: Any, index: int = 0) -> None:
        """Add an event; `index` is the engine whose turn comes first among events of a kind at the same time."""
        self._sequence += 1
        heappush(self._events, (time, kind, index, self._sequence, first, second))

    def _completion(self, time: float, signal: int, execution: int | None) -> None:
        """What completes at `time`: at once where only the time counts, else an event."""
        if self._data is None and (signal < 0 or self._known_early[signal]):
            if time > self._last_ns:
                self._last_ns = time
            self._complete(time, signal, None)
        else:
            self._push(time, _COMPLETE, signal, execution)

    # -- sequencers ---------------------------------------------------------------------------------------------------

    def _advance(self, engine: Engine) -> None:
        """Let a sequencer go on until it must wait for a semaphore or for its datapath, or halts."""
        works, registers, increments = engine.works, engine.registers, self._increments
        control_ns, semaphore_ns, limit = self._control_ns, self._semaphore_ns, self._step_limit
        position, time, count, trace = engine.position, engine.time, engine.control_count, self._trace
        immediate = not (self._data is not None or trace is not None or engine.shares)
        try:
            while True:
                work = works[position]
                for semaphore, constant, register in work.waits:
                    value = constant + registers[register] if register >= 0 else constant
                    if value > 0:
                        times = increments[semaphore]
                        if len(times) < value:
                            self._block(engine, semaphore, value)
                            return
                        seen = times[value - 1] + semaphore_ns
                        if seen > time:
                            if trace is not None:
                                trace.wait(engine.name, position, semaphore, value, time, seen)
                            time = seen
                control = work.control
                if control is not None:
                    position = control(registers, position)
                    if work.chained:
                        count += work.chained
                        for _ in range(work.chained):
                            time += control_ns
                    if position < 0:
                        engine.halted = True
                        return
                    time += control_ns
                    count += 1
                    if work.signal >= 0:
                        if trace is not None:
                            trace.signal(work.signal, time)
                        self._push(time, _COMPLETE, work.signal, None)
                    if count > limit:
                        raise self._endless(engine)
                elif work.ring >= 0:
                    time += control_ns
                    self._trigger(engine, work, time)
                    position += 1
                elif immediate:
                    time = self._issue(engine, work, time)
                    position += 1
                elif self._dispatch(engine, work, time):
                    position += 1
                else:
                    engine.full = True
                    return
        finally:
            engine.position, engine.time, engine.control_count = position, time, count

    def _block(self, engine: Engine, semaphore: int, value: int) -> None:
        """A sequencer waits until a semaphore has been incremented `value` times."""
        self._waiting[semaphore].append((value, engine))
        engine.blocked_on = (semaphore, value)
        if value < self._wanted[semaphore]:
            self._wanted[semaphore] = value

    def _trigger(self, engine: Engine, work: Work, time: float) -> None:
        """Trigger a transfer."""
        registers = engine.registers
        operands = self._operands(work, registers) if self._data is not None or self._trace is not None else None
        transfer = (time, operands, *_hazards(work, registers))
        self._push(time + self._dma_start_ns, _ARRIVE, work, transfer, engine.index)
        engine.transfer_count += 1

    def _dispatch(self, engine: Engine, work: Work, time: float) -> bool:
        """Hand an instruction to the datapath; false where that is as many instructions behind as it may be."""
        dispatched = engine.dispatched
        if len(dispatched) >= self._dispatch_depth:
            return False
        registers = engine.registers
        operands = self._operands(work, registers) if self._data is not None or self._trace is not None else None
        dispatched.append((work, time, operands, *_hazards(work, registers)))
        if len(dispatched) == 1:
            self._schedule(engine)
        return True

    def _endless(self, engine: Engine) -> NeuronError:
        message = f"queue {engine.name} executed {self._step_limit} control instructions without an end"
        return NeuronError("NX-RUN-006", message, help="look for a loop whose register never reaches its limit")

    def _operands(self, work: Work, registers: list[int]) -> Bound:
        """Views, numbers and shifts of one execution."""
        shifts = tuple(a.item_bytes * registers[a.register] if a.register >= 0 else 0 for a in work.entry.accesses)
        if self._data is None:
            return None, shifts
        numbers = work.entry.numbers
        operands = (
            {role: view(registers) for role, view in work.views},
            {name: number(registers) for name, number in numbers.items()} if numbers else {},
        )
        return operands, shifts

    # -- datapaths ----------------------------------------------------------------------------------------------------

    def _issue(self, engine: Engine, work: Work, time: float) -> float:
        """Dispatch and start an instruction of an engine that shares nothing; gives the time of its dispatch."""
        starts = engine.starts
        if len(starts) == self._dispatch_depth:
            freed = starts.popleft()
            if freed > time:
                time = freed
        start = time + work.prepare_ns
        if engine.busy_until > start:
            start = engine.busy_until
        starts.append(start)
        end = start + work.busy_ns
        engine.busy_until = end
        engine.active_ns += work.busy_ns
        engine.instruction_count += 1
        work.executions += 1
        signal, completion = work.signal, end + work.latency_ns
        # What `_completion` does where only the time counts, without its calls: most instructions come by here.
        if signal >= 0 and self._known_early[signal]:
            if completion > self._last_ns:
                self._last_ns = completion
            times = self._increments[signal]
            times.append(completion)
            if len(times) >= self._wanted[signal]:
                self._wake(signal, len(times))
        else:
            self._completion(completion, signal, None)
        return time

    def _schedule(self, engine: Engine) -> None:
        """Schedule the start of the next dispatched instruction."""
        work, time, _, reads, _ = engine.dispatched[0]
        time += work.prepare_ns
        if engine.busy_until > time:
            time = engine.busy_until
        in_flight = engine.in_flight
        while in_flight and in_flight[0][0] <= time:
            in_flight.popleft()
        if reads:
            for completion, boxes in in_flight:
                if completion > time and _overlap(reads, boxes):
                    time = completion
        self._sequence += 1
        heappush(self._events, (time, _START, engine.index, self._sequence, engine, None))

    def _start(self, time: float, engine: Engine, _: None) -> None:
        dispatched = engine.dispatched
        work, dispatched_at, operands, _reads, writes = dispatched[0]
        busy = work.busy_ns
        if work.ports:
            free = time
            for port in work.ports:
                if self._port_free[port] > free:
                    free = self._port_free[port]
            if free > time:
                self._push(free, _START, engine, None, engine.index)
                return
        dispatched.popleft()
        if work.table and work.table != engine.table:
            busy += self._table_ns
            engine.table = work.table
        end = time + busy
        engine.busy_until = end
        engine.active_ns += busy
        engine.instruction_count += 1
        work.executions += 1
        for port in work.ports:
            self._port_free[port] = end
        completion = end + work.latency_ns
        if writes:
            engine.in_flight.append((completion, writes))
        execution = None if operands is None else self._read(work, operands)
        if self._trace is not None and operands is not None:
            self._trace.event(work, dispatched_at, time, end, completion, operands[1])
        if dispatched:
            self._schedule(engine)
        if engine.full:
            engine.full = False
            engine.time = max(engine.time, time)
            self._advance(engine)
        # Last, for it may let this engine's own sequencer go on.
        self._completion(completion, work.signal, execution)

    def _read(self, work: Work, operands: Bound | None) -> int | None:
        """An execution reads its operands, where data is computed."""
        if self._data is None or operands is None or operands[0] is None:
            return None
        return self._data.read(work, operands[0], operands[1])

    def _complete(self, time: float, signal: int, execution: int | None) -> None:
        if execution is not None and self._data is not None:
            self._data.write(execution)
        if signal < 0:
            return
        times = self._increments[signal]
        times.append(time)
        if len(times) >= self._wanted[signal]:
            self._wake(signal, len(times))

    def _wake(self, signal: int, count: int) -> None:
        """Let those go on that wait for no more than `count` increments."""
        waiting = self._waiting[signal]
        if len(waiting) == 1:
            _, engine = waiting.pop()
            self._wanted[signal] = inf
            engine.blocked_on = None
            self._advance(engine)
            return
        ready: list[Engine] = []
        least, position = inf, 0
        while position < len(waiting):
            value, engine = waiting[position]
            if value <= count:
                ready.append(engine)
                del waiting[position]
            else:
                least = value if value < least else least
                position += 1
        self._wanted[signal] = least
        for engine in ready:
            engine.blocked_on = None
            self._advance(engine)

    # -- DMA ----------------------------------------------------------------------------------------------------------

    def _arrive(self, time: float, work: Work, transfer: Transfer) -> None:
        """A transfer reaches its ring: it takes the next free time of the DMA engines."""
        triggered_at, operands, reads, writes = transfer
        ring = work.ring
        start = max(time, self._dma_free)
        if reads or writes:
            in_flight = self._ring_writes.setdefault(ring, deque())
            while in_flight and in_flight[0][0] <= start:
                in_flight.popleft()
            start = max([start, *(end for end, boxes in in_flight if _overlap(reads, boxes))])
        self._dma_free = start + work.busy_ns
        moved = start + work.span_ns
        if work.link_ns and self._neighbours is not None:
            moved = max(moved, self._neighbours.link(start, work.link_ns))
        end = max(moved, self._ring_end.get(ring, 0.0))
        self._ring_end[ring] = end
        if writes:
            self._ring_writes[ring].append((end, writes))
        self.dma_active_ns += work.busy_ns
        work.executions += 1
        if self._trace is not None and operands is not None:
            self._trace.event(work, triggered_at, start, moved, end + work.latency_ns, operands[1])
        if self._data is not None:
            self._push(start, _TRANSFER, (work, end), operands)
        if work.hands_over and self._neighbours is not None:
            self._neighbours.completed(work, end + work.latency_ns)
        self._completion(end + work.latency_ns, work.signal, None)

    def _transfer(self, time: float, transfer: tuple[Work, float], operands: Bound | None) -> None:
        """The transfer begins: it reads now, and has written at `end`."""
        work, end = transfer
        self._push(end, _COMPLETE, -1, self._read(work, operands))


def _hazards(work: Work, registers: list[int]) -> tuple[Sequence[Box], Sequence[Box]]:
    """What an execution reads and writes of the memories through which its stream may depend on itself."""
    if work.fixed_hazards is not None:
        return work.fixed_hazards
    return boxes_of(work.hazard_reads, registers), boxes_of(work.hazard_writes, registers)


def _one_stream_each(queues: dict[str, list[Work]], semaphores: int) -> list[bool]:
    """Of each semaphore, whether its increments come from one datapath or one ring, and so in the order of time."""
    streams: list[set[str | int | None]] = [set() for _ in range(semaphores)]
    for engine, works in queues.items():
        for work in works:
            if work.signal >= 0:
                streams[work.signal].add(None if work.control is not None else work.ring if work.ring >= 0 else engine)
    return [len(own) == 1 and None not in own for own in streams]


def _overlap(reads: Sequence[Box], writes: Sequence[Box]) -> bool:
    """Whether any box of one list overlaps any of the other."""
    for memory, first, last, low, high in reads:
        for other, other_first, other_last, other_low, other_high in writes:
            if low < other_high and other_low < high and first < other_last and other_first < last and memory == other:
                return True
    return False
