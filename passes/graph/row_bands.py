"""Bands of rows through layers that follow each other: which rows each layer makes, what fits on chip, which layers to
run band by band; plain arithmetic.

Given layers in program order, each with the rows of its operands that a row of its result is made of, `rows_of_bands`
says which rows of every feature map one band of the last ones needs: halos grow towards the inputs, and rows in them
are made twice. `plan_bands` cuts the layers into runs. A run is made part by part, some images and some rows at a time,
so that what is between its layers stays on chip; what crosses from run to run goes through DRAM. Inside of a run the
engines and the DMA overlap, for the most part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from typing import NamedTuple

LONGEST_RUN = 8
"""Most layers that are run band by band together: halos grow with each."""

MOST_PARTS = 16
"""Most parts of a run: each is a copy of the code."""

HIDDEN_SHARE = 0.5
"""How much of the time of the engines or of the DMA, whichever takes less, the other one hides."""

LANES = 128


class Rows(NamedTuple):
    """Rows from `first` to `end` - 1."""

    first: int
    end: int


@dataclass(frozen=True)
class RowWindow:
    """Row o of a result is made of rows o * stride - pad and the `reach` - 1 that follow; or, where each row of the
    operand makes `up` rows of the result, of row o // up.
    """

    stride: int = 1
    reach: int = 1
    pad: int = 0
    up: int = 1

    def all_rows(self, made: Rows) -> Rows:
        """The rows that `made` rows are made of, those of the padding too."""
        if self.up > 1:
            return Rows(made.first // self.up, ceil(made.end / self.up))
        return Rows(made.first * self.stride - self.pad, (made.end - 1) * self.stride - self.pad + self.reach)

    def rows(self, made: Rows, size: int) -> Rows:
        """The rows, of `size` that there are, that `made` rows are made of."""
        first, end = self.all_rows(made)
        return Rows(max(0, first), min(size, end))

    def padding(self, made: Rows, size: int) -> tuple[int, int]:
        """Rows of padding above and below those."""
        first, end = self.all_rows(made)
        return max(0, -first), max(0, end - size)


@dataclass(frozen=True)
class FeatureMap:
    """`images` of `channels` x `rows` x `columns`; `halo_rows` and `halo_columns` of zeros around it in all.

    `folds`: how many images may lie beside each other on the partitions. `passing`: it takes no room on chip, for it is
    part of the loads of what reads it, or a few rows of it are there at a time.
    """

    images: int
    channels: int
    rows: int
    columns: int
    element_bytes: int
    halo_rows: int = 0
    halo_columns: int = 0
    folds: tuple[int, ...] = (1,)
    passing: bool = False

    @property
    def bytes(self) -> int:
        """Bytes in DRAM."""
        return self.images * self.channels * self.rows * self.columns * self.element_bytes

    def chip_bytes(self, images: int, rows: int) -> int:
        """Bytes of each partition that so many images and rows take, folded as it takes least."""
        if self.passing:
            return 0
        plane = (rows + self.halo_rows) * (self.columns + self.halo_columns) * self.element_bytes
        return plane * min(
            ceil(self.channels * fold / LANES) * (images // fold) for fold in self.folds if images % fold == 0
        )


@dataclass(frozen=True)
class Layer:
    """A kernel that makes the rows of its `results` of rows of the maps that it `reads` (numbers of maps).

    `engine_ns`: how long the busiest engine works for the whole, by how many images it takes at a time;
    `weight_bytes`: what is loaded for every part besides.
    """

    results: tuple[int, ...]
    reads: tuple[tuple[int, RowWindow], ...]
    engine_ns: Mapping[int, float]
    weight_bytes: int = 0


@dataclass(frozen=True)
class Run:
    """Layers `first` to `end` - 1, for `images` images and one of `bands` equal bands of rows at a time."""

    first: int
    end: int
    images: int
    bands: int


@dataclass(frozen=True)
class Machine:
    """What a plan reckons with: bytes of a partition for feature maps, bytes that the DMA moves in a nanosecond, and
    nanoseconds that a kernel takes to begin and to end.
    """

    capacity: int
    bytes_per_ns: float
    start_ns: float


@dataclass
class Chain:
    """Layers in program order, with the maps that they read and make; `outside`: maps that others read as well."""

    layers: Sequence[Layer]
    maps: Mapping[int, FeatureMap]
    outside: frozenset[int]
    last_reader: dict[int, int] = field(init=False)
    maker: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.last_reader = {number: i for i, layer in enumerate(self.layers) for number, _ in layer.reads}
        self.maker = {number: i for i, layer in enumerate(self.layers) for number in layer.results}

    def leaves(self, number: int, end: int) -> bool:
        """Whether somebody behind layer `end` - 1 reads a map."""
        return number in self.outside or self.last_reader.get(number, -1) >= end


def rows_of_bands(chain: Chain, first: int, end: int, bands: int) -> list[dict[int, Rows]] | None:
    """For each of `bands` equal bands the rows of every map that layers `first` to `end` - 1 make or read.

    None where there are no such bands: rows do not divide, a band would be made of padding alone, two readers want
    other rows, or a map that is read behind these layers would be made twice in part.
    """
    layers = chain.layers[first:end]
    leaving = [number for layer in layers for number in layer.results if chain.leaves(number, end)]
    leaving = leaving or list(layers[-1].results)
    if any(chain.maps[number].rows % bands for number in leaving):
        return None
    found: list[dict[int, Rows]] = []
    for band in range(bands):
        exact: dict[int, Rows] = {}
        for number in leaving:
            size = chain.maps[number].rows // bands
            exact[number] = Rows(band * size, (band + 1) * size)
        rows = dict(exact)
        for layer in reversed(layers):
            made = [rows[number] for number in layer.results if number in rows]
            if not made or any(other != made[0] for other in made):
                return None
            rows.update(dict.fromkeys(layer.results, made[0]))
            for number, window in layer.reads:
                if window.up > 1 and (made[0].first % window.up or made[0].end % window.up):
                    return None
                needed = window.rows(made[0], chain.maps[number].rows)
                if needed.first >= needed.end or rows.setdefault(number, needed) != needed:
                    return None
        if any(rows[number] != range_ for number, range_ in exact.items()):
            return None
        found.append(rows)
    return found


def live_bytes(chain: Chain, run: Run, rows: Sequence[Mapping[int, Rows]]) -> int:
    """The most bytes of a partition that the maps of one part of a run take at once."""
    live = [0] * (run.end - run.first)
    for i in range(run.first, run.end):
        for number in chain.layers[i].results:
            last = min(chain.last_reader.get(number, i), run.end - 1)
            size = max(band[number].end - band[number].first for band in rows)
            taken = chain.maps[number].chip_bytes(run.images, size)
            for at in range(i, max(i, last) + 1):
                live[at - run.first] += taken
    return max(live)


def run_ns(chain: Chain, run: Run, rows: Sequence[Mapping[int, Rows]], machine: Machine) -> float:
    """Estimated time of a run."""
    engines, moved = 0.0, 0.0

    def share(number: int) -> float:
        return sum(band[number].end - band[number].first for band in rows) / chain.maps[number].rows

    images = next(iter(chain.maps.values())).images
    parts = images // run.images * run.bands
    for layer in chain.layers[run.first : run.end]:
        engines += layer.engine_ns[run.images] * max(share(number) for number in layer.results)
        moved += layer.weight_bytes * parts
        for number in layer.results:
            if chain.leaves(number, run.end):
                moved += chain.maps[number].bytes
        for number, _ in layer.reads:
            if not run.first <= chain.maker.get(number, -1) < run.end:
                moved += chain.maps[number].bytes * share(number)
    shorter, longer = sorted((engines, moved / machine.bytes_per_ns))
    return longer + (1 - HIDDEN_SHARE) * shorter + parts * (run.end - run.first) * machine.start_ns


def best_run(chain: Chain, first: int, end: int, machine: Machine) -> tuple[float, Run] | None:
    """The fastest way to run layers `first` to `end` - 1 part by part that fits on chip, with its time."""
    images = next(iter(chain.maps.values())).images
    best: tuple[float, Run] | None = None
    for bands in range(1, MOST_PARTS + 1):
        rows = rows_of_bands(chain, first, end, bands)
        if rows is None:
            if bands == 1:
                return None
            continue
        for groups in range(1, MOST_PARTS // bands + 1):
            if images % groups:
                continue
            run = Run(first, end, images // groups, bands)
            if end - first > 1 and live_bytes(chain, run, rows) > machine.capacity:
                continue
            time = run_ns(chain, run, rows, machine)
            if best is None or time < best[0]:
                best = (time, run)
            break
    return best


def plan_bands(chain: Chain, machine: Machine) -> list[Run]:
    """The runs of more than one part that all layers are best cut into."""
    count = len(chain.layers)
    images = next(iter(chain.maps.values())).images
    cost, choice = [0.0] + [inf] * count, [Run(0, 0, 0, 0)] * (count + 1)
    for end in range(1, count + 1):
        for first in range(end - 1, max(-1, end - 1 - LONGEST_RUN), -1):
            found = best_run(chain, first, end, machine)
            if found is not None and cost[first] + found[0] < cost[end]:
                cost[end], choice[end] = cost[first] + found[0], found[1]
    runs: list[Run] = []
    end = count
    while end > 0:
        run = choice[end]
        if run.bands > 1 or run.images < images:
            runs.append(run)
        end = run.first
    return runs[::-1]
