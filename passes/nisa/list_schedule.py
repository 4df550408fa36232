"""Orders the statements of a program so that no stream waits while it could go on, as a pure algorithm.

Each engine runs its instructions in program order, and so does the stream that triggers transfers. A statement that
has to wait for its operands therefore holds up whatever stands behind it. `list_schedule` simulates the streams, and
where the next statement would wait it brings a later one forward that can start meanwhile. Dependences are kept. What
is brought forward takes on-chip memory for longer, so there is a limit to how much of it may wait for its turn.

Given tasks in program order, and nothing of the IR; leaves a permutation. The time is linear in the tasks times the
window, for tasks that touch few buffers.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

WINDOW = 256
"""How far ahead of the next statement one may be brought forward."""

PATIENCE_NS = 300.0
"""A statement that would wait for less stays where it is, and so does one that would start earlier by less."""

RECENT = 64
"""Touches of a buffer that are told apart; those before count as one of their bounding range."""


@dataclass(frozen=True)
class Touch:
    """Elements `low` .. `high` of `buffer` that a task reads or writes."""

    buffer: int
    low: int
    high: int
    writes: bool


@dataclass(frozen=True)
class Task:
    """A statement: an instruction, or a loop nest as a whole.

    `streams`: nanoseconds that it keeps each in-order stream busy; `transfer_ns`: that it keeps the DMA engines busy;
    `latency_ns`: from the end of its busiest resource until its results can be used; `touches`: what it accesses;
    `row_bytes`: bytes of a partition by on-chip buffer that it uses; `fixed`: it is not to be brought forward.
    """

    streams: Mapping[str, float]
    transfer_ns: float
    latency_ns: float
    touches: Sequence[Touch]
    row_bytes: Mapping[int, int] = field(default_factory=dict)
    fixed: bool = False


@dataclass(frozen=True)
class Schedule:
    """`order`: task numbers in their new order. `before_ns`, `after_ns`: estimated time in the old and new order."""

    order: list[int]
    before_ns: float
    after_ns: float


def list_schedule(tasks: Sequence[Task], early_bytes: int, window: int = WINDOW) -> Schedule:
    """A new order of `tasks`, or the old one where that is estimated to be as fast.

    `early_bytes`: bytes of a partition that tasks which were brought forward may hold until their old turn comes.
    """
    predecessors = dependences(tasks)
    old = list(range(len(tasks)))
    before, after = Streams(tasks, predecessors), Streams(tasks, predecessors)
    for number in old:
        before.run(number)
    order = _Scheduler(tasks, predecessors, after, early_bytes, window).run()
    return Schedule(order, before.end, after.end) if after.end < before.end else Schedule(old, before.end, before.end)


@dataclass
class _Recent:
    """A touch by a task, or by all tasks up to it."""

    task: int
    low: int
    high: int
    writes: bool
    all_before: bool = False


def dependences(tasks: Sequence[Task]) -> list[tuple[int, list[int]]]:
    """For each task (limit, others): it depends on the tasks below `limit` and on `others`."""
    seen: dict[int, list[_Recent]] = {}
    found: list[tuple[int, list[int]]] = []
    for number, task in enumerate(tasks):
        limit, others = 0, set[int]()
        for touch in task.touches:
            for recent in seen.get(touch.buffer, ()):
                if (touch.writes or recent.writes) and touch.low <= recent.high and recent.low <= touch.high:
                    if recent.all_before:
                        limit = max(limit, recent.task + 1)
                    else:
                        others.add(recent.task)
        for touch in task.touches:
            _remember(seen.setdefault(touch.buffer, []), _Recent(number, touch.low, touch.high, touch.writes))
        found.append((limit, sorted(other for other in others if limit <= other < number)))
    return found


def _remember(recents: list[_Recent], new: _Recent) -> None:
    """Add a touch; a write makes those that it covers unnecessary, as what follows them follows it."""
    if new.writes:
        recents[:] = [r for r in recents if r.all_before or r.low < new.low or r.high > new.high]
    recents.append(new)
    if len(recents) > 2 * RECENT:
        old, recents[:] = recents[:-RECENT], recents[-RECENT:]
        low, high = min(r.low for r in old), max(r.high for r in old)
        recents.insert(0, _Recent(old[-1].task, low, high, any(r.writes for r in old), all_before=True))


class Streams:
    """Simulated time: when each stream and the DMA engines are free, when each task's results can be used.

    `predecessors`: as `dependences` gives them. Tasks run in the order in which `run` is called; `end` is when all that
    ran are done.
    """

    def __init__(self, tasks: Sequence[Task], predecessors: Sequence[tuple[int, list[int]]]):
        self.tasks, self.predecessors = tasks, predecessors
        self.free: dict[str, float] = {}
        self.transfers_free = 0.0
        self.done = [-1.0] * len(tasks)
        # When all tasks below a number are done, as far as they have run.
        self.below: list[float] = [0.0]
        self.end = 0.0

    def operands(self, number: int) -> float:
        """When the operands of a task are there, as far as the tasks that it depends on have run."""
        limit, others = self.predecessors[number]
        done, below = self.done, self.below
        ready = below[limit] if limit < len(below) else below[-1]
        for other in others:
            if done[other] > ready:
                ready = done[other]
        return ready

    def streams_free(self, number: int) -> float:
        """When all streams of a task are free."""
        free, latest = self.free, 0.0
        for stream in self.tasks[number].streams:
            if stream in free and free[stream] > latest:
                latest = free[stream]
        return latest

    def start(self, number: int) -> float:
        """When a task can start."""
        return max(self.operands(number), self.streams_free(number))

    def run(self, number: int) -> None:
        """Let a task run next on its streams."""
        task, start = self.tasks[number], self.start(number)
        end = start
        for stream, busy in task.streams.items():
            self.free[stream] = start + busy
            end = max(end, start + busy)
        if task.transfer_ns:
            begin = max(start, self.transfers_free)
            self.transfers_free = begin + task.transfer_ns
            end = max(end, self.transfers_free)
        self.done[number] = end + task.latency_ns
        self.end = max(self.end, self.done[number])
        while (ran := len(self.below) - 1) < len(self.done) and self.done[ran] >= 0:
            self.below.append(max(self.below[-1], self.done[ran]))


@dataclass
class _Scheduler:
    """Picks one task after the other. `head`: the first task in the old order that has not run."""

    tasks: Sequence[Task]
    predecessors: Sequence[tuple[int, list[int]]]
    streams: Streams
    early_bytes: int
    window: int
    head: int = 0
    held: int = 0
    order: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.tasks)
        self.ran = [False] * count
        self.begun: set[int] = set()
        self.early: dict[int, int] = {}
        self.missing = [0] * count
        self.successors: list[list[int]] = [[] for _ in range(count)]
        for number, (limit, others) in enumerate(self.predecessors):
            self.missing[number] = sum(other >= limit for other in others)
            for other in others:
                self.successors[other].append(number)
        # Tasks whose single predecessors have run, by the time their operands are there; entries may be out of date.
        self.ready: list[tuple[float, int]] = []
        self.entered = 0

    def run(self) -> list[int]:
        """The new order."""
        while self.head < len(self.tasks):
            self._enter()
            chosen = self._earlier_than(self.head) if self._waits(self.head) else None
            self._take(self.head if chosen is None else chosen)
        return self.order

    def _waits(self, number: int) -> bool:
        return self.streams.operands(number) > self.streams.streams_free(number) + PATIENCE_NS

    def _enter(self) -> None:
        """Offer the tasks that the window has reached."""
        while self.entered < min(len(self.tasks), self.head + self.window):
            if not self.missing[self.entered]:
                self._offer(self.entered)
            self.entered += 1

    def _offer(self, number: int) -> None:
        task = self.tasks[number]
        if not task.fixed and not self.ran[number]:
            heapq.heappush(self.ready, (self.streams.operands(number), number))

    def _earlier_than(self, head: int) -> int | None:
        """A task of the window that can start well before `head`, the earliest; None if there is none."""
        latest = self.streams.start(head) - PATIENCE_NS
        best: tuple[float, int] | None = None
        looked: list[tuple[float, int]] = []
        while self.ready and self.ready[0][0] <= latest:
            entry = heapq.heappop(self.ready)
            number = entry[1]
            if self.ran[number] or number == head:
                continue
            looked.append(entry)
            limit, _ = self.predecessors[number]
            fits = self.held + self._new_bytes(number) <= self.early_bytes
            start = self.streams.start(number)
            if limit <= head and fits and start <= latest and (best is None or (start, number) < best):
                best = (start, number)
            if len(looked) >= RECENT:
                break
        for entry in looked:
            heapq.heappush(self.ready, entry)
        return None if best is None else best[1]

    def _new_bytes(self, number: int) -> int:
        """Bytes of a partition in the buffers that no task before it has used."""
        return sum(size for buffer, size in self.tasks[number].row_bytes.items() if buffer not in self.begun)

    def _take(self, number: int) -> None:
        self.streams.run(number)
        self.ran[number] = True
        self.order.append(number)
        if number != self.head:
            self.early[number] = self._new_bytes(number)
            self.held += self.early[number]
        self.begun |= self.tasks[number].row_bytes.keys()
        for successor in self.successors[number]:
            self.missing[successor] -= 1
            if not self.missing[successor] and successor < self.entered:
                self._offer(successor)
        while self.head < len(self.tasks) and self.ran[self.head]:
            self.held -= self.early.pop(self.head, 0)
            self.head += 1
