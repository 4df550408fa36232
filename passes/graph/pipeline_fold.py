"""Cutting a chain into a folded pipeline, whose cores may hold two stages each: pure algorithms on numbered nodes.

Early layers of a convolutional network have the work, late ones the weights. With neighbouring operators on a core no
cut is even where cores are full of weights; a core that holds a stage from each end of the chain has some of both. The
chain goes through the cores and back: core 0 has its first and its last stage, core 1 the second and the last but one,
and the last core the middle. Any core may do without its later stage, so that a pipeline with one stage for each core
is a special case, which `Cuts` prefers unless folding is worth its transfers.

Given a `Chain` and `Costs`, `Cuts` gives a `Cut` for a number of cores. Times in ns, sizes on chip in bytes of a
partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from passes.graph.pipeline_cut import INFINITE, Chain, Costs, Cutter, Misfit, Stage, misfit

UNREACHED = -1
FOLD_GAIN = 0.97
"""A folded pipeline is taken when its slowest core takes less than this part of the time of the best plain one."""

PRECISION = 1.02
"""The bound on a folded pipeline's slowest core is found up to this factor."""

MOST_PLACES = 192
"""Places to cut a folded pipeline at, in all."""

PLACES_OF_A_CORE = 8
"""Or so many for each core, where that is more."""

MISFIT_PRECISION_BYTES = 256
"""How exactly the bytes that are missing are told."""

ENDLESS_NS = float(np.finfo(np.float64).max)
"""A bound that every stage keeps that fits; what does not fit takes infinitely long."""


@dataclass(frozen=True)
class Cut:
    """Stages in the order of the chain, and for each the core that it runs on. Cores are numbered from 0."""

    stages: tuple[Stage, ...]
    core_of: tuple[int, ...]

    @staticmethod
    def plain(stages: Sequence[Stage]) -> Cut:
        """Each stage on a core of its own."""
        return Cut(tuple(stages), tuple(range(len(stages))))

    @property
    def cores(self) -> int:
        """How many cores there are."""
        return max(self.core_of) + 1

    def on_core(self, core: int) -> list[Stage]:
        """The stages of a core, the earlier one first."""
        return [stage for stage, own in zip(self.stages, self.core_of, strict=True) if own == core]

    def pinned_bytes(self, core: int) -> int:
        """Bytes of a core's weights: those of all its stages stay on chip."""
        return sum(stage.pinned_bytes for stage in self.on_core(core))

    def needed_bytes(self, core: int) -> int:
        """Bytes that a core needs: its stages use the same room for everything but weights, one after the other."""
        return self.pinned_bytes(core) + max(stage.working_bytes for stage in self.on_core(core))

    @property
    def slowest_ns(self) -> float:
        """Time of the slowest core for one request."""
        totals = [0.0] * self.cores
        for stage, core in zip(self.stages, self.core_of, strict=True):
            totals[core] += stage.time_ns
        return max(totals)


@dataclass(frozen=True)
class _Layer:
    """What so many cores can hold.

    `suffix[p]`: the earliest place such that they hold all that lies before place p and all from there on, UNREACHED
    where they can hold no such thing. `before[p]`: the two places between which the last of these cores found the rest.
    """

    suffix: NDArray[np.int64]
    before: NDArray[np.int64]


class Folder:
    """Folded cuts of a chain, for up to `most` cores.

    For a bound on the time of a core, cores are filled one after the other, each from both ends of what is left. Of all
    ways to hold what lies before a place, the one that holds the most from the end is kept: exact where transfers are
    free, and close where they are not, for a smaller rest is nearly always the easier one. Cuts lie at places between
    atoms that are few enough for this (`MOST_PLACES`).
    """

    def __init__(self, cutter: Cutter, most: int) -> None:
        chain, self._capacity = cutter.chain, cutter.costs.capacity_bytes
        self._places = chosen_places(chain, max(MOST_PLACES, PLACES_OF_A_CORE * most))
        count = len(self._places)
        number = {place: index for index, place in enumerate(self._places)}
        self._stages: dict[tuple[int, int], Stage] = {}
        levels = len(cutter.costs.rooms)
        self._alone = np.full((count, count), INFINITE)
        self._pinned = np.zeros((count, count), np.int64)
        self._time = np.full((levels, count, count), INFINITE)
        self._working = np.zeros((levels, count, count), np.int64)
        np.fill_diagonal(self._alone, 0.0)
        self._time[:, range(count), range(count)] = 0.0
        for place in self._places:
            for stage in cutter.ending[place]:
                if stage.first in number:
                    at = number[stage.first], number[place]
                    self._stages[at] = stage
                    self._alone[at], self._pinned[at] = stage.time_ns, stage.pinned_bytes
                    for level, (time, working) in enumerate(stage.levels):
                        self._time[level, *at], self._working[level, *at] = time, working
        self._least_ns = sum(min(time for time, _ in atom.levels) for atom in chain.atoms)

    def fewest(self, most: int) -> int | None:
        """The least number of cores that hold the chain, None when `most` do not."""
        layer = self._empty()
        for cores in range(1, most + 1):
            if self._middle(layer, ENDLESS_NS) is not None:
                return cores
            layer = self._one_more(layer, ENDLESS_NS)
        return None

    def cut(self, cores: int, slowest_ns: float = ENDLESS_NS) -> Cut | None:
        """The cut into so many cores with the fastest slowest one.

        None where none is as fast as `slowest_ns`, and where fewer cores do as well and a plain cut exists.
        """
        best = self.within(cores, slowest_ns)
        low = self._least_ns / cores
        while best is not None and best.slowest_ns > low * PRECISION:
            middle = (max(low, 1.0) * best.slowest_ns) ** 0.5
            found = self.within(cores, middle)
            if found is None:
                low = middle
            else:
                best = found
        parted = None if best is None else unfolded(best, cores)
        return None if parted is None else in_their_room(parted, self._capacity)

    def within(self, cores: int, limit_ns: float) -> Cut | None:
        """A cut into so many cores, or fewer, none of which takes longer than `limit_ns`; None where none was found."""
        layers = [self._empty()]
        for _ in range(cores):
            middle = self._middle(layers[-1], limit_ns)
            if middle is not None:
                return self._traced(layers, middle)
            layers.append(self._one_more(layers[-1], limit_ns))
        return None

    def _empty(self) -> _Layer:
        """No core: all is left."""
        count = len(self._places)
        suffix = np.full(count, UNREACHED)
        suffix[0] = count - 1
        return _Layer(suffix, np.zeros((count, 2), np.int64))

    def _middle(self, layer: _Layer, limit_ns: float) -> int | None:
        """The place before which the cores hold all, so that one core more can hold all of the rest."""
        starts = np.flatnonzero(layer.suffix != UNREACHED)
        starts = starts[layer.suffix[starts] > starts]
        fitting = starts[self._alone[starts, layer.suffix[starts]] <= limit_ns]
        return int(fitting[0]) if len(fitting) else None

    def _one_more(self, layer: _Layer, limit_ns: float) -> _Layer:
        """What one core more can hold. It has a stage, from one end of what is left at least, and leaves something."""
        count = len(self._places)
        suffix, before = np.full(count, UNREACHED), np.zeros((count, 2), np.int64)
        for place in np.flatnonzero(layer.suffix != UNREACHED):
            end = layer.suffix[place]
            lasts = place + np.flatnonzero(self._alone[place, place:end] <= limit_ns)
            firsts = place + 1 + np.flatnonzero(self._alone[place + 1 : end + 1, end] <= limit_ns)
            room = self._capacity - self._pinned[place, lasts][:, None] - self._pinned[firsts, end]
            early = _fastest_ns(self._time[:, place, lasts][..., None], self._working[:, place, lasts][..., None], room)
            late = _fastest_ns(self._time[:, None, firsts, end], self._working[:, None, firsts, end], room)
            fits = (early + late <= limit_ns) & (lasts[:, None] < firsts)
            # The empty stages come first of the lasts and last of the firsts.
            fits[0, -1:] = False
            able = fits.any(axis=1)
            reached, earliest = lasts[able], firsts[fits.argmax(axis=1)[able]]
            better = (suffix[reached] == UNREACHED) | (earliest < suffix[reached])
            suffix[reached[better]] = earliest[better]
            before[reached[better]] = place, end
        return _Layer(suffix, before)

    def _traced(self, layers: Sequence[_Layer], middle: int) -> Cut:
        """The cut whose last core begins at place `middle`."""
        end = int(layers[-1].suffix[middle])
        last = len(layers) - 1
        early, late = [(self._stages[middle, end], last)], list[tuple[Stage, int]]()
        place = middle
        for core in range(last - 1, -1, -1):
            start, stop = (int(n) for n in layers[core + 1].before[place])
            if start < place:
                early.append((self._stages[start, place], core))
            if end < stop:
                late.append((self._stages[end, stop], core))
            place, end = start, stop
        stages = [*early[::-1], *late]
        return in_their_room(Cut(*(tuple(column) for column in zip(*stages, strict=True))), self._capacity)


def _fastest_ns(times: NDArray[np.float64], working: NDArray[np.int64], room: NDArray[np.int64]) -> NDArray[np.float64]:
    """The time of the fastest level (first dimension) that needs no more than `room`; infinite where none does."""
    return np.where(working <= room, times, INFINITE).min(axis=0)


def in_their_room(cut: Cut, capacity: int) -> Cut:
    """The cut with each stage at its fastest level in the room that its core's weights leave, where there is one."""
    stages = [
        stage.within(capacity - cut.pinned_bytes(core)) or stage
        for stage, core in zip(cut.stages, cut.core_of, strict=True)
    ]
    return Cut(tuple(stages), cut.core_of)


def unfolded(cut: Cut, cores: int) -> Cut | None:
    """The cut with stages of as many shared cores, the slowest first, on cores of their own as makes `cores`.

    None if too few cores have two stages; then there is a plain cut into so many.
    """
    shared = [core for core in range(cut.cores) if len(cut.on_core(core)) > 1]
    missing = cores - cut.cores
    if missing > len(shared):
        return None
    parted = sorted(shared, key=lambda core: -sum(stage.time_ns for stage in cut.on_core(core)))[:missing]
    owners: list[tuple[int, bool]] = []
    for core in cut.core_of:
        owners.append((core, core in parted and (core, False) in owners))
    numbers = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    return Cut(cut.stages, tuple(numbers[owner] for owner in owners))


def chosen_places(chain: Chain, most: int) -> list[int]:
    """At most about `most` places between atoms, the ends among them, with as much between one and the next.

    Half of it counts as work and half as weights. Places between operators are preferred to those inside of one.
    """
    atoms = chain.atoms
    if len(atoms) < most:
        return list(range(len(atoms) + 1))
    time = sum(atom.levels[0][0] for atom in atoms) or 1.0
    pinned = sum(atom.pinned_bytes for atom in atoms) or 1
    chosen: dict[int, int] = {}
    share = 0.0
    for place, atom in enumerate(atoms):
        bucket = int(share * (most - 1))
        if bucket not in chosen or (atom.piece == 0 and atoms[chosen[bucket]].piece):
            chosen[bucket] = place
        share += (atom.levels[0][0] / time + atom.pinned_bytes / pinned) / 2
    return sorted({0, *chosen.values(), len(atoms)})


class Cuts:
    """The best cuts of a chain for up to `most` cores: plain ones, or folded where these are worth it."""

    def __init__(self, chain: Chain, costs: Costs, most: int) -> None:
        self.plain = Cutter(chain, costs, most)
        self.most = most
        self._known: dict[int, Cut | None] = {}

    @cached_property
    def _folder(self) -> Folder:
        return Folder(self.plain, self.most)

    def cut(self, cores: int) -> Cut | None:
        """The cut into so many cores with the fastest slowest one, None where none fits."""
        if cores not in self._known:
            self._known[cores] = self._best(cores)
        return self._known[cores]

    def plain_cut(self, cores: int) -> Cut | None:
        """The best cut with a stage for each core, None where none fits."""
        stages = self.plain.stages(cores)
        return None if stages is None else Cut.plain(stages)

    def _best(self, cores: int) -> Cut | None:
        plain = self.plain_cut(cores)
        if plain is None:
            return self._folder.cut(cores) if 1 < cores <= len(self.plain.chain.atoms) else None
        folded = self._folder.cut(cores, plain.slowest_ns * FOLD_GAIN) if cores > 1 else None
        return plain if folded is None else folded

    def slowest_ns(self, cores: int) -> float:
        """Time of the slowest core of the best cut; infinite where none fits."""
        cut = self.cut(cores)
        return INFINITE if cut is None else cut.slowest_ns

    def misfit(self, cores: int) -> Misfit:
        """What is missing for a chain that cannot be cut for so many cores, folded or not.

        The bytes that are needed are found up to `MISFIT_PRECISION_BYTES`.
        """
        chain, costs = self.plain.chain, self.plain.costs
        plain = misfit(chain, costs, cores)
        low, high = costs.capacity_bytes, plain.needed_bytes
        while high - low > MISFIT_PRECISION_BYTES:
            middle = (low + high) // 2
            if Folder(Cutter(chain, replace(costs, capacity_bytes=middle), 1), cores).fewest(cores) is None:
                low = middle
            else:
                high = middle
        return replace(plain, needed_bytes=high)

    @cached_property
    def fewest(self) -> int | None:
        """The least number of cores that fit, None if not even the most allowed do."""
        plain = self.plain.fewest
        if plain == 1:
            return 1
        return self._folder.fewest(self.most if plain is None else plain)

    @property
    def best_per_core(self) -> int | None:
        """The number of cores with the most throughput per core, the least of equals, of those that are known: all
        without folding, and with it as few as fit.
        """
        if self.fewest is None:
            return None
        able = {cores: time for cores, time in enumerate(self.plain.slowest_ns) if cores and time < INFINITE}
        able[self.fewest] = self.slowest_ns(self.fewest)
        return min(sorted(able), key=lambda cores: able[cores] * cores)
