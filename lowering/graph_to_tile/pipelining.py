"""Emission order of work in stages: later units' first stages come before earlier units' last ones.

Engines execute what they are given in program order. Where a stage waits for what other engines make of the stage
before it, its engine would stand still, unless another unit's work was handed to it first. Units are numbered through
all iterations of a loop; step `u` of an iteration emits each stage of the unit that lies `ahead` of `u`:

    stages (load, 1), (compute, 0):    load 0;  for i: [load i + 1, compute i];  compute last
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from lowering.graph_to_tile.builder import KernelBuilder
from lowering.graph_to_tile.view import View
from neuron_dialects.access import Affine

Unit = tuple[Affine, int]
"""(iteration, number within the iteration)"""


@dataclass(frozen=True)
class Stage:
    """Part of a unit's work, emitted `ahead` units before the step that the unit is named after.

    With `begins` False, whoever pipelines has emitted the stage already for the units that come before the first step.
    """

    emit: Callable[[Unit], None]
    ahead: int
    begins: bool = True


def pipelined(b: KernelBuilder, trips: int, units: int, stages: Sequence[Stage], deep: bool = False) -> None:
    """All stages of units `0 .. units - 1` of iterations `0 .. trips - 1`; `stages` in the order of a step.

    Iterations overlap as units do where an iteration has as many units as stages run ahead, or if `deep`, which writes
    out several iterations behind the loop; else each stands alone.
    """
    most = max(stage.ahead for stage in stages if stage.begins)
    # How many iterations further than its own a step may reach: so many stand behind the loop.
    further = max((units - 1 + stage.ahead) // units for stage in stages)

    def step(i: Affine, number: int, left: int) -> None:
        """Step `number` of iteration `i`, which `left` iterations follow."""
        for stage in stages:
            over, unit = divmod(number + stage.ahead, units)
            if 0 <= over <= left and (number >= 0 or stage.begins):
                stage.emit((i + over, unit))

    if units < most and trips > 1 and not deep:
        with b.loop(trips) as i:
            for number in range(-most, units):
                step(i, number, 0)
        return
    for number in range(-most, 0):
        step(Affine(0), number, trips - 1)
    looped = max(0, trips - further)
    if looped:
        with b.loop(looped) as i:
            for number in range(units):
                step(i, number, further)
    for last in range(looped, trips):
        for number in range(units):
            step(Affine(last), number, trips - 1 - last)


def neighbours_apart(units: int, distance: int = 1) -> int:
    """The fewest tiles that units take in turn, by their numbers, so that none shares one with the `distance` next.

    The last unit of an iteration has the first one of the next iteration for a neighbour.
    """

    def apart(tiles: int) -> bool:
        taken = [number % tiles for number in range(units)] * 2
        return all(taken[i] not in taken[i + 1 : i + 1 + distance] for i in range(units))

    return next((tiles for tiles in range(distance + 1, units + 1) if apart(tiles)), distance + 1)


class Ring:
    """Tiles of a whole kernel that its units take in turn, each up to [partitions, elements]."""

    def __init__(self, alloc: Callable[[], View], most: int):
        """`alloc` makes a tile; at most `most` of them."""
        self.alloc, self.most, self.taken = alloc, most, 0
        self.tiles: dict[int, View] = {}

    def take(self, shape: tuple[int, ...], number: int | None = None) -> View:
        """The next tile, or tile `number` modulo their number, as [partitions, ...]."""
        if number is None:
            number, self.taken = self.taken, self.taken + 1
        number %= self.most
        if number not in self.tiles:
            self.tiles[number] = self.alloc()
        return self.tiles[number].slice(0, 0, shape[0]).slice(1, 0, prod(shape[1:])).split(0, shape[1:])
