"""Replays the queues of programs without time and without data, for analyses of what orders what.

A replay runs every queue as far as its waits allow. Registers and control flow do not depend on data, and a semaphore
only ever grows while a program runs, so every replay executes the same entries with the same registers, whatever the
order; a replay that cannot finish shows a deadlock. Subclasses see each instruction and each passed wait.

Several programs that hand tensors over to one another are replayed together, each on a core of its own, for a number of
runs. A core begins its next run when all of its queues have halted; a program alone finds all that it waits for.
"""

from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate

from neuron_dialects.errors import NeuronError
from runtime.machine.decode import DecodedProgram, Entry

CONTROL_STREAM = "control"
"""Stands for the ring in the stream of an engine's control instructions: they complete in their sequencer, not behind
its datapath.
"""


class ReplayQueue:
    """State of one queue of `core`. `passed_waits`: how many of the waits of the entry at `position` are satisfied.
    `semaphores`: number of the program's first semaphore among all.
    """

    __slots__ = (
        "core", "engine", "entries", "halted", "number", "passed_waits", "position", "registers", "semaphores", "steps",
    )  # fmt: skip

    def __init__(self, number: int, core: int, engine: str, entries: Sequence[Entry], semaphores: int) -> None:
        self.number, self.core, self.engine, self.entries, self.semaphores = number, core, engine, entries, semaphores
        self.registers: list[int] = []
        self.position = self.passed_waits = self.steps = 0
        self.halted = False

    def restart(self, registers: int) -> None:
        """Stand in front of the first entry."""
        self.registers = [0] * registers
        self.position = self.passed_waits = self.steps = 0
        self.halted = False


class Streams:
    """The streams of programs, numbered: what completes in order because one sequencer issued it to one place.

    `of_core`: the streams of each program. Semaphores are numbered through all programs, each program's from
    `first_semaphore` on.
    """

    def __init__(self, programs: Sequence[DecodedProgram]) -> None:
        self._numbers: dict[tuple[int, str, str], int] = {}
        self.of_entry: dict[int, int] = {}
        self.producers: dict[int, set[int]] = {}
        self.of_core: list[set[int]] = [set() for _ in programs]
        self.first_semaphore = list(accumulate((len(p.program.semaphores) for p in programs), initial=0))
        for core, decoded in enumerate(programs):
            for entries in decoded.queues.values():
                for entry in entries:
                    self._enter(core, entry)

    def _enter(self, core: int, entry: Entry) -> None:
        if entry.control is not None and entry.signal < 0:
            return
        # Two engines that trigger one ring are two streams: nothing says whose transfer reaches the ring first.
        place = CONTROL_STREAM if entry.control is not None else entry.ring or ""
        number = self._numbers.setdefault((core, entry.engine, place), len(self._numbers))
        self.of_entry[id(entry)] = number
        self.of_core[core].add(number)
        if entry.signal >= 0:
            self.producers.setdefault(self.first_semaphore[core] + entry.signal, set()).add(number)

    def __len__(self) -> int:
        return len(self._numbers)

    def shared(self) -> frozenset[int]:
        """Semaphores that more than one stream increments."""
        return frozenset(semaphore for semaphore, streams in self.producers.items() if len(streams) > 1)


class Replay:
    """Base of the replays. `run` leaves the queues where they ended; `stuck` lists those that did not halt.

    Args:
        programs: one for each core; several are the stages of a pipeline, numbered as their hand-overs name them.
        runs: of each program. `runs_done` of each core are over.
    """

    def __init__(self, programs: Sequence[DecodedProgram], streams: Streams, step_limit: int, runs: int = 1) -> None:
        self.programs, self.streams, self._step_limit, self._runs = programs, streams, step_limit, runs
        self.runs_done = [0] * len(programs)
        self.queues: list[ReplayQueue] = []
        self._of_core: list[list[ReplayQueue]] = []
        for core, decoded in enumerate(programs):
            first = streams.first_semaphore[core]
            parts = list(enumerate(decoded.queues.items(), len(self.queues)))
            self._of_core.append([ReplayQueue(n, core, engine, entries, first) for n, (engine, entries) in parts])
            self.queues += self._of_core[-1]
        self.counts = [0] * streams.first_semaphore[-1]
        self._remote: dict[int, list[int]] = {}
        # By how much a run of each core counts up semaphores of others, as these declare it, and has so far.
        self._declared: list[Counter[int]] = [Counter() for _ in programs]
        self._sent: list[Counter[int]] = [Counter() for _ in programs]
        for core, decoded in enumerate(programs):
            self._connect(core, decoded)
        self._waiting: list[list[tuple[int, ReplayQueue]]] = [[] for _ in self.counts]
        self._ready: deque[ReplayQueue] = deque()
        for core in range(len(programs)):
            self._begin_run(core)

    @property
    def is_alone(self) -> bool:
        """Whether there is one core; what it would wait for of others is there."""
        return len(self.programs) == 1

    def _connect(self, core: int, decoded: DecodedProgram) -> None:
        """Where semaphores of hand-overs stand in the beginning, and which transfers count up those of others."""
        first = self.streams.first_semaphore
        kinds = {number: variable.kind for number, variable in decoded.variables.items()}
        for row in decoded.program.hand_overs:
            if self.is_alone:
                self.counts[row.semaphore] += row.count
                continue
            if kinds[row.variable] == "output":
                self.counts[first[core] + row.semaphore] += row.count * row.buffers
            other = self.programs[row.peer].program.other_side(core, row)
            awaited = first[row.peer] + other.semaphore
            self._declared[core][awaited] += other.count
            for entry in decoded.handing_over(row.variable):
                self._remote.setdefault(id(entry), []).append(awaited)

    def _begin_run(self, core: int) -> None:
        registers = int(self.programs[core].target.scalar_registers)
        for queue in self._of_core[core]:
            queue.restart(registers)
            self._ready.append(queue)

    def _end_run(self, core: int) -> None:
        """All queues of a core have halted: its semaphores are brought back, and it goes on with its next run."""
        program, first = self.programs[core].program, self.streams.first_semaphore[core]
        for semaphore, declared in self._declared[core].items():
            if self._sent[core][semaphore] != declared:
                raise NeuronError(
                    "NX-RUN-004",
                    f"a run of core {core} hands over in {self._sent[core][semaphore]} transfers what other cores"
                    f" expect in {declared}",
                )
        self._sent[core].clear()
        taken = program.hand_over_counts
        for number in range(len(program.semaphores)):
            self.counts[first + number] = self.counts[first + number] - taken[number] if number in taken else 0
        self.run_ended(core)
        self.runs_done[core] += 1
        if self.runs_done[core] < self._runs:
            self._begin_run(core)

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

    def handed_over(self, queue: ReplayQueue, entry: Entry, semaphore: int) -> None:
        """The entry, a transfer, increments a semaphore of another core."""

    def run_ended(self, core: int) -> None:
        """All of a run of a core is complete; its semaphores have been brought back, its next run has not begun."""

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
                    if all(other.halted for other in self._of_core[queue.core]):
                        self._end_run(queue.core)
                    return
                queue.steps += 1
                if queue.steps > self._step_limit:
                    raise NeuronError(
                        "NX-RUN-006", f"queue {queue.engine} executed {self._step_limit} control instructions"
                    )
                if entry.signal >= 0:
                    self.execute(queue, entry)
            if entry.signal >= 0:
                self.signalled(queue, entry)
                self._count(queue.semaphores + entry.signal)
            if self._remote and entry.ring is not None:
                for semaphore in self._remote.get(id(entry), ()):
                    self._sent[queue.core][semaphore] += 1
                    self.handed_over(queue, entry, semaphore)
                    self._count(semaphore)

    def _pass_waits(self, queue: ReplayQueue, entry: Entry) -> bool:
        waits, registers, first = entry.waits, queue.registers, queue.semaphores
        while queue.passed_waits < len(waits):
            number, value, register = waits[queue.passed_waits]
            semaphore = first + number
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

    def _count(self, semaphore: int) -> None:
        self.counts[semaphore] += 1
        waiting = self._waiting[semaphore]
        if waiting:
            count = self.counts[semaphore]
            self._ready.extend(waiter for value, waiter in waiting if value <= count)
            waiting[:] = [item for item in waiting if item[0] > count]


class IncrementBounds(Replay):
    """How many increments each stream can contribute to a shared semaphore before a given queue of a program passes a
    given wait.

    Runs everything else as far as it gets before the queue may pass a wait for a shared semaphore. `bounds` lists, for
    these waits in order, increments by stream.
    """

    def __init__(
        self, decoded: DecodedProgram, streams: Streams, step_limit: int, engine: str, shared: frozenset[int]
    ) -> None:
        super().__init__([decoded], streams, step_limit)
        self.bounds: list[dict[int, int]] = []
        self._engine, self._shared = engine, shared
        self._increments: dict[int, dict[int, int]] = {semaphore: {} for semaphore in shared}
        self._held: tuple[ReplayQueue, int] | None = None
        self._released = False

    def handed_over(self, queue: ReplayQueue, entry: Entry, semaphore: int) -> None:
        """The entry, a transfer, increments a semaphore of another core."""

    def run_ended(self, core: int) -> None:
        """All of a run of a core is complete; its semaphores have been brought back, its next run has not begun."""

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
