"""An order of kernels in which independent chains fill each other's waits.

A kernel may wait for transfers before it begins, and what reads its result may wait for transfers again. Given kernels
in program order with what they depend on, how long they keep the engines busy and how long these waits are,
`staggered` leaves an order for engines that take one kernel after the other: of the kernels that can begin first, the
first in program order. What is taken early keeps tensors on chip that the program order would not have yet, so that it
is only taken while there is room.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

WINDOW = 32
"""Kernels, in program order, that are looked at for the next place."""


@dataclass(frozen=True)
class Task:
    """A kernel: it waits `lead_ns` after the kernels `after` have ended, keeps the engines busy for `busy_ns`, and its
    result, of `result_bytes` of each partition, is there `lag_ns` later.

    A kernel with `constants` needs them in a place that all such kernels share: they are there if the kernel before had
    the same, else `setup_ns` after that kernel.
    """

    after: frozenset[int]
    busy_ns: float
    lead_ns: float = 0.0
    lag_ns: float = 0.0
    result_bytes: int = 0
    constants: Hashable = None
    setup_ns: float = 0.0


@dataclass
class _State:
    """What is scheduled so far; for each kernel `waiting`: how many it still waits for, `readers`: how many read it.

    `ready`: the kernels that wait for none, in program order.
    """

    tasks: Sequence[Task]
    waiting: list[int]
    readers: list[int]
    users: list[list[int]]
    can_begin: list[float]
    ready: list[int]
    now: float = 0.0
    held_bytes: int = 0
    constants: Hashable = None
    place_free_at: float = 0.0
    order: list[int] = field(default_factory=list[int])

    def begin_ns(self, number: int) -> float:
        """When a kernel would begin."""
        task, begin = self.tasks[number], max(self.now, self.can_begin[number])
        loads = task.constants is not None and task.constants != self.constants
        return max(begin, self.place_free_at + task.setup_ns) if loads else begin

    def rank(self, number: int) -> tuple[float, bool, int]:
        """First what can begin first; of kernels that can begin at once, one that reads what the last one made."""
        return self.begin_ns(number), self.order[-1:] != [] and self.order[-1] not in self.tasks[number].after, number

    def take(self, number: int) -> None:
        """Put one kernel at the end of the order."""
        task = self.tasks[number]
        self.now = self.begin_ns(number) + task.busy_ns
        if task.constants is not None:
            self.constants, self.place_free_at = task.constants, self.now
        self.order.append(number)
        del self.ready[bisect_left(self.ready, number)]
        self.held_bytes += task.result_bytes if self.readers[number] else 0
        for before in task.after:
            self.readers[before] -= 1
            self.held_bytes -= 0 if self.readers[before] else self.tasks[before].result_bytes
        for user in self.users[number]:
            begin = self.now + task.lag_ns + self.tasks[user].lead_ns
            self.can_begin[user] = max(self.can_begin[user], begin)
            self.waiting[user] -= 1
            if not self.waiting[user]:
                insort(self.ready, user)


def staggered(tasks: Sequence[Task], capacity_bytes: int) -> list[int]:
    """Numbers of the tasks in their new order; every task only depends on tasks before it."""
    users: list[list[int]] = [[] for _ in tasks]
    for number, task in enumerate(tasks):
        for before in task.after:
            users[before].append(number)
    waiting = [len(task.after) for task in tasks]
    ready = [number for number, count in enumerate(waiting) if not count]
    state = _State(tasks, waiting, [len(found) for found in users], users, [0.0] * len(tasks), ready)
    while state.ready:
        first, *others = state.ready[:WINDOW]
        room = capacity_bytes - state.held_bytes
        allowed = [first, *(number for number in others if tasks[number].result_bytes <= room)]
        state.take(min(allowed, key=state.rank))
    return state.order
