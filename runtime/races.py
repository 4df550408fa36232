"""The race check: proves that a core program's result does not depend on how its streams happen to run.

Given any program, hand-written ones too, it replays all queues with vector clocks and reports

- any two accesses to overlapping memory, one of them a write, that nothing orders: not one stream's program order, not
  waits;
- any read of on-chip memory that nobody has written before it;
- a deadlock.

What orders what: an entry comes after everything its queue has waited for, in this entry or before. A datapath
completes its instructions in order and each starts after the one before it; a transfer is ordered after earlier ones of
its ring that the same engine triggered, and after what the triggering queue waited for, but not after earlier
instructions of that engine. A wait `S >= v` for a semaphore of one stream means that the v-th increment has happened;
if several streams increment S, it means those increments without which v could not be reached. Accesses are boxes: a
range of partitions x the bytes from the first to the last one touched; a DRAM variable counts as one partition.

The stages of a pipeline are checked together over several runs. Their clocks span all cores. A run comes after all of
the core's run before it; a wait for what a peer hands over means all of those of the peer's runs without which the
count could not be reached, and the transfer itself where only one stream of the peer counts.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

from neuron_dialects.errors import NeuronError
from neuron_dialects.isa.hand_over import peer_problem
from neuron_dialects.isa.program import CoreProgram
from neuron_dialects.target import Target
from runtime.access_history import AccessHistory, Site
from runtime.machine.decode import Access, DecodedProgram, Entry, MemoryKey, decode_program, memory_limits
from runtime.machine.simulator import STEP_LIMIT
from runtime.replay import IncrementBounds, Replay, ReplayQueue, Streams
from runtime.vector_clocks import VectorClocks
from runtime.views import OperandView, Region

RaceKind = Literal["read-write", "write-read", "write-write", "uninitialised", "deadlock"]
DEFAULT_LIMIT = 100


@dataclass(frozen=True)
class Party:
    """One side of a race: entry `index` of the queue of `engine`, the framework node it comes from, its instruction.

    `execution`: which execution in its stream it was, counted from 1; `core`: which of several.
    """

    engine: str
    index: int
    origin: str
    instruction: str
    execution: int
    core: int | None = None

    def __str__(self) -> str:
        node = f" of '{self.origin}'" if self.origin else ""
        place = "" if self.core is None else f"core {self.core}, "
        return f"{self.instruction}{node} ({place}queue {self.engine}, entry {self.index}, execution {self.execution})"


@dataclass(frozen=True)
class Race:
    """What is wrong. `first` and `second` access `partitions` and `bytes` (half-open ranges) of `memory` without an
    order.

    `kind` says what first and second do; an "uninitialised" read and a "deadlock" have no second party. `memory` is
    sbuf, psum or a DRAM variable's name.
    """

    kind: RaceKind
    first: Party
    second: Party | None
    memory: str
    partitions: tuple[int, int]
    bytes: tuple[int, int]
    message: str

    def __str__(self) -> str:
        return self.message


def check_races(
    program: CoreProgram, target: Target, limit: int = DEFAULT_LIMIT, step_limit: int = STEP_LIMIT
) -> list[Race]:
    """Races of `program`, at most one for each pair of entries and at most `limit`; none exactly if the program is
    safe.

    An access that races and is then overwritten is not compared with later ones: what they see is a matter of the race
    that was reported.

    Time grows with the number of executed instructions. Raises NX-RUN-001 for an access out of bounds, NX-RUN-004 for a
    malformed program, NX-RUN-006 when a queue executes more than `step_limit` control instructions.
    """
    return _check([decode_program(program, target)], limit, step_limit, 1)


def check_pipeline_races(
    programs: Sequence[CoreProgram],
    target: Target,
    runs: int | None = None,
    limit: int = DEFAULT_LIMIT,
    step_limit: int = STEP_LIMIT,
) -> list[Race]:
    """Races within and between the stages of a pipeline, each on a core of its own, as `check_races` reports them.

    `runs`: requests that follow each other; by default so many that every buffer between stages is used again. Raises
    as `check_races`, and NX-RUN-004 for hand-overs that do not fit together.
    """
    decoded = [decode_program(program, target) for program in programs]
    if problem := peer_problem(programs):
        raise NeuronError("NX-RUN-004", f"program {problem[0]}: {problem[1]}")
    most = max((row.buffers for program in programs for row in program.hand_overs), default=1)
    return _check(decoded, limit, step_limit, most + 2 if runs is None else runs)


def _check(programs: Sequence[DecodedProgram], limit: int, step_limit: int, runs: int) -> list[Race]:
    """The races of decoded programs."""
    streams = Streams(programs)
    bounds: list[dict[str, list[dict[int, int]]]] = []
    first = 0
    for decoded in programs:
        own = Streams([decoded])
        bounds.append({})
        for engine, entries in decoded.queues.items():
            if any(semaphore in own.shared() for entry in entries for semaphore, _, _ in entry.waits):
                replay = IncrementBounds(decoded, own, step_limit, engine, own.shared())
                replay.run()
                # Streams of one program are numbered among all in the same order.
                bounds[-1][engine] = [{first + s: most for s, most in bound.items()} for bound in replay.bounds]
        first += len(own)
    check = _RaceReplay(programs, streams, step_limit, runs, bounds, limit)
    check.run()
    check.report_deadlock()
    return check.races


class _RaceReplay(Replay):
    """The replay that keeps clocks and looks at accesses."""

    def __init__(
        self,
        programs: Sequence[DecodedProgram],
        streams: Streams,
        step_limit: int,
        runs: int,
        bounds: Sequence[dict[str, list[dict[int, int]]]],
        limit: int,
    ) -> None:
        self.races: list[Race] = []
        self._shared, self._bounds = streams.shared(), bounds
        super().__init__(programs, streams, step_limit, runs)
        self._limit = limit
        self._clocks = VectorClocks(len(self.queues), len(streams))
        # Pieces that incremented a semaphore, by stream, in order.
        self._increments: list[dict[int, list[int]]] = [
            {stream: [] for stream in streams.producers.get(semaphore, ())} for semaphore in range(len(self.counts))
        ]
        # Pieces (stream, number) that incremented a semaphore of another core, in the order of that core's runs.
        self._handed: dict[int, list[tuple[int, int]]] = {}
        self._memories = [_Memories(programs, core) for core in range(len(programs))]
        self._histories = {name: AccessHistory(size) for own in self._memories for name, size in own.sizes.items()}
        self._written = [_WrittenBytes(decoded) for decoded in programs]
        self._seen: set[tuple[str, int, int]] = set()
        self._pieces = [0] * len(streams)
        self._coming = [{engine: iter(list_) for engine, list_ in own.items()} for own in bounds]

    def may_pass(self, queue: ReplayQueue, semaphore: int, value: int) -> bool:
        """Learn from a satisfied wait."""
        increments = self._increments[semaphore]
        if semaphore not in self._shared:
            if increments:
                ((stream, pieces),) = increments.items()
                self._clocks.observe(queue.number, stream, pieces[value - 1])
            else:
                self._learn_handed_over(queue, semaphore, value)
            return True
        most = next(self._coming[queue.core][queue.engine])
        total = sum(most.values())
        for stream, own in most.items():
            needed = value - (total - own)
            if needed > 0:
                self._clocks.observe(queue.number, stream, increments[stream][needed - 1])
        return True

    def _learn_handed_over(self, queue: ReplayQueue, semaphore: int, value: int) -> None:
        """Learn from a wait for another core: counts go on from run to run, and begin with the free buffers."""
        program, number = self.programs[queue.core].program, semaphore - queue.semaphores
        pieces = self._handed.get(semaphore, [])
        rows = [row for row in program.hand_overs if row.semaphore == number]
        if not rows:
            return
        each = sum(row.count for row in rows)
        is_credit = self.programs[queue.core].variables[rows[0].variable].kind == "output"
        counted = value + each * self.runs_done[queue.core] - is_credit * each * rows[0].buffers
        if len({stream for stream, _ in pieces}) > 1:
            # Which of a run's increments have come says nobody; all of a run come before the next one's.
            counted -= counted % each
        for stream, piece in dict(pieces[max(0, counted - each) : max(0, counted)]).items():
            self._clocks.observe(queue.number, stream, piece)

    def execute(self, queue: ReplayQueue, entry: Entry) -> None:
        stream = self.streams.of_entry[id(entry)]
        known = self._clocks.known(queue.number)
        self._pieces[stream] = piece = self._clocks.issue(queue.number, stream)
        registers, run = queue.registers, self.runs_done[queue.core]
        for access in entry.accesses:
            low, high = access.interval(registers)
            history = self._histories.get(self._memories[queue.core].name(access.memory, run))
            if history is None:
                continue
            owner = (queue.core, entry, access)
            site = Site(stream, piece, access.first_partition, access.last_partition, low, high, owner)
            for other in history.access(site, known, access.writes):
                self._report_pair(other, site)
        for access in self._written[queue.core].missing(entry, registers):
            self._report_unwritten(access, queue, entry, piece)

    def signalled(self, queue: ReplayQueue, entry: Entry) -> None:
        stream = self.streams.of_entry[id(entry)]
        self._increments[queue.semaphores + entry.signal][stream].append(self._pieces[stream])

    def handed_over(self, queue: ReplayQueue, entry: Entry, semaphore: int) -> None:
        stream = self.streams.of_entry[id(entry)]
        self._handed.setdefault(semaphore, []).append((stream, self._pieces[stream]))

    def run_ended(self, core: int) -> None:
        """Everything of the run is complete before the next one begins."""
        for queue in self.queues:
            if queue.core == core:
                for stream in self.streams.of_core[core]:
                    if self._pieces[stream]:
                        self._clocks.observe(queue.number, stream, self._pieces[stream])
        first, last = self.streams.first_semaphore[core : core + 2]
        for semaphore in range(first, last):
            for pieces in self._increments[semaphore].values():
                pieces.clear()
        self._coming[core] = {engine: iter(list_) for engine, list_ in self._bounds[core].items()}

    # -- reports ------------------------------------------------------------------------------------------------------

    def _party(self, core: int, entry: Entry, piece: int) -> Party:
        place = None if self.is_alone else core
        return Party(entry.engine, entry.index, entry.node or "", entry.name, piece, place)

    def _name(self, core: int, memory: MemoryKey) -> str:
        return memory if isinstance(memory, str) else self.programs[core].variables[memory].name

    def _add(self, key: tuple[str, int, int], race: Callable[[], Race]) -> None:
        if key not in self._seen and len(self.races) < self._limit:
            self._seen.add(key)
            self.races.append(race())

    def _report_pair(self, earlier: Site, later: Site) -> None:
        core, entry, access = cast("tuple[int, Entry, Access]", earlier.owner)
        own_core, own_entry, own_access = cast("tuple[int, Entry, Access]", later.owner)

        def race() -> Race:
            kind = f"{'write' if access.writes else 'read'}-{'write' if own_access.writes else 'read'}"
            memory = self._name(core, access.memory)
            first, second = self._party(core, entry, earlier.piece), self._party(own_core, own_entry, later.piece)
            low, high = max(earlier.low, later.low), min(earlier.high, later.high)
            message = (
                f"{first}, which {'writes' if access.writes else 'reads'} {access.role}, and {second}, which "
                f"{'writes' if own_access.writes else 'reads'} {own_access.role}, are not ordered: "
                f"bytes {low} to {high - 1} of {memory}"
            )
            partitions = (max(earlier.first, later.first), min(earlier.last, later.last))
            return Race(cast(RaceKind, kind), first, second, memory, partitions, (low, high), message)

        self._add(("pair", id(entry), id(own_entry)), race)

    def _report_unwritten(self, access: Access, queue: ReplayQueue, entry: Entry, piece: int) -> None:
        def race() -> Race:
            party, memory = self._party(queue.core, entry, piece), self._name(queue.core, access.memory)
            interval = access.interval(queue.registers)
            place = f"bytes {interval[0]} to {interval[1] - 1} of {memory}"
            message = f"{party} reads {access.role} from {place}, which nothing has written in full before"
            partitions = (access.first_partition, access.last_partition)
            return Race("uninitialised", party, None, memory, partitions, interval, message)

        self._add(("unwritten", id(entry), id(access)), race)

    def report_deadlock(self) -> None:
        """Add a race for the queues that did not halt, if there are any."""
        stuck = self.stuck()
        if not stuck:
            return
        texts: list[str] = []
        for queue in stuck:
            names = self.programs[queue.core].program.semaphores
            semaphore, value, register = queue.entries[queue.position].waits[queue.passed_waits]
            value += queue.registers[register] if register >= 0 else 0
            place = "" if self.is_alone else f"core {queue.core} "
            texts.append(f"{place}{queue.engine} at entry {queue.position} for {names[semaphore]} >= {value}")
        entry = stuck[0].entries[stuck[0].position]
        message = f"streams wait for ever: {'; '.join(texts)}"
        self.races.append(Race("deadlock", self._party(stuck[0].core, entry, 0), None, "", (0, 0), (0, 0), message))


class _Memories:
    """What the memories of one core are called among those of all, in each run.

    `sizes`: bytes of those that the core writes; what is never written cannot be raced on. What is handed over has a
    name for each of its copies, that of the side which makes it.
    """

    def __init__(self, programs: Sequence[DecodedProgram], core: int) -> None:
        decoded = programs[core]
        self._core = core
        self._makers: dict[MemoryKey, tuple[int, int, int]] = {}
        if len(programs) > 1:
            for row in decoded.program.hand_overs:
                is_output = decoded.variables[row.variable].kind == "output"
                maker = (core, row.variable) if is_output else (row.peer, row.peer_variable)
                self._makers[row.variable] = (*maker, row.buffers)
        self.sizes: dict[Hashable, int] = {}
        for entries in decoded.queues.values():
            for access in (access for entry in entries for access in entry.accesses if access.writes):
                copies = self._makers[access.memory][2] if access.memory in self._makers else 1
                self.sizes.update({self.name(access.memory, run): access.limit for run in range(copies)})

    def name(self, memory: MemoryKey, run: int) -> Hashable:
        """The name of a memory in a run, counted from 0."""
        if memory not in self._makers:
            return self._core, memory
        core, variable, copies = self._makers[memory]
        return core, variable, run % copies


class _WrittenBytes:
    """Which bytes of the on-chip memories have been written, exactly: gaps of a strided write stay unwritten.

    An operand at one address needs to be looked at once; after that it is known to be written, for nothing becomes
    unwritten.
    """

    def __init__(self, decoded: DecodedProgram) -> None:
        partitions = int(decoded.target.partitions)
        self._regions = {
            space: Region(np.zeros(partitions * size, np.uint8), 0, partitions, size, size, space)
            for space, size in memory_limits(decoded.target).items()
        }
        self._views: dict[int, OperandView] = {}
        self._known: dict[int, set[int]] = {}
        for entry in decoded.pinned:
            for access in entry.accesses:
                self._add(entry, access)
            self.missing(entry, ())
        for entries in decoded.queues.values():
            for entry in entries:
                for access in entry.accesses:
                    self._add(entry, access)

    def _add(self, entry: Entry, access: Access) -> None:
        if entry.instruction is None or not isinstance(access.memory, str):
            return
        pattern = entry.instruction.operands[access.role].pattern
        view = OperandView(
            self._regions[access.memory], pattern, f"ui{8 * access.item_bytes}", access.operand, entry.node
        )
        self._views[id(access)], self._known[id(access)] = view, set()

    def missing(self, entry: Entry, registers: Sequence[int]) -> list[Access]:
        """Accesses of this execution that read something unwritten; afterwards what it writes is written."""
        found: list[Access] = []
        for access in entry.accesses:
            if (
                access.reads
                and id(access) in self._views
                and not (access.writes and self._only_writes(entry, registers))
            ):
                known, key = self._known[id(access)], registers[access.register] if access.register >= 0 else 0
                if key not in known:
                    view = self._views[id(access)](registers)
                    if (view == np.iinfo(view.dtype).max).all():
                        known.add(key)
                    else:
                        found.append(access)
        for access in entry.accesses:
            if access.writes and id(access) in self._views:
                known, key = self._known[id(access)], registers[access.register] if access.register >= 0 else 0
                if key not in known:
                    view = self._views[id(access)](registers)
                    view[...] = np.iinfo(view.dtype).max
                    known.add(key)
        return found

    @staticmethod
    def _only_writes(entry: Entry, registers: Sequence[int]) -> bool:
        """Whether an operand that is read and written is not read: a matmul that overwrites, a select that keeps
        elements.
        """
        accumulate = entry.numbers.get("accumulate")
        return accumulate is None or not accumulate(registers)
