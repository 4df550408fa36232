"""What a buffer holds that only transfers of constants write, laid out so that it needs to be filled only once.

A kernel loads a piece of a parameter into a buffer in each iteration of its loops. `expand` is given these transfers as
plain data and leaves a larger buffer with one place for each iteration that loads something else, and the transfers,
with numbers in place of loop variables, that fill all places. Iterations that load the same share a place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided

from neuron_dialects.access import AccessPattern, Affine

MAX_TRANSFERS = 1 << 14
"""Transfers of one buffer: more would be tiny ones, which are better left where they are."""


@dataclass(frozen=True)
class Fill:
    """A transfer into the buffer: `dst` within it, `src` within parameter `source`, both over loop variables."""

    source: str
    dst: AccessPattern
    src: AccessPattern


@dataclass(frozen=True)
class Transfer:
    """A transfer with constant offsets."""

    source: str
    dst: AccessPattern
    src: AccessPattern


@dataclass(frozen=True)
class PinnedContents:
    """An expanded buffer of `places` times the elements of the original one.

    `steps`: loop variable -> elements by which an access moves with each of its iterations. `transfers` fill it.
    """

    places: int
    steps: Mapping[int, int]
    transfers: tuple[Transfer, ...]


def expand(
    fills: Sequence[Fill], trips: Mapping[int, int], around: Sequence[int], partitions: int, row_elements: int
) -> PinnedContents | None:
    """The contents of a buffer of `partitions` x `row_elements` that `fills` write, None where it cannot be pinned.

    `trips`: iterations of each loop variable; `around`: the loops around the buffer, outermost first, each of whose
    iterations has a buffer of its own. None when an iteration overwrites what another one has loaded, when transfers
    overlap, or when there are too many.
    """
    moving: set[int] = set()
    for fill in fills:
        moving |= fill.src.variables() - fill.dst.variables()
    if not moving <= set(around) or any(fill.dst.variables() & moving for fill in fills):
        return None
    chosen = [variable for variable in around if variable in moving]
    places = prod(trips[variable] for variable in chosen)
    steps: dict[int, int] = {}
    step = row_elements
    for variable in reversed(chosen):
        steps[variable] = step
        step *= trips[variable]
    counts = [prod(trips[v] for v in {*chosen, *fill.dst.variables()}) for fill in fills]
    if sum(counts) > MAX_TRANSFERS:
        return None
    transfers: list[Transfer] = []
    for fill in fills:
        own = sorted(fill.dst.variables())
        for values in _values([*chosen, *own], trips):
            place = sum(steps[variable] * values[variable] for variable in chosen)
            dst = _at(fill.dst, values).shifted(place)
            transfers.append(Transfer(fill.source, dst, _at(fill.src, values)))
    if _overlap(transfers, partitions, row_elements * places):
        return None
    return PinnedContents(places, steps, tuple(transfers))


def _values(variables: Sequence[int], trips: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """All values of some loop variables, the last one running fastest."""
    for numbers in product(*(range(trips[variable]) for variable in variables)):
        yield dict(zip(variables, numbers, strict=True))


def _at(pattern: AccessPattern, values: Mapping[int, int]) -> AccessPattern:
    """The pattern for values of its variables."""
    partition, offset = Affine(pattern.partition.value(values)), Affine(pattern.offset.value(values))
    return AccessPattern(partition, pattern.partitions, offset, pattern.dims)


def _overlap(transfers: Sequence[Transfer], partitions: int, row_elements: int) -> bool:
    """Whether an element is written twice."""
    written = np.zeros((partitions, row_elements), np.bool_)
    for transfer in transfers:
        dst = transfer.dst
        rows = written[dst.partition.constant : dst.partition.constant + dst.partitions]
        low, high = dst.extent
        start = dst.offset.constant
        if start + low < 0 or start + high >= row_elements or low < 0:
            return True
        shape = (rows.shape[0], *(size for _, size in dst.dims))
        strides = (rows.strides[0], *(stride for stride, _ in dst.dims))
        view = as_strided(rows[:, start:], shape, strides)
        if view.any():
            return True
        view[...] = True
    return False
