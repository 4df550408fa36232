"""Replays the queues of a program without time and without data, for analyses of what orders what.

A replay runs every queue as far as its waits allow. Registers and control flow do not depend on data, and a semaphore
only ever grows, so every replay executes the same entries with the same registers, whatever the order; a replay that
cannot finish shows a deadlock. Subclasses see each instruction and each passed wait.
"""

from collections import deque
from collections.abc import Mapping, Sequence

from neuron_dialects.errors import NeuronError
from runtime.machine.decode import DecodedProgram, Entry

CONTROL_STREAM = "control"
"""Stands for the ring in the stream of an engine's control instructions: they complete in their sequencer, not behind
its datapath.
"""


class ReplayQueue:
    """State of one queue. `passed_waits`: how many of the waits of the entry at `position` are satisfied."""

    __slots__ = ("engine", "entries", "halted", "number", "passed_waits", "position", "registers", "steps")

    def __init__(self, number: int, engine: str, entries: Sequence[Entry], registers: int) -> None:
        self.number, self.engine, self.entries = number, engine, entries
        self.registers, self.position, self.passed_waits, self.steps = [0] * registers, 0, 0, 0
        self.halted = False


class Streams:
    """The streams of a program, numbered: what completes in order because one sequencer issued it to one place."""

    def __init__(self, queues: Mapping[str, Sequence[Entry]]) -> None:
        self._numbers: dict[tuple[str, str], int] = {}
        self.of_entry: dict[int, int] = {}
        self.producers: dict[int, set[int]] = {}
        for entries in queues.values():
            for entry in entries:
                if entry.control is not None and entry.signal < 0:
                    continue
                # Two engines that trigger one ring are two streams: nothing says whose transfer reaches the ring first.
                place = CONTROL_STREAM if entry.control is not None else entry.ring or ""
                number = self._numbers.setdefault((entry.engine, place), len(self._numbers))
                self.of_entry[id(entry)] = number
                if entry.signal >= 0:
                    self.producers.setdefault(entry.signal, set()).add(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def shared(self) -> frozenset[int]:
        """Semaphores that more than one stream increments."""
        return frozenset(semaphore for semaphore, streams in self.producers.items() if len(streams) > 1)


class Replay:
    """Base of the replays. `run` leaves the queues where they ended; `stuck` lists those that did not halt."""

    def __init__(self, decoded: DecodedProgram, streams: Streams, step_limit: int) -> None:
        registers = int(decoded.target.scalar_registers)
        self.queues = [ReplayQueue(n, e, entries, registers) for n, (e, entries) in enumerate(decoded.queues.items())]
        self.streams, self._step_limit = streams, step_limit
        self.counts = [0] * len(decoded.program.semaphores)
        self._waiting: list[list[tuple[int, ReplayQueue]]] = [[] for _ in self.counts]
        self._ready = deque(self.queues)

    def run(self) -> None:
        """Run every queue as far as it gets; NX-RUN-006 when one executes too many control instructions."""
        while True:
            while self._ready:
                self._advance(self._ready.popleft())
            if not self.release():
                return

    def stuck(self) -> list[ReplayQueue]:
        """Queues that have not halted."""
        return [queue for queue in self.queues if not queue.halted]

    # -- what subclasses see ------------------------------------------------------------------------------------------

    def release(self) -> bool:
        """Nothing can go on: make a queue that was held ready again (`self.make_ready`) and say so."""
        return False

    def may_pass(self, queue: ReplayQueue, semaphore: int, value: int) -> bool:
        """A wait is satisfied; False holds the queue in front of it until `release`."""
        return True

    def execute(self, queue: ReplayQueue, entry: Entry) -> None:
        """An instruction, a transfer, or a control instruction that signals, after its waits."""

    def signalled(self, queue: ReplayQueue, entry: Entry) -> None:
        """The entry increments its semaphore."""

    # -- the loop -----------------------------------------------------------------------------------------------------

    def make_ready(self, queue: ReplayQueue) -> None:
        """Let a queue go on."""
        self._ready.append(queue)

    def _advance(self, queue: ReplayQueue) -> None:
        entries, registers = queue.entries, queue.registers
        while True:
            entry = entries[queue.position]
            if entry.waits and not self._pass_waits(queue, entry):
                return
            if entry.control is None:
                self.execute(queue, entry)
                queue.position += 1
            else:
                queue.position = entry.control(registers, queue.position)
                if queue.position < 0:
                    queue.halted = True
                    return
                queue.steps += 1
                if queue.steps > self._step_limit:
                    raise NeuronError(
                        "NX-RUN-006", f"queue {queue.engine} executed {self._step_limit} control instructions"
                    )
                if entry.signal >= 0:
                    self.execute(queue, entry)
            if entry.signal >= 0:
                self._signal(queue, entry)

    def _pass_waits(self, queue: ReplayQueue, entry: Entry) -> bool:
        waits, registers = entry.waits, queue.registers
        while queue.passed_waits < len(waits):
            semaphore, value, register = waits[queue.passed_waits]
            if register >= 0:
                value += registers[register]
            if value > 0:
                if self.counts[semaphore] < value:
                    self._waiting[semaphore].append((value, queue))
                    return False
                if not self.may_pass(queue, semaphore, value):
                    return False
            queue.passed_waits += 1
        queue.passed_waits = 0
        return True

    def _signal(self, queue: ReplayQueue, entry: Entry) -> None:
        semaphore = entry.signal
        self.counts[semaphore] += 1
        self.signalled(queue, entry)
        waiting = self._waiting[semaphore]
        if waiting:
            count = self.counts[semaphore]
            self._ready.extend(waiter for value, waiter in waiting if value <= count)
            waiting[:] = [item for item in waiting if item[0] > count]


class IncrementBounds(Replay):
    """How many increments each stream can contribute to a shared semaphore before a given queue passes a given wait.

    Runs everything else as far as it gets before the queue may pass a wait for a shared semaphore. `bounds` lists, for
    these waits in order, increments by stream.
    """

    def __init__(
        self, decoded: DecodedProgram, streams: Streams, step_limit: int, engine: str, shared: frozenset[int]
    ) -> None:
        super().__init__(decoded, streams, step_limit)
        self.bounds: list[dict[int, int]] = []
        self._engine, self._shared = engine, shared
        self._increments: dict[int, dict[int, int]] = {semaphore: {} for semaphore in shared}
        self._held: tuple[ReplayQueue, int] | None = None
        self._released = False

    def signalled(self, queue: ReplayQueue, entry: Entry) -> None:
        if entry.signal in self._shared:
            increments, stream = self._increments[entry.signal], self.streams.of_entry[id(entry)]
            increments[stream] = increments.get(stream, 0) + 1

    def may_pass(self, queue: ReplayQueue, semaphore: int, value: int) -> bool:
        if queue.engine != self._engine or semaphore not in self._shared:
            return True
        if self._released:
            self._released = False
            return True
        self._held = (queue, semaphore)
        return False

    def release(self) -> bool:
        if self._held is None:
            return False
        queue, semaphore = self._held
        self.bounds.append(dict(self._increments[semaphore]))
        self._held, self._released = None, True
        self.make_ready(queue)
        return True
