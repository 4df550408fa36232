"""The order in which stages of units are emitted, with loops written out."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import pytest

from lowering.graph_to_tile.pipelining import Stage, Unit, neighbours_apart, pipelined
from neuron_dialects.access import Affine

if TYPE_CHECKING:
    from collections.abc import Generator

    from lowering.graph_to_tile.builder import KernelBuilder


class _Recorder:
    """A builder of loops that records what is emitted in them, once per trip."""

    def __init__(self) -> None:
        self.emitted: list[tuple[str, int, int]] = []

    @contextmanager
    def loop(self, trips: int) -> Generator[Affine]:
        if trips == 1:
            yield Affine(0)
            return
        before, self.emitted = self.emitted, []
        yield Affine.variable(0)
        body = self.emitted
        # Iteration numbers of the body are offsets from the variable.
        self.emitted = before + [
            (name, iteration - 1000 + i if iteration >= 1000 else iteration, unit)
            for i in range(trips)
            for name, iteration, unit in body
        ]


def order(trips: int, units: int, ahead: dict[str, int]) -> list[tuple[str, int]]:
    recorder = _Recorder()

    def emit(name: str, unit: Unit) -> None:
        i, number = unit
        recorder.emitted.append((name, i.constant + (0 if i.is_constant else 1000), number))

    stages = [Stage(lambda unit, name=name: emit(name, unit), distance) for name, distance in ahead.items()]
    pipelined(cast("KernelBuilder", recorder), trips, units, stages)
    return [(name, iteration * units + unit) for name, iteration, unit in recorder.emitted]


# One unit ahead: the next unit's load stands before this unit's work, across iterations too.
def test_next_first_stage_comes_before_this_last_stage() -> None:
    assert order(2, 2, {"load": 1, "work": 0}) == [
        ("load", 0), ("load", 1), ("work", 0), ("load", 2), ("work", 1), ("load", 3), ("work", 2), ("work", 3),
    ]  # fmt: skip


@pytest.mark.parametrize("trips", [1, 2, 5])
@pytest.mark.parametrize("units", [1, 2, 3, 4, 7])
def test_every_stage_of_every_unit_once_and_in_order(trips: int, units: int) -> None:
    ahead = {"score": 3, "turn": 2, "finish": 0, "weigh": 1}
    emitted = order(trips, units, ahead)
    for name in ahead:
        assert [unit for stage, unit in emitted if stage == name] == list(range(trips * units))
    for unit in range(trips * units):
        places = [emitted.index((name, unit)) for name in ("score", "turn", "weigh", "finish")]
        assert places == sorted(places)


# Units that follow each other within a distance, over the end of an iteration too, have tiles of their own.
@pytest.mark.parametrize("distance", [1, 2])
@pytest.mark.parametrize("units", range(3, 20))
def test_neighbours_have_tiles_of_their_own(units: int, distance: int) -> None:
    tiles = neighbours_apart(units, distance)
    numbers = [unit % tiles for _ in range(2) for unit in range(units)]
    assert all(numbers[i] not in numbers[i + 1 : i + 1 + distance] for i in range(len(numbers)))
    assert tiles <= units
