"""Decides how the buffers of one memory fit into it, as a pure algorithm: copies, addresses, or what has to be spilled.

Given the live ranges of buffers over the top-level statements of a program, `plan_memory` has them placed
(`placement_ladder`). Where nothing fits, it takes copies away from rotating buffers, those with the most copies first;
when that is not enough it names buffers that lie idle where memory is short, those that free the most memory for what
their stores and reloads cost. Spilling them changes the program, so the caller does that and plans again.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from passes.nisa.allocation import Integers, Interval, Placement, load_profile, place_spread
from passes.nisa.placement_ladder import DEFAULT_RUNG, climb, place


@dataclass(frozen=True)
class LiveBuffer:
    """A buffer over the positions of a program's top-level statements.

    `units`: size of one copy (bytes of a partition, or banks); `uses`: positions that access it, ascending, without
    gaps for a buffer of a loop nest (there is one). `movable`: it may be spilled to DRAM between its uses. `lead`: how
    many positions before its first use its memory should be free already, so that a transfer can run ahead.
    `spill_cost`: of the stores and reloads when it is spilled, in any unit, the same for all buffers.
    """

    key: int
    units: int
    copies: int
    uses: tuple[int, ...]
    movable: bool = False
    lead: int = 0
    spill_cost: float = 1.0

    @property
    def start(self) -> int:
        """The position from which its memory is taken."""
        return max(0, self.uses[0] - self.lead)

    @property
    def idle_gaps(self) -> list[tuple[int, int]]:
        """Pairs of consecutive uses (before, after) with at least one position between them."""
        return [(a, b) for a, b in zip(self.uses, self.uses[1:], strict=False) if b > a + 1]


@dataclass(frozen=True)
class MemoryPlan:
    """What became of the buffers of one memory.

    `copies` by key; `placement` when everything fits; otherwise `victims`, the keys to spill, or neither: then
    `shortage` is (position, units needed there) and nothing more can be done. `live_units`: the most that is live at
    once. `prefetch_share`: the part of the memory that transfers which run ahead may fill, None where none do.
    """

    copies: Mapping[int, int]
    placement: Placement | None = None
    victims: tuple[int, ...] = ()
    shortage: tuple[int, int] = (0, 0)
    live_units: int = 0
    prefetch_share: float | None = None

    @property
    def needed(self) -> int:
        """Units that the tightest placement found needs."""
        return 0 if self.placement is None else self.placement.needed


@dataclass
class _Planner:
    buffers: Sequence[LiveBuffer]
    capacity: int
    copies: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.copies = {buffer.key: buffer.copies for buffer in self.buffers}

    def intervals(self) -> list[Interval]:
        return [Interval(b.key, b.start, b.uses[-1], b.units * self.copies[b.key]) for b in self.buffers]

    def rotating(self, first: int, last: int) -> list[LiveBuffer]:
        """Buffers with copies to give away that are live between two positions."""
        return [b for b in self.buffers if self.copies[b.key] > 1 and b.uses[0] <= last and b.uses[-1] >= first]

    def take_copy(self, buffers: Sequence[LiveBuffer]) -> None:
        """Take one copy from the buffer that has most of them, the largest of equals, if any has more than one."""
        victim = max(buffers, key=lambda b: (self.copies[b.key], b.units, -b.key), default=None)
        if victim is not None and self.copies[victim.key] > 1:
            self.copies[victim.key] -= 1

    def reduce_copies(self) -> None:
        """Take copies away wherever more is live than fits, as long as that helps."""
        profile = load_profile(self.intervals())
        by_position: dict[int, list[tuple[int, int, int]]] = {}
        for index, buffer in enumerate(self.buffers):
            if buffer.copies > 1:
                for position in range(buffer.uses[0], buffer.uses[-1] + 1):
                    by_position.setdefault(position, []).append((-buffer.copies, -buffer.units, index))
        for position, heap in sorted(by_position.items()):
            heapq.heapify(heap)
            while profile[position] > self.capacity and heap:
                recorded, units, index = heapq.heappop(heap)
                buffer = self.buffers[index]
                if self.copies[buffer.key] == -recorded:
                    self.copies[buffer.key] -= 1
                    for p in range(buffer.uses[0], buffer.uses[-1] + 1):
                        profile[p] -= buffer.units
                if self.copies[buffer.key] > 1:
                    heapq.heappush(heap, (-self.copies[buffer.key], units, index))

    def victims(self, profile: list[int]) -> tuple[list[LiveBuffer], int | None]:
        """Buffers to spill so that no position is over capacity, and the first position where that does not help."""
        chosen: dict[int, LiveBuffer] = {}
        short = [p for p, load in enumerate(profile) if load > self.capacity]
        for position in short:
            here = [b for b in self.idle(position, position) if b.key not in chosen]
            while profile[position] > self.capacity:
                # Each spill changes how much is missing elsewhere, and so what the others would gain.
                victim = max(here, key=lambda b: (self.gain(b, profile, short) / b.spill_cost, -b.key), default=None)
                if victim is None:
                    return list(chosen.values()), position
                here.remove(victim)
                chosen[victim.key] = victim
                for before, after in victim.idle_gaps:
                    for p in range(before + 1, after):
                        profile[p] -= victim.units
        return list(chosen.values()), None

    def gain(self, buffer: LiveBuffer, profile: Sequence[int], short: Sequence[int]) -> int:
        """Units times positions that spilling a buffer frees where memory is short, and no more than is missing."""
        gained = 0
        for before, after in buffer.idle_gaps:
            for p in short[bisect_right(short, before) : bisect_left(short, after)]:
                gained += min(buffer.units, max(0, profile[p] - self.capacity))
        return gained

    def idle(self, first: int, last: int) -> list[LiveBuffer]:
        """Movable buffers that lie idle at one of the positions, those first that free the most for what they cost."""
        idle: list[tuple[float, int, LiveBuffer]] = []
        for buffer in self.buffers:
            gaps = [b - a for a, b in buffer.idle_gaps if a < last and b > first] if buffer.movable else []
            if gaps:
                idle.append((-buffer.units * max(gaps) / buffer.spill_cost, buffer.key, buffer))
        return [buffer for *_, buffer in sorted(idle, key=lambda item: item[:2])]


def plan_memory(buffers: Sequence[LiveBuffer], capacity: int, highest: str = DEFAULT_RUNG) -> MemoryPlan:
    """Copies and addresses for all buffers, or who must be spilled; see `MemoryPlan`.

    `highest`: the last rung of `placement_ladder` that is climbed before anything is given up.
    """
    planner = _Planner(buffers, capacity)
    planner.reduce_copies()
    by_key = {buffer.key: buffer for buffer in buffers}
    while True:
        profile = load_profile(planner.intervals())
        live = max(profile, default=0)
        if live > capacity:
            victims, stuck = planner.victims(list(profile))
            position = profile.index(live) if stuck is None else stuck
            keys = tuple(b.key for b in victims) if stuck is None else ()
            return MemoryPlan(planner.copies, None, keys, (position, profile[position]), live)
        placement = place(planner.intervals(), capacity, highest)
        if not placement.misfits:
            return MemoryPlan(planner.copies, placement, live_units=live)
        # There is enough memory, but in pieces: relieve the positions where something did not find a place.
        misfits = [by_key[key] for key in placement.misfits]
        crowded = [planner.rotating(b.uses[0], b.uses[-1]) for b in misfits]
        if not any(crowded):
            idle = [b.key for misfit in misfits for b in planner.idle(misfit.uses[0], misfit.uses[-1])[:1]]
            shortage = (misfits[0].uses[0], placement.needed)
            return MemoryPlan(planner.copies, None, tuple(dict.fromkeys(idle)), shortage, live)
        for rotating in crowded:
            planner.take_copy(rotating)


LONGEST_LEAD = 256
"""How many positions ahead of its first use a transfer may run at most."""

NEIGHBOURS = 1
"""The same for a buffer that engines write: a statement runs beside the one before it, on other engines, as far as it
finds its operands; not if it writes where that one reads."""

PREFETCH_SHARES = (0.95, 0.9, 0.85, 0.75, 0.6, 0.4)
"""Parts of a memory that running ahead may fill, tried in this order: spare memory in pieces serves nobody."""

NOTICEABLE = 1.003
"""Costs are told apart from this factor on."""

NEVER = 2**62
"""A position behind all others."""

Judge = Callable[[Sequence[LiveBuffer], Mapping[int, int], Mapping[int, int]], float]
"""What a placement costs, given buffers, copies and offsets by key; less is better."""


def plan_with_prefetch(
    buffers: Sequence[LiveBuffer],
    capacity: int,
    loaded: Collection[int],
    highest: str = DEFAULT_RUNG,
    judge: Judge | None = None,
    least_cost: float = 0.0,
) -> MemoryPlan:
    """`plan_memory`, with the memory of the `loaded` buffers free as early as there is room for.

    A transfer into a buffer starts when the last reader of what lay there before is done. Spare memory is best spent on
    letting transfers of later kernels (their weights) run during earlier ones; copies and spills are as without.
    Transfers start in program order, so that those of earlier kernels get room first. What is left lets engines write
    while others still read what the statement before it reads. How much of the memory all that may fill is decided by
    `judge`, which has `least_cost` as its lower bound; without one, it is as much as can be placed.
    """
    base = plan_memory(buffers, capacity, highest)
    if base.placement is None or not loaded:
        return base
    units = {b.key: b.units * base.copies[b.key] for b in buffers}
    profile = load_profile([Interval(b.key, b.start, b.uses[-1], units[b.key]) for b in buffers])
    best: MemoryPlan | None = None
    least = 0.0
    for share, placement in _early_placements(
        buffers, units, profile, capacity, loaded, highest, base.placement.offsets
    ):
        cost = 0.0 if judge is None else judge(buffers, base.copies, placement.offsets)
        if best is None or cost * NOTICEABLE < least:
            tight = replace(placement, needed=base.placement.needed)
            best, least = replace(base, placement=tight, prefetch_share=share), cost
        if least <= least_cost * NOTICEABLE:
            break
    return best or base


def _early_placements(
    buffers: Sequence[LiveBuffer],
    units: Mapping[int, int],
    profile: Sequence[int],
    capacity: int,
    loaded: Collection[int],
    highest: str,
    base: Mapping[int, int],
) -> Iterator[tuple[float | None, Placement]]:
    """(share of the memory that running ahead may fill, placement), the most promising first.

    `base`: offsets by key that work; None is for what is made from these.
    """
    held = {b.key: Interval(b.key, b.start, b.uses[-1], units[b.key]) for b in buffers}

    def intervals(share: float, apart: bool) -> list[Interval]:
        room = int(capacity * share)
        leads = prefetch_leads([b for b in buffers if b.key in loaded], units, profile, room)
        if apart:
            others = [b for b in buffers if b.key not in loaded]
            leads |= prefetch_leads(others, units, with_leads(profile, buffers, units, leads), room, NEIGHBOURS)
        early = [replace(b, lead=leads.get(b.key, 0)) for b in buffers]
        return [Interval(b.key, b.start, b.uses[-1], units[b.key]) for b in early]

    def moved(intervals: Mapping[int, Interval], offsets: Mapping[int, int]) -> Placement:
        return Placement(run_ahead(intervals, offsets, [b.key for b in buffers if b.key in loaded], capacity), 0)

    # What lies close together takes the place of what was used just before: a spread placement, however little runs
    # ahead in it, or else any. Where not all transfers can run ahead as far as there is room, each does as it can.
    any_spread = False
    for share, apart in product(PREFETCH_SHARES, (True, False)):
        early = intervals(share, apart)
        spread = place_spread(early, capacity)
        if spread is None:
            continue
        yield share, Placement(spread, 0)
        if share < PREFETCH_SHARES[0] and not any_spread:
            kept = {interval.key: interval for interval in early if interval.key not in loaded}
            yield share, moved(held | kept, spread)
        any_spread = True
    if not any_spread:
        yield None, moved(held, base)
    # Running ahead is worth a search, not more.
    rung = "greedy" if highest == "greedy" else DEFAULT_RUNG
    for share in PREFETCH_SHARES:
        placement = climb(intervals(share, apart=False), capacity, rung, tightest=False)
        if not placement.misfits:
            yield share, placement


def run_ahead(
    intervals: Mapping[int, Interval], offsets: Mapping[int, int], loaded: Sequence[int], capacity: int
) -> dict[int, int]:
    """Other offsets for the `loaded` intervals, one after the other: there where memory is free for longest before.

    An interval stays where it is if no place is free for longer. All others stay anyway: what fitted still does.
    """
    chosen, starts = dict(offsets), {key: interval.start for key, interval in intervals.items()}
    # Who could lie beside an interval that begins up to LONGEST_LEAD positions earlier, by blocks of positions.
    blocks = defaultdict[int, list[Interval]](list)
    for interval in intervals.values():
        for block in range(max(0, interval.start - LONGEST_LEAD) // LONGEST_LEAD, interval.end // LONGEST_LEAD + 1):
            blocks[block].append(interval)
    for key in sorted(loaded, key=lambda key: (intervals[key].start, key)):
        own = intervals[key]
        earliest = max(0, own.start - LONGEST_LEAD)
        span = range(earliest // LONGEST_LEAD, own.end // LONGEST_LEAD + 1)
        near = {other.key: other for block in span for other in blocks[block] if other.key != key}
        spans = [
            (starts[i.key], i.end, chosen[i.key], chosen[i.key] + i.size)
            for i in near.values()
            if starts[i.key] <= own.end and i.end >= earliest
        ]
        others = np.array(spans, np.int64).reshape(-1, 4).T
        lows = np.unique(np.append(others[3], [0, chosen[key]]))
        lows = lows[lows + own.size <= capacity]
        free_from = _free_from(lows, own, others, earliest)
        best = min(
            ((start, low != chosen[key], low) for start, low in zip(free_from.tolist(), lows.tolist(), strict=True)),
            default=(own.start, True, chosen[key]),
        )
        best = min(best, (own.start, True, chosen[key]))
        starts[key], _, chosen[key] = best
    return chosen


def _free_from(lows: Integers, own: Interval, others: Integers, earliest: int) -> Integers:
    """The position from which memory is free for an interval at each of these offsets; `NEVER` where it is taken.

    `others`: rows of first and last positions, offsets and ends of all that live from `earliest` on.
    """
    starts, ends, firsts, lasts = others
    beside = (firsts < lows[:, None] + own.size) & (lows[:, None] < lasts)
    before = ends < own.start
    taken = (beside & ~before & (starts <= own.end)).any(axis=1)
    freed = np.where(beside & before, ends + 1, earliest).max(axis=1, initial=earliest)
    return np.where(taken, NEVER, freed)


def with_leads(
    profile: Sequence[int], buffers: Sequence[LiveBuffer], units: Mapping[int, int], leads: Mapping[int, int]
) -> list[int]:
    """Units that are live at each position once the memory of `buffers` is taken so much earlier."""
    filled = np.array(profile, np.int64)
    for buffer in buffers:
        first = buffer.uses[0]
        filled[max(0, first - leads.get(buffer.key, 0)) : first] += units[buffer.key]
    return filled.tolist()


def prefetch_leads(
    loaded: Sequence[LiveBuffer],
    units: Mapping[int, int],
    profile: Sequence[int],
    capacity: int,
    longest: int = LONGEST_LEAD,
) -> dict[int, int]:
    """By key how many positions ahead, up to `longest`, each buffer's memory can be taken.

    `profile` is what is live without that.
    """
    filled, leads = np.array(profile, np.int64), dict[int, int]()
    for buffer in sorted(loaded, key=lambda b: (b.uses[0], b.key)):
        first, size = buffer.uses[0], units[buffer.key]
        start = max(0, first - longest)
        (full,) = np.nonzero(filled[start:first] > capacity - size)
        start += int(full[-1]) + 1 if len(full) else 0
        filled[start:first] += size
        leads[buffer.key] = first - start
    return leads
