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
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

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

    `execution`: which execution in its stream it was, counted from 1.
    """

    engine: str
    index: int
    origin: str
    instruction: str
    execution: int

    def __str__(self) -> str:
        node = f" of '{self.origin}'" if self.origin else ""
        return f"{self.instruction}{node} (queue {self.engine}, entry {self.index}, execution {self.execution})"


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
    decoded = decode_program(program, target)
    streams = Streams(decoded.queues)
    shared = streams.shared()
    bounds: dict[str, list[dict[int, int]]] = {}
    for engine, entries in decoded.queues.items():
        if any(semaphore in shared for entry in entries for semaphore, _, _ in entry.waits):
            replay = IncrementBounds(decoded, streams, step_limit, engine, shared)
            replay.run()
            bounds[engine] = replay.bounds
    check = _RaceReplay(decoded, streams, step_limit, shared, bounds, limit)
    check.run()
    check.report_deadlock()
    return check.races


class _RaceReplay(Replay):
    """The replay that keeps clocks and looks at accesses."""

    def __init__(
        self,
        decoded: DecodedProgram,
        streams: Streams,
        step_limit: int,
        shared: frozenset[int],
        bounds: dict[str, list[dict[int, int]]],
        limit: int,
    ) -> None:
        super().__init__(decoded, streams, step_limit)
        self.races: list[Race] = []
        self._decoded, self._limit = decoded, limit
        self._clocks = VectorClocks(len(self.queues), len(streams))
        self._shared, self._bounds = shared, {engine: iter(list_) for engine, list_ in bounds.items()}
        # Pieces that incremented a semaphore, by stream, in order.
        self._increments: list[dict[int, list[int]]] = [
            {stream: [] for stream in streams.producers.get(semaphore, ())} for semaphore in range(len(self.counts))
        ]
        self._histories = _histories(decoded)
        self._written = _WrittenBytes(decoded)
        self._seen: set[tuple[str, int, int]] = set()
        self._pieces = [0] * len(streams)

    def may_pass(self, queue: ReplayQueue, semaphore: int, value: int) -> bool:
        """Learn from a satisfied wait."""
        increments = self._increments[semaphore]
        if semaphore not in self._shared:
            ((stream, pieces),) = increments.items()
            self._clocks.observe(queue.number, stream, pieces[value - 1])
            return True
        most = next(self._bounds[queue.engine])
        total = sum(most.values())
        for stream, own in most.items():
            needed = value - (total - own)
            if needed > 0:
                self._clocks.observe(queue.number, stream, increments[stream][needed - 1])
        return True

    def execute(self, queue: ReplayQueue, entry: Entry) -> None:
        stream = self.streams.of_entry[id(entry)]
        known = self._clocks.known(queue.number)
        self._pieces[stream] = piece = self._clocks.issue(queue.number, stream)
        registers = queue.registers
        for access in entry.accesses:
            low, high = access.interval(registers)
            history = self._histories.get(access.memory)
            if history is None:
                continue
            site = Site(stream, piece, access.first_partition, access.last_partition, low, high, (entry, access))
            for other in history.access(site, known, access.writes):
                self._report_pair(other, site)
        for access in self._written.missing(entry, registers):
            self._report_unwritten(access, entry, registers, piece)

    def signalled(self, queue: ReplayQueue, entry: Entry) -> None:
        stream = self.streams.of_entry[id(entry)]
        self._increments[entry.signal][stream].append(self._pieces[stream])

    # -- reports ------------------------------------------------------------------------------------------------------

    def _party(self, entry: Entry, piece: int) -> Party:
        return Party(entry.engine, entry.index, entry.node or "", entry.name, piece)

    def _name(self, memory: MemoryKey) -> str:
        return memory if isinstance(memory, str) else self._decoded.variables[memory].name

    def _add(self, key: tuple[str, int, int], race: Callable[[], Race]) -> None:
        if key not in self._seen and len(self.races) < self._limit:
            self._seen.add(key)
            self.races.append(race())

    def _report_pair(self, earlier: Site, later: Site) -> None:
        entry, access = cast("tuple[Entry, Access]", earlier.owner)
        own_entry, own_access = cast("tuple[Entry, Access]", later.owner)

        def race() -> Race:
            kind = f"{'write' if access.writes else 'read'}-{'write' if own_access.writes else 'read'}"
            memory = self._name(access.memory)
            first, second = self._party(entry, earlier.piece), self._party(own_entry, later.piece)
            low, high = max(earlier.low, later.low), min(earlier.high, later.high)
            message = (
                f"{first}, which {'writes' if access.writes else 'reads'} {access.role}, and {second}, which "
                f"{'writes' if own_access.writes else 'reads'} {own_access.role}, are not ordered: "
                f"bytes {low} to {high - 1} of {memory}"
            )
            partitions = (max(earlier.first, later.first), min(earlier.last, later.last))
            return Race(cast(RaceKind, kind), first, second, memory, partitions, (low, high), message)

        self._add(("pair", id(entry), id(own_entry)), race)

    def _report_unwritten(self, access: Access, entry: Entry, registers: Sequence[int], piece: int) -> None:
        def race() -> Race:
            party, memory, interval = self._party(entry, piece), self._name(access.memory), access.interval(registers)
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
        names, texts = self._decoded.program.semaphores, list[str]()
        for queue in stuck:
            semaphore, value, register = queue.entries[queue.position].waits[queue.passed_waits]
            value += queue.registers[register] if register >= 0 else 0
            texts.append(f"{queue.engine} at entry {queue.position} for {names[semaphore]} >= {value}")
        entry = stuck[0].entries[stuck[0].position]
        message = f"streams wait for ever: {'; '.join(texts)}"
        self.races.append(Race("deadlock", self._party(entry, 0), None, "", (0, 0), (0, 0), message))


def _histories(decoded: DecodedProgram) -> dict[MemoryKey, AccessHistory]:
    """A history for every memory that some entry writes; what is never written cannot be raced on."""
    sizes: dict[MemoryKey, int] = {}
    for entries in decoded.queues.values():
        for entry in entries:
            sizes.update({access.memory: access.limit for access in entry.accesses if access.writes})
    return {memory: AccessHistory(size) for memory, size in sizes.items()}


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
