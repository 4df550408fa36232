"""Which operators of a partitioned program had better run on the host although a core could run them: by time.

A pure algorithm on plain data. Operators and values are numbered, operators in an order in which producers come first;
each has an estimated time on either side, each value costs a fixed time when it crosses. `move_islands` looks at
islands: operators of one core segment that hang together. `total_ns` is the estimate that decides,
`drop_small_segments` applies the user's minimum size.

The core is preferred. An island goes to the host only under all of these rules:

1. Something runs on the host anyway, and the island is not the core's largest (by FLOPs).
2. All islands that move hold at most `MOVED_FLOPS` of the FLOPs that the core could run.
3. It takes at most `MOVED_TIME` of its time on the core, both with the transfers and launches that it causes.

Operators move from the core to the host and never back, in at most `ROUNDS` rounds, so that nothing goes to and fro;
and moves that would together lengthen the estimate are not made. The work is linear in operators and values, times the
logarithm of the number of islands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from passes.graph.segments import assign_segments

MOVED_FLOPS = 0.01
"""Share of the FLOPs that the core could run which may go to the host to save time."""

MOVED_TIME = 0.5
"""An island moves if it then takes at most this share of the time: estimates are not worth more."""

ROUNDS = 4


@dataclass(frozen=True)
class Value:
    """A tensor that operators pass on."""

    crossing_ns: float
    """From one side to the other. A value crosses at most once: whoever needs it there later finds it."""
    maker: int | None = None
    """The operator that makes it; None for an input of the program, which comes from the host."""
    is_returned: bool = False
    """The program returns it, to the host."""


@dataclass(frozen=True)
class TimedOperator:
    """An operator that may run on either side, unless it is `fixed`."""

    core_ns: float
    host_ns: float
    flops: int
    producers: Sequence[int]
    """Operators that must run before it, each once."""
    reads: Sequence[int]
    """Values, each once."""
    makes: Sequence[int]
    fixed: bool = False
    """It stays where it is."""


@dataclass(frozen=True)
class Program:
    """What is to be placed, and what starting a segment costs."""

    operators: Sequence[TimedOperator]
    values: Sequence[Value]
    core_launch_ns: float
    host_launch_ns: float


@dataclass(frozen=True)
class Move:
    """An island's estimated time on either side, with transfers and launches."""

    core_ns: float
    host_ns: float


def total_ns(program: Program, on_host: Sequence[bool]) -> float:
    """Estimated time of the program: operators one after the other, transfers, and the launch of every segment."""
    levels = assign_segments(on_host, [operator.producers for operator in program.operators])
    sides = dict(zip(levels, on_host, strict=True))
    launches = sum(program.host_launch_ns if host else program.core_launch_ns for host in sides.values())
    computing = sum(
        operator.host_ns if host else operator.core_ns
        for operator, host in zip(program.operators, on_host, strict=True)
    )
    readers = _readers(program, on_host)
    pairs = zip(program.values, readers, strict=True)
    crossing = sum(value.crossing_ns for value, count in pairs if _crosses(value, count, on_host))
    return launches + computing + crossing


def move_islands(program: Program, on_host: Sequence[bool]) -> dict[int, Move]:
    """The operators that had better run on the host beside those that are there, each with its island's estimate.

    `on_host` says who must: the others could run on a core. The estimate `total_ns` is never longer with these moves.
    """
    place = list(on_host)
    moved: dict[int, Move] = {}
    if not any(on_host):
        return moved
    budget = MOVED_FLOPS * sum(o.flops for o, host in zip(program.operators, on_host, strict=True) if not host)
    for _ in range(ROUNDS):
        chosen, used = _round(program, place, budget)
        if not chosen:
            break
        budget -= used
        moved |= chosen
        for number in chosen:
            place[number] = True
    return moved


def _round(program: Program, place: Sequence[bool], budget: float) -> tuple[dict[int, Move], float]:
    """Islands that move at once, and their FLOPs."""
    candidates = _profitable(program, place)
    fitting: list[tuple[Sequence[int], Move]] = []
    spent = [0.0]
    for members, move in candidates:
        flops = sum(program.operators[number].flops for number in members)
        if spent[-1] + flops <= budget:
            fitting.append((members, move))
            spent.append(spent[-1] + flops)
    # An island's saving is exact but for the launches, which depend on what else moves: the whole is estimated.
    best, shortest, count = 0, total_ns(program, place), len(fitting)
    while count:
        tried = list(place)
        for members, _ in fitting[:count]:
            for number in members:
                tried[number] = True
        if (time := total_ns(program, tried)) < shortest:
            best, shortest = count, time
        count //= 2
    chosen = {number: move for members, move in fitting[:best] for number in members}
    return chosen, spent[best]


def _profitable(program: Program, place: Sequence[bool]) -> list[tuple[Sequence[int], Move]]:
    """Islands that rules 1 and 3 let go, the largest saving first."""
    levels = assign_segments(place, [operator.producers for operator in program.operators])
    islands = _islands(program, place, levels)
    if len(islands) < 2:
        return []
    largest = max(islands, key=lambda members: _weight(program, members))
    in_segment: dict[int, int] = {}
    for members in islands:
        level = levels[members[0]]
        in_segment[level] = in_segment.get(level, 0) + 1
    last = max(levels)
    readers = _readers(program, place)
    found: list[tuple[Sequence[int], Move]] = []
    for members in islands:
        if members is largest or any(program.operators[number].fixed for number in members):
            continue
        level = levels[members[0]]
        # The host segments before and behind the island's become one, once all of its islands have gone.
        merged = program.host_launch_ns if 0 < level < last else 0.0
        launch = (program.core_launch_ns + merged) / in_segment[level]
        move = _estimate(program, members, readers, place, launch)
        if move.host_ns <= MOVED_TIME * move.core_ns:
            found.append((members, move))
    found.sort(key=lambda entry: (entry[1].host_ns - entry[1].core_ns, entry[0][0]))
    return found


def _weight(program: Program, members: Sequence[int]) -> tuple[int, float]:
    chosen = [program.operators[number] for number in members]
    return sum(operator.flops for operator in chosen), sum(operator.core_ns for operator in chosen)


def _estimate(
    program: Program, members: Sequence[int], readers: Sequence[_Readers], place: Sequence[bool], launch_ns: float
) -> Move:
    """An island's time as it is, and on the host."""
    operators = [program.operators[number] for number in members]
    core = launch_ns + sum(operator.core_ns for operator in operators)
    host = sum(operator.host_ns for operator in operators)
    inside = set(members)
    reading: dict[int, int] = {}
    for operator in operators:
        for value in operator.reads:
            reading[value] = reading.get(value, 0) + 1
    for number in dict.fromkeys([*reading, *(value for operator in operators for value in operator.makes)]):
        value, count = program.values[number], readers[number]
        after = _Readers(count.core - reading.get(number, 0), count.host + reading.get(number, 0))
        core += value.crossing_ns if _crosses(value, count, place) else 0.0
        crosses = after.core > 0 if value.maker in inside else _crosses(value, after, place)
        host += value.crossing_ns if crosses else 0.0
    return Move(core, host)


@dataclass
class _Readers:
    """How many operators of either side read a value."""

    core: int = 0
    host: int = 0


def _readers(program: Program, on_host: Sequence[bool]) -> list[_Readers]:
    readers = [_Readers() for _ in program.values]
    for operator, host in zip(program.operators, on_host, strict=True):
        for value in operator.reads:
            if host:
                readers[value].host += 1
            else:
                readers[value].core += 1
    return readers


def _crosses(value: Value, readers: _Readers, on_host: Sequence[bool]) -> bool:
    """Whether somebody on the other side needs a value."""
    if value.maker is None or on_host[value.maker]:
        return readers.core > 0
    return readers.host > 0 or value.is_returned


def _islands(program: Program, on_host: Sequence[bool], levels: Sequence[int]) -> list[list[int]]:
    """Operators on the core that hang together within their segment, in order of their first one."""
    root = list(range(len(program.operators)))

    def find(number: int) -> int:
        while root[number] != number:
            root[number] = root[root[number]]
            number = root[number]
        return number

    for number, operator in enumerate(program.operators):
        for producer in operator.producers:
            if not on_host[number] and levels[producer] == levels[number]:
                first, second = sorted((find(producer), find(number)))
                root[second] = first
    islands: dict[int, list[int]] = {}
    for number, host in enumerate(on_host):
        if not host:
            islands.setdefault(find(number), []).append(number)
    return list(islands.values())


def drop_small_segments(
    on_host: Sequence[bool], producers: Sequence[Sequence[int]], minimum: int, pinned: Sequence[bool]
) -> tuple[list[bool], list[int]]:
    """Who runs on the host and in which segment, when a core segment needs `minimum` operators or a pinned one.

    Segments are made one after the other, as large as their side allows; operators of a core segment that is too small
    run on the host with what is ready there. Either side may begin: what leaves more on the core, in fewer segments.
    """
    users: list[list[int]] = [[] for _ in producers]
    for number, needed in enumerate(producers):
        for producer in needed:
            users[producer].append(number)
    plans = [_segments_of_size(on_host, producers, users, minimum, pinned, begins) for begins in (True, False)]
    return min(plans, key=lambda plan: (sum(plan[0]), len(set(plan[1]))))


def _segments_of_size(
    on_host: Sequence[bool],
    producers: Sequence[Sequence[int]],
    users: Sequence[Sequence[int]],
    minimum: int,
    pinned: Sequence[bool],
    host_begins: bool,
) -> tuple[list[bool], list[int]]:
    waiting = [len(needed) for needed in producers]
    place = list(on_host)
    levels = [0] * len(place)
    ready: dict[bool, list[int]] = {True: [], False: []}
    for number, count in enumerate(waiting):
        if not count:
            ready[place[number]].append(number)
    level, side = 0, host_begins
    while ready[True] or ready[False]:
        segment, released = _run(ready[side], place, waiting, users)
        if side or not segment or len(segment) >= minimum or any(pinned[number] for number in segment):
            ready[side] = []
            ready[not side] += released
            for number in segment:
                levels[number] = level
            level, side = level + 1, not side
            continue
        # Taken back: the host runs these in its segment before this one, or in the first of all.
        for number in segment:
            place[number] = True
            for user in users[number]:
                waiting[user] += 1
        ready[True] += ready[False]
        ready[False] = []
        level, side = max(level - 1, 0), True
    order = {level: position for position, level in enumerate(sorted(set(levels)))}
    return place, [order[level] for level in levels]


def _run(
    begin: Sequence[int], place: Sequence[bool], waiting: list[int], users: Sequence[Sequence[int]]
) -> tuple[list[int], list[int]]:
    """Everything that one side can run beginning with some operators, and what the other side can run then."""
    segment, released = list(begin), list[int]()
    for number in segment:
        for user in users[number]:
            waiting[user] -= 1
            if not waiting[user]:
                (segment if place[user] == place[number] else released).append(user)
    return segment, released
